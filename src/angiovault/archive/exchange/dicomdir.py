"""Writing a DICOMDIR (PS3.3 F, PS3.10 8): records that point to files which are left as they are.

Keys come from the headers of the instances byte by byte, under the character set of the instance. What an instance does
not say although its record has to is made up, as other programs do: without it many viewers refuse the whole DICOMDIR.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import BinaryIO, Final
from uuid import uuid4

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from angiovault import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from angiovault.archive.attributes import WANTED
from angiovault.archive.elements import Elements, decode, dictionary_vr, encode
from angiovault.archive.header import Header

_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_PRIVATE_RECORD_UID: Final = IMPLEMENTATION_CLASS_UID + ".2"
_FILE_SET_ID: Final = b"ANGIOVAULT"
_LARGEST_READ: Final = 64 << 20
"""Bytes of an object that is read as a whole for keys that the archive's own header reader does not keep."""

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_TYPES: Final = {
    "PRESENTATION": ("11.", "131"),
    "KEY OBJECT DOC": ("88.59",),
    "SR DOCUMENT": ("88.", "78.6", "79.1"),
    "WAVEFORM": ("9.",),
    "ENCAP DOC": ("104.",),
    "RT DOSE": ("481.2",),
    "RT STRUCTURE SET": ("481.3",),
    "RT PLAN": ("481.5", "481.8"),
    "RT TREAT RECORD": ("481.4", "481.6", "481.7", "481.9"),
    "REGISTRATION": ("66.1", "66.3"),
    "FIDUCIAL": ("66.2",),
    "SURFACE": ("66.5",),
    "TRACT": ("66.6",),
    "RAW DATA": ("66",),
    "VALUE MAP": ("67",),
    "SPECTROSCOPY": ("4.2",),
    "STEREOMETRIC": ("77.1.5.3",),
    "MEASUREMENT": ("78.1", "78.2", "78.3", "78.4", "78.5", "78.7", "80.1"),
    "SURFACE SCAN": ("68.1", "68.2"),
    "ASSESSMENT": ("90.1",),
}
"""Directory Record Type -> SOP Classes (PS3.3 F.4) below `_STORAGE`; one that ends in a dot is the start of many."""

_CONTENT_IDENTIFICATION: Final = "InstanceNumber ContentLabel ContentDescription ContentCreatorName"
_KEYS: Final = {
    "PATIENT": "PatientName PatientID PatientBirthDate PatientSex",
    "STUDY": "StudyDate StudyTime StudyDescription StudyInstanceUID StudyID AccessionNumber",
    "SERIES": "Modality SeriesInstanceUID SeriesNumber",
    "IMAGE": "InstanceNumber",
    "PRESENTATION": f"PresentationCreationDate PresentationCreationTime {_CONTENT_IDENTIFICATION} "
    "?ReferencedSeriesSequence ?BlendingSequence",
    "SR DOCUMENT": "InstanceNumber CompletionFlag VerificationFlag ContentDate ContentTime ?VerificationDateTime "
    "ConceptNameCodeSequence ?ContentSequence",
    "KEY OBJECT DOC": "InstanceNumber ContentDate ContentTime ConceptNameCodeSequence ?ContentSequence",
    "WAVEFORM": "InstanceNumber ContentDate ContentTime",
    "RAW DATA": "InstanceNumber ContentDate ContentTime",
    "ENCAP DOC": "InstanceNumber ContentDate ContentTime DocumentTitle ?HL7InstanceIdentifier ConceptNameCodeSequence "
    "MIMETypeOfEncapsulatedDocument",
    "RT DOSE": "InstanceNumber DoseSummationType",
    "RT STRUCTURE SET": "InstanceNumber StructureSetLabel StructureSetDate StructureSetTime",
    "RT PLAN": "InstanceNumber RTPlanLabel RTPlanDate RTPlanTime",
    "RT TREAT RECORD": "InstanceNumber TreatmentDate TreatmentTime",
    "SPECTROSCOPY": "ImageType ContentDate ContentTime InstanceNumber NumberOfFrames Rows Columns DataPointRows "
    "DataPointColumns",
    "SURFACE SCAN": "ContentDate ContentTime",
    "ASSESSMENT": "InstanceNumber InstanceCreationDate InstanceCreationTime",
    "STEREOMETRIC": "",
    "PRIVATE": "",
} | dict.fromkeys(
    ("REGISTRATION", "FIDUCIAL", "VALUE MAP", "MEASUREMENT", "SURFACE", "TRACT"),
    f"ContentDate ContentTime {_CONTENT_IDENTIFICATION}",
)
"""Directory Record Type -> keys (PS3.3 F.5); those with a question mark are left out when the instance has none."""

