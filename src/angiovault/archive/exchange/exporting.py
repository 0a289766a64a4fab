"""Copying instances out as files, unchanged from the first byte to the last: into a folder or a ZIP file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import secrets
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Final, cast

from angiovault.archive import layout
from angiovault.archive.archive import Archive
from angiovault.archive.durable import fsync_directory
from angiovault.archive.exchange.dicomdir import Directory, further_keys
from angiovault.archive.exchange.own_storage import lies_in
from angiovault.archive.finding.selection import Selection, StoredInstance, instances
from angiovault.archive.header import DatasetScanner, Header, HeaderError
from angiovault.archive.store import NotMounted, StorageError
from angiovault.archive.verifying import sound

log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 20
_DICOMDIR: Final = PurePosixPath("DICOMDIR")
_UNCOMPRESSED: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
_EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
_PROFILES: Final = {
    "STD-GEN-CD": {_EXPLICIT_LITTLE},
    "STD-GEN-DVD-JPEG and STD-GEN-USB-JPEG": {_EXPLICIT_LITTLE, *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 70))},
    "STD-GEN-DVD-J2K and STD-GEN-USB-J2K": {_EXPLICIT_LITTLE, *(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91))},
}
"""Media application profiles (PS3.11 D, H, J) and the transfer syntaxes they allow."""


class CannotExport(Exception):
    """Nothing, or nothing more, can be exported; the text says why."""


class NothingFound(CannotExport, LookupError):
    """The archive holds nothing under a UID."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One instance: where its copy lies, '' or why there is none, and bytes written."""

    target: str
    problem: str = ""
    size: int = 0


def find(archive: Archive, uids: Iterable[str]) -> list[StoredInstance]:
    """Return the current instances that Study, Series or SOP Instance UIDs mean.

    Raises
    ------
    NothingFound
        When there is nothing under one of them.
    IndexUnavailable, StorageError
        When the archive cannot be asked.
    """
    index = archive.ready_index()
    found: list[StoredInstance] = []
    for uid in uids:
        for selection in (Selection(study_uids=[uid]), Selection(series_uids=[uid]), Selection(instance_uids=[uid])):
            if part := instances(index, selection):
                found += part
                break
        else:
            raise NothingFound(f"the archive holds no study, series or instance {uid}")
    return list(dict.fromkeys(found))


def export(
    archive: Archive, uids: Sequence[str], to: Path, dicomdir: bool = False, as_zip: bool = False
) -> Iterator[Exported]:
    """Copy the current versions of instances out; every digest is checked on the way.

    Parameters
    ----------
    archive : Archive
        The opened archive.
    uids : sequence of str
        Study, Series or SOP Instance UIDs.
    to : Path
        The folder to write to; made when it is not there. No file in it is overwritten.
    dicomdir : bool
        Whether to make a File-set (PS3.10 8): short names and a DICOMDIR.
    as_zip : bool
        Whether to put it all into one ZIP file in the folder.

    Yields
    ------
    Exported
        One for every instance. A ZIP file is there when all have been yielded.

    Raises
    ------
    NothingFound, CannotExport
        When a UID means nothing, or the folder cannot be written.
    IndexUnavailable, StorageError
        When the archive cannot be asked.
    """
    wanted = find(archive, uids)
    if lies_in(archive.store, to):
        raise CannotExport(f"{to} lies in the storage of the archive: choose a folder elsewhere")
    plan = list(zip(wanted, media_names(wanted) if dicomdir else readable_names(wanted), strict=True))
    directory = Directory() if dicomdir else None
    with _as_cannot_export(to), _Zip(to, zip_name(wanted)) if as_zip else _Folder(to) as target:
        target.check([path for _, path in plan] + ([_DICOMDIR] if dicomdir else []), wanted)
        written: list[StoredInstance] = []
        for instance, path in plan:
            exported = copy_out(archive, instance, path, target, directory)
            if not exported.problem:
                written.append(instance)
            yield exported
        if directory is not None and written:
            with target.create(_DICOMDIR) as file:
                file.write(directory.encode())
            _warn(written)
        if written:
            target.finish()


