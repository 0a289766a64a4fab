"""The head of a data set: its identifying and indexed attributes, read while the bytes arrive (PS3.5 7).

The data set is walked through once, in pieces of any size, without recursion and in bounded memory: only wanted values
are kept, everything else is stepped over. What cannot be understood behind the identifying head is no reason to refuse
an instance; it is kept as received and marked as incomplete.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from array import array
from collections.abc import Set
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final

from pydicom.datadict import dictionary_description, dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_sequence
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from angiovault.archive import elements as flat
from angiovault.archive.attributes import WANTED
from angiovault.archive.walk import IDENTIFYING, LONG_VRS, SHORT_VRS, UNDEFINED, Walk, named

MOST_INFLATED: Final = 64 << 20
"""Bytes of a deflated data set that are looked at: a small stream can inflate to a thousand times its size."""

# PS3.5 9.1, but tolerant of leading zeros and of empty components, which devices do send.
_UID: Final = re.compile(r"[0-9][0-9.]{0,63}")
_INTEGER: Final = re.compile(r" *([+-]?[0-9]{1,10}) *")

_IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
_EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
# Explicit VR Little Endian, plain or with encapsulated pixel data (PS3.5 A.2, A.4); not the JPIP referenced ones.
_EXPLICIT_LITTLE: Final = re.compile(
    r"1\.2\.840\.10008\.1\.2\.(1|1\.98|4\.(?!(94|95|204|205)$)[0-9]{2,3}(\.1)?|5|8\.1)"
)

_WIDTHS: Final = dict.fromkeys(("AT", "OW", "SS", "US"), "H") | dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), "I")
_WIDTHS.update(dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), "Q"))

_INFLATING_STEP: Final = 64 << 10
_CHUNK: Final = 1 << 16


def is_uid(text: str) -> bool:
    """Return whether a text is a UID (PS3.5 9.1); leading zeros and empty components, which devices do send, pass."""
    return bool(_UID.fullmatch(text))


class HeaderError(ValueError):
    """The identifying head of a data set cannot be read."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the index and the layout need to know of one data set.

    Attributes
    ----------
    transfer_syntax : str
        How the data set is encoded.
    elements : dict[int, bytes]
        Tag -> value as received, padding included, of the `WANTED` elements at the top level. The value of a sequence
        is its items, without the delimiter of an undefined length.
    complete : bool
        False if the last element is short, or something could not be read.
    problem : str
        Why it is not complete.
    unknown_vr : frozenset[int]
        Captured elements that came with VR UN, whose values are Implicit VR Little Endian whatever the transfer syntax
        (PS3.5 6.2.2).
    """

    transfer_syntax: str
    elements: dict[int, bytes]
    complete: bool
    problem: str
    unknown_vr: frozenset[int] = frozenset()

    def uid(self, tag: int) -> str:
        """Return a UID without its padding, empty if there is none."""
        return self.elements.get(tag, b"").decode("latin-1").rstrip(" \0")

    def text(self, tag: int) -> str:
        """Return a value as text of one byte per character, for code strings, dates and numbers; '' if absent."""
        return self.elements.get(tag, b"").decode("latin-1").strip(" \0")

    def integer(self, tag: int) -> int | None:
        """Return the first value of a US or IS element; None if there is none, or none within 32 bits (PS3.5 6.2)."""
        if WANTED.get(tag, ("", ""))[1] == "US":
            value = self._little_endian(tag)
            return int.from_bytes(value[:2], "little") if len(value) >= 2 else None
        match = _INTEGER.fullmatch(self.text(tag).split("\\")[0])
        number = int(match[1]) if match else None
        return number if number is not None and -(2**31) <= number < 2**31 else None

    @property
    def sop_class_uid(self) -> str:
        """(0008,0016)."""
        return self.uid(IDENTIFYING[0])

    @property
    def sop_instance_uid(self) -> str:
        """(0008,0018)."""
        return self.uid(IDENTIFYING[1])

    @property
    def study_instance_uid(self) -> str:
        """(0020,000D)."""
        return self.uid(IDENTIFYING[2])

    @property
    def series_instance_uid(self) -> str:
        """(0020,000E)."""
        return self.uid(IDENTIFYING[3])

    def encoded(self, tags: Set[int]) -> bytes:
        """Encode captured elements as Explicit VR Little Endian, in tag order, without unreadable sequences.

        Text keeps its bytes and character set; values of odd length are padded.
        """
        parts = []
        for tag in sorted(self.elements.keys() & tags):
            vr = WANTED[tag][1]
            try:
                value = self._items(tag) if vr == "SQ" else self._little_endian(tag)
            # What pydicom raises on bytes that are no sequence, or on one that is nested too deep for it.
            except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError, OSError, struct.error):
                continue
            parts.append(flat.encode_element(tag, vr, value))
        return b"".join(parts)

    def _little_endian(self, tag: int) -> bytes:
        value = self.elements.get(tag, b"")
        if self.transfer_syntax != _EXPLICIT_BIG or tag in self.unknown_vr:
            return value
        return _swapped(value, WANTED[tag][1])

    def _items(self, tag: int) -> bytes:
        implicit = self.transfer_syntax == _IMPLICIT_LITTLE or tag in self.unknown_vr
        return _explicit_items(self.elements[tag], implicit, implicit or self.transfer_syntax != _EXPLICIT_BIG)


class DatasetScanner:
    """Reads the header of one data set (without file meta information) from its bytes as they arrive.

    Parameters
    ----------
    transfer_syntax
        UID of the data set's encoding.

    Raises
    ------
    ValueError
        If the transfer syntax is unknown or not one of a stored data set.
    """

    def __init__(self, transfer_syntax: str) -> None:
        known = transfer_syntax in (_IMPLICIT_LITTLE, _EXPLICIT_BIG, _DEFLATED)
        if not known and not _EXPLICIT_LITTLE.fullmatch(transfer_syntax):
            raise ValueError(f"transfer syntax {transfer_syntax!r} is unknown or not supported")
        self._transfer_syntax = transfer_syntax
        self._walk = Walk(transfer_syntax == _IMPLICIT_LITTLE, transfer_syntax == _EXPLICIT_BIG)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax == _DEFLATED else None
        self._fed = False
        self._inflated = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes; nothing in them is an error before `finish`."""
        self._fed = self._fed or len(data) > 0
        if self._inflater is None:
            self._walk.feed(memoryview(data))
        else:
            self._inflate(self._inflater, data)

    @property
    def skippable(self) -> int:
        """How many of the bytes that come next belong to a value nobody needs, such as pixel data; see `skip`."""
        return 0 if self._inflater is not None else self._walk.skippable

    def skip(self, count: int) -> None:
        """Take note that the next `count` bytes, at most `skippable`, are there without reading them."""
        self._walk.skip(count)

    def finish(self) -> Header:
        """Return the header when all bytes have been fed.

        Raises
        ------
        HeaderError
            If SOP Class, SOP Instance, Study Instance or Series Instance UID is missing, empty or no UID.
        """
        walk, problem = self._walk, self._ending()
        unknown_vr = frozenset(walk.unknown_vr & walk.elements.keys())
        header = Header(self._transfer_syntax, walk.elements, not problem, problem, unknown_vr)
        if not walk.opening:
            raise HeaderError(f"nothing of the data set can be read: {problem}" if problem else "the data set is empty")
        for tag in IDENTIFYING:
            if not is_uid(header.uid(tag)):
                fault = self._fault(header, tag)
                raise HeaderError("; ".join(filter(None, (f"{_described(tag)} {fault}", problem, self._suspicion()))))
        return header

    def _fault(self, header: Header, tag: int) -> str:
        """Say what is wrong with what is no identifying UID."""
        if tag in self._walk.passed_over:
            return self._walk.passed_over[tag]
        if tag not in header.elements:
            beyond = self._inflated >= MOST_INFLATED
            return f"is not within the first {MOST_INFLATED >> 20} MiB, inflated" if beyond else "is missing"
        uid = header.uid(tag)
        if not uid:
            return "is empty"
        if len(uid) > 64:
            return f"is no UID: {len(uid)} characters, more than 64"
        return f"is no UID: {uid!a}"

    def _suspicion(self) -> str:
        """Name the usual reason why nothing can be read: the other VR encoding than the one declared."""
        opening = self._walk.opening
        explicit = opening[4:6] in LONG_VRS | SHORT_VRS
        if explicit and self._transfer_syntax == _IMPLICIT_LITTLE:
            return "it begins like Explicit VR although its transfer syntax is Implicit VR"
        implicit = not explicit and opening[:2] in (b"\x02\x00", b"\x08\x00") and opening[6:8] == b"\0\0"
        if implicit and self._transfer_syntax != _IMPLICIT_LITTLE:
            return "it begins like Implicit VR although its transfer syntax is Explicit VR"
        return ""

    def _inflate(self, inflater: zlib._Decompress, data: bytes | memoryview) -> None:
        while not (inflater.eof or self._walk.problem or self._inflated >= MOST_INFLATED):
            try:
                piece = inflater.decompress(data, _INFLATING_STEP)
            except zlib.error as error:
                self._walk.problem = f"the deflated data set is damaged: {error}"
                return
            self._inflated += len(piece)
            self._walk.feed(memoryview(piece))
            data = inflater.unconsumed_tail
            if not data and len(piece) < _INFLATING_STEP:
                return

    def _ending(self) -> str:
        if self._inflater is None or self._inflater.eof or self._walk.problem:
            return self._walk.ending()
        whole = self._inflated >= MOST_INFLATED or not self._fed
        return "" if whole else "the deflated data set ends early"


