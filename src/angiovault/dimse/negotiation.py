"""Association negotiation (PS3.8 9.3.2 to 9.3.4, PS3.7 annex D): A-ASSOCIATE PDUs to plain values and back.

What is accepted is decided in `acceptance`. Items of unknown types are passed over, as PS3.8 9.3.1 wants it, and so are
those the archive has no use for: asynchronous operations, common extended negotiation, user identity.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from angiovault import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from angiovault.dimse.endings import ProtocolError
from angiovault.dimse.wire import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

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

PROTOCOL_VERSION: Final = 1
_APPLICATION_CONTEXT_ITEM: Final = 0x10
_PROPOSED_CONTEXT_ITEM: Final = 0x20
_ANSWERED_CONTEXT_ITEM: Final = 0x21
_ABSTRACT_SYNTAX_ITEM: Final = 0x30
_TRANSFER_SYNTAX_ITEM: Final = 0x40
_USER_INFORMATION_ITEM: Final = 0x50
_MAXIMUM_LENGTH_ITEM: Final = 0x51
_IMPLEMENTATION_CLASS_ITEM: Final = 0x52
_ROLE_ITEM: Final = 0x54
_IMPLEMENTATION_VERSION_ITEM: Final = 0x55
_EXTENDED_ITEM: Final = 0x56

_FIXED: Final = struct.Struct(">BxLH2x16s16s32s")
_ITEM: Final = struct.Struct(">BxH")
_LENGTH: Final = struct.Struct(">H")
_NOT_AE: Final = re.compile(rb"[^ -~]")


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
    """What an A-ASSOCIATE-RQ says.

    Attributes
    ----------
    called, calling : str
        AE titles without padding; what is no printable ASCII in them shows as ``?``.
    roles : Mapping[str, tuple[bool, bool]]
        SOP class -> whether the requestor wants to be SCU, and SCP (PS3.7 D.3.3.4).
    extended : Mapping[str, bytes]
        SOP class -> service class application information (PS3.7 D.3.3.5).
    titles : bytes
        The 64 bytes of the AE titles and the reserved field, which the answer repeats (PS3.8 table 9-17).
    """

    called: str
    calling: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu: int
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    implementation: str = ""
    protocol_version: int = PROTOCOL_VERSION
    titles: bytes = bytes(64)


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
    version, called, calling, reserved = _fixed_part(encoded)
    application_context = ""
    contexts: list[ProposedContext] = []
    information = _Information()
    for kind, body in _items(encoded[_FIXED.size :], "A-ASSOCIATE-RQ"):
        if kind == _APPLICATION_CONTEXT_ITEM:
            application_context = _uid(body)
        elif kind == _PROPOSED_CONTEXT_ITEM:
            contexts.append(_proposed_context(body))
        elif kind == _USER_INFORMATION_ITEM:
            information.read(body)
    identifiers = [context.context_id for context in contexts]
    if any(identifier % 2 == 0 for identifier in identifiers):
        raise ProtocolError("a presentation context has an even ID")
    if len(set(identifiers)) != len(identifiers):
        raise ProtocolError("two presentation contexts have the same ID")
    return Proposal(
        called=_title(called),
        calling=_title(calling),
        application_context=application_context,
        contexts=tuple(contexts),
        max_pdu=information.max_pdu,
        roles=information.roles,
        extended=information.extended,
        implementation=information.implementation,
        protocol_version=version,
        titles=called + calling + reserved,
    )


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
    _fixed_part(encoded)
    answers: dict[int, tuple[int, str]] = {}
    information = _Information()
    for kind, body in _items(encoded[_FIXED.size :], "A-ASSOCIATE-AC"):
        if kind == _ANSWERED_CONTEXT_ITEM:
            _at_least(body, 4, "presentation context")
            syntaxes = [_uid(sub) for kind, sub in _items(body[4:], "context") if kind == _TRANSFER_SYNTAX_ITEM]
            answers[body[0]] = body[2], syntaxes[0] if syntaxes else ""
        elif kind == _USER_INFORMATION_ITEM:
            information.read(body)
    contexts = []
    for context in proposed:
        result, syntax = answers.get(context.context_id, (USER_REJECTION, ""))
        if result == ACCEPTED and syntax not in context.transfer_syntaxes:
            result = TRANSFER_SYNTAXES_NOT_SUPPORTED  # that is what accepting another one comes to
        scu, scp = information.roles.get(context.abstract_syntax, (True, False))
        contexts.append(
            Context(context.context_id, context.abstract_syntax, "" if result else syntax, result, scu, scp)
        )
    return Acceptance(tuple(contexts), information.max_pdu, information.implementation)


def encode_request(
    calling: str, called: str, contexts: Iterable[ProposedContext], max_pdu: int, scp_roles: Iterable[str] = ()
) -> bytes:
    """Encode an A-ASSOCIATE-RQ; for `scp_roles` the SCP role alone is proposed (PS3.7 D.3.3.4)."""
    items = []
    for context in contexts:
        subitems = [_item(_ABSTRACT_SYNTAX_ITEM, context.abstract_syntax.encode())]
        subitems += [_item(_TRANSFER_SYNTAX_ITEM, uid.encode()) for uid in context.transfer_syntaxes]
        items.append(_item(_PROPOSED_CONTEXT_ITEM, bytes([context.context_id, 0, 0, 0]) + b"".join(subitems)))
    items.append(_user_information(max_pdu, {uid: (False, True) for uid in scp_roles}, {}))
    titles = b"".join(title.encode("ascii", "replace")[:16].ljust(16) for title in (called, calling))
    return _associate(A_ASSOCIATE_RQ, titles + bytes(32), items)


def encode_accept(
    proposal: Proposal, contexts: Iterable[Context], extended: Mapping[str, bytes], max_pdu: int
) -> bytes:
    """Encode an A-ASSOCIATE-AC; roles are answered for the classes for which they were proposed."""
    items, roles = [], {}
    for context in contexts:
        # The syntax of a refused context says nothing, but has to be there (PS3.8 9.3.3.2).
        syntax = _item(_TRANSFER_SYNTAX_ITEM, (context.transfer_syntax or "1.2.840.10008.1.2").encode())
        items.append(_item(_ANSWERED_CONTEXT_ITEM, bytes([context.context_id, 0, context.result, 0]) + syntax))
        if context.result == ACCEPTED and context.abstract_syntax in proposal.roles:
            roles[context.abstract_syntax] = (context.requestor_is_scu, context.requestor_is_scp)
    items.append(_user_information(max_pdu, roles, extended))
    return _associate(A_ASSOCIATE_AC, proposal.titles, items)


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return struct.pack(">BxLxBBB", A_ASSOCIATE_RJ, 4, result, source, reason)


class _Information:
    """The user information item (PS3.7 D.3.3)."""

    def __init__(self) -> None:
        self.max_pdu = 0
        self.roles: dict[str, tuple[bool, bool]] = {}
        self.extended: dict[str, bytes] = {}
        self.implementation = ""

    def read(self, encoded: bytes) -> None:
        implementation_class = version = ""
        for kind, body in _items(encoded, "user information"):
            if kind == _MAXIMUM_LENGTH_ITEM:
                _at_least(body, 4, "maximum length")
                self.max_pdu = int.from_bytes(body[:4], "big")
            elif kind == _IMPLEMENTATION_CLASS_ITEM:
                implementation_class = _uid(body)
            elif kind == _IMPLEMENTATION_VERSION_ITEM:
                version = _title(body)
            elif kind == _ROLE_ITEM:
                uid, rest = _leading_uid(body, "role selection")
                _at_least(rest, 2, "role selection")
                self.roles[uid] = (rest[0] == 1, rest[1] == 1)
            elif kind == _EXTENDED_ITEM:
                uid, rest = _leading_uid(body, "extended negotiation")
                self.extended[uid] = rest
        self.implementation = f"{implementation_class} {version}".strip()


def _fixed_part(encoded: bytes) -> tuple[int, bytes, bytes, bytes]:
    if len(encoded) < _FIXED.size:
        raise ProtocolError(f"A-ASSOCIATE PDU of {len(encoded)} bytes is too short")
    kind, _, version, called, calling, reserved = _FIXED.unpack_from(encoded)
    if kind not in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
        raise ProtocolError(f"PDU of type {kind} is no A-ASSOCIATE", 2)
    return version, called, calling, reserved


def _proposed_context(body: bytes) -> ProposedContext:
    _at_least(body, 4, "presentation context")
    abstract_syntax, transfer_syntaxes = "", []
    for kind, sub in _items(body[4:], "presentation context"):
        if kind == _ABSTRACT_SYNTAX_ITEM:
            abstract_syntax = _uid(sub)
        elif kind == _TRANSFER_SYNTAX_ITEM:
            transfer_syntaxes.append(_uid(sub))
    return ProposedContext(body[0], abstract_syntax, tuple(filter(None, transfer_syntaxes)))


def _items(encoded: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each item."""
    offset = 0
    while offset < len(encoded):
        if len(encoded) - offset < _ITEM.size:
            raise ProtocolError(f"{where} ends within the head of an item")
        kind, length = _ITEM.unpack_from(encoded, offset)
        offset += _ITEM.size
        if length > len(encoded) - offset:
            raise ProtocolError(f"item {kind:02X}H is longer than the {where} that holds it")
        yield kind, encoded[offset : offset + length]
        offset += length


