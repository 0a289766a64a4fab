"""Studies as a person looks for them: parts of names and numbers, the last received first, page by page.

Matching is that of a query (`conditions`), so that the panel finds what a console finds. A page begins where the last
one ended, by row number: however far somebody turns the pages, none takes longer than the first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee

from angiovault.archive import names
from angiovault.archive.finding import conditions
from angiovault.archive.finding.matching import Key
from angiovault.archive.finding.rows import MODALITIES_IN_STUDY, Rows
from angiovault.archive.index import Index
from angiovault.archive.models import Instance, Series, Study

PAGE: Final = 50
MOST_CONFLICTS: Final = 100
"""Instances with several versions that are shown of one study."""

_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_BIRTH_DATE: Final = 0x00100030
_SEX: Final = 0x00100040
_DATE: Final = 0x00080020
_TIME: Final = 0x00080030
_ACCESSION_NUMBER: Final = 0x00080050
_STUDY_DESCRIPTION: Final = 0x00081030
_STUDY_ID: Final = 0x00200010
_MODALITY: Final = 0x00080060
_SERIES_NUMBER: Final = 0x00200011
_SERIES_DESCRIPTION: Final = 0x0008103E
_OF_STUDY: Final = frozenset(
    (_NAME, _PATIENT_ID, _BIRTH_DATE, _SEX, _DATE, _TIME, _ACCESSION_NUMBER, _STUDY_DESCRIPTION, _STUDY_ID)
)
_OF_SERIES: Final = frozenset((_MODALITY, _SERIES_NUMBER, _SERIES_DESCRIPTION))
_UTF_8: Final = b"ISO_IR 192"

_BETWEEN_WORDS: Final = re.compile(r"[\s,，、;；=\\]+")
_MOST_WORDS: Final = 3
_LONGEST_UNDIVIDED: Final = 6
"""Characters of a Chinese, Japanese or Korean name as it is written in one piece."""
_COMMON: Final = 20_000
"""Series from which on studies of a modality are looked for from the newest on rather than by a list of them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; '' leaves it open.

    Attributes
    ----------
    name : str
        Parts of the patient's name, in any order and script.
    patient_id, accession_number : str
        How they begin; with ``*`` or ``?`` a pattern for the whole.
    first_date, last_date : str
        Study dates, YYYYMMDD.
    modality : str
        Modality of one of the series.
    conflicts : bool
        Whether only studies with instances that came with several contents are wanted.
    """

    name: str = ""
    patient_id: str = ""
    first_date: str = ""
    last_date: str = ""
    modality: str = ""
    accession_number: str = ""
    conflicts: bool = False


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study as it is shown; texts as people read them, dates and times as in DICOM.

    Attributes
    ----------
    number : int
        Its row.
    names : tuple of str
        The patient's name, once for each script in which it is known.
    received : str
        When its first instance came (ISO 8601, UTC).
    """

    number: int
    uid: str
    names: tuple[str, ...]
    patient_id: str
    birth_date: str
    sex: str
    date: str
    time: str
    accession_number: str
    description: str
    modalities: tuple[str, ...]
    series: int
    instances: int
    size: int
    received: str
    patients_differ: bool


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series of a study as it is shown."""

    uid: str
    modality: str
    number: str
    description: str
    instances: int
    size: int


@dataclass(frozen=True, slots=True)
class Version:
    """One of several contents of an instance: when it came, from whom, its bytes."""

    content: str
    current: bool
    received: str
    calling: str
    size: int


def studies(index: Index, wanted: Wanted, before: int = 0) -> tuple[list[FoundStudy], int]:
    """Find a page of studies.

    Parameters
    ----------
    index : Index
        The opened index.
    wanted : Wanted
        What is looked for.
    before : int
        What the page before this one returned; 0 for the first.

    Returns
    -------
    tuple[list[FoundStudy], int]
        The studies, and where the next page begins, 0 when there is none.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    keys = _keys(wanted)
    with index.session() as database:
        if wanted.modality and not _is_common(wanted.modality):
            keys[MODALITIES_IN_STUDY] = Key("CS", wanted.modality.encode())
        query = conditions.select("STUDY", keys, {}).limit(PAGE + 1)
        if wanted.modality and MODALITIES_IN_STUDY not in keys:
            query = query.where(_lists_modality(wanted.modality))
        if wanted.conflicts:
            query = query.where(Study.id.in_(_with_conflicts()))
        if before:
            query = query.where(Study.id < before)
        numbers = [int(number) for (number,) in database.execute(query)]
        found = _studies(index, numbers[:PAGE])
    return found, numbers[PAGE - 1] if len(numbers) > PAGE else 0


