"""The schema: what MariaDB 10.0 can hold, the same on both engines, and migrated in steps that may be cut off."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest

from angiovault.archive import models, refusals, schema
from angiovault.archive.index import Index, IndexUnavailable, SchemaTooNew, WrongArchive
from angiovault.indexurl import IndexURL
from harness.mariadb import MariaDB

LONGEST_COLUMN, LONGEST_INDEX = 767, 3072
"""Bytes of one column of an index, and of all, in InnoDB before MariaDB 10.2.2 (COMPACT, no innodb_large_prefix)."""

_BYTES = {"utf8mb4": 4, "ascii": 1}


def _statements(engine: str = "mysql") -> list[str]:
    return [text for step in range(1, len(schema.MIGRATIONS) + 1) for text in schema.statements(engine, step)]


def _columns() -> dict[str, dict[str, str]]:
    """Return table -> column -> type, from the statements for MariaDB."""
    tables: dict[str, dict[str, str]] = {}
    for text in _statements():
        if match := re.match(r"CREATE TABLE (\w+) \((.*)\) ENGINE=", text):
            parts = re.split(r",\s*(?![^(]*\))", match[2])
            tables[match[1]] = dict(part.split(" ", 1) for part in parts if not part.startswith("PRIMARY KEY"))
        if match := re.match(r"ALTER TABLE (\w+) ADD COLUMN (\w+) (.*)$", text):
            tables[match[1]][match[2]] = match[3]
    return tables


def _length(kind: str, prefix: int | None) -> int:
    """Return the bytes that a column of this type takes in an index."""
    if kind.startswith("BIGINT"):
        return 8
    match = re.match(r"(?:VAR)?CHAR\((\d+)\) CHARACTER SET (\w+)", kind)
    assert match, f"{kind} cannot be indexed"
    return min(prefix or 9999, int(match[1])) * _BYTES[match[2]]


def _indexes() -> list[tuple[str, str, list[tuple[str, int | None]]]]:
    """Return name, table and (column, prefix) of each index."""
    found = []
    for text in _statements():
        if match := re.match(r"CREATE (?:UNIQUE )?INDEX (\w+) ON (\w+) \((.*)\)$", text):
            columns = [re.fullmatch(r"(\w+)(?:\((\d+)\))?", part.strip()) for part in match[3].split(",")]
            found.append((match[1], match[2], [(c[1], int(c[2]) if c[2] else None) for c in columns if c]))
        if match := re.match(r"DROP INDEX (\w+) ON (\w+)$", text):
            found = [index for index in found if index[0] != match[1]]
        if match := re.match(r"CREATE TABLE (\w+) .*PRIMARY KEY \((\w+)\)\)", text):
            found.append(("PRIMARY", match[1], [(match[2], None)]))
    return found


def test_no_index_is_longer_than_mariadb_10_0_can_hold() -> None:
    tables = _columns()
    lengths = {
        f"{table}.{name}": [_length(tables[table][column], prefix) for column, prefix in columns]
        for name, table, columns in _indexes()
    }
    assert len(lengths) > 20
    too_long = {name for name, found in lengths.items() if max(found) > LONGEST_COLUMN or sum(found) > LONGEST_INDEX}
    assert too_long == set()
    assert lengths["patient_name.patient_name_person"] == [4 * 191, 8]  # the arithmetic itself


def test_uids_are_ascii_and_search_keys_are_ours() -> None:
    for table, columns in _columns().items():
        for column, kind in columns.items():
            if "CHAR" in kind or "TEXT" in kind:
                assert re.search(r"CHARACTER SET (ascii COLLATE ascii_bin|utf8mb4 COLLATE utf8mb4_bin)", kind), column
            if column == "uid" or column.endswith("_uid"):
                assert "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" in kind, (table, column)


_LATER = {
    "JSON": r"\bJSON\b",
    "common table expressions (10.2)": r"\bWITH\b(?! RECURSIVE ?ROLLUP)",
    "window functions (10.2)": r"\bOVER\s*\(",
    "generated columns": r"\bGENERATED\b|\bVIRTUAL\b|\bSTORED\b|\bPERSISTENT\b",
    "CHECK constraints (10.2)": r"\bCHECK\s*\(",
    "expressions as DEFAULT (10.2)": r"\bDEFAULT\s*\(",
    "DEFAULT of a BLOB or TEXT (10.2)": r"(BLOB|TEXT)[^,]*\bDEFAULT\b(?! CHARACTER)",
    "descending indexes (10.8)": r"INDEX[^;]*\bDESC\b",
    "IF [NOT] EXISTS on indexes and columns": r"\b(INDEX|COLUMN) IF (NOT )?EXISTS",
    "RENAME COLUMN or INDEX (10.5)": r"\bRENAME (COLUMN|INDEX|KEY)\b",
    "RETURNING (10.5)": r"\bRETURNING\b",
    "INTERSECT and EXCEPT (10.3)": r"\b(INTERSECT|EXCEPT)\b",
    "sequences (10.3)": r"\bSEQUENCE\b|\bNEXTVAL\b",
    "invisible columns (10.3)": r"\bINVISIBLE\b",
    "system versioning (10.3)": r"\bSYSTEM VERSIONING\b",
    "UUID and INET types (10.5, 10.7)": r"\b(UUID|INET4|INET6)\b",
    "SKIP LOCKED (10.6), NOWAIT (10.3)": r"\bSKIP LOCKED\b|\bNOWAIT\b",
    "ON CONFLICT (never)": r"\bON CONFLICT\b",
    "foreign keys, which are not wanted": r"\bREFERENCES\b",
    "functional indexes (never)": r"INDEX[^;]*\(\(",
    "later collations": r"_uca1400|_0900_|utf8mb3",
    "compressed columns (10.3)": r"\bCOMPRESSED\b",
}


def later_syntax(statement: str) -> list[str]:
    """Return what in a statement MariaDB 10.0 does not understand."""
    return [what for what, pattern in _LATER.items() if re.search(pattern, statement, re.IGNORECASE)]


@pytest.mark.parametrize("statement", _statements(), ids=lambda text: " ".join(text.split()[:4]))
def test_no_syntax_that_came_after_mariadb_10_0(statement: str) -> None:
    assert later_syntax(statement) == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (a JSON)",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "SELECT ROW_NUMBER() OVER (ORDER BY id) FROM t",
        "ALTER TABLE t ADD COLUMN b INT GENERATED ALWAYS AS (a)",
        "CREATE TABLE t (a INT CHECK (a > 0))",
        "CREATE INDEX i ON t (a DESC)",
        "CREATE INDEX IF NOT EXISTS i ON t (a)",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT",
        "ALTER TABLE t ADD COLUMN a TEXT DEFAULT ''",
        "ALTER TABLE t RENAME COLUMN a TO b",
        "INSERT INTO t VALUES (1) RETURNING id",
        "SELECT * FROM t FOR UPDATE SKIP LOCKED",
        "CREATE INDEX i ON t ((lower(a)))",
    ],
)
def test_later_syntax_is_recognised(statement: str) -> None:
    assert later_syntax(statement)


def test_models_and_tables_have_the_same_columns() -> None:
    tables = _columns()
    assert {model._meta.table_name for model in models.ALL} == tables.keys()
    for model in models.ALL:
        assert set(model._meta.columns) == tables[model._meta.table_name].keys()


# --- Migrations -----------------------------------------------------------------------------------------------------

LATEST = len(schema.MIGRATIONS)
NEXT = ("ALTER TABLE study ADD COLUMN extra {INT} DEFAULT 7", "CREATE INDEX study_extra ON study (extra)")


@pytest.fixture
def index(index_url: str, tmp_path: Path) -> Callable[[], Index]:
    """Return the index, as another start of the program sees it."""
    return lambda: Index(IndexURL.parse(index_url, tmp_path))


def _version(index: Index) -> str:
    with index.session() as database:
        return str(database.execute_sql("SELECT value FROM archive WHERE name = 'schema'").fetchone()[0])


def test_a_further_migration_runs_once_and_keeps_what_is_there(
    index: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index()
    assert first.archive_id() == ""
    first.open("a" * 32, complete=True)
    with first.session():
        models.Refusal.insert(
            digest="d", address="a", calling="c", called="c", code="", reason="r", first_time="", last_time="", times=1
        ).execute()
    first.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, NEXT))
    with pytest.raises(IndexUnavailable, match="missing or of an older version"):
        index().inspect("a" * 32)
    for _ in range(2):
        second = index()
        second.open("a" * 32)
        assert _version(second) == str(LATEST + 1)
        assert not second.incomplete
        with second.session() as database:
            assert models.Refusal.select().count() == 1
            assert "extra" in {column.name for column in database.get_columns("study")}
        second.close()


@contextlib.contextmanager
def _of_version(index: Callable[[], Index], monkeypatch: pytest.MonkeyPatch, version: int) -> Iterator[Index]:
    """Make an index as an earlier version of the program did, to be filled."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
        made = index()
        made.open("a" * 32, complete=True)
        yield made
        made.close()


