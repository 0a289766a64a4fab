"""Who may do what: the answer to a proposed association (PS3.7 D.3, PS3.4 B.3, C.5).

What a caller may not do is refused as a presentation context, so that nothing is accepted and then fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from angiovault.config import Config
from angiovault.devices import Device, Operation, allowed
from angiovault.dimse import sop_classes
from angiovault.dimse.negotiation import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTED,
    APPLICATION_CONTEXT,
    PROTOCOL_VERSION,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    Context,
    Proposal,
    ProposedContext,
)
from angiovault.dimse.wire import SMALLEST_PEER_PDU
from angiovault.reasons import Reason

COMBINED_DATETIME: Final = 1
_MOST_SHOWN: Final = 8
_STORAGE_LEVEL: Final = bytes([2, 0, 3, 0, 0, 0])
"""Storage SCP: level 2 (full), bit preserving for signatures, no coercion (PS3.4 B.3.1, table B.3-2)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a proposal.

    Attributes
    ----------
    reject : tuple[int, int, int], optional
        (result, source, reason) of a rejection.
    why : Reason, optional
        The reason of the rejection for the log and the administrator.
    contexts : tuple[Context, ...]
        The answered presentation contexts.
    refused : tuple[Reason, ...]
        What was refused within an accepted association, and why.
    extended : Mapping[str, bytes]
        Extended negotiation answers.
    """

    reject: tuple[int, int, int] | None = None
    why: Reason | None = None
    contexts: tuple[Context, ...] = ()
    refused: tuple[Reason, ...] = ()
    extended: Mapping[str, bytes] = field(default_factory=dict)


def judge(proposal: Proposal, device: Device | None, config: Config) -> Verdict:
    """Decide about a proposed association.

    Parameters
    ----------
    proposal : Proposal
        What the peer asks for.
    device : Device, optional
        The configured device that the caller is; None for an unknown one.
    config : Config
        The settings in force.
    """
    if not proposal.protocol_version & PROTOCOL_VERSION:
        version = f"{proposal.protocol_version:#06x}"
        return Verdict((1, 2, 2), Reason.of("protocol-version", version=version))
    if proposal.application_context != APPLICATION_CONTEXT:
        return Verdict((1, 1, 2), Reason.of("application-context", uid=proposal.application_context[:64]))
    if config.check_called_ae_title and proposal.called != config.ae_title:
        return Verdict((1, 1, 7), Reason.of("called-ae-title", called=proposal.called, own=config.ae_title))
    operations = allowed(device, config.unknown_devices)
    if not operations:
        return Verdict((1, 1, 3), _nothing(device))
    if 0 < proposal.max_pdu < SMALLEST_PEER_PDU:
        return Verdict((1, 1, 1), Reason.of("max-pdu", length=proposal.max_pdu, least=SMALLEST_PEER_PDU))
    contexts, refused = [], []
    for proposed in proposal.contexts:
        context, why = _context(proposed, proposal, operations, device)
        contexts.append(context)
        if why is not None:
            refused.append(why)
    return Verdict(None, None, tuple(contexts), tuple(refused), _extended(proposal, contexts))


def _nothing(device: Device | None) -> Reason:
    return Reason.of("device-may-nothing", device=device.name) if device else Reason.of("not-a-device")


def _context(
    proposed: ProposedContext, proposal: Proposal, operations: frozenset[Operation], device: Device | None
) -> tuple[Context, Reason | None]:
    """Return the answer to one proposed context, and why it is refused, None when it is not."""
    uid = proposed.abstract_syntax
    scu, scp = proposal.roles.get(uid, (True, False))
    syntax = sop_classes.choose_for_messages(proposed.transfer_syntaxes)
    needed = _operation(uid)
    if needed is not None:
        scu, scp, permitted = True, False, needed in operations
    elif sop_classes.is_storage(uid):
        syntax = sop_classes.choose_for_storage(proposed.transfer_syntaxes)
        # In the SCP role the peer is sent its C-GET sub-operations in this context.
        needed = Operation.STORE if scu or not scp else Operation.GET
        scu, scp = scu and Operation.STORE in operations, scp and Operation.GET in operations
        permitted = scu or scp
    else:
        return _refuse(proposed, ABSTRACT_SYNTAX_NOT_SUPPORTED, "sop-class")
    if not permitted:
        if device:
            return _refuse(proposed, USER_REJECTION, "device-may-not", device=device.name, operation=str(needed))
        return _refuse(proposed, USER_REJECTION, "unknown-may-not", operation=str(needed))
    if not syntax:
        return _refuse(proposed, TRANSFER_SYNTAXES_NOT_SUPPORTED, "transfer-syntax", offered=_offer(proposed))
    return Context(proposed.context_id, uid, syntax, ACCEPTED, scu, scp), None


def _offer(proposed: ProposedContext) -> str:
    shown = [sop_classes.name(uid) for uid in proposed.transfer_syntaxes[:_MOST_SHOWN]]
    more = len(proposed.transfer_syntaxes) - len(shown)
    return ", ".join(shown + ([f"{more} more"] if more else [])) or "none"


def _refuse(proposed: ProposedContext, result: int, code: str, **values: str) -> tuple[Context, Reason]:
    why = Reason.of(code, sop_class=sop_classes.name(proposed.abstract_syntax), **values)
    return Context(proposed.context_id, proposed.abstract_syntax, "", result), why


def _operation(uid: str) -> Operation | None:
    """Return the operation a class of a service other than storage stands for."""
    if uid == sop_classes.VERIFICATION:
        return Operation.ECHO
    if uid == sop_classes.STORAGE_COMMITMENT_PUSH:
        return Operation.COMMIT
    for classes, operation in (
        (sop_classes.FIND, Operation.FIND),
        (sop_classes.MOVE, Operation.MOVE),
        (sop_classes.GET, Operation.GET),
    ):
        if uid in classes:
            return operation
    return None


def _extended(proposal: Proposal, contexts: list[Context]) -> dict[str, bytes]:
    """Answer extended negotiation truthfully, for the accepted classes that asked."""
    answers = {}
    for uid in {context.abstract_syntax for context in contexts if context.result == ACCEPTED}:
        asked = proposal.extended.get(uid)
        if not asked:
            continue
        if uid in sop_classes.FIND:
            # Relational queries yes, combined date and time yes, fuzzy names no, time zone no (PS3.4 table C.5-2).
            can = bytes([1, 1, 0, 0, 0])
            answers[uid] = bytes(a & b for a, b in zip(asked, can, strict=False))
        elif uid in sop_classes.MOVE or uid in sop_classes.GET:
            # Relational retrieval yes, enhanced multi-frame conversion no (PS3.4 table C.5-3).
            answers[uid] = bytes(a & b for a, b in zip(asked, bytes([1, 0, 0]), strict=False))
        elif sop_classes.is_storage(uid):
            answers[uid] = _STORAGE_LEVEL
    return answers
