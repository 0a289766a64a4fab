"""Writing a data set in another encoding (PS3.5 7, 8): every value byte for byte, its header and its pixels anew.

What changes, and nothing else: headers; the byte order of Big Endian; the padding of odd lengths; encapsulated pixel
data, which is decoded, and the attributes that must say so; and lengths of encoded groups (gggg,0000), (0008,0001)
and offset tables (7FE0,0001), (7FE0,0002), which would be wrong afterwards, are left out.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom.uid import UID

from angiovault.archive.conversion.converter import ENCAPSULATED, ConversionError
from angiovault.archive.conversion.pixel_frames import Image, native_frames, read_image
from angiovault.archive.data_set_walk import (
    BITS_ALLOCATED,
    IMPLICIT,
    ITEM,
    ITEM_END,
    LONG_VRS,
    PHOTOMETRIC_INTERPRETATION,
    PIXEL_DATA,
    PIXEL_REPRESENTATION,
    PLANAR_CONFIGURATION,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
    WAVEFORM_BITS_ALLOCATED,
    Encoding,
    Fragments,
    Kind,
    Level,
    Step,
    tag_name,
    walk,
)

_LENGTH_TO_END: Final = 0x00080001
_EXTENDED_OFFSET_TABLES: Final = (0x7FE00001, 0x7FE00002)
_CHANGED: Final = {PHOTOMETRIC_INTERPRETATION: "CS", PLANAR_CONFIGURATION: "US"}
_SPACE_PADDED: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}
)
_UNITS: Final = (
    dict.fromkeys(("AT", "OW", "SS", "US"), 2)
    | dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4)
    | dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8)
)
"""Bytes of the numbers in a value, the unit of byte order (PS3.5 7.3)."""
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set in a file: from byte `start` to before byte `end`, not deflated."""

    file: BinaryIO
    start: int
    end: int
    encoding: Encoding
    syntax: str
    """Transfer syntax UID it was stored in."""

    def walk(self) -> Iterator[Step]:
        """Go through its elements, see `data_set_walk.walk`."""
        return walk(self.file, self.start, self.end, self.encoding)


def syntax_name(uid: str) -> str:
    """Return a transfer syntax as a person would look for it: name and UID."""
    return f"{UID(uid).name} ({uid})" if UID(uid).name != uid else uid


def survey(data_set: DataSet) -> dict[int, Image]:
    """Read through a data set before anything is written.

    Returns
    -------
    dict of int to Image
        The encapsulated images in it, by the start of the level (data set or item) that holds them.

    Raises
    ------
    ConversionError
        If the data set is broken, or an image in it is not what the attributes say.
    """
    found: dict[int, tuple[Level, Fragments]] = {}
    name = syntax_name(data_set.syntax)
    for step in data_set.walk():
        if step.fragments:
            if step.tag != PIXEL_DATA or data_set.syntax not in ENCAPSULATED:
                raise ConversionError(f"{tag_name(step.tag)} is encapsulated, which {name} does not have")
            if step.level.start in found:
                raise ConversionError(f"{tag_name(step.tag)} is there twice")
            found[step.level.start] = step.level, step.fragments
        elif step.tag == PIXEL_DATA and step.level.parent is None and step.length and data_set.syntax in ENCAPSULATED:
            raise ConversionError(f"its pixel data is not encapsulated, as {name} must have it")
    return {start: read_image(data_set.file, level, data_set.syntax, parts) for start, (level, parts) in found.items()}


def write(data_set: DataSet, images: dict[int, Image], target: Encoding, result: BinaryIO) -> None:
    """Write a data set that was surveyed, with its images decoded, as `target` at the position of `result`.

    Raises
    ------
    ConversionError
        If pixel data does not decode, or a value cannot be written.
    """
    writer = _Writer(data_set, images, target, result)
    for step in data_set.walk():
        writer.take(step)
    writer.insert_missing(data_set.start, UNDEFINED, target)


