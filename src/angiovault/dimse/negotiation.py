"""Association negotiation (PS3.8 9.3.2 to 9.3.4, PS3.7 annex D): A-ASSOCIATE PDUs to plain values and back.

The encoding itself is pynetdicom's; what is accepted is decided in `acceptance`.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pynetdicom import pdu, pdu_primitives
from pynetdicom.presentation import PresentationContext

from angiovault import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from angiovault.dimse.wire import A_ASSOCIATE_RJ, ProtocolError

# pynetdicom comments every unusual UID of a peer; what matters of a proposal is in our own log line.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
MOST_CONTEXTS: Final = 128
"""Odd Presentation Context IDs from 1 to 255 (PS3.8 9.3.2.2)."""

ACCEPTED: Final = 0
USER_REJECTION: Final = 1
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

REJECTIONS: Final = {
    (1, 1, 2): "application context name not supported",
    (1, 1, 3): "calling AE title not recognised",
    (1, 1, 7): "called AE title not recognised",
    (1, 1, 1): "no reason given",
    (1, 2, 2): "protocol version not supported",
    (2, 3, 1): "temporary congestion",
    (2, 3, 2): "local limit exceeded",
}
"""(result, source, reason) of an A-ASSOCIATE-RJ in words (PS3.8 table 9-21)."""


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """One presentation context as the requestor proposes it."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """One presentation context after negotiation.

    Attributes
    ----------
    result : int
        0 accepted, 1 user rejection, 3 abstract syntax, 4 transfer syntaxes not supported.
    requestor_is_scu, requestor_is_scp : bool
        The roles that the requestor may play (PS3.7 D.3.3.4).
    """

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    result: int = ACCEPTED
    requestor_is_scu: bool = True
    requestor_is_scp: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an A-ASSOCIATE-RQ says."""

    called: str
    calling: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu: int
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    implementation: str = ""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an A-ASSOCIATE-AC says, seen by the requestor."""

    contexts: tuple[Context, ...]
    max_pdu: int
    implementation: str = ""


class Rejected(Exception):
    """The peer rejected the association; the text says why in words."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        words = REJECTIONS.get((result, source, reason), "unknown reason")
        kind = "for good" if result == 1 else "for now"
        super().__init__(f"association rejected {kind}: {words} ({result}/{source}/{reason})")
        self.code = (result, source, reason)


def decode_request(encoded: bytes) -> Proposal:
    """Decode an A-ASSOCIATE-RQ.

    Raises
    ------
    ProtocolError
        When its items do not fit one another.
    """
    request = pdu.A_ASSOCIATE_RQ()
    try:
        request.decode(encoded)
        information = request.user_information
        contexts = tuple(
            ProposedContext(
                item.context_id or 0,
                _uid(item.abstract_syntax),
                tuple(uid for uid in (_uid(syntax) for syntax in item.transfer_syntax) if uid),
            )
            for item in request.presentation_context
        )
        proposal = Proposal(
            called=str(request.called_ae_title).strip(" \0"),
            calling=str(request.calling_ae_title).strip(" \0"),
            application_context=_uid(request.application_context_name),
            contexts=contexts,
            max_pdu=(information.maximum_length or 0) if information else 0,
            roles={
                _uid(uid): (bool(item.scu_role), bool(item.scp_role))
                for uid, item in (information.role_selection.items() if information else ())
            },
            extended={
                _uid(item.uid): bytes(item.app_info or b"") for item in (information.ext_neg if information else ())
            },
            implementation=_implementation(information),
        )
    except Exception as error:  # pynetdicom raises whatever its parts do on malformed items
        raise ProtocolError(f"A-ASSOCIATE-RQ cannot be decoded: {type(error).__name__} {error}") from error
    identifiers = [context.context_id for context in contexts]
    if len(identifiers) > MOST_CONTEXTS:
        raise ProtocolError(f"{len(identifiers)} presentation contexts proposed, {MOST_CONTEXTS} are possible")
    if any(identifier % 2 == 0 for identifier in identifiers):
        raise ProtocolError("a presentation context has an even ID")
    if len(set(identifiers)) != len(identifiers):
        raise ProtocolError("two presentation contexts have the same ID")
    return proposal