def copy_out(
    archive: Archive, instance: StoredInstance, path: PurePosixPath, target: _Folder | Zip, directory: Directory | None
) -> Exported:
    """Copy one instance to a path of a folder or a ZIP file, and enter it in the DICOMDIR, if there is to be one.

    Raises
    ------
    NotMounted
        When the storage is away.
    CannotExport
        When a ZIP file cannot be gone on with.
    OSError
        When the target cannot be written.
    """
    name = target.name(path)
    try:
        # A member cannot be taken out of a ZIP again, so it is read once more beforehand.
        if isinstance(target, Zip) and target.checks(instance) and not sound(archive.store, instance):
            raise StorageError(f"{instance.path} is damaged: `angiovault verify` says more")
        with archive.open_instance(instance) as (source, length):
            offset = source.tell()
            with target.create(path, instance, os.fstat(source.fileno()).st_mtime) as copy:
                header = _copy(source, offset, copy, instance, directory is not None)
            if directory is not None and header is not None:
                source.seek(0)
                directory.add(header, path.parts, further_keys(header, source, offset + length))
    except NotMounted:
        raise
    except (StorageError, HeaderError) as error:
        return Exported(name, str(error))
    return Exported(name, size=offset + length)


def _copy(source: BinaryIO, offset: int, copy: BinaryIO, instance: StoredInstance, scanning: bool) -> Header | None:
    """Copy a whole stored file, and read the header of its data set when asked to."""
    scanner = DatasetScanner(instance.transfer_syntax) if scanning else None
    digest = hashlib.sha256()
    source.seek(0)
    copy.write(_read(source, offset, instance))
    while data := _read(source, _CHUNK, instance):
        digest.update(data)
        copy.write(data)
        if scanner is not None:
            scanner.feed(data)
    if digest.hexdigest() != instance.digest:
        raise StorageError(f"{instance.path} is damaged: `angiovault verify` says more")
    return scanner.finish() if scanner is not None else None


def _read(source: BinaryIO, most: int, instance: StoredInstance) -> bytes:
    try:
        return source.read(most)
    except OSError as error:
        raise StorageError(f"cannot read {instance.path}: {error.strerror}") from error


# ---- names


def readable_names(wanted: Iterable[StoredInstance]) -> Iterator[PurePosixPath]:
    """Name the files as in the archive, without its folders of years and months."""
    for instance in wanted:
        yield PurePosixPath(*(layout.clean(part, layout.LONGEST_NAME) for part in instance.path.parts[-3:]))


def media_names(wanted: Iterable[StoredInstance]) -> Iterator[PurePosixPath]:
    """Name the files as File IDs (PS3.10 8.2): at most eight components of at most eight of A-Z, 0-9 and _."""
    studies: dict[PurePosixPath, dict[PurePosixPath, Iterator[int]]] = {}
    numbers: dict[PurePosixPath, tuple[int, int]] = {}
    for instance in wanted:
        folder = instance.path.parent
        series = studies.setdefault(folder.parent, {})
        if folder not in series:
            series[folder] = itertools.count(1)
            numbers[folder.parent] = numbers.get(folder.parent, (len(studies), 0))
            numbers[folder] = (numbers[folder.parent][0], len(series))
        study_number, series_number = numbers[folder]
        number = next(series[folder])
        yield PurePosixPath("DICOM", f"ST{study_number:06d}", f"SE{series_number:06d}", f"IM{number:06d}")


def _warn(written: Iterable[StoredInstance]) -> None:
    syntaxes = {instance.transfer_syntax for instance in written}
    met = [name for name, allowed in _PROFILES.items() if syntaxes <= allowed]
    if met:
        log.info("the File-set meets the transfer syntaxes of %s", met[0])
    else:
        log.warning(
            "the files are exported as they were received, in transfer syntaxes that no general purpose media profile "
            "allows together (%s): not every viewer will read them",
            ", ".join(sorted(syntaxes)),
        )


# ---- where to


