"""Data elements as bytes (PS3.5 7.1): what the index keeps of a data set, what a query asks, what is answered."""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydicom.datadict import dictionary_VR

Elements = dict[int, tuple[str, bytes]]
"""Tag -> (VR, encoded value); the value of a sequence is its items in Explicit VR Little Endian."""

SPECIFIC_CHARACTER_SET: Final = 0x00080005

LONG_FORM: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_SHORT_FORM: Final = frozenset(
    (
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FD",
        "FL",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    )
)
_PADDED_BY_NUL: Final = frozenset(("UI", "OB", "UN"))
_LONGEST_SHORT_VALUE: Final = 0xFFFE

_ITEM, _ITEM_DELIMITER, _SEQUENCE_DELIMITER = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF

_VRS: Final = {vr.encode(): (vr, vr in LONG_FORM) for vr in LONG_FORM | _SHORT_FORM}
_SHORT_ELEMENT: Final = struct.Struct("<HH2sH")
_LONG_ELEMENT: Final = struct.Struct("<HH2sxxL")
_IMPLICIT_ELEMENT: Final = struct.Struct("<HHL")
_LONG_LENGTH: Final = struct.Struct("<L")

DEEPEST: Final = 16
"""Sequences within one another that are followed; no attribute of the standard needs half as many."""
MOST_ELEMENTS: Final = 10_000
"""Elements and items of one data set that are taken, about twice as many as the standard has attributes."""


class EncodingError(ValueError):
    """Bytes that are no data set, or one of absurd size; the text says why."""


@dataclass(frozen=True, slots=True)
class Element:
    """A parsed data element: VR and value, or the items of a sequence."""

    vr: str
    value: bytes
    items: tuple[Tree, ...] = ()


Tree = dict[int, Element]
"""Tag -> element of a parsed data set."""


def decode(encoded: bytes, wanted: Container[int] | None = None) -> Elements:
    """Decode Explicit VR Little Endian elements of defined length, as `encode` makes them; sequences stay bytes.

    With `wanted` the others are only stepped over.

    Raises
    ------
    EncodingError
        When lengths do not fit.
    """
    elements: Elements = {}
    offset, end = 0, len(encoded)
    read = _SHORT_ELEMENT.unpack_from
    try:
        while offset < end:
            group, element, vr_bytes, length = read(encoded, offset)
            vr, long = _VRS.get(vr_bytes) or (vr_bytes.decode("ascii"), False)
            offset += 8
            if long:
                (length,) = _LONG_LENGTH.unpack_from(encoded, offset)
                offset += 4
            stop = offset + length
            tag = group << 16 | element
            if wanted is None or tag in wanted:
                elements[tag] = (vr, encoded[offset:stop])
            offset = stop
    except (struct.error, UnicodeDecodeError) as error:
        raise EncodingError(f"no data element at byte {offset}") from error
    if offset != end:
        raise EncodingError("the last value ends early")
    return elements


def encode(elements: Mapping[int, tuple[str, bytes]], implicit: bool = False) -> bytes:
    """Encode elements in Explicit or Implicit VR Little Endian, padded to even length."""
    parts = []
    for tag, (vr, value) in sorted(elements.items()):
        if vr == "SQ" and implicit:
            value = encode_items(items(value), implicit)
        parts.append(encode_element(tag, vr, value, implicit))
    return b"".join(parts)


def encode_items(sequence: Iterable[Tree], implicit: bool = False) -> bytes:
    """Encode the items of a sequence with defined lengths."""
    parts = []
    for item in sequence:
        body = b"".join(
            encode_element(tag, element.vr, _value(element, implicit), implicit)
            for tag, element in sorted(item.items())
        )
        parts.append(struct.pack("<HHL", _ITEM >> 16, _ITEM & 0xFFFF, len(body)) + body)
    return b"".join(parts)


def _value(element: Element, implicit: bool) -> bytes:
    return encode_items(element.items, implicit) if element.vr == "SQ" else element.value


def encode_element(tag: int, vr: str, value: bytes, implicit: bool = False) -> bytes:
    """Encode an element in Explicit or Implicit VR Little Endian, padded to even length; sequences come encoded."""
    if len(value) % 2:
        value += b"\0" if vr in _PADDED_BY_NUL else b" "
    if implicit:
        return _IMPLICIT_ELEMENT.pack(tag >> 16, tag & 0xFFFF, len(value)) + value
    if vr not in LONG_FORM:
        value = value[:_LONGEST_SHORT_VALUE]
    return _before_value(tag, vr, len(value)) + value


