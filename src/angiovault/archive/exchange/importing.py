"""Bringing files in that did not come over the network: copied, or taken over, with every byte of their data sets."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from angiovault.archive import filemeta
from angiovault.archive.archive import SET_ASIDE, Archive, DatasetMismatch, Receipt
from angiovault.archive.exchange.import_sources import (
    FAILED,
    MEDIA_STORAGE_DIRECTORY,
    SKIPPED,
    Source,
    find_sources,
)
from angiovault.archive.exchange.imported_before import ImportedBefore
from angiovault.archive.filemeta import FileMeta
from angiovault.archive.finding.selection import versions
from angiovault.archive.header import DatasetScanner, is_uid
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import NoRoom, StorageError

log = logging.getLogger(__name__)

DONE_BEFORE: Final = "done before"

_CHUNK: Final = 1 << 20
_REST_SECONDS: Final = 5.0
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_LONGEST_AE_TITLE: Final = 16


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one source.

    Attributes
    ----------
    source : str
        The file, or file and member of a ZIP.
    outcome : str
        ``stored``, ``duplicate`` or ``conflict`` as in a `Receipt`; ``done before`` when an earlier import took the
        unchanged file; ``skipped`` for what is no instance; ``failed``.
    reason : str
        Why it was skipped or failed, or why a file to be taken over was left where it was.
    size : int
        Bytes of the data set that was taken in.
    """

    source: str
    outcome: str
    reason: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class _State:
    """By what a file is known to be the same and unchanged."""

    device: int
    number: int
    size: int
    modified: int

    @classmethod
    def of(cls, found: os.stat_result) -> _State:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class _NoInstance(Exception):
    """The file is nothing to be imported; the text says what it is instead."""


def count_files(paths: Iterable[Path]) -> int:
    """Return how many sources `import_paths` will look at, without opening more than the ZIP files and DICOMDIRs."""
    return sum(1 for _ in find_sources(paths))


def import_paths(archive: Archive, paths: Iterable[Path], move: bool = False) -> Iterator[Imported]:
    """Take in the instances in files, folder trees, DICOMDIRs and ZIP files.

    Running it again goes on quickly: what was imported and has not changed since is not read again.

    Parameters
    ----------
    archive : Archive
        The opened archive.
    paths : iterable of Path
        What to import. Below a folder, hidden files, ``@eaDir`` and ``#recycle`` and symbolic links are left out.
    move : bool
        Whether to take the files over: each is removed when it is durable in the archive. What a DICOMDIR or a ZIP file
        given for itself holds is copied all the same.

    Yields
    ------
    Imported
        One for every source, when it is durable.

    Raises
    ------
    StorageError
        When the archive can take in nothing more: the storage is full, or away.
    """
    archive.check()
    try:
        with ImportedBefore(archive.store) as before:
            for source in find_sources(paths, archive.store, move):
                yield _import(archive, source, before, move)
    finally:
        archive.rest(_REST_SECONDS)


def _import(archive: Archive, source: Source, before: ImportedBefore, move: bool) -> Imported:
    if source.outcome:
        return Imported(source.name, source.outcome, source.reason)
    taking_over = move and source.removable
    try:
        with source.open() as file:
            state = _State.of(os.fstat(file.fileno()) if source.member is None else source.path.stat())
            if not taking_over and before.holds(source.key, state.size, state.modified):
                return Imported(source.name, DONE_BEFORE)
            receipt = _take(archive, file)
    except _NoInstance as what:
        return Imported(source.name, SKIPPED, str(what))
    except source.faults as error:
        return Imported(source.name, FAILED, str(error) or type(error).__name__)
    outcome, reason = receipt.outcome, ""
    if outcome == SET_ASIDE:
        return Imported(source.name, FAILED, f"in the archive, but the index does not take it: {receipt.place}")
    if taking_over:
        reason = _remove(archive, source.path, state, receipt)
    else:
        before.add(source.key, state.size, state.modified, receipt.place)
    return Imported(source.name, outcome, reason, receipt.size)


def _take(archive: Archive, file: BinaryIO) -> Receipt:
    if file.read(132)[128:] != b"DICM":
        raise _NoInstance("not a DICOM file")
    file.seek(0)
    meta = filemeta.read(file)
    if meta.sop_class_uid == MEDIA_STORAGE_DIRECTORY:
        raise _NoInstance("a DICOMDIR")
    uids = meta.sop_class_uid, meta.sop_instance_uid
    if not all(map(is_uid, uids)):
        uids = _uids_of_data_set(file, meta)
    try:
        return _copy(archive, file, meta, uids)
    except DatasetMismatch:  # some old archives write what they like into the head: the data set counts
        return _copy(archive, file, meta, _uids_of_data_set(file, meta))


def _uids_of_data_set(file: BinaryIO, meta: FileMeta) -> tuple[str, str]:
    scanner = DatasetScanner(meta.transfer_syntax)
    file.seek(meta.offset)
    while data := file.read(_CHUNK):
        scanner.feed(data)
    header = scanner.finish()
    return header.sop_class_uid, header.sop_instance_uid


def _copy(archive: Archive, file: BinaryIO, meta: FileMeta, uids: tuple[str, str]) -> Receipt:
    try:
        return _copy_once(archive, file, meta, uids)
    except NoRoom:
        if len(archive.store.folders) == 1:
            raise
        return _copy_once(archive, file, meta, uids)  # what did not fit in the first folder goes into the second


def _copy_once(archive: Archive, file: BinaryIO, meta: FileMeta, uids: tuple[str, str]) -> Receipt:
    file.seek(meta.offset)
    calling, received = _origin(archive, meta, uids[1])
    digest = hashlib.sha256() if meta.digest else None
    with archive.receive(*uids, meta.transfer_syntax, calling, received) as reception:
        while data := file.read(_CHUNK):
            reception.write(data)
            if digest is not None:
                digest.update(data)
        if digest is not None and (found := digest.hexdigest()) != meta.digest:
            raise ValueError(f"damaged: its data set has digest {found}, its archive received {meta.digest}")
        return reception.finish()


def _origin(archive: Archive, meta: FileMeta, sop_instance_uid: str) -> tuple[str, str]:
    """Return calling AE title and time of receipt that a file of another AngioVault archive keeps; '' for the usual.

    A further version of an instance that is here gets the time of now, as the first one received stays current even
    when the index is made anew; so does one that claims to come from the future.
    """
    if not meta.digest:
        return "", ""
    calling = meta.calling[:_LONGEST_AE_TITLE]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if not _TIME.fullmatch(meta.received) or meta.received > now or archive.behind:
        return calling, ""
    try:
        archive.settler.wait()
        known = versions(archive.index, sop_instance_uid)
    except (IndexUnavailable, StorageError):
        return calling, ""
    return calling, "" if known else meta.received


def _remove(archive: Archive, path: Path, state: _State, receipt: Receipt) -> str:
    """Remove a source file that is in the archive; return why it was left instead, '' when it is gone."""
    reason = ""
    placed = archive.store.path(receipt.place)
    try:
        if _State.of(path.lstat()) != state:
            reason = "it was changed meanwhile"
        elif path.samefile(placed):
            reason = "it is the archive's own file"
        else:
            path.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        reason = f"in the archive, but not removed: {reason}"
        log.warning("%s: %s", path, reason)
    return reason
