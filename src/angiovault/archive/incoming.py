"""Where instances arrive: files whose names are durable before the first byte comes.

So one sync makes a whole instance durable, that of its file. A file is sealed when its head holds the digest of its
data set; sealed and with the right digest it is an instance that the archive has, wherever it was stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from angiovault.archive import filemeta
from angiovault.archive.durable import as_storage_error, fsync_directory
from angiovault.processes import is_running

_FIRST_SPARES: Final = 2
"""How many are made for the second instance; after a single one there may be no more to come."""
_MOST_SPARES: Final = 32
_BIG: Final = 64 << 20
_UNKNOWN_TIME: Final = "0000-00-00T00:00:00.000000Z"
"""As long as a time of receipt."""


class IncomingFolder:
    """The folder, and spare files in it: one sync of the folder makes several names durable.

    A name begins with the number of the process that uses it.

    Attributes
    ----------
    too_little : int
        Bytes of room in which an instance did not fit, 0 when they all did.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.too_little = 0
        self._lock = threading.Lock()
        self._spares: list[Path] = []
        self._next = 1
        self._prefix = f"{os.getpid()}-{secrets.token_hex(8)}-"
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Make sure that it is there."""
        with as_storage_error(f"cannot use {self.path}"):
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            fsync_directory(self.path.parent)

    def begin(self, head: filemeta.Head, received: str) -> Incoming:
        """Take a file for an instance that begins to arrive.

        Raises
        ------
        OSError
            When there is none.
        """
        try:
            return Incoming(self, self._take(), head, received)
        except FileNotFoundError:  # somebody has cleared the folder
            self.drop_spares()
            return Incoming(self, self._take(), head, received)

    def name(self) -> Path:
        """Return a new path for a file of this process; whoever makes it makes the name durable, too."""
        return self.path / f"{self._prefix}{next(self._numbers):08x}"

    def _take(self) -> Path:
        """Return a file of a durable name; more of them are made each time, as long as instances keep coming."""
        with self._lock:
            if not self._spares:
                self._refill()
            return self._spares.pop()

    def stock_up(self) -> None:
        """Make more spare files if those of a series of instances are used up, while no device waits for it."""
        with self._lock, contextlib.suppress(OSError):  # the next instance tries again, and says what is wrong
            if not self._spares and self._next > _FIRST_SPARES:
                self._refill()

    def _refill(self) -> None:
        count, self._next = self._next, 1
        self._make_spares(count)
        self._next = min(2 * count, _MOST_SPARES)

    def _make_spares(self, count: int) -> None:
        made: list[Path] = []
        try:
            for _ in range(count):
                path = self.name()
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
                made.append(path)
            fsync_directory(self.path)
        except OSError:
            remove(made)
            raise
        self._spares = made

    def drop_spares(self) -> None:
        """Remove the spare files, until the next instance comes."""
        with self._lock:
            remove(self._spares)
            self._spares = []
            self._next = 1

    def remove_unfinished(self, whose: str = "dead or us") -> None:
        """Remove what broken receptions left behind: of the 'dead', or of 'dead or us' if we receive nothing.

        What another living process is writing stays.
        """
        with as_storage_error("cannot clear the incoming folder"):
            for leftover in self.path.iterdir():
                if leftover.is_symlink() or not leftover.is_file():  # what a NAS puts into every folder
                    continue
                if not sealed(leftover) and _owner(leftover) in whose:
                    leftover.unlink(missing_ok=True)

    def is_used(self) -> bool:
        """Return whether anything is in the folder but what receptions that were cut off left behind.

        Raises
        ------
        OSError
            When that cannot be seen.
        """
        return self.path.exists() and any(sealed(path) or _owner(path) == "others" for path in self.path.iterdir())

    def waiting(self, whose: str) -> Iterator[Path]:
        """Yield the sealed files: of 'others' that live, of the 'dead', of 'dead or us', or of 'all'."""
        with as_storage_error("cannot read the incoming folder"):
            for path in self.path.iterdir():
                if (whose == "all" or _owner(path) in whose) and sealed(path):
                    yield path


class IncomingFolders:
    """The incoming folders of a storage, as one.

    Parameters
    ----------
    folders : Iterable of IncomingFolder
        They.
    """

    def __init__(self, folders: Iterable[IncomingFolder]) -> None:
        self._folders = tuple(folders)

    def prepare(self) -> None:
        """Make sure that they are there."""
        for folder in self._folders:
            folder.prepare()

    def drop_spares(self) -> None:
        """Remove the spare files, until the next instance comes."""
        for folder in self._folders:
            folder.drop_spares()

    def remove_unfinished(self, whose: str = "dead or us") -> None:
        """Remove what receptions that were cut off left behind, see `IncomingFolder.remove_unfinished`."""
        for folder in self._folders:
            folder.remove_unfinished(whose)

    def waiting(self, whose: str) -> Iterator[Path]:
        """Yield the sealed files, see `IncomingFolder.waiting`."""
        for folder in self._folders:
            yield from folder.waiting(whose)


def _owner(path: Path) -> str:
    """Return whose number a file has: that of 'us', of 'others' that live, or of the 'dead'."""
    process = path.name.partition("-")[0]
    if process == str(os.getpid()):
        return "us"
    return "others" if process.isdigit() and is_running(process) else "dead"


def remove(paths: Iterable[Path]) -> None:
    """Remove files of an incoming folder that were, or may have been, made."""
    for path in paths:
        with contextlib.suppress(OSError):  # it was not made, or the volume is gone
            path.unlink()


def sealed(path: Path) -> bool:
    """Return whether a file's head holds a digest, as far as that can be seen: what cannot be read may be sealed."""
    try:
        with path.open("rb") as file:
            return filemeta.read(file).sealed
    except (FileNotFoundError, filemeta.NotDicom):
        return False
    except OSError:
        return True


