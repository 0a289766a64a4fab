"""Reading stored files again: is every byte still what was received? Needs no index, the digest lies in each file."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Final

from peewee import fn

from angiovault.archive import filemeta, layout
from angiovault.archive.finding.selection import StoredInstance
from angiovault.archive.index import Index
from angiovault.archive.models import Folder, Instance
from angiovault.archive.store import Store

_CHUNK: Final = 1 << 20
_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one file: '' in `problem` when it is sound; bytes read."""

    place: PurePosixPath
    problem: str
    size: int


def digest_of(file: BinaryIO, pace: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of the rest of a file; `pace` is told of every piece read and may wait."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
        if pace is not None:
            pace(count)
    return digest.hexdigest()


def check_file(store: Store, place: PurePosixPath, pace: Callable[[int], None] | None = None) -> Finding:
    """Read one stored file and compare it with the digest in its head."""
    path = store.path(place)
    try:
        with path.open("rb", buffering=0) as file:
            meta = filemeta.read(file)
            if not meta.digest:
                return Finding(place, "the head of the file is damaged: it holds no digest", 0)
            digest = digest_of(file, pace)
            size = file.tell() - meta.offset
    except (OSError, filemeta.NotDicom) as error:
        return Finding(place, f"cannot be read: {error}", 0)
    if digest != meta.digest:
        return Finding(place, f"its data set has digest {digest}, received was {meta.digest}", size)
    if not place.stem.endswith(layout.content_key(meta.transfer_syntax, digest)):
        return Finding(place, "the head of the file is damaged: its transfer syntax is no longer what it was", size)
    return Finding(place, "", size)


def sound(store: Store, instance: StoredInstance) -> bool:
    """Return whether the file of an instance holds exactly the data set that was received."""
    path = store.path(instance.path)
    try:
        with path.open("rb", buffering=0) as file:
            meta = filemeta.read(file)
            return meta.digest == instance.digest and digest_of(file) == instance.digest
    except (OSError, filemeta.NotDicom):
        return False


def verify(store: Store, pace: Callable[[int], None] | None = None, after: str = "") -> Iterator[Finding]:
    """Read all stored files.

    Parameters
    ----------
    store : Store
        The opened storage.
    pace : Callable, optional
        Is told of every piece read, in bytes; it may wait, or end the work by raising.
    after : str
        The place of the file that was read last when the work was cut off, to go on behind it. When it is gone since,
        nothing is read.

    Yields
    ------
    Finding
        One for every file that is still there when its turn comes.
    """
    passed = not after
    for place in store.instance_files():
        if passed:
            finding = check_file(store, place, pace)
            if not finding.problem or is_there(store, place):
                yield finding
            continue
        passed = str(place) == after
        if pace is not None:
            pace(0)


def kept(index: Index) -> tuple[int, int]:
    """Return how many files there are, and how many bytes their data sets have, as far as the index knows.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    with index.session():
        number, size = Instance.select(fn.COUNT(Instance.id), fn.SUM(Instance.size)).tuples().first()
    return int(number), int(size or 0)


def is_there(store: Store, place: PurePosixPath) -> bool:
    """Return whether a file is in its place: what was listed may have been deleted since, and is not damaged then."""
    return os.path.lexists(store.path(place))


class Pace:
    """Waits so that bytes pass at a steady rate."""

    def __init__(self, megabytes_per_second: float) -> None:
        self._rate = megabytes_per_second * 1e6
        self._next = time.monotonic()

    def __call__(self, count: int) -> None:
        """Wait as long as `count` bytes are due to take."""
        now = time.monotonic()
        self._next = max(self._next, now - 1) + count / self._rate
        if self._next > now:
            time.sleep(self._next - now)


def missing_files(store: Store, index: Index, watch: Callable[[], None] = lambda: None) -> Iterator[PurePosixPath]:
    """Yield the paths that the index knows and where no file can be reached.

    Parameters
    ----------
    store, index
        The archive's.
    watch : Callable
        Is called for every path, and may end the work by raising.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    last = 0
    while True:
        with index.session():
            rows = list(
                Instance.select(Instance.id, Folder.path, Instance.file)
                .join(Folder, on=(Folder.id == Instance.folder_id))
                .where(Instance.id > last)
                .order_by(Instance.id)
                .limit(_BATCH)
                .tuples()
            )
        if not rows:
            return
        for number, folder, file in rows:
            last = number
            watch()
            place = PurePosixPath(folder, file)
            try:
                store.path(place).stat()
            except OSError:
                yield place
