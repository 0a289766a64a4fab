"""Small instances whose every byte is of the test's choosing, mislabelled names included; as files or index entries."""

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from angiovault.archive import elements
from angiovault.archive.header import DatasetScanner
from angiovault.archive.index import Entry

Values = Mapping[str, bytes | str | int]
"""Keyword -> value: bytes as they are, text in ASCII, a number as US or as text."""

NAMES: Mapping[str, tuple[bytes, bytes]] = {
    "GB18030": (b"GB18030", "Zhang^San=张^三".encode("gb18030")),
    "GBK, unlabelled": (b"", "李^秀英".encode("gbk")),
    "GBK, mislabelled": (b"ISO_IR 100", "Chen^Wei=陈^伟".encode("gbk")),
    "UTF-8": (b"ISO_IR 192", "Wang^Xiaoming=王^小明".encode()),
    "Latin-1": (b"ISO_IR 100", "Müller^Jürgen".encode("latin-1")),
    # The examples of PS3.5 annexes H.3.1, I.2 and K.2.
    "ISO 2022 IR 87": (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    "ISO 2022 IR 149": (
        b"\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    "ISO 2022 IR 58": (b"\\ISO 2022 IR 58", b"Zhao^Dong=\x1b$)A\xd5\xd4^\x1b$)A\xb6\xab="),
}
"""What a device declares and sends -> Specific Character Set (0008,0005) and Patient's Name (0010,0010)."""


def encode(values: Values) -> bytes:
    """Return a data set in Explicit VR Little Endian."""
    found = {}
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        vr = dictionary_VR(tag)
        if isinstance(value, int):
            value = struct.pack("<H", value) if vr == "US" else str(value)
        found[tag] = (vr, value.encode("ascii") if isinstance(value, str) else value)
    return elements.encode(found)


def sequence(*items: Values) -> bytes:
    """Return the value of a sequence."""
    return b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(encode(item))) + encode(item) for item in items)


def instance(study: str, series: int = 1, number: int = 1, **values: bytes | str | int) -> dict[str, bytes | str | int]:
    """Return an instance of a series of the study with this UID; `values` come over what is made up."""
    return {
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": f"{study}.{series}.{number}",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.{series}",
        "SeriesNumber": series,
        "InstanceNumber": number,
        "Modality": "XA",
        **values,
    }


def entry(values: Values) -> Entry:
    """Return what the index is given of an instance."""
    encoded = encode(values)
    scanner = DatasetScanner(ExplicitVRLittleEndian)
    scanner.feed(encoded)
    digest = hashlib.sha256(encoded).hexdigest()
    place = PurePosixPath(str(values["StudyInstanceUID"]), f"{digest[:16]}.dcm")
    return Entry(scanner.finish(), digest, len(encoded), place, "20240401120000.000000+0000", "STORESCU")


def write(values: Values, path: Path) -> Path:
    """Write an instance as a DICOM file (PS3.10 7.1) and return its path."""
    meta = elements.encode(
        {
            0x00020001: ("OB", b"\0\1"),
            0x00020002: ("UI", str(values["SOPClassUID"]).encode()),
            0x00020003: ("UI", str(values["SOPInstanceUID"]).encode()),
            0x00020010: ("UI", ExplicitVRLittleEndian.encode()),
            0x00020012: ("UI", b"2.25.1"),
        }
    )
    head = elements.encode({0x00020000: ("UL", struct.pack("<L", len(meta)))})
    path.write_bytes(bytes(128) + b"DICM" + head + meta + encode(values))
    return path
