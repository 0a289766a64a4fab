"""C-FIND (PS3.4 annex C): which patients, studies, series, instances are there?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset

from angiovault.archive import answers, elements
from angiovault.archive.archive import Archive
from angiovault.archive.elements import Elements
from angiovault.archive.attributes import WANTED
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.matching import Key
from angiovault.archive.query import COMPUTED, LEVELS, Match, Query, find, supported
from angiovault.archive.store import StorageError
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.acceptance import COMBINED_DATETIME
from angiovault.dimse.association import Association
from angiovault.dimse.negotiation import Context
from angiovault.dimse.wire import AssociationEnded, Message

log = logging.getLogger(__name__)

LONGEST_IDENTIFIER: Final = 4 << 20
"""Most bytes of a query: room for a list of 60,000 UIDs."""

SPECIFIC_CHARACTER_SET: Final = 0x00080005
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
        When it cannot be decoded, or its level is missing, unknown or not one of the model.
    """
    encoded = message.data(LONGEST_IDENTIFIER)
    implicit = context.transfer_syntax == sop_classes.IMPLICIT_VR_LE
    try:
        dataset = read_dataset(BytesIO(encoded), is_implicit_VR=implicit, is_little_endian=True)
        label_bytes = _raw(dataset, SPECIFIC_CHARACTER_SET)
        keys = _keys(dataset, label_bytes or b"", 0)
        level = (_raw(dataset, QUERY_RETRIEVE_LEVEL) or b"").decode("latin-1").strip(" \0")
    except RecursionError as error:
        raise IdentifierError("the identifier is nested too deeply", messages.CANNOT_UNDERSTAND) from error
    except Exception as error:  # pydicom raises whatever its parts do on malformed bytes
        raise IdentifierError(f"the identifier cannot be decoded: {error}", messages.CANNOT_UNDERSTAND) from error
    if level not in LEVELS:
        raise IdentifierError(f"Query/Retrieve Level is {level!r}" if level else "Query/Retrieve Level is missing")
    if level not in LEVELS_OF[model]:
        raise IdentifierError(f"level {level} is not one of the {model} model")
    return Identifier(level, label_bytes, keys)


_DEEPEST: Final = 16


def _keys(dataset: Dataset, label: bytes, depth: int) -> dict[int, Key]:
    if depth > _DEEPEST:
        raise RecursionError
    keys: dict[int, Key] = {}
    for tag in dataset.keys():
        element = dataset.get_item(tag)
        number = int(tag)
        if element is None or (depth == 0 and number in _NOT_KEYS) or number & 0xFFFF == 0:
            continue
        vr = element.VR or _vr(number)
        if vr == "SQ" or (vr == "UN" and _vr(number) == "SQ"):
            items = tuple(_keys(item, label, depth + 1) for item in dataset[tag].value)
            keys[number] = Key("SQ", b"", label, items)
        else:
            keys[number] = Key(vr if vr != "UN" else _vr(number), _raw(dataset, number) or b"", label)
    return keys


def _raw(dataset: Dataset, tag: int) -> bytes | None:
    element = dataset.get_item(tag) if tag in dataset else None
    if isinstance(element, RawDataElement):
        return element.value or b""
    return None if element is None else str(element.value or "").encode("latin-1", "replace")


def _vr(tag: int) -> str:
    known = WANTED.get(tag) or COMPUTED.get(tag)
    return known[1] if known else "UN"


def answer(association: Association, message: Message, archive: Archive, ae_title: str) -> None:
    """Answer a C-FIND request with a response for each match."""
    context = association.context_of(message)
    try:
        identifier = read_identifier(message, context, sop_classes.FIND[context.abstract_syntax])
        count, status = _answer_matches(association, message, archive, ae_title, context, identifier)
    except IdentifierError as error:
        log.warning("refused a query of %s: %s", association, error)
        association.respond(message, error.status, comment=str(error))
        return
    except (IndexUnavailable, StorageError) as error:
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
    query = Query(identifier.level, identifier.keys, frozenset(identifier.keys), combined)
    all_supported = all(supported(tag, identifier.level) for tag in identifier.keys)
    pending = messages.PENDING if all_supported else messages.PENDING_WITH_UNSUPPORTED_KEYS
    setting = association.device.character_set if association.device else "auto"
    implicit = context.transfer_syntax == sop_classes.IMPLICIT_VR_LE
    count = 0
    for match in find(index, query):
        if count % _CHECK_CANCEL_EVERY == 0 and association.cancelled(message):
            return count, messages.CANCELLED
        try:
            encoded = encode_match(match, identifier, ae_title, setting, implicit)
        except Exception:  # one damaged row must not hide the others
            log.exception("an answer to %s cannot be encoded and is left out", association)
            continue
        association.respond(message, pending, encoded)
        count += 1
    return count, messages.SUCCESS


def encode_match(match: Match, identifier: Identifier, ae_title: str, character_set: str, implicit: bool) -> bytes:
    """Encode the identifier of one pending response (PS3.4 C.4.1.1.3.2).

    Supported keys without a value are answered empty, unsupported ones are left out.
    """
    label, values = answers.transcode(match.values, match.label, identifier.label, character_set)
    out: Elements = {tag: (_vr(tag), b"") for tag in identifier.keys if supported(tag, identifier.level)}
    out |= values
    if RETRIEVE_AE_TITLE in out:
        out[RETRIEVE_AE_TITLE] = ("AE", ae_title.encode("ascii", "replace"))
    if INSTANCE_AVAILABILITY in out:
        out[INSTANCE_AVAILABILITY] = ("CS", b"ONLINE")
    out[QUERY_RETRIEVE_LEVEL] = ("CS", identifier.level.encode())
    if label:
        out[SPECIFIC_CHARACTER_SET] = ("CS", label)
    return elements.encode(out, implicit)
