"""What arrives, gathered in blocks: one write, one look and one hashing for many pieces.

A block is memory that whoever reads from the network may fill directly, so that nothing is copied on the way.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from queue import SimpleQueue
from typing import Final

_SIZE: Final = 1408 << 10
"""Bytes. To hand a block to the thread that hashes takes some 0.1 ms of the processor: with blocks half as large, a run
of 20 MB is received a tenth slower."""
_LEAST_ROOM: Final = 128 << 10
"""Bytes; with less room a block is full, so that no piece of this size is ever split."""
_MEDIUM: Final = 256 << 10
"""Bytes from which on the disk begins to write a data set while it is hashed; the file's head comes after that."""
_PIECE: Final = 96 << 10
"""Bytes that are worth a call of their own to be hashed."""
_EARLY: Final = 192 << 10
"""Bytes of a data set up to which its pieces are hashed as they come, while whoever reads would wait for the sender.

What comes behind them is read first, so that the disk can begin."""
_MOST_WAITING: Final = 2
_CORES: Final = len(os.sched_getaffinity(0))
_spare_blocks: Final[deque[memoryview]] = deque(maxlen=4)


class Blocks:
    """The blocks of one data set; each is filled, passed on and hashed.

    A data set is big when a block does not hold it: a second thread hashes it, unless threads wait for a core, and the
    disk is to begin with it before all has come.

    Parameters
    ----------
    pass_on : Callable
        Is given each block, in order, when it is full or the last, and whether the disk is to begin with it at once;
        what it raises, `filled` and `finish` raise.
    """

    def __init__(self, pass_on: Callable[[memoryview, bool], None]) -> None:
        self._pass_on = pass_on
        self._hash = hashlib.sha256()
        self._hasher: _Hasher | None = None
        self._block = _take()
        self._end = self._hashed = 0  # of the block: what is filled, and what of that is hashed
        self._is_big = False

    def room(self) -> memoryview:
        """Return where the next bytes are to be put, at least one; valid until `filled`."""
        assert self._block, "it is not closed"
        return self._block[self._end :]

    def filled(self, count: int) -> None:
        """Take note of bytes that were put into the room."""
        self._end += count
        if _SIZE - self._end < _LEAST_ROOM:
            if not self._is_big:
                self._is_big = True
                self._hasher = None if _threads_wait() else _Hasher(self._hash)
            self._finish_block()
        elif not self._is_big and self._hashed < _EARLY and self._end - self._hashed >= _PIECE:
            self._hash.update(self._block[self._hashed : self._end])
            self._hashed = self._end

    def _finish_block(self) -> None:
        start, end = self._hashed, self._end
        self._pass_on(self._block[:end], self._is_big or end >= _MEDIUM)
        self._end = self._hashed = 0
        if self._hasher is None:
            self._hash.update(self._block[start:end])
        else:
            self._block = self._hasher.exchange(self._block, start, end)

    def finish(self) -> str:
        """Pass on what is left, close, and return the SHA-256 of all.

        An import has many instances that have come whole and are not durable yet, and none of them needs its block.
        """
        if self._end:
            self._finish_block()
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Give the memory back, if that was not done yet; from here on nothing can be filled in."""
        self._end_hasher()
        block, self._block = self._block, self._block[:0]
        if block:
            _spare_blocks.append(block)

    def _end_hasher(self) -> None:
        hasher, self._hasher = self._hasher, None
        if hasher is not None:
            hasher.finish()


def _threads_wait() -> bool:
    """Return whether more threads want to run at this moment than there are cores, as far as that can be seen."""
    try:
        return int(os.pread(_load(), 64, 0).split()[3].partition(b"/")[0]) > _CORES
    except OSError:
        return False


@lru_cache(1)
def _load() -> int:
    """Return the descriptor of what the system says of its load: to open it takes longer than to read it."""
    return os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)


def _take() -> memoryview:
    """Return a block: to get memory from the system and to give it back takes longer than to fill it."""
    try:
        return _spare_blocks.pop()
    except IndexError:
        return memoryview(bytearray(_SIZE))


class _Hasher(threading.Thread):
    """Hashes blocks while more of the data set arrives.

    Parameters
    ----------
    hashed : hash
        Of what came before.
    """

    def __init__(self, hashed: hashlib._Hash) -> None:
        super().__init__(name="hashing", daemon=True)
        self._hash = hashed
        self._full: SimpleQueue[tuple[memoryview, int, int] | None] = SimpleQueue()
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(_MOST_WAITING):
            self._free.put(_take())
        self.start()

    def exchange(self, block: memoryview, start: int, end: int) -> memoryview:
        """Take the next block, of which that part is to be hashed, and return another, as soon as there is one."""
        self._full.put((block, start, end))
        return self._free.get()

    def finish(self) -> None:
        """Wait until everything is hashed."""
        self._full.put(None)
        self.join()
        while not self._free.empty():
            _spare_blocks.append(self._free.get())

    def run(self) -> None:
        """Hash what comes."""
        while (item := self._full.get()) is not None:
            block, start, end = item
            self._hash.update(block[start:end])
            self._free.put(block)
