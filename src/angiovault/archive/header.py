"""The head of a data set: its identifying and indexed attributes, read while the bytes arrive (PS3.5 7).

The data set is walked through once, in pieces of any size, without recursion and in bounded memory: only wanted values
are kept, everything else is stepped over. What cannot be understood behind the identifying head is no reason to refuse
an instance; it is kept as received and marked as incomplete.
"""

from __future__ import annotations

import re
import struct
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom.datadict import dictionary_description, dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_sequence
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

_KEYWORDS: Final = {
    "PATIENT": """
        PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex OtherPatientIDs
        OtherPatientNames OtherPatientIDsSequence EthnicGroup PatientComments""",
    "STUDY": """
        StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyDescription ProcedureCodeSequence
        PhysiciansOfRecord NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription PatientAge PatientSize
        PatientWeight Occupation AdditionalPatientHistory StudyInstanceUID StudyID StudyComments""",
    "SERIES": """
        SeriesDate SeriesTime Modality PresentationIntentType Manufacturer InstitutionName StationName
        SeriesDescription InstitutionalDepartmentName PerformingPhysicianName OperatorsName ManufacturerModelName
        BodyPartExamined DeviceSerialNumber ProtocolName PatientPosition SeriesInstanceUID SeriesNumber
        FrameOfReferenceUID Laterality PerformedProcedureStepStartDate PerformedProcedureStepStartTime
        PerformedProcedureStepID PerformedProcedureStepDescription RequestAttributesSequence""",
    "IMAGE": """
        SpecificCharacterSet ImageType InstanceCreationDate InstanceCreationTime SOPClassUID SOPInstanceUID
        AcquisitionDate ContentDate AcquisitionDateTime AcquisitionTime ContentTime TimezoneOffsetFromUTC
        AcquisitionNumber InstanceNumber ImageComments SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows
        Columns BitsAllocated LossyImageCompression ConceptNameCodeSequence CompletionFlag VerificationFlag
        ContentLabel ContentDescription PresentationCreationDate PresentationCreationTime ContentCreatorName""",
}

WANTED: Final[dict[int, tuple[str, str]]] = {
    tag: (level, dictionary_VR(tag))
    for level, keywords in _KEYWORDS.items()
    for tag in map(tag_for_keyword, keywords.split())
    if tag is not None
}
"""Tag -> (query/retrieve level of PS3.4 C.6.1.1, VR): everything the index knows of a data set."""

LONGEST_VALUE: Final = 0xFFFE
"""Bytes; the longest value of even length that the short form of Explicit VR can hold (PS3.5 7.1.2)."""
LONGEST_SEQUENCE: Final = 16 << 10
MOST_CAPTURED: Final = 768 << 10
"""Bytes kept of one data set, the identifying UIDs not counted."""
MOST_INFLATED: Final = 64 << 20
"""Bytes of a deflated data set that are looked at: a small stream can inflate to a thousand times its size."""

_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
_IDENTIFYING: Final = (_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID)

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

_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_WIDTHS: Final = dict.fromkeys(("AT", "OW", "SS", "US"), "H") | dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), "I")
_WIDTHS.update(dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), "Q"))

_ITEM, _ITEM_DELIMITER, _SEQUENCE_DELIMITER = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_LITTLE_TAG_LENGTH, _BIG_TAG_LENGTH = struct.Struct("<HHL"), struct.Struct(">HHL")
_INFLATING_STEP: Final = 64 << 10


class HeaderError(ValueError):
    """The identifying head of a data set cannot be read."""


