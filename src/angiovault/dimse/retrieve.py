"""C-MOVE and C-GET (PS3.4 annex C): instances go back, in the very bytes that came in wherever the peer takes them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, TypedDict

from angiovault.archive import elements
from angiovault.archive.archive import Archive
from angiovault.archive.conversion.converter import ConversionError, Converter, convertible
from angiovault.archive.finding.selection import Selection, StoredInstance, instances
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.devices import DeviceBook
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.endings import AssociationEnded, CannotAssociate, ProtocolError
from angiovault.dimse.messages import Message
from angiovault.dimse.negotiation import Context, ProposedContext
from angiovault.dimse.query import Identifier, IdentifierError, read_identifier
from angiovault.dimse.scu import (
    Destination,
    Limits,
    associate,
    response_status,
    storage_contexts,
    store_request,
)

log = logging.getLogger(__name__)

_PATIENT_ID: Final = 0x00100020
_UNIQUE_KEYS: Final = {"STUDY": 0x0020000D, "SERIES": 0x0020000E, "IMAGE": 0x00080018}
_LEVELS_ABOVE: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058
_LARGEST_COUNT: Final = 0xFFFF
_LONGEST_EXPLICIT_VALUE: Final = 0xFFFE

Report = Callable[[str], None]
"""Called after each sub-operation, with '' or what went wrong."""


class _Cancelled(Exception):
    """The requestor sent a C-CANCEL."""


class _CutShort(ProtocolError):
    """A stored file could not be read on when part of it was sent: only the end of the association says so."""


class Counts(TypedDict, total=False):
    """Numbers of sub-operations as a response carries them."""

    remaining: int
    completed: int
    failed: int
    warning: int


@dataclass
class Progress:
    """Counts of the sub-operations of one retrieval (PS3.4 C.4.2.1.6 to C.4.2.1.9)."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)

    def count(self, sop_instance_uid: str, failed: bool, warning: bool = False) -> None:
        """Count one sub-operation."""
        self.remaining -= 1
        if failed:
            self.failed.append(sop_instance_uid)
        elif warning:
            self.warning += 1
        else:
            self.completed += 1

    def counts(self, final: bool) -> Counts:
        """Return the counts as responses carry them; 'remaining' is only in pending and cancelled ones.

        They are 16 bits wide: a larger number is said as the largest there is.
        """
        counts = Counts(
            completed=min(self.completed, _LARGEST_COUNT),
            failed=min(len(self.failed), _LARGEST_COUNT),
            warning=min(self.warning, _LARGEST_COUNT),
        )
        if not final:
            counts["remaining"] = min(self.remaining, _LARGEST_COUNT)
        return counts


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

    def perform(wanted: list[StoredInstance], progress: Progress, report: Report) -> None:
        for instance in wanted:
            report(_send_one(association, instance, services, progress, {}))

    # What is said of one sub-operation leaves with the next, which goes the same way.
    _retrieve(association, message, services, sop_classes.GET, perform, hold=True)


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
    originator: dict[int, int | str] = {
        messages.MOVE_ORIGINATOR_AE_TITLE: association.calling,
        messages.MOVE_ORIGINATOR_MESSAGE_ID: message.command.message_id,
    }

    def perform(wanted: list[StoredInstance], progress: Progress, report: Report) -> None:
        with contextlib.closing(send(destination, wanted, services, progress, originator)) as outcomes:
            for problem in outcomes:
                report(problem and f"to {destination}: {problem}")

    _retrieve(association, message, services, sop_classes.MOVE, perform)


def send(
    destination: Destination,
    wanted: Sequence[StoredInstance],
    services: Services,
    progress: Progress,
    originator: dict[int, int | str],
) -> Generator[str, None, None]:
    """Send instances to a device by C-STORE, on as many associations as their classes need.

    Closing the generator releases the association that is open.

    Yields
    ------
    str
        After every instance: '' or what went wrong. What stops several at once is said once.
    """
    for contexts in storage_contexts((item.sop_class_uid, item.transfer_syntax) for item in wanted):
        classes = {context.abstract_syntax for context in contexts}
        left: Sequence[StoredInstance] = [item for item in wanted if item.sop_class_uid in classes]
        while left:
            left = yield from _send_on_one_association(destination, contexts, left, services, progress, originator)


def _send_on_one_association(
    destination: Destination,
    contexts: list[ProposedContext],
    group: Sequence[StoredInstance],
    services: Services,
    progress: Progress,
    originator: dict[int, int | str],
) -> Generator[str, None, Sequence[StoredInstance]]:
    """Send instances as `send` does; return those for which a further association has to be opened."""
    done = 0
    try:
        with associate(destination, contexts, services.limits) as association:
            for instance in group:
                problem = _send_one(association, instance, services, progress, originator)
                done += 1
                try:
                    yield problem
                except GeneratorExit:
                    return ()
    except _CutShort as error:  # the fault of this one file, not of the device: the others are still to be sent
        progress.count(group[done].sop_instance_uid, failed=True)
        yield str(error)
        return group[done + 1 :]
    except (CannotAssociate, AssociationEnded) as error:
        problem = f"{len(group) - done} instances not sent: {error}"
        for instance in group[done:]:
            progress.count(instance.sop_instance_uid, failed=True)
            yield problem
            problem = ""
    return ()


