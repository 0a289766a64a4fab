"""Bringing files in that did not come over the network: copied, or taken over, with every byte of their data sets."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from angiovault.archive import filemeta
from angiovault.archive.archive import LOST, SET_ASIDE, Archive, DatasetMismatch, Receipt, Reception
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
from angiovault.archive.incoming import now
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import NoRoom, StorageError, Store

log = logging.getLogger(__name__)

DONE_BEFORE: Final = "done before"

_CHUNK: Final = 1 << 20
_REST_SECONDS: Final = 5.0
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_LONGEST_AE_TITLE: Final = 16
_TOGETHER: Final = 48
_BYTES_TOGETHER: Final = 32 << 20

Watch = Callable[[], None]


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


def _nobody() -> None:
    """Watch nothing."""


def count_files(paths: Iterable[Path], store: Store | None = None, watch: Watch = _nobody) -> int:
    """Return how many sources `import_paths` will look at, without opening more than the ZIP files and DICOMDIRs.

    Parameters
    ----------
    paths : iterable of Path
        What is to be imported.
    store : Store, optional
        The storage into which, which is passed over itself.
    watch : Callable
        Is called for each source, and may end the counting by raising.
    """
    total = 0
    for _ in find_sources(paths, store):
        total += 1
        watch()
    return total


def import_paths(
    archive: Archive, paths: Iterable[Path], move: bool = False, watch: Watch = _nobody
) -> Iterator[Imported]:
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
    watch : Callable
        Is called many times a second, and may end the work by raising: the instances that are not durable by then
        leave nothing behind.

    Yields
    ------
    Imported
        One for every source, in order, when it is durable.

    Raises
    ------
    StorageError
        When the archive can take in nothing more: the storage is full, or away.
    """
    archive.check()
    try:
        with ImportedBefore(archive.store) as before, contextlib.closing(_Line(archive, before)) as line:
            try:
                for source in find_sources(paths, archive.store, move):
                    line.add(_begin(archive, source, before, line, move, watch))
                    yield from line.results(_TOGETHER)
                line.keep()
            except StorageError:
                yield from line.results()
                raise
            yield from line.results()
    finally:
        archive.rest(_REST_SECONDS)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A source that has been read whole."""

    uid: str
    source: Source
    state: _State
    size: int
    taking_over: bool
    reception: Reception


class _Line:
    """Sources on their way: first read, then made durable many together, then settled while the next are read.

    One after the other would cost a sync and a commit of the index for each.
    """

    def __init__(self, archive: Archive, before: ImportedBefore) -> None:
        self._archive = archive
        self._before = before
        self._read: list[_Taken | Imported] = []
        self._kept: deque[tuple[_Taken, Receipt] | Imported] = deque()

    def add(self, item: _Taken | Imported) -> None:
        """Join the line."""
        self._read.append(item)
        taken = [one.size for one in self._read if isinstance(one, _Taken)]
        if len(self._read) >= _TOGETHER or sum(taken) >= _BYTES_TOGETHER:
            self.keep()

    def has(self, sop_instance_uid: str) -> bool:
        """Return whether an instance is on its way."""
        kept = (item[0] for item in self._kept if isinstance(item, tuple))
        read = (item for item in self._read if isinstance(item, _Taken))
        return any(item.uid == sop_instance_uid for item in (*kept, *read))

    def keep(self) -> None:
        """Make durable what has been read.

        Raises
        ------
        StorageError
            When that cannot be done; what came before it in the line is durable.
        """
        try:
            for item in self._read:
                if isinstance(item, Imported):
                    self._kept.append(item)
                else:
                    with item.reception:
                        self._kept.append((item, item.reception.keep()))
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is not durable."""
        for item in self._read:
            if isinstance(item, _Taken):
                item.reception.close()
        self._read.clear()

    def results(self, but: int = 0) -> Iterator[Imported]:
        """Yield what became of those who are durable, but not of the last few, which may still be being settled."""
        while len(self._kept) > but:
            item = self._kept.popleft()
            yield item if isinstance(item, Imported) else self._result(*item)

    def _result(self, taken: _Taken, receipt: Receipt) -> Imported:
        source, outcome, reason = taken.source, receipt.outcome, ""
        if outcome == SET_ASIDE:
            return Imported(source.name, FAILED, f"in the archive, but the index does not take it: {receipt.place}")
        if outcome == LOST:
            return Imported(source.name, FAILED, "somebody else removed it from the archive's incoming folder")
        if taken.taking_over:
            reason = _remove(self._archive, source.path, taken.state, receipt)
        else:
            self._before.add(source.key, taken.state.size, taken.state.modified, receipt.place)
        return Imported(source.name, outcome, reason, receipt.size)


