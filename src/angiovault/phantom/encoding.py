"""Encoding phantom data sets, including values that pydicom would normalise."""

import zlib
from array import array
from pathlib import Path
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.tag import BaseTag, ItemDelimiterTag, ItemTag, SequenceDelimiterTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from angiovault import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

UNDEFINED_LENGTH = 0xFFFFFFFF


class VerbatimElement(DataElement):
    """An OB or UN element whose value field :func:`encode` writes exactly as given; pydicom would pad it.

    With undefined length the value is a series of items, without the closing delimiter (PS3.5 6.2.2).
    """

    def __init__(self, tag: int | BaseTag, vr: str, value: bytes, *, undefined_length: bool = False) -> None:
        if vr not in ("OB", "UN"):
            raise ValueError(f"only OB and UN can be written verbatim, not {vr}")
        super().__init__(tag, vr, value)
        self.is_undefined_length = undefined_length


def encode(dataset: Dataset, transfer_syntax: str) -> bytes:
    """Return the data set's bytes, without file meta information, in an uncompressed or deflated transfer syntax.

    `dataset` is left as it was. Raises ValueError for encapsulated transfer syntaxes (PS3.5 10, Annex A).
    """
    syntax = UID(transfer_syntax)
    if not syntax.is_transfer_syntax or syntax.is_encapsulated:
        raise ValueError(f"phantoms are made in uncompressed or deflated transfer syntaxes only, not {syntax.name}")
    stream = _stream(implicit=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    _write_dataset(stream, dataset, dataset.get("SpecificCharacterSet"))
    encoded: bytes = stream.getvalue()
    if syntax != DeflatedExplicitVRLittleEndian:
        return encoded
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)  # a bare deflate stream, no zlib header: PS3.5 A.5
    deflated = deflater.compress(encoded) + deflater.flush()
    return deflated + b"\0" * (len(deflated) % 2)


def write(dataset: Dataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Write a DICOM file (PS3.10 7.1) and return the bytes of its data set."""
    encoded = encode(dataset, transfer_syntax)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    head = DicomBytesIO()
    head.write(bytes(128) + b"DICM")
    write_file_meta_info(head, meta)
    with path.open("wb") as file:
        file.write(head.getvalue())
        file.write(encoded)
    return encoded


def _stream(*, implicit: bool, little_endian: bool) -> DicomBytesIO:
    stream = DicomBytesIO()
    stream.is_implicit_VR = implicit
    stream.is_little_endian = little_endian
    return stream


def _write_dataset(stream: DicomBytesIO, dataset: Dataset, character_set: Any) -> None:
    """Write the elements in tag order."""
    character_set = dataset.get("SpecificCharacterSet", character_set)
    for tag in sorted(dataset.keys()):
        element = dataset[tag]
        if isinstance(element, VerbatimElement):
            _write_verbatim(stream, element)
        elif element.VR == "SQ":
            _write_sequence(stream, element, character_set)
        elif element.VR == "OW" and not stream.is_little_endian:
            write_data_element(stream, DataElement(tag, "OW", _swapped(element.value)))
        else:
            write_data_element(stream, element, convert_encodings(character_set))


def _write_verbatim(stream: DicomBytesIO, element: VerbatimElement) -> None:
    # Readers disagree about the byte order of items in UN of undefined length: big endian gets a defined one.
    undefined = element.is_undefined_length and stream.is_little_endian
    stream.write_tag(element.tag)
    if not stream.is_implicit_VR:
        stream.write(element.VR.encode("ascii") + b"\0\0")
    stream.write_UL(UNDEFINED_LENGTH if undefined else len(element.value))
    stream.write(element.value)
    if undefined:
        stream.write_tag(SequenceDelimiterTag)
        stream.write_UL(0)


def _write_sequence(stream: DicomBytesIO, element: DataElement, character_set: Any) -> None:
    """Write a sequence, of defined or undefined length as `element.is_undefined_length` says (PS3.5 7.5)."""
    undefined = element.is_undefined_length
    items = _stream(implicit=stream.is_implicit_VR, little_endian=stream.is_little_endian)
    for item in element.value:
        content = _stream(implicit=stream.is_implicit_VR, little_endian=stream.is_little_endian)
        _write_dataset(content, item, character_set)
        items.write_tag(ItemTag)
        items.write_UL(UNDEFINED_LENGTH if undefined else content.tell())
        items.write(content.getvalue())
        if undefined:
            items.write_tag(ItemDelimiterTag)
            items.write_UL(0)
    stream.write_tag(element.tag)
    if not stream.is_implicit_VR:
        stream.write(b"SQ\0\0")
    stream.write_UL(UNDEFINED_LENGTH if undefined else items.tell())
    stream.write(items.getvalue())
    if undefined:
        stream.write_tag(SequenceDelimiterTag)
        stream.write_UL(0)


def _swapped(value: bytes) -> bytes:
    words = array("H", value)
    words.byteswap()
    return words.tobytes()
