"""Signals as facts that a loop looks at, instead of interruptions at any place."""

from __future__ import annotations

import os
import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Final, Self

_ASKED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """SIGTERM and SIGINT (stop), SIGHUP (reload), SIGUSR1 (restart) as facts, and a wait that each of them ends.

    Nothing but a fact is noted in a handler: another signal may come in the middle of it.

    Parameters
    ----------
    also : signal.Signals
        Further signals to take: SIGUSR1; SIGCHLD, which only ends the wait.
    """

    def __init__(self, *also: signal.Signals) -> None:
        self.stop = False
        self.reload = False
        self.restart = False
        self._also = also
        self._at_terminal = os.isatty(2)
        self._pipe = (-1, -1)

    def __enter__(self) -> Self:
        self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in (*_ASKED, *self._also):
            signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (*_ASKED, *self._also):  # asked once more, it still ends in order
            signal.signal(number, signal.SIG_IGN if number != signal.SIGCHLD else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for descriptor in self._pipe:
            os.close(descriptor)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP and not (self._at_terminal and not os.isatty(2)):
            self.reload = True
        elif number == signal.SIGUSR1:
            self.restart = True
        elif number != signal.SIGCHLD:  # a terminal that is closed ends what was started at it
            self.stop = True

    def wait(self, seconds: float, also_for: socket.socket | None = None) -> bool:
        """Wait for a signal, at most so long; return whether a connection waits at the socket `also_for`."""
        descriptors = [self._pipe[0], *([also_for.fileno()] if also_for is not None else ())]
        ready = select.select(descriptors, [], [], max(0.0, seconds))[0]
        if self._pipe[0] in ready:
            os.read(self._pipe[0], 4096)
        return any(descriptor != self._pipe[0] for descriptor in ready)
