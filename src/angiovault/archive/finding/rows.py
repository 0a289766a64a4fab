"""Rows of the index as an answer needs them: the attributes of an entity and of those above it, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from angiovault.archive import elements
from angiovault.archive.attributes import WANTED
from angiovault.archive.database import Database
from angiovault.archive.elements import SPECIFIC_CHARACTER_SET, Elements
from angiovault.archive.finding import answers

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

_TABLES: Final = {
    "PATIENT": ("patient", "id"),
    "STUDY": ("study", "patient_id"),
    "SERIES": ("series", "study_id"),
    "IMAGE": ("instance", "series_id"),
}
"""Level -> table, and the column with the number of the row above."""
_MADE_OF_COLUMNS: Final[dict[str, dict[int, str]]] = {
    "PATIENT": {},
    "STUDY": {
        0x0020000D: "uid",
        MODALITIES_IN_STUDY: "modalities",
        0x00080062: "sop_classes",
        0x00201206: "series_count",
        0x00201208: "instance_count",
    },
    "SERIES": {0x0020000E: "uid", 0x00201209: "instance_count"},
    "IMAGE": {0x00080018: "uid", 0x00080016: "sop_class", 0x00083002: "transfer_syntax"},
}
"""Level -> attributes that are answered from a column, not from the head."""
_VRS: Final = {tag: vr for tag, (_, vr) in COMPUTED.items()}
_ABOVE: Final = {"IMAGE": "SERIES", "SERIES": "STUDY"}

_UTF_8: Final = b"ISO_IR 192"

_Part = tuple[Elements, bytes | None]
"""Attributes of one level and the label of their text, None when it does not matter to any of them."""


class Rows:
    """Entities of one level, read from the index at once; a session has to be open while this is made.

    Parameters
    ----------
    database : Database
        The index's.
    level : str
        PATIENT, STUDY, SERIES or IMAGE.
    numbers : Sequence[int]
        Their row numbers.
    wanted : frozenset[int]
        Attributes that will be asked for.
    """

    def __init__(self, database: Database, level: str, numbers: Sequence[int], wanted: frozenset[int]) -> None:
        self._level = level
        self._wanted = wanted
        self._levels: list[_Level] = []
        at: str | None = level
        while at:
            self._levels.append(_Level(database, at, numbers, wanted))
            numbers = list({row[1] for row in self._levels[-1].rows.values()})
            at = _ABOVE.get(at)
        counted = level == "PATIENT" or wanted & set(_PATIENT_COUNTS)
        self._patient_counts = _patient_counts(database, numbers) if counted else {}

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
        if number not in self._levels[0].rows:
            return None
        parts: list[_Part] = []
        computed: Elements = {}
        for level in self._levels:
            row = level.rows[number]
            parts.append(level.of_head(row[2]))
            for place, tag, vr in level.of_columns:
                computed[tag] = (vr, str(row[place]).encode("ascii", "replace"))
            number = row[1]
        if self._level == "PATIENT" and number not in self._patient_counts:
            return None
        for tag, count in zip(_PATIENT_COUNTS, self._patient_counts.get(number, ()), strict=False):
            if tag in self._wanted:
                computed[tag] = ("IS", str(int(count)).encode())
        values, label = parts[0] if len(parts) == 1 else _merged(parts[::-1])
        values.update(computed)
        return values, label or b""


class _Level:
    """The rows of one level that belong to the entities, as the database gives them, by their numbers.

    A value that a damaged row holds raises when it is used, not here. What a row has is its number, that of the row
    above, the head, and the columns of `of_columns` (place in the row, tag, VR). The statement is written here, as
    peewee would need longer for that than the database for the answer.
    """

    def __init__(self, database: Database, level: str, numbers: Sequence[int], wanted: frozenset[int]) -> None:
        table, above = _TABLES[level]
        made = [(tag, column) for tag, column in _MADE_OF_COLUMNS[level].items() if tag in wanted]
        self.of_columns = [(place, tag, _VRS.get(tag, "UI")) for place, (tag, _) in enumerate(made, start=3)]
        self._in_head = (wanted - _MADE_OF_COLUMNS[level].keys()) | {SPECIFIC_CHARACTER_SET}
        self._sequences = {tag for tag in wanted & WANTED.keys() if WANTED[tag][1] == "SQ"}
        self._label_wanted = SPECIFIC_CHARACTER_SET in wanted
        columns = ", ".join(("id", above, "head", *(column for _, column in made)))
        statement = f"SELECT {columns} FROM {table} WHERE id IN ({database.marks(numbers)})"  # noqa: S608 - of names and marks alone
        rows = database.execute(statement, *numbers).fetchall() if numbers else ()
        self.rows: dict[int, tuple[Any, ...]] = {row[0]: row for row in rows}

    def of_head(self, head: bytes) -> _Part:
        """Return the wanted elements of a head, and their character set label, None when it does not matter."""
        values = elements.decode(head, self._in_head)
        label = b""
        if SPECIFIC_CHARACTER_SET in values:
            label = values[SPECIFIC_CHARACTER_SET][1].strip(b" \0")
            if not self._label_wanted:
                del values[SPECIFIC_CHARACTER_SET]
        for tag in self._sequences & values.keys():
            if not _readable(values[tag][1]):
                del values[tag]
        return values, None if answers.are_plain(values) else label


def _readable(sequence: bytes) -> bool:
    """Return whether a sequence can be answered: of some that were stored not even their items can be told."""
    try:
        elements.items(sequence)
    except elements.EncodingError:
        return False
    return True


def _patient_counts(database: Database, numbers: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Count studies, series and instances of patients, over all studies that they were met in."""
    if not numbers:
        return {}
    counts = "COUNT(study.id), SUM(study.series_count), SUM(study.instance_count)"
    joined = "study_person INNER JOIN study ON study.id = study_person.study_id"
    which = f"study_person.patient_id IN ({database.marks(numbers)}) AND study.instance_count > 0"
    statement = f"SELECT study_person.patient_id, {counts} FROM {joined} WHERE {which} GROUP BY study_person.patient_id"  # noqa: S608
    return {row[0]: row[1:] for row in database.execute(statement, *numbers).fetchall()}


def _merged(parts: Sequence[_Part]) -> _Part:
    """Put the levels of one entity together; where their character sets differ, all in UTF-8."""
    labels = {label for _, label in parts if label is not None}
    merged: Elements = {}
    for values, label in parts:
        merged |= answers.transcode(values, label or b"", _UTF_8, "auto")[1] if len(labels) > 1 else values
    return merged, _UTF_8 if len(labels) > 1 else next(iter(labels), b"")
