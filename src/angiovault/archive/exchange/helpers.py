"""The processes that help an import with files, while the one that imports makes instances findable.

They are forked, so that they need neither time to start nor memory of their own for the libraries, and close at once
whatever else they have inherited: an inherited lock would be held by them, too. A helper ends when its connection does,
thus also with a parent that was killed; what it then leaves is sealed or not, like after any other end.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, Final, Generic, TypeVar

log = logging.getLogger(__name__)

_Order = TypeVar("_Order")
_Result = TypeVar("_Result")

_MOST: Final = 2
"""Helpers that keep the one busy who makes instances findable."""
_LOOK_AGAIN: Final = 100
"""Milliseconds between two calls of `watch` while there is nothing to do but wait."""
_FORK: Final = multiprocessing.get_context("fork")


@dataclass(eq=False, slots=True)
class Task(Generic[_Order, _Result]):
    """Orders that are carried out together.

    Attributes
    ----------
    work : Callable
        What carries them out, a function of a module. It may be called once more for orders that were begun already.
    orders : Sequence
        They.
    results : list, optional
        What became of each; None until all are carried out.
    """

    work: Callable[[Sequence[_Order]], list[_Result]]
    orders: Sequence[_Order]
    results: list[_Result] | None = None

    def carry_out(self) -> None:
        """Do the work here."""
        self.results = self.work(self.orders)


@dataclass(eq=False, slots=True)
class _Helper:
    process: ForkProcess
    connection: Connection[Any, Any]
    task: Task[Any, Any] | None = None


class Helpers:
    """As many processes as are of use, made when there is work for more than one.

    Parameters
    ----------
    most : int, optional
        How many at most; without it, none on a single core.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most if most is not None else (_MOST if len(os.sched_getaffinity(0)) > 1 else 0)
        self._helpers: dict[int, _Helper] = {}
        self._poll = select.poll()
        self._waiting: deque[Task[Any, Any]] = deque()

    @property
    def ahead(self) -> int:
        """How many tasks there should be beside the one that is waited for, so that no helper has to wait."""
        return self._most * 2

    def give(
        self, work: Callable[[Sequence[_Order]], list[_Result]], orders: Sequence[_Order]
    ) -> Task[_Order, _Result]:
        """Let orders be carried out; see `Task`."""
        task = Task(work, orders)
        if not orders:
            task.results = []
            return task
        self._waiting.append(task)
        if len(self._waiting) > 1 and len(self._helpers) < self._most:
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
                    helper.connection.send((helper.task.work, helper.task.orders))
                except OSError:
                    self._lose(helper)

    def finish(self, task: Task[_Order, _Result], watch: Callable[[], None]) -> list[_Result]:
        """Wait until a task is done and return its results; `watch` may end the waiting by raising."""
        while task.results is None:
            watch()
            if self._helpers:
                self.look(_LOOK_AGAIN)
            else:
                self._waiting.remove(task)
                task.carry_out()
        return task.results

    def close(self) -> None:
        """End the helpers: on return nothing is written any more."""
        for helper in self._helpers.values():
            helper.process.kill()
        while self._helpers:
            self._end(next(iter(self._helpers.values())))
        self._waiting.clear()

    def _start(self) -> None:
        ours, theirs = _FORK.Pipe()
        process = _FORK.Process(target=_help, args=(theirs,), name="import-helper", daemon=True)
        try:
            process.start()
        except OSError as error:
            log.warning("an import goes on with %d helpers: %s", len(self._helpers), error)
            self._most = len(self._helpers)
            ours.close()
            return
        finally:
            theirs.close()
        self._helpers[ours.fileno()] = _Helper(process, ours)
        self._poll.register(ours.fileno(), select.POLLIN)

    def _receive(self, helper: _Helper) -> None:
        try:
            results = helper.connection.recv()
        except (EOFError, OSError):
            self._lose(helper)
        else:
            assert helper.task is not None, "nobody answers who was not asked"
            helper.task.results, helper.task = results, None

    def _lose(self, helper: _Helper) -> None:
        """Go on without a helper that somebody has killed."""
        self._end(helper)
        if helper.task is not None:
            helper.task.carry_out()

    def _end(self, helper: _Helper) -> None:
        self._poll.unregister(helper.connection.fileno())
        del self._helpers[helper.connection.fileno()]
        helper.connection.close()
        helper.process.join()
        with contextlib.suppress(ValueError):  # who ignores SIGCHLD is not told how a child ended
            helper.process.close()


def _help(connection: Connection[Any, Any]) -> None:
    """Carry out what is asked, until nobody asks any more."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != connection.fileno():
            with contextlib.suppress(OSError):  # the one by which they were listed
                os.close(int(name))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the one who asks ends it
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            work, orders = connection.recv()
            connection.send(work(orders))
