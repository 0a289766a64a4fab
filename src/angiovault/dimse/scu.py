"""The application entity as requestor: associations that the archive opens (PS3.8 7.1)."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from angiovault.config import Config
from angiovault.devices import Device
from angiovault.dimse import messages, negotiation, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.endings import Aborted, AssociationEnded, CannotAssociate, ProtocolError, TimedOut
from angiovault.dimse.negotiation import MOST_CONTEXTS, ProposedContext, Rejected
from angiovault.dimse.wire import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, SMALLEST_PEER_PDU, Wire

log = logging.getLogger(__name__)

_RELEASE_TIMEOUT: Final = 10.0
_HIGHEST_PORT: Final = 65535
_BY_SERVICE_USER: Final = 0
"""Source of an A-ABORT that the application, not the protocol, asks for (PS3.8 9.3.8)."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a device is called: AE title, host and port."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def of(cls, device: Device) -> Destination:
        """Return where a configured device is called.

        Raises
        ------
        CannotAssociate
            When it has no address or port to be called at.
        """
        if device.destination is None:
            raise CannotAssociate(f"device {device.name!r} has no host and port to be called at: add them to it")
        host, port = device.destination
        return cls(device.ae_title, host, port)

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What we announce and how long we wait: our AE title, longest PDU in bytes, seconds for the network."""

    ae_title: str
    max_pdu: int = 131072
    network_timeout: float = 60.0

    @classmethod
    def of(cls, config: Config) -> Limits:
        """Return those of the settings."""
        return cls(config.ae_title, config.max_pdu, config.network_timeout)

    @property
    def response_timeout(self) -> float:
        """Seconds to wait for a response: more, since a device may write a run of a gigabyte before it answers."""
        return 5 * self.network_timeout


@contextlib.contextmanager
def associate(
    destination: Destination, contexts: Iterable[ProposedContext], limits: Limits, scp_roles: Iterable[str] = ()
) -> Iterator[Association]:
    """Open an association, release it at the end, and abort it when the block raises.

    Raises
    ------
    CannotAssociate
        When the device cannot be reached or rejects.
    AssociationEnded
        When it breaks off later.
    """
    association = _request_association(destination, tuple(contexts), limits, scp_roles)
    wire = association.wire
    try:
        yield association
    except ProtocolError as error:
        wire.abort(error.reason)
        raise
    except BaseException:
        wire.abort(source=_BY_SERVICE_USER)
        raise
    try:
        wire.request_release(_RELEASE_TIMEOUT)
    except AssociationEnded as end:
        log.debug("%s did not release properly: %s", destination, end)


def _request_association(
    destination: Destination, proposed: tuple[ProposedContext, ...], limits: Limits, scp_roles: Iterable[str]
) -> Association:
    if not 0 < destination.port <= _HIGHEST_PORT:  # the system would take it modulo 65536
        raise CannotAssociate(f"{destination}: there is no port {destination.port}, the highest is {_HIGHEST_PORT}")
    request = negotiation.encode_request(limits.ae_title, destination.ae_title, proposed, limits.max_pdu, scp_roles)
    try:
        connection = socket.create_connection((destination.host, destination.port), limits.network_timeout)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host has such a name
        raise CannotAssociate(_in_words(destination, error)) from error
    wire = Wire(connection, limits.max_pdu, limits.network_timeout)
    try:
        wire.send(request)
        wire.wait(limits.network_timeout)
        kind, encoded = wire.read_pdu()
        if kind == A_ABORT:
            raise Aborted("it aborts the association that is asked for")
        if kind not in (A_ASSOCIATE_AC, A_ASSOCIATE_RJ):
            raise ProtocolError(f"answered an association request with a PDU of type {kind}", 2)
        acceptance = negotiation.decode_answer(encoded, proposed)
        if 0 < acceptance.max_pdu < SMALLEST_PEER_PDU:
            raise ProtocolError(f"its maximum PDU length {acceptance.max_pdu} leaves no room for a message")
    except Rejected as error:
        wire.close()
        raise CannotAssociate(f"{destination}: {error}") from error
    except TimedOut as error:
        wire.abort(source=_BY_SERVICE_USER)
        raise CannotAssociate(
            f"{destination} takes the connection but does not answer within {limits.network_timeout:g} s: "
            "is it a DICOM device, and is it well?"
        ) from error
    except AssociationEnded as error:
        wire.abort(error.reason if isinstance(error, ProtocolError) else 0)
        raise CannotAssociate(f"{destination} does not answer as a DICOM device: {error}") from error
    except BaseException:
        wire.close()
        raise
    wire.peer_max_pdu = acceptance.max_pdu
    return Association(
        wire, destination.host, limits.ae_title, destination.ae_title, acceptance.contexts, requested_by_us=True
    )


def _in_words(destination: Destination, error: OSError | UnicodeError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"{destination} refuses the connection: is the device on, and is the port right?"
    if isinstance(error, TimeoutError):
        return f"{destination} does not answer: is the address right, and does a firewall lie between?"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"{destination}: the host name is not known"
    return f"{destination} cannot be reached: {error.strerror or error}"


def response_status(association: Association, message_id: int, timeout: float) -> int:
    """Wait for the response to a request of ours and return its status.

    A C-CANCEL that comes before it is noted (`Association.cancelled`): that of the retrieval the request belongs to.

    Raises
    ------
    AssociationEnded
        When none comes within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        message = association.receive(max(0.0, deadline - time.monotonic()))
        message.drain()
        command = message.command
        if command.field == messages.C_CANCEL_RQ:
            association.note_cancel(command)
        elif not command.field & messages.RESPONSE:
            raise ProtocolError("a request where a response is due", 2)
        elif command.number(messages.MESSAGE_ID_BEING_RESPONDED_TO) == message_id:
            return command.status


