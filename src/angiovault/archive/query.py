"""Finding: the matching of PS3.4 C.2.2.2 on the index.

What the schema has columns for is matched by SQL, every other attribute of the level by `matching` on the stored head of
the entity, so that all attributes the archive keeps can be keys.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import peewee

from angiovault.archive import elements, matching
from angiovault.archive.attributes import WANTED
from angiovault.archive.elements import Elements
from angiovault.archive.index import Index
from angiovault.archive.matching import Key
from angiovault.archive.models import Instance, Patient, PatientName, Series, Study, StudyPerson

log = logging.getLogger(__name__)

LEVELS: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_BATCH: Final = 200
_UID_BATCH: Final = 500

_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_PATIENT_NAME: Final = 0x00100010
_STUDY_DATE: Final = 0x00080020
_STUDY_TIME: Final = 0x00080030

MODALITIES_IN_STUDY: Final = 0x00080061
COMPUTED: Final = {
    0x00080054: ("ANY", "AE"),  # Retrieve AE Title
    0x00080056: ("ANY", "CS"),  # Instance Availability
    0x00201200: ("PATIENT", "IS"),  # Number of Patient Related Studies, Series, Instances
    0x00201202: ("PATIENT", "IS"),
    0x00201204: ("PATIENT", "IS"),
    MODALITIES_IN_STUDY: ("STUDY", "CS"),
    0x00080062: ("STUDY", "UI"),  # SOP Classes in Study
    0x00201206: ("STUDY", "IS"),  # Number of Study Related Series, Instances
    0x00201208: ("STUDY", "IS"),
    0x00201209: ("SERIES", "IS"),  # Number of Series Related Instances
    0x00083002: ("IMAGE", "UI"),  # Available Transfer Syntax UID
}
"""Attributes that are made for the answer: tag -> (level, VR)."""

_UNIQUE: Final = {0x0020000D: Study.uid, 0x0020000E: Series.uid, 0x00080018: Instance.uid}
_TEXT: Final = {
    0x00080050: Study.accession_number,
    0x00200010: Study.study_id,
    0x00081030: Study.description,
    0x0008103E: Series.description,
    0x00080060: Series.modality,
}
_EXACT: Final = {0x00080016: Instance.sop_class, 0x00200013: Instance.instance_number, 0x00200011: Series.series_number}


@dataclass(frozen=True, slots=True)
class Query:
    """A query at one level.

    Attributes
    ----------
    level : str
        One of `LEVELS`.
    keys : Mapping[int, Key]
        Matching keys; universal ones may be left out.
    wanted : frozenset[int]
        Tags to be answered.
    combined_datetime : bool
        Whether ranges of study date and time are matched as one (PS3.4 C.2.2.2.5, by negotiation only).
    """

    level: str
    keys: Mapping[int, Key]
    wanted: frozenset[int]
    combined_datetime: bool = False


@dataclass(slots=True)
class Match:
    """One answer: values of the wanted attributes, and the character set that they are stored under."""

    values: Elements
    label: bytes = field(default=b"")


def supported(tag: int, level: str) -> bool:
    """Return whether an attribute can be a key and is answered at a level: it is of that level or of one above."""
    of = WANTED.get(tag) or COMPUTED.get(tag)
    return of is not None and (of[0] == "ANY" or LEVELS.index(of[0]) <= LEVELS.index(level))


def find(index: Index, query: Query) -> Iterator[Match]:
    """Yield the matches of a query, the newest first.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    numbers = _numbers(index, query)
    remaining = {tag: key for tag, key in query.keys.items() if not _in_sql(tag, key) and supported(tag, query.level)}
    for start in range(0, len(numbers), _BATCH):
        with index.session():
            rows = list(_hydrate(query, numbers[start : start + _BATCH]))
        for row in rows:
            try:
                values, label = row.elements()
                if matching.all_match(remaining, values, label):
                    yield Match({tag: values[tag] for tag in query.wanted if tag in values}, label)
            except Exception:  # one damaged row must not hide the others from the radiologist
                log.exception("%s %s of the index cannot be read and is left out of an answer", query.level, row)


def _numbers(index: Index, query: Query) -> array[int]:
    """Return the row numbers that match by SQL, descending."""
    numbers: set[int] = set()
    longest = max(
        (key.uids() for tag, key in query.keys.items() if tag in _UNIQUE), key=len, default=()
    )
    for start in range(0, max(1, len(longest)), _UID_BATCH):
        with index.session():
            part = longest[start : start + _UID_BATCH]
            numbers.update(number for (number,) in _select(index, query, longest, part).tuples())
    return array("q", sorted(numbers, reverse=True))