def study(index: Index, uid: str) -> FoundStudy | None:
    """Return a study, None when the index does not know it.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    with index.session():
        row = Study.select(Study.id).where(Study.uid == uid).tuples().first()
        return next(iter(_studies(index, [int(row[0])])), None) if row else None


def series(index: Index, number: int) -> list[FoundSeries]:
    """Return the series of a study, given by its row, in the order of their numbers.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    with index.session():
        query = (
            Series.select(Series.id, Series.uid, Series.instance_count, Series.byte_count)
            .where((Series.study_id == number) & (Series.instance_count > 0))
            .order_by(Series.series_number, Series.id)
        )
        listed = list(query.tuples())
        rows = Rows(index, "SERIES", [row[0] for row in listed], _OF_SERIES)
    found = []
    for row, uid, instances, size in listed:
        texts = _texts(rows, row)
        found.append(
            FoundSeries(uid, texts[_MODALITY], texts[_SERIES_NUMBER], texts[_SERIES_DESCRIPTION], instances, size)
        )
    return found


def conflicts(index: Index, number: int) -> dict[str, list[Version]]:
    """Return the instances of a study, given by its row, that came with several contents: UID -> versions.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    other = Instance.alias()
    further = other.select(other.id).where((other.uid == Instance.uid) & (other.version > 1))
    found: dict[str, list[Version]] = {}
    with index.session():
        query = (
            Instance.select(Instance.uid)
            .join(Series, on=(Series.id == Instance.series_id))
            .where((Series.study_id == number) & peewee.fn.EXISTS(further))
            .distinct()
            .limit(MOST_CONFLICTS)
        )
        uids = sorted(uid for (uid,) in query.tuples())
        columns = (Instance.uid, Instance.content, Instance.current, Instance.received, Instance.calling, Instance.size)
        rows = Instance.select(*columns).where(Instance.uid.in_(uids)).order_by(Instance.uid, Instance.version)
        for uid, content, current, *more in rows.tuples():
            found.setdefault(uid, []).append(Version(content, bool(current), *more))
    return found


# ---- what is looked for


def _keys(wanted: Wanted) -> dict[int, Key]:
    """Return the keys of a query that asks for the same."""
    keys = {}
    if patterns := name_patterns(wanted.name):
        keys[_NAME] = Key("PN", "\\".join(patterns).encode(), _UTF_8)
    for tag, vr, text in ((_PATIENT_ID, "LO", wanted.patient_id), (_ACCESSION_NUMBER, "SH", wanted.accession_number)):
        text = text.replace("\\", " ").strip()
        if text:
            keys[tag] = Key(vr, (text if re.search(r"[*?]", text) else f"{text}*").encode(), _UTF_8)
    if wanted.first_date or wanted.last_date:
        keys[_DATE] = Key("DA", f"{wanted.first_date}-{wanted.last_date}".encode())
    return {tag: key for tag, key in keys.items() if not key.universal}


def name_patterns(text: str) -> list[str]:
    """Return patterns of person names, any of which may match, for what somebody types.

    Words are found in any order. A name of a script without blanks is found whether or not it was typed in one piece:
    stored are its components, "张^三".
    """
    words = [word for word in _BETWEEN_WORDS.split(text) if word.strip("*?^")]
    orders = itertools.permutations(words) if len(words) <= _MOST_WORDS else [tuple(words)]
    patterns = ["*" + "*".join(order) + "*" for order in orders if order]
    if len(words) == 1 and not words[0].isascii() and len(words[0]) <= _LONGEST_UNDIVIDED:
        patterns += [f"*{words[0][:at]}^{words[0][at:]}*" for at in range(1, len(words[0]))]
    return list(dict.fromkeys(patterns))


def _lists_modality(modality: str) -> Any:
    """Return the condition on a study's own list of modalities, which makes no database collect all its series."""
    code = re.sub(r"([!%_])", r"!\1", modality)
    patterns = (code, f"{code}\\%", f"%\\{code}", f"%\\{code}\\%")
    like, escape = peewee.SQL("LIKE"), peewee.SQL("ESCAPE '!'")
    alternatives = [peewee.NodeList((Study.modalities, like, peewee.Value(each), escape)) for each in patterns]
    return peewee.NodeList(alternatives, glue=" OR ", parens=True)


