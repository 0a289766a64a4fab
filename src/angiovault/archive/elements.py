"""Flat lists of data elements as bytes (PS3.5 7.1): what the index keeps of a data set, and what an answer is made of."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

Elements = dict[int, tuple[str, bytes]]
"""Tag -> (VR, encoded value); the value of a sequence is that of Explicit VR Little Endian."""

LONG_FORM: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_PADDED_BY_NUL: Final = frozenset(("UI", "OB", "UN"))


def decode(encoded: bytes) -> Elements:
    """Decode Explicit VR Little Endian elements of defined length, as `encode` makes them."""
    elements: Elements = {}
    offset = 0
    while offset < len(encoded):
        group, element, vr_bytes, length = struct.unpack_from("<HH2sH", encoded, offset)
        vr = vr_bytes.decode("ascii")
        offset += 8
        if vr in LONG_FORM:
            (length,) = struct.unpack_from("<L", encoded, offset)
            offset += 4
        elements[group << 16 | element] = (vr, encoded[offset : offset + length])
        offset += length
    return elements


def encode(elements: Mapping[int, tuple[str, bytes]], implicit: bool = False) -> bytes:
    """Encode elements in Explicit or Implicit VR Little Endian, padded to even length."""
    parts = []
    for tag in sorted(elements):
        vr, value = elements[tag]
        if vr == "SQ" and implicit and value:
            value = _sequence_to_implicit(tag, value)
        if len(value) % 2:
            value += b"\0" if vr in _PADDED_BY_NUL else b" "
        if implicit:
            parts.append(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)))
        elif vr in LONG_FORM:
            parts.append(struct.pack("<HH2sxxL", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)))
        else:
            value = value[:0xFFFE]
            parts.append(struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)))
        parts.append(value)
    return b"".join(parts)


def sequence_items(tag: int, value: bytes) -> list[Dataset]:
    """Return the items of a sequence value in Explicit VR Little Endian."""
    header = struct.pack("<HH2sxxL", tag >> 16, tag & 0xFFFF, b"SQ", len(value))
    dataset = read_dataset(BytesIO(header + value), is_implicit_VR=False, is_little_endian=True)
    return list(dataset[tag].value)


def _sequence_to_implicit(tag: int, value: bytes) -> bytes:
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, True
    holder = Dataset()
    holder.add_new(tag, "SQ", sequence_items(tag, value))
    write_dataset(out, holder)
    return bytes(out.getvalue())[8:]
