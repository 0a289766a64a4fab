"""The processes that write the small files of an import, while this one makes them findable: see `small_files`.

They are forked, so that they need neither time to start nor memory of their own for the libraries, and close at once
whatever else they have inherited: an inherited lock would be held by them, too. A helper ends when its connection does,
thus also with a parent that was killed; what it then leaves is sealed or not, like after any other end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Final

from angiovault.archive.exchange.small_files import Order, Written, remove, write_all

_LOOK_AGAIN: Final = 100
"""Milliseconds between two calls of `watch` while there is nothing to do but wait."""
_FORK: Final = multiprocessing.get_context("fork")


@dataclass(eq=False, slots=True)
class Task:
    """Orders that are carried out together; `written` is None until they are."""

    orders: Sequence[Order]
    written: list[Written | None] | None = None


@dataclass(eq=False, slots=True)
class _Helper:
    process: ForkProcess
    connection: Connection[Sequence[Order], list[Written | None]]
    task: Task | None = None


class Helpers:
    """As many processes as are of use, made when there is first something to do for them; none on a single core.

    Parameters
    ----------
    most : int, optional
        How many at most; without it that depends on the cores.
    """

    def __init__(self, most: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0))
        self._most = most if most is not None else (cores if cores > 1 else 0)
        self._helpers: dict[int, _Helper] = {}
        self._poll = select.poll()
        self._waiting: deque[Task] = deque()

    @property
    def ahead(self) -> int:
        """How many tasks there should be beside the one that is waited for, so that no helper has to wait."""
        return self._most * 2

    def give(self, orders: Sequence[Order]) -> Task:
        """Let orders be carried out."""
        task = Task(orders, None if orders else [])
        if not orders:
            return task
        self._waiting.append(task)
        if len(self._helpers) < self._most and all(helper.task for helper in self._helpers.values()):
            self._start()
        self.look()
        return task

    def look(self, milliseconds: int = 0) -> None:
        """Take what helpers have done, waiting at most so long for the first, and give those that are free more to do.

        One that is free waits to read, so no task is sent to one that waits to be read itself.
        """
        for descriptor, _ in self._poll.poll(milliseconds):
            self._receive(self._helpers[descriptor])
        for helper in [helper for helper in self._helpers.values() if helper.task is None]:
            if self._waiting:
                helper.task = self._waiting.popleft()
                try:
                    helper.connection.send(helper.task.orders)
                except OSError:
                    self._lose(helper)

    def finish(self, task: Task, watch: Callable[[], None]) -> list[Written | None]:
        """Wait until a task is done and return what was written; `watch` may end the waiting by raising."""
        while task.written is None:
            watch()
            if self._helpers:
                self.look(_LOOK_AGAIN)
            else:
                self._waiting.remove(task)
                task.written = write_all(task.orders)
        return task.written

    def close(self) -> None:
        """End the helpers: on return nothing is written any more."""
        for helper in self._helpers.values():
            helper.process.kill()
        for helper in list(self._helpers.values()):
            self._lose(helper)
        self._waiting.clear()

    def _start(self) -> None:
        ours, theirs = _FORK.Pipe()
        process = _FORK.Process(target=_help, args=(theirs,), name="import-helper", daemon=True)
        process.start()
        theirs.close()
        self._helpers[ours.fileno()] = _Helper(process, ours)
        self._poll.register(ours.fileno(), select.POLLIN)

    def _receive(self, helper: _Helper) -> None:
        try:
            written = helper.connection.recv()
        except (EOFError, OSError):
            self._lose(helper)
        else:
            assert helper.task is not None, "nobody answers who was not asked"
            helper.task.written, helper.task = written, None

    def _lose(self, helper: _Helper) -> None:
        """Go on without a helper that has been killed; what it had to do is not done."""
        self._poll.unregister(helper.connection.fileno())
        del self._helpers[helper.connection.fileno()]
        helper.connection.close()
        helper.process.join()
        helper.process.close()
        if helper.task is not None:
            remove(helper.task.orders)
            helper.task.written = [None] * len(helper.task.orders)


def _help(connection: Connection[list[Written | None], Sequence[Order]]) -> None:
    """Carry out what is asked, until nobody asks any more."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != connection.fileno():
            with contextlib.suppress(OSError):  # the one by which they were listed
                os.close(int(name))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the one who asks ends it
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send(write_all(connection.recv()))