def test_refusals_of_the_first_version_keep_their_words(
    index: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    with _of_version(index, monkeypatch, 1) as first, first.session() as database:
        database.execute_sql(
            "INSERT INTO refusal (digest, address, calling, called, reason, first_time, last_time, times) "
            "VALUES ('d', '192.0.2.1', 'XWP', 'VAULT', 'not a configured device', '', '', 3)"
        )
    second = index()
    second.open("a" * 32)
    (kept,) = refusals.listed(second)
    assert (kept["reason"], kept["reason_zh"], kept["times"]) == (*["not a configured device"] * 2, 3)
    second.close()


def test_a_newer_schema_is_refused(index: Callable[[], Index], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, NEXT))
        index().open("a" * 32)
    for use in (lambda one: one.open("a" * 32), lambda one: one.inspect("a" * 32)):
        with pytest.raises(SchemaTooNew, match=f"has schema {LATEST + 1}, this version of AngioVault knows {LATEST}: "):
            use(index())


def test_an_index_belongs_to_one_archive(index: Callable[[], Index]) -> None:
    index().open("a" * 32)
    assert index().archive_id() == "a" * 32
    for use in (lambda one: one.open("b" * 32), lambda one: one.inspect("b" * 32)):
        with pytest.raises(WrongArchive, match="give each archive its own index"):
            use(index())


