"""Rebuilding the index from nothing but the files."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from angiovault.archive import filemeta
from angiovault.archive.archive import Archive
from angiovault.archive.choices import Choices
from angiovault.archive.index import Entry, IndexIncomplete
from angiovault.archive.store import StorageError, as_storage_error
from angiovault.archive.trash import finish_interrupted

log = logging.getLogger(__name__)

_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Indexed:
    """One file: its place, and '' or why it could not be indexed; `total` is the number of files in all."""

    place: PurePosixPath
    problem: str
    size: int
    total: int


class BeingRebuilt(StorageError):
    """Another process or thread is rebuilding the index."""


def _nobody() -> None:
    """Watch nothing."""


def reindex(
    archive: Archive, if_incomplete: bool = False, watch: Callable[[], None] = _nobody
) -> Iterator[Indexed]:
    """Make the index anew from the files, in the order in which they were received.

    The order matters: of several versions of an instance the first received is current, and the first patient of a
    study is the one shown. It is sorted on disk, so that memory does not grow with the archive. Meanwhile queries are
    refused, and what is received waits in the journal, in this and all other processes; so it stays when the work is
    cut off.

    Parameters
    ----------
    archive : Archive
        The opened archive.
    if_incomplete : bool
        Whether to do nothing when the index is complete.
    watch : Callable
        Is called for every file that is listed, and may end the work by raising: the index is then as it was.

    Yields
    ------
    Indexed
        One for every file.

    Raises
    ------
    BeingRebuilt
        When somebody else is at it.
    IndexUnavailable, StorageError
        When index or storage are away.
    """
    index = archive.open_index()
    archive.settler.wait()
    finish_interrupted(archive)
    with _alone(archive):
        if if_incomplete and _is_complete(archive):
            return
        # From here on nobody else adds to the index; whatever was added before lies in its place and will be listed.
        # Nor does anybody delete: that has ended now, and does not begin while the index is incomplete.
        with archive.exclusion.shared():
            was_complete = index.mark(complete=False)
        with _order(archive) as order:
            try:
                total = _collect(archive, order, watch)
            except BaseException:
                index.mark(complete=was_complete)
                raise
            index.clear()
            rows = order.execute("SELECT place, received FROM file ORDER BY received, place")
            while batch := rows.fetchmany(_BATCH):
                places = [(PurePosixPath(place), bool(received)) for place, received in batch]
                yield from _index(archive, places, total)
        _apply_choices(archive)
        index.mark(complete=True)
    if archive.behind:
        archive.catch_up()


@contextlib.contextmanager
def _alone(archive: Archive) -> Iterator[None]:
    with as_storage_error("cannot lock the index"):
        path = archive.store.private / "reindex.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BeingRebuilt(
                "the index is being rebuilt already, by the service or another `angiovault reindex`"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _is_complete(archive: Archive) -> bool:
    try:
        archive.index.require_complete()
    except IndexIncomplete:
        return False
    return True


@contextlib.contextmanager
def _order(archive: Archive) -> Iterator[sqlite3.Connection]:
    """Give a database on the storage volume for sorting; what a crash leaves of it is removed by the next start."""
    path = archive.store.private / "incoming" / f"{os.getpid()}-{secrets.token_hex(12)}"
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as order:
            order.execute("PRAGMA journal_mode = off")
            order.execute("PRAGMA synchronous = off")
            order.execute("CREATE TABLE file (received TEXT, place TEXT, PRIMARY KEY (received, place)) WITHOUT ROWID")
            yield order
    except sqlite3.Error as error:
        raise StorageError(f"cannot sort the files by time of receipt: {error}") from error
    finally:
        path.unlink(missing_ok=True)


def _collect(archive: Archive, order: sqlite3.Connection, watch: Callable[[], None]) -> int:
    """List all files with their times of receipt, and return their number."""
    total = 0
    with as_storage_error("cannot list the storage"):
        order.execute("BEGIN")
        for place in archive.store.instance_files():
            try:
                with archive.store.path(place).open("rb") as file:
                    received = filemeta.read(file).received
            except (OSError, filemeta.NotDicom):
                received = ""  # said with the reason when its turn comes
            order.execute("INSERT INTO file VALUES (?, ?)", (received, str(place)))
            total += 1
            watch()
        order.execute("COMMIT")
    return total


def _index(archive: Archive, places: list[tuple[PurePosixPath, bool]], total: int) -> Iterator[Indexed]:
    """Index a few files in one transaction."""
    entries: dict[PurePosixPath, Entry] = {}
    problems: dict[PurePosixPath, str] = {}
    for place, _ in places:
        try:
            entries[place] = archive.entry_of_file(place)
        except (OSError, ValueError) as error:
            problems[place] = str(error)
    for place, problem in zip(entries, archive.index.rebuild(list(entries.values())), strict=True):
        if problem:
            problems[place] = problem
    for place, readable in places:
        problem = problems.get(place, "")
        if problem:
            log.error("%s %s: %s", place, "cannot be indexed" if readable else "is no stored instance", problem)
        yield Indexed(place, problem, entries[place].size if not problem else 0, total)


def _apply_choices(archive: Archive) -> None:
    for uid, content in Choices(archive.store).all().items():
        try:
            archive.index.choose(content, uid)
        except LookupError as error:
            log.error("a choice between versions cannot be kept: %s", error)
