"""The index: what was received, as rows that can be searched; on SQLite or MariaDB through the same code.

The index is a convenience: everything in it can be made again from the files. When the database is away every method
raises `IndexUnavailable`, and works again by itself when it is back.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import peewee

from angiovault.archive import layout, names
from angiovault.archive.attributes import WANTED
from angiovault.archive.database import Database, IndexIncomplete, IndexUnavailable, SchemaTooNew, WrongArchive, passes
from angiovault.archive.header import Header
from angiovault.archive.models import (
    Folder,
    Instance,
    Patient,
    PatientName,
    Series,
    Study,
    StudyPerson,
)

__all__ = [
    "CONFLICT",
    "DUPLICATE",
    "STORED",
    "Entry",
    "Index",
    "IndexIncomplete",
    "IndexRefuses",
    "IndexUnavailable",
    "SchemaTooNew",
    "WrongArchive",
    "ascii_code",
    "key_of",
]

_ISSUER_OF_PATIENT_ID: Final = 0x00100021
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_TIMEZONE: Final = 0x00080201
_KEY_LENGTH: Final = 185
_ATTEMPTS: Final = 5
_MOST_LISTED: Final = 500

STORED: Final = "stored"
DUPLICATE: Final = "duplicate"
CONFLICT: Final = "conflict"


class IndexRefuses(Exception):
    """The database takes no row of this instance, though it is well; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to be indexed: its header, and what the archive knows of it."""

    header: Header
    digest: str
    size: int
    place: PurePosixPath
    received: str
    calling: str

    @property
    def content(self) -> str:
        """Key of the content, see `layout.content_key`."""
        return layout.content_key(self.header.transfer_syntax, self.digest)


@dataclass(frozen=True, slots=True)
class _KnownStudy:
    """What adding an instance needs to know of its study's row."""

    id: int
    person: str
    patients_differ: int
    modalities: str
    sop_classes: str


@dataclass(frozen=True, slots=True)
class _KnownSeries:
    """What adding an instance needs to know of its series' row."""

    id: int
    instance_count: int


_SELECT_STUDY: Final = "SELECT id, person, patients_differ, modalities, sop_classes FROM study WHERE uid = ?"
_INSERT_INSTANCE: Final = (
    "INSERT INTO instance (uid, version, content, current, series_id, sop_class, transfer_syntax, instance_number, "
    "digest, size, folder_id, file, received, calling, complete, head) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_COUNT_IN_SERIES: Final = (
    "UPDATE series SET instance_count = instance_count + 1, byte_count = byte_count + ? WHERE id = ?"
)
_COUNT_IN_STUDY: Final = (
    "UPDATE study SET instance_count = instance_count + 1, byte_count = byte_count + ?, "
    "series_count = series_count + ? WHERE id = ?"
)


