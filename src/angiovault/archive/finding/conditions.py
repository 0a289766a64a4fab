"""Keys of a query as SQL conditions, written so that SQLite and MariaDB use their indexes and give the same answers.

Patterns and columns are folded alike (`names.fold`), so both engines compare code point by code point.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import peewee

from angiovault.archive.finding.matching import Key, Range
from angiovault.archive.finding.rows import MODALITIES_IN_STUDY
from angiovault.archive.models import Instance, Patient, PatientName, Series, Study, StudyPerson

_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_BIRTH_DATE: Final = 0x00100030
_STUDY_DATE: Final = 0x00080020
_STUDY_TIME: Final = 0x00080030

UIDS: Final = {
    0x0020000D: Study.uid,
    0x0020000E: Series.uid,
    0x00080018: Instance.uid,
    0x00080016: Instance.sop_class,
}
"""Keys that are matched by lists of UIDs: tag -> column."""
UIDS_AT_ONCE: Final = 500
"""Longest list of UIDs in one statement."""
_OF_PATIENT: Final = frozenset((_PATIENT_ID, _BIRTH_DATE))
_PERSON: Final = _OF_PATIENT | {_PATIENT_NAME}
_TEXT: Final = {
    0x00080050: Study.accession_number,
    0x00200010: Study.study_id,
    0x00081030: Study.description,
    0x0008103E: Series.description,
    0x00080060: Series.modality,
}
_INTEGERS: Final = {0x00200013: Instance.instance_number, 0x00200011: Series.series_number}
_DATES: Final = {_STUDY_DATE: Study.study_date, _STUDY_TIME: Study.study_time}

_IN_SQL: Final = _PERSON | _TEXT.keys() | _INTEGERS.keys() | _DATES.keys() | {MODALITIES_IN_STUDY}

_ROW: Final = {"PATIENT": Patient.id, "STUDY": Study.id, "SERIES": Series.id, "IMAGE": Instance.id}
_ASCII_COLUMNS: Final = frozenset((Series.modality,))
"""Text columns that hold ASCII only; like UID columns, MariaDB refuses to compare them with anything else."""
_LONGEST_KEY: Final = 185
"""Characters of a text that its column holds."""
_WILD: Final = re.compile(r"[*?]")
_NOTHING: Final = peewee.SQL("1 = 0")


def in_sql(tag: int, key: Key) -> bool:
    """Return whether `select` takes care of a key."""
    return tag in _IN_SQL or (tag in UIDS and len(key.uids()) <= UIDS_AT_ONCE)


def select(level: str, keys: Mapping[int, Key], pairs: Mapping[int, tuple[Range, Range]]) -> Any:
    """Make the query for the row numbers of a level's entities, the last received first.

    Parameters
    ----------
    level : str
        PATIENT, STUDY, SERIES or IMAGE.
    keys : Mapping[int, Key]
        Keys of this level and those above that are not universal; those that are not `in_sql` are ignored.
    pairs : Mapping[int, tuple[Range, Range]]
        Dates to be matched together with their times, see `matching.combined`.
    """
    conditions = [condition for tag, key in keys.items() if (condition := _condition(tag, key, pairs)) is not None]
    if level == "PATIENT":
        conditions += _person_conditions(keys, Patient.id)
    elif person := _person_conditions(keys, StudyPerson.patient_id):
        met = StudyPerson.select(StudyPerson.study_id)
        if keys.keys() & _OF_PATIENT:
            met = met.join(Patient, on=(Patient.id == StudyPerson.patient_id))
        conditions.append(Study.id.in_(met.where(*person)))
    query = _ENTITIES[level]()
    return query.where(*conditions).order_by(_ROW[level].desc()) if conditions else query.order_by(_ROW[level].desc())


def _series() -> Any:
    joined = Series.select(Series.id).join(Study, on=(Study.id == Series.study_id))
    return joined.where(Series.instance_count > 0)


def _images() -> Any:
    joined = Instance.select(Instance.id).join(Series, on=(Series.id == Instance.series_id))
    return joined.join(Study, on=(Study.id == Series.study_id)).where(Instance.current == 1)


_ENTITIES: Final[dict[str, Callable[[], Any]]] = {
    "PATIENT": lambda: Patient.select(Patient.id),
    "STUDY": lambda: Study.select(Study.id).where(Study.instance_count > 0),
    "SERIES": _series,
    "IMAGE": _images,
}
"""Level -> query for the row numbers of everything that is there."""


def _condition(tag: int, key: Key, pairs: Mapping[int, tuple[Range, Range]]) -> Any:
    """Return the condition of a key on its own, None for one that is matched elsewhere."""
    if tag in UIDS and in_sql(tag, key):
        return UIDS[tag].in_([uid for uid in key.uids() if uid.isascii()])
    if tag in _TEXT:
        return _text_condition(_TEXT[tag], key.patterns)
    if tag in _INTEGERS:
        return _INTEGERS[tag].in_(key.integers)
    if tag == MODALITIES_IN_STUDY:
        hits = _text_condition(Series.modality, key.patterns)
        return Study.id.in_(Series.select(Series.study_id).where(hits & (Series.instance_count > 0)))
    if tag == _STUDY_DATE and tag in pairs:
        return _moment_condition(*pairs[tag])
    if tag in _DATES and _STUDY_DATE not in pairs:
        return _any(_between(_DATES[tag], limits) for limits in key.ranges)
    return None


def _person_conditions(keys: Mapping[int, Key], number: Any) -> list[Any]:
    """Return the conditions on a patient, whose number is in the column `number`."""
    conditions = []
    if _PATIENT_NAME in keys:
        hits = _text_condition(PatientName.name, keys[_PATIENT_NAME].patterns)
        conditions.append(number.in_(PatientName.select(PatientName.patient_id).where(hits)))
    if _PATIENT_ID in keys:
        conditions.append(_text_condition(Patient.patient_id, keys[_PATIENT_ID].patterns))
    if _BIRTH_DATE in keys:
        conditions.append(_any(_between(Patient.birth_date, limits) for limits in keys[_BIRTH_DATE].ranges))
    return conditions


def _moment_condition(dates: Range, times: Range) -> Any:
    """Return the condition of a combined range; one on the date alone comes first, for the index to use."""
    (first_date, last_date), (first_time, last_time) = dates, times
    condition = _between(Study.study_date, dates)
    if first_date and first_time:
        condition &= (Study.study_date > first_date) | (Study.study_time >= first_time)
    if last_date and last_time:
        in_time = (Study.study_time != "") & (Study.study_time <= last_time)
        condition &= (Study.study_date < last_date) | in_time
    return condition


def _between(column: Any, limits: Range) -> Any:
    low, high = limits
    condition = column >= low if low else column > ""
    return condition & (column <= high) if high else condition


def _text_condition(column: Any, patterns: Iterable[str]) -> Any:
    """Return the condition that a folded text matches any of some patterns."""
    if column in _ASCII_COLUMNS:
        patterns = [pattern for pattern in patterns if pattern.isascii()]
    whole, wild = [], []
    for pattern in patterns:
        fixed = fixed_beginning(pattern)
        if fixed == pattern:
            whole.append(pattern[:_LONGEST_KEY])
        elif len(pattern) - pattern.count("*") <= _LONGEST_KEY:
            wild.append(_like(column, pattern, fixed))
    return _any([column.in_(whole), *wild] if whole else wild)


def _like(column: Any, pattern: str, fixed: str) -> Any:
    """Return the condition of a pattern with wildcards, with a range on its fixed beginning for the index to use."""
    escaped = "".join({"*": "%", "?": "_"}.get(sign) or (f"!{sign}" if sign in "!%_" else sign) for sign in pattern)
    like = peewee.NodeList((column, peewee.SQL("LIKE"), peewee.Value(escaped), peewee.SQL("ESCAPE '!'")))
    if not fixed:
        return like
    beyond = fixed + ("\x7f" if column in _ASCII_COLUMNS else "\U0010fffd")
    return (column >= fixed) & (column < beyond) & like


def fixed_beginning(pattern: str) -> str:
    """Return what comes before the first wildcard; the pattern itself when it has none."""
    return _WILD.split(pattern, maxsplit=1)[0]


def _any(conditions: Iterable[Any]) -> Any:
    """Return the alternative of conditions; no condition at all matches nothing."""
    alternatives = list(conditions)
    # A flat list: SQLite's parser gives up at a hundred parentheses within one another.
    return peewee.NodeList(alternatives, glue=" OR ", parens=True) if alternatives else _NOTHING
