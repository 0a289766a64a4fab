"""Reading stored files again: is every byte still what was received? Needs no index, the digest lies in each file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Final

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


def verify(store: Store, megabytes_per_second: float = 0) -> Iterator[Finding]:
    """Read all stored files, at most at the given rate (0: as fast as can be).

    Yields
    ------
    Finding
        One for every file.
    """
    pace = Pace(megabytes_per_second) if megabytes_per_second else None
    for place in store.instance_files():
        yield check_file(store, place, pace)


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


def missing_files(store: Store, index: Index) -> Iterator[PurePosixPath]:
    """Yield the paths that the index knows and where no file can be reached.

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
            place = PurePosixPath(folder, file)
            try:
                store.path(place).stat()
            except OSError:
                yield place