class Index(Database):
    """The index of one archive."""

    def clear(self) -> None:
        """Forget every instance (not the commitments or refusals), to be indexed anew.

        Raises
        ------
        IndexUnavailable
            When the database is away.
        """
        with self._lock, self.session() as database:
            for model in (Instance, Folder, Series, StudyPerson, Study, PatientName, Patient):
                if self.engine == "mysql":  # DELETE would take hours on millions of rows
                    database.execute_sql(f"TRUNCATE TABLE {model._meta.table_name}")
                else:
                    model.delete().execute()

    # ---- adding

    def add(self, entry: Entry) -> str:
        """Add a file; what is there already is left alone.

        Returns
        -------
        str
            `STORED`, `DUPLICATE` (the same content under this UID) or `CONFLICT` (other content, kept as a version).

        Raises
        ------
        IndexUnavailable
            When the database is away, or is being rebuilt.
        IndexRefuses
            When this instance cannot be indexed.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._lock, self.session(), self.transaction():
                    self._require_complete(lock=True)
                    return self._add(entry)
            except peewee.IntegrityError as error:  # another process added the same row in this moment
                if attempt == _ATTEMPTS:
                    raise IndexRefuses(f"the index refuses a row: {error}") from error
            except peewee.DataError as error:
                raise IndexRefuses(f"the index refuses a value: {error}") from error
            except IndexUnavailable as error:  # a deadlock with another process, or a connection that had gone stale
                if attempt == _ATTEMPTS or not passes(error):
                    raise
            time.sleep(0.01 * attempt)
        raise AssertionError("unreachable")

    def add_all(self, entries: Sequence[Entry]) -> list[str]:
        """Add many files to an index that is being rebuilt, in one transaction.

        Returns
        -------
        list[str]
            For each '', or why it cannot be indexed.

        Raises
        ------
        IndexUnavailable
            When the database is away.
        """
        problems = []
        with self._lock, self.session() as database, self.transaction():
            for entry in entries:
                try:
                    with database.savepoint():
                        self._add(entry)
                    problems.append("")
                except (peewee.IntegrityError, peewee.DataError) as error:
                    problems.append(f"the index refuses it: {error}")
        return problems

    def _add(self, entry: Entry) -> str:
        header = entry.header
        known = self.execute(
            "SELECT version, content FROM instance WHERE uid = ?", header.sop_instance_uid
        ).fetchall()
        if any(content == entry.content for _, content in known):
            return DUPLICATE
        current = not known
        found = names.name_keys(_raw(header, 0x00100010), _label(header))
        patient = self._patient(header, found)
        study = self._study(entry, patient, found)
        series = self._series(header, study.id)
        self.execute(
            _INSERT_INSTANCE,
            header.sop_instance_uid,
            1 + max((version for version, _ in known), default=0),
            entry.content,
            int(current),
            series.id,
            header.sop_class_uid,
            header.transfer_syntax,
            _bounded(header.integer(0x00200013)),
            entry.digest,
            entry.size,
            self._folder(str(entry.place.parent)),
            entry.place.name,
            entry.received,
            ascii_code(entry.calling),
            int(header.complete),
            header.encoded(_TAGS["IMAGE"]),
        )
        if current:
            self._count(study, series, header, entry.size)
        return STORED if current else CONFLICT

    def _patient(self, header: Header, name_keys: set[str]) -> int:
        keys = {key[:_KEY_LENGTH] for key in name_keys}
        patient_id = key_of(header, 0x00100020)
        if patient_id:
            identity = f"id {patient_id} {key_of(header, _ISSUER_OF_PATIENT_ID)}"
        elif keys:
            identity = f"name {sorted(keys)} {header.text(0x00100030)}"
        else:
            identity = f"study {header.study_instance_uid}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        row = self.execute("SELECT id FROM patient WHERE identity = ?", digest).fetchone()
        if row:
            number = int(row[0])
            known = self.execute("SELECT name FROM patient_name WHERE patient_id = ?", number)
            have = {name for (name,) in known.fetchall()}
        else:
            number = Patient.insert(
                identity=digest,
                patient_id=patient_id,
                birth_date=ascii_code(date(header.text(0x00100030))),
                head=header.encoded(_TAGS["PATIENT"]),
            ).execute()
            have = set()
        for name in sorted(keys - have):
            PatientName.insert(patient_id=number, name=name).execute()
        return number

    def _study(self, entry: Entry, patient: int, name_keys: set[str]) -> _KnownStudy:
        header = entry.header
        person = hashlib.sha256(repr((patient, sorted(name_keys))).encode()).hexdigest()
        # Counts and lists of a study are changed by one process at a time.
        lock = " FOR UPDATE" if self.engine == "mysql" else ""
        row = self.execute(_SELECT_STUDY + lock, header.study_instance_uid).fetchone()
        study = None if row is None else _KnownStudy(*row)
        if study is None:
            number = Study.insert(
                uid=header.study_instance_uid,
                patient_id=patient,
                person=person,
                patients_differ=0,
                study_date=ascii_code(date(header.text(0x00080020))),
                study_time=ascii_code(time_of_day(header.text(0x00080030))),
                accession_number=key_of(header, 0x00080050),
                study_id=key_of(header, 0x00200010),
                description=key_of(header, 0x00081030),
                modalities="",
                sop_classes="",
                series_count=0,
                instance_count=0,
                byte_count=0,
                received=entry.received,
                head=header.encoded(_TAGS["PATIENT"] | _TAGS["STUDY"]),
            ).execute()
            study = _KnownStudy(number, person, 0, "", "")
        elif study.person != person and not study.patients_differ:
            Study.update(patients_differ=1).where(Study.id == study.id).execute()
        pair = "SELECT id FROM study_person WHERE study_id = ? AND patient_id = ?"
        if self.execute(pair, study.id, patient).fetchone() is None:
            StudyPerson.insert(study_id=study.id, patient_id=patient).execute()
        return study

    def _series(self, header: Header, study: int) -> _KnownSeries:
        found = "SELECT id, instance_count FROM series WHERE uid = ? AND study_id = ?"
        row = self.execute(found, header.series_instance_uid, study).fetchone()
        if row is not None:
            return _KnownSeries(*row)
        number = Series.insert(
            study_id=study,
            uid=header.series_instance_uid,
            modality=_modality(header),
            series_number=_bounded(header.integer(0x00200011)),
            description=key_of(header, 0x0008103E),
            instance_count=0,
            byte_count=0,
            head=header.encoded(_TAGS["SERIES"]),
        ).execute()
        return _KnownSeries(number, 0)

    def _folder(self, path: str) -> int:
        digest = digest_of_folder(path)
        row = self.execute("SELECT id FROM folder WHERE digest = ?", digest).fetchone()
        return int(row[0]) if row else int(Folder.insert(digest=digest, path=path).execute())

    def _count(self, study: _KnownStudy, series: _KnownSeries, header: Header, size: int) -> None:
        """Add one current instance to the counts and lists of its study and series."""
        self.execute(_COUNT_IN_SERIES, size, series.id)
        self.execute(_COUNT_IN_STUDY, size, int(series.instance_count == 0), study.id)
        changes = {}
        for column, value in (("modalities", _modality(header).upper()), ("sop_classes", header.sop_class_uid)):
            text = getattr(study, column)
            listed = text.split("\\") if text else []
            if value and value not in listed and len(listed) < _MOST_LISTED:
                changes[column] = "\\".join([*listed, value])
        if changes:
            Study.update(**changes).where(Study.id == study.id).execute()

    # ---- choosing between versions

    def current(self, uid: str) -> tuple[str, str]:
        """Return content and time of receipt of the current version of an instance, '' when there is none.

        Raises
        ------
        IndexUnavailable
            When the database is away.
        """
        with self.session():
            query = Instance.select(Instance.content, Instance.received)
            row = query.where((Instance.uid == uid) & (Instance.current == 1)).tuples().first()
        return (str(row[0]), str(row[1])) if row else ("", "")

    def choose(self, content: str, uid: str) -> None:
        """Make the version of `uid` with this content the current one.

        Raises
        ------
        LookupError
            When there is no such version.
        IndexUnavailable
            When the database is away.
        """
        with self._lock, self.session(), self.transaction():
            rows = list(Instance.select().where(Instance.uid == uid))
            chosen = next((row for row in rows if row.content == content), None)
            if chosen is None:
                raise LookupError(f"no version {content} of {uid}")
            touched = {row.series_id for row in rows}
            Instance.update(current=0).where(Instance.uid == uid).execute()
            Instance.update(current=1).where(Instance.id == chosen.id).execute()
            for series in touched:
                self.recount(series)

    def recount(self, series_number: int) -> None:
        """Make the counts of a series and its study anew from their current instances, within a session."""
        current = (Instance.series_id == series_number) & (Instance.current == 1)
        count, size = (
            Instance.select(peewee.fn.COUNT(Instance.id), peewee.fn.COALESCE(peewee.fn.SUM(Instance.size), 0))
            .where(current)
            .tuples()
            .first()
        )
        Series.update(instance_count=count, byte_count=size).where(Series.id == series_number).execute()
        study = Series.select(Series.study_id).where(Series.id == series_number).tuples().first()[0]
        rows = list(Series.select().where((Series.study_id == study) & (Series.instance_count > 0)).order_by(Series.id))
        classes = (
            Instance.select(Instance.sop_class)
            .join(Series, on=(Series.id == Instance.series_id))
            .where((Series.study_id == study) & (Instance.current == 1))
            .distinct()
            .tuples()
        )
        Study.update(
            series_count=len(rows),
            instance_count=sum(row.instance_count for row in rows),
            byte_count=sum(row.byte_count for row in rows),
            modalities="\\".join(dict.fromkeys(row.modality.upper() for row in rows if row.modality)),
            sop_classes="\\".join(sorted(name for (name,) in classes)),
        ).where(Study.id == study).execute()


_TAGS: Final = {
    level: frozenset({tag for tag, (of, _) in WANTED.items() if of == level} | {_SPECIFIC_CHARACTER_SET, _TIMEZONE})
    for level in ("PATIENT", "STUDY", "SERIES", "IMAGE")
}


def _modality(header: Header) -> str:
    return ascii_code(key_of(header, 0x00080060))


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
