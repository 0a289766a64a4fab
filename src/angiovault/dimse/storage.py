"""C-STORE (PS3.4 annex B): an instance comes in.

The data set goes from the wire to the disk as it arrives; success is answered only when it is durable and findable.
"""

from __future__ import annotations

import logging

from angiovault.archive.archive import Archive, DatasetMismatch, Receipt
from angiovault.archive.header import HeaderError
from angiovault.archive.store import StorageError
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.wire import AssociationEnded, Message

log = logging.getLogger(__name__)

_LONGEST_UID = 64


def answer(association: Association, message: Message, archive: Archive) -> None:
    """Take in the instance of a C-STORE request and answer."""
    status, comment = _store(association, message, archive)
    message.drain()
    if status != messages.SUCCESS:
        association.tally["refused"] += 1
        log.warning(
            "refused %s of class %s from %s with status %04X: %s",
            message.command.text(messages.AFFECTED_SOP_INSTANCE_UID),
            sop_classes.name(message.command.text(messages.AFFECTED_SOP_CLASS_UID)),
            association,
            status,
            comment,
        )
    association.respond(message, status, comment=comment)


def _store(association: Association, message: Message, archive: Archive) -> tuple[int, str]:
    context = association.context_of(message)
    sop_class = message.command.text(messages.AFFECTED_SOP_CLASS_UID)
    sop_instance = message.command.text(messages.AFFECTED_SOP_INSTANCE_UID)
    if sop_class != context.abstract_syntax:
        return messages.SOP_CLASS_NOT_SUPPORTED, f"class is not that of the presentation context, {context.abstract_syntax}"
    if not context.requestor_is_scu:
        return messages.NOT_AUTHORISED, "the caller may not store"
    if not message.command.has_data_set:
        return messages.CANNOT_UNDERSTAND, "the request has no data set"
    if not _is_uid(sop_instance):
        return messages.CANNOT_UNDERSTAND, "Affected SOP Instance UID is not a UID"
    try:
        with archive.receive(sop_class, sop_instance, context.transfer_syntax, association.calling) as reception:
            for view in message.fragments():
                reception.write(view)
            receipt = reception.finish()
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
    association.tally[receipt.outcome] += 1
    association.tally["bytes"] += receipt.size
    _note(association, receipt)
    return messages.SUCCESS, ""


def _note(association: Association, receipt: Receipt) -> None:
    if receipt.outcome == "conflict":
        log.warning(
            "conflict: %s came from %s with other bytes than before; both are kept, the first stays current (%s)",
            receipt.header.sop_instance_uid,
            association,
            receipt.place,
        )
    if not receipt.header.complete:
        log.warning("%s from %s is kept but incomplete: %s", receipt.place, association, receipt.header.problem)


def _is_uid(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_UID and text.isascii() and text.replace(".", "").isdigit()
