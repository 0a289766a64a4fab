"""What was imported before, so that an interrupted import goes on where it was without reading everything again."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final

from angiovault.archive.store import StorageError, Store

log = logging.getLogger(__name__)

_FILE: Final = "imports.sqlite3"
_MOST_PENDING: Final = 500
_LONGEST_PENDING: Final = 5.0


class ImportedBefore:
    """A durable list of source files and where they lie in the archive; a context manager.

    It only saves time. What is lost from it by a crash is read again and found to be a duplicate.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.private / _FILE
        self._pending: list[tuple[bytes, int, int, str]] = []
        self._written = time.monotonic()
        with _as_storage_error():
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            return _prepared(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            log.warning("the list of imported files is damaged and begun anew: %s", error)
            self._path.unlink()
            return _prepared(self._path)

    def __enter__(self) -> ImportedBefore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._write()
        finally:
            self._database.close()

    def holds(self, source: str, size: int, modified: int) -> bool:
        """Return whether a source of this size (bytes) and time of modification (ns) was imported and is still kept."""
        with _as_storage_error():
            row = self._database.execute(
                "SELECT place FROM source WHERE key = ? AND size = ? AND modified = ?", (_key(source), size, modified)
            ).fetchone()
        return row is not None and self._store.path(PurePosixPath(row[0])).is_file()

    def add(self, source: str, size: int, modified: int, place: PurePosixPath) -> None:
        """Remember a source that is in the archive now."""
        self._pending.append((_key(source), size, modified, str(place)))
        if len(self._pending) >= _MOST_PENDING or time.monotonic() - self._written > _LONGEST_PENDING:
            self._write()

    def _write(self) -> None:
        with _as_storage_error(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO source VALUES (?, ?, ?, ?)", self._pending)
        self._pending.clear()
        self._written = time.monotonic()


def _prepared(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=30)
    try:
        database.execute("PRAGMA synchronous = normal")
        database.execute(
            "CREATE TABLE IF NOT EXISTS source "
            "(key BLOB PRIMARY KEY, size INTEGER, modified INTEGER, place TEXT) WITHOUT ROWID"
        )
    except sqlite3.Error:
        database.close()
        raise
    return database


def _key(source: str) -> bytes:
    return hashlib.sha256(source.encode(errors="surrogateescape")).digest()[:16]


@contextmanager
def _as_storage_error() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"cannot keep the list of imported files: {error}") from error
