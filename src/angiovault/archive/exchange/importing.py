"""Bringing files in that did not come over the network: copied, or taken over, with every byte of their data sets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from angiovault.archive import filemeta
from angiovault.archive.archive import Archive, DatasetMismatch, Reception
from angiovault.archive.exchange.helpers import Helpers, Task
from angiovault.archive.exchange.import_line import TOGETHER, Imported, Line, Read, Taken
from angiovault.archive.exchange.import_sources import (
    FAILED,
    MEDIA_STORAGE_DIRECTORY,
    SKIPPED,
    Source,
    find_sources,
)
from angiovault.archive.exchange.imported_before import ImportedBefore
from angiovault.archive.exchange.small_files import Order, Written, write_all
from angiovault.archive.exchange.taking_over import state_of
from angiovault.archive.filemeta import FileMeta
from angiovault.archive.finding.selection import versions
from angiovault.archive.header import DatasetScanner, is_uid
from angiovault.archive.incoming import now, remove
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import NoRoom, StorageError, Store

__all__ = ["DONE_BEFORE", "Imported", "count_files", "import_paths"]

DONE_BEFORE: Final = "done before"

_CHUNK: Final = 1 << 20
_REST_SECONDS: Final = 5.0
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_LONGEST_AE_TITLE: Final = 16
_LOOK_EVERY: Final = 16
_ROOM: Final = 1 << 30
"""Bytes that must be free for small files to be written ahead, several times what that needs."""

Watch = Callable[[], None]


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
        with contextlib.ExitStack() as stack:
            before = stack.enter_context(ImportedBefore(archive.store))
            helpers = stack.enter_context(contextlib.closing(Helpers()))
            line = stack.enter_context(contextlib.closing(Line(archive, before, helpers, watch)))
            work = stack.enter_context(contextlib.closing(_Import(archive, before, helpers, line, move, watch)))
            try:
                for source in find_sources(paths, archive.store, move):
                    watch()
                    work.add(source)
                    yield from line.results()
                work.finish()
                line.keep()
                yield from line.results(all_of_them=True)
            except StorageError:
                yield from line.results(all_of_them=True)  # as far as it is known
                raise
    finally:
        archive.rest(_REST_SECONDS)


@dataclass(slots=True)
class _Batch:
    """Sources that follow one another, and the task in which the small files among them are written ahead.

    Attributes
    ----------
    items : deque
        The sources that are not in the line yet, each with its time of receipt, so that these are in the order of the
        line, and with the file into which it is written ahead, if it is small.
    task : Task
        All of the orders.
    """

    items: deque[tuple[Source, str, Path | None]]
    task: Task[Order, Written | None]


class _Import:
    """The way of the sources into the line, in their order."""

    def __init__(
        self, archive: Archive, before: ImportedBefore, helpers: Helpers, line: Line, move: bool, watch: Watch
    ) -> None:
        self._archive = archive
        self._before = before
        self._line = line
        self._move = move
        self._watch = watch
        self._helpers = helpers
        self._sources: list[Source] = []
        self._batches: deque[_Batch] = deque()

    def add(self, source: Source) -> None:
        """Take the next source."""
        if source.member is not None:  # its ZIP file is open only as long as nobody asks for the next source
            self.finish()
            self._read(source)
            return
        self._sources.append(source)
        if len(self._sources) >= TOGETHER:
            self._give()
            self._finish_but(self._helpers.ahead)
        elif len(self._sources) % _LOOK_EVERY == 0:
            self._helpers.look()

    def finish(self) -> None:
        """Bring all sources that have come into the line."""
        self._give()
        self._finish_but(0)

    def close(self) -> None:
        """End the helpers, who may be writing, and remove what is not in the line."""
        try:
            self._helpers.close()
        finally:
            for batch in self._batches:
                remove(target for _, _, target in batch.items if target is not None)

    def _give(self) -> None:
        """Let the small files among the latest sources be written ahead, if there is much room."""
        sources, self._sources = self._sources, []
        folder = self._archive.store.incoming_with_room(_ROOM)
        targets = [
            folder.name() if folder is not None and not source.outcome and not self._is_done(source) else None
            for source in sources
        ]
        items = deque((source, now(), target) for source, target in zip(sources, targets, strict=True))
        orders = [Order(str(source.path), str(target), received) for source, received, target in items if target]
        self._batches.append(_Batch(items, self._helpers.give(write_all, orders)))

    def _is_done(self, source: Source) -> bool:
        if self._takes_over(source):
            return False
        try:
            _, _, size, modified = state_of(source.path.stat())
        except OSError:  # said when it is read
            return False
        return self._before.holds(source.key, size, modified)

    def _takes_over(self, source: Source) -> bool:
        return self._move and source.removable

    def _finish_but(self, ahead: int) -> None:
        """Bring the oldest batches into the line, all but so many."""
        while len(self._batches) > ahead:
            batch = self._batches[0]
            all_written = iter(self._helpers.finish(batch.task, self._watch))
            latest = ""
            while batch.items:
                self._watch()
                source, received, target = batch.items[0]
                written = next(all_written) if target is not None else None
                if written is not None:
                    self._line.keep()
                batch.items.popleft()  # from here on its file is nobody else's to remove
                if target is None or written is None:
                    self._read(source, received)
                    continue
                folder = written.place.rpartition("/")[0]
                try:
                    self._line.take(source, self._takes_over(source), target, written, folder == latest)
                    latest = folder
                except StorageError:  # one by one it may do, or it is said why not
                    remove([target])
                    self._read(source, received)
            self._batches.popleft()

    def _read(self, source: Source, received: str = "") -> None:
        """Bring a source into the line by itself; see `_begin`."""
        self._line.add(self._begin(source, received))

    def _begin(self, source: Source, received: str) -> Read | Imported:
        """Read a source, received at the given time if that says nothing else; '' is that of its end."""
        if source.outcome:
            return Imported(source.name, source.outcome, source.reason)
        taking_over = self._takes_over(source)
        reception: Reception | None = None
        try:
            with source.open() as file:
                state = state_of(os.fstat(file.fileno()) if source.member is None else source.path.stat())
                if not taking_over and self._before.holds(source.key, *state[2:]):
                    return Imported(source.name, DONE_BEFORE)
                reception = self._take(file, received)
        except _NoInstance as what:
            return Imported(source.name, SKIPPED, str(what))
        except source.faults as error:
            if reception is not None:  # its source could not be closed
                reception.close()
            return Imported(source.name, FAILED, str(error) or type(error).__name__)
        return Read(Taken(reception.sop_instance_uid, source, state, taking_over), reception)

    def _take(self, file: BinaryIO, received: str) -> Reception:
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
            return self._copy(file, meta, uids, received)
        except DatasetMismatch:  # some old archives write what they like into the head: the data set counts
            return self._copy(file, meta, _uids_of_data_set(file, meta), received)

    def _copy(self, file: BinaryIO, meta: FileMeta, uids: tuple[str, str], received: str) -> Reception:
        """Return a complete reception; whoever keeps it closes it."""
        try:
            return self._copy_once(file, meta, uids, received)
        except NoRoom:
            if len(self._archive.store.folders) == 1:
                raise
            return self._copy_once(file, meta, uids, received)  # what did not fit in the first folder

    def _copy_once(self, file: BinaryIO, meta: FileMeta, uids: tuple[str, str], received: str) -> Reception:
        file.seek(meta.offset)
        calling, first_received = self._origin(meta, uids[1])
        digest = hashlib.sha256() if meta.digest else None
        with contextlib.ExitStack() as stack:
            reception = stack.enter_context(
                self._archive.receive(*uids, meta.transfer_syntax, calling, first_received or received)
            )
            while data := file.read(_CHUNK):
                reception.write(data)
                self._watch()
                if digest is not None:
                    digest.update(data)
            if digest is not None and (found := digest.hexdigest()) != meta.digest:
                raise ValueError(f"damaged: its data set has digest {found}, its archive received {meta.digest}")
            reception.complete()
            stack.pop_all()
            return reception

    def _origin(self, meta: FileMeta, sop_instance_uid: str) -> tuple[str, str]:
        """Return calling AE title and time of receipt that a file of another archive of ours keeps; '' for the usual.

        A further version of an instance that is here gets the time of now, as the first one received stays current even
        when the index is made anew; so does one that claims to come from the future.
        """
        if not meta.digest:
            return "", ""
        archive = self._archive
        calling = meta.calling[:_LONGEST_AE_TITLE]
        if not _TIME.fullmatch(meta.received) or meta.received > now() or archive.behind:
            return calling, ""
        is_on_its_way = self._line.has(sop_instance_uid)
        if is_on_its_way:
            self._line.keep()
        try:
            if is_on_its_way:
                archive.settler.wait()
            known = versions(archive.index, sop_instance_uid)
        except (IndexUnavailable, StorageError):
            return calling, ""
        return calling, "" if known else meta.received


def _uids_of_data_set(file: BinaryIO, meta: FileMeta) -> tuple[str, str]:
    scanner = DatasetScanner(meta.transfer_syntax)
    file.seek(meta.offset)
    while data := file.read(_CHUNK):
        scanner.feed(data)
    header = scanner.finish()
    return header.sop_class_uid, header.sop_instance_uid
