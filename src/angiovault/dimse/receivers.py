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
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Self

from angiovault.archive.store import StorageError
from angiovault.config import Config
from angiovault.devices import Device
from angiovault.dimse import endings, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.conversation import FAILURE, Ending, Handler, converse
from angiovault.dimse.negotiation import Context
from angiovault.dimse.tcp import TcpConnection
from angiovault.dimse.wire import Wire
from angiovault.processes import die_with

log = logging.getLogger(__name__)

_SEVERAL: Final = 3
_MOST_ASSOCIATIONS: Final = 1 << 14
_LONGEST_JOB: Final = 1 << 17
_PATIENCE: Final = 30.0
_CLOSE_SECONDS: Final = 8.0
_LOOK_AGAIN: Final = 0.01
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Receiving(ABC):
    """What such a process works with."""

    @abstractmethod
    def use(self, config: Config) -> Mapping[int, Handler]:
        """Return the services by Command Field, for an association that has these settings.

        Raises
        ------
        StorageError
            When nothing can be received in this process now.
        """

    @abstractmethod
    def settle(self) -> None:
        """Make findable what was acknowledged before. Raises StorageError when that cannot be done now."""

    @abstractmethod
    def close(self) -> None:
        """Settle what was received, and close everything."""


@dataclass(frozen=True, slots=True)
class _Job:
    """An association for another process."""

    config: Config
    peer: str
    calling: str
    called: str
    contexts: tuple[Context, ...]
    device: Device | None
    peer_max_pdu: int
    place: int


@dataclass(frozen=True, slots=True)
class _Report:
    """What came of it."""

    ending: Ending
    tally: Counter[str]
    requests: dict[int, tuple[float, int | None]]


