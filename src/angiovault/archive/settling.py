"""Settling: what was received and is durable gets its place and its rows, many instances together.

An instance is acknowledged when its file is durable in the incoming folder. One thread takes what has come, in the
order of the times of receipt: it links the files to their places, syncs the folders, adds the rows in one transaction,
and only then removes the names in the incoming folder. Stopped anywhere, it begins anew with what it finds there.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault.archive import filemeta, header, layout
from angiovault.archive.adding import Entry
from angiovault.archive.folder import NO_LINKS
from angiovault.archive.incoming import Incoming, now
from angiovault.archive.store import StorageError, Store
from angiovault.archive.verifying import digest_of

log = logging.getLogger(__name__)

_MOST_WAITING: Final = 128
_TOGETHER: Final = 64
_LINGER: Final = 0.5
"""Seconds for which an instance waits for others to be settled with, unless somebody waits for it."""
_RETRY: Final = 1.0
LOST: Final = "lost"
"""Outcome of what somebody removed from the incoming folder before it had its place."""
_LONGEST_WAIT: Final = 30.0
# What is wrong with one folder, not with the storage.
_OF_ONE_PLACE: Final = frozenset((errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP))


@dataclass(slots=True, eq=False)
class Sealed:
    """An instance that is durable in the incoming folder.

    Attributes
    ----------
    path : Path
        Where it is.
    entry : Entry, optional
        What the index is to know of it; None of one that an earlier run left, before it was read.
    then : Callable
        Is told of the outcome.
    number : int
        Its place in the line.
    outcome : str
        What became of it, '' as long as it is not settled.
    """

    path: Path
    entry: Entry | None
    then: Callable[[str], None]
    number: int = 0
    outcome: str = ""


class Settler:
    """The line of what was sealed, and the thread that settles it.

    Parameters
    ----------
    store : Store
        Where the files are.
    index : Callable
        Makes files findable, durably, and returns what became of each, see `Archive.index_together`.
    move : Callable
        Brings a file to its place where there are no hard links, see `Archive.move`.
    shared : Callable
        Keeps away those who take something out of the archive, see `Exclusion.shared`.
    """

    def __init__(
        self,
        store: Store,
        index: Callable[[Sequence[Entry]], list[str]],
        move: Callable[[Path, PurePosixPath], bool],
        shared: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._store = store
        self._shared = shared
        self._index = index
        self._move = move
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._line: dict[int, Sealed | None] = {}  # None: it has its turn, but is still being synced
        self._held: list[Sealed] = []
        self._last_turn = 0
        self._awaited = 0  # the last turn that somebody waits for
        self._problem: StorageError | None = None
        self._failures = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    # ---- joining the line

    def turn(self, incoming: Incoming) -> int:
        """Give an instance its time of receipt and its turn: both orders are the same.

        So the first received is the first in the index, also in one made anew. The turn is used by `take`, or given
        back by `pass_over`.

        Raises
        ------
        StorageError
            When nothing can be settled now, so that nothing more is taken in.
        """
        with self._lock:
            turn = self._next_turn()
            self._line[turn] = None
            incoming.received = incoming.received or now()
            return turn

    def pass_over(self, turn: int) -> None:
        """Give a turn back."""
        with self._lock:
            del self._line[turn]
            self._work.notify()
            self._progress.notify_all()

    def take(self, turn: int, item: Sealed) -> None:
        """Take in a durable instance; from here on it is the archive's."""
        with self._lock:
            item.number = turn
            self._line[turn] = item
            first = next(iter(self._line)) == turn
            if first or len(self._line) >= _TOGETHER or self._awaited >= turn:
                self._work.notify()
            self._start()

    def join(self, item: Sealed) -> None:
        """Take in a durable instance that has its time of receipt already.

        Raises
        ------
        StorageError
            When nothing can be settled now; it is not taken in then.
        """
        with self._lock:
            item.number = self._next_turn()
            self._line[item.number] = item
            if len(self._line) in (1, _TOGETHER):
                self._work.notify()
            self._start()

    def _next_turn(self) -> int:
        """Wait, with the lock held, until something can be settled and there is room in the line; return the turn."""
        if self._problem or len(self._line) >= _MOST_WAITING:
            self._wait(lambda: not self._problem and len(self._line) < _MOST_WAITING)
        self._last_turn += 1
        return self._last_turn

    def recover(self, paths: Iterable[Path]) -> None:
        """Let what an earlier run left be settled, before anything that comes now."""
        with self._lock:
            known = {item.path for item in (*self._line.values(), *self._held) if item}
            for path in sorted(set(paths) - known, key=_time_of_receipt):
                self._last_turn += 1
                self._line[self._last_turn] = Sealed(path, None, lambda _: None, self._last_turn)
            if self._line:
                self._work.notify()
                self._start()

    def _start(self) -> None:
        if self._thread is None and not self._closing:
            thread = threading.Thread(target=self._run, name="settling", daemon=True)
            thread.start()
            self._thread = thread  # if there is one: the next instance tries again

    # ---- waiting for it

    def wait(self, seconds: float = _LONGEST_WAIT) -> None:
        """Wait until everything is settled that was sealed before this call.

        Raises
        ------
        StorageError
            When that cannot be done now.
        """
        with self._lock:
            last = max((turn for turn, item in self._line.items() if item), default=0)
            if last:
                self._awaited = max(self._awaited, last)
                self._wait(lambda: not any(item and turn <= last for turn, item in self._line.items()), seconds)

    def outcome(self, item: Sealed) -> str:
        """Wait until an instance is settled and return what became of it.

        Raises
        ------
        StorageError
            When that cannot be done now; it is durable all the same.
        """
        with self._lock:
            if not item.outcome:
                self._awaited = max(self._awaited, item.number)
                self._wait(lambda: bool(item.outcome), _LONGEST_WAIT)
            return item.outcome

    def _wait(self, done: Callable[[], bool], seconds: float = _LONGEST_WAIT) -> None:
        """Wait, with the lock held, until something has come to pass."""
        failures = self._failures
        self._work.notify()  # it may have been waiting to try again
        self._progress.wait_for(lambda: done() or self._failures > failures or self._closing, seconds)
        if not done():
            late = StorageError("what was received cannot be put in its place in time")
            raise type(self._problem)(str(self._problem)) if self._problem else late

    def close(self, seconds: float) -> None:
        """Settle what is in the line, and end; what cannot be settled is found by the next start."""
        with self._lock:
            self._closing = True
            self._work.notify()
            self._progress.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(seconds)
        with self._lock:
            self._closing = self._thread is not None  # it may be used again

    # ---- the thread

    def _run(self) -> None:
        try:
            self._settle_all()
        finally:
            with self._lock:
                self._thread = None

    def _settle_all(self) -> None:
        """Settle what comes, until nothing more will."""
        while batch := self._next():
            problem = None
            try:
                self._store.check_mounted()
                with self._shared():  # a place that is taken must stay so until its row is there
                    self._settle(batch)
            except StorageError as error:
                problem = error
            except Exception as error:
                log.exception("settling failed")
                problem = StorageError(f"internal error: {error}")
            self._note(problem)
            if problem and self._closing:
                break

    def _next(self) -> list[Sealed]:
        """Wait for work and return it; nothing when there is none and will be none."""
        with self._lock:
            if self._problem:
                self._work.wait(_RETRY)
            while not (ready := self._ready()):
                if self._closing:
                    return []
                self._work.wait(_RETRY if self._held else None)
                if self._held and not self._ready():
                    return list(self._held)
            if not self._closing and self._awaited < ready[0].number and len(ready) < _TOGETHER:
                self._work.wait_for(self._is_urgent, _LINGER)
            return self._ready()

    def _ready(self) -> list[Sealed]:
        """Return what can be settled: all before the first that is still being synced."""
        ready: list[Sealed] = []
        for item in self._line.values():
            if item is None or len(ready) == _TOGETHER:
                break
            ready.append(item)
        return ready

    def _is_urgent(self) -> bool:
        return self._closing or len(self._line) >= _TOGETHER or self._awaited >= next(iter(self._line), 0)

    def _note(self, problem: StorageError | None) -> None:
        with self._lock:
            if problem:
                self._failures += 1
                if str(problem) != str(self._problem):
                    log.error("what was acknowledged cannot be put in its place, it is tried again: %s", problem)
            elif self._problem:
                log.info("what was acknowledged is put in its place again")
            self._problem = problem
            self._progress.notify_all()

    # ---- settling

    def _settle(self, batch: list[Sealed]) -> None:
        with self._store.placing():
            placed = [item for item in batch if self._place(item)]
        entries = [item.entry for item in placed if item.entry]
        if entries:
            self._store.sync(entry.place for entry in entries)
        for item, outcome in zip(placed, self._index(entries) if entries else (), strict=True):
            item.outcome = outcome
            try:
                item.path.unlink(missing_ok=True)
            except OSError as error:  # nothing is lost: the next start finds that it is settled already
                log.warning("%s is in its place and cannot be removed: %s", item.path, error)
        for item in placed:  # before anybody stops waiting: an association counts its instances at its end
            try:
                item.then(item.outcome)
            except Exception:
                log.exception("telling of an instance failed")
        with self._lock:
            for item in batch:
                self._line.pop(item.number, None)
            self._held = [item for item in self._held if not item.outcome]
            self._progress.notify_all()

    def _place(self, item: Sealed) -> bool:
        """Link a file to its place; return whether it is to be indexed."""
        try:
            if item.entry is None:
                item.entry = self._left_by_earlier_run(item.path)
            if item.entry is None:
                item.outcome = LOST
                return False
            # Tried before, it may have had the place of another that stood for it.
            place = self._store.place_beside(item.path, item.entry.place)
            if place != item.entry.place:
                item.entry = replace(item.entry, place=place)
            elsewhere = self._store.elsewhere(place)
            twin = self._twin(elsewhere, item.entry) if elsewhere is not None else None
            if twin is not None:
                item.entry = twin
                return True
            try:
                self._store.make_folder_again(place)
                there = self._store.link(item.path, place)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                there = self._move(item.path, place)
            if not there:
                item.entry = self._twin_or_successor(item.path, item.entry)
            if elsewhere is not None:
                self._store.sync([place])
                self._store.put_aside(elsewhere)
                log.error("%s is damaged, and %s was received again", elsewhere, place)
        except FileNotFoundError:
            if not self._store.path(place).exists():
                log.error("%s was acknowledged, but somebody else removed it from the incoming folder", place)
                item.outcome = LOST
                return False
        except StorageError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno not in _OF_ONE_PLACE:
                raise StorageError(f"cannot put {item.path} in its place: {error.strerror or error}") from error
            self._hold(item, error)
            return False
        return True

    def _hold(self, item: Sealed, error: Exception) -> None:
        """Put an instance aside that cannot be settled for a reason of its own, so that others are not held up."""
        with self._lock:
            if item not in self._held:
                self._held.append(item)
                log.error("%s was acknowledged and waits for its place: %s", item.path, error)

    def _left_by_earlier_run(self, path: Path) -> Entry | None:
        """Read an instance that was sealed by an earlier run; None when it was not sealed after all."""
        try:
            with path.open("rb") as file:
                meta = filemeta.read(file)
                size = path.stat().st_size - meta.offset
                if meta.digest == digest_of(file):
                    os.fsync(file.fileno())  # it may have been sealed and not come to its sync
                    file.seek(meta.offset)
                    found = header.scan(file, meta.transfer_syntax)
                    place = self._store.place_beside(path, layout.place(found, meta.digest))
                    if self._store.elsewhere(place) is None:
                        self._store.make_folder(place)
                    log.info("%s was received before the last end and gets its place now", place)
                    return Entry(found, meta.digest, size, place, meta.received, meta.calling)
            log.warning("%s did not arrive whole before a power cut and is not kept", path)
            path.unlink(missing_ok=True)
        except FileNotFoundError:  # another process has settled it
            log.debug("%s is gone", path)
        except (OSError, ValueError) as error:
            self._store.check_mounted()
            log.error("%s cannot be read and stays where it is: %s", path, error)
        return None

    def _twin(self, place: PurePosixPath, entry: Entry) -> Entry | None:
        """Return the entry of the file at a place which stands for a received one; None when it is damaged.

        It is read again: a device sends once more what could not be committed, and is told "stored" on its strength.
        """
        try:
            with self._store.path(place).open("rb") as file:
                meta = filemeta.read(file)
                if meta.digest == entry.digest and digest_of(file) == entry.digest:
                    return Entry(entry.header, entry.digest, entry.size, place, meta.received, meta.calling)
        except (OSError, filemeta.NotDicom) as error:
            self._store.check_mounted()
            log.error("%s cannot be read: %s", place, error)
        return None

    def _twin_or_successor(self, path: Path, entry: Entry) -> Entry:
        """Return the entry of the file which has the place already; if it is damaged, this one takes its place."""
        twin = self._twin(entry.place, entry)
        if twin is None:
            log.error("%s is damaged and was replaced by what was received again", entry.place)
            self._store.replace_damaged(path, entry.place)
        return twin or entry


def _time_of_receipt(path: Path) -> tuple[str, str]:
    try:
        with path.open("rb") as file:
            return filemeta.read(file).received, path.name
    except (OSError, filemeta.NotDicom):
        return "", path.name