class _Unreadable(Exception):
    """The walk cannot go on behind this point."""


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
        return self.uid(_SOP_CLASS_UID)

    @property
    def sop_instance_uid(self) -> str:
        """(0008,0018)."""
        return self.uid(_SOP_INSTANCE_UID)

    @property
    def study_instance_uid(self) -> str:
        """(0020,000D)."""
        return self.uid(_STUDY_INSTANCE_UID)

    @property
    def series_instance_uid(self) -> str:
        """(0020,000E)."""
        return self.uid(_SERIES_INSTANCE_UID)

    def encoded(self, tags: Iterable[int]) -> bytes:
        """Encode captured elements as Explicit VR Little Endian, in tag order, without unreadable sequences.

        Text keeps its bytes and character set; values of odd length are padded.
        """
        found: dict[int, tuple[str, bytes]] = {}
        for tag in self.elements.keys() & set(tags):
            vr = WANTED[tag][1]
            try:
                found[tag] = vr, self._items(tag) if vr == "SQ" else self._little_endian(tag)
            # What pydicom raises on bytes that are no sequence, or on one that is nested too deep for it.
            except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError, OSError, struct.error):
                continue
        return _encoded(found)

    def _little_endian(self, tag: int) -> bytes:
        swap = self.transfer_syntax == _EXPLICIT_BIG and tag not in self.unknown_vr
        return _swapped(self.elements.get(tag, b""), WANTED[tag][1]) if swap else self.elements.get(tag, b"")

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
        self._walk = _Walk(transfer_syntax == _IMPLICIT_LITTLE, transfer_syntax == _EXPLICIT_BIG)
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
        for tag in _IDENTIFYING:
            if fault := self._fault(header, tag):
                raise HeaderError("; ".join(filter(None, (f"{_described(tag)} {fault}", problem, self._suspicion()))))
        return header

    def _fault(self, header: Header, tag: int) -> str:
        """Say what is wrong with an identifying UID."""
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
        return "" if _UID.fullmatch(uid) else f"is no UID: {uid!a}"

    def _suspicion(self) -> str:
        """Name the usual reason why nothing can be read: the other VR encoding than the one declared."""
        opening = self._walk.opening
        explicit = opening[4:6] in _LONG_VRS | _SHORT_VRS
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