_SETTLE: Final = "settle"
_STOP: Final = "stop"


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
    """

    def __init__(self, count: int, make: Callable[[], Receiving]) -> None:
        self._lock = threading.Lock()
        self._paces = memoryview(mmap.mmap(-1, 8 * _MOST_ASSOCIATIONS)).cast("d")
        self._free = list(range(_MOST_ASSOCIATIONS))
        self._living: list[_Process] = []
        self.on_loss: Callable[[], None] = lambda: None
        """Is called when a process was lost: what it had acknowledged is to be looked after."""
        gc.freeze()  # a look through what is there would copy memory that the processes can share
        for _ in range(count):
            self._living.append(_Process(make, self._paces, self._living))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

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
            with self._lock:
                process.associations -= 1
                self._free.append(place)
            association.pace = memoryview(bytearray(association.pace)).cast("d")

    def _choose(self, association: Association, open_now: int) -> tuple[_Process, int] | None:
        if not _only_stores(association):
            return None
        with self._lock:
            least = min(self._living, key=lambda process: process.associations, default=None)
            elsewhere = sum(process.associations for process in self._living)
            if least is None or open_now - 1 - elsewhere <= least.associations:
                return None
            least.associations += 1
            least.is_settled = False
            return least, self._free.pop()

    def _have_served(self, process: _Process, association: Association, config: Config, place: int) -> Ending | None:
        job = _Job(
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
            answer = process.ask(job, association.wire.connection.fileno())
        except _Gone:
            self._lose(process)
            return None
        if answer is None:
            self._lose(process)
            association.wire.abort()
            return FAILURE
        report = pickle.loads(answer)  # noqa: S301 (it comes from a process of ours)
        if report is None:
            return None
        assert isinstance(report, _Report)
        association.tally.update(report.tally)
        association.requests.update(report.requests)
        if why := association.wire.interruption:
            return Ending(why, endings.INTERRUPTED)
        return report.ending

    def settle(self) -> None:
        """Wait until everything is findable that these processes acknowledged before this call.

        Raises
        ------
        StorageError
            When that cannot be done now.
        """
        with self._lock:
            asked = [process for process in self._living if not process.is_settled]
            idle = {process for process in asked if not process.associations}
        for process in asked:
            try:
                answer = process.ask(_SETTLE, seconds=_PATIENCE)
            except _Gone:
                answer = None
            if answer is None:
                self._lose(process)
            elif answer:
                raise StorageError(answer.decode())
            elif process in idle:
                with self._lock:
                    process.is_settled = not process.associations

    def _lose(self, process: _Process) -> None:
        with self._lock:
            if process not in self._living:
                return
            self._living.remove(process)
        log.error("process %d, which received, is gone; the others go on, and so does this one", process.pid)
        process.end(0)
        self.on_loss()

    def stop(self) -> None:
        """Let no association go on after the message that is being answered."""
        with self._lock:
            for process in self._living:
                process.tell(_STOP)

    def close(self) -> None:
        """End the processes, when they have settled what they received."""
        with self._lock:
            ending, self._living = self._living, []
        for process in ending:
            process.channel.close()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for process in ending:
            process.end(deadline - time.monotonic())


def _only_stores(association: Association) -> bool:
    """Return whether an association can be handed over: plain TCP, nothing has come yet, and only C-STORE may come."""
    syntaxes = {context.abstract_syntax for context in association.contexts.values()} - {sop_classes.VERIFICATION}
    return (
        isinstance(association.wire.connection, TcpConnection)
        and not association.wire.has_unread
        and bool(syntaxes)
        and all(map(sop_classes.is_storage, syntaxes))
    )


class _Gone(Exception):
    """The process has ended, and has not got what was for it."""


class _Process:
    """One of the processes, as the one that made it sees it."""

    def __init__(self, make: Callable[[], Receiving], paces: memoryview[float], others: list[_Process]) -> None:
        self.associations = 0
        self.is_settled = True
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                for other in (*others, self):
                    other.channel.close()
                for number in _IGNORED:
                    signal.signal(number, signal.SIG_IGN)  # it is told to stop by its parent
                die_with(parent)
                _Worker(theirs, paces, make()).run()
                status = 0
            except BaseException:
                log.exception("receiving failed")
            finally:
                os._exit(status)  # nothing of the process that was forked is to be finished here
        theirs.close()

    def ask(self, what: object, *descriptors: int, seconds: float | None = None) -> bytes | None:
        """Return the answer to a job; None when the process has ended without one.

        Raises
        ------
        _Gone
            When it had ended before.
        StorageError
            When there is no answer in time.
        """
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                socket.send_fds(self.channel, [pickle.dumps(what)], [writing, *descriptors])
            except OSError as error:
                raise _Gone from error
            finally:
                os.close(writing)
            return _read_whole(reading, seconds)
        finally:
            os.close(reading)

    def tell(self, what: object) -> None:
        """Say something that needs no answer."""
        with contextlib.suppress(OSError):  # it is gone
            socket.send_fds(self.channel, [pickle.dumps(what)], [])

    def end(self, seconds: float) -> None:
        """Wait for its end, and make one when it takes too long."""
        self.channel.close()
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() >= deadline:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    return
                time.sleep(_LOOK_AGAIN)


def _read_whole(descriptor: int, seconds: float | None) -> bytes | None:
    """Return an answer that ends with one byte more, without it; None when it was broken off."""
    deadline = None if seconds is None else time.monotonic() + seconds
    answer = bytearray()
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poller.poll(left):
            raise StorageError("what was received cannot be put in its place in time")
        part = os.read(descriptor, 1 << 16)
        if not part:
            return bytes(answer[:-1]) if answer else None
        answer += part


class _Worker:
    """What such a process does: it takes jobs, and serves each association with a thread."""

    def __init__(self, channel: socket.socket, paces: memoryview[float], receiving: Receiving) -> None:
        self._channel = channel
        self._paces = paces
        self._receiving = receiving
        self._stopped = threading.Event()

    def run(self) -> None:
        """Work until the channel is closed."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._channel, _LONGEST_JOB, 2)
            if not message:
                break
            what = pickle.loads(message)  # noqa: S301 (it comes from the process that made this one)
            if what == _STOP:
                self._stopped.set()
                continue
            answer = descriptors[0]
            work = self._settle if what == _SETTLE else partial(self._serve, what, descriptors[1])
            try:
                threading.Thread(target=self._answer, args=(answer, work), daemon=True).start()
            except RuntimeError as error:
                log.error("cannot start a thread: %s", error)
                self._answer(answer, work if what == _SETTLE else partial(self._leave, descriptors[1]))
        self._receiving.close()

    def _answer(self, descriptor: int, work: Callable[[], bytes]) -> None:
        with open(descriptor, "wb") as answer, contextlib.suppress(BrokenPipeError):
            answer.write(work() + b".")

    def _settle(self) -> bytes:
        try:
            self._receiving.settle()
        except StorageError as error:
            return str(error).encode() or b"?"
        return b""

    def _serve(self, job: _Job, descriptor: int) -> bytes:
        """Serve an association to its end; the answer is a report."""
        try:
            handlers = self._receiving.use(job.config)
        except StorageError as error:
            log.debug("an association is left to the process that listens: %s", error)
            return self._leave(descriptor)
        wire = Wire(socket.socket(fileno=descriptor), job.config.max_pdu, job.config.network_timeout)
        wire.peer_max_pdu = job.peer_max_pdu
        association = Association(wire, job.peer, job.calling, job.called, job.contexts, job.device)
        association.pace = self._paces[job.place : job.place + 1]
        ending = FAILURE
        try:
            ending = converse(association, handlers, job.config, self._stopped.is_set)
        except Exception:
            log.exception("serving %s failed", association)
        finally:
            wire.close()
        return pickle.dumps(_Report(ending, association.tally, association.requests))

    def _leave(self, descriptor: int) -> bytes:
        """Leave an association untouched; the answer is None."""
        os.close(descriptor)
        return pickle.dumps(None)
