"""How files become rows of the index: in one transaction, in which nothing is looked up or counted twice.

All is sent as fixed statements: peewee would spend most of the time on writing them anew. The instances are looked up
all at once, and their rows inserted many by one statement: with MariaDB a statement costs more than what it does.

A patient, a study and a series are described by the first received of their instances. Several processes receive, and
the first received may be added last: it takes the row over then, so that an index made anew gives the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from angiovault.archive import layout, names
from angiovault.archive.attributes import WANTED
from angiovault.archive.database import Database
from angiovault.archive.header import Header

STORED: Final = "stored"
DUPLICATE: Final = "duplicate"
CONFLICT: Final = "conflict"
SET_ASIDE: Final = "set aside"

_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_ISSUER_OF_PATIENT_ID: Final = 0x00100021
_BIRTH_DATE: Final = 0x00100030
_MODALITY: Final = 0x00080060
_SOP_CLASS: Final = 0x00080016
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_TIMEZONE: Final = 0x00080201
_STUDY: Final = 0x0020000D
_OF_A_PATIENT: Final = (
    *(_SPECIFIC_CHARACTER_SET, _PATIENT_NAME, _PATIENT_ID, _ISSUER_OF_PATIENT_ID, _BIRTH_DATE),
    _STUDY,  # somebody without ID and name is somebody else in every study
)
_KEY_LENGTH: Final = 185
_MOST_LISTED: Final = 500
TAGS: Final = {
    level: frozenset({tag for tag, (of, _) in WANTED.items() if of == level} | {_SPECIFIC_CHARACTER_SET, _TIMEZONE})
    for level in ("PATIENT", "STUDY", "SERIES", "IMAGE")
}
"""The elements that the head of each level holds."""

_ROWS_AT_ONCE: Final = 32
_HEADS_AT_ONCE: Final = 256 << 10
"""Bytes of heads in one statement: MariaDB takes 1 MiB by default, and escaping may double them."""
_SELECT_PATIENT: Final = (
    "SELECT patient.id, patient.received, patient_name.name FROM patient "
    "LEFT JOIN patient_name ON patient_name.patient_id = patient.id WHERE patient.identity = ?"
)
_SELECT_STUDY: Final = (
    "SELECT study.id, study.person, study.patients_differ, study.received, study.modalities, study.sop_classes, "
    "study_person.id FROM study "
    "LEFT JOIN study_person ON study_person.study_id = study.id AND study_person.patient_id = ? WHERE study.uid = ?"
)
_INSTANCE: Final = (
    "INSERT INTO instance (uid, version, content, current, series_id, sop_class, transfer_syntax, instance_number, "
    "digest, size, folder_id, file, received, calling, complete, head) VALUES "
)
_MARKS_OF_INSTANCE: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_PATIENT: Final = (
    "INSERT INTO patient (birth_date, head, received, identity, patient_id) VALUES (?, ?, ?, ?, ?)"
)
_TAKE_PATIENT: Final = "UPDATE patient SET birth_date = ?, head = ?, received = ? WHERE id = ?"
_INSERT_NAME: Final = "INSERT INTO patient_name (patient_id, name) VALUES (?, ?)"
_INSERT_STUDY: Final = (
    "INSERT INTO study (patient_id, person, study_date, study_time, accession_number, study_id, description, received, "
    "head, uid, patients_differ, modalities, sop_classes, series_count, instance_count, byte_count) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '', '', 0, 0, 0)"
)
_TAKE_STUDY: Final = (
    "UPDATE study SET patient_id = ?, person = ?, study_date = ?, study_time = ?, accession_number = ?, study_id = ?, "
    "description = ?, received = ?, head = ? WHERE id = ?"
)
_INSERT_PERSON: Final = "INSERT INTO study_person (study_id, patient_id) VALUES (?, ?)"
_INSERT_SERIES: Final = (
    "INSERT INTO series (modality, series_number, description, head, received, study_id, uid, instance_count, "
    "byte_count) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0)"
)
_TAKE_SERIES: Final = (
    "UPDATE series SET modality = ?, series_number = ?, description = ?, head = ?, received = ? WHERE id = ?"
)
_INSERT_FOLDER: Final = "INSERT INTO folder (digest, path) VALUES (?, ?)"
_COUNT_IN_SERIES: Final = (
    "UPDATE series SET instance_count = instance_count + ?, byte_count = byte_count + ? WHERE id = ?"
)
_COUNT_IN_STUDY: Final = (
    "UPDATE study SET instance_count = instance_count + ?, byte_count = byte_count + ?, "
    "series_count = series_count + ? WHERE id = ?"
)
_COUNT_AND_LIST: Final = _COUNT_IN_STUDY.replace(" WHERE", ", modalities = ?, sop_classes = ? WHERE")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to be indexed: its header, and what the archive knows of it; `head` when it is encoded already."""

    header: Header
    digest: str
    size: int
    place: PurePosixPath
    received: str
    calling: str
    head: bytes = b""

    @property
    def content(self) -> str:
        """Key of the content, see `layout.content_key`."""
        return layout.content_key(self.header.transfer_syntax, self.digest)


