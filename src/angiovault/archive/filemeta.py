"""The head of a stored file (PS3.10 7.1): preamble, File Meta Information, and in it what the archive vouches for.

SHA-256 of the data set, time of receipt and calling AE title lie in Private Information (0002,0102) under our creator
UID (0002,0100), so that the files alone are enough to check and rebuild the archive.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Final

from angiovault import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

PRIVATE_INFORMATION_CREATOR: Final = IMPLEMENTATION_CLASS_UID + ".1"
LONGEST_META: Final = 1 << 16

_PREAMBLE: Final = bytes(128) + b"DICM"
_LONG_FORM: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
NO_DIGEST: Final = "0" * 64
"""As long as a digest."""
_WRITTEN_RECORD: Final = b"sha256=%b received=%b from=%b"
_PLACES: Final = 6  # bytes of it that stand for the three values
_SHORT_START, _LONG_START = 8, 12  # bytes before the value of an element
_RECORD: Final = re.compile(rb"sha256=([0-9a-f]{64}) received=(\S+) from=(.*)")


class NotDicom(ValueError):
    """The file has no DICOM File Meta Information that can be read."""


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the head of a file says.

    Attributes
    ----------
    offset : int
        Where the data set begins in the file.
    digest, received, calling : str
        SHA-256 of the data set, time of receipt (ISO 8601, UTC) and calling AE title; empty in a foreign file.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    offset: int
    digest: str = ""
    received: str = ""
    calling: str = ""

    @property
    def sealed(self) -> bool:
        """Whether the archive has vouched for the data set, which is done when it is complete."""
        return self.digest not in ("", NO_DIGEST)


class Head:
    """The head of a new file, in which only the time of receipt and the digest are open.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax, calling : str
        What it says.
    """

    __slots__ = ("_calling", "_fixed")

    def __init__(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str, calling: str) -> None:
        before, after = _of_many(sop_class_uid, transfer_syntax, calling)
        self._fixed = before + _element(0x0003, b"UI", sop_instance_uid.encode()) + after
        self._calling = calling.encode("latin-1", "replace")

    def encode(self, received: str, digest: str) -> bytes:
        """Return the whole head."""
        record = _WRITTEN_RECORD % (digest.encode(), received.encode("latin-1", "replace"), self._calling)
        body = self._fixed + _element(0x0102, b"OB", record)
        return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<L", len(body))) + body

    def length(self, received: str) -> int:
        """Return how long it will be with a time of receipt as long as this one."""
        record = len(_WRITTEN_RECORD) - _PLACES + len(NO_DIGEST) + len(received) + len(self._calling)
        return len(_PREAMBLE) + _SHORT_START + 4 + len(self._fixed) + _LONG_START + record + record % 2


@lru_cache(64)
def _of_many(sop_class_uid: str, transfer_syntax: str, calling: str) -> tuple[bytes, bytes]:
    """Return what stands before and behind the UID of an instance in the heads of many."""
    before = _element(0x0001, b"OB", b"\0\1") + _element(0x0002, b"UI", sop_class_uid.encode())
    after = [
        _element(0x0010, b"UI", transfer_syntax.encode()),
        _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode()),
        _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()),
    ]
    if calling:
        after.append(_element(0x0016, b"AE", calling.encode("latin-1", "replace")))
    after.append(_element(0x0100, b"UI", PRIVATE_INFORMATION_CREATOR.encode()))
    return before, b"".join(after)


def read(file: BinaryIO) -> FileMeta:
    """Read the head of a file and leave it positioned at the data set.

    Raises
    ------
    NotDicom
        When there is none, or it cannot be read.
    """
    preamble = file.read(132)
    if preamble[128:] != b"DICM":
        raise NotDicom("not a DICOM file: no DICM prefix")
    elements: dict[int, bytes] = {}
    offset = 132
    end: int | None = None
    while end is None or offset < end:
        header = file.read(8)
        if len(header) < 8 or header[:2] != b"\x02\x00":
            if end is not None or len(header) < 8:
                raise NotDicom("File Meta Information ends early")
            file.seek(offset)  # written without group length: the data set begins here
            break
        tag, vr, length = struct.unpack("<2xH2sH", header)
        offset += 8
        if vr in _LONG_FORM:
            (length,) = struct.unpack("<L", file.read(4).ljust(4, b"\0"))
            offset += 4
        if length > LONGEST_META or offset + length > LONGEST_META:
            raise NotDicom("File Meta Information is too long")
        value = file.read(length)
        if len(value) < length:
            raise NotDicom("File Meta Information ends early")
        offset += length
        elements[tag] = value
        if tag == 0 and length == 4:
            end = offset + min(struct.unpack("<L", value)[0], LONGEST_META)
    uids = [elements.get(tag, b"").decode("latin-1").strip(" \0") for tag in (0x0002, 0x0003, 0x0010)]
    if not uids[2]:
        raise NotDicom("File Meta Information names no transfer syntax")
    digest = received = calling = ""
    if elements.get(0x0100, b"").strip(b" \0") == PRIVATE_INFORMATION_CREATOR.encode():
        record = _RECORD.match(elements.get(0x0102, b""))
        if record:
            digest, received, calling = (part.decode("latin-1").strip(" \0") for part in record.groups())
    return FileMeta(uids[0], uids[1], uids[2], offset, digest, received, calling)


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b" " if vr in (b"SH", b"AE") else b"\0"
    if vr in _LONG_FORM:
        return struct.pack("<HH2s2xL", 2, tag, vr, len(value)) + value
    return struct.pack("<HH2sH", 2, tag, vr, len(value)) + value