class _Walk:
    """The way through the elements of an inflated data set.

    Only what has an undefined length is entered, so below the top level sequences and items alternate: a depth is all
    there is to remember of any nesting. An odd depth is inside a sequence (or fragments), an even one inside an item.
    """

    def __init__(self, implicit: bool, big_endian: bool) -> None:
        self.elements: dict[int, bytes] = {}
        self.unknown_vr: set[int] = set()
        self.passed_over: dict[int, str] = {}
        self.problem = ""
        self.opening = b""
        self._implicit = implicit
        self._tag_length = _BIG_TAG_LENGTH if big_endian else _LITTLE_TAG_LENGTH
        self._vr_length = struct.Struct(">4x2sH" if big_endian else "<4x2sH")
        self._long_length = struct.Struct(">8xL" if big_endian else "<8xL")
        self._offset = 0  # of the piece being fed
        self._pending = b""  # the beginning of an element whose length has not arrived yet
        self._remaining = 0  # bytes of the current value still to come
        self._tag = 0  # the latest element of the top level
        self._depth = 0
        self._unknown_depth = 0  # of the outermost sequence with VR UN, inside which all is Implicit VR Little Endian
        self._fragments = False
        self._capture: bytearray | None = None
        self._room = 0
        self._captured = 0

    def feed(self, view: memoryview) -> None:
        if self.problem:
            return
        if len(self.opening) < 8:
            self.opening += view[: 8 - len(self.opening)]
        position, end = 0, len(view)
        try:
            while position < end:
                if self._remaining:
                    position += self._pass(view, position, end)
                elif self._pending:
                    position += self._resume(view, position)
                elif size := self._open(view, position, end):
                    position += size
                else:
                    self._pending = bytes(view[position:])
                    break
        except _Unreadable as reason:
            self.problem = f"{reason} at byte {self._offset + position - len(self._pending)}"
            self._capture = None
        self._offset += end

    @property
    def skippable(self) -> int:
        """Bytes still to come of a value that is not captured."""
        return 0 if self.problem or self._capture is not None else self._remaining

    def skip(self, count: int) -> None:
        """Step over `count` bytes, at most `skippable`."""
        self._remaining -= count
        self._offset += count
        if not self._remaining and not self._depth:
            self._settle()

    def ending(self) -> str:
        """Say why the walk has not come to a proper end, '' if it has."""
        if self.problem:
            return self.problem
        if self._depth:
            return f"last element {_named(self._tag)}, of undefined length, has no end"
        if self._remaining:
            return f"last element {_named(self._tag)} is {self._remaining} bytes short"
        return f"{len(self._pending)} bytes at the end are no whole element" if self._pending else ""

    def _pass(self, view: memoryview, position: int, end: int) -> int:
        step = min(self._remaining, end - position)
        if self._capture is not None:
            self._keep(self._capture, view[position : position + step])
        self._remaining -= step
        if not self._remaining and not self._depth:
            self._settle()
        return step

    def _resume(self, view: memoryview, position: int) -> int:
        had = len(self._pending)
        start = self._pending + view[position : position + 12 - had]
        size = self._open(memoryview(start), 0, len(start))
        self._pending = b"" if size else start
        return (size or len(start)) - had

    def _open(self, buffer: memoryview, at: int, end: int) -> int:
        """Read the beginning of an element, up to its value; return its size, 0 if it is not there as a whole."""
        if end - at < 8:
            return 0
        implicit = self._implicit or self._unknown_depth
        tag_length = _LITTLE_TAG_LENGTH if self._unknown_depth else self._tag_length
        group, number, length = tag_length.unpack_from(buffer, at)
        tag, vr, size = group << 16 | number, b"", 8
        between = group == 0xFFFE or self._depth & 1
        if not implicit and not between:
            vr, length = self._vr_length.unpack_from(buffer, at)
            if vr not in _SHORT_VRS:
                # A VR that the standard may still define is of the long form, with two reserved bytes: PS3.5 7.1.2.
                if vr not in _LONG_VRS and (length or not (vr.isalpha() and vr.isupper())):
                    raise _Unreadable(f"element {_named(tag)} has no VR that can be read (bytes {vr.hex(' ')})")
                if end - at < 12:
                    return 0
                (length,) = self._long_length.unpack_from(buffer, at)
                size = 12
        if self._depth:
            if self._capture is not None and (self._depth > 1 or tag != _SEQUENCE_DELIMITER):
                self._keep(self._capture, buffer[at : at + size])
        elif not between:
            self._begin(tag, vr, length)
        if between:
            self._delimit(tag, length)
        elif length == _UNDEFINED:
            self._enter(tag, vr)
        else:
            self._remaining = length
        if not self._remaining and not self._depth:
            self._settle()
        return size

    def _begin(self, tag: int, vr: bytes, length: int) -> None:
        """Decide whether the value of a top-level element is to be captured."""
        self._tag = tag
        if tag not in WANTED or tag in self.elements or tag in self.passed_over:
            return
        wanted = WANTED[tag][1]
        room = LONGEST_SEQUENCE if wanted == "SQ" else LONGEST_VALUE
        if tag not in _IDENTIFYING:
            room = min(room, MOST_CAPTURED - self._captured)
        # Text is text under any VR; a number or a sequence is one only under its own, or where the VR is not known.
        if vr not in (b"", b"UN", wanted.encode()) and (wanted in ("SQ", "US") or vr == b"SQ"):
            self.passed_over[tag] = f"has VR {vr.decode()}"
        elif length == _UNDEFINED and wanted != "SQ":
            self.passed_over[tag] = "has an undefined length"
        elif room < length != _UNDEFINED:
            self.passed_over[tag] = f"is {length} bytes long"
        else:
            self._capture, self._room = bytearray(), room
            if vr == b"UN":
                self.unknown_vr.add(tag)

    def _enter(self, tag: int, vr: bytes) -> None:
        """Go into a value of undefined length (PS3.5 7.1.2, 7.5, A.4)."""
        if vr not in (b"", b"SQ", b"UN", b"OB", b"OW"):
            raise _Unreadable(f"element {_named(tag)} of VR {vr.decode()} has an undefined length")
        self._depth += 1
        self._fragments = vr in (b"OB", b"OW")
        if vr == b"UN":
            self._unknown_depth = self._depth

    def _delimit(self, tag: int, length: int) -> None:
        """Take an item, or the end of an item or a sequence (PS3.5 7.5)."""
        in_sequence = self._depth & 1
        if in_sequence and tag == _ITEM and length != _UNDEFINED:
            self._remaining = length
        elif in_sequence and tag == _ITEM and not self._fragments:
            self._depth += 1
        elif self._depth and tag == (_SEQUENCE_DELIMITER if in_sequence else _ITEM_DELIMITER):
            self._depth -= 1
            self._fragments = False
            if self._depth < self._unknown_depth:
                self._unknown_depth = 0
        else:
            where = f" inside {_named(self._tag)}" if self._depth else ""
            raise _Unreadable(f"{_named(tag)} is out of place{where}")

    def _keep(self, capture: bytearray, piece: memoryview) -> None:
        if len(capture) + len(piece) > self._room:
            self._capture = None
            self.passed_over[self._tag] = f"is more than {self._room} bytes long"
        else:
            capture += piece

    def _settle(self) -> None:
        """File the captured value: the end of a top-level element has come."""
        if self._capture is not None:
            self.elements[self._tag] = bytes(self._capture)
            self._captured += len(self._capture)
            self._capture = None