def scan(file: BinaryIO, transfer_syntax: str) -> Header:
    """Read the header of a data set from a file positioned at it; values that are not needed are passed over.

    Raises
    ------
    HeaderError
        When the head cannot be read.
    """
    scanner = DatasetScanner(transfer_syntax)
    end = os.fstat(file.fileno()).st_size
    while data := file.read(_CHUNK):
        scanner.feed(data)
        step = min(scanner.skippable, end - file.tell())
        file.seek(step, os.SEEK_CUR)
        scanner.skip(step)
    return scanner.finish()


def _described(tag: int) -> str:
    return f"{dictionary_description(tag)} {named(tag)}"


def _swapped(value: bytes, vr: str) -> bytes:
    """Turn numbers from big to little endian; text, and what is no whole number of them, stays as it is."""
    numbers = array(_WIDTHS.get(vr, "B"))
    if len(value) % numbers.itemsize:
        return value
    numbers.frombytes(value)
    numbers.byteswap()
    return numbers.tobytes()


def _explicit_items(value: bytes, implicit: bool, little_endian: bool) -> bytes:
    """Encode the items of a sequence again, in Explicit VR Little Endian and with defined lengths."""
    if value and not value.startswith(struct.pack("<HH" if little_endian else ">HH", 0xFFFE, 0xE000)):
        raise ValueError("the sequence does not begin with an item")
    return _encoded_items(read_sequence(BytesIO(value), implicit, little_endian, len(value), "iso8859"))


