"""Who knocked and was refused: kept in the index so that an administrator can see it and allow it."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, Final

from peewee import IntegrityError

from angiovault.archive.archive import Archive
from angiovault.archive.index import Index, IndexUnavailable, ascii_code
from angiovault.archive.models import Refusal
from angiovault.archive.store import StorageError

log = logging.getLogger(__name__)

MOST: Final = 1000
"""Refusals kept; whoever tries many AE titles pushes out the oldest, not the archive's memory."""
_MOST_UNWRITTEN: Final = 200
_WRITE_AFTER: Final = 1.0


class Book:
    """Takes note of refusals, and writes them to the index together, off the path of the association refused."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._unwritten: OrderedDict[tuple[str, str, str, str], tuple[str, int]] = OrderedDict()
        self._timer: threading.Timer | None = None

    def note(self, address: str, calling: str, called: str, reason: str) -> None:
        """Take note of a refusal."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._lock:
            key = (address, calling, called, reason[:500])
            _, times = self._unwritten.get(key, ("", 0))
            self._unwritten[key] = (now, times + 1)
            self._unwritten.move_to_end(key)
            while len(self._unwritten) > _MOST_UNWRITTEN:
                self._unwritten.popitem(last=False)
            if self._timer is None:
                self._timer = threading.Timer(_WRITE_AFTER, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what was noted; what cannot be written now waits for the next refusal."""
        with self._lock:
            batch, self._unwritten = self._unwritten, OrderedDict()
            self._timer = None
        if not batch:
            return
        try:
            index = self._archive.open_index()
            with index.session(), index.transaction():
                for (address, calling, called, reason), (now, times) in batch.items():
                    _write(address, calling, called, reason, now, times)
                _forget_oldest()
        except (IndexUnavailable, StorageError, IntegrityError) as error:
            log.debug("refusals wait to be written: %s", error)
            with self._lock:
                for key, value in batch.items():
                    self._unwritten.setdefault(key, value)


def _write(address: str, calling: str, called: str, reason: str, now: str, times: int) -> None:
    digest = hashlib.sha256("\n".join((address, calling, called, reason)).encode()).hexdigest()
    changed = (
        Refusal.update(last_time=now, times=Refusal.times + times).where(Refusal.digest == digest).execute()
    )
    if not changed:
        Refusal.insert(
            digest=digest,
            address=ascii_code(address),
            calling=ascii_code(calling),
            called=ascii_code(called),
            reason=reason,
            first_time=now,
            last_time=now,
            times=times,
        ).execute()


def _forget_oldest() -> None:
    surplus = Refusal.select().count() - MOST
    if surplus > 0:
        oldest = [row for (row,) in Refusal.select(Refusal.id).order_by(Refusal.last_time).limit(surplus).tuples()]
        Refusal.delete().where(Refusal.id.in_(oldest)).execute()


def listed(index: Index) -> list[dict[str, Any]]:
    """Return the refusals, the latest first."""
    with index.session():
        query = Refusal.select().order_by(Refusal.last_time.desc(), Refusal.id.desc())
        return [
            {
                "address": row.address,
                "calling": row.calling,
                "called": row.called,
                "reason": row.reason,
                "first": row.first_time,
                "last": row.last_time,
                "times": row.times,
            }
            for row in query
        ]