def test_a_new_index_of_an_old_archive_is_not_complete(index: Callable[[], Index]) -> None:
    one = index()
    one.open("a" * 32)
    assert one.incomplete
    one.close()
    two = index()
    two.open("a" * 32, complete=True)  # too late: only a new index can be complete by itself
    assert two.incomplete
    assert two.mark(complete=True) is False
    two.require_complete()
    two.close()
    assert index().mark(complete=True) is True


def test_tables_of_another_program_are_left_alone(index: Callable[[], Index]) -> None:
    one = index()
    with one.session() as database:
        database.execute_sql("CREATE TABLE patient (theirs INTEGER)")
        database.execute_sql("INSERT INTO patient VALUES (5)")
    with pytest.raises(WrongArchive, match=r"holds tables of another program \(patient\)"):
        one.open("a" * 32)
    with one.session() as database:
        assert database.get_tables() == ["patient"]
        assert tuple(database.execute_sql("SELECT theirs FROM patient").fetchall()) == ((5,),)
    one.close()


@pytest.mark.mariadb
@pytest.mark.parametrize("statements", [1, 2, 5, 20, 1000])
def test_a_first_migration_that_was_cut_off_is_finished(mariadb: MariaDB, tmp_path: Path, statements: int) -> None:
    url = mariadb.database()
    parts = urlsplit(url)
    user = parts.username or ""
    connection = pymysql.connect(
        unix_socket=str(mariadb.socket), user=user, password=parts.password or "", database=user, autocommit=True
    )
    with connection, connection.cursor() as cursor:
        for statement in _statements()[:statements]:
            cursor.execute(statement)
    index = Index(IndexURL.parse(url, tmp_path))
    index.open("a" * 32)
    assert _version(index) == str(len(schema.MIGRATIONS))
    with index.session() as database:
        assert set(database.get_tables()) == set(_columns())
        rows = database.execute_sql(
            "SELECT COUNT(DISTINCT table_name, index_name) FROM information_schema.statistics WHERE table_schema = %s",
            (user,),
        ).fetchone()
    assert rows[0] == len(_indexes()) + len(_columns()) - 1  # and the primary keys that a column declares
    index.close()