def _select(index: Index, query: Query, longest: tuple[str, ...], part: tuple[str, ...]) -> Any:
    level = query.level
    if level == "PATIENT":
        select = Patient.select(Patient.id)
        person = _person_conditions(query.keys)
        return select.where(*person) if person else select
    if level == "STUDY":
        select = Study.select(Study.id).where(Study.instance_count > 0)
    elif level == "SERIES":
        select = Series.select(Series.id).join(Study, on=(Study.id == Series.study_id)).where(Series.instance_count > 0)
    else:
        select = (
            Instance.select(Instance.id)
            .join(Series, on=(Series.id == Instance.series_id))
            .join(Study, on=(Study.id == Series.study_id))
            .where(Instance.current == 1)
        )
    person = _person_conditions(query.keys)
    if person:
        pairs = StudyPerson.select(StudyPerson.study_id).join(Patient, on=(Patient.id == StudyPerson.patient_id))
        select = select.where(Study.id.in_(pairs.where(*person)))
    for tag, key in query.keys.items():
        if key.universal or not supported(tag, level) or not _in_sql(tag, key):
            continue
        if tag in _UNIQUE:
            uids = key.uids()
            select = select.where(_UNIQUE[tag].in_(part if uids == longest else uids))
        elif tag in _TEXT:
            select = select.where(_any(_like(_TEXT[tag], pattern) for pattern in key.patterns()))
        elif tag in _EXACT:
            select = select.where(_EXACT[tag].in_(list(key.numbers() if key.vr == "IS" else key.uids())))
        elif tag == MODALITIES_IN_STUDY:
            hits = _any(_like(Series.modality, pattern) for pattern in key.patterns())
            inside = Series.select(Series.study_id).where(hits & (Series.instance_count > 0))
            select = select.where(Study.id.in_(inside))
    for condition in _date_conditions(query):
        select = select.where(condition)
    return select


def _in_sql(tag: int, key: Key) -> bool:
    if tag in _EXACT:
        return key.vr == "UI" or key.numbers() is not None
    return tag in _UNIQUE or tag in _TEXT or tag in _PERSON or tag in (MODALITIES_IN_STUDY, _STUDY_DATE, _STUDY_TIME)


_PERSON: Final = frozenset((_PATIENT_NAME, 0x00100020, 0x00100030))


def _person_conditions(keys: Mapping[int, Key]) -> list[Any]:
    conditions = []
    for tag in _PERSON:
        key = keys.get(tag)
        if key is None or key.universal:
            continue
        if tag == _PATIENT_NAME:
            hits = _any(_like(PatientName.name, pattern) for pattern in key.name_patterns())
            conditions.append(Patient.id.in_(PatientName.select(PatientName.patient_id).where(hits)))
        elif tag == 0x00100020:
            conditions.append(_any(_like(Patient.patient_id, pattern) for pattern in key.patterns()))
        else:
            conditions.append(_between(Patient.birth_date, key.date_range()))
    return conditions


def _date_conditions(query: Query) -> Iterator[Any]:
    if query.level == "PATIENT":
        return
    date, time = query.keys.get(_STUDY_DATE), query.keys.get(_STUDY_TIME)
    dates = date.date_range() if date and not date.universal else None
    times = time.time_range() if time and not time.universal else None
    if query.combined_datetime and dates and times:
        moment = Study.study_date.concat(Study.study_time)
        low, high = (dates[0] and dates[0] + times[0]), (dates[1] and dates[1] + (times[1] or "99"))
        yield _between(moment, (low, high)) & (Study.study_date != "")
        return
    if dates:
        yield _between(Study.study_date, dates)
    if times:
        yield _between(Study.study_time, times)


def _between(column: Any, limits: tuple[str, str]) -> Any:
    low, high = limits
    condition = column != ""
    if low:
        condition &= column >= low
    if high:
        condition &= column <= high
    return condition


def _any(conditions: Iterator[Any]) -> Any:
    """Return the alternative of conditions; no condition at all matches nothing."""
    out = None
    for condition in conditions:
        out = condition if out is None else out | condition
    return peewee.SQL("1 = 0") if out is None else out


def _like(column: Any, pattern: str) -> Any:
    """Return the SQL condition of a folded DICOM pattern, with a range on its fixed beginning for the index to use."""
    fixed = matching.fixed_beginning(pattern)
    if fixed == pattern:
        return column == pattern
    escaped = "".join({"*": "%", "?": "_"}.get(sign) or (f"!{sign}" if sign in "!%_" else sign) for sign in pattern)
    condition = peewee.NodeList((column, peewee.SQL("LIKE"), peewee.Value(escaped), peewee.SQL("ESCAPE '!'")))
    if not fixed:
        return peewee.Expression(condition, "AND", peewee.SQL("1 = 1"))
    return (column >= fixed) & (column < fixed + "\U0010fffd") & condition