def _begin(
    archive: Archive, source: Source, before: ImportedBefore, line: _Line, move: bool, watch: Watch
) -> _Taken | Imported:
    """Read a source."""
    if source.outcome:
        return Imported(source.name, source.outcome, source.reason)
    taking_over = move and source.removable
    reception: Reception | None = None
    try:
        with source.open() as file:
            state = _State.of(os.fstat(file.fileno()) if source.member is None else source.path.stat())
            if not taking_over and before.holds(source.key, state.size, state.modified):
                return Imported(source.name, DONE_BEFORE)
            reception = _take(archive, file, line, watch)
    except _NoInstance as what:
        return Imported(source.name, SKIPPED, str(what))
    except source.faults as error:
        if reception is not None:  # its source could not be closed
            reception.close()
        return Imported(source.name, FAILED, str(error) or type(error).__name__)
    return _Taken(reception.sop_instance_uid, source, state, reception.size, taking_over, reception)


def _take(archive: Archive, file: BinaryIO, line: _Line, watch: Watch) -> Reception:
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
        return _copy(archive, file, meta, uids, line, watch)
    except DatasetMismatch:  # some old archives write what they like into the head: the data set counts
        return _copy(archive, file, meta, _uids_of_data_set(file, meta), line, watch)


def _uids_of_data_set(file: BinaryIO, meta: FileMeta) -> tuple[str, str]:
    scanner = DatasetScanner(meta.transfer_syntax)
    file.seek(meta.offset)
    while data := file.read(_CHUNK):
        scanner.feed(data)
    header = scanner.finish()
    return header.sop_class_uid, header.sop_instance_uid


def _copy(
    archive: Archive, file: BinaryIO, meta: FileMeta, uids: tuple[str, str], line: _Line, watch: Watch
) -> Reception:
    """Return a complete reception; whoever keeps it closes it."""
    try:
        return _copy_once(archive, file, meta, uids, line, watch)
    except NoRoom:
        if len(archive.store.folders) == 1:
            raise
        return _copy_once(archive, file, meta, uids, line, watch)  # what did not fit in the first folder


def _copy_once(
    archive: Archive, file: BinaryIO, meta: FileMeta, uids: tuple[str, str], line: _Line, watch: Watch
) -> Reception:
    file.seek(meta.offset)
    calling, received = _origin(archive, meta, uids[1], line)
    digest = hashlib.sha256() if meta.digest else None
    with contextlib.ExitStack() as stack:
        reception = stack.enter_context(archive.receive(*uids, meta.transfer_syntax, calling, received))
        while data := file.read(_CHUNK):
            reception.write(data)
            watch()
            if digest is not None:
                digest.update(data)
        if digest is not None and (found := digest.hexdigest()) != meta.digest:
            raise ValueError(f"damaged: its data set has digest {found}, its archive received {meta.digest}")
        reception.complete()
        stack.pop_all()
        return reception


def _origin(archive: Archive, meta: FileMeta, sop_instance_uid: str, line: _Line) -> tuple[str, str]:
    """Return calling AE title and time of receipt that a file of another AngioVault archive keeps; '' for the usual.

    A further version of an instance that is here gets the time of now, as the first one received stays current even
    when the index is made anew; so does one that claims to come from the future.
    """
    if not meta.digest:
        return "", ""
    calling = meta.calling[:_LONGEST_AE_TITLE]
    if not _TIME.fullmatch(meta.received) or meta.received > now() or archive.behind:
        return calling, ""
    is_on_its_way = line.has(sop_instance_uid)
    if is_on_its_way:
        line.keep()
    try:
        if is_on_its_way:
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
