"""Receiving in several processes, since one interpreter runs one thread at a time, however many cores there are.

An association that can only store is handed to another process when it has been negotiated: its connection and what was
agreed. Everything else stays where it was, in the process that listens: who may call, how many may, the log of how
associations end, the book of contacts, queries. These processes are forked before there is any thread, wait without
costing anything, and end with the one that made them; where one is lost, the others go on.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import mmap
import os
import pickle
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from angiovault.archive.store import StorageError
from angiovault.config import Config
from angiovault.dimse import endings, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.conversation import Ending
from angiovault.dimse.receiving import Job, Left, Prepare, Receiving, Report, Settle, Settled, Stop, Use, Worker
from angiovault.dimse.tcp import TcpConnection
from angiovault.processes import die_with

log = logging.getLogger(__name__)

_SEVERAL: Final = 3
_MOST_ASSOCIATIONS: Final = 1 << 14
_SEND_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 35.0  # more than a settler itself takes to give up
_DEATH_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 5.0
_LOOK_AGAIN: Final = 0.01
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_LOST: Final = Ending("aborted: the process that served it is gone, and with it what it counted", endings.FAILED)


class _NotTaken(Exception):
    """The process has not got what was for it."""


def useful_count() -> int:
    """Return how many such processes make sense here: while one syncs, another can use its core."""
    return _SEVERAL if len(os.sched_getaffinity(0)) > 1 else 0


class Receivers:
    """The processes, and which association is where; a context manager that ends them.

    Parameters
    ----------
    count : int
        How many.
    make : Callable
        Makes in each of them what it works with.

    Attributes
    ----------
    on_loss : Callable
        Looks after what a process had acknowledged that is gone; may raise StorageError, and is tried again then.
    """

    def __init__(self, count: int, make: Callable[[], Receiving]) -> None:
        self.on_loss: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._losing = threading.Lock()  # held until what a lost process left is looked after
        self._loss_is_due = False
        self._paces = memoryview(mmap.mmap(-1, 8 * _MOST_ASSOCIATIONS)).cast("d")
        self._free = list(range(_MOST_ASSOCIATIONS))
        self._living: list[_Process] = []
        gc.freeze()  # a look through what is there would copy memory that the processes can share
        for _ in range(count):
            self._living.append(_Process(make, self._paces, self._living))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- associations

    def prepare(self) -> None:
        """Let them open what they need, now that it is there: no association is to wait for that."""
        self._tell(Prepare())

    def serve(self, association: Association, config: Config, open_now: int) -> Ending | None:
        """Have an association served to its end, and take over what is to be known of it.

        Parameters
        ----------
        association : Association
            One that has just been negotiated.
        config : Config
            The settings that it has.
        open_now : int
            How many associations are open, with this one.

        Returns
        -------
        Ending, optional
            None when it has not been touched: it has other services, or this process has no more to do than others.
        """
        chosen = self._choose(association, open_now)
        if chosen is None:
            return None
        process, place = chosen
        association.pace = self._paces[place : place + 1]
        association.busy = False
        try:
            return self._have_served(process, association, config, place)
        finally:
            association.pace = memoryview(bytearray(association.pace)).cast("d")
            with self._lock:
                process.associations -= 1
                self._free.append(place)

    def _choose(self, association: Association, open_now: int) -> tuple[_Process, int] | None:
        if not _only_stores(association):
            return None
        with self._lock:
            least = min(self._living, key=lambda process: process.associations, default=None)
            elsewhere = sum(process.associations for process in self._living)
            if least is None or open_now - 1 - elsewhere <= least.associations:
                return None
            least.associations += 1
            least.handed += 1
            return least, self._free.pop()

    def _have_served(self, process: _Process, association: Association, config: Config, place: int) -> Ending | None:
        job = Job(
            config,
            association.peer,
            association.calling,
            association.called,
            tuple(association.contexts.values()),
            association.device,
            association.wire.peer_max_pdu,
            place,
        )
        log.debug("%s is served by process %d", association, process.pid)
        try:
            with process.ask(job, association.wire.connection.fileno()) as answer:
                reply = answer.read(None)
        except _NotTaken as error:
            log.warning("%s is served by the process that listens: %s", association, error)
            self._look_after(process)
            return None
        if isinstance(reply, Left):
            return None
        if not isinstance(reply, Report):
            association.wire.abort()
            self._look_after(process)
            return _LOST
        association.tally.update(reply.tally)
        association.requests.update(reply.requests)
        if why := association.wire.interruption:
            return Ending(why, endings.INTERRUPTED)
        return reply.ending

    # ---- what was acknowledged

    def settle(self) -> None:
        """Wait until everything is findable that these processes acknowledged before this call.

        Raises
        ------
        StorageError
            When that cannot be done now.
        """
        with self._losing:
            self._look_after_losses()
        with self._lock:
            unsettled = [process for process in self._living if process.settled < process.handed]
            asked = [(process, process.handed, process.associations) for process in unsettled]
        deadline = time.monotonic() + _SETTLE_SECONDS
        answers: dict[_Process, _Answer] = {}
        with contextlib.ExitStack() as stack:
            for process, _, _ in asked:
                with contextlib.suppress(_NotTaken):  # it is gone, or must not be waited for: no answer is one, too
                    answers[process] = stack.enter_context(process.ask(Settle()))
            replies = {process: answer.read(deadline) for process, answer in answers.items()}
        for process, handed, associations in asked:
            reply = replies.get(process)
            if not isinstance(reply, Settled):
                if not self._look_after(process):
                    raise StorageError("what was received cannot be put in its place in time")
            elif reply.problem:
                raise StorageError(reply.problem)
            elif not associations:
                process.settled = handed
        with self._losing:
            self._look_after_losses()

    def look(self) -> None:
        """See whether a process is gone, and look after what it left."""
        with self._lock:
            living = list(self._living)
        for process in living:
            if process.has_ended():
                self._look_after(process)
        with self._losing, contextlib.suppress(StorageError):  # said already
            self._look_after_losses()

    def _look_after(self, process: _Process) -> bool:
        """See after a process that has not answered as it should; return whether it is gone."""
        if not process.wait(_DEATH_SECONDS):  # its files are closed a moment before it has ended
            return False
        with self._losing:
            with self._lock:
                if process in self._living:
                    self._living.remove(process)
                    self._loss_is_due = True
                    log.error("process %d, which received, is gone; all others go on", process.pid)
            process.channel.close()
            with contextlib.suppress(StorageError):  # said already; queries are not answered until it is done
                self._look_after_losses()
        return True

    def _look_after_losses(self) -> None:
        """With `_losing` held, look after what lost processes had acknowledged."""
        if self._loss_is_due:
            try:
                self.on_loss()
            except StorageError as error:
                log.error("what a lost process acknowledged cannot be looked after now: %s", error)
                raise
            self._loss_is_due = False

    # ---- settings, and the end

    def use(self, config: Config) -> None:
        """Let them go on with other settings."""
        self._tell(Use(config))

    def stop(self) -> None:
        """Let no association go on after the message that is being answered."""
        self._tell(Stop())

    def _tell(self, what: object) -> None:
        with self._lock:
            living = list(self._living)
        for process in living:
            with contextlib.suppress(_NotTaken):  # it is gone, or about to be
                process.tell(what)

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """End the processes, when they have settled what they received; those that take longer are killed."""
        with self._lock:
            ending, self._living = self._living, []
        for process in ending:
            process.channel.close()
        deadline = time.monotonic() + seconds
        for process in ending:
            if not process.wait(deadline - time.monotonic()):
                log.warning("process %d, which received, did not end in time", process.pid)
                process.kill()


def _only_stores(association: Association) -> bool:
    """Return whether an association can be handed over: plain TCP, nothing has come yet, and only C-STORE may come."""
    syntaxes = {context.abstract_syntax for context in association.contexts.values()} - {sop_classes.VERIFICATION}
    return (
        isinstance(association.wire.connection, TcpConnection)
        and not association.wire.has_unread
        and bool(syntaxes)
        and all(map(sop_classes.is_storage, syntaxes))
    )


# ---- one process, as the one sees it that made it


class _Process:
    """One of the processes.

    Attributes
    ----------
    associations : int
        How many it serves.
    handed, settled : int
        How many associations it ever got, and how many of them, the first, are certain to be settled.
    """

    def __init__(self, make: Callable[[], Receiving], paces: memoryview[float], others: list[_Process]) -> None:
        self.associations = self.handed = self.settled = 0
        self._ended = False
        self._lock = threading.Lock()
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(_SEND_SECONDS)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                for number in _IGNORED:
                    signal.signal(number, signal.SIG_IGN)  # it is told to stop by its parent
                die_with(parent)
                for other in (*others, self):
                    other.channel.close()
                Worker(theirs, paces, make()).run()
                status = 0
            except BaseException:
                log.exception("receiving failed")
            finally:
                os._exit(status)  # nothing of the process that was forked is to be finished here
        theirs.close()

    def ask(self, what: object, *descriptors: int) -> _Answer:
        """Say something, and return where the answer comes.

        Raises
        ------
        _NotTaken
            When the process has not got it.
        """
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise _NotTaken(error) from error
        answer = _Answer(reading)
        try:
            self.tell(what, writing, *descriptors)
        except _NotTaken:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return answer

    def tell(self, what: object, *descriptors: int) -> None:
        """Say something. Raises `_NotTaken` when the process has not got it."""
        try:
            socket.send_fds(self.channel, [pickle.dumps(what)], descriptors)
        except OSError as error:
            raise _NotTaken(error) from error

    def has_ended(self) -> bool:
        """Return whether it has ended; it is reaped then."""
        with self._lock:
            if not self._ended:
                try:
                    self._ended = os.waitpid(self.pid, os.WNOHANG) != (0, 0)
                except ChildProcessError:
                    self._ended = True
            return self._ended

    def wait(self, seconds: float) -> bool:
        """Wait for its end, and return whether it has ended."""
        deadline = time.monotonic() + seconds
        while not (ended := self.has_ended()) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
        return ended

    def kill(self) -> None:
        """End it at once."""
        with self._lock:
            if not self._ended:
                os.kill(self.pid, signal.SIGKILL)
        self.wait(_DEATH_SECONDS)


class _Answer:
    """Where the answer to something comes; a context manager."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self, deadline: float | None) -> object:
        """Wait for the answer, and return it; None when there is none, or not before `deadline` (time.monotonic())."""
        encoded = bytearray()
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        while poller.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000):
            part = os.read(self._descriptor, 1 << 16)
            if part:
                encoded += part
                continue
            try:
                answer: object = pickle.loads(encoded)  # noqa: S301 (it comes from a process of ours)
            except (EOFError, pickle.UnpicklingError):  # it was broken off
                break
            return answer
        return None