def _index_names(index: Index) -> set[str]:
    with index.session() as database:
        return {found.name for model in models.ALL for found in database.get_indexes(model._meta.table_name)}


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_indexes_are_exchanged_although_it_was_cut_off(
    index: Callable[[], Index], monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """The third version: what it drops and makes is there once, whatever one that was cut off has done of it."""
    with _of_version(index, monkeypatch, 2) as first:
        assert {"patient_name_name", "study_person_patient"} <= _index_names(first)
        with first.session():
            models.PatientName.insert(patient_id=7, name="zhang^san").execute()
            models.StudyPerson.insert(study_id=8, patient_id=7).execute()
    execute, left = Index._execute, [done]

    def cut_off(self: Index, database: Any, statement: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        execute(self, database, statement)

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:3])
        patch.setattr(Index, "_execute", cut_off)
        second = index()
        if done < len(schema.MIGRATIONS[2]):
            with pytest.raises(KeyboardInterrupt):
                second.open("a" * 32)
            assert _version(second) == "2"
        else:
            second.open("a" * 32)
        second.close()
    third = index()
    third.open("a" * 32)
    assert _version(third) == str(len(schema.MIGRATIONS))
    names = _index_names(third)
    assert {"patient_name_person", "study_person_study"} <= names
    assert not {"patient_name_name", "study_person_patient"} & names
    with third.session():
        assert list(models.PatientName.select(models.PatientName.name).tuples()) == [("zhang^san",)]
        assert list(models.StudyPerson.select(models.StudyPerson.study_id).tuples()) == [(8,)]
    third.close()


def test_series_of_the_third_version_stay_as_they_are(
    index: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first instance of them came is not known, and their rows say so."""
    with _of_version(index, monkeypatch, 3) as first, first.session() as database:
        database.execute_sql("INSERT INTO patient (identity, patient_id, birth_date, head) VALUES ('i', 'p', '', '')")
        database.execute_sql(
            "INSERT INTO series (study_id, uid, modality, series_number, description, instance_count, byte_count, "
            "head) VALUES (1, '1.2', 'XA', 1, 'kept', 1, 10, '')"
        )
    second = index()
    second.open("a" * 32)
    with second.session():
        assert list(models.Patient.select(models.Patient.patient_id, models.Patient.received).tuples()) == [("p", "")]
        series = models.Series.select(models.Series.description, models.Series.received).tuples()
        assert list(series) == [("kept", "")]
    second.close()


@pytest.mark.mariadb
def test_a_further_migration_that_was_cut_off_is_finished(
    mariadb: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = IndexURL.parse(mariadb.database(), tmp_path)
    Index(url).open("a" * 32)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, NEXT))
    again = Index(url)
    with again.session() as database:
        database.execute_sql(schema.statements("mysql", LATEST + 1)[0])
    again.open("a" * 32)
    assert _version(again) == str(LATEST + 1)
    again.close()
