"""The instance files: streamed in, made durable, put in their place in one step.

Order of an instance: written below ``.angiovault/incoming``, see `incoming`, → synced → linked to its place → folder
synced → removed from ``incoming``. So at every moment a whole file has at least one durable name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault.archive import filemeta
from angiovault.archive.durable import (
    NoRoom,
    NotMounted,
    StorageError,
    as_storage_error,
    fsync_directory,
    locked,
    make_folder,
)
from angiovault.archive.incoming import Incoming, IncomingFolder, now

__all__ = ["MARKER", "PRIVATE_FOLDER", "NoRoom", "NotMounted", "StorageError", "Store", "as_storage_error"]

PRIVATE_FOLDER: Final = ".angiovault"
MARKER: Final = "archive.json"
NO_LINKS: Final = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
_KNOWN_FOLDERS: Final = 10_000
_ATTEMPTS: Final = 20


class Store:
    """The folder tree below one storage root.

    Parameters
    ----------
    root : Path
        The storage root.
    min_free : int
        Bytes to be left free on the volume, at most one per cent of it.
    expected_id : str
        The id of the archive that the root must hold; '' when that is not known yet. When it is known, nothing else
        counts as mounted, and no archive is made.
    """

    def __init__(self, root: Path, min_free: int = 0, expected_id: str = "") -> None:
        self.root = root
        self.expected_id = expected_id
        self.private = root / PRIVATE_FOLDER
        self.incoming = IncomingFolder(self.private / "incoming")
        self.min_free = min_free
        self._lock = threading.Lock()
        self._durable: set[Path] = set()
        self._marker_seen: tuple[int, ...] = ()
        self.archive_id = ""

    # ---- the marker

    def read_marker(self) -> str:
        """Return the archive's id from the marker.

        Raises
        ------
        NotMounted
            When there is no marker, or that of another archive than expected: the volume is not mounted, or this is
            another folder.
        """
        try:
            marker = json.loads((self.private / MARKER).read_text(encoding="utf-8"))
            found = str(marker["id"])
        except FileNotFoundError:
            raise NotMounted(
                f"{self.root} does not hold the archive's marker ({PRIVATE_FOLDER}/{MARKER}): "
                "is the volume or shared folder mounted?"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotMounted(f"the archive's marker in {self.root} cannot be read: {error}") from error
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
            make_folder(self.root)
            with locked(self.root, folder=True):  # two commands may come upon the same empty folder
                if (self.private / MARKER).exists():
                    return self.read_marker()
                self._refuse_others()
                return self._write_marker()

    def _refuse_others(self) -> None:
        others = [entry for entry in os.listdir(self.root) if entry[0] not in ".@#" and entry != "lost+found"]
        if others:
            raise StorageError(
                f"{self.root} is not empty ({others[0]} …) and holds no archive: choose an empty folder, "
                "and bring existing files in by `angiovault import`"
            )

    def _write_marker(self) -> str:
        archive_id = secrets.token_hex(16)
        self.private.mkdir(mode=0o700, exist_ok=True)
        temporary = self.private / (MARKER + ".new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"id": archive_id, "made": now(), "program": "angiovault"}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.private / MARKER)
        for folder in (self.private, self.root, self.root.absolute().parent):
            fsync_directory(folder)
        return archive_id

    def open(self, archive_id: str) -> None:
        """Begin to use the storage as the archive `archive_id`.

        Raises
        ------
        NotMounted
            When it is not this archive's.
        """
        self.archive_id = archive_id
        self._marker_seen = ()
        self.check_mounted()

    def check_mounted(self) -> None:
        """Raise `NotMounted` unless the marker of this archive is in its place."""
        try:
            found = os.stat(self.private / MARKER)
        except OSError:
            self.read_marker()
            raise NotMounted(f"{self.root} came back just now, try again") from None
        seen = (found.st_dev, found.st_ino, found.st_mtime_ns)
        if seen == self._marker_seen:
            return
        marker = self.read_marker()
        if marker != self.archive_id:
            raise NotMounted(f"{self.root} holds another archive ({marker} instead of {self.archive_id})")
        self._durable.clear()
        self.incoming.drop_spares()
        self._marker_seen = seen

    def free_bytes(self) -> tuple[int, int]:
        """Return (bytes that may still be used, size of the volume in bytes)."""
        volume = os.statvfs(self.root)
        total = volume.f_blocks * volume.f_frsize
        reserve = min(self.min_free, total // 100)
        return volume.f_bavail * volume.f_frsize - reserve, total

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
            if self.free_bytes()[0] <= 0:
                raise NoRoom("the storage volume is full")
            head, vouched_at = filemeta.build(
                sop_class_uid, sop_instance_uid, transfer_syntax, received or now(), calling
            )
            return self.incoming.begin(head, vouched_at, received)

    def make_folder(self, place: PurePosixPath) -> None:
        """Make the folder of a place, durably, and see that a file can be put there.

        Raises
        ------
        NotMounted, NoRoom, StorageError
            When it cannot.
        """
        folder = self.root / place.parent
        with as_storage_error(f"cannot put an instance in {place.parent}"):
            if folder in self._durable and os.access(folder, os.W_OK | os.X_OK):
                return
            for _ in range(_ATTEMPTS):
                self.check_mounted()  # no folder may be made on the mount point of a volume that is gone
                with contextlib.suppress(FileNotFoundError):
                    self._make_folder(folder)
                    if os.access(folder, os.W_OK | os.X_OK):
                        return
                    os.stat(folder)
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                self.forget_folders()  # a study was deleted, and its folders with it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def make_folder_again(self, place: PurePosixPath) -> None:
        """Make the folder of a place, durably, if it may have been removed since `make_folder`. Raises OSError."""
        self._make_folder(self.root / place.parent)

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
        target = self.root / place
        try:
            os.link(temporary, target)
        except FileExistsError:
            return target.samefile(temporary)
        except FileNotFoundError:
            self.check_mounted()
            self.make_folder(place)
            if not temporary.exists():
                raise
            return self.link(temporary, place)
        return True

    def sync(self, places: Iterable[PurePosixPath]) -> None:
        """Make durable what is in the folders of these places."""
        for folder in {place.parent for place in places}:
            with as_storage_error(f"cannot sync {folder}"):
                fsync_directory(self.root / folder)

    def replace_damaged(self, temporary: Path, place: PurePosixPath) -> None:
        """Put a synced file in the place of a damaged one, which is kept beside it as ``….damaged``."""
        target = self.root / place
        with as_storage_error(f"cannot replace {place}"), self._lock:
            os.rename(target, target.with_name(f"{target.name[: -len('.dcm')]}.damaged"))
            try:
                os.link(temporary, target)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                os.rename(temporary, target)
            fsync_directory(target.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and its parents, each durable in its parent.

        A folder that exists may not be durable yet (made by a run that crashed before its sync), so it is synced into
        its parent once by every process that uses it.
        """
        if folder in self._durable or folder == self.root:
            return
        self._make_folder(folder.parent)
        with self._lock:
            if len(self._durable) > _KNOWN_FOLDERS:
                self._durable.clear()
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o750)  # its name tells a patient's
            fsync_directory(folder.parent)
            self._durable.add(folder)

    def forget_folders(self) -> None:
        """Look at every folder anew: some may have been removed, and made again by others who have not synced them."""
        with self._lock:
            self._durable.clear()

    def instance_files(self) -> Iterator[PurePosixPath]:
        """Yield the paths of all instance files, oldest folder first, relative to the root; follows no symbolic link.

        A folder that cannot be listed is yielded as if it were a file: whoever reads it learns why.
        """
        pending = [self.root]
        while pending:
            folder = pending.pop()
            place = PurePosixPath(folder.relative_to(self.root))
            try:
                with os.scandir(folder) as entries:
                    listed = sorted(filter(_is_ours, entries), key=lambda entry: entry.name)
            except OSError:
                if folder == self.root:
                    raise
                yield place
                continue
            for entry in listed:
                if entry.is_file(follow_symlinks=False) and entry.name.endswith(".dcm") and folder != self.root:
                    yield place / entry.name
            pending.extend(Path(entry.path) for entry in reversed(listed) if entry.is_dir(follow_symlinks=False))


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry has a name that the archive may have given: visible, and in UTF-8."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return False
    return entry.name[0] not in ".@#"
