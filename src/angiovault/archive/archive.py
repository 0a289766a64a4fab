"""The archive: the one door through which instances come in, are found, and are given back.

It never gives up: when the storage or the index is away its methods raise the reason, and work again by themselves when
the cause is gone. While only the index is away, instances are still taken in (files and journal).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Final

from angiovault.archive import filemeta, layout
from angiovault.archive.header import DatasetScanner, Header
from angiovault.archive.index import CONFLICT, DUPLICATE, STORED, Entry, Index, IndexUnavailable
from angiovault.archive.journal import Journal
from angiovault.archive.selection import StoredInstance
from angiovault.archive.store import Incoming, NotMounted, StorageError, Store
from angiovault.indexurl import IndexURL

log = logging.getLogger(__name__)

__all__ = ["CONFLICT", "DUPLICATE", "STORED", "Archive", "DatasetMismatch", "Receipt", "Reception"]

_CHUNK: Final = 1 << 16


class DatasetMismatch(ValueError):
    """The data set is another instance, or of another class, than its sender says."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an instance: `STORED`, `DUPLICATE` or `CONFLICT`, and what it is."""

    outcome: str
    header: Header
    digest: str
    size: int
    place: PurePosixPath


class Archive:
    """A DICOM archive in a storage root with an index.

    Parameters
    ----------
    storage : Path
        The storage root.
    index_url : IndexURL
        Where the index is.
    min_free : int
        Bytes to be left free on the storage volume.
    """

    def __init__(self, storage: Path, index_url: IndexURL, min_free: int = 0) -> None:
        self.store = Store(storage, min_free)
        self.index = Index(index_url)
        self.journal = Journal(self.store.private / "journal")
        self._opened = False
        self._behind = True  # whether what comes has to go through the journal
        self._lock = threading.Lock()

    # ---- being open

    def open(self, create: bool = True) -> bool:
        """Find storage and index, make them when neither is there yet, and check that they belong together.

        Parameters
        ----------
        create : bool
            Whether a new archive may be made.

        Returns
        -------
        bool
            Whether the index is new although the storage is not, so that it has to be rebuilt.

        Raises
        ------
        NotMounted, StorageError
            When the storage is not there; a later call may succeed.
        SchemaTooNew, WrongArchive
            When storage and index cannot work together.
        """
        made = False
        try:
            archive_id = self.store.read_marker()
        except NotMounted:
            if not create:
                raise
            self._refuse_if_known()
            archive_id = self.store.create()
            made = True
        self.store.open(archive_id)
        self._opened = True
        try:
            new_index = self.index.open(archive_id)
            self._behind = bool(self.journal.entries())
            return new_index and not made
        except IndexUnavailable as error:
            log.warning("%s; instances are taken in and indexed when it is back", error)
            return False

    def _refuse_if_known(self) -> None:
        """Raise the missing marker's `NotMounted` unless it is sure that no archive has been here."""
        try:
            known = self.index.archive_id()
        except IndexUnavailable as error:
            raise NotMounted(
                f"{self.store.root} holds no archive, and whether it should cannot be asked: {error}"
            ) from error
        if known:
            raise NotMounted(
                f"{self.store.root} does not hold archive {known}, to which the index {self.index.url.redacted()} "
                "belongs: mount the volume or correct the storage setting. A new archive needs a new index."
            )

    def check(self) -> None:
        """Raise what keeps the archive from taking in instances: `NotMounted`, `StorageError`; nothing when all is well."""
        if not self._opened:
            self.open()
        self.store.check_mounted()

    def ready_index(self) -> Index:
        """Return the index when it holds everything that was acknowledged.

        Raises
        ------
        IndexUnavailable
            When it is away, or still catching up.
        NotMounted, StorageError
            When the storage is away.
        """
        self.check()
        if self._behind and self.catch_up():
            raise IndexUnavailable("the index is catching up with instances that came while it was away")
        return self.index

    @property
    def behind(self) -> bool:
        """Whether instances wait in the journal, or may."""
        return self._behind

    def close(self) -> None:
        """Close the database connections."""
        self.index.close()

    # ---- receiving

    def receive(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str, calling: str, received: str = ""
    ) -> Reception:
        """Begin to take in an instance.

        Raises
        ------
        ValueError
            When the transfer syntax is not one of files.
        NotMounted, NoRoom, StorageError
            When nothing can be taken in.
        """
        self.check()
        return Reception(self, sop_class_uid, sop_instance_uid, transfer_syntax, calling, received)

    def add(self, entry: Entry) -> str:
        """Index a file in its place, now or, when the index is away, through the journal; durable on return.

        Raises
        ------
        StorageError
            When neither index nor journal can take it.
        """
        with self._lock:
            if self._behind:  # straight to the journal: no time-out of a dead database for each instance
                self.journal.append(entry.place)
                return STORED
        try:
            return self.index.add(entry)
        except IndexUnavailable as error:
            log.warning("%s; %s waits in the journal", error, entry.place)
            return self._later(entry)

    def _later(self, entry: Entry) -> str:
        with self._lock:
            self._behind = True
            self.journal.append(entry.place)
        return STORED

    def catch_up(self, most: int = 1000) -> int:
        """Index what waits in the journal.

        Returns
        -------
        int
            How many instances still wait.

        Raises
        ------
        IndexUnavailable
            When the index is away.
        """
        self.check()
        self.index.open(self.store.archive_id)
        waiting = self.journal.entries()
        done: set[PurePosixPath] = set()
        for place in waiting[:most]:
            try:
                self.index.add(self.entry_of_file(place))
                done.add(place)
            except FileNotFoundError:
                log.error("%s waits in the journal but its file is gone", place)
                done.add(place)
            except (OSError, ValueError) as error:
                log.error("%s waits in the journal but cannot be read: %s", place, error)
        if done:
            self.journal.remove(done)
            log.info("indexed %d instances that came while the index was away", len(done))
        with self._lock:
            left = len(self.journal.entries())
            self._behind = left > 0
        return left

    def entry_of_file(self, place: PurePosixPath) -> Entry:
        """Read what the index needs from a stored file.

        Raises
        ------
        OSError, ValueError
            When it cannot be read, or is no stored file of an archive.
        """
        path = self.store.root / place
        with path.open("rb") as file:
            meta = filemeta.read(file)
            if not meta.digest:
                raise filemeta.NotDicom("the file has no digest of an archive in its head")
            header = scan(file, meta.transfer_syntax)
            size = os.fstat(file.fileno()).st_size - meta.offset
        return Entry(header, meta.digest, size, place, meta.received, meta.calling)

    # ---- giving back

    @contextlib.contextmanager
    def open_instance(self, instance: StoredInstance) -> Iterator[tuple[BinaryIO, int]]:
        """Open a stored instance: file positioned at the data set, and the data set's length in bytes.

        Raises
        ------
        StorageError, NotMounted
            When the file cannot be read.
        """
        self.check()
        try:
            file = (self.store.root / instance.path).open("rb", buffering=0)
        except OSError as error:
            raise StorageError(f"cannot read {instance.path}: {error.strerror}") from error
        with file:
            try:
                meta = filemeta.read(file)
            except filemeta.NotDicom as error:
                raise StorageError(f"{instance.path} is damaged: {error}") from error
            length = os.fstat(file.fileno()).st_size - meta.offset
            if length != instance.size or meta.digest != instance.digest:
                raise StorageError(f"{instance.path} is damaged: it is not the file that was stored")
            yield file, length


