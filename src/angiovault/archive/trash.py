"""Deleting a study into the trash, restoring it and emptying the trash; nothing else in the archive removes files.

An item of the trash is a folder ``.angiovault/trash/ID``: `manifest.json` says what it is and how far it has come,
`files.json` where its files belong, and below `files` they lie in the same folders as below the storage root. They are
moved by renaming, never copied.

The manifest is synced before anything else is done, so that whatever is cut off is finished by the next run: a
deletion that has not moved all files is undone, since a device may have sent one of them again meanwhile and been told
that it is kept; everything else goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault.archive import removing
from angiovault.archive.archive import Archive
from angiovault.archive.choices import Choices
from angiovault.archive.durable import fsync_directory, make_folder, move_files
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.removing import KeptStudy
from angiovault.archive.store import StorageError, as_storage_error
from angiovault.archive.trash_items import DELETED, EMPTYING, RESTORING, TRASH, Item, Items, NoSuchItem
from angiovault.archive.verifying import check_file

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 5
_PATIENCE: Final = 3.0
_BATCH: Final = 200


class NoSuchStudy(LookupError):
    """The archive holds no study of this UID."""


class StudyChanged(Exception):
    """The study is not any more as it was when somebody decided to delete it."""


def finish_interrupted(archive: Archive) -> None:
    """Finish what a process that was killed has begun in the trash; if that cannot be done now, the log says why."""
    try:
        Trash(archive).finish_interrupted()
    except (IndexUnavailable, StorageError) as error:
        log.warning("what was interrupted in the trash cannot be finished yet: %s", error)


class Trash:
    """The trash of an opened archive.

    Parameters
    ----------
    archive : Archive
        The archive.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._place = archive.store.path
        self._folder = archive.store.private / TRASH
        self._items = Items(archive.store)

    # ---- looking

    def items(self) -> list[Item]:
        """Return what is in the trash, the latest first; what is being emptied is not there any more.

        Raises
        ------
        StorageError
            When it cannot be read, or the storage is away.
        """
        self._archive.check()
        found = []
        for folder in self._items.folders():
            try:
                found.append(self._items.get(folder.name))
            except NoSuchItem:
                continue
            except StorageError as error:  # it must not hide the others
                log.error("%s", error)
        return sorted((item for item in found if item.state != EMPTYING), key=lambda item: item.id, reverse=True)

    def item(self, number: str) -> Item:
        """Return one item.

        Raises
        ------
        NoSuchItem
            When there is none under this id.
        StorageError
            When it cannot be read, or the storage is away.
        """
        self._archive.check()
        return self._items.get(number)

    # ---- deleting

    def delete(self, study_uid: str, by: str, files: int | None = None) -> Item:
        """Put a study into the trash: all versions of all its instances.

        Parameters
        ----------
        study_uid : str
            The Study Instance UID.
        by : str
            Who wants it.
        files : int, optional
            How many files the study had when that was decided; if it has another number now, nothing is done.

        Raises
        ------
        NoSuchStudy, StudyChanged
            When there is nothing to be deleted, or something else than was looked at.
        IndexUnavailable, StorageError
            When index or storage are not ready; the study is as it was then, or becomes so with the next run at the
            latest.
        """
        with self._alone():
            # What was acknowledged just now goes with its study; what is not in its place by then stays, as a new one.
            self._archive.wait_for_others(_PATIENCE)
            try:
                return self._delete_when_ready(study_uid, by, files)
            except (IndexUnavailable, StorageError):
                with contextlib.suppress(IndexUnavailable, StorageError):
                    self._finish_all()
                raise

    def _delete_when_ready(self, study_uid: str, by: str, files: int | None) -> Item:
        for _ in range(_ATTEMPTS):
            self._archive.ready_index()
            with self._archive.exclusion.exclusive():
                index = self._archive.open_index()
                index.require_complete()
                if self._archive.behind:  # since a moment ago; whatever waits has to be in the index first
                    continue
                study = removing.study(index, study_uid)
                if study is None:
                    raise NoSuchStudy(f"the archive holds no study {study_uid}")
                if files not in (None, len(study.places)):
                    raise StudyChanged(
                        f"the study {study_uid} had {files} files when it was looked at and has "
                        f"{len(study.places)} now: look again"
                    )
                return self._delete(study, by)
        raise IndexUnavailable("the index does not catch up with what is being received: try again later")

    def _delete(self, study: KeptStudy, by: str) -> Item:
        choices = Choices(self._archive.store).all()
        places = [*study.places, *self._beside(study)]
        item = self._items.add(study, by, places, {uid: choices[uid] for uid in study.instance_uids & choices.keys()})
        removing.remove_study(self._archive.index, study.uid)
        with as_storage_error("cannot move files into the trash"):
            move_files((self._place(place), self._items.path(item, place)) for place in places)
        return self._deleted(item, places)

    def _beside(self, study: KeptStudy) -> Iterator[PurePosixPath]:
        """Yield what else lies in the study's folders: damaged files that were replaced, and what has no row.

        Another study has another folder. Should a folder be shared all the same, as its name ends in a short digest of
        the study's UID, what can be read as another study's stays.
        """
        known = set(study.places)
        for folder in sorted({place.parent.parent for place in study.places}):
            for path in _files_below(self._place(folder)):
                place = folder / path.relative_to(self._place(folder))
                if place in known or path.suffix not in (".dcm", ".damaged"):
                    continue
                try:
                    if self._archive.entry_of_file(place).header.study_instance_uid != study.uid:
                        continue
                except (OSError, ValueError):
                    log.info("%s cannot be read, and goes into the trash with its study", place)
                yield place

    def _deleted(self, item: Item, places: Sequence[PurePosixPath]) -> Item:
        """Finish a deletion whose files are all in the trash."""
        self._archive.journals.forget(set(places))
        Choices(self._archive.store).forget(self._items.choices(item))
        gone = [folder for folder in {place.parent for place in places} if self._remove_empty(folder)]
        removing.forget_folders(self._archive.open_index(), gone)
        with as_storage_error("cannot sync the incoming folder"):  # else a name there may bring a file back
            for home in self._archive.store.folders:
                fsync_directory(home.incoming.path)
        done = replace(item, state=DELETED)
        self._items.note(done)
        log.info("the study %s was put into the trash by %s: %s", item.study_uid, item.by, item.id)
        return done

    # ---- restoring

    def restore(self, number: str) -> Item:
        """Put a study back where it was.

        What has arrived of it again meanwhile stays: the same content is there once, other content is a conflict in
        which the version that is current stays so.

        Raises
        ------
        NoSuchItem
            When there is none under this id.
        IndexUnavailable, StorageError
            When index or storage are not ready, or it cannot be finished; what is left to do is done later then.
        """
        with self._alone():
            self._archive.ready_index()
            item = self.item(number)
            if item.state == EMPTYING:
                raise NoSuchItem(f"{number!r} has been emptied")
            places = self._items.places(item)
            if not any(self._items.path(item, place).exists() or self._twin_of(place) for place in places):
                raise StorageError(f"no file of {number} is there any more, neither in the trash nor in the archive")
            self._put_back(item)
        return item

    def _put_back(self, item: Item) -> None:
        """Move an item's files to their places, and have them indexed by way of the journal."""
        self._items.note(replace(item, state=RESTORING))
        places = self._items.places(item)
        taken: list[PurePosixPath] = []
        for start in range(0, len(places), _BATCH):
            batch = places[start : start + _BATCH]
            with self._archive.exclusion.exclusive(), as_storage_error("cannot put a study back"):
                self._archive.check()
                mine = [place for place in batch if self._items.path(item, place).exists()]
                free = [place for place in mine if self._twin_of(place) is None]
                taken += [place for place in mine if place not in set(free)]
                move_files((self._items.path(item, place), self._place(place)) for place in free)
                there = [place for place in batch if place.suffix == ".dcm" and self._place(place).exists()]
                if there:
                    self._archive.journals.waiting.append(*there)
            self._index_journal()  # at once, so that nobody who queries meanwhile has to wait for long
        for place in taken:
            self._settle_twin(self._items.path(item, place), place)
        self._choose_again(item)
        self._items.remove(item.id)
        log.info("the study %s was taken out of the trash: %s", item.study_uid, item.id)

    def _index_journal(self) -> None:
        """Index what waits in the journal, as far as it can be done now; whoever asks the index does the rest."""
        with contextlib.suppress(IndexUnavailable):
            while self._archive.behind and self._archive.catch_up():
                pass

    def _twin_of(self, place: PurePosixPath) -> PurePosixPath | None:
        """Return where a file of the same name, and so of the same content, is in the archive; None when it is not."""
        if self._place(place).exists():
            return place
        return self._archive.store.elsewhere(place) if place.suffix == ".dcm" else None

    def _settle_twin(self, copy: Path, place: PurePosixPath) -> None:
        """Remove a file of the trash whose content is in the archive again, unless what lies there is damaged."""
        store, twin = self._archive.store, self._twin_of(place)
        sound = twin is not None and check_file(store, twin).problem == ""
        with self._archive.exclusion.exclusive(), as_storage_error("cannot put a study back"):
            if place.suffix != ".dcm":  # two damaged files of one name: neither is worth more
                copy.rename(self._place(place).with_name(f"{place.stem}-{secrets.token_hex(4)}.damaged"))
                fsync_directory(self._place(place).parent)
            elif sound:
                copy.unlink()
            elif twin == place:
                store.replace_damaged(copy, place)
                copy.unlink(missing_ok=True)
            else:
                move_files([(copy, self._place(place))])
                if twin is not None:
                    store.put_aside(twin)
                self._archive.journals.waiting.append(place)

    def _choose_again(self, item: Item) -> None:
        """Make those versions current again that had been chosen."""
        store, chosen = self._archive.store, self._items.choices(item)
        if not chosen:
            return
        index = self._archive.ready_index()
        others = Choices(store).all()
        for uid, content in chosen.items():
            if others.get(uid, content) == content:
                with contextlib.suppress(LookupError):  # its file was lost before
                    index.choose(content, uid)
                    Choices(store).add(uid, content)

    # ---- emptying

    def empty(self, number: str) -> Item:
        """Remove an item's files for good.

        Raises
        ------
        NoSuchItem
            When there is none under this id.
        StorageError
            When it cannot be done, or the storage is away.
        """
        with self._alone():
            item = self.item(number)
            if item.state not in (DELETED, EMPTYING):
                raise StorageError(f"{number} is half way in or out of the trash: restore it first")
            self._empty(item)
        return item

    def _empty(self, item: Item) -> None:
        self._items.note(replace(item, state=EMPTYING))
        for tree in self._items.trees(item.id):
            with as_storage_error("cannot empty the trash"), contextlib.suppress(FileNotFoundError):
                shutil.rmtree(tree)
        self._items.remove(item.id)
        log.info("the study %s was removed for good: %s", item.study_uid, item.id)

    # ---- what was cut off

    def finish_interrupted(self) -> None:
        """Finish what a process that was killed has begun; quick when there is nothing, or when somebody is at it.

        Raises
        ------
        IndexUnavailable, StorageError
            When it cannot be done now.
        """
        if not any(map(self._is_unfinished, self._items.folders())):
            return
        with contextlib.suppress(BlockingIOError), self._alone(wait=False):
            self._finish_all()

    def _finish_all(self) -> None:
        for folder in filter(self._is_unfinished, self._items.folders()):
            self._finish(folder.name)

    def _is_unfinished(self, folder: Path) -> bool:
        try:
            return self._items.get(folder.name).state != DELETED
        except NoSuchItem:
            return True
        except StorageError as error:
            log.error("%s", error)
            return False

    def _finish(self, number: str) -> None:
        try:
            item = self._items.get(number)
        except NoSuchItem:  # cut off before its first step, or after its last
            self._items.remove(number)
            return
        log.warning("%s the study %s was interrupted and is finished now: %s", item.state, item.study_uid, item.id)
        if item.state == EMPTYING:
            self._empty(item)
        elif item.state == RESTORING or not self._completed(item):
            self._put_back(item)

    def _completed(self, item: Item) -> bool:
        """Complete a deletion if all its files are in the trash; return whether they are."""
        with self._archive.exclusion.exclusive():
            places = self._items.places(item)
            if any(self._place(place).exists() for place in places):
                return False
            self._deleted(item, places)
        return True

    # ---- files

    @contextlib.contextmanager
    def _alone(self, wait: bool = True) -> Iterator[None]:
        """Keep out others who would use the trash; without `wait` raises `BlockingIOError` when somebody does."""
        self._archive.check()
        with as_storage_error("cannot lock the trash"):
            make_folder(self._folder)
            descriptor = os.open(self._folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)

    def _remove_empty(self, folder: PurePosixPath) -> bool:
        """Remove a folder of the storage and those above it as far as they are empty; return whether it is gone."""
        for part in (folder, *folder.parents[:-1]):
            try:
                self._place(part).rmdir()
            except FileNotFoundError:  # by a run that was cut off
                continue
            except OSError:  # there is something in it, for example what DSM puts into folders
                break
        return not self._place(folder).exists()


def _files_below(folder: Path) -> list[Path]:
    """Return the regular files in the folders of a study; a link that somebody has put there is not followed."""
    found: list[Path] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as series:
        for each in series:
            if each.is_dir(follow_symlinks=False):
                with os.scandir(each) as entries:
                    found += [Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]
    return sorted(found)
