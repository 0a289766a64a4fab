"""Where an import finds its files: folder trees, the files that a DICOMDIR names, ZIP files, single files.

What is found was written by others. No symbolic link below a given path is followed, no name is used to write anything,
and a ZIP is read member by member as a stream.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from angiovault.archive import filemeta
from angiovault.archive.conversion.converter import ConversionError
from angiovault.archive.data_set_walk import BIG_ENDIAN, EXPLICIT, IMPLICIT, Kind, walk
from angiovault.archive.exchange.own_storage import lies_in, objection
from angiovault.archive.store import Store

SKIPPED: Final = "skipped"
FAILED: Final = "failed"

MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
"""SOP Class of a DICOMDIR (PS3.10 8.6)."""

ZIP_FAULTS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,  # NotImplementedError is one, too
)
"""What Python's zipfile raises on a ZIP that is damaged, hostile or of a kind that it does not know."""

_NOT_LOOKED_INTO: Final = frozenset({"@eaDir", "#recycle", "#snapshot"})
_LINK: Final = "a symbolic link, not followed"
_ENCODINGS: Final = {
    "1.2.840.10008.1.2": IMPLICIT,
    "1.2.840.10008.1.2.1": EXPLICIT,
    "1.2.840.10008.1.2.2": BIG_ENDIAN,
}
_RECORD_IN_USE_FLAG, _REFERENCED_FILE_ID = 0x00041410, 0x00041500
_LONGEST_FILE_ID: Final = 4096
_LONGEST_ZIP_READ: Final = 32 << 20
"""Bytes; the list of contents is read at once, and takes about ten times as much memory."""
_BOMB_SIZE, _BOMB_RATIO = 64 << 20, 200


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an open ZIP file."""

    zip: zipfile.ZipFile
    info: zipfile.ZipInfo


@dataclass(frozen=True, slots=True)
class Source:
    """Something that may be an instance; `outcome` and `reason` are set when it will not be looked at.

    Attributes
    ----------
    name : str
        What people are told; not to be used as a path.
    path : Path
        The file on disk: a ZIP file for its members.
    removable : bool
        Whether the file may be taken over. What a DICOMDIR or a ZIP file holds is only ever copied, for they would lie
        afterwards.
    """

    name: str
    path: Path
    member: Member | None = None
    removable: bool = False
    outcome: str = ""
    reason: str = ""

    def open(self) -> BinaryIO:
        """Open it for reading.

        Raises
        ------
        OSError, ValueError
            When it cannot be read, or should not be; for a member any of `faults`.
        """
        if self.member is None:
            return open_regular(self.path)
        refuse_bomb(self.member.info, self.path.stat().st_size)
        return cast(BinaryIO, self.member.zip.open(self.member.info))

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """What opening and reading it can raise."""
        return (OSError, ValueError) if self.member is None else ZIP_FAULTS

    @property
    def key(self) -> str:
        """What tells it from every other source."""
        return str(self.path) if self.member is None else f"{self.path}\0{self.member.info.header_offset}"


def find_sources(paths: Iterable[Path], store: Store | None = None, taking_over: bool = False) -> Iterator[Source]:
    """Yield what may be instances in files, folders, DICOMDIRs and ZIP files; nothing of the archive `store` itself."""
    for path in paths:
        yield from _Finder(store, taking_over).given(path)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; never through a symbolic link, and without waiting for the other end of a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("neither a file nor a folder")
    return os.fdopen(descriptor, "rb")


def refuse_bomb(info: zipfile.ZipInfo, zip_size: int) -> None:
    """Raise ValueError for a member that inflates beyond reason, or that cannot be inflated in bounded memory."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("packed by a method that DICOM does not use (PS3.12 V): unpack it and import the files")
    if info.flag_bits & 1:
        raise ValueError("encrypted: unpack it and import the files")
    if info.file_size > _BOMB_SIZE and info.file_size > _BOMB_RATIO * min(info.compress_size, zip_size):
        raise ValueError(
            f"would inflate to {info.file_size} bytes, more than {_BOMB_RATIO} times its size: if that is right, "
            "unpack it and import the files"
        )


class _Finder:
    def __init__(self, store: Store | None, taking_over: bool) -> None:
        self._store = store
        self._taking_over = taking_over

    def given(self, given: Path) -> Iterator[Source]:
        """Yield what a path named by a person leads to; that one may be a symbolic link."""
        try:
            path = given.resolve(strict=True)
            reason = self._objection_to_given(path)
            is_folder = path.is_dir()
            special = "" if is_folder or reason else _kind(path)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
            yield _failed(given, error)
            return
        if reason:
            yield Source(str(given), path, outcome=FAILED, reason=reason)
        elif is_folder:
            yield from self._tree(path)
        elif special == "zip":
            yield from _members(path)
        elif special == "directory":
            yield from _Referenced(path).sources()
        else:
            yield Source(str(path), path, removable=not given.is_symlink())

    def _objection_to_given(self, path: Path) -> str:
        if self._store is None:
            return ""
        if lies_in(self._store, path):
            return "lies in the storage of the archive itself; `angiovault reindex` indexes what is there"
        reasons = (objection(self._store, folder, self._taking_over) for folder in path.parents)
        return next(filter(None, reasons), "")

    def _tree(self, root: Path) -> Iterator[Source]:
        pending = [root]
        while pending:
            folder = pending.pop()
            try:
                reason = objection(self._store, folder, self._taking_over) if self._store else ""
                entries = [] if reason else _entries(folder)
            except OSError as error:
                yield _failed(folder, error)
                continue
            if reason:
                yield Source(str(folder), folder, outcome=SKIPPED, reason=reason)
            folders = []
            for path, mode in entries:
                if stat.S_ISDIR(mode):
                    folders.append(path)
                elif stat.S_ISREG(mode) and path.name.lower().endswith(".zip"):
                    yield from _members(path)
                elif stat.S_ISREG(mode):
                    yield Source(str(path), path, removable=True)
                else:
                    reason = _LINK if stat.S_ISLNK(mode) else "neither a file nor a folder"
                    yield Source(str(path), path, outcome=SKIPPED, reason=reason)
            pending += reversed(folders)