class Reception:
    """One instance on its way in; a context manager that leaves nothing behind unless `finish` has returned."""

    def __init__(
        self,
        archive: Archive,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
        calling: str,
        received: str,
    ) -> None:
        self._archive = archive
        self._sop_class_uid = sop_class_uid
        self._sop_instance_uid = sop_instance_uid
        self._calling = calling
        self._scanner = DatasetScanner(transfer_syntax)
        self._incoming: Incoming = archive.store.begin(
            sop_class_uid, sop_instance_uid, transfer_syntax, calling, received
        )

    def __enter__(self) -> Reception:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._incoming.discard()

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the data set.

        Raises
        ------
        NoRoom, StorageError
            When they cannot be kept.
        """
        self._incoming.write(data)
        self._scanner.feed(data)

    def finish(self) -> Receipt:
        """Make the instance durable and findable.

        Raises
        ------
        HeaderError
            When the head of the data set cannot be read.
        DatasetMismatch
            When it is another instance than was said.
        NoRoom, StorageError, NotMounted
            When it cannot be kept.
        """
        header = self._scanner.finish()
        said = (self._sop_class_uid, self._sop_instance_uid)
        found = (header.sop_class_uid, header.sop_instance_uid)
        if found != said:
            raise DatasetMismatch(f"the data set is {found[1]} of class {found[0]}, announced was {said[1]} of {said[0]}")
        incoming = self._incoming
        incoming.sync()
        digest = incoming.digest()
        place = layout.place(header, digest)
        if not incoming.settle(place):
            self._check_twin(place, digest)
        entry = Entry(header, digest, incoming.size, place, incoming.received, self._calling)
        return Receipt(self._archive.add(entry), header, digest, incoming.size, place)

    def _check_twin(self, place: PurePosixPath, digest: str) -> None:
        """Make sure that the file which is there already can stand for this one; if it is damaged, put it aside."""
        path = self._archive.store.root / place
        try:
            with path.open("rb") as file:
                meta = filemeta.read(file)
                sound = meta.digest == digest and os.fstat(file.fileno()).st_size - meta.offset == self._incoming.size
        except (OSError, filemeta.NotDicom):
            sound = False
        if not sound:
            log.error("%s is damaged and was replaced by what was received again", place)
            self._archive.store.replace_damaged(self._incoming.path, place)


def scan(file: BinaryIO, transfer_syntax: str) -> Header:
    """Read the header of a data set from a file positioned at it; values that are not needed are passed over.

    Raises
    ------
    HeaderError
        When the head cannot be read.
    """
    scanner = DatasetScanner(transfer_syntax)
    end = os.fstat(file.fileno()).st_size
    while data := file.read(_CHUNK):
        scanner.feed(data)
        step = min(scanner.skippable, end - file.tell())
        file.seek(step, os.SEEK_CUR)
        scanner.skip(step)
    return scanner.finish()