@dataclass(slots=True)
class _Row:
    """An entity with those above it, and what is computed for it."""

    uid: str
    heads: tuple[bytes, ...]
    computed: Elements

    def elements(self) -> tuple[Elements, bytes]:
        """Return the attributes of all levels, the lowest last, and the character set label of the lowest."""
        values: Elements = {}
        label = b""
        for head in self.heads:
            part = elements.decode(head)
            label = part.pop(_SPECIFIC_CHARACTER_SET, ("CS", b""))[1] or label
            values.update(part)
        values.update(self.computed)
        return values, label

    def __str__(self) -> str:
        return self.uid


def _hydrate(query: Query, numbers: array[int]) -> Iterator[_Row]:
    makers = {"PATIENT": _patient_rows, "STUDY": _study_rows, "SERIES": _series_rows, "IMAGE": _image_rows}
    rows = makers[query.level](query, list(numbers))
    for number in numbers:
        if number in rows:
            yield rows[number]


def _number(count: Any) -> tuple[str, bytes]:
    return ("IS", str(int(count)).encode())


def _patient_rows(query: Query, numbers: list[int]) -> dict[int, _Row]:
    counts = {
        patient: sums
        for patient, *sums in Study.select(
            Study.patient_id,
            peewee.fn.COUNT(Study.id),
            peewee.fn.SUM(Study.series_count),
            peewee.fn.SUM(Study.instance_count),
        )
        .where(Study.patient_id.in_(numbers) & (Study.instance_count > 0))
        .group_by(Study.patient_id)
        .tuples()
    }
    rows = {}
    for patient in Patient.select().where(Patient.id.in_(numbers)):
        if patient.id not in counts:  # met only in studies that are shown under another patient
            continue
        tags = (0x00201200, 0x00201202, 0x00201204)
        computed = {tag: _number(count) for tag, count in zip(tags, counts[patient.id], strict=True)}
        rows[patient.id] = _Row(str(patient.id), (bytes(patient.head),), computed)
    return rows


def _study_computed(study: Any) -> Elements:
    return {
        0x0020000D: ("UI", study.uid.encode()),
        MODALITIES_IN_STUDY: ("CS", study.modalities.encode("ascii", "replace")),
        0x00080062: ("UI", study.sop_classes.encode("ascii", "replace")),
        0x00201206: _number(study.series_count),
        0x00201208: _number(study.instance_count),
    }


def _study_rows(query: Query, numbers: list[int]) -> dict[int, _Row]:
    rows = {}
    for study in Study.select().where(Study.id.in_(numbers)):
        rows[study.id] = _Row(study.uid, (bytes(study.head),), _study_computed(study))
    per_patient = {0x00201200, 0x00201202, 0x00201204} & query.wanted
    if per_patient and rows:
        owners = dict(Study.select(Study.id, Study.patient_id).where(Study.id.in_(numbers)).tuples())
        patients = _patient_rows(query, list(set(owners.values())))
        for number, row in rows.items():
            row.computed.update({tag: patients[owners[number]].computed[tag] for tag in per_patient})
    return rows


def _series_rows(query: Query, numbers: list[int]) -> dict[int, _Row]:
    series_list = list(Series.select().where(Series.id.in_(numbers)))
    studies = _study_rows(query, list({series.study_id for series in series_list}))
    rows = {}
    for series in series_list:
        study = studies[series.study_id]
        computed = study.computed | {
            0x0020000E: ("UI", series.uid.encode()),
            0x00201209: _number(series.instance_count),
        }
        rows[series.id] = _Row(series.uid, (*study.heads, bytes(series.head)), computed)
    return rows


def _image_rows(query: Query, numbers: list[int]) -> dict[int, _Row]:
    images = list(Instance.select().where(Instance.id.in_(numbers)))
    series_rows = _series_rows(query, list({image.series_id for image in images}))
    rows = {}
    for image in images:
        series = series_rows[image.series_id]
        computed = series.computed | {
            0x00080018: ("UI", image.uid.encode()),
            0x00080016: ("UI", image.sop_class.encode()),
            0x00083002: ("UI", image.transfer_syntax.encode()),
        }
        rows[image.id] = _Row(image.uid, (*series.heads, bytes(image.head)), computed)
    return rows