def _encoded_items(items: Sequence) -> bytes:
    encoded = bytearray()
    for item in items:
        # Iterating over the item itself would decode it, and text in a wrongly declared set does not survive that.
        body = flat.encode({int(tag): _explicit_element(item.get_item(tag)) for tag in item.keys()})  # noqa: SIM118
        encoded += struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body
    return bytes(encoded)


def _explicit_element(element: DataElement | RawDataElement) -> tuple[str, bytes]:
    if not isinstance(element, RawDataElement):  # a sequence of undefined length, which pydicom reads at once
        return "SQ", _encoded_items(element.value)
    if element.tag.group == 0xFFFE or element.length == UNDEFINED:
        raise ValueError(f"element {element.tag} cannot stand here")
    vr, value = element.VR or _dictionary_vr(element.tag), element.value or b""
    if vr.encode() not in SHORT_VRS | LONG_VRS:
        raise ValueError(f"element {element.tag} has an unknown VR")
    if vr == "SQ":
        return vr, _explicit_items(value, element.is_implicit_VR, element.is_little_endian)
    return vr, value if element.is_little_endian else _swapped(value, vr)


def _dictionary_vr(tag: BaseTag) -> str:
    return dictionary_VR(tag)[:2] if dictionary_has_tag(tag) else "UN"  # [:2]: the first of "US or SS"
