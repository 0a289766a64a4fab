"""C-STORE (PS3.4 annex B): an instance comes in.

The data set goes from the wire to the disk as it arrives; success is answered only when it is durable, and every
query from then on finds it.
"""

from __future__ import annotations

import logging

from angiovault.archive.archive import CONFLICT, Archive, DatasetMismatch, Receipt
from angiovault.archive.header import HeaderError, is_uid
from angiovault.archive.store import StorageError
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.endings import AssociationEnded
from angiovault.dimse.messages import Message
from angiovault.dimse.negotiation import Context

log = logging.getLogger(__name__)


def answer(association: Association, message: Message, archive: Archive) -> None:
    """Take in the instance of a C-STORE request and answer."""
    context = association.context_of(message)
    try:
        status, comment = _store(association, message, context, archive)
        message.drain()
    except AssociationEnded:
        log.warning("%s did not arrive whole and is not kept", _described(message, context, association))
        raise
    if status != messages.SUCCESS:
        association.tally["refused"] += 1
        log.warning("refused %s: %s (status %04X)", _described(message, context, association), comment, status)
    association.respond(message, status, comment=comment)


def _store(association: Association, message: Message, context: Context, archive: Archive) -> tuple[int, str]:
    sop_class = message.command.text(messages.AFFECTED_SOP_CLASS_UID)
    sop_instance = message.command.text(messages.AFFECTED_SOP_INSTANCE_UID)
    if sop_class != context.abstract_syntax:
        return messages.SOP_CLASS_NOT_SUPPORTED, f"class of the presentation context is {context.abstract_syntax}"
    if not context.requestor_is_scu:
        return messages.NOT_AUTHORISED, "the caller may not store"
    if not message.command.has_data_set:
        return messages.CANNOT_UNDERSTAND, "the request has no data set"
    if not is_uid(sop_instance):
        return messages.CANNOT_UNDERSTAND, "Affected SOP Instance UID is not a UID"
    try:
        with archive.receive(sop_class, sop_instance, context.transfer_syntax, association.calling) as reception:
            message.read_into(reception.room, reception.filled)
            reception.finish(lambda receipt, outcome: _note(association, context, receipt, outcome))
    except AssociationEnded:
        raise
    except DatasetMismatch as error:
        return messages.DATA_SET_MISMATCH, str(error)
    except HeaderError as error:
        return messages.CANNOT_UNDERSTAND, str(error)
    except StorageError as error:
        return messages.OUT_OF_RESOURCES, str(error)
    except Exception as error:  # the sender must learn that this one is not safe
        log.exception("storing failed")
        return messages.PROCESSING_FAILURE, f"internal error: {error}"
    return messages.SUCCESS, ""


def _note(association: Association, context: Context, receipt: Receipt, outcome: str) -> None:
    """Note what became of an instance: that is known a moment after its sender was told that it is safe."""
    class_name = sop_classes.label(context.abstract_syntax)
    association.tally[f"{outcome} {class_name} in {sop_classes.label(context.transfer_syntax)}"] += 1
    association.tally["bytes"] += receipt.size
    if outcome == CONFLICT:
        log.warning(
            "conflict: %s came from %s with other bytes than before; both are kept, the first stays current (%s)",
            receipt.header.sop_instance_uid,
            association,
            receipt.place,
        )
    if not receipt.header.complete:
        log.warning("%s from %s is kept but incomplete: %s", receipt.place, association, receipt.header.problem)


def _described(message: Message, context: Context, association: Association) -> str:
    uid = message.command.text(messages.AFFECTED_SOP_INSTANCE_UID)[:64] or "an instance without UID"
    sop_class = sop_classes.name(message.command.text(messages.AFFECTED_SOP_CLASS_UID))
    return f"{uid} of class {sop_class} in {sop_classes.name(context.transfer_syntax)} from {association}"