@dataclass(slots=True)
class _Series:
    """A series' row, and what is to be added to its counts."""

    id: int
    had: int
    instances: int = 0
    size: int = 0
    kinds: set[tuple[bytes | None, ...]] = field(default_factory=set)


@dataclass(slots=True)
class _Study:
    """A study's row, and what is to be added to its counts and lists."""

    id: int
    person: str
    patients_differ: int
    modalities: list[str]
    sop_classes: list[str]
    patients: set[int] = field(default_factory=set)
    series: dict[str, _Series] = field(default_factory=dict)
    instances: int = 0
    size: int = 0
    series_count: int = 0
    lists_changed: bool = False


class Adding:
    """Adds files within one transaction, which keeps others from changing what has been looked up.

    Parameters
    ----------
    database : Database
        The index's, in a transaction.
    uids : Iterable[str]
        SOP Instance UIDs of what will be added: they are looked up at once.
    """

    def __init__(self, database: Database, uids: Iterable[str] = ()) -> None:
        self._database = database
        self._execute = database.execute
        self._known: dict[str, list[tuple[int, str]]] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._heads = 0
        self._patients: dict[tuple[bytes | None, ...], tuple[int, str]] = {}
        self._studies: dict[str, _Study] = {}
        self._folders: dict[str, int] = {}
        self._look_up(list(dict.fromkeys(uids)))

    def _look_up(self, uids: list[str]) -> None:
        """Find the versions and contents that are there of some instances."""
        for start in range(0, len(uids), _MOST_LISTED):
            some = uids[start : start + _MOST_LISTED]
            self._known.update((uid, []) for uid in some)
            found = f"SELECT uid, version, content FROM instance WHERE uid IN ({self._database.marks(some)})"  # noqa: S608 - marks alone
            for uid, version, content in self._execute(found, *some).fetchall():
                self._known[uid].append((version, content))

    def add(self, entry: Entry) -> str:
        """Add a file and return `STORED`, `DUPLICATE` or `CONFLICT`; it is there when `finish` has been called.

        Of several the first received is to be added first: rows are compared with it when they are looked up, once.
        """
        header = entry.header
        uid, content = header.sop_instance_uid, entry.content
        if uid not in self._known:
            self._look_up([uid])
        known = self._known[uid]
        folder, _, file = str(entry.place).rpartition("/")
        if any(other == content for _, other in known):
            self._note_place(uid, content, folder, file)
            return DUPLICATE
        current = not known
        study = self._study(entry)
        series = self._series(entry, study)
        version = 1 + max((version for version, _ in known), default=0)
        head = entry.head or header.encoded(TAGS["IMAGE"])
        row = (
            *(uid, version, content, int(current), series.id, header.sop_class_uid, header.transfer_syntax),
            *(_bounded(header.integer(0x00200013)), entry.digest, entry.size, self._folder(folder), file),
            *(entry.received, ascii_code(entry.calling), int(header.complete), head),
        )
        if len(self._rows) == _ROWS_AT_ONCE or self._heads + len(head) > _HEADS_AT_ONCE:
            self._insert_rows()
        self._rows.append(row)
        self._heads += len(head)
        known.append((version, content))
        if current:
            _count(study, series, header, entry.size)
        return STORED if current else CONFLICT

    def _insert_rows(self) -> None:
        if self._rows:
            statement = _INSTANCE + ", ".join([_MARKS_OF_INSTANCE] * len(self._rows))
            self._execute(statement, *(value for row in self._rows for value in row))
            self._rows.clear()
            self._heads = 0

    def _insert(self, statement: str, *values: Any) -> int:
        """Insert a row and return its number."""
        return int(self._execute(statement, *values).lastrowid)

    def _note_place(self, uid: str, content: str, folder: str, file: str) -> None:
        """Let the row of a content that is known point to this file: it is there, and the one before may be gone."""
        self._insert_rows()  # it may be one of these
        statement = "UPDATE instance SET folder_id = ?, file = ? WHERE uid = ? AND content = ?"
        self._execute(statement, self._folder(folder), file, uid, content)

    def finish(self) -> None:
        """Write the rows, and the counts and lists of the studies and series."""
        self._insert_rows()
        for study in self._studies.values():
            for series in study.series.values():
                if series.instances:
                    self._execute(_COUNT_IN_SERIES, series.instances, series.size, series.id)
            counts = study.instances, study.size, study.series_count
            if study.lists_changed:
                lists = "\\".join(study.modalities), "\\".join(study.sop_classes)
                self._execute(_COUNT_AND_LIST, *counts, *lists, study.id)
            elif study.instances:
                self._execute(_COUNT_IN_STUDY, *counts, study.id)
        self._studies.clear()

    def _patient(self, entry: Entry) -> tuple[int, str]:
        """Return the number of a patient's row, and a digest that tells the same person from another."""
        header = entry.header
        key = tuple(map(header.elements.get, _OF_A_PATIENT))
        found = self._patients.get(key)
        if found is None:
            name_keys = names.name_keys(_raw(header, _PATIENT_NAME), _label(header))
            number = self._patient_row(entry, name_keys)
            found = number, hashlib.sha256(repr((number, sorted(name_keys))).encode()).hexdigest()
            self._patients[key] = found
        return found

    def _patient_row(self, entry: Entry, name_keys: set[str]) -> int:
        header = entry.header
        keys = {key[:_KEY_LENGTH] for key in name_keys}
        patient_id = key_of(header, _PATIENT_ID)
        if patient_id:
            identity = f"id {patient_id} {key_of(header, _ISSUER_OF_PATIENT_ID)}"
        elif keys:
            identity = f"name {sorted(keys)} {header.text(_BIRTH_DATE)}"
        else:
            identity = f"study {header.study_instance_uid}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        rows = self._execute(_SELECT_PATIENT, digest).fetchall()
        if rows:
            number = int(rows[0][0])
            if entry.received < rows[0][1]:
                self._execute(_TAKE_PATIENT, *_of_patient(entry), number)
        else:
            number = self._insert(_INSERT_PATIENT, *_of_patient(entry), digest, patient_id)
        for name in sorted(keys - {name for _, _, name in rows}):
            self._execute(_INSERT_NAME, number, name)
        return number

    def _study(self, entry: Entry) -> _Study:
        patient, person = self._patient(entry)
        uid = entry.header.study_instance_uid
        study = self._studies.get(uid)
        if study is None:
            # Counts and lists of a study are changed by one process at a time.
            lock = " FOR UPDATE" if self._database.engine == "mysql" else ""
            row = self._execute(_SELECT_STUDY + lock, patient, uid).fetchone()
            if row is None:
                study = _Study(self._insert(_INSERT_STUDY, *_of_study(entry, patient, person), uid), person, 0, [], [])
            else:
                study = _Study(row[0], row[1], row[2], _listed(row[4]), _listed(row[5]))
                if row[6] is not None:
                    study.patients.add(patient)
                if entry.received < row[3]:
                    self._execute(_TAKE_STUDY, *_of_study(entry, patient, person), study.id)
            self._studies[uid] = study
        if study.person != person and not study.patients_differ:
            self._execute("UPDATE study SET patients_differ = 1 WHERE id = ?", study.id)
            study.patients_differ = 1
        if patient not in study.patients:
            pair = "SELECT id FROM study_person WHERE study_id = ? AND patient_id = ?"
            if self._execute(pair, study.id, patient).fetchone() is None:
                self._execute(_INSERT_PERSON, study.id, patient)
            study.patients.add(patient)
        return study

    def _series(self, entry: Entry, study: _Study) -> _Series:
        uid = entry.header.series_instance_uid
        series = study.series.get(uid)
        if series is None:
            found = "SELECT id, instance_count, received FROM series WHERE uid = ? AND study_id = ?"
            row = self._execute(found, uid, study.id).fetchone()
            if row is None:
                series = _Series(self._insert(_INSERT_SERIES, *_of_series(entry), study.id, uid), 0)
            else:
                series = _Series(row[0], row[1])
                if entry.received < row[2]:
                    self._execute(_TAKE_SERIES, *_of_series(entry), series.id)
            study.series[uid] = series
        return series

    def _folder(self, path: str) -> int:
        number = self._folders.get(path)
        if number is None:
            digest = digest_of_folder(path)
            row = self._execute("SELECT id FROM folder WHERE digest = ?", digest).fetchone()
            number = int(row[0]) if row else self._insert(_INSERT_FOLDER, digest, path)
            self._folders[path] = number
        return number