def _is_common(modality: str) -> bool:
    some = Series.select(Series.id).where(Series.modality == names.fold(modality)).limit(_COMMON)
    return bool(some.count() == _COMMON)


def _with_conflicts() -> Any:
    several = Instance.select(Instance.uid).where(Instance.version > 1)
    joined = Instance.select(Series.study_id).join(Series, on=(Series.id == Instance.series_id))
    return joined.where(Instance.uid.in_(several))


# ---- what is shown


def _studies(index: Index, numbers: Sequence[int]) -> list[FoundStudy]:
    rows = Rows(index, "STUDY", numbers, _OF_STUDY)
    columns = (Study.uid, Study.modalities, Study.series_count, Study.instance_count, Study.byte_count)
    query = Study.select(Study.id, *columns, Study.received, Study.patients_differ).where(Study.id.in_(numbers))
    by_number: dict[int, tuple[Any, ...]] = {row[0]: row[1:] for row in query.tuples()}
    found = []
    for number in numbers:
        if number in by_number:
            uid, modalities, series_count, instances, size, received, differ = by_number[number]
            texts = _texts(rows, number)
            found.append(
                FoundStudy(
                    number,
                    uid,
                    readable_names(texts[_NAME]),
                    texts[_PATIENT_ID],
                    texts[_BIRTH_DATE],
                    texts[_SEX],
                    texts[_DATE],
                    texts[_TIME],
                    texts[_ACCESSION_NUMBER],
                    texts[_STUDY_DESCRIPTION],
                    tuple(filter(None, modalities.split("\\"))),
                    series_count,
                    instances,
                    size,
                    received,
                    bool(differ),
                )
            )
    return found


class _Texts(dict[int, str]):
    """Texts by tag, '' for what is not there."""

    def __missing__(self, tag: int) -> str:
        return ""


def _texts(rows: Rows, number: int) -> Mapping[int, str]:
    try:
        entity = rows.attributes(number)
    except (LookupError, TypeError, ValueError, AttributeError):  # a damaged row: it must not hide the others
        entity = None
    if entity is None:
        return _Texts()
    values, label = entity
    return _Texts({tag: names.decode(value, label).strip(" \0") for tag, (_, value) in values.items()})


def readable_names(text: str) -> tuple[str, ...]:
    """Return a person name (PS3.5 6.2) as people write it, once for each component group that says something.

    Components of names in ASCII and other scripts with blanks are set apart by them, those of Chinese, Japanese and
    Korean names follow one another.
    """
    found = []
    for group in re.split(r"[=\\]", text):
        components = [component.strip() for component in group.split("^")]
        whole = "".join(components)
        apart = "" if whole and all(_is_undivided(character) for character in whole) else " "
        found.append(apart.join(filter(None, components)))
    return tuple(dict.fromkeys(filter(None, found)))


def _is_undivided(character: str) -> bool:
    return "\u2e80" <= character <= "\ud7af" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