_MADE_UP: Final = {
    "StudyDate": b"19000101",
    "StudyTime": b"000000",
    "ContentDate": b"19000101",
    "ContentTime": b"000000",
    "Modality": b"OT",
}
_NUMBERED: Final = frozenset({"PatientID", "StudyID", "SeriesNumber", "InstanceNumber"})
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_ROWS: Final = 0x00280010
# What pydicom raises on damaged data sets.
_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError, OSError, struct.error)


def record_type(header: Header) -> str:
    """Return the Directory Record Type of an instance (PS3.3 F.4), ``PRIVATE`` when the standard has none for it."""
    sop_class = header.sop_class_uid
    if sop_class.startswith(_STORAGE):
        below = sop_class.removeprefix(_STORAGE)
        for kind, classes in _TYPES.items():
            if any(below == name or (name.endswith(".") and below.startswith(name)) for name in classes):
                return kind
        if _ROWS in header.elements:
            return "IMAGE"
    return "PRIVATE"


def further_keys(header: Header, file: BinaryIO, length: int) -> Elements:
    """Read the keys of an instance's record that its header does not hold.

    Parameters
    ----------
    header : Header
        The instance's header.
    file : BinaryIO
        The stored file, positioned at its beginning.
    length : int
        Its length in bytes; a very large one is not read.
    """
    keywords = [keyword.lstrip("?") for keyword in _KEYS[record_type(header)].split()]
    missing = [keyword for keyword in keywords if _tag(keyword) not in WANTED]
    # A deflated object could inflate to a thousand times its size.
    if not missing or length > _LARGEST_READ or header.transfer_syntax == _DEFLATED:
        return {}
    try:
        tags = [*missing, "SpecificCharacterSet", "VerifyingObserverSequence"]
        found = _in_record(dcmread(file, stop_before_pixels=True, specific_tags=tags))
        return _encoded(found, missing)
    except _UNREADABLE:
        return {}  # such keys are written empty


def _in_record(instance: Dataset) -> Dataset:
    """Leave of a structured report what belongs into its record (PS3.3 F.5.25)."""
    if "ContentSequence" in instance:
        items = [item for item in instance.ContentSequence if item.get("RelationshipType") == "HAS CONCEPT MOD"]
        if items:
            instance.ContentSequence = Sequence(items)
        else:
            del instance.ContentSequence
    times = [item.get("VerificationDateTime") for item in instance.get("VerifyingObserverSequence") or ()]
    if any(times):
        instance.VerificationDateTime = max(time for time in times if time)
    return instance


def _encoded(instance: Dataset, keywords: Iterable[str]) -> Elements:
    wanted = Dataset()
    for keyword in keywords:
        if keyword in instance:
            wanted.add(instance[keyword])
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, wanted, instance.get("SpecificCharacterSet", "iso8859"))
    return decode(buffer.getvalue())


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return tag


@dataclass(slots=True)
class _Record:
    """One directory record: its keys as encoded elements, and the records below it."""

    kind: str
    elements: Elements
    below: dict[str, _Record] = field(default_factory=dict)

    def encoded(self, following: int, lower: int) -> bytes:
        own: Elements = {
            0x00041400: ("UL", struct.pack("<L", following)),
            0x00041410: ("US", b"\xff\xff"),
            0x00041420: ("UL", struct.pack("<L", lower)),
            0x00041430: ("CS", self.kind.encode()),
        }
        body = encode(own | self.elements)
        return struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body


