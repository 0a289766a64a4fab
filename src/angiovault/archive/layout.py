"""Where an instance lies below the storage root: folders that a person can read without this program.

Every part is made of cleaned text, never of a UID or name as it came. The file name ends in a digest of the content, so
that the same bytes always get the same path and other bytes another one, whether or not the index can be asked.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

from angiovault.archive import names
from angiovault.archive.header import Header

LONGEST_NAME: Final = 143
"""Bytes of a file name that an encrypted shared folder (eCryptfs) can hold."""

_UNDERSCORES: Final = re.compile(r"_{2,}")
_NO_DIGIT: Final = re.compile(r"\D")
_DATE: Final = re.compile(r"[12]\d{3}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")

_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_STUDY_DATE: Final = 0x00080020
_MODALITY: Final = 0x00080060
_SERIES_DESCRIPTION: Final = 0x0008103E
_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_SERIES_NUMBER: Final = 0x00200011
_INSTANCE_NUMBER: Final = 0x00200013
_OF_A_FOLDER: Final = (
    _SPECIFIC_CHARACTER_SET,
    _STUDY_DATE,
    _MODALITY,
    _SERIES_DESCRIPTION,
    _PATIENT_NAME,
    _PATIENT_ID,
    _STUDY_INSTANCE_UID,
    _SERIES_INSTANCE_UID,
    _SERIES_NUMBER,
)


@lru_cache(1024)
def clean(text: str, longest: int) -> str:
    """Return `text` as a part of a file name: letters, digits and ``^.-`` kept, at most `longest` bytes of UTF-8."""
    kept = "".join(
        character if character.isalnum() or character in "^-." else "_"
        for character in unicodedata.normalize("NFC", text)
    )
    kept = _UNDERSCORES.sub("_", kept)
    return kept.encode()[:longest].decode(errors="ignore").strip("_.^- ")


@lru_cache(1024)
def content_key(transfer_syntax: str, digest: str) -> str:
    """Return the 16 hexadecimal digits that tell one content of a SOP Instance UID from another.

    Equal exactly when transfer syntax and SHA-256 of the data set are equal.
    """
    return hashlib.sha256(f"{transfer_syntax} {digest}".encode()).hexdigest()[:16]


def place(header: Header, digest: str) -> PurePosixPath:
    """Return the path of an instance relative to the storage root.

    For example ``2026/2026-11/2026-11-22_WANG^LI_123_1f3a5b7c/001_XA_LCA_9e8d7c6b/0001_1.2.3_0123456789abcdef.dcm``.
    """
    instance = (
        _number(header, _INSTANCE_NUMBER, 4),
        header.sop_instance_uid,  # digits and dots only, as the header reader guarantees
        content_key(header.transfer_syntax, digest),
    )
    return _folder(tuple(map(header.elements.get, _OF_A_FOLDER))) / (_join(instance) + ".dcm")


@lru_cache(256)
def _folder(values: tuple[bytes | None, ...]) -> PurePosixPath:
    """Return the folder of a series, which many instances share, for the values of `_OF_A_FOLDER`."""
    found = {tag: value for tag, value in zip(_OF_A_FOLDER, values, strict=True) if value is not None}
    header = Header("", found, complete=True, problem="")
    date = _NO_DIGIT.sub("", header.text(_STUDY_DATE))[:8]
    if _DATE.fullmatch(date):
        year, month, day = date[:4], f"{date[:4]}-{date[4:6]}", f"{date[:4]}-{date[4:6]}-{date[6:]}"
    else:
        year = month = day = "undated"
    study = (
        day,
        clean(_decoded(header, _PATIENT_NAME).split("=")[0] or _decoded(header, _PATIENT_NAME), 60),
        clean(_decoded(header, _PATIENT_ID), 40),
        _short_hash(header.study_instance_uid),
    )
    series = (
        _number(header, _SERIES_NUMBER, 3),
        clean(header.text(_MODALITY), 16),
        clean(_decoded(header, _SERIES_DESCRIPTION), 60),
        _short_hash(header.series_instance_uid),
    )
    return PurePosixPath(year, month, _join(study), _join(series))


def _decoded(header: Header, tag: int) -> str:
    return names.decode(header.elements.get(tag, b""), header.elements.get(_SPECIFIC_CHARACTER_SET, b""))


def _number(header: Header, tag: int, digits: int) -> str:
    number = header.integer(tag)
    return "" if number is None or not 0 <= number < 10**9 else f"{number:0{digits}d}"


@lru_cache(1024)
def _short_hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def _join(parts: tuple[str, ...]) -> str:
    return "_".join(part for part in parts if part)