def _retrieve(
    association: Association,
    message: Message,
    services: Services,
    models: dict[str, str],
    perform: Callable[[list[StoredInstance], Progress, Report], None],
    hold: bool = False,
) -> None:
    context = association.context_of(message)
    try:
        identifier = read_identifier(message, context, models[context.abstract_syntax])
        wanted = instances(services.archive.ready_index(), selection_of(identifier))
    except IdentifierError as error:
        association.tally["refused"] += 1
        log.warning("refused a retrieval of %s: %s", association, error)
        association.respond(message, error.status, comment=str(error))
        return
    except (IndexUnavailable, StorageError) as error:
        association.tally["refused"] += 1
        log.warning("cannot retrieve for %s: %s", association, error)
        association.respond(message, messages.UNABLE_TO_COUNT_MATCHES, comment=str(error))
        return
    progress = Progress(len(wanted))

    def report(problem: str) -> None:
        if problem:
            log.warning("retrieval of %s: %s", association, problem)
        if progress.remaining:
            if association.cancelled(message):
                raise _Cancelled
            association.respond(message, messages.PENDING, hold=hold, **progress.counts(final=False))

    status = messages.SUCCESS
    try:
        if wanted:
            report("")
            perform(wanted, progress, report)
    except _Cancelled:
        status = messages.CANCELLED
    finally:
        association.tally["sent"] += progress.completed + progress.warning
        if progress.failed:
            association.tally["not sent"] += len(progress.failed)
    _finish(association, message, context, progress, status)


def _finish(association: Association, message: Message, context: Context, progress: Progress, status: int) -> None:
    if status == messages.SUCCESS and (progress.failed or progress.warning):
        nothing_sent = not progress.completed and not progress.warning
        status = messages.UNABLE_TO_PERFORM_SUBOPERATIONS if nothing_sent else messages.SUBOPERATIONS_WITH_FAILURES
    implicit = context.transfer_syntax == sop_classes.IMPLICIT_VR_LE
    data = encode_failed_list(progress.failed, implicit) if progress.failed else None
    association.respond(message, status, data, **progress.counts(final=status != messages.CANCELLED))


def encode_failed_list(uids: Sequence[str], implicit: bool) -> bytes:
    """Encode Failed SOP Instance UID List (0008,0058), in Explicit VR as many whole UIDs as its 16-bit length takes."""
    value = "\\".join(uids).encode("ascii", "replace")
    if not implicit and len(value) > _LONGEST_EXPLICIT_VALUE:
        value = value[: value.rindex(b"\\", 0, _LONGEST_EXPLICIT_VALUE + 1)]
    return elements.encode({_FAILED_SOP_INSTANCE_UID_LIST: ("UI", value)}, implicit)


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
            try:
                message_id = association.request(context, {**request, **originator}, data, length)
            except OSError as error:  # half of it is on the wire: there is no way back
                raise _CutShort(f"{instance.path} cannot be read: {error}", 0) from error
        status = response_status(association, message_id, services.limits.response_timeout)
        warning = status & 0xF000 == 0xB000
        if status != messages.SUCCESS and not warning:
            problem = f"{instance.sop_instance_uid}: the peer answers with status {status:04X}"
    except (ConversionError, StorageError) as error:
        problem = f"{instance.sop_instance_uid}: {error}"
    progress.count(instance.sop_instance_uid, bool(problem), warning)
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
    of_class = [item for item in association.contexts.values() if item.abstract_syntax == instance.sop_class_uid]
    usable = [item for item in of_class if _peer_is_scp(association, item)]
    as_stored = next((item for item in usable if item.transfer_syntax == instance.transfer_syntax), None)
    if as_stored is not None:
        with services.archive.open_instance(instance) as (file, length):
            yield as_stored, file, length
        return
    plain = (sop_classes.EXPLICIT_VR_LE, sop_classes.IMPLICIT_VR_LE)
    target = next((item for syntax in plain for item in usable if item.transfer_syntax == syntax), None)
    stored = sop_classes.name(instance.transfer_syntax)
    if not usable:
        how = "only in the SCU role" if of_class else "not at all"
        raise ConversionError(f"the peer takes {sop_classes.name(instance.sop_class_uid)} {how}")
    if target is None:
        taken = ", ".join(sop_classes.name(item.transfer_syntax) for item in usable)
        raise ConversionError(f"stored in {stored}, the peer takes this class in {taken} only")
    if not convertible(instance.transfer_syntax):
        raise ConversionError(f"{stored} cannot be converted to what the peer takes")
    with services.archive.open_instance(instance):  # it is there, and is the file that was stored
        source = services.archive.store.path(instance.path)
    with services.converter.convert(source, target.transfer_syntax) as converted:
        log.info(
            "%s goes to %s converted from %s to %s",
            instance.sop_instance_uid, association, stored, sop_classes.name(target.transfer_syntax),
        )  # fmt: skip
        yield target, converted.file, converted.length


def _peer_is_scp(association: Association, context: Context) -> bool:
    """Whether the peer may be sent a C-STORE request in this context: as acceptor always, as requestor by role."""
    return association.requested_by_us or context.requestor_is_scp
