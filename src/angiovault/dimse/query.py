"""C-FIND (PS3.4 annex C): which patients, studies, series and instances there are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from angiovault.archive import elements
from angiovault.archive.archive import Archive
from angiovault.archive.attributes import WANTED
from angiovault.archive.elements import SPECIFIC_CHARACTER_SET, Element, Elements, EncodingError, Tree, dictionary_vr
from angiovault.archive.finding import answers
from angiovault.archive.finding.matching import Key
from angiovault.archive.finding.query import LEVELS, Match, Query, TooManyMatches, find, supported
from angiovault.archive.finding.rows import COMPUTED
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.acceptance import COMBINED_DATETIME
from angiovault.dimse.association import Association
from angiovault.dimse.endings import AssociationEnded
from angiovault.dimse.messages import Message
from angiovault.dimse.negotiation import Context

log = logging.getLogger(__name__)

LONGEST_IDENTIFIER: Final = 4 << 20
"""Most bytes of a query: room for a list of 60,000 UIDs."""
LONGEST_KEY: Final = 0xFFFE
"""Most bytes of a key that is no list of UIDs: no value that is kept is longer."""
MOST_VALUES: Final = 2000
"""Most values of a key that is no list of UIDs."""
MOST_PATTERNS: Final = 100
"""Most values with wildcards of one key: each of them is looked for by itself."""

TIMEZONE: Final = 0x00080201
QUERY_RETRIEVE_LEVEL: Final = 0x00080052
RETRIEVE_AE_TITLE: Final = 0x00080054
INSTANCE_AVAILABILITY: Final = 0x00080056
_NOT_KEYS: Final = frozenset((SPECIFIC_CHARACTER_SET, TIMEZONE, QUERY_RETRIEVE_LEVEL))
_CHECK_CANCEL_EVERY: Final = 20

LEVELS_OF: Final = {
    sop_classes.PATIENT_ROOT: ("PATIENT", "STUDY", "SERIES", "IMAGE"),
    sop_classes.STUDY_ROOT: ("STUDY", "SERIES", "IMAGE"),
    sop_classes.PATIENT_STUDY_ONLY: ("PATIENT", "STUDY"),
}
"""Information model -> its levels (PS3.4 C.6.1, C.6.2, C.6.3)."""


class IdentifierError(ValueError):
    """The identifier of a query or retrieval cannot be used; `status` is the one to answer."""

    def __init__(self, text: str, status: int = messages.DATA_SET_MISMATCH) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identifier:
    """A decoded identifier: level, character set label (None when absent) and keys by tag."""

    level: str
    label: bytes | None
    keys: Mapping[int, Key]


def read_identifier(message: Message, context: Context, model: str) -> Identifier:
    """Decode the identifier of a query or retrieval.

    Raises
    ------
    IdentifierError
        When it cannot be decoded, is too large, or its level is missing, unknown or not one of the model.
    """
    encoded = bytearray()
    for fragment in message.fragments():
        if len(encoded) <= LONGEST_IDENTIFIER:
            encoded += fragment
    if len(encoded) > LONGEST_IDENTIFIER:
        raise IdentifierError(
            f"the identifier is longer than {LONGEST_IDENTIFIER >> 20} MiB", messages.UNABLE_TO_PROCESS
        )
    try:
        tree = elements.parse(bytes(encoded), implicit=context.transfer_syntax == sop_classes.IMPLICIT_VR_LE)
        keys = _keys(tree, b"")
    except EncodingError as error:
        raise IdentifierError(f"the identifier cannot be decoded: {error}", messages.CANNOT_UNDERSTAND) from error
    level = _text(tree, QUERY_RETRIEVE_LEVEL).decode("latin-1")
    if level not in LEVELS:
        raise IdentifierError(f"Query/Retrieve Level is {level[:16]!a}" if level else "Query/Retrieve Level is missing")
    if level not in LEVELS_OF[model]:
        raise IdentifierError(f"level {level} is not one of the {model} model")
    label = _text(tree, SPECIFIC_CHARACTER_SET) if SPECIFIC_CHARACTER_SET in tree else None
    return Identifier(level, label, keys)


def _text(tree: Tree, tag: int) -> bytes:
    return tree[tag].value.strip(b" \0") if tag in tree else b""


def _keys(tree: Tree, label: bytes) -> dict[int, Key]:
    label = _text(tree, SPECIFIC_CHARACTER_SET) or label
    return {
        tag: _key(tag, element, label)
        for tag, element in tree.items()
        if tag not in _NOT_KEYS and tag & 0xFFFF != 0  # group lengths (PS3.5 7.2)
    }


def _key(tag: int, element: Element, label: bytes) -> Key:
    vr = _vr(tag)
    if element.vr == "SQ":
        if vr not in ("SQ", "UN"):
            raise EncodingError(f"{_named(tag)} is no sequence")
        return Key("SQ", b"", label, tuple(_keys(item, label) for item in element.items))
    if vr == "SQ" and element.value:
        raise EncodingError(f"{_named(tag)} is a sequence and has VR {element.vr}")
    if vr not in ("UI", "UN"):
        _refuse_excess(tag, element.value.replace(b"=", b"\\") if vr == "PN" else element.value)
    return Key(vr, element.value, label)


def _refuse_excess(tag: int, value: bytes) -> None:
    """Refuse a key that would keep the archive busy for long."""
    values = value.split(b"\\")
    patterns = sum(b"*" in part or b"?" in part for part in values)
    if len(value) > LONGEST_KEY or len(values) > MOST_VALUES or patterns > MOST_PATTERNS:
        size = f"{len(value)} bytes, {len(values)} values, {patterns} with wildcards"
        raise IdentifierError(f"{_named(tag)} is too much: {size}", messages.UNABLE_TO_PROCESS)


def _vr(tag: int) -> str:
    known = WANTED.get(tag) or COMPUTED.get(tag)
    return known[1] if known else dictionary_vr(tag)


def _named(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def answer(association: Association, message: Message, archive: Archive, ae_title: str) -> None:
    """Answer a C-FIND request with a response for each match."""
    context = association.context_of(message)
    try:
        identifier = read_identifier(message, context, sop_classes.FIND[context.abstract_syntax])
        count, status = _answer_matches(association, message, archive, ae_title, context, identifier)
    except IdentifierError as error:
        association.tally["refused"] += 1
        log.warning("refused a query of %s: %s", association, error)
        association.respond(message, error.status, comment=str(error))
        return
    except (IndexUnavailable, StorageError, TooManyMatches) as error:
        association.tally["refused"] += 1
        log.warning("cannot answer a query of %s: %s", association, error)
        association.respond(message, messages.OUT_OF_RESOURCES, comment=str(error))
        return
    except AssociationEnded:
        raise
    except Exception as error:
        log.exception("a query of %s failed", association)
        association.respond(message, messages.UNABLE_TO_PROCESS, comment=f"internal error: {error}")
        return
    association.tally["queries"] += 1
    association.tally["matches"] += count
    association.respond(message, status)


def _answer_matches(
    association: Association,
    message: Message,
    archive: Archive,
    ae_title: str,
    context: Context,
    identifier: Identifier,
) -> tuple[int, int]:
    """Send the pending responses; return their number and the final status."""
    index = archive.ready_index()
    flags = association.extended.get(context.abstract_syntax, b"")
    combined = len(flags) > COMBINED_DATETIME and flags[COMBINED_DATETIME] == 1
    constants: Elements = {
        RETRIEVE_AE_TITLE: ("AE", ae_title.encode("ascii", "replace")),
        INSTANCE_AVAILABILITY: ("CS", b"ONLINE"),
    }
    query = Query(identifier.level, identifier.keys, combined, constants)
    empty: Elements = {tag: (_vr(tag), b"") for tag in identifier.keys if supported(tag, identifier.level)}
    all_supported = len(empty) == len(identifier.keys)
    always = empty | {QUERY_RETRIEVE_LEVEL: ("CS", identifier.level.encode())}
    pending = messages.PENDING if all_supported else messages.PENDING_WITH_UNSUPPORTED_KEYS
    setting = association.device.character_set if association.device else "auto"
    implicit = context.transfer_syntax == sop_classes.IMPLICIT_VR_LE
    respond = association.pending_responses(message, pending)
    count = 0
    for matches in find(index, query):
        if association.cancelled(message):  # also while much is looked through and little found
            return count, messages.CANCELLED
        for match in matches:
            try:
                encoded = encode_match(match, identifier, always, setting, implicit)
            except Exception:  # one damaged row must not hide the others
                log.exception("an answer to %s cannot be encoded and is left out", association)
                continue
            respond(encoded)
            count += 1
            if count % _CHECK_CANCEL_EVERY == 0 and association.cancelled(message):
                return count, messages.CANCELLED
        association.wire.flush()
    return count, messages.SUCCESS


def encode_match(match: Match, identifier: Identifier, always: Elements, character_set: str, implicit: bool) -> bytes:
    """Encode the identifier of one pending response (PS3.4 C.4.1.1.3.2).

    `always` has what is in every answer: the level, and supported keys, empty, as they are answered without a value;
    unsupported ones are left out.
    """
    label, values = answers.transcode(match.values, match.label, identifier.label, character_set)
    out = always | values
    if label:
        out[SPECIFIC_CHARACTER_SET] = ("CS", label)
    return elements.encode(out, implicit)