def _of_patient(entry: Entry) -> tuple[Any, ...]:
    """Return what the row of a patient says of its first received instance."""
    header = entry.header
    return ascii_code(date(header.text(_BIRTH_DATE))), header.encoded(TAGS["PATIENT"]), entry.received


def _of_study(entry: Entry, patient: int, person: str) -> tuple[Any, ...]:
    """Return what the row of a study says of its first received instance."""
    header = entry.header
    return (
        *(patient, person, ascii_code(date(header.text(0x00080020))), ascii_code(time_of_day(header.text(0x00080030)))),
        *(key_of(header, 0x00080050), key_of(header, 0x00200010), key_of(header, 0x00081030)),
        *(entry.received, header.encoded(TAGS["PATIENT"] | TAGS["STUDY"])),
    )


def _of_series(entry: Entry) -> tuple[Any, ...]:
    """Return what the row of a series says of its first received instance."""
    header = entry.header
    return (
        *(_modality(header), _bounded(header.integer(0x00200011)), key_of(header, 0x0008103E)),
        *(header.encoded(TAGS["SERIES"]), entry.received),
    )


def _count(study: _Study, series: _Series, header: Header, size: int) -> None:
    """Count one current instance for its study and series."""
    if not series.had + series.instances:
        study.series_count += 1
    for level in (series, study):
        level.instances += 1
        level.size += size
    kind = header.elements.get(_MODALITY), header.elements.get(_SOP_CLASS)
    if kind in series.kinds:
        return
    series.kinds.add(kind)
    for listed, value in ((study.modalities, _modality(header).upper()), (study.sop_classes, header.sop_class_uid)):
        if value and value not in listed and len(listed) < _MOST_LISTED:
            listed.append(value)
            listed.sort()  # whatever came first
            study.lists_changed = True


