"""Part 10 files as they lie on disk: the bytes of the data set, untouched by any DICOM library (PS3.10 7.1)."""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info

_PREAMBLE = 128
# (0002,0000) File Meta Information Group Length: tag, UL, two bytes of length, then the value.
_GROUP_LENGTH = struct.Struct("<HH2sHL")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Part10:
    """One file, its meta, and where its data set begins."""

    path: Path
    meta: FileMetaDataset
    offset: int

    @property
    def transfer_syntax(self) -> str:
        return str(self.meta.TransferSyntaxUID)

    @property
    def sop_instance_uid(self) -> str:
        return str(self.meta.MediaStorageSOPInstanceUID)

    @property
    def preamble(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(_PREAMBLE)

    def data_set(self) -> bytes:
        """Return the encoded data set; for files of ordinary size."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read()

    def sha256(self) -> str:
        """Return the SHA-256 of the encoded data set in hexadecimal, in constant memory."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()


def read(path: Path) -> Part10:
    """Open a Part 10 file; ValueError if it is none or has no group length (which all our peers write)."""
    with path.open("rb") as file:
        head = file.read(_PREAMBLE + 4 + _GROUP_LENGTH.size)
    if head[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise ValueError(f"{path} is no Part 10 file")
    group, element, vr, size, length = _GROUP_LENGTH.unpack_from(head, _PREAMBLE + 4)
    if (group, element, vr, size) != (2, 0, b"UL", 4):
        raise ValueError(f"{path} has no File Meta Information Group Length")
    return Part10(path, read_file_meta_info(path), len(head) + length)


def collect(folder: Path) -> dict[str, list[Part10]]:
    """Return all Part 10 files below a folder by SOP Instance UID; dot folders and other files are left out."""
    found: dict[str, list[Part10]] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        with path.open("rb") as file:
            magic = file.read(_PREAMBLE + 4)[_PREAMBLE:]
        if magic == b"DICM":
            instance = read(path)
            found.setdefault(instance.sop_instance_uid, []).append(instance)
    return found