def _leading_uid(body: bytes, what: str) -> tuple[str, bytes]:
    _at_least(body, 2, what)
    (length,) = _LENGTH.unpack_from(body)
    _at_least(body, 2 + length, what)
    return _uid(body[2 : 2 + length]), body[2 + length :]


def _at_least(body: bytes, length: int, what: str) -> None:
    if len(body) < length:
        raise ProtocolError(f"{what} item of {len(body)} bytes is too short")


def _uid(encoded: bytes) -> str:
    return encoded.decode("latin-1").strip(" \0")


def _title(encoded: bytes) -> str:
    """Decode an AE title or a name; some peers leave what was there before behind a NUL."""
    return _NOT_AE.sub(b"?", encoded.partition(b"\0")[0]).decode("ascii").strip(" ")


def _associate(kind: int, titles: bytes, items: Iterable[bytes]) -> bytes:
    body = _item(_APPLICATION_CONTEXT_ITEM, APPLICATION_CONTEXT.encode()) + b"".join(items)
    fixed = _FIXED.pack(kind, _FIXED.size - 6 + len(body), PROTOCOL_VERSION, titles[:16], titles[16:32], titles[32:])
    return fixed + body


def _user_information(max_pdu: int, roles: Mapping[str, tuple[bool, bool]], extended: Mapping[str, bytes]) -> bytes:
    items = [
        _item(_MAXIMUM_LENGTH_ITEM, max_pdu.to_bytes(4, "big")),
        _item(_IMPLEMENTATION_CLASS_ITEM, IMPLEMENTATION_CLASS_UID.encode()),
        *(_item(_ROLE_ITEM, _with_uid(uid, bytes(pair))) for uid, pair in roles.items()),
        _item(_IMPLEMENTATION_VERSION_ITEM, IMPLEMENTATION_VERSION_NAME.encode()),
        *(_item(_EXTENDED_ITEM, _with_uid(uid, fields)) for uid, fields in extended.items()),
    ]
    return _item(_USER_INFORMATION_ITEM, b"".join(items))


def _with_uid(uid: str, rest: bytes) -> bytes:
    return _LENGTH.pack(len(uid)) + uid.encode() + rest


def _item(kind: int, body: bytes) -> bytes:
    return _ITEM.pack(kind, len(body)) + body
