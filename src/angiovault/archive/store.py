"""The storage: one folder tree of instance files, or a second one in which the archive continues.

The place of a file is its path relative to the storage root; that of a file in the second folder begins with `SECOND`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault.archive import filemeta, second
from angiovault.archive.durable import (
    NO_ROOM,
    NoRoom,
    NotMounted,
    StorageError,
    as_storage_error,
    fsync_directory,
    locked,
)
from angiovault.archive.durable import make_folder as make_folder_durably
from angiovault.archive.folder import MARKER, PRIVATE_FOLDER, SECOND, Marker, StorageFolder, parent_of
from angiovault.archive.incoming import Incoming, IncomingFolder, IncomingFolders

__all__ = ["MARKER", "PRIVATE_FOLDER", "SECOND", "NoRoom", "NotMounted", "StorageError", "Store", "as_storage_error"]

_ATTEMPTS: Final = 20


class Store:
    """The storage of an archive.

    Parameters
    ----------
    root : Path
        The storage root. What is not an instance file lies in it alone: journals, choices, locks.
    min_free : int
        Bytes to be left free on a volume, at most one per cent of it.
    expected_id : str
        The id of the archive that the root must hold; '' when that is not known yet. When it is known, nothing else
        counts as mounted, and no archive is made.
    second_root : Path, optional
        The folder in which the archive continues when the volume of the first is full.
    """

    def __init__(self, root: Path, min_free: int = 0, expected_id: str = "", second_root: Path | None = None) -> None:
        self.expected_id = expected_id
        self.archive_id = ""
        self._first = StorageFolder(root, 1, min_free)
        self._second = StorageFolder(second_root, 2, min_free) if second_root is not None else None
        self._continues = False

    @property
    def root(self) -> Path:
        """The storage root, that of the first folder."""
        return self._first.root

    @property
    def private(self) -> Path:
        """The folder for what is not an instance."""
        return self._first.private

    @property
    def min_free(self) -> int:
        """Bytes to be left free on each volume, at most one per cent of it."""
        return self._first.min_free

    @min_free.setter
    def min_free(self, count: int) -> None:
        for folder in (self._first, self._second):
            if folder is not None:
                folder.min_free = count

    @property
    def folders(self) -> tuple[StorageFolder, ...]:
        """The folders in use, in their order."""
        if self._second is not None and self._continues:
            return self._first, self._second
        return (self._first,)

    @property
    def incoming(self) -> IncomingFolders:
        """Where instances arrive."""
        return IncomingFolders(folder.incoming for folder in self.folders)

    # ---- places

    def path(self, place: PurePosixPath) -> Path:
        """Return where the file of a place is."""
        folder, inside = self._folder_of(place)
        return folder.root / inside

    def private_path(self, place: PurePosixPath, *parts: str) -> Path:
        """Return the like of a place in what is private of the same folder: a file can be renamed to there and back."""
        folder, inside = self._folder_of(place)
        return folder.private.joinpath(*parts) / inside

    def _folder_of(self, place: PurePosixPath) -> tuple[StorageFolder, PurePosixPath]:
        if self._second is not None and place.parts[:1] == (SECOND,):
            return self._second, PurePosixPath(*place.parts[1:])
        return self._first, place

    def place_beside(self, incoming: Path, place: PurePosixPath) -> PurePosixPath:
        """Return the place for an instance that has arrived: in the folder in which it did, for there it is linked."""
        inside = self._folder_of(place)[1]
        if self._second is not None and incoming.parent == self._second.incoming.path:
            return SECOND / inside
        return inside

    def elsewhere(self, place: PurePosixPath) -> PurePosixPath | None:
        """Return where another folder has a file of the same content, as its name says; None when none has.

        Raises
        ------
        StorageError
            When that cannot be seen.
        """
        if len(self.folders) == 1:
            return None
        folder, inside = self._folder_of(place)
        for other, prefix in zip(self.folders, ("", SECOND), strict=False):
            with as_storage_error(f"cannot look for {inside} in {other.root}"):
                if other is not folder and (other.root / inside).exists():
                    return prefix / inside
        return None

    # ---- the marker

    def read_marker(self) -> str:
        """Return the archive's id from the marker.

        Raises
        ------
        NotMounted
            When there is no marker, or that of another archive than expected: the volume is not mounted, or this is
            another folder.
        """
        found = self._first.read_marker().id
        if self.expected_id not in ("", found):
            raise NotMounted(
                f"{self.root} holds archive {found} instead of {self.expected_id}, which the setting archive-id names: "
                "mount the right volume, or correct storage and archive-id"
            )
        return found

    def create(self) -> str:
        """Make a new archive in an empty or missing folder and return its id.

        Raises
        ------
        StorageError
            When the folder holds something else, cannot be written, or should hold an archive that is known already.
        """
        if self.expected_id:
            raise NotMounted(f"{self.root} does not hold archive {self.expected_id}, and no other is made in its place")
        with as_storage_error(f"cannot make an archive in {self.root}"):
            make_folder_durably(self.root)
            with locked(self.root, folder=True):  # two commands may come upon the same empty folder
                if self._first.has_marker:
                    return self.read_marker()
                self._first.refuse_other_content()
                archive_id = secrets.token_hex(16)
                self._first.write_marker(Marker(archive_id))
                return archive_id

    def settle_second(self) -> None:
        """Make, find again or let go the second folder, as the settings want it.

        Raises
        ------
        NotMounted, StorageError
            When that cannot be done.
        """
        second.settle(self._first, self._second)

    def give_up_second(self) -> None:
        """Forget a second folder that is lost for good; what was in it is gone.

        Raises
        ------
        NotMounted, StorageError
            When that cannot be done, or it is not lost.
        """
        self.read_marker()
        second.give_up(self._first, self._second)

    def open(self, archive_id: str = "") -> None:
        """Begin to use the storage as the archive `archive_id`, or as the one whose marker is there.

        Raises
        ------
        NotMounted
            When it is not this archive's.
        """
        self.archive_id = archive_id or self.read_marker()
        self._first.look_again()
        self.check_mounted()

    def check_mounted(self) -> None:
        """Raise `NotMounted` unless all folders of this archive are in their places."""
        known = self._first.check(self.archive_id)
        if not known.key:
            self._continues = False
            return
        if self._second is None:
            raise second.is_needed(known.second)
        if self._second.check(self.archive_id).key != known.key:
            raise NotMounted(f"{self._second.root} is not the second folder of this archive, which was {known.second}")
        self._continues = True

    def free_bytes(self) -> tuple[int, int]:
        """Return (bytes that may still be used, size in bytes), of all volumes together."""
        volumes = {os.stat(folder.root).st_dev: folder.free_bytes() for folder in self.folders}
        return sum(max(0, free) for free, _ in volumes.values()), sum(size for _, size in volumes.values())

    # ---- taking in

    def begin(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str, calling: str, received: str = ""
    ) -> Incoming:
        """Open a file for an instance that begins to arrive; without a time of receipt it gets that of its end.

        Raises
        ------
        NotMounted, NoRoom, StorageError
            When it cannot be taken.
        """
        self.check_mounted()
        with as_storage_error("cannot write to the storage"):
            head = filemeta.Head(sop_class_uid, sop_instance_uid, transfer_syntax, calling)
            incoming = self._begin(head, received)
        if incoming.folder is not self._first.incoming:
            self._see_it_still_belongs(incoming)
        return incoming

    def incoming_with_room(self, size: int) -> IncomingFolder | None:
        """Return the incoming folder of the first folder if so many bytes surely fit in, for files made by the caller.

        Raises
        ------
        NotMounted, StorageError
            When it is away.
        """
        self.check_mounted()
        with as_storage_error("cannot write to the storage"):
            fits = self._first.free_bytes()[0] > size and not self._first.ran_out
        return self._first.incoming if fits else None

    def _begin(self, head: filemeta.Head, received: str) -> Incoming:
        """Open a file in the first folder that has room."""
        usable = [folder for folder in self.folders if folder.free_bytes()[0] > 0]
        for folder in sorted(usable, key=lambda folder: folder.ran_out):
            try:
                return folder.incoming.begin(head, received)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
        raise NoRoom("the storage volume is full")

    def _see_it_still_belongs(self, incoming: Incoming) -> None:
        """See that the second folder was not let go before the file was made, see `second`."""
        try:
            self.check_mounted()
            if not self._continues:
                raise NotMounted(f"{incoming.path} has just been taken out of the archive, try again")
        except NotMounted:
            incoming.discard()
            raise

    def make_folder(self, place: PurePosixPath) -> None:
        """Make the folder of a place, durably, and see that a file can be put there.

        Raises
        ------
        NotMounted, NoRoom, StorageError
            When it cannot.
        """
        folder, inside = self._folder_of(place)
        if folder.is_ready(inside):
            return
        with as_storage_error(f"cannot put an instance in {place.parent}"):
            for _ in range(_ATTEMPTS):
                self.check_mounted()  # no folder may be made on the mount point of a volume that is gone
                with contextlib.suppress(FileNotFoundError):  # a study is being deleted, and its folders with it
                    folder.make_folder(inside)
                if folder.is_ready(inside):
                    return
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def make_folder_again(self, place: PurePosixPath) -> None:
        """Make the folder of a place, durably, if it may have been removed since `make_folder`. Raises OSError."""
        folder, inside = self._folder_of(place)
        folder.make_known(inside)

    def link(self, temporary: Path, place: PurePosixPath) -> bool:
        """Give a durable file its place as well, in one step; `sync` makes that durable.

        Returns
        -------
        bool
            Whether the file is there; False when the place is taken already (by the same content, as its name says).

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        NotMounted, StorageError
            When it cannot be done.
        """
        folder, inside = self._folder_of(place)
        try:
            os.link(temporary, f"{folder.root}/{inside}")  # a Path would take as long as the call
        except FileExistsError:
            return self.path(place).samefile(temporary)
        except FileNotFoundError:
            self.check_mounted()
            self.make_folder(place)
            if not temporary.exists():
                raise
            return self.link(temporary, place)
        return True

    @contextlib.contextmanager
    def placing(self) -> Iterator[None]:
        """Let nobody else put files in their places: of the same content one may be in each folder otherwise."""
        if len(self.folders) == 1:  # there is but one place for it
            yield
            return
        with as_storage_error(f"cannot lock {self.private}"), locked(self.private, folder=True):
            yield

    def sync(self, places: Iterable[PurePosixPath]) -> None:
        """Make durable what is in the folders of these places."""
        for folder in set(map(parent_of, places)):
            with as_storage_error(f"cannot sync {folder}"):
                fsync_directory(self.path(PurePosixPath(folder)))

    def replace_damaged(self, temporary: Path, place: PurePosixPath) -> None:
        """Put a synced file in the place of a damaged one, which is kept beside it as ``….damaged``."""
        folder, inside = self._folder_of(place)
        with as_storage_error(f"cannot replace {place}"):
            folder.put_aside(inside, temporary)

    def put_aside(self, place: PurePosixPath) -> None:
        """Keep a damaged file, in whose stead another folder has a sound one, as ``….damaged``."""
        folder, inside = self._folder_of(place)
        with as_storage_error(f"cannot put {place} aside"):
            folder.put_aside(inside)

    def forget_folders(self) -> None:
        """Look at every folder anew: some may have been removed, and made again by others who have not synced them."""
        for folder in self.folders:
            folder.forget_folders()

    def instance_files(self) -> Iterator[PurePosixPath]:
        """Yield the places of all instance files, folder by folder, in each the oldest first.

        A folder that cannot be listed is yielded as if it were a file: whoever reads it learns why.
        """
        for folder, prefix in zip(self.folders, ("", SECOND), strict=False):
            for inside in folder.instance_files():
                yield prefix / inside
