"""Rebuilding the index from nothing but the files."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Final

from angiovault.archive import filemeta
from angiovault.archive.archive import Archive
from angiovault.archive.choices import Choices
from angiovault.archive.store import as_storage_error

log = logging.getLogger(__name__)

_COMMIT_EVERY: Final = 1000


@dataclass(frozen=True, slots=True)
class Indexed:
    """One file: its place, and '' or why it could not be indexed; `total` is the number of files in all."""

    place: PurePosixPath
    problem: str
    size: int
    total: int


def reindex(archive: Archive) -> Iterator[Indexed]:
    """Make the index anew from the files, in the order in which they were received.

    The order matters: of several versions of an instance the first received is current, and the first patient of a study
    is the one shown. It is sorted on disk, so that memory does not grow with the archive.

    Yields
    ------
    Indexed
        One for every file.

    Raises
    ------
    IndexUnavailable, StorageError
        When index or storage are away.
    """
    archive.check()
    archive.index.open(archive.store.archive_id)
    archive.index.clear()
    with TemporaryDirectory(dir=archive.store.private, prefix="reindex-") as folder:
        with closing(sqlite3.connect(Path(folder, "order.sqlite3"), isolation_level=None)) as order:
            total = _collect(archive, order)
            for received, text in order.execute("SELECT received, place FROM file ORDER BY received, place"):
                yield _index(archive, PurePosixPath(text), bool(received), total)
    for uid, content in Choices(archive.store).all().items():
        try:
            archive.index.choose(content, uid)
        except LookupError as error:
            log.error("an administrator's choice cannot be kept: %s", error)


def _collect(archive: Archive, order: sqlite3.Connection) -> int:
    order.execute("PRAGMA journal_mode = off")
    order.execute("PRAGMA synchronous = off")
    order.execute("CREATE TABLE file (received TEXT, place TEXT)")
    total = 0
    with as_storage_error("cannot list the storage"):
        order.execute("BEGIN")
        for place in archive.store.instance_files():
            try:
                with (archive.store.root / place).open("rb") as file:
                    received = filemeta.read(file).received
            except (OSError, filemeta.NotDicom):
                received = ""  # said with the reason when its turn comes
            order.execute("INSERT INTO file VALUES (?, ?)", (received, str(place)))
            total += 1
            if total % _COMMIT_EVERY == 0:
                order.execute("COMMIT")
                order.execute("BEGIN")
        order.execute("COMMIT")
    return total


def _index(archive: Archive, place: PurePosixPath, readable: bool, total: int) -> Indexed:
    try:
        entry = archive.entry_of_file(place)
        archive.index.add(entry)
    except (OSError, ValueError) as error:
        kind = "cannot be indexed" if readable else "is no stored instance"
        log.error("%s %s: %s", place, kind, error)
        return Indexed(place, str(error), 0, total)
    return Indexed(place, "", entry.size, total)