def decode_answer(encoded: bytes, proposed: Iterable[ProposedContext]) -> Acceptance:
    """Decode the answer to our A-ASSOCIATE-RQ.

    Raises
    ------
    Rejected
        When it is an A-ASSOCIATE-RJ.
    ProtocolError
        When it is neither that nor a sound A-ASSOCIATE-AC.
    """
    if encoded[0] == A_ASSOCIATE_RJ and len(encoded) >= 10:
        raise Rejected(*encoded[7:10])
    accept = pdu.A_ASSOCIATE_AC()
    try:
        accept.decode(encoded)
        information = accept.user_information
        answers = {item.context_id: item for item in accept.presentation_context}
        roles = information.role_selection if information else {}
        contexts = []
        for context in proposed:
            answer = answers.get(context.context_id)
            if answer is None or answer.result != ACCEPTED:
                result = USER_REJECTION if answer is None or answer.result is None else answer.result
                contexts.append(Context(context.context_id, context.abstract_syntax, "", result))
                continue
            role = next((item for uid, item in roles.items() if _uid(uid) == context.abstract_syntax), None)
            contexts.append(
                Context(
                    context.context_id,
                    context.abstract_syntax,
                    _uid(answer.transfer_syntax),
                    ACCEPTED,
                    True if role is None else bool(role.scu_role),
                    False if role is None else bool(role.scp_role),
                )
            )
        max_pdu = (information.maximum_length or 0) if information else 0
        return Acceptance(tuple(contexts), max_pdu, _implementation(information))
    except Exception as error:  # see decode_request
        raise ProtocolError(f"A-ASSOCIATE-AC cannot be decoded: {type(error).__name__} {error}") from error


def encode_request(
    calling: str, called: str, contexts: Iterable[ProposedContext], max_pdu: int, scp_roles: Iterable[str] = ()
) -> bytes:
    """Encode an A-ASSOCIATE-RQ; for `scp_roles` the SCP role alone is proposed (PS3.7 D.3.3.4)."""
    primitive = _primitive(calling, called, max_pdu)
    definitions = []
    for context in contexts:
        definition = PresentationContext()
        definition.context_id = context.context_id
        definition.abstract_syntax = context.abstract_syntax
        definition.transfer_syntax = list(context.transfer_syntaxes)
        definitions.append(definition)
    primitive.presentation_context_definition_list = definitions
    for uid in scp_roles:
        primitive.user_information.append(_role(uid, False, True))
    request = pdu.A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    return request.encode()


def encode_accept(
    proposal: Proposal, contexts: Iterable[Context], extended: Mapping[str, bytes], max_pdu: int
) -> bytes:
    """Encode an A-ASSOCIATE-AC; roles are answered for the classes for which they were proposed."""
    primitive = _primitive(proposal.calling, proposal.called, max_pdu)
    results, roles = [], {}
    for context in contexts:
        result = PresentationContext()
        result.context_id = context.context_id
        result.abstract_syntax = context.abstract_syntax
        result.transfer_syntax = [context.transfer_syntax or "1.2.840.10008.1.2"]
        result.result = context.result
        results.append(result)
        if context.result == ACCEPTED and context.abstract_syntax in proposal.roles:
            roles[context.abstract_syntax] = (context.requestor_is_scu, context.requestor_is_scp)
    primitive.presentation_context_definition_results_list = results
    for uid, (scu, scp) in roles.items():
        primitive.user_information.append(_role(uid, scu, scp))
    for uid, information in extended.items():
        item = pdu_primitives.SOPClassExtendedNegotiation()
        item.sop_class_uid = uid
        item.service_class_application_information = information
        primitive.user_information.append(item)
    primitive.result = 0
    accept = pdu.A_ASSOCIATE_AC()
    accept.from_primitive(primitive)
    return accept.encode()


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return struct.pack(">BxLxBBB", A_ASSOCIATE_RJ, 4, result, source, reason)


def _primitive(calling: str, called: str, max_pdu: int) -> Any:
    primitive = pdu_primitives.A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title = calling
    primitive.called_ae_title = called
    maximum = pdu_primitives.MaximumLengthNotification()
    maximum.maximum_length_received = max_pdu
    implementation = pdu_primitives.ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = pdu_primitives.ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive.user_information = [maximum, implementation, version]
    return primitive


def _role(uid: str, scu: bool, scp: bool) -> Any:
    role = pdu_primitives.SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid = uid
    role.scu_role = scu
    role.scp_role = scp
    return role


def _uid(value: Any) -> str:
    return "" if value is None else str(value).strip(" \0")


def _implementation(information: Any) -> str:
    if information is None:
        return ""
    version = information.implementation_version_name or ""
    return f"{_uid(information.implementation_class_uid)} {version}".strip()
