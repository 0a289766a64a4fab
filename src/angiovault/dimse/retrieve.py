"""C-MOVE and C-GET (PS3.4 annex C): instances go back, in the very bytes that came in wherever the peer takes them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from angiovault.archive import elements
from angiovault.archive.archive import Archive
from angiovault.archive.conversion import ConversionError, Converter, convertible
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.selection import Selection, StoredInstance, instances
from angiovault.archive.store import StorageError
from angiovault.devices import DeviceBook
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.negotiation import Context
from angiovault.dimse.query import Identifier, IdentifierError, read_identifier
from angiovault.dimse.scu import CannotAssociate, Destination, Limits, associate, storage_contexts, store_request
from angiovault.dimse.wire import AssociationEnded, Message, ProtocolError

log = logging.getLogger(__name__)

_PATIENT_ID: Final = 0x00100020
_UNIQUE_KEYS: Final = {"STUDY": 0x0020000D, "SERIES": 0x0020000E, "IMAGE": 0x00080018}
_LEVELS_ABOVE: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058


class _Cancelled(Exception):
    """The requestor sent a C-CANCEL."""


@dataclass
class Progress:
    """Counts of the sub-operations of one retrieval (PS3.4 C.4.2.1.6 to C.4.2.1.9)."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)

    def counts(self, final: bool) -> dict[str, int]:
        """Return the counts as responses carry them; 'remaining' is only in pending and cancelled ones."""
        counts = {"completed": self.completed, "failed": len(self.failed), "warning": self.warning}
        if not final:
            counts["remaining"] = self.remaining
        return {name: min(number, 0xFFFF) for name, number in counts.items()}


@dataclass(frozen=True, slots=True)
class Services:
    """What retrieval needs: the archive, the devices, the converter, and how we call others."""

    archive: Archive
    devices: DeviceBook
    converter: Converter
    limits: Limits


def selection_of(identifier: Identifier) -> Selection:
    """Return which instances an identifier means.

    Raises
    ------
    IdentifierError
        When the unique key of its level is missing or empty: a retrieval is never of everything.
    """
    lists: dict[str, tuple[str, ...]] = {}
    for level in _LEVELS_ABOVE[: _LEVELS_ABOVE.index(identifier.level) + 1]:
        key = identifier.keys.get(_UNIQUE_KEYS.get(level, _PATIENT_ID))
        if key is None:
            values: tuple[str, ...] = ()
        else:
            values = key.texts if level == "PATIENT" else key.uids()
        if level == identifier.level and not values:
            raise IdentifierError(f"the unique key of level {level} is missing or empty")
        if any(set(value) & set("*?") for value in values):
            raise IdentifierError(f"the unique key of level {level} may not hold wildcards")
        lists[level] = values
    return Selection(lists["PATIENT"], lists.get("STUDY", ()), lists.get("SERIES", ()), lists.get("IMAGE", ()))


def answer_get(association: Association, message: Message, services: Services) -> None:
    """Answer a C-GET request: the sub-operations run on the same association."""

    def perform(wanted: list[StoredInstance], progress: Progress, report: Callable[[], None]) -> None:
        for instance in wanted:
            _send_one(association, instance, services, progress, {})
            report()

    _retrieve(association, message, services, sop_classes.GET, perform)


def answer_move(association: Association, message: Message, services: Services) -> None:
    """Answer a C-MOVE request: the sub-operations run on associations to a configured device."""
    name = message.command.text(messages.MOVE_DESTINATION)
    device = services.devices.by_ae_title(name)
    try:
        if device is None:
            raise CannotAssociate(f"{name!r} is not a configured device: add it with its address and port")
        destination = Destination.of(device)
    except CannotAssociate as error:
        message.drain()
        log.warning("refused to move for %s: %s", association, error)
        association.respond(message, messages.MOVE_DESTINATION_UNKNOWN, comment=str(error))
        return
    originator = {
        messages.MOVE_ORIGINATOR_AE_TITLE: association.calling,
        messages.MOVE_ORIGINATOR_MESSAGE_ID: message.command.message_id,
    }

    def perform(wanted: list[StoredInstance], progress: Progress, report: Callable[[], None]) -> None:
        for outcome in send(destination, wanted, services, progress, originator):
            if outcome:
                log.warning("moving for %s to %s: %s", association, destination, outcome)
            report()

    _retrieve(association, message, services, sop_classes.MOVE, perform)


def send(
    destination: Destination,
    wanted: list[StoredInstance],
    services: Services,
    progress: Progress,
    originator: dict[int, int | str],
) -> Iterator[str]:
    """Send instances to a device by C-STORE, on as many associations as their classes need.

    Yields
    ------
    str
        After every instance: '' or what went wrong.
    """
    by_contexts = list(storage_contexts((item.sop_class_uid, item.transfer_syntax) for item in wanted))
    for contexts in by_contexts:
        classes = {context.abstract_syntax for context in contexts}
        group = [item for item in wanted if item.sop_class_uid in classes]
        sent = 0
        try:
            with associate(destination, contexts, services.limits) as association:
                for instance in group:
                    problem = _send_one(association, instance, services, progress, originator)
                    sent += 1
                    yield problem
        except (CannotAssociate, AssociationEnded) as error:
            for instance in group[sent:]:
                progress.failed.append(instance.sop_instance_uid)
                progress.remaining -= 1
                yield f"{instance.sop_instance_uid}: {error}"


