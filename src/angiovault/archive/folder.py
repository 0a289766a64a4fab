"""One folder of the storage: its marker, its room, and the instance files below it.

Order of an instance: written below ``.angiovault/incoming``, see `incoming`, → synced → linked to its place → folder
synced → removed from ``incoming``. So at every moment a whole file has at least one durable name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault.archive.durable import NotMounted, StorageError, fsync_directory, replace_file
from angiovault.archive.incoming import IncomingFolder, now

PRIVATE_FOLDER: Final = ".angiovault"
MARKER: Final = "archive.json"
SECOND: Final = "+2"
"""First part of the place of a file in the second folder; in the first folder nothing of this name is looked at."""
NO_LINKS: Final = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
_KNOWN_FOLDERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Marker:
    """What stands in the marker of a folder.

    Attributes
    ----------
    id : str
        The archive's id.
    part : int
        1 in the first folder, 2 in the second.
    key : str
        What tells one second folder from another, in the second folder and, when there is one, in the first.
    second : str
        In the first folder: where the second one was last, '' when there is none.
    made : str
        When it was made, ISO 8601, UTC.
    """

    id: str
    part: int = 1
    key: str = ""
    second: str = ""
    made: str = ""


class StorageFolder:
    """A folder tree of instance files; paths here are relative to this folder's root.

    Parameters
    ----------
    root : Path
        The folder.
    part : int
        1 or 2, as the marker has it.
    min_free : int
        Bytes to be left free on the volume, at most one per cent of it.
    """

    def __init__(self, root: Path, part: int = 1, min_free: int = 0) -> None:
        self.root = root
        self.part = part
        self.private = root / PRIVATE_FOLDER
        self.incoming = IncomingFolder(self.private / "incoming")
        self.min_free = min_free
        self._lock = threading.Lock()
        self._marker_path = self.private / MARKER  # every instance looks at it, and a path is slow to make
        self._durable: set[str] = set()  # folders, relative to the root
        self._seen: tuple[int, ...] = ()
        self._marker = Marker("")

    # ---- the marker

    @property
    def has_marker(self) -> bool:
        """Whether there is a marker, whatever stands in it."""
        return self._marker_path.exists()

    def read_marker(self) -> Marker:
        """Read the marker.

        Raises
        ------
        NotMounted
            When there is none, or that of a folder for another part.
        """
        try:
            found = json.loads(self._marker_path.read_text(encoding="utf-8"))
            texts = (str(found.get(name, "")) for name in ("key", "second", "made"))
            marker = Marker(str(found["id"]), int(found.get("part", 1)), *texts)
        except FileNotFoundError:
            raise NotMounted(
                f"{self.root} does not hold the archive's marker ({PRIVATE_FOLDER}/{MARKER}): "
                "is the volume or shared folder mounted?"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotMounted(f"the archive's marker in {self.root} cannot be read: {error}") from error
        if marker.part != self.part:
            which = {1: "first", 2: "second"}
            raise NotMounted(
                f"{self.root} is the {which.get(marker.part, '?')} folder of archive {marker.id} and cannot be used as "
                f"the {which[self.part]}: correct storage and second-storage"
            )
        return marker

    def write_marker(self, marker: Marker) -> None:
        """Write the marker durably, in one step; the folder is there.

        Raises
        ------
        OSError
            When it cannot be written.
        """
        said: dict[str, str | int] = {"id": marker.id, "made": marker.made or now(), "program": "angiovault"}
        said |= {"part": marker.part} if marker.part > 1 else {}
        said |= {name: text for name, text in (("key", marker.key), ("second", marker.second)) if text}
        self.private.mkdir(mode=0o700, exist_ok=True)
        replace_file(self._marker_path, json.dumps(said))
        for folder in (self.root, self.root.absolute().parent):
            fsync_directory(folder)

    def refuse_other_content(self) -> None:
        """Raise `StorageError` unless the folder is empty, but for what systems put into folders."""
        others = [entry for entry in os.listdir(self.root) if entry[0] not in ".@#" and entry != "lost+found"]
        if others:
            raise StorageError(
                f"{self.root} is not empty ({others[0]} …) and holds no archive: choose an empty folder, "
                "and bring existing files in by `angiovault import`"
            )

    def check(self, archive_id: str) -> Marker:
        """Return the marker of this archive, read again when it is another file than before.

        Raises
        ------
        NotMounted
            When it is not in its place.
        """
        try:
            found = os.stat(self._marker_path)
        except OSError:
            self.read_marker()
            raise NotMounted(f"{self.root} came back just now, try again") from None
        seen = (found.st_dev, found.st_ino, found.st_mtime_ns)
        if seen == self._seen:
            return self._marker
        marker = self.read_marker()
        if marker.id != archive_id:
            raise NotMounted(f"{self.root} holds another archive ({marker.id} instead of {archive_id})")
        self._durable.clear()
        self.incoming.drop_spares()
        self._marker = marker
        self._seen = seen
        return marker

    def look_again(self) -> None:
        """Read the marker again at the next `check`."""
        self._seen = ()

    # ---- room

    def free_bytes(self) -> tuple[int, int]:
        """Return (bytes that may still be used, negative within the reserve; size of the volume in bytes)."""
        volume = os.statvfs(self.root)
        total = volume.f_blocks * volume.f_frsize
        reserve = min(self.min_free, total // 100)
        return volume.f_bavail * volume.f_frsize - reserve, total

    @property
    def is_short(self) -> bool:
        """Whether half of the bytes that are to be left free are used: by others, or by index and journals."""
        free, total = self.free_bytes()
        return -free > min(self.min_free, total // 100) // 2

    @property
    def ran_out(self) -> bool:
        """Whether an instance did not fit in here, and there is not much more room now than there was then.

        So what is left of a nearly full volume, or of a quota that the volume does not show, is not tried again and
        again with instances that need more.
        """
        if not self.incoming.too_little:
            return False
        volume = os.statvfs(self.root)
        if volume.f_bavail * volume.f_frsize > 2 * self.incoming.too_little:
            self.incoming.too_little = 0
        return bool(self.incoming.too_little)

    # ---- files

    def make_folder(self, place: PurePosixPath) -> None:
        """Make the folder of a place, durably, and see that a file can be put there.

        The caller has seen that the folder is mounted; here it is only looked whether it was used before.

        Raises
        ------
        OSError
            When it cannot be done.
        """
        folder = self.root / place.parent
        if not folder.exists():  # somebody removed it
            self.forget_folders()
        self._make_folder(place.parent)
        if not os.access(folder, os.W_OK | os.X_OK):
            os.stat(folder)  # one that is gone again is another error than one that may not be used
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def make_known(self, place: PurePosixPath) -> None:
        """Make the folder of a place, durably, unless it is known to be durable. Raises OSError."""
        if parent_of(place) not in self._durable:
            self._make_folder(place.parent)

    def forget_folders(self) -> None:
        """Look at every folder anew: some may have been removed, and made again by others who have not synced them."""
        with self._lock:
            self._durable.clear()

    def is_ready(self, place: PurePosixPath) -> bool:
        """Return whether the folder of a place is known to be durable, and can be written."""
        folder = parent_of(place)
        return folder in self._durable and os.access(f"{self.root}/{folder}", os.W_OK | os.X_OK)

    def _make_folder(self, folder: PurePosixPath) -> None:
        """Make a folder, relative to the root, and its parents, each durable in its parent.

        A folder that exists may not be durable yet (made by a run that crashed before its sync), so it is synced into
        its parent once by every process that uses it.
        """
        if str(folder) in self._durable or not folder.parts:
            return
        self._make_folder(folder.parent)
        with self._lock:
            if len(self._durable) > _KNOWN_FOLDERS:
                self._durable.clear()
            with contextlib.suppress(FileExistsError):
                (self.root / folder).mkdir(mode=0o750)  # its name tells a patient's
            fsync_directory(self.root / folder.parent)
            self._durable.add(str(folder))

    def put_aside(self, place: PurePosixPath, temporary: Path | None = None) -> None:
        """Keep a damaged file beside its place as ``….damaged``, and put a synced file in its place if there is one.

        Raises
        ------
        OSError
            When it cannot be done.
        """
        target = self.root / place
        with self._lock:
            os.rename(target, target.with_name(f"{target.name[: -len('.dcm')]}.damaged"))
            if temporary is not None:
                try:
                    os.link(temporary, target)
                except OSError as error:
                    if error.errno not in NO_LINKS:
                        raise
                    os.rename(temporary, target)
            fsync_directory(target.parent)

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
            if folder == self.root:
                listed = [entry for entry in listed if entry.name != SECOND]
            for entry in listed:
                if entry.is_file(follow_symlinks=False) and entry.name.endswith(".dcm") and folder != self.root:
                    yield place / entry.name
            pending.extend(Path(entry.path) for entry in reversed(listed) if entry.is_dir(follow_symlinks=False))

    def holds_no_instance(self) -> bool:
        """Return whether there is no instance in the folder: in its place, arriving, or in the trash.

        Raises
        ------
        OSError
            When that cannot be seen.
        """
        return (
            next(self.instance_files(), None) is None
            and not self.incoming.is_used()
            and next((self.private / "trash").glob("*/files"), None) is None
        )

    def holds_nothing(self) -> bool:
        """Return whether there is no instance in the folder, in its place or arriving, and nothing else of an archive.

        Raises
        ------
        OSError
            When that cannot be seen.
        """
        known = {MARKER, f"{MARKER}.new", self.incoming.path.name}
        return set(os.listdir(self.private)) <= known and self.holds_no_instance()


def parent_of(place: PurePosixPath) -> str:
    """Return the folder of a place, as `str(place.parent)` does, which takes longer."""
    return str(place).rpartition("/")[0]


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry has a name that the archive may have given: visible, and in UTF-8."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return False
    return entry.name[0] not in ".@#"
