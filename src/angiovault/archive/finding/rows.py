"""Rows of the index as an answer needs them: the attributes of an entity and of those above it, and what is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import peewee

from angiovault.archive import elements
from angiovault.archive.elements import SPECIFIC_CHARACTER_SET, Elements
from angiovault.archive.finding import answers
from angiovault.archive.models import Instance, Patient, Series, Study, StudyPerson

MODALITIES_IN_STUDY: Final = 0x00080061
_PATIENT_COUNTS: Final = (0x00201200, 0x00201202, 0x00201204)
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

_COLUMNS: Final[dict[str, tuple[Any, ...]]] = {
    "PATIENT": (Patient.id, Patient.id, Patient.head),
    "STUDY": (
        Study.id, Study.patient_id, Study.uid, Study.modalities, Study.sop_classes, Study.series_count,
        Study.instance_count, Study.head,
    ),
    "SERIES": (Series.id, Series.study_id, Series.uid, Series.instance_count, Series.head),
    "IMAGE": (
        Instance.id, Instance.series_id, Instance.uid, Instance.sop_class, Instance.transfer_syntax, Instance.head,
    ),
}  # fmt: skip
"""Level -> columns: the row's own number first, then that of the row above it; the head last."""
_MADE_OF_COLUMNS: Final = {
    "PATIENT": (),
    "STUDY": (0x0020000D, MODALITIES_IN_STUDY, 0x00080062, 0x00201206, 0x00201208),
    "SERIES": (0x0020000E, 0x00201209),
    "IMAGE": (0x00080018, 0x00080016, 0x00083002),
}
"""Level -> attributes that the columns between these hold."""
_VRS: Final = {tag: vr for tag, (_, vr) in COMPUTED.items()}
_ABOVE: Final = {"IMAGE": "SERIES", "SERIES": "STUDY"}

_UTF_8: Final = b"ISO_IR 192"


class Rows:
    """Entities of one level, read from the index at once; a session has to be open while this is made.

    Parameters
    ----------
    level : str
        PATIENT, STUDY, SERIES or IMAGE.
    numbers : Sequence[int]
        Their row numbers.
    wanted : frozenset[int]
        Attributes that will be asked for.
    """

    def __init__(self, level: str, numbers: Sequence[int], wanted: frozenset[int]) -> None:
        self._level = level
        self._wanted = wanted
        self._tables: dict[str, dict[int, tuple[Any, ...]]] = {}
        at: str | None = level
        while at:
            self._tables[at] = _table(at, numbers)
            numbers = list({row[1] for row in self._tables[at].values()})
            at = _ABOVE.get(at)
        counted = level == "PATIENT" or wanted & set(_PATIENT_COUNTS)
        self._patient_counts = _patient_counts(numbers) if counted else {}

    def attributes(self, number: int) -> tuple[Elements, bytes] | None:
        """Return the wanted attributes of an entity, and the character set label of its text values.

        Returns
        -------
        tuple[Elements, bytes], optional
            None when it is not there any more, or is a patient without a study.

        Raises
        ------
        LookupError, TypeError, ValueError, AttributeError
            When its row, or one above it, is damaged.
        """
        if number not in self._tables[self._level]:
            return None
        parts: list[tuple[Elements, bytes]] = []
        computed: Elements = {}
        at: str | None = self._level
        while at:
            row = self._tables[at][number]
            parts.append(self._part(row[-1]))
            for tag, value in zip(_MADE_OF_COLUMNS[at], row[2:-1], strict=True):
                computed[tag] = (_VRS.get(tag, "UI"), str(value).encode("ascii", "replace"))
            number = row[1]
            at = _ABOVE.get(at)
        if self._level == "PATIENT" and number not in self._patient_counts:
            return None
        for tag, count in zip(_PATIENT_COUNTS, self._patient_counts.get(number, ()), strict=False):
            computed[tag] = ("IS", str(int(count)).encode())
        values, label = _merged(parts[::-1])
        return values | computed, label

    def _part(self, head: bytes) -> tuple[Elements, bytes]:
        values = elements.decode(head)
        label = values.get(SPECIFIC_CHARACTER_SET, ("CS", b""))[1].strip(b" \0")
        return {tag: value for tag, value in values.items() if tag in self._wanted and _readable(*value)}, label


def _readable(vr: str, value: bytes) -> bool:
    """Return whether a value can be answered: of some sequences that were stored not even their items can be told."""
    try:
        return vr != "SQ" or elements.items(value) is not None
    except elements.EncodingError:
        return False


def _table(level: str, numbers: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    columns = _COLUMNS[level]
    return {row[0]: row for row in _fetch(columns[0].model.select(*columns).where(columns[0].in_(list(numbers))))}


def _patient_counts(numbers: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Count studies, series and instances of patients, over all studies that they were met in."""
    select = (
        StudyPerson.select(
            StudyPerson.patient_id,
            peewee.fn.COUNT(Study.id),
            peewee.fn.SUM(Study.series_count),
            peewee.fn.SUM(Study.instance_count),
        )
        .join(Study, on=(Study.id == StudyPerson.study_id))
        .where(StudyPerson.patient_id.in_(list(numbers)) & (Study.instance_count > 0))
        .group_by(StudyPerson.patient_id)
    )
    return {row[0]: row[1:] for row in _fetch(select)}


def _fetch(select: Any) -> Iterable[tuple[Any, ...]]:
    """Return rows as the database gives them: a value that a damaged row holds raises when it is used, not here."""
    database = select.model._meta.database
    rows: Iterable[tuple[Any, ...]] = database.execute(select).fetchall()
    return rows


def _merged(parts: Sequence[tuple[Elements, bytes]]) -> tuple[Elements, bytes]:
    """Put the levels of one entity together; where their character sets differ, all in UTF-8."""
    labels = {label for values, label in parts if any(_needs_label(raw) for _, raw in values.values())}
    merged: Elements = {}
    for values, label in parts:
        merged |= answers.transcode(values, label, _UTF_8, "auto")[1] if len(labels) > 1 else values
    return merged, _UTF_8 if len(labels) > 1 else next(iter(labels), b"")


def _needs_label(raw: bytes) -> bool:
    return not raw.isascii() or b"\x1b" in raw
