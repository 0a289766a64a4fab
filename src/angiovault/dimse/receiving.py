"""A process that receives beside the one that listens: what the two say to one another, and what it does.

See `receivers`, which makes such processes and hands associations to them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from angiovault.archive.store import StorageError
from angiovault.config import Config
from angiovault.devices import Device
from angiovault.dimse.association import Association
from angiovault.dimse.conversation import FAILURE, Ending, Handler, converse
from angiovault.dimse.negotiation import Context
from angiovault.dimse.wire import Wire

log = logging.getLogger(__name__)

_LONGEST_MESSAGE: Final = 1 << 17


class Receiving(ABC):
    """What such a process works with."""

    @abstractmethod
    def handlers(self) -> Mapping[int, Handler]:
        """Return the services by Command Field. Raises StorageError when nothing can be received in this process."""

    @abstractmethod
    def use(self, config: Config) -> None:
        """Go on with other settings."""

    @abstractmethod
    def settle(self) -> None:
        """Make findable what was acknowledged before. Raises StorageError when that cannot be done now."""

    @abstractmethod
    def close(self) -> None:
        """Settle what was received, and close everything."""


# ---- what the processes say to one another


@dataclass(frozen=True, slots=True)
class Job:
    """An association to be served; its connection goes along. Is answered by `Report`, or by `Left`."""

    config: Config
    peer: str
    calling: str
    called: str
    contexts: tuple[Context, ...]
    device: Device | None
    peer_max_pdu: int
    place: int


@dataclass(frozen=True, slots=True)
class Report:
    """What came of an association."""

    ending: Ending
    tally: Counter[str]
    requests: dict[int, tuple[float, int | None]]


@dataclass(frozen=True, slots=True)
class Left:
    """The association has not been touched."""


@dataclass(frozen=True, slots=True)
class Settle:
    """To be made findable: what was acknowledged before. Is answered by `Settled`."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What kept it from being settled, '' when it is."""

    problem: str = ""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Associations may come from now on. Is not answered."""


@dataclass(frozen=True, slots=True)
class Stop:
    """No association goes on after the message that is being answered. Is not answered."""


@dataclass(frozen=True, slots=True)
class Use:
    """Settings to go on with. Is not answered."""

    config: Config


# ---- what it does


class Worker:
    """Takes what the process is told, and serves each association with a thread.

    Parameters
    ----------
    channel : socket.socket
        Where the one that listens says what is to be done; its end is that of the work.
    paces : memoryview
        Shared memory: for each association since when it has been idle, see `Association.pace`.
    receiving : Receiving
        What the process works with.
    """

    def __init__(self, channel: socket.socket, paces: memoryview[float], receiving: Receiving) -> None:
        self._channel = channel
        self._paces = paces
        self._receiving = receiving
        self._stopped = threading.Event()

    def run(self) -> None:
        """Work until the channel is closed."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._channel, _LONGEST_MESSAGE, 2)
            if not message:
                break
            try:
                self._take(pickle.loads(message), descriptors)  # noqa: S301 (it comes from the process that made this one)
            except Exception:  # whoever waits for an answer gets none
                log.exception("an order for the process that receives was not understood")
                for descriptor in descriptors:
                    with contextlib.suppress(OSError):
                        os.close(descriptor)
        self._receiving.close()

    def _take(self, what: object, descriptors: list[int]) -> None:
        if isinstance(what, Stop):
            self._stopped.set()
        elif isinstance(what, Use):
            self._receiving.use(what.config)
        elif isinstance(what, Prepare):
            threading.Thread(target=self._handlers, daemon=True).start()
        elif isinstance(what, Settle):
            (answer,) = descriptors
            threading.Thread(target=_answer, args=(answer, self._settle), daemon=True).start()
        elif isinstance(what, Job):
            answer, connection = descriptors
            threading.Thread(target=_answer, args=(answer, partial(self._serve, what, connection)), daemon=True).start()

    def _handlers(self) -> Mapping[int, Handler] | None:
        """Return the services, None when nothing can be received now; the next association tries again."""
        try:
            return self._receiving.handlers()
        except StorageError as error:
            log.debug("nothing can be received: %s", error)
        except Exception:
            log.exception("nothing can be received")
        return None

    def _settle(self) -> Settled:
        try:
            self._receiving.settle()
        except StorageError as error:
            return Settled(str(error))
        return Settled()

    def _serve(self, job: Job, connection: int) -> Report | Left:
        """Serve an association to its end."""
        handlers = self._handlers()
        if handlers is None:
            os.close(connection)
            return Left()
        wire = Wire(socket.socket(fileno=connection), job.config.max_pdu, job.config.network_timeout)
        wire.peer_max_pdu = job.peer_max_pdu
        association = Association(wire, job.peer, job.calling, job.called, job.contexts, job.device)
        association.pace = self._paces[job.place : job.place + 1]
        ending = FAILURE
        try:
            ending = converse(association, handlers, job.config, self._stopped.is_set)
        except Exception:
            log.exception("serving %s failed", association)
        return Report(ending, association.tally, association.requests)


def _answer(descriptor: int, work: Callable[[], object]) -> None:
    """Do work, and write what came of it."""
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb") as answer:  # nobody waits any more
        answer.write(pickle.dumps(work()))
