"""The index: what was received, as rows that can be searched; on SQLite or MariaDB through the same code.

The index is a convenience: everything in it can be made again from the files. When the database is away every method
raises `IndexUnavailable`, and works again by itself when it is back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, Final

import peewee

from angiovault.archive.adding import CONFLICT, DUPLICATE, SET_ASIDE, STORED, Adding, Entry, ascii_code, key_of
from angiovault.archive.database import Database, IndexIncomplete, IndexUnavailable, SchemaTooNew, WrongArchive, passes
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
    "SET_ASIDE",
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

_ATTEMPTS: Final = 5


class IndexRefuses(Exception):
    """The database takes no row of this instance, though it is well; the text says why."""


class Index(Database):
    """The index of one archive."""

    def clear(self) -> None:
        """Forget every instance (not commitments, refusals and contacts), to be indexed anew.

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
        """Add one file, see `add_together`."""
        return self.add_together([entry])[0]

    def add_together(self, entries: Sequence[Entry]) -> list[str]:
        """Add files in one transaction, all of them or none; what is there already is left alone.

        Returns
        -------
        list[str]
            For each `STORED`, `DUPLICATE` (the same content under this UID) or `CONFLICT` (other content, kept as a
            version).

        Raises
        ------
        IndexUnavailable
            When the database is away, or is being rebuilt.
        IndexRefuses
            When one of them cannot be indexed.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._lock, self.session(), self.transaction():
                    self._require_complete(lock=True)
                    return self._add(entries)
            except peewee.IntegrityError as error:  # another process added the same row in this moment
                if attempt == _ATTEMPTS:
                    raise IndexRefuses(f"the index refuses a row: {error}") from error
            except peewee.DataError as error:
                raise IndexRefuses(f"the index refuses a value: {error}") from error
            except IndexUnavailable as error:  # a deadlock with another process, or a connection that had gone stale
                if attempt == _ATTEMPTS or not passes(error):
                    raise
            time.sleep(random.uniform(0, 0.02 * attempt))  # noqa: S311 (so that two do not meet again and again)
        raise AssertionError("unreachable")

    def rebuild(self, entries: Sequence[Entry]) -> list[str]:
        """Add files to an index that is being rebuilt, in one transaction.

        Returns
        -------
        list[str]
            For each '', or why it cannot be indexed.

        Raises
        ------
        IndexUnavailable
            When the database is away.
        """
        with self._lock, self.session() as database, self.transaction():
            try:
                with database.savepoint():
                    self._add(entries)
                return [""] * len(entries)
            except (peewee.IntegrityError, peewee.DataError):
                return [self._problem_of(entry, database) for entry in entries]

    def _problem_of(self, entry: Entry, database: Any) -> str:
        """Add a file on its own; return '', or why it cannot be indexed."""
        try:
            with database.savepoint():
                self._add([entry])
        except (peewee.IntegrityError, peewee.DataError) as error:
            return f"the index refuses it: {error}"
        return ""

    def _add(self, entries: Sequence[Entry]) -> list[str]:
        adding = Adding(self, (entry.header.sop_instance_uid for entry in entries))
        outcomes = [""] * len(entries)
        for number, entry in sorted(enumerate(entries), key=lambda numbered: numbered[1].received):
            outcomes[number] = adding.add(entry)
        adding.finish()
        return outcomes

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
        rows = list(Series.select().where((Series.study_id == study) & (Series.instance_count > 0)))
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
            modalities="\\".join(sorted({row.modality.upper() for row in rows if row.modality})),
            sop_classes="\\".join(sorted(name for (name,) in classes)),
        ).where(Study.id == study).execute()
