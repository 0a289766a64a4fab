"""Files and folders that survive a power cut: what has returned from here is on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class StorageError(Exception):
    """The storage cannot take or give an instance now; the text says why and what to do."""


class NoRoom(StorageError):
    """The volume is full, or nearly."""


class NotMounted(StorageError):
    """The storage root is not there, or is not the archive's."""


class as_storage_error:
    """Turn an `OSError` into a `StorageError` that says what could not be done.

    A class, as a generator would cost several microseconds a dozen times for every instance.

    Parameters
    ----------
    doing : str
        What cannot be done, for the text.
    on_no_room : Callable, optional
        Is called before it becomes a `NoRoom`.
    """

    __slots__ = ("_doing", "_on_no_room")

    def __init__(self, doing: str, on_no_room: Callable[[], None] | None = None) -> None:
        self._doing = doing
        self._on_no_room = on_no_room

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            if error.errno in NO_ROOM:
                if self._on_no_room is not None:
                    self._on_no_room()
                raise NoRoom(f"{self._doing}: no room left on the storage volume") from error
            raise StorageError(f"{self._doing}: {error.strerror or error}") from error


def fsync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, folder: bool = False) -> Iterator[None]:
    """Hold the lock of a file, made when it is missing, or of a folder; it keeps out threads and other processes."""
    flags = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, all of it or nothing, durable on return.

    A last line that a crash cut short was never acknowledged: it is ended, so that ours stands alone.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line.encode() + b"\n"
        if os.write(descriptor, data) != len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        fsync_directory(path.parent)


def replace_file(path: Path, text: str) -> None:
    """Replace a text file's content in one step, durable on return; for the same user only.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w", encoding="utf-8", opener=_for_us_only) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    fsync_directory(path.parent)


def _for_us_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, each durable in its parent."""
    folder = folder.absolute()
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o750, exist_ok=True)
        fsync_directory(folder.parent)


def move_files(files: Iterable[tuple[Path, Path]]) -> None:
    """Rename files, durably, from the first to the second path of each pair; what is not there is left out.

    Raises
    ------
    OSError
        When it cannot be done.
    """
    moved = [(source, target) for source, target in files if source.exists()]
    for folder in dict.fromkeys(target.parent for _, target in moved):
        make_folder(folder)
    for source, target in moved:
        os.rename(source, target)
    for folder in dict.fromkeys([*(target.parent for _, target in moved), *(source.parent for source, _ in moved)]):
        fsync_directory(folder)