@lru_cache(maxsize=4096)
def _before_value(tag: int, vr: str, length: int) -> bytes:
    """Return the beginning of an element of Explicit VR; most lengths are those of many elements."""
    form = _LONG_ELEMENT if vr in LONG_FORM else _SHORT_ELEMENT
    return form.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)


def parse(encoded: bytes, implicit: bool = False) -> Tree:
    """Parse a small data set with its sequences, in Explicit or Implicit VR Little Endian.

    Raises
    ------
    EncodingError
        When it is no data set, is nested deeper than `DEEPEST`, or has more than `MOST_ELEMENTS` elements and items.
    """
    return _Parser(encoded).data_set(len(encoded), implicit, 0)


def items(value: bytes) -> tuple[Tree, ...]:
    """Parse the items of a sequence value in Explicit VR Little Endian.

    Raises
    ------
    EncodingError
        As `parse`.
    """
    return _Parser(value).items(len(value), False, 0)


@lru_cache(maxsize=1024)
def dictionary_vr(tag: int) -> str:
    """Return the standard's VR of an attribute (PS3.6 6), the first where there are several, UN for unknown ones."""
    if tag & 0xFFFF == 0:
        return "UL"
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


class _Parser:
    """Goes through the bytes once; every length is checked against what holds it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._left = MOST_ELEMENTS

    def data_set(self, end: int, implicit: bool, depth: int, delimited: bool = False) -> Tree:
        tree: Tree = {}
        while self._at < end:
            tag = self._tag(end)
            if delimited and tag == _ITEM_DELIMITER:
                self._length(end)
                return tree
            self._count()
            tree[tag] = self._element(tag, end, implicit, depth)
        if delimited:
            raise EncodingError("an item without its end")
        return tree

    def items(self, end: int, implicit: bool, depth: int, delimited: bool = False) -> tuple[Tree, ...]:
        if depth >= DEEPEST:
            raise EncodingError(f"sequences nested deeper than {DEEPEST}")
        found: list[Tree] = []
        while self._at < end:
            tag, length = self._tag(end), self._length(end)
            if delimited and tag == _SEQUENCE_DELIMITER:
                return tuple(found)
            if tag != _ITEM:
                raise EncodingError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) where an item should be")
            self._count()
            undefined = length == _UNDEFINED
            stop = end if undefined else self._stop(length, end)
            found.append(self.data_set(stop, implicit, depth + 1, delimited=undefined))
        if delimited:
            raise EncodingError("a sequence without its end")
        return tuple(found)

    def _element(self, tag: int, end: int, implicit: bool, depth: int) -> Element:
        if implicit:
            vr, length = dictionary_vr(tag), self._length(end)
        else:
            vr = self._take(2, end).decode("latin-1")
            if vr in LONG_FORM:
                self._take(2, end)
                length = self._length(end)
            elif vr in _SHORT_FORM:
                length = int.from_bytes(self._take(2, end), "little")
            else:
                raise EncodingError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has no VR but {vr!a}")
        undefined = length == _UNDEFINED
        if vr == "UN" and (undefined or dictionary_vr(tag) == "SQ"):
            vr, implicit = "SQ", True  # PS3.5 6.2.2
        if vr != "SQ":
            if undefined:
                raise EncodingError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) of VR {vr} has an undefined length")
            return Element(vr, self._take(length, end))
        stop = end if undefined else self._stop(length, end)
        return Element("SQ", b"", self.items(stop, implicit, depth, delimited=undefined))

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise EncodingError(f"more than {MOST_ELEMENTS} elements and items")

    def _tag(self, end: int) -> int:
        group, element = struct.unpack("<HH", self._take(4, end))
        return int(group << 16 | element)

    def _length(self, end: int) -> int:
        return int.from_bytes(self._take(4, end), "little")

    def _stop(self, length: int, end: int) -> int:
        if length > end - self._at:
            raise EncodingError(f"a length of {length} bytes where {end - self._at} are left")
        return self._at + length

    def _take(self, length: int, end: int) -> bytes:
        stop = self._stop(length, end)
        taken = self._data[self._at : stop]
        self._at = stop
        return taken
