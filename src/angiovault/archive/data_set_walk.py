"""Walking the elements of a stored object in its file, in any encoding, without holding its values (PS3.5 7).

The walk is a loop, not a recursion, checks every length against what is really there, and so is safe on hostile data.
"""

from __future__ import annotations

import string
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import BinaryIO, Final

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from angiovault.archive.conversion.converter import ConversionError

UNDEFINED: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
SAMPLES_PER_PIXEL: Final = 0x00280002
PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
PLANAR_CONFIGURATION: Final = 0x00280006
NUMBER_OF_FRAMES: Final = 0x00280008
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
BITS_ALLOCATED: Final = 0x00280100
BITS_STORED: Final = 0x00280101
PIXEL_REPRESENTATION: Final = 0x00280103
WAVEFORM_BITS_ALLOCATED: Final = 0x54001004
PIXEL_DATA: Final = 0x7FE00010

LONG_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
"""Value representations whose length field has 32 bits (PS3.5 7.1.2)."""
SHORT_VRS: Final = frozenset(
    {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI"}
    | {"UL", "US"}
)

_KEPT: Final = frozenset(
    {SAMPLES_PER_PIXEL, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION, NUMBER_OF_FRAMES, ROWS, COLUMNS}
    | {BITS_ALLOCATED, BITS_STORED, PIXEL_REPRESENTATION, WAVEFORM_BITS_ALLOCATED}
)
_LONGEST_KEPT: Final = 64
"""Bytes: the longest value of an LO, the kind of a private creator."""
_MOST_FRAGMENTS: Final = 1 << 22
_DEEPEST: Final = 50_000
"""Sequences and items open at once; real objects have a dozen."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is written: PS3.5 A.1 (implicit), A.2 (explicit) or A.3 (explicit, big endian)."""

    explicit: bool
    big_endian: bool = False


IMPLICIT: Final = Encoding(explicit=False)
EXPLICIT: Final = Encoding(explicit=True)
BIG_ENDIAN: Final = Encoding(explicit=True, big_endian=True)


@dataclass(slots=True)
class Level:
    """One data set: the object itself, or an item of a sequence in it."""

    start: int
    encoding: Encoding
    parent: Level | None = None
    creators: dict[int, str] = field(default_factory=dict)
    """Private creators (PS3.5 7.8.1) by (group << 8 | block)."""
    values: dict[int, bytes] = field(default_factory=dict)
    """The values, as they are in the file, of the attributes that say how pixel data and waveforms are encoded."""

    def number(self, tag: int) -> int | None:
        """Return the US value of an attribute of this level, None if it is not there or has no value."""
        value = self.values.get(tag, b"")
        return int.from_bytes(value[:2], "big" if self.encoding.big_endian else "little") if len(value) >= 2 else None


@dataclass(slots=True)
class Fragments:
    """The fragments of encapsulated pixel data without the Basic Offset Table (PS3.5 A.4): places in the file."""

    offsets: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("I"))


class Kind(Enum):
    """What a step of the walk has come to."""

    VALUE = auto()
    SEQUENCE = auto()
    SEQUENCE_END = auto()
    ITEM = auto()
    ITEM_END = auto()
    FRAGMENTS = auto()


@dataclass(slots=True)
class Step:
    """One step of the walk; `length` and `vr` are those in the file, the VR from the dictionary if it is implicit."""

    kind: Kind
    level: Level
    tag: int = 0
    vr: str = ""
    length: int = 0
    offset: int = 0
    fragments: Fragments | None = None


@dataclass(slots=True)
class _Open:
    """A data set or sequence that the walk is in: `end` is None if its length is undefined."""

    kind: Kind
    level: Level
    encoding: Encoding
    end: int | None
    limit: int


