"""C-STORE (PS3.4 annex B): an instance comes in.

The data set goes from the wire to the disk as it arrives; success is answered only when it is durable, and every
query from then on finds it.
"""

from __future__ import annotations

import logging

from angiovault.archive.archive import CONFLICT, Archive, DatasetMismatch, Receipt, Reception
from angiovault.archive.header import HeaderError, is_uid
from angiovault.archive.store import StorageError
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.endings import AssociationEnded
from angiovault.dimse.messages import Message
from angiovault.dimse.negotiation import Context

log = logging.getLogger(__name__)


class _Refused(Exception):
    """An instance that is not kept; its sender is told the status and the reason."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status


def answer(association: Association, message: Message, archive: Archive) -> None:
    """Take in the instance of a C-STORE request and answer."""
    context = association.context_of(message)
    try:
        try:
            reception = _receive(association, message, context, archive)
        except _Refused:
            message.drain()
            raise
    except AssociationEnded:
        log.warning("%s did not arrive whole and is not kept", _described(message, context, association))
        raise
    except _Refused as refused:
        association.tally["refused"] += 1
        what = _described(message, context, association)
        log.warning("refused %s: %s (status %04X)", what, refused, refused.status)
        association.respond(message, refused.status, comment=str(refused))
        return
    try:
        association.respond(message, messages.SUCCESS)
    finally:
        reception.close()  # the sender need not wait for this


def _receive(association: Association, message: Message, context: Context, archive: Archive) -> Reception:
    """Take in the instance durably; its file is still open."""
    sop_class = message.command.text(messages.AFFECTED_SOP_CLASS_UID)
    sop_instance = message.command.text(messages.AFFECTED_SOP_INSTANCE_UID)
    if sop_class != context.abstract_syntax:
        raise _Refused(
            messages.SOP_CLASS_NOT_SUPPORTED, f"class of the presentation context is {context.abstract_syntax}"
        )
    if not context.requestor_is_scu:
        raise _Refused(messages.NOT_AUTHORISED, "the caller may not store")
    if not message.command.has_data_set:
        raise _Refused(messages.CANNOT_UNDERSTAND, "the request has no data set")
    if not is_uid(sop_instance):
        raise _Refused(messages.CANNOT_UNDERSTAND, "Affected SOP Instance UID is not a UID")
    try:
        reception = archive.receive(sop_class, sop_instance, context.transfer_syntax, association.calling)
        try:
            message.read_into(reception.room, reception.filled)
            reception.finish(lambda receipt, outcome: _note(association, context, receipt, outcome))
        except BaseException:
            reception.close()
            raise
    except AssociationEnded:
        raise
    except DatasetMismatch as error:
        raise _Refused(messages.DATA_SET_MISMATCH, str(error)) from error
    except HeaderError as error:
        raise _Refused(messages.CANNOT_UNDERSTAND, str(error)) from error
    except StorageError as error:
        raise _Refused(messages.OUT_OF_RESOURCES, str(error)) from error
    except Exception as error:  # the sender must learn that this one is not safe
        log.exception("storing failed")
        raise _Refused(messages.PROCESSING_FAILURE, f"internal error: {error}") from error
    return reception


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
