"""The application entity as requestor: associations that the archive opens (PS3.8 7.1), for C-STORE, C-ECHO, notifications."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from angiovault.devices import Device
from angiovault.dimse import messages, negotiation, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.negotiation import MOST_CONTEXTS, ProposedContext, Rejected
from angiovault.dimse.wire import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, AssociationEnded, ProtocolError, Wire

log = logging.getLogger(__name__)

_RELEASE_TIMEOUT: Final = 10.0


class CannotAssociate(Exception):
    """No association with the device; the text says why and what to check."""


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
    """What we announce and how long we wait: our AE title, longest PDU in bytes, seconds for the network and an answer."""

    ae_title: str
    max_pdu: int = 131072
    network_timeout: float = 60.0
    response_timeout: float = 300.0


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
    proposed = tuple(contexts)
    request = negotiation.encode_request(
        limits.ae_title, destination.ae_title, proposed, limits.max_pdu, scp_roles
    )
    try:
        connection = socket.create_connection((destination.host, destination.port), limits.network_timeout)
    except OSError as error:
        raise CannotAssociate(_in_words(destination, error)) from error
    wire = Wire(connection, limits.max_pdu, limits.network_timeout)
    try:
        wire.send(request)
        wire.wait(limits.network_timeout)
        kind, encoded = wire.read_pdu()
        if kind not in (A_ASSOCIATE_AC, A_ASSOCIATE_RJ):
            raise ProtocolError(f"answered an association request with a PDU of type {kind}")
        acceptance = negotiation.decode_answer(encoded, proposed)
    except Rejected as error:
        wire.close()
        raise CannotAssociate(f"{destination}: {error}") from error
    except AssociationEnded as error:
        wire.abort()
        raise CannotAssociate(f"{destination} does not answer as a DICOM device: {error}") from error
    wire.peer_max_pdu = acceptance.max_pdu
    association = Association(
        wire, destination.host, limits.ae_title, destination.ae_title, acceptance.contexts, requested_by_us=True
    )
    try:
        yield association
    except BaseException:
        wire.abort()
        raise
    try:
        wire.request_release(_RELEASE_TIMEOUT)
    except AssociationEnded as end:
        log.debug("%s did not release properly: %s", destination, end)


def _in_words(destination: Destination, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"{destination} refuses the connection: is the device on, and is the port right?"
    if isinstance(error, TimeoutError):
        return f"{destination} does not answer: is the address right, and does a firewall lie between?"
    if isinstance(error, socket.gaierror):
        return f"{destination}: the host name is not known"
    return f"{destination} cannot be reached: {error.strerror or error}"


def response_status(association: Association, message_id: int, timeout: float) -> int:
    """Wait for the response to a request of ours and return its status; for associations that we opened ourselves.

    Raises
    ------
    AssociationEnded
        When none comes.
    """
    while True:
        message = association.receive(timeout)
        message.drain()
        command = message.command
        if not command.field & messages.RESPONSE:
            raise ProtocolError("a request where a response is due", 2)
        if command.number(messages.MESSAGE_ID_BEING_RESPONDED_TO) == message_id:
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

    Each stored syntax has a context of its own, so that the acceptor cannot choose another; a further context of the
    class offers Explicit and Implicit VR Little Endian for those that will not take it.

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