class _Writer:
    """Takes the steps of a walk and writes what each becomes."""

    def __init__(self, data_set: DataSet, images: dict[int, Image], target: Encoding, result: BinaryIO) -> None:
        self.source = data_set.file
        self.images = images
        self.result = result
        self.targets = [target]
        """The encoding of the open data set or sequence, innermost last: what is inside UN stays implicit."""
        self.lengths: list[int | None] = []
        """Where the length of each open sequence and item is to be filled in, None if it is undefined."""
        self.pending = {start: image.changes() for start, image in images.items()}
        """Attributes of each level that get another value, until they are written."""

    def take(self, step: Step) -> None:
        target = self.targets[-1]
        match step.kind:
            case Kind.VALUE | Kind.SEQUENCE | Kind.FRAGMENTS:
                self.element(step, target)
            case Kind.ITEM:
                self.open(_header(ITEM, "", step.length, IMPLICIT), step.length, target)
            case Kind.ITEM_END:
                self.insert_missing(step.level.start, UNDEFINED, target)
                self.close(ITEM_END)
            case Kind.SEQUENCE_END:
                self.close(SEQUENCE_END)

    def element(self, step: Step, target: Encoding) -> None:
        self.insert_missing(step.level.start, step.tag, target)
        if step.kind is Kind.SEQUENCE:
            child = IMPLICIT if step.vr == "UN" else target
            self.open(_header(step.tag, step.vr, step.length, target), step.length, child)
        elif step.fragments:
            self.pixels(self.images[step.level.start], target)
        elif self.obsolete(step):
            return
        elif (value := self.pending.get(step.level.start, {}).pop(step.tag, None)) is not None:
            self.attribute(step.tag, value, target)
        else:
            self.value(step, target)

    def obsolete(self, step: Step) -> bool:
        """Whether an element tells of the encoding that is given up."""
        if step.tag in _EXTENDED_OFFSET_TABLES:
            return step.level.start in self.images
        return step.tag & 0xFFFF == 0 or step.tag == _LENGTH_TO_END

    def insert_missing(self, start: int, before: int, target: Encoding) -> None:
        """Write the changed attributes of a level that it does not have itself and whose place is reached."""
        changes = self.pending.get(start, {})
        for tag in sorted(tag for tag in changes if tag < before):
            self.attribute(tag, changes.pop(tag), target)

    def attribute(self, tag: int, value: bytes, target: Encoding) -> None:
        self.result.write(_header(tag, _CHANGED[tag], len(value), target) + value)

    def open(self, header: bytes, length: int, child: Encoding) -> None:
        self.result.write(header)
        self.lengths.append(None if length == UNDEFINED else self.result.tell())
        self.targets.append(child)

    def close(self, delimiter: int) -> None:
        start = self.lengths.pop()
        self.targets.pop()
        if start is None:
            self.result.write(_header(delimiter, "", 0, IMPLICIT))
            return
        end = self.result.tell()
        if end - start >= UNDEFINED:
            raise ConversionError("a sequence becomes longer than 4 GiB")
        self.result.seek(start - 4)
        self.result.write(struct.pack("<L", end - start))
        self.result.seek(end)

    def value(self, step: Step, target: Encoding) -> None:
        """Copy a value, in little endian and padded to an even length (PS3.5 7.1.1)."""
        encoding, vr = step.level.encoding, step.vr
        if not encoding.explicit and target.explicit:
            vr = _explicit_vr(step)
        length = step.length + step.length % 2
        if vr in SHORT_VRS and length > 0xFFFF and target.explicit:
            vr = "UN"  # PS3.5 6.2.2: what does not fit the 16-bit length of its VR
        if length >= UNDEFINED:
            raise ConversionError(f"{tag_name(step.tag)} is too long to be padded")
        self.result.write(_header(step.tag, vr, length, target))
        unit = _UNITS.get(vr, 1) if encoding.big_endian else 1
        if step.length % unit:
            raise ConversionError(f"{tag_name(step.tag)} {vr} has {step.length} bytes, no whole number of values")
        for offset in range(0, step.length, _PIECE):
            self.source.seek(step.offset + offset)
            piece = self.source.read(min(_PIECE, step.length - offset))
            self.result.write(_swapped(piece, unit))
        if step.length % 2:
            self.result.write(b" " if vr in _SPACE_PADDED else b"\0")

    def pixels(self, image: Image, target: Encoding) -> None:
        """Write encapsulated pixel data as native: OB up to 8 bits allocated, OW above (PS3.5 A.2)."""
        vr = "OB" if image.allocated <= 8 else "OW"
        self.result.write(_header(PIXEL_DATA, vr, image.length + image.length % 2, target))
        start = self.result.tell()
        for frame in native_frames(image, self.source):
            self.result.write(frame)
        written = self.result.tell() - start
        if written != image.length:
            raise ConversionError(f"the pixel data decodes to {written} bytes, its attributes say {image.length}")
        self.result.write(bytes(image.length % 2))


def _header(tag: int, vr: str, length: int, target: Encoding) -> bytes:
    group, element = tag >> 16, tag & 0xFFFF
    if not target.explicit or not vr:
        return struct.pack("<HHL", group, element, length)
    if vr in SHORT_VRS:
        return struct.pack("<HH2sH", group, element, vr.encode("ascii"), length)
    return struct.pack("<HH2sxxL", group, element, vr.encode("ascii"), length)


def _explicit_vr(step: Step) -> str:
    """Return the VR of a value from an implicit data set, where the dictionary alone does not decide it (PS3.5 A.2)."""
    if step.tag == PIXEL_DATA:
        return "OB" if 1 <= (step.level.number(BITS_ALLOCATED) or 16) <= 8 else "OW"
    vr = step.vr
    if vr == "US or SS":
        vr = "SS" if _inherited(step.level, PIXEL_REPRESENTATION) == 1 else "US"
    elif vr == "OB or OW":
        vr = "OB" if step.level.number(WAVEFORM_BITS_ALLOCATED) == 8 else "OW"
    elif vr.endswith(" or OW"):
        vr = "OW"
    if vr not in SHORT_VRS and vr not in LONG_VRS:
        return "UN"
    return "UN" if step.length % _UNITS.get(vr, 1) else vr


def _inherited(level: Level, tag: int) -> int | None:
    """Return an attribute of the nearest enclosing data set that has it."""
    at: Level | None = level
    while at:
        if (number := at.number(tag)) is not None:
            return number
        at = at.parent
    return None


def _swapped(piece: bytes, unit: int) -> bytes:
    if unit == 1:
        return piece
    numbers = array({2: "H", 4: "I", 8: "Q"}[unit], piece)
    numbers.byteswap()
    return numbers.tobytes()
