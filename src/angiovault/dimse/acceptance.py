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
    why : str
        The rejection in words for the log and the administrator.
    contexts : tuple[Context, ...]
        The answered presentation contexts.
    refused : tuple[str, ...]
        What was refused within an accepted association, and why, in words.
    extended : Mapping[str, bytes]
        Extended negotiation answers.
    """

    reject: tuple[int, int, int] | None = None
    why: str = ""
    contexts: tuple[Context, ...] = ()
    refused: tuple[str, ...] = ()
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
        return Verdict((1, 2, 2), f"protocol version {proposal.protocol_version:#06x} is not version 1")
    if proposal.application_context != APPLICATION_CONTEXT:
        return Verdict((1, 1, 2), f"application context {proposal.application_context[:64]!r} is not DICOM's")
    if config.check_called_ae_title and proposal.called != config.ae_title:
        return Verdict((1, 1, 7), f"calls {proposal.called!r}, this archive is {config.ae_title!r}")
    operations = allowed(device, config.unknown_devices)
    if not operations:
        why = f"device {device.name!r} may do nothing" if device else "not a configured device"
        return Verdict((1, 1, 3), why)
    if 0 < proposal.max_pdu < SMALLEST_PEER_PDU:
        return Verdict((1, 1, 1), f"maximum PDU length {proposal.max_pdu} is less than {SMALLEST_PEER_PDU}")
    contexts, refused = [], []
    for proposed in proposal.contexts:
        context, why = _context(proposed, proposal, operations, device)
        contexts.append(context)
        if why:
            refused.append(f"{sop_classes.name(proposed.abstract_syntax)}: {why}")
    return Verdict(None, "", tuple(contexts), tuple(refused), _extended(proposal, contexts))


def _context(
    proposed: ProposedContext, proposal: Proposal, operations: frozenset[Operation], device: Device | None
) -> tuple[Context, str]:
    """Return the answer to one proposed context, and why it is refused, '' when it is not."""
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
        return _refuse(proposed, ABSTRACT_SYNTAX_NOT_SUPPORTED, "SOP class not supported")
    if not permitted:
        who = f"the device {device.name!r}" if device else "a caller that is no configured device"
        return _refuse(proposed, USER_REJECTION, f"{who} may not {needed}")
    if not syntax:
        why = f"no transfer syntax of those offered ({_offer(proposed)})"
        return _refuse(proposed, TRANSFER_SYNTAXES_NOT_SUPPORTED, why)
    return Context(proposed.context_id, uid, syntax, ACCEPTED, scu, scp), ""


def _offer(proposed: ProposedContext) -> str:
    shown = [sop_classes.name(uid) for uid in proposed.transfer_syntaxes[:_MOST_SHOWN]]
    more = len(proposed.transfer_syntaxes) - len(shown)
    return ", ".join(shown + ([f"{more} more"] if more else [])) or "none"


def _refuse(proposed: ProposedContext, result: int, why: str) -> tuple[Context, str]:
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
