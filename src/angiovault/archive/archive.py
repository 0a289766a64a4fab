"""The archive: the one door through which instances come in, are found, and are given back.

It never gives up: when the storage or the index is away its methods raise the reason, and work again by themselves when
the cause is gone. While only the index is away, instances are still taken in (files and journal).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from angiovault.archive import filemeta
from angiovault.archive.choices import Choices
from angiovault.archive.exclusion import Exclusion
from angiovault.archive.finding.selection import StoredInstance
from angiovault.archive.header import DatasetScanner, Header
from angiovault.archive.index import (
    CONFLICT,
    DUPLICATE,
    STORED,
    Entry,
    Index,
    IndexRefuses,
    IndexUnavailable,
    SchemaTooNew,
    WrongArchive,
)
from angiovault.archive.journal import Journals
from angiovault.archive.reception import DatasetMismatch, Receipt, Reception
from angiovault.archive.store import NotMounted, StorageError, Store, as_storage_error
from angiovault.indexurl import IndexURL

log = logging.getLogger(__name__)

__all__ = ["CONFLICT", "DUPLICATE", "STORED", "Archive", "DatasetMismatch", "Receipt", "Reception"]

_CHUNK: Final = 1 << 16
_TURNS: Final = 64


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
    expected_id : str
        The id of the archive that the storage must hold, '' when it is not known. When it is, a storage without the
        archive's marker or with another's is not mounted, whatever the index says, and nothing is made in it.
    """

    def __init__(self, storage: Path, index_url: IndexURL, min_free: int = 0, expected_id: str = "") -> None:
        self.store = Store(storage, min_free, expected_id)
        self.index = Index(index_url)
        self.journals = Journals(self.store.private)
        self.exclusion = Exclusion(self.store.private / "exclusion", self.store.forget_folders)
        self._closed = "the archive has not been opened"  # why nothing can be had from it; '' when it is open
        self._catching_up = threading.Lock()
        self._recalls = 0
        self._turns = [threading.Lock() for _ in range(_TURNS)]

    # ---- being open

    def open(self, create: bool = True, hold: Callable[[], None] = lambda: None) -> None:
        """Find storage and index, make them when neither is there yet, and check that they belong together.

        Parameters
        ----------
        create : bool
            Whether a new archive may be made.
        hold : Callable
            Is called when the storage was found and is not used yet, and may raise to keep it so.

        Raises
        ------
        NotMounted, StorageError
            When the storage is not there; a later call may succeed.
        SchemaTooNew, WrongArchive
            When storage and index cannot work together.
        """
        try:
            self._open(create, hold)
        except (StorageError, IndexUnavailable) as error:
            self._closed = str(error)
            raise
        self._closed = ""

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded."""
        return not self._closed

    def _open(self, create: bool, hold: Callable[[], None]) -> None:
        try:
            archive_id = self.store.read_marker()
        except NotMounted:
            if not create or self.store.expected_id:
                raise
            self._refuse_if_known()
            archive_id = self.store.create()
        self.store.open(archive_id)
        self.store.prepare()
        hold()
        self.journals.recall_aside()
        self.journals.recall_recent()
        # Two processes may come upon the same new folder: what makes a new index complete is that there is no file.
        with as_storage_error("cannot list the storage"):
            empty = next(self.store.instance_files(), None) is None
        try:
            self.index.open(archive_id, complete=empty)
        except (SchemaTooNew, WrongArchive):
            raise
        except IndexUnavailable as error:
            log.warning("%s; instances are taken in and indexed when it is back", error)

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
        """Raise the `NotMounted` or `StorageError` that keeps the archive from taking in instances, if any."""
        if self._closed:
            raise NotMounted(self._closed)
        self.store.check_mounted()

    def open_index(self, in_doubt: bool = False) -> Index:
        """Return the index when it can be asked, though it may not hold everything.

        With `in_doubt` what a database may have lost is brought back even when it is not sure that it was restarted.

        Raises
        ------
        IndexUnavailable
            When it is away.
        NotMounted, StorageError
            When the storage is away.
        """
        self.check()
        if not self.index.ready or self.index.lost_commits(in_doubt):
            self._recalls += 1
            self.journals.recall_recent()
            self.index.open(self.store.archive_id)
        return self.index

    def ready_index(self) -> Index:
        """Return the index when it holds everything that was acknowledged.

        Raises
        ------
        IndexUnavailable
            When it is away, being rebuilt, or still catching up.
        NotMounted, StorageError
            When the storage is away.
        """
        self.open_index(in_doubt=True).require_complete()
        if self.behind and (left := self.catch_up()):
            raise IndexUnavailable(f"the index is catching up with {left} instances that came while it was away")
        return self.index

    @property
    def behind(self) -> bool:
        """Whether instances wait in the journal."""
        return self.journals.waiting.waiting()

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
        return Reception(
            self.store, self.add, self.turn, sop_class_uid, sop_instance_uid, transfer_syntax, calling, received
        )

    @contextlib.contextmanager
    def turn(self, study_instance_uid: str) -> Iterator[None]:
        """Hold the lock under which an instance of a study gets its time of receipt, its place and its row.

        So both orders are the same, and the first received is the first in the index, also in one made anew. Nobody
        deletes meanwhile.
        """
        with self._turns[zlib.crc32(study_instance_uid.encode()) % _TURNS], self.exclusion.shared():
            yield

    def add(self, entry: Entry) -> str:
        """Index a file in its place, now or, when the index is away, through the journal; durable on return.

        Raises
        ------
        StorageError
            When neither index nor journal can take it.
        IndexRefuses
            When it cannot be indexed.
        """
        if self.behind:  # straight to the journal: no time-out of a dead database for each instance
            self.journals.waiting.append(entry.place)
            return STORED
        try:
            return self._index(entry)
        except IndexUnavailable as error:
            log.warning("%s; %s waits in the journal", error, entry.place)
            self.journals.waiting.append(entry.place)
            return STORED

    def _index(self, entry: Entry) -> str:
        index = self.open_index()
        if not index.durable:
            self.journals.note_recent(entry.place)
        outcome = index.add(entry)
        if outcome == CONFLICT:
            content, received = index.current(entry.header.sop_instance_uid)
            if received >= entry.received:  # the clock was set back: an index made anew must not change its mind
                Choices(self.store).add(entry.header.sop_instance_uid, content)
        return outcome

    def choose(self, sop_instance_uid: str, content: str) -> None:
        """Make a version of an instance the current one, durably.

        Raises
        ------
        LookupError
            When there is no such version.
        IndexUnavailable, StorageError
            When index or storage are not ready.
        """
        index = self.ready_index()
        with self.exclusion.shared():
            index.choose(content, sop_instance_uid)
            Choices(self.store).add(sop_instance_uid, content)

    def catch_up(self, most: int = 500) -> int:
        """Index what waits in the journal.

        Returns
        -------
        int
            How many instances still wait.

        Raises
        ------
        IndexUnavailable
            When the index is away, being rebuilt, or another thread is at it.
        NotMounted, StorageError
            When the storage is away.
        """
        if not self._catching_up.acquire(blocking=False):
            raise IndexUnavailable("the index is catching up with instances that came while it was away")
        try:
            self.open_index().require_complete()
            recalls = self._recalls
            waiting = self.journals.waiting.entries()
            done: set[PurePosixPath] = set()
            try:
                for place in waiting[:most]:
                    with self.exclusion.shared():
                        self._add_again(place)
                    done.add(place)
            finally:
                # A database that was restarted in between may have lost them again: once more, then.
                if done and self._recalls == recalls:
                    self.journals.waiting.remove(done)
                    log.info("indexed %d instances that came while the index was away", len(done))
            return len(self.journals.waiting.entries())
        finally:
            self._catching_up.release()

    def _add_again(self, place: PurePosixPath) -> None:
        """Index a file of a journal; one that cannot be is put aside, so that it does not hold up all others."""
        try:
            if place.is_absolute() or ".." in place.parts or place.suffix != ".dcm":
                log.error("the journal's line %r is no path of an instance", str(place))
                return
            self._index(self.entry_of_file(place))
        except (OSError, ValueError, IndexRefuses) as error:
            self.check()  # not when the whole storage has gone away
            log.error("%s was acknowledged but cannot be indexed, a restart or `reindex` tries again: %s", place, error)
            self.journals.aside.append(place)

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