@contextlib.contextmanager
def _as_cannot_export(to: Path) -> Iterator[None]:
    """Say what went wrong with the target; errors of the archive's own files are `StorageError` already."""
    try:
        yield
    except FileExistsError as error:
        raise CannotExport(
            f"{error.filename} is there already and is not overwritten: choose another folder"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CannotExport(f"no room left in {to}") from error
        if error.errno == errno.EFBIG:
            raise CannotExport(f"a file is too large for the file system of {to}") from error
        raise CannotExport(f"cannot write to {to}: {error.strerror or error}") from error


class _Folder:
    """A folder that files are written to, each one durable when it is closed."""

    def __init__(self, to: Path) -> None:
        self._to = to
        self._folders = {to}

    def __enter__(self) -> _Folder:
        self._to.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def name(self, path: PurePosixPath) -> str:
        return str(self._to / path)

    def check(self, paths: Iterable[PurePosixPath], wanted: Iterable[StoredInstance]) -> None:
        """Raise when a file is there already, or when there is not enough room."""
        for path in paths:
            if os.path.lexists(self._to / path):
                raise FileExistsError(errno.EEXIST, "is there already", str(self._to / path))
        volume = os.statvfs(self._to)
        need, free = sum(instance.size for instance in wanted), volume.f_bavail * volume.f_frsize
        if need > free:
            raise CannotExport(
                f"{need / 1e9:.2f} GB are to be exported, but {self._to} has room for {free / 1e9:.2f} GB"
            )

    @contextlib.contextmanager
    def create(
        self, path: PurePosixPath, instance: StoredInstance | None = None, modified: float = 0
    ) -> Iterator[BinaryIO]:
        """Give a new file to be written; whatever stops the writing, no half of it stays."""
        target = self._to / path
        target.parent.mkdir(parents=True, exist_ok=True)
        self._folders.update(self._to / parent for parent in path.parents)
        file = target.open("xb")
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            target.unlink()
            raise

    def finish(self) -> None:
        """Make the names of the files durable."""
        for folder in self._folders:
            fsync_directory(folder)


class Zip:
    """What the members of a ZIP file (PS3.12 V) are written to."""

    _zip: zipfile.ZipFile
    _uncompressed: frozenset[str] = frozenset()
    """Transfer syntaxes whose instances are worth compressing."""

    def name(self, path: PurePosixPath) -> str:
        """Return what a member is called in messages."""
        return str(path)

    def checks(self, instance: StoredInstance) -> bool:
        """Return whether an instance is to be read as a whole before its member is begun."""
        return True

    @contextlib.contextmanager
    def create(
        self, path: PurePosixPath, instance: StoredInstance | None = None, modified: float = 0
    ) -> Iterator[BinaryIO]:
        """Give a new member to be written; compressed if that is worth it."""
        year, *rest = time.localtime(modified or time.time())[:6]
        info = zipfile.ZipInfo(str(path), (min(max(year, 1980), 2107), *rest))  # type: ignore[arg-type]
        info.external_attr = 0o644 << 16
        info._compresslevel = 1  # type: ignore[attr-defined]  # without a public name before Python 3.13
        if instance is None or instance.transfer_syntax in self._uncompressed:
            info.compress_type = zipfile.ZIP_DEFLATED
        # Whether it needs the 64 bit form has to be known before; the head is longer than any that is written.
        info.file_size = 0 if instance is None else instance.size + (1 << 16)
        try:
            with self._zip.open(info, "w") as member:
                yield cast(BinaryIO, member)
        except (StorageError, HeaderError) as error:  # half a member is in the ZIP now
            raise CannotExport(f"{error}; there is no ZIP file without it") from error


class _Zip(Zip):
    """A ZIP file on disk, which gets its name when it is whole."""

    _uncompressed = _UNCOMPRESSED

    def __init__(self, to: Path, name: str) -> None:
        self._to = to
        self._target = to / name
        self._temporary = to / f".{secrets.token_hex(8)}.part"
        self._whole = False

    def __enter__(self) -> _Zip:
        self._to.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("xb")
        self._zip = zipfile.ZipFile(self._file, "w")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, ValueError):  # what counts was written, or has failed, before
            self._zip.close()
        with contextlib.suppress(OSError):
            self._file.close()
        if not self._whole:
            self._temporary.unlink()

    def name(self, path: PurePosixPath) -> str:
        return f"{self._target}:{path}"

    def check(self, paths: Iterable[PurePosixPath], wanted: Iterable[StoredInstance]) -> None:
        """Raise when the ZIP file is there already."""
        if os.path.lexists(self._target):
            raise FileExistsError(errno.EEXIST, "is there already", str(self._target))

    def finish(self) -> None:
        """Give the ZIP file its name, durably."""
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self.check([], [])
        self._temporary.rename(self._target)
        self._whole = True
        fsync_directory(self._to)


def zip_name(wanted: Sequence[StoredInstance]) -> str:
    """Name a ZIP file after the first study in it."""
    studies = list(dict.fromkeys(instance.path.parts[-3] for instance in wanted))
    more = f"_and_{len(studies) - 1}_more" if len(studies) > 1 else ""
    return f"{layout.clean(studies[0], layout.LONGEST_NAME - len(more) - 4)}{more}.zip"
