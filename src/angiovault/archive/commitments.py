"""The queue of storage commitment requests (PS3.4 annex J): kept in the index until each result was delivered."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from peewee import IntegrityError, fn

from angiovault.archive.archive import Archive
from angiovault.archive.finding.selection import StoredInstance, versions_of
from angiovault.archive.index import Index, IndexUnavailable
from angiovault.archive.models import Commitment
from angiovault.archive.verifying import sound

WAITING: Final = "waiting"
DELIVERED: Final = "delivered"
GIVEN_UP: Final = "given up"
CANCELLED: Final = "cancelled by an administrator"

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119

_FIRST_RETRY: Final = 60
_LONGEST_RETRY: Final = 3600
_RESULT_HOLDS: Final = 86400
"""Seconds for which a result that could not be delivered is not made anew: that means reading every file again."""

_AT_ONCE: Final = 0
"""A next attempt that somebody asked for."""
_BATCH: Final = 500
"""Instances looked up at once."""

Item = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""
Judgement = tuple[str, str, int]
"""SOP Class UID, SOP Instance UID and Failure Reason, 0 when the instance is safe."""


class DuplicateTransaction(ValueError):
    """The Transaction UID was used before with another list."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the queue; times in seconds since the epoch, `result` None when it has to be made (anew).

    It is `urgent` when somebody asked that it be tried now.
    """

    number: int
    transaction_uid: str
    calling: str
    called: str
    address: str
    items: tuple[Item, ...]
    result: tuple[Judgement, ...] | None
    attempts: int
    received: int
    urgent: bool = False


def accept(
    index: Index, transaction_uid: str, calling: str, called: str, address: str, items: Sequence[Item]
) -> None:
    """Put a request into the queue, durably; the same request again asks for its result again.

    Raises
    ------
    DuplicateTransaction
        When the Transaction UID was used with another list.
    IndexUnavailable
        When the database is away.
    """
    for last in (False, True):
        try:
            with index.session(), index.transaction():
                _accept(transaction_uid, calling, called, address, items)
            return
        except IntegrityError as error:  # the same request came on two associations in one moment
            if last:
                raise IndexUnavailable(f"the index refuses a row: {error}") from error


def _accept(transaction_uid: str, calling: str, called: str, address: str, items: Sequence[Item]) -> None:
    digest = hashlib.sha256(json.dumps(sorted(items)).encode()).hexdigest()
    now = int(time.time())
    fresh = {
        "called": called,
        "address": address,
        "items": _packed(list(items)),
        "result": b"",
        "state": WAITING,
        "attempts": 0,
        "next_attempt": now,
        "received": now,
        "problem": "",
    }
    same = (Commitment.transaction_uid == transaction_uid) & (Commitment.calling == calling)
    row = Commitment.select(Commitment.id, Commitment.request).where(same).tuples().first()
    if row is None:
        Commitment.insert(transaction_uid=transaction_uid, calling=calling, request=digest, **fresh).execute()
    elif row[1] == digest:
        Commitment.update(**fresh).where(Commitment.id == row[0]).execute()
    else:
        raise DuplicateTransaction(f"transaction {transaction_uid} was used before with another list")
    # Whoever asks is there: what could not be delivered to it is tried again at once.
    theirs = (Commitment.calling == calling) & (Commitment.address == address)
    Commitment.update(next_attempt=now).where(theirs & (Commitment.state == WAITING)).execute()


def next_due(index: Index) -> Request | None:
    """Return the request to work on now, if any: the one with the fewest attempts, so that new ones do not wait."""
    ready = (Commitment.state == WAITING) & (Commitment.next_attempt <= int(time.time()))
    with index.session():
        row = Commitment.select().where(ready).order_by(Commitment.attempts, Commitment.id).first()
    return None if row is None else _request(row)


def seconds_to_next(index: Index) -> float | None:
    """Return how long until a request is due, None when none waits."""
    with index.session():
        query = Commitment.select(Commitment.next_attempt).where(Commitment.state == WAITING)
        row = query.order_by(Commitment.next_attempt).tuples().first()
    return None if row is None else max(0.0, row[0] - time.time())


def retry_all(index: Index) -> None:
    """Make every waiting request due: after a restart the cause of a failed delivery may be gone."""
    with index.session():
        Commitment.update(next_attempt=int(time.time())).where(Commitment.state == WAITING).execute()


def judge(archive: Archive, items: Sequence[Item]) -> Iterator[Judgement]:
    """Decide whether instances are safe: every kept version of each is read again and its digest checked.

    Yields
    ------
    Judgement
        One for every item; its reason is a Failure Reason (PS3.3 C.14), 0 when the instance is safe.

    Raises
    ------
    IndexUnavailable, StorageError
        When that cannot be found out now.
    """
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        archive.check()
        kept = versions_of(archive.ready_index(), [uid for _, uid in batch])
        for sop_class, uid in batch:
            yield sop_class, uid, _failure_reason(archive, sop_class, kept.get(uid, []))


def _failure_reason(archive: Archive, sop_class: str, kept: Sequence[StoredInstance]) -> int:
    if not kept:
        return NO_SUCH_INSTANCE
    if all(version.sop_class_uid != sop_class for version in kept):
        return CLASS_INSTANCE_CONFLICT
    if all(sound(archive.store, version) for version in kept):
        return 0
    archive.check()  # a volume that has just gone says nothing about the file
    return PROCESSING_FAILURE


def keep_result(index: Index, request: Request, result: Sequence[Judgement]) -> bool:
    """Remember the result of a request until it is delivered; return whether it still waits for that."""
    _set(index, request, result=_packed([int(time.time()), list(result)]))
    with index.session():
        return _waits(request.number)


def delivered(index: Index, request: Request) -> None:
    """Note that the result was delivered; of the request only what tells its repetition from another stays."""
    with index.session():
        changes = {"state": DELIVERED, "problem": "", "items": b"", "result": b""}
        Commitment.update(**changes).where(Commitment.id == request.number).execute()


def postpone(index: Index, request: Request, problem: str, retry_days: int) -> bool:
    """Note a failed delivery and plan the next one.

    Returns
    -------
    bool
        Whether there will be a next one; False when it has been tried for `retry_days` days.
    """
    now = int(time.time())
    if now - request.received > retry_days * 86400:
        give_up(index, request, problem)
        return False
    pause = min(_FIRST_RETRY * 2 ** min(request.attempts, 10), _LONGEST_RETRY)
    _set(index, request, attempts=request.attempts + 1, next_attempt=now + pause, problem=problem)
    return True


def give_up(index: Index, request: Request, problem: str) -> None:
    """Note that a result cannot be delivered."""
    _set(index, request, state=GIVEN_UP, problem=problem, items=b"", result=b"")


def retry(index: Index, number: int) -> bool:
    """Have a waiting request tried at once; return whether it waits."""
    with index.session():
        if not _waits(number):
            return False
        changed = Commitment.update(next_attempt=_AT_ONCE)
        changed.where((Commitment.id == number) & (Commitment.state == WAITING)).execute()
    return True


def cancel(index: Index, number: int) -> bool:
    """Give up a waiting request since somebody wants that; return whether it waited."""
    with index.session():
        if not _waits(number):
            return False
        changed = Commitment.update(state=GIVEN_UP, problem=CANCELLED, items=b"", result=b"")
        changed.where((Commitment.id == number) & (Commitment.state == WAITING)).execute()
    return True


def _waits(number: int) -> bool:
    query = Commitment.select(Commitment.id).where((Commitment.id == number) & (Commitment.state == WAITING))
    return query.tuples().first() is not None


def listed(index: Index, most: int) -> list[dict[str, Any]]:
    """Return the latest requests for people, those that wait first; how many instances is known of these alone."""
    with index.session():
        query = Commitment.select().order_by((Commitment.state != WAITING), Commitment.id.desc()).limit(most)
        return [
            {
                "number": row.id,
                "transaction_uid": row.transaction_uid,
                "requestor": f"{row.calling}@{row.address}",
                "state": row.state,
                "instances": len(_unpacked(row.items)) if row.items else None,
                "received": _iso(row.received),
                "attempts": row.attempts,
                "next_attempt": _iso(max(row.next_attempt, int(time.time()))) if row.state == WAITING else "",
                "problem": row.problem,
            }
            for row in query
        ]


def counts(index: Index) -> dict[str, int]:
    """Return the number of requests in each state."""
    with index.session():
        query = Commitment.select(Commitment.state, fn.COUNT(Commitment.id)).group_by(Commitment.state)
        return {str(state): int(count) for state, count in query.tuples()}


def waiting(index: Index) -> list[dict[str, Any]]:
    """Return what waits, for people: which transaction of whom, how much, since when, and why it waits still."""
    with index.session():
        query = Commitment.select().where(Commitment.state == WAITING).order_by(Commitment.id)
        return [
            {
                "transaction_uid": row.transaction_uid,
                "requestor": f"{row.calling}@{row.address}",
                "instances": len(_unpacked(row.items)),
                "received": _iso(row.received),
                "attempts": row.attempts,
                "next_attempt": _iso(row.next_attempt),
                "problem": row.problem,
            }
            for row in query
        ]


def late(index: Index, seconds: int) -> tuple[int, str, str] | None:
    """Return how many results wait for more than `seconds`, for whom the oldest, and why; None when there is none."""
    too_old = (Commitment.state == WAITING) & (Commitment.received < int(time.time()) - seconds)
    with index.session():
        number = Commitment.select().where(too_old).count()
        row = Commitment.select().where(too_old).order_by(Commitment.received).first()
    return None if row is None else (number, f"{row.calling}@{row.address}", row.problem)


def _set(index: Index, request: Request, **changes: Any) -> None:
    """Change a request, unless somebody has cancelled it meanwhile."""
    same = (Commitment.id == request.number) & (Commitment.state == WAITING)
    with index.session():
        Commitment.update(**changes).where(same).execute()


def _packed(value: list[Any]) -> bytes:
    # UIDs resemble one another: a tenth is left of a list, which a database limits in length.
    return zlib.compress(json.dumps(value).encode())


def _unpacked(encoded: bytes) -> Any:
    return json.loads(zlib.decompress(bytes(encoded)))


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _request(row: Any) -> Request:
    made, result = _unpacked(row.result) if row.result else (0, [])
    return Request(
        row.id,
        row.transaction_uid,
        row.calling,
        row.called,
        row.address,
        tuple((sop_class, uid) for sop_class, uid in _unpacked(row.items)),
        tuple((sop_class, uid, reason) for sop_class, uid, reason in result)
        if 0 <= time.time() - made <= _RESULT_HOLDS
        else None,
        row.attempts,
        row.received,
        row.next_attempt == _AT_ONCE,
    )
