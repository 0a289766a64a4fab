"""Who knocked and was refused: kept in the index so that an administrator can see it and allow it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from angiovault.archive import notebook
from angiovault.archive.index import Index, ascii_code
from angiovault.archive.models import Refusal
from angiovault.archive.notebook import Notebook
from angiovault.reasons import Reason, sentences

MOST: Final = 1000
"""Refusals kept; whoever tries many AE titles pushes out the oldest, not the archive's memory."""

_Who = tuple[str, str, str, str, str]
"""Address, calling and called AE title, code and values of the reason."""


class Book(Notebook[_Who, tuple[str, int]]):
    """Takes note of refusals: of each the last time, and how often."""

    def note(self, address: str, calling: str, called: str, reason: Reason) -> None:
        """Take note of a refusal."""
        key = (address, calling, called, reason.code, reason.encoded())
        self._put(key, lambda known: (notebook.now(), known[1] + 1 if known else 1))

    def _write(self, notes: Mapping[_Who, tuple[str, int]]) -> None:
        for who, (time, times) in notes.items():
            _write(who, time, times)
        _forget_oldest()


def _write(who: _Who, time: str, times: int) -> None:
    address, calling, called, code, values = who
    digest = hashlib.sha256("\n".join(who).encode()).hexdigest()
    changed = (
        Refusal.update(last_time=time, times=Refusal.times + times).where(Refusal.digest == digest).execute()
    )
    if not changed:
        Refusal.insert(
            digest=digest,
            address=ascii_code(address),
            calling=ascii_code(calling),
            called=ascii_code(called),
            code=code,
            reason=values,
            first_time=time,
            last_time=time,
            times=times,
        ).execute()


def _forget_oldest() -> None:
    surplus = Refusal.select().count() - MOST
    if surplus > 0:
        oldest = [row for (row,) in Refusal.select(Refusal.id).order_by(Refusal.last_time).limit(surplus).tuples()]
        Refusal.delete().where(Refusal.id.in_(oldest)).execute()


def listed(index: Index) -> list[dict[str, Any]]:
    """Return the refusals, the latest first, each with its reason in English and Chinese."""
    with index.session():
        query = Refusal.select().order_by(Refusal.last_time.desc(), Refusal.id.desc())
        found = []
        for row in query:
            reason, reason_zh = sentences(row.code, row.reason)
            found.append(
                {
                    "address": row.address,
                    "calling": row.calling,
                    "called": row.called,
                    "reason": reason,
                    "reason_zh": reason_zh,
                    "first": row.first_time,
                    "last": row.last_time,
                    "times": row.times,
                }
            )
        return found