def _retrieve(
    association: Association,
    message: Message,
    services: Services,
    models: dict[str, str],
    perform: Callable[[list[StoredInstance], Progress, Callable[[], None]], None],
) -> None:
    context = association.context_of(message)
    try:
        identifier = read_identifier(message, context, models[context.abstract_syntax])
        wanted = instances(services.archive.ready_index(), selection_of(identifier))
    except IdentifierError as error:
        log.warning("refused a retrieval of %s: %s", association, error)
        association.respond(message, error.status, comment=str(error))
        return
    except (IndexUnavailable, StorageError) as error:
        log.warning("cannot retrieve for %s: %s", association, error)
        association.respond(message, messages.UNABLE_TO_COUNT_MATCHES, comment=str(error))
        return
    progress = Progress(len(wanted))

    def report() -> None:
        if association.cancelled(message):
            raise _Cancelled
        if progress.remaining:
            association.respond(message, messages.PENDING, **progress.counts(final=False))

    status = messages.SUCCESS
    try:
        if wanted:
            report()
            perform(wanted, progress, report)
    except _Cancelled:
        status = messages.CANCELLED
    association.tally["sent"] += progress.completed + progress.warning
    _finish(association, message, context, progress, status, len(wanted))


def _finish(
    association: Association, message: Message, context: Context, progress: Progress, status: int, total: int
) -> None:
    if status == messages.SUCCESS and (progress.failed or progress.warning):
        nothing_sent = len(progress.failed) == total
        status = messages.UNABLE_TO_PERFORM_SUBOPERATIONS if nothing_sent else messages.SUBOPERATIONS_WITH_FAILURES
    data = None
    if progress.failed:
        uids = "\\".join(progress.failed).encode("ascii")
        data = elements.encode(
            {_FAILED_SOP_INSTANCE_UID_LIST: ("UI", uids)},
            implicit=context.transfer_syntax == sop_classes.IMPLICIT_VR_LE,
        )
    association.respond(message, status, data, **progress.counts(final=status != messages.CANCELLED))


def _send_one(
    association: Association,
    instance: StoredInstance,
    services: Services,
    progress: Progress,
    originator: dict[int, int | str],
) -> str:
    """Send one instance, count it, and return what went wrong, if anything."""
    problem, warning = "", False
    try:
        with _in_acceptable_syntax(association, instance, services) as (context, data, length):
            request = store_request(instance.sop_class_uid, instance.sop_instance_uid)
            message_id = association.request(context, {**request, **originator}, data, length)
        status = _store_status(association, message_id, services.limits.response_timeout)
        warning = status & 0xF000 == 0xB000
        if status != messages.SUCCESS and not warning:
            problem = f"{instance.sop_instance_uid}: the peer answers with status {status:04X}"
    except AssociationEnded:
        raise
    except (ConversionError, StorageError) as error:
        problem = f"{instance.sop_instance_uid}: {error}"
    except OSError as error:  # half an instance is on the wire: there is no way back
        log.error("%s cannot be read: %s", instance.path, error)
        raise ProtocolError(f"{instance.sop_instance_uid} cannot be read: {error}", 0) from error
    progress.remaining -= 1
    if problem:
        progress.failed.append(instance.sop_instance_uid)
        log.warning("to %s: %s", association, problem)
    elif warning:
        progress.warning += 1
    else:
        progress.completed += 1
    return problem


@contextlib.contextmanager
def _in_acceptable_syntax(
    association: Association, instance: StoredInstance, services: Services
) -> Iterator[tuple[Context, BinaryIO, int]]:
    """Give context, file and length for an instance: as stored, else converted without loss.

    Raises
    ------
    ConversionError
        When the peer takes no syntax in which the instance can be sent.
    StorageError
        When its file cannot be read.
    """
    usable = [
        context
        for context in association.contexts.values()
        if context.abstract_syntax == instance.sop_class_uid and _peer_is_scp(association, context)
    ]
    as_stored = next((item for item in usable if item.transfer_syntax == instance.transfer_syntax), None)
    if as_stored is not None:
        with services.archive.open_instance(instance) as (file, length):
            yield as_stored, file, length
        return
    plain = (sop_classes.EXPLICIT_VR_LE, sop_classes.IMPLICIT_VR_LE)
    target = next((item for syntax in plain for item in usable if item.transfer_syntax == syntax), None)
    if target is None:
        taken = ", ".join(item.transfer_syntax for item in usable) or "no syntax of this class at all"
        raise ConversionError(f"stored in {sop_classes.name(instance.transfer_syntax)}, the peer takes {taken}")
    if not convertible(instance.transfer_syntax):
        raise ConversionError(
            f"{sop_classes.name(instance.transfer_syntax)} cannot be converted to what the peer takes"
        )
    services.archive.check()
    source = services.archive.store.root / instance.path
    with services.converter.convert(source, target.transfer_syntax) as converted:
        log.info(
            "%s goes to %s converted from %s to %s",
            instance.sop_instance_uid, association,
            sop_classes.name(instance.transfer_syntax), sop_classes.name(target.transfer_syntax),
        )  # fmt: skip
        yield target, converted.file, converted.length


def _peer_is_scp(association: Association, context: Context) -> bool:
    """Whether the peer may be sent a C-STORE request in this context: as acceptor always, as requestor by role."""
    return association.requested_by_us or context.requestor_is_scp


def _store_status(association: Association, message_id: int, timeout: float) -> int:
    """Wait for the C-STORE response; a C-CANCEL of the retrieval that comes before it is kept for `cancelled`."""
    while True:
        message = association.receive(timeout)
        message.drain()
        command = message.command
        if command.field == messages.C_CANCEL_RQ:
            association.note_cancel(command)
        elif not command.field & messages.RESPONSE:
            raise ProtocolError("a further request while one is being answered", 2)
        elif command.number(messages.MESSAGE_ID_BEING_RESPONDED_TO) == message_id:
            return command.status
