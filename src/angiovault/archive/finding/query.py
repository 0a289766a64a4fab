"""Finding: the matching of PS3.4 C.2.2.2 on the index.

What the schema has columns for is matched by SQL (`conditions`), every other attribute of the level by `matching` on
the stored head of the entity, so that all attributes the archive keeps can be keys.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from angiovault.archive import elements
from angiovault.archive.attributes import WANTED
from angiovault.archive.elements import Elements
from angiovault.archive.finding import conditions, matching
from angiovault.archive.finding.matching import Key, Range
from angiovault.archive.finding.rows import COMPUTED, Rows
from angiovault.archive.index import Index

log = logging.getLogger(__name__)

LEVELS: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")
MOST_MATCHES: Final = 500_000
"""Answers to one query; their row numbers are held in memory."""
_BATCH: Final = 200


class TooManyMatches(Exception):
    """A query matches more than can be answered."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query at one level.

    Attributes
    ----------
    level : str
        One of `LEVELS`.
    keys : Mapping[int, Key]
        Matching keys, universal ones included: their attributes are answered.
    combined_datetime : bool
        Whether a date and its time are matched as one (PS3.4 C.2.2.2.5, by negotiation only).
    constants : Elements
        Attributes that are the same for every entity.
    """

    level: str
    keys: Mapping[int, Key]
    combined_datetime: bool = False
    constants: Elements = field(default_factory=dict)


@dataclass(slots=True)
class Match:
    """One answer: the attributes asked for that have a value, and the character set that they are stored under."""

    values: Elements
    label: bytes


def supported(tag: int, level: str) -> bool:
    """Return whether an attribute can be a key and is answered at a level: it is of that level or of one above."""
    of = WANTED.get(tag) or COMPUTED.get(tag)
    return of is not None and (of[0] == "ANY" or LEVELS.index(of[0]) <= LEVELS.index(level))


def find(index: Index, query: Query) -> Iterator[list[Match]]:
    """Yield the matches of a query in batches; a batch may be empty, so that a caller can stop between any two.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    TooManyMatches
        When there are more than `MOST_MATCHES`.
    """
    keys = {tag: key for tag, key in query.keys.items() if supported(tag, query.level)}
    selective = {tag: key for tag, key in keys.items() if not key.universal}
    pairs = matching.combined(selective) if query.combined_datetime else {}
    listed = max(conditions.UIDS.keys() & selective.keys(), key=lambda tag: len(selective[tag].uids()), default=None)
    remaining = {tag: key for tag, key in selective.items() if tag != listed and not conditions.in_sql(tag, key)}
    found = _numbers(index, query.level, selective, listed, pairs)
    constants = {tag: value for tag, value in query.constants.items() if tag in keys}
    sequences = {tag: key.items[0] for tag, key in keys.items() if key.vr == "SQ" and key.items and key.items[0]}
    for start in range(0, len(found), _BATCH):
        numbers = found[start : start + _BATCH]
        with index.session():
            rows = Rows(index, query.level, numbers, frozenset(keys))
            index.require_complete()  # a rebuild that has begun meanwhile would make the rest of the answer a wrong one
        matches = []
        for number in numbers:
            try:
                entity = rows.attributes(number)
                if entity is None:
                    continue
                values, label = entity
                values.update(constants)
                if not remaining or matching.all_match(remaining, values, label, pairs):
                    for tag in sequences.keys() & values.keys():
                        values[tag] = _asked(sequences[tag], values[tag])
                    matches.append(Match(values, label))
            except (LookupError, TypeError, ValueError, AttributeError):  # it must not hide the others
                log.exception("%s %d of the index is damaged and left out of an answer", query.level, number)
        yield matches


def _numbers(
    index: Index, level: str, keys: Mapping[int, Key], listed: int | None, pairs: Mapping[int, tuple[Range, Range]]
) -> array[int]:
    """Return the row numbers that match by SQL; the longest list of UIDs, that of key `listed`, goes in pieces."""
    numbers = array("q")
    uids = () if listed is None else keys[listed].uids()
    for start in range(0, max(1, len(uids)), conditions.UIDS_AT_ONCE):
        piece = "\\".join(uids[start : start + conditions.UIDS_AT_ONCE]).encode("latin-1")
        some = keys if listed is None else {**keys, listed: Key("UI", piece)}
        with index.session() as database:
            select = conditions.select(level, some, pairs).limit(MOST_MATCHES + 1 - len(numbers))
            numbers.extend(number for (number,) in database.execute(select))
        if len(numbers) > MOST_MATCHES:
            raise TooManyMatches(f"more than {MOST_MATCHES} matches: ask for less at a time")
    return numbers


def _asked(keys: Mapping[int, Key], sequence: tuple[str, bytes]) -> tuple[str, bytes]:
    """Return of a sequence what was asked of its items (PS3.4 C.2.2.2.6)."""
    return "SQ", elements.encode_items(_items_asked(keys, elements.items(sequence[1])))


def _items_asked(keys: Mapping[int, Key], items: Iterable[elements.Tree]) -> list[elements.Tree]:
    out = []
    for item in items:
        tree = {tag: item[tag] for tag in (*keys, elements.SPECIFIC_CHARACTER_SET) if tag in item}
        for tag, key in keys.items():
            element = tree.setdefault(tag, elements.Element(key.vr, b""))
            if element.vr == "SQ" and key.items and key.items[0]:
                tree[tag] = elements.Element("SQ", b"", tuple(_items_asked(key.items[0], element.items)))
        out.append(tree)
    return out