class Directory:
    """The content of a DICOMDIR that is being made."""

    def __init__(self) -> None:
        self._patients: dict[str, _Record] = {}
        self._studies: dict[str, _Record] = {}
        self._instances = 0

    def add(self, header: Header, file_id: Iterable[str], further: Elements) -> None:
        """Add an instance.

        A study is filed under one patient, the first that it names, as its UID may stand in one record only.

        Parameters
        ----------
        header : Header
            The instance's header.
        file_id : iterable of str
            The components of its File ID (PS3.10 8.2).
        further : Elements
            Its `further_keys`.
        """
        study = self._studies.get(header.study_instance_uid)
        if study is None:
            patient_key = header.text(_tag("PatientID")) or header.text(_tag("PatientName"))
            patient = self._patients.setdefault(
                patient_key, _Record("PATIENT", _keys("PATIENT", header, len(self._patients) + 1))
            )
            study = _Record("STUDY", _keys("STUDY", header, len(self._studies) + 1))
            self._studies[header.study_instance_uid] = patient.below[header.study_instance_uid] = study
        series = study.below.setdefault(
            header.series_instance_uid, _Record("SERIES", _keys("SERIES", header, len(study.below) + 1))
        )
        kind = record_type(header)
        keys = _keys(kind, header, len(series.below) + 1, further)
        series.below[header.sop_instance_uid] = _Record(kind, keys | _reference(kind, header, file_id))
        self._instances += 1

    def encode(self) -> bytes:
        """Return the whole file.

        Raises
        ------
        ValueError
            When there is nothing in it, or more than its 32 bit offsets can reach.
        """
        if not self._instances:
            raise ValueError("a DICOMDIR without instances")
        head = _file_meta()
        # The descriptor's four elements, and the tag and length of the sequence, stand between head and first record.
        start = len(head) + len(_descriptor(0, 0)) + 12
        records = list(_flattened(self._patients))
        offsets: dict[int, int] = {}
        end = start
        for record, _ in records:
            offsets[id(record)] = end
            end += len(record.encoded(0, 0))
        if end >= 1 << 32:
            raise ValueError("too many instances for one DICOMDIR")
        patients = list(self._patients.values())
        parts = [head, _descriptor(start, offsets[id(patients[-1])])]
        parts.append(struct.pack("<HH2sxxL", 0x0004, 0x1220, b"SQ", end - start))
        for record, following in records:
            lower = next(iter(record.below.values()), None)
            parts.append(record.encoded(offsets[id(following)] if following else 0, offsets[id(lower)] if lower else 0))
        return b"".join(parts)


def _descriptor(first: int, last: int) -> bytes:
    """Encode what a File-set says of itself (PS3.3 F.3.2.1): its ID, and where the records of its root are."""
    return encode(
        {
            0x00041130: ("CS", _FILE_SET_ID),
            0x00041200: ("UL", struct.pack("<L", first)),
            0x00041202: ("UL", struct.pack("<L", last)),
            0x00041212: ("US", b"\0\0"),
        }
    )


def _flattened(level: dict[str, _Record]) -> Iterator[tuple[_Record, _Record | None]]:
    """Yield each record and the one that follows it on its level, those below a record right behind it."""
    records = list(level.values())
    for record, following in zip_longest(records, records[1:]):
        yield record, following
        yield from _flattened(record.below)


def _keys(kind: str, header: Header, number: int, further: Elements | None = None) -> Elements:
    tags = {_tag(keyword.lstrip("?")): keyword for keyword in _KEYS[kind].split()}
    label = {_SPECIFIC_CHARACTER_SET} if tags else set()
    found = decode(header.encoded((tags.keys() & WANTED.keys()) | label)) | (further or {})
    for tag, keyword in tags.items():
        if not found.get(tag, ("", b""))[1].strip(b" \0"):
            found.pop(tag, None)
            if not keyword.startswith("?"):
                made_up = str(number).encode() if keyword in _NUMBERED else _MADE_UP.get(keyword, b"")
                found[tag] = dictionary_vr(tag), made_up
    return found


def _reference(kind: str, header: Header, file_id: Iterable[str]) -> Elements:
    elements: Elements = {
        0x00041500: ("CS", "\\".join(file_id).encode("ascii")),
        0x00041510: ("UI", header.sop_class_uid.encode()),
        0x00041511: ("UI", header.sop_instance_uid.encode()),
        0x00041512: ("UI", header.transfer_syntax.encode()),
    }
    if kind == "PRIVATE":
        elements[0x00041432] = "UI", _PRIVATE_RECORD_UID.encode()
    return elements


def _file_meta() -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = UID(f"2.25.{uuid4().int}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    return bytes(128) + b"DICM" + buffer.getvalue()