def echo(destination: Destination, limits: Limits) -> None:
    """Send a C-ECHO.

    Raises
    ------
    CannotAssociate, AssociationEnded
        When the device does not answer with success.
    """
    context = ProposedContext(1, sop_classes.VERIFICATION, (sop_classes.IMPLICIT_VR_LE,))
    with associate(destination, [context], limits) as association:
        accepted = association.find_context(sop_classes.VERIFICATION)
        if accepted is None:
            raise CannotAssociate(f"{destination} accepts the association but no C-ECHO")
        message_id = association.request(
            accepted,
            {messages.COMMAND_FIELD: messages.C_ECHO_RQ, messages.AFFECTED_SOP_CLASS_UID: sop_classes.VERIFICATION},
        )
        status = response_status(association, message_id, limits.response_timeout)
        if status != messages.SUCCESS:
            raise CannotAssociate(f"{destination} answers C-ECHO with status {status:04X}")


def storage_contexts(pairs: Iterable[tuple[str, str]]) -> Iterator[list[ProposedContext]]:
    """Propose contexts for (SOP class, stored transfer syntax) pairs, as many per association as there can be.

    Each stored syntax has a context of its own, so that the acceptor cannot choose another; so have Explicit and
    Implicit VR Little Endian, for those that will not take the stored one.

    Yields
    ------
    list[ProposedContext]
        The contexts of one association; together they cover all pairs.
    """
    plain = (sop_classes.EXPLICIT_VR_LE, sop_classes.IMPLICIT_VR_LE)
    by_class: dict[str, list[str]] = {}
    for sop_class, syntax in pairs:
        syntaxes = by_class.setdefault(sop_class, [])
        if syntax not in syntaxes:
            syntaxes.append(syntax)
    group: list[tuple[str, tuple[str, ...]]] = []
    for sop_class, syntaxes in by_class.items():
        needed = [(sop_class, (syntax,)) for syntax in syntaxes] + [(sop_class, (syntax,)) for syntax in plain]
        unique = list(dict.fromkeys(needed))
        if len(group) + len(unique) > MOST_CONTEXTS:
            yield _numbered(group)
            group = []
        group += unique
    if group:
        yield _numbered(group)


def _numbered(group: list[tuple[str, tuple[str, ...]]]) -> list[ProposedContext]:
    return [
        ProposedContext(2 * number + 1, sop_class, syntaxes) for number, (sop_class, syntaxes) in enumerate(group)
    ]


def store_request(sop_class_uid: str, sop_instance_uid: str) -> dict[int, int | str | None]:
    """Return the elements of a C-STORE request (PS3.7 9.3.1.1)."""
    return {
        messages.COMMAND_FIELD: messages.C_STORE_RQ,
        messages.AFFECTED_SOP_CLASS_UID: sop_class_uid,
        messages.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
        messages.PRIORITY: 0,
    }