def _failed(path: Path, error: Exception) -> Source:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Source(str(path), path, outcome=FAILED, reason=f"cannot be read: {reason}")


def _entries(folder: Path) -> list[tuple[Path, int]]:
    """Return paths and kinds (as in `st_mode`) of what is in a folder, without what is hidden, sorted by name."""
    with os.scandir(folder) as listed:
        found = sorted((entry.name, _mode(entry)) for entry in listed if not _is_hidden(entry.name))
    return [(folder / name, mode) for name, mode in found]


def _mode(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_LOOKED_INTO


def _kind(path: Path) -> str:
    """Return "directory" for a DICOMDIR, "zip" for a ZIP file, '' for anything else."""
    with open_regular(path) as file:
        start = file.read(132)
        if start[128:] == b"DICM":
            file.seek(0)
            try:
                return "directory" if filemeta.read(file).sop_class_uid == MEDIA_STORAGE_DIRECTORY else ""
            except filemeta.NotDicom:
                return ""  # said when it is imported
    return "zip" if start.startswith((b"PK\3\4", b"PK\5\6")) else ""


# ---- ZIP files (PS3.12 V)


class _Frugal(io.BufferedReader):
    """A file that no lying length makes read into memory without bounds."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(_LONGEST_ZIP_READ + 1 if size is None or size < 0 else min(size, _LONGEST_ZIP_READ + 1))
        if len(data) > _LONGEST_ZIP_READ:
            raise ValueError(
                f"its list of contents is longer than {_LONGEST_ZIP_READ >> 20} MiB: unpack it and import the files"
            )
        return data


def _members(path: Path) -> Iterator[Source]:
    """Yield the files in a ZIP file; their names lead nowhere, as nothing is unpacked."""
    try:
        file = _Frugal(open_regular(path).detach())  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        yield _failed(path, error)
        return
    with file:
        try:
            opened = zipfile.ZipFile(file)
        except ZIP_FAULTS as error:
            yield _failed(path, error)
            return
        with opened:
            for info in opened.infolist():
                parts = [part for part in info.filename.split("/") if part not in ("", ".", "..")]
                if not info.is_dir() and not any(map(_is_hidden, parts)):
                    yield Source(f"{path}:{info.filename}", path, Member(opened, info))


# ---- DICOMDIR (PS3.3 F, PS3.10 8)


class _Referenced:
    """The files that the records of a DICOMDIR name; never outside its folder, never through a symbolic link."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listed: dict[Path, dict[str, str]] = {}

    def sources(self) -> Iterator[Source]:
        """Yield each file once, and at the end why the DICOMDIR could not be read to its end."""
        seen: set[bytes] = set()
        try:
            with open_regular(self._path) as file:
                for file_id in _file_ids(file):
                    if file_id not in seen:
                        seen.add(file_id)
                        yield self._source(file_id)
        except (OSError, ValueError, ConversionError) as error:
            yield _failed(self._path, error)

    def _source(self, file_id: bytes) -> Source:
        parts = [part.strip(" ") for part in os.fsdecode(file_id.rstrip(b" \0")).split("\\")]
        name = f"{self._path}:{'/'.join(parts)}"
        if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
            return Source(name, self._path, outcome=FAILED, reason="the DICOMDIR names a file outside its folder")
        path = self._path.parent
        try:
            for part in parts:
                path = self._entry(path, part)
                if path.is_symlink():
                    return Source(name, path, outcome=SKIPPED, reason=_LINK)
        except FileNotFoundError:
            return Source(name, path, outcome=FAILED, reason="the DICOMDIR names it, but it is not there")
        except OSError as error:
            return Source(name, path, outcome=FAILED, reason=f"cannot be read: {error.strerror}")
        return Source(str(path), path)

    def _entry(self, folder: Path, part: str) -> Path:
        """Find a component of a File ID: in capitals on a CD, but perhaps not where that is mounted or copied to."""
        exact = folder / part
        if os.path.lexists(exact):
            return exact
        if folder not in self._listed:
            self._listed[folder] = {_plain(name): name for name in os.listdir(folder)}
        found = self._listed[folder].get(_plain(part))
        if found is None:
            raise FileNotFoundError(part)
        return folder / found


def _plain(name: str) -> str:
    """Return a file name without case, and without the version that ISO 9660 adds."""
    return name.casefold().removesuffix(";1").rstrip(".")


def _file_ids(file: BinaryIO) -> Iterator[bytes]:
    meta = filemeta.read(file)
    if meta.transfer_syntax not in _ENCODINGS:
        raise ValueError(f"a DICOMDIR in transfer syntax {meta.transfer_syntax}, but it is never compressed")
    in_use = True
    size = os.fstat(file.fileno()).st_size
    for step in walk(file, meta.offset, size, _ENCODINGS[meta.transfer_syntax]):
        if step.kind is Kind.ITEM:
            in_use = True
        elif step.kind is Kind.VALUE and step.tag == _RECORD_IN_USE_FLAG:
            file.seek(step.offset)
            in_use = file.read(min(step.length, 2)) != b"\0\0"  # PS3.3 F.3.2.2: 0 for a record that was removed
        elif step.kind is Kind.VALUE and step.tag == _REFERENCED_FILE_ID and in_use and step.length:
            file.seek(step.offset)
            yield file.read(min(step.length, _LONGEST_FILE_ID))