def _named(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _described(tag: int) -> str:
    return f"{dictionary_description(tag)} {_named(tag)}"


def _swapped(value: bytes, vr: str) -> bytes:
    """Turn numbers from big to little endian; text, and what is no whole number of them, stays as it is."""
    numbers = array(_WIDTHS.get(vr, "B"))
    if len(value) % numbers.itemsize:
        return value
    numbers.frombytes(value)
    numbers.byteswap()
    return numbers.tobytes()


def _encoded(elements: dict[int, tuple[str, bytes]]) -> bytes:
    """Encode elements, tag -> (VR, value), in Explicit VR Little Endian (PS3.5 7.1.2)."""
    encoded = bytearray()
    for tag in sorted(elements):
        vr, value = elements[tag]
        if len(value) % 2:
            value += b"\0" if vr in ("UI", "OB", "UN") else b" "
        form = "<HH2sxxL" if vr.encode() in _LONG_VRS else "<HH2sH"
        encoded += struct.pack(form, tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value
    return bytes(encoded)


def _explicit_items(value: bytes, implicit: bool, little_endian: bool) -> bytes:
    """Encode the items of a sequence again, in Explicit VR Little Endian and with defined lengths."""
    if value and not value.startswith(struct.pack("<HH" if little_endian else ">HH", 0xFFFE, 0xE000)):
        raise ValueError("the sequence does not begin with an item")
    return _encoded_items(read_sequence(BytesIO(value), implicit, little_endian, len(value), "iso8859"))


def _encoded_items(items: Sequence) -> bytes:
    encoded = bytearray()
    for item in items:
        # Iterating over the item itself would decode it, and text in a wrongly declared set does not survive that.
        body = _encoded({int(tag): _explicit_element(item.get_item(tag)) for tag in item.keys()})  # noqa: SIM118
        encoded += _LITTLE_TAG_LENGTH.pack(0xFFFE, 0xE000, len(body)) + body
    return bytes(encoded)


def _explicit_element(element: DataElement | RawDataElement) -> tuple[str, bytes]:
    if not isinstance(element, RawDataElement):  # a sequence of undefined length, which pydicom reads at once
        return "SQ", _encoded_items(element.value)
    if element.tag.group == 0xFFFE or element.length == _UNDEFINED:
        raise ValueError(f"element {element.tag} cannot stand here")
    vr, value = element.VR or _dictionary_vr(element.tag), element.value or b""
    if vr.encode() not in _SHORT_VRS | _LONG_VRS:
        raise ValueError(f"element {element.tag} has an unknown VR")
    if vr == "SQ":
        return vr, _explicit_items(value, element.is_implicit_VR, element.is_little_endian)
    return vr, value if element.is_little_endian else _swapped(value, vr)


def _dictionary_vr(tag: BaseTag) -> str:
    return dictionary_VR(tag)[:2] if dictionary_has_tag(tag) else "UN"  # [:2]: the first of "US or SS"
