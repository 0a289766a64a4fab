"""Who was in contact: the last associations, and of each caller when it last asked for what, and with which result.

Kept in the index, and not read from the log, which is rotated. A rebuilt index keeps it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from angiovault.archive import notebook
from angiovault.archive.archive import Archive
from angiovault.archive.index import Index, ascii_code
from angiovault.archive.models import Contact, PastAssociation
from angiovault.archive.notebook import Notebook

MOST: Final = 5000
"""Contacts kept: each is what one caller at one address asked for."""
MOST_ASSOCIATIONS: Final = 100
NO_ANSWER: Final = -1
"""In place of a status: the association ended before there was one."""
REJECTED: Final = "rejected"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for last within an association: when (UTC), the status of the answer, how many instances."""

    time: str
    status: int
    instances: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """An association that has ended.

    Attributes
    ----------
    calling, address, called : str
        AE title and address of the caller, and the AE title that it called.
    device : str
        Name of the configured device that it is; '' for another caller.
    ending : str
        How it ended, as a word that the panel's texts know.
    tally : Mapping[str, int]
        How many of what.
    asked : Mapping[str, Asked]
        Operation -> what was asked for.
    """

    calling: str
    address: str
    called: str
    device: str
    ending: str
    tally: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)


class Book(Notebook[int, tuple[str, Ended]]):
    """Takes note of associations that have ended."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive)
        self._numbers = itertools.count()

    def note(self, ended: Ended) -> None:
        """Take note of an association that has ended."""
        self._put(next(self._numbers), lambda _: (notebook.now(), ended))

    def _write(self, notes: Mapping[int, tuple[str, Ended]]) -> None:
        newest = 0
        for time, ended in notes.values():
            newest = PastAssociation.insert(
                time=time,
                calling=ascii_code(ended.calling),
                address=ascii_code(ended.address),
                called=ascii_code(ended.called),
                device=ended.device[:191],
                ending=ended.ending,
                tally=json.dumps(dict(ended.tally)),
            ).execute()
            asked = dict(ended.asked)
            if ended.ending == REJECTED:
                asked[REJECTED] = Asked(time, NO_ANSWER)
            for operation, what in asked.items():
                _write(ended, operation, what)
        PastAssociation.delete().where(PastAssociation.id <= newest - MOST_ASSOCIATIONS).execute()
        _forget_oldest()


def _write(ended: Ended, operation: str, asked: Asked) -> None:
    key = "\n".join((ended.address, ended.calling, operation))
    digest = hashlib.sha256(key.encode()).hexdigest()
    last = {
        "device": ended.device[:191],
        "last_time": asked.time,
        "status": asked.status,
        "instances": asked.instances,
    }
    changed = Contact.update(times=Contact.times + 1, **last).where(Contact.digest == digest).execute()
    if not changed:
        Contact.insert(
            digest=digest,
            calling=ascii_code(ended.calling),
            address=ascii_code(ended.address),
            operation=operation,
            first_time=asked.time,
            times=1,
            **last,
        ).execute()


def _forget_oldest() -> None:
    surplus = Contact.select().count() - MOST
    if surplus > 0:
        # Those of configured devices stay as long as others can go: anybody may call by many titles.
        query = Contact.select(Contact.id).order_by(Contact.device != "", Contact.last_time).limit(surplus)
        Contact.delete().where(Contact.id.in_([row for (row,) in query.tuples()])).execute()


def last_associations(index: Index, most: int) -> list[dict[str, Any]]:
    """Return the last associations, the latest first."""
    with index.session():
        query = PastAssociation.select().order_by(PastAssociation.id.desc()).limit(most)
        return [
            {
                "time": row.time,
                "calling": row.calling,
                "address": row.address,
                "called": row.called,
                "device": row.device,
                "ending": row.ending,
                "tally": json.loads(row.tally),
            }
            for row in query
        ]


def listed(index: Index) -> list[dict[str, Any]]:
    """Return of each caller what it asked for, the latest first."""
    with index.session():
        query = Contact.select().order_by(Contact.last_time.desc(), Contact.id.desc())
        return [
            {
                "calling": row.calling,
                "address": row.address,
                "device": row.device,
                "operation": row.operation,
                "first": row.first_time,
                "last": row.last_time,
                "status": row.status,
                "instances": row.instances,
                "times": row.times,
            }
            for row in query
        ]