def tag_name(tag: int) -> str:
    """Return a tag as the standard writes it: (7FE0,0010)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def walk(file: BinaryIO, start: int, end: int, encoding: Encoding) -> Iterator[Step]:
    """Go through a data set, item by item and element by element, in the order of the file.

    Parameters
    ----------
    file
        The file; may be read and positioned elsewhere between two steps.
    start, end
        The data set's first byte and the byte after its last.
    encoding
        How the data set is encoded; items of a UN element of undefined length are implicit (PS3.5 6.2.2).

    Raises
    ------
    ConversionError
        If the data set is cut short or its structure is broken; the text names the element.
    """
    walker = _Walker(file)
    walker.stack.append(_Open(Kind.ITEM, Level(start, encoding), encoding, end, end))
    position = start
    while True:
        top = walker.stack[-1]
        if position == top.end:
            walker.stack.pop()
            if not walker.stack:
                return
            yield _closing(top)
        else:
            advance = walker.next_item if top.kind is Kind.SEQUENCE else walker.next
            step, position = advance(top, position)
            yield step


def _closing(what: _Open) -> Step:
    if what.kind is Kind.SEQUENCE:
        return Step(Kind.SEQUENCE_END, what.level)
    return Step(Kind.ITEM_END, what.level)


class _Walker:
    """Reads headers and keeps what is open around the walk's position."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.stack: list[_Open] = []

    def value(self, offset: int, length: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(length)

    def header(self, position: int, limit: int, encoding: Encoding) -> tuple[int, str, int, int]:
        """Return tag, VR ("" if the encoding has none), length and offset of the value (PS3.5 7.1)."""
        header = self.value(position, min(12, limit - position))
        order = ">" if encoding.big_endian else "<"
        if len(header) < 8:
            raise ConversionError(f"the data set is cut short: half an element's header at byte {position}")
        group, element, length = struct.unpack_from(f"{order}HHL", header)
        tag = group << 16 | element
        if group == 0xFFFE or not encoding.explicit:
            return tag, "", length, position + 8
        vr = header[4:6].decode("latin-1")
        if vr in SHORT_VRS:
            return tag, vr, struct.unpack_from(f"{order}H", header, 6)[0], position + 8
        if vr not in LONG_VRS and not set(vr) <= set(string.ascii_uppercase):
            raise ConversionError(f"{tag_name(tag)} at byte {position} has no value representation")
        if len(header) < 12:
            raise ConversionError(f"the data set is cut short in the header of {tag_name(tag)}")
        return tag, vr, struct.unpack_from(f"{order}L", header, 8)[0], position + 12

    def check(self, tag: int, length: int, offset: int, limit: int) -> None:
        """Raise ConversionError if a value of this length reaches over what encloses it."""
        if length > limit - offset:
            raise ConversionError(
                f"{tag_name(tag)} is cut short or lies: its length is {length}, {limit - offset} bytes are left"
            )

    def next_item(self, top: _Open, position: int) -> tuple[Step, int]:
        """Step to the next item of the sequence `top`, or out of it."""
        tag, _, length, offset = self.header(position, top.limit, top.encoding)
        if tag == SEQUENCE_END and top.end is None:
            self.stack.pop()
            return _closing(top), offset
        if tag != ITEM:
            raise ConversionError(f"{tag_name(tag)} at byte {position} is where an item of a sequence belongs")
        level = Level(offset, top.encoding, top.level)
        self.open(Kind.ITEM, level, top.encoding, tag, length, offset, top.limit)
        return Step(Kind.ITEM, level, tag, "", length, offset), offset

    def next(self, top: _Open, position: int) -> tuple[Step, int]:
        """Step to the next element of the data set `top`, or out of it."""
        tag, vr, length, offset = self.header(position, top.limit, top.encoding)
        if tag == ITEM_END and top.end is None:
            self.stack.pop()
            return _closing(top), offset
        if tag >> 16 == 0xFFFE:
            raise ConversionError(f"{tag_name(tag)} at byte {position} is where an element belongs")
        step = Step(Kind.VALUE, top.level, tag, vr or dictionary_vr(tag, top.level), length, offset)
        if self.is_sequence(step, top.limit):
            child = IMPLICIT if step.vr == "UN" else top.encoding
            step.kind = Kind.SEQUENCE
            self.open(Kind.SEQUENCE, top.level, child, tag, length, offset, top.limit)
            return step, offset
        if length == UNDEFINED:
            step.kind = Kind.FRAGMENTS
            step.fragments, position = self.fragments(step, top.limit)
            return step, position
        self.check(tag, length, offset, top.limit)
        self.keep(step)
        return step, offset + length

    def open(
        self, kind: Kind, level: Level, encoding: Encoding, tag: int, length: int, offset: int, limit: int
    ) -> None:
        """Enter a sequence or item."""
        if len(self.stack) > _DEEPEST:
            raise ConversionError(f"{tag_name(tag)} is nested more than {_DEEPEST} deep")
        if length == UNDEFINED:
            self.stack.append(_Open(kind, level, encoding, None, limit))
        else:
            self.check(tag, length, offset, limit)
            self.stack.append(_Open(kind, level, encoding, offset + length, offset + length))

    def is_sequence(self, step: Step, limit: int) -> bool:
        """Whether an element holds items; one that the dictionary takes for a sequence and is none becomes UN."""
        undefined = step.length == UNDEFINED
        if not step.level.encoding.explicit and undefined:
            if step.tag == PIXEL_DATA:
                raise ConversionError("encapsulated pixel data in an implicit data set, whose compression is unknown")
            step.vr = "SQ"
        if step.vr == "UN" and undefined and step.tag != PIXEL_DATA:
            return True
        if step.vr != "SQ":
            return False
        if step.level.encoding.explicit or undefined or not step.length:
            return True
        if self.value(step.offset, min(4, limit - step.offset)) != b"\xfe\xff\x00\xe0":
            step.vr = "UN"
        return step.vr == "SQ"

    def fragments(self, step: Step, limit: int) -> tuple[Fragments, int]:
        """Return the fragments of encapsulated pixel data and the offset after it (PS3.5 A.4)."""
        if step.vr not in ("OB", "OW", "UN"):
            raise ConversionError(f"{tag_name(step.tag)} {step.vr} has an undefined length")
        found, position, first = Fragments(), step.offset, True
        while True:
            tag, _, length, offset = self.header(position, limit, step.level.encoding)
            if tag == SEQUENCE_END:
                return found, offset
            if tag != ITEM or length == UNDEFINED:
                raise ConversionError(f"{tag_name(tag)} at byte {position} is where a fragment of pixel data belongs")
            self.check(tag, length, offset, limit)
            if not first:
                found.offsets.append(offset)
                found.lengths.append(length)
            if len(found.offsets) > _MOST_FRAGMENTS:
                raise ConversionError(f"{tag_name(step.tag)} has more than {_MOST_FRAGMENTS} fragments")
            position, first = offset + length, False

    def keep(self, step: Step) -> None:
        """Remember a value that other elements' meaning depends on."""
        group, element = step.tag >> 16, step.tag & 0xFFFF
        if step.tag in _KEPT:
            step.level.values[step.tag] = self.value(step.offset, min(step.length, _LONGEST_KEPT))
        elif group & 1 and 0x10 <= element <= 0xFF:
            creator = self.value(step.offset, min(step.length, _LONGEST_KEPT)).decode("latin-1").strip(" \0")
            step.level.creators[group << 8 | element] = creator


def dictionary_vr(tag: int, level: Level) -> str:
    """Return the VR of an element without one, ambiguous ("US or SS") as PS3.6 may have it; "UN" if not known."""
    group, element = tag >> 16, tag & 0xFFFF
    if not group & 1:
        return _standard_vr(tag)
    if 0x10 <= element <= 0xFF:
        return "LO"
    return _private_vr(tag, level.creators.get(group << 8 | element >> 8, ""))


@lru_cache(maxsize=4096)
def _standard_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


@lru_cache(maxsize=4096)
def _private_vr(tag: int, creator: str) -> str:
    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"