def _listed(text: str) -> list[str]:
    return text.split("\\") if text else []


def _modality(header: Header) -> str:
    return ascii_code(key_of(header, _MODALITY))


def _raw(header: Header, tag: int) -> bytes:
    return header.elements.get(tag, b"")


def _label(header: Header) -> bytes:
    return header.elements.get(_SPECIFIC_CHARACTER_SET, b"")


def digest_of_folder(path: str) -> str:
    """Return by what the row of a folder is found; its path, relative to the storage root, is too long a key."""
    return hashlib.sha256(path.encode()).hexdigest()


def key_of(header: Header, tag: int) -> str:
    """Return the search key of a text element."""
    return names.fold(names.decode(_raw(header, tag), _label(header)))[:_KEY_LENGTH]


def ascii_code(text: str) -> str:
    """Return `text` as the ASCII code columns hold it."""
    return text.encode("ascii", "replace").decode()[:40]


def date(text: str) -> str:
    """Return a DA value as YYYYMMDD; the old form YYYY.MM.DD is understood (PS3.5 6.2)."""
    return text.replace(".", "").replace("-", "")[:8]


def time_of_day(text: str) -> str:
    """Return a TM value as HHMMSS.FFFFFF, '' when there is none; the old form HH:MM:SS is understood."""
    whole, _, fraction = text.replace(":", "").partition(".")
    return f"{whole[:6].ljust(6, '0')}.{fraction[:6].ljust(6, '0')}" if whole else ""


def _bounded(number: int | None) -> int | None:
    return number if number is not None and abs(number) < 2**62 else None
