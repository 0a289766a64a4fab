"""What is noted while associations run and written to the index a moment later, off their path."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from peewee import IntegrityError

from angiovault.archive.archive import Archive
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError

log = logging.getLogger(__name__)

_MOST_UNWRITTEN: Final = 200
_WRITE_AFTER: Final = 1.0

Key = TypeVar("Key")
Note = TypeVar("Note")


def now() -> str:
    """Return the time as notes have it, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Notebook(ABC, Generic[Key, Note]):
    """Notes by key, written together a second after the first; nothing is written while nothing happens.

    Of notes that cannot be written, since the database is away, the latest ones wait for the next note.

    Parameters
    ----------
    archive : Archive
        The archive in whose index they are written.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._unwritten: OrderedDict[Key, Note] = OrderedDict()
        self._timer: threading.Timer | None = None

    @abstractmethod
    def _write(self, notes: Mapping[Key, Note]) -> None:
        """Write notes, within a session and a transaction."""

    def _put(self, key: Key, merge: Callable[[Note | None], Note]) -> None:
        """Take a note; `merge` makes it of the one that is there already."""
        with self._lock:
            self._unwritten[key] = merge(self._unwritten.get(key))
            self._unwritten.move_to_end(key)
            while len(self._unwritten) > _MOST_UNWRITTEN:
                self._unwritten.popitem(last=False)
            if self._timer is None:
                self._timer = threading.Timer(_WRITE_AFTER, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what was noted."""
        with self._lock:
            batch, self._unwritten = self._unwritten, OrderedDict()
            self._timer = None
        if not batch:
            return
        try:
            index = self._archive.open_index()
            with index.session(), index.transaction():
                self._write(batch)
        except (IndexUnavailable, StorageError, IntegrityError) as error:
            log.debug("notes wait to be written: %s", error)
            with self._lock:
                for key, note in batch.items():
                    self._unwritten.setdefault(key, note)