def _find_write_back() -> Callable[[int, int, int], object]:
    """Return what makes the system begin to write a part of a file to the disk, without waiting for it."""
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return lambda *_: None  # the sync at the end does it all
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return lambda descriptor, start, count: function(descriptor, start, count, 2)  # SYNC_FILE_RANGE_WRITE


_write_back = _find_write_back()


def begin_write_back(descriptor: int) -> None:
    """Let the system begin to write a file to the disk, so that the syncs of several files share the work."""
    _write_back(descriptor, 0, 0)


def sync_and_forget(descriptor: int) -> None:
    """Make a file durable, and let the system forget what it has of it in memory."""
    os.fsync(descriptor)
    _forget(descriptor)


def _forget(descriptor: int) -> None:
    """Let the system forget what it has of a durable file in memory.

    Nobody reads it soon but a storage commitment, which had better see the disk. The next file gets the same memory,
    which is at hand; otherwise each would get other memory, at the cost of what the index and others keep in theirs.
    """
    with contextlib.suppress(OSError):  # it is a wish
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Incoming:
    """The file of one instance that arrives."""

    def __init__(self, folder: IncomingFolder, path: Path, head: filemeta.Head, received: str) -> None:
        self.folder = folder
        self.path = path
        self.received = received
        self.size = 0
        self._head = head
        self._offset = head.length(received or _UNKNOWN_TIME)  # of the data set in the file
        self._durable = False
        self._kept = False
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def note_no_room(self) -> None:
        """Let the folder know in how much room this instance did not fit."""
        with contextlib.suppress(OSError):
            volume = os.fstatvfs(self._descriptor)
            self.folder.too_little = max(self.folder.too_little, volume.f_bavail * volume.f_frsize + self.size, 1)

    def write(self, data: memoryview) -> None:
        """Write the next bytes of the data set, behind where the head will be.

        Raises
        ------
        NoRoom, StorageError
            When they cannot be written.
        """
        with as_storage_error("cannot write to the storage", self.note_no_room):
            self._write(data, self._offset + self.size)
        self.size += len(data)

    def _write(self, data: memoryview | bytes, at: int) -> None:
        written = os.pwrite(self._descriptor, data, at)
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], at + written)

    def write_back(self) -> None:
        """Bring the bulk of a very big instance to the disk, before `seal`, whose end queries may have to wait for."""
        if self.size >= _BIG:
            with as_storage_error("cannot sync an instance", self.note_no_room):
                os.fdatasync(self._descriptor)

    def vouch(self, digest: str) -> None:
        """Write the file's head, with digest and time of receipt, when everything else is written.

        Raises
        ------
        NoRoom, StorageError
            When it cannot be written.
        """
        self.received = self.received or now()
        with as_storage_error("cannot write to the storage", self.note_no_room):
            self._write(self._head.encode(self.received, digest), 0)

    def begin_write_back(self) -> None:
        """Let the system begin to write everything to the disk, see the function of that name."""
        begin_write_back(self._descriptor)

    def sync(self) -> None:
        """Make the file durable."""
        with as_storage_error("cannot sync an instance", self.note_no_room):
            os.fsync(self._descriptor)
        self._durable = True

    def keep(self) -> None:
        """Leave the file where it is: another takes care of it from now on."""
        self._kept = True

    def discard(self) -> None:
        """Close the file, and remove it unless it is to be kept."""
        if self._descriptor >= 0:
            if self._durable:
                _forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            if self._kept:
                self.folder.stock_up()
            else:
                remove([self.path])


def now() -> str:
    """Return the time as the archive writes it: ISO 8601, UTC, to the microsecond."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_to_the_second(seconds)}.{microseconds:06d}Z"


@lru_cache(2)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
