"""The queue of storage commitment requests (PS3.4 annex J): kept in the index until each result was delivered."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from peewee import fn

from angiovault.archive.archive import Archive
from angiovault.archive.index import Index
from angiovault.archive.models import Commitment
from angiovault.archive.selection import versions
from angiovault.archive.verifying import sound

WAITING: Final = "waiting"
DELIVERED: Final = "delivered"
GIVEN_UP: Final = "given up"

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119

_FIRST_RETRY: Final = 60
_LONGEST_RETRY: Final = 3600

Item = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""
Judgement = tuple[str, str, int]
"""SOP Class UID, SOP Instance UID and Failure Reason, 0 when the instance is safe."""


class DuplicateTransaction(ValueError):
    """The Transaction UID was used before with another list."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the queue; times in seconds since the epoch."""

    number: int
    transaction_uid: str
    calling: str
    called: str
    address: str
    items: tuple[Item, ...]
    result: tuple[Judgement, ...] | None
    attempts: int
    received: int


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
    encoded = json.dumps(sorted(items)).encode()
    digest = hashlib.sha256(encoded).hexdigest()
    now = int(time.time())
    with index.session() as database, database.atomic():
        same = (Commitment.transaction_uid == transaction_uid) & (Commitment.calling == calling)
        row = Commitment.select(Commitment.id, Commitment.request).where(same).tuples().first()
        if row is None:
            Commitment.insert(
                transaction_uid=transaction_uid,
                calling=calling,
                called=called,
                address=address,
                request=digest,
                items=encoded,
                result=b"",
                state=WAITING,
                attempts=0,
                next_attempt=now,
                received=now,
                problem="",
            ).execute()
        elif row[1] != digest:
            raise DuplicateTransaction(f"transaction {transaction_uid} was used before with another list")
        else:
            again = {"state": WAITING, "attempts": 0, "next_attempt": now, "received": now, "address": address}
            Commitment.update(**again, called=called, problem="").where(Commitment.id == row[0]).execute()


def due(index: Index) -> list[Request]:
    """Return the requests whose result is to be made or delivered now, the oldest first."""
    ready = (Commitment.state == WAITING) & (Commitment.next_attempt <= int(time.time()))
    with index.session():
        return [_request(row) for row in Commitment.select().where(ready).order_by(Commitment.id)]


def seconds_to_next(index: Index) -> float | None:
    """Return how long until a request is due, None when none waits."""
    with index.session():
        query = Commitment.select(Commitment.next_attempt).where(Commitment.state == WAITING)
        row = query.order_by(Commitment.next_attempt).tuples().first()
    return None if row is None else max(0.0, row[0] - time.time())


def judge(archive: Archive, request: Request) -> tuple[Judgement, ...]:
    """Decide for each instance of a request whether it is safe: every kept version is read again and its digest checked.

    Raises
    ------
    IndexUnavailable, StorageError
        When that cannot be found out now.
    """
    archive.check()
    index = archive.ready_index()
    return tuple((sop_class, uid, _judge_one(archive, index, sop_class, uid)) for sop_class, uid in request.items)


def _judge_one(archive: Archive, index: Index, sop_class: str, uid: str) -> int:
    kept = versions(index, uid)
    if not kept:
        return NO_SUCH_INSTANCE
    if all(version.sop_class_uid != sop_class for version in kept):
        return CLASS_INSTANCE_CONFLICT
    return 0 if all(sound(archive.store, version) for version in kept) else PROCESSING_FAILURE


def keep_result(index: Index, request: Request, result: Sequence[Judgement]) -> None:
    """Remember the result of a request."""
    with index.session():
        Commitment.update(result=json.dumps(list(result)).encode()).where(Commitment.id == request.number).execute()


def delivered(index: Index, request: Request) -> None:
    """Note that the result was delivered."""
    _set(index, request, state=DELIVERED, problem="")


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
    _set(index, request, state=GIVEN_UP, problem=problem)


def counts(index: Index) -> dict[str, int]:
    """Return the number of requests in each state."""
    with index.session():
        query = Commitment.select(Commitment.state, fn.COUNT(Commitment.id)).group_by(Commitment.state)
        return {str(state): int(count) for state, count in query.tuples()}


def waiting(index: Index) -> list[dict[str, Any]]:
    """Return what waits, for people: transaction, requestor, number of instances, attempts, last problem."""
    with index.session():
        query = Commitment.select().where(Commitment.state == WAITING).order_by(Commitment.id)
        return [
            {
                "transaction_uid": row.transaction_uid,
                "requestor": f"{row.calling}@{row.address}",
                "instances": len(json.loads(bytes(row.items))),
                "attempts": row.attempts,
                "problem": row.problem,
            }
            for row in query
        ]


def _set(index: Index, request: Request, **changes: Any) -> None:
    with index.session():
        Commitment.update(**changes).where(Commitment.id == request.number).execute()


def _request(row: Any) -> Request:
    result = json.loads(bytes(row.result)) if row.result else None
    return Request(
        row.id,
        row.transaction_uid,
        row.calling,
        row.called,
        row.address,
        tuple((sop_class, uid) for sop_class, uid in json.loads(bytes(row.items))),
        None if result is None else tuple((sop_class, uid, reason) for sop_class, uid, reason in result),
        row.attempts,
        row.received,
    )
