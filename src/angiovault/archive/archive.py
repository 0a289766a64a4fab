"""The archive: the one door through which instances come in, are found, and are given back.

It never gives up: when the storage or the index is away its methods raise the reason, and work again by themselves when
the cause is gone. While only the index is away, instances are still taken in (files and journal).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from angiovault.archive import filemeta
from angiovault.archive.choices import Choices
from angiovault.archive.exclusion import Exclusion
from angiovault.archive.finding.selection import StoredInstance
from angiovault.archive.header import scan
from angiovault.archive.index import (
    CONFLICT,
    DUPLICATE,
    SET_ASIDE,
    STORED,
    Entry,
    Index,
    IndexUnavailable,
    SchemaTooNew,
    WrongArchive,
)
from angiovault.archive.journal import Journals
from angiovault.archive.reception import DatasetMismatch, Receipt, Reception, take_written
from angiovault.archive.settling import LOST, Settler
from angiovault.archive.store import NotMounted, StorageError, Store, as_storage_error
from angiovault.indexurl import IndexURL

log = logging.getLogger(__name__)

__all__ = ["CONFLICT", "DUPLICATE", "LOST", "SET_ASIDE", "STORED", "Archive", "DatasetMismatch", "Receipt", "Reception"]

_TOGETHER: Final = 50
_CLOSE_SECONDS: Final = 5.0
_LOOK_AGAIN: Final = 0.01
_HEAD: Final = 1 << 10  # bytes that one read has to bring: the head of a stored file is shorter


class Archive:
    """A DICOM archive in a storage root with an index.

    Parameters
    ----------
    storage : Path
        The storage root.
    index_url : IndexURL
        Where the index is.
    min_free : int
        Bytes to be left free on a storage volume.
    expected_id : str
        The id of the archive that the storage must hold, '' when it is not known. When it is, a storage without the
        archive's marker or with another's is not mounted, whatever the index says, and nothing is made in it.
    second_storage : Path, optional
        The folder in which the archive continues when the first is full.
    """

    def __init__(
        self,
        storage: Path,
        index_url: IndexURL,
        min_free: int = 0,
        expected_id: str = "",
        second_storage: Path | None = None,
    ) -> None:
        self.store = Store(storage, min_free, expected_id, second_storage)
        self.index = Index(index_url)
        self.journals = Journals(self.store.private)
        self.exclusion = Exclusion(self.store.private / "exclusion", self.store.forget_folders)
        self.settle_others: Callable[[], None] = lambda: None
        """Makes findable what other processes of the same service acknowledged; may raise StorageError."""
        self._closed = "the archive has not been opened"  # why nothing can be had from it; '' when it is open
        self._catching_up = threading.Lock()
        self._recalls = 0
        self.settler = Settler(self.store, self.index_together, self.move, self.exclusion.shared)

    # ---- being open

    def open(self, create: bool = True, hold: Callable[[], None] = lambda: None, alone: bool = False) -> None:
        """Find storage and index, make them when neither is there yet, and check that they belong together.

        What an earlier run acknowledged and did not settle is settled now.

        Parameters
        ----------
        create : bool
            Whether a new archive may be made, and the second folder be made or let go.
        hold : Callable
            Is called when the storage was found and is not used yet, and may raise to keep it so.
        alone : bool
            Whether to look after what any process acknowledged, not only after what dead ones left.

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
        self.recover("all" if alone else "dead or us")

    def recover(self, whose: str = "dead") -> None:
        """Let be settled what other processes acknowledged and did not settle, see `IncomingFolder.waiting`."""
        self.settler.recover(self.store.incoming.waiting(whose))

    def inspect(self) -> None:
        """Look into storage and index as they are, of an archive that need not be open; changes nothing.

        Raises
        ------
        IndexUnavailable, StorageError
            When they cannot be looked into.
        """
        self.store.open()
        self.index.inspect(self.store.archive_id)

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
        if create:
            self.store.settle_second()
        self.store.open(archive_id)
        self.store.incoming.prepare()
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
        """Return the index when it holds everything that was acknowledged before.

        Raises
        ------
        IndexUnavailable
            When it is away, being rebuilt, or still catching up.
        NotMounted, StorageError
            When the storage is away, or what was acknowledged cannot be settled.
        """
        self.check()
        self.settle_others()
        self.settler.wait()
        self.open_index(in_doubt=True).require_complete()
        if self.behind and (left := self.catch_up()):
            raise IndexUnavailable(f"the index is catching up with {left} instances that came while it was away")
        return self.index

    def wait_for_others(self, seconds: float) -> int:
        """Wait until what other processes acknowledged before is settled; return how much of it is not."""
        before = set(self.store.incoming.waiting("others"))
        deadline = time.monotonic() + seconds
        while before and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
            before &= set(self.store.incoming.waiting("others"))
        return len(before)

    @property
    def behind(self) -> bool:
        """Whether instances wait in the journal."""
        return self.journals.waiting.waiting()

    def close(self) -> None:
        """Settle what was received, and close the database connections."""
        self.settler.close(_CLOSE_SECONDS)
        self.store.incoming.drop_spares()
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
        if self._closed:
            raise NotMounted(self._closed)
        return Reception(self.store, self.settler, sop_class_uid, sop_instance_uid, transfer_syntax, calling, received)

    def take_written(self, path: Path, entry: Entry, folder_is_ready: bool = False) -> Receipt:
        """Take in an instance that somebody wrote into a file of the incoming folder, see `Store.incoming_with_room`.

        Parameters
        ----------
        path : Path
            The file, sealed; it is durable and so is its name.
        entry : Entry
            What the index is to know of it; its place is that in the first folder.
        folder_is_ready : bool
            Whether another was taken into the same folder just now, so that it need not be looked at again.

        Raises
        ------
        NotMounted, NoRoom, StorageError
            When it cannot be taken in; the file is the caller's as before.
        """
        return take_written(self.store, self.settler, path, entry, folder_is_ready)

    def rest(self, seconds: float) -> None:
        """Settle what was received, at the end of an association or an import; what cannot be in time comes later."""
        with contextlib.suppress(StorageError):  # said by the settler
            self.settler.wait(seconds)
        self.store.incoming.drop_spares()

    def index_together(self, entries: Sequence[Entry]) -> list[str]:
        """Index files in their places, now or, when the index is away, through the journal; durable on return.

        Returns
        -------
        list[str]
            For each `STORED`, `DUPLICATE`, `CONFLICT`, or `SET_ASIDE` when the index does not take it.

        Raises
        ------
        StorageError
            When neither index nor journal can take them.
        """
        if not self.behind:  # else straight to the journal: no time-out of a dead database each time
            try:
                return self._index(entries)
            except IndexUnavailable as error:
                log.warning("%s; what was received waits in the journal", error)
        self.journals.waiting.append(*(entry.place for entry in entries))
        return [STORED] * len(entries)

    def _index(self, entries: Sequence[Entry]) -> list[str]:
        index = self.open_index()
        if not index.durable:
            self.journals.note_recent(*(entry.place for entry in entries))
        try:
            outcomes = index.add_together(entries)
        except IndexUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 (whatever is wrong with it, it must not hold up the others)
            if len(entries) > 1:  # only one of them may be to blame
                return [outcome for entry in entries for outcome in self._index([entry])]
            self._set_aside(entries[0].place, error)
            return [SET_ASIDE]
        for entry in (entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome == CONFLICT):
            content, received = index.current(entry.header.sop_instance_uid)
            if received >= entry.received:  # the clock was set back: an index made anew must not change its mind
                Choices(self.store).add(entry.header.sop_instance_uid, content)
        return outcomes

    def _set_aside(self, place: PurePosixPath, error: Exception) -> None:
        log.error("%s was acknowledged but cannot be indexed, a restart or `reindex` tries again: %s", place, error)
        self.journals.aside.append(place)

    def move(self, path: Path, place: PurePosixPath) -> bool:
        """Bring a file to its place where there are no hard links: return whether the place was free.

        Its only name is that in its place then, so the journal has it before.
        """
        with self._catching_up:
            if self.store.path(place).exists():
                return False
            self.journals.waiting.append(place)
            path.rename(self.store.path(place))
            return True

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
        with self.exclusion.shared():  # before `_catching_up`, as whoever settles does
            if not self._catching_up.acquire(blocking=False):
                raise IndexUnavailable("the index is catching up with instances that came while it was away")
            try:
                self._catch_up(most)
                return len(self.journals.waiting.entries())
            finally:
                self._catching_up.release()

    def _catch_up(self, most: int) -> None:
        self.open_index().require_complete()
        recalls = self._recalls
        waiting = self.journals.waiting.entries()[:most]
        done: set[PurePosixPath] = set()
        try:
            for start in range(0, len(waiting), _TOGETHER):
                places = waiting[start : start + _TOGETHER]
                self._add_again(places)
                done.update(places)
        finally:
            # A database that was restarted in between may have lost them again: once more, then.
            if done and self._recalls == recalls:
                self.journals.waiting.remove(done)
                log.info("indexed %d instances that came while the index was away", len(done))

    def _add_again(self, places: Sequence[PurePosixPath]) -> None:
        """Index files of a journal; those that cannot be are put aside, so that they do not hold up all others."""
        entries = []
        for place in places:
            if place.is_absolute() or ".." in place.parts or place.suffix != ".dcm":
                log.error("the journal's line %r is no path of an instance", str(place))
                continue
            try:
                entries.append(self.entry_of_file(place))
            except (OSError, ValueError) as error:
                self.check()  # not when the whole storage has gone away
                self._set_aside(place, error)
        if entries:
            self._index(entries)

    def entry_of_file(self, place: PurePosixPath) -> Entry:
        """Read what the index needs from a stored file.

        Raises
        ------
        OSError, ValueError
            When it cannot be read, or is no stored file of an archive.
        """
        path = self.store.path(place)
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
            file = self.store.path(instance.path).open("rb", buffering=_HEAD)
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
