"""The index's rows: counts, lists and versions stay right whatever comes in whatever order."""

import hashlib
import logging
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import peewee
import pymysql
import pytest

from angiovault.archive.adding import Adding
from angiovault.archive.finding.selection import Selection, conflicts, instances, versions
from angiovault.archive.header import Header
from angiovault.archive.index import (
    CONFLICT,
    DUPLICATE,
    STORED,
    Entry,
    Index,
    IndexIncomplete,
    IndexRefuses,
    IndexUnavailable,
)
from angiovault.archive.models import Folder, Instance, Patient, PatientName, Series, Study, StudyPerson
from angiovault.indexurl import IndexURL
from harness.mariadb import MariaDB
from harness.waiting import wait_until
from unit.test_schema import later_syntax

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
IMAGE_TYPE, STUDY_DATE, SERIES_DESCRIPTION, BIRTH_DATE = 0x00080008, 0x00080020, 0x0008103E, 0x00100030
CHARACTER_SET, MODALITY, NAME, PATIENT_ID, ISSUER = 0x00080005, 0x00080060, 0x00100010, 0x00100020, 0x00100021


@pytest.fixture
def index(index_url: str, tmp_path: Path) -> Iterator[Index]:
    index = Index(IndexURL.parse(index_url, tmp_path))
    index.open("a" * 32, complete=True)
    yield index
    index.close()


def entry(uid: str = "1.2.3.1", content: str = "a", size: int = 100, **other: bytes) -> Entry:
    """Return an entry whose header has some values replaced, by the names above in small letters."""
    values = {
        CHARACTER_SET: b"ISO_IR 192",
        SOP_CLASS: b"1.2.840.10008.5.1.4.1.1.12.1",
        SOP_INSTANCE: uid.encode(),
        STUDY: b"1.2.3",
        SERIES: b"1.2.3.7",
        MODALITY: b"XA",
        NAME: "Zhang^San=张^三".encode(),
        PATIENT_ID: b"P1",
    }
    values |= {globals()[name.upper()]: value for name, value in other.items()}
    digest = hashlib.sha256(content.encode()).hexdigest()
    header = Header("1.2.840.10008.1.2.1", values, True, "")
    place = PurePosixPath("2026/study/series", f"{uid}_{digest[:16]}.dcm")
    return Entry(header, digest, size, place, "2026-01-01T00:00:00.000000Z", "SENDER")


def _study(index: Index) -> dict[str, Any]:
    with index.session():
        (study,) = Study.select().dicts()
    return dict(study)


def test_counts_and_lists(index: Index) -> None:
    assert index.add(entry("1.1")) == STORED
    assert index.add(entry("1.2", size=50, series=b"1.2.3.8", modality=b"sr")) == STORED
    report = entry("1.3", series=b"1.2.3.8", modality=b"SR", sop_class=b"1.2.840.10008.5.1.4.1.1.88.67")
    assert index.add(report) == STORED
    assert index.add(report) == DUPLICATE
    study = _study(index)
    assert (study["series_count"], study["instance_count"], study["byte_count"]) == (2, 3, 250)
    assert study["modalities"] == "SR\\XA"
    assert study["sop_classes"] == "1.2.840.10008.5.1.4.1.1.12.1\\1.2.840.10008.5.1.4.1.1.88.67"
    with index.session():
        assert sorted(Series.select(Series.uid, Series.instance_count).tuples()) == [("1.2.3.7", 1), ("1.2.3.8", 2)]
        assert Folder.select().count() == 1


def _everything(index: Index) -> list[list[tuple[Any, ...]]]:
    """Return all rows of all tables, without the numbers of names, which depend on nothing."""
    with index.session():
        tables = [list(model.select().order_by(model.id).tuples()) for model in (Patient, Study, StudyPerson, Series)]
        rows = list(Instance.select().order_by(Instance.id).tuples())
        names = sorted(PatientName.select(PatientName.patient_id, PatientName.name).tuples())
        return [*tables, rows, list(Folder.select().order_by(Folder.id).tuples()), names]


def test_together_is_the_same_as_one_by_one(index_url: str, tmp_path: Path) -> None:
    """Patients with and without a name, studies, series, versions, duplicates of what has just come, many rows."""
    source = random.Random(1)
    entries = [entry(f"1.{number}", size=number) for number in range(1, 80)]
    entries += [
        entry(
            f"1.{source.randrange(60)}",
            content=source.choice("abc"),
            size=source.randrange(1000),
            study=b"1.2.%d" % source.randrange(3),
            series=b"1.2.7.%d" % source.randrange(3),
            modality=source.choice([b"XA", b"SR", b""]),
            patient_id=source.choice([b"P1", b"P2", b""]),
            name=source.choice(["Zhang^San=张^三".encode(), b"Other^Person", b""]),
        )
        for _ in range(150)
    ]
    long = ("O\\PRIMARY" * 9000).encode()  # two of them have to go to the server by two statements
    entries += [entry(f"3.{number}", image_type=long) for number in range(4)]
    together, single = (Index(IndexURL.parse(url, tmp_path)) for url in (index_url, "sqlite:///single"))
    for one in (together, single):
        one.open("a" * 32, complete=True)
    outcomes = together.add_together(entries)
    made = _everything(together)
    assert outcomes == [single.add(one) for one in entries]
    assert {STORED, DUPLICATE, CONFLICT} == set(outcomes)
    assert _everything(single) == made
    assert together.add_together(entries).count(DUPLICATE) == len(entries)
    for one in (together, single):
        one.close()


def _described(index: Index) -> list[list[tuple[Any, ...]]]:
    """Return what the rows of patients, studies and series say, without the numbers of the rows."""
    of_patient = (Patient.identity, Patient.patient_id, Patient.birth_date, Patient.head, Patient.received)
    own = (Study.uid, Study.patients_differ, Study.study_date, Study.description, Study.modalities)
    counts = (Study.sop_classes, Study.series_count, Study.instance_count, Study.byte_count, Study.received, Study.head)
    of_series = (Study.uid, Series.uid, Series.modality, Series.description, Series.instance_count, Series.received)
    of_name = PatientName.patient_id == Patient.id
    of_study = Study.patient_id == Patient.id
    with index.session():
        return [
            sorted(Patient.select(*of_patient).tuples()),
            sorted(PatientName.select(Patient.identity, PatientName.name).join(Patient, on=of_name).tuples()),
            sorted(Study.select(*own, *counts, Patient.identity).join(Patient, on=of_study).tuples()),
            sorted(Series.select(*of_series, Series.head).join(Study, on=(Series.study_id == Study.id)).tuples()),
        ]


@pytest.mark.parametrize("seed", range(6))
def test_the_first_received_describe_patient_study_and_series_whenever_they_are_added(
    index_url: str, tmp_path: Path, seed: int
) -> None:
    """Several processes receive: what came first may be added last, alone or among others."""
    source = random.Random(seed)
    entries = []
    for number in range(60):
        one = entry(
            f"1.{number}",
            size=number,
            study=b"1.2.%d" % source.randrange(3),
            series=b"1.2.7.%d" % source.randrange(3),
            modality=source.choice([b"XA", b"SR", b"PR"]),
            patient_id=source.choice([b"P1", b"P2"]),
            name=source.choice([b"One", b"Other", b""]),
            birth_date=source.choice([b"19500101", b"19600101"]),
            study_date=b"202601%02d" % source.randrange(1, 29),
            series_description=b"%d" % number,
        )
        entries.append(replace(one, received=f"2026-01-01T00:00:00.{number:06d}Z"))
    in_order, otherwise = (Index(IndexURL.parse(url, tmp_path)) for url in ("sqlite:///in order", index_url))
    in_order.open("a" * 32, complete=True)
    in_order.rebuild(entries)
    expected = _described(in_order)
    in_order.close()
    source.shuffle(entries)
    otherwise.open("a" * 32, complete=True)
    while entries:
        batch = [entries.pop() for _ in range(min(len(entries), source.randrange(1, 8)))]
        assert otherwise.add_together(batch) == [STORED] * len(batch)
    assert _described(otherwise) == expected
    otherwise.close()


def test_rows_whose_time_is_not_known_are_not_taken_over(index: Index) -> None:
    """Those of an index of before: whether what is added is earlier cannot be told."""
    index.add(entry("1.1", series_description=b"kept", birth_date=b"19500101"))
    with index.session():
        for model in (Patient, Series):
            model.update(received="").execute()
    other = entry("1.2", series_description=b"other", birth_date=b"19600101")
    index.add(replace(other, received="2025-01-01T00:00:00.000000Z"))
    with index.session():
        assert list(Patient.select(Patient.birth_date, Patient.received).tuples()) == [("19500101", "")]
        assert list(Series.select(Series.description, Series.received).tuples()) == [("kept", "")]


def test_a_duplicate_of_what_has_just_come_notes_the_later_place(index: Index) -> None:
    first = entry("1.1")
    later = replace(first, place=PurePosixPath("2026/elsewhere/1.1.dcm"))
    assert index.add_together([first, later]) == [STORED, DUPLICATE]
    assert [one.path for one in versions(index, "1.1")] == [later.place]
    assert _study(index)["instance_count"] == 1


def test_many_of_one_series_take_few_statements(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add(entry("1.0"))
    execute, said = index.execute, []

    def count(statement: str, *values: Any) -> Any:
        said.append(statement)
        return execute(statement, *values)

    monkeypatch.setattr(index, "execute", count)
    assert index.add_together([entry(f"1.{number}") for number in range(1, 65)]) == [STORED] * 64
    assert len(said) < 15, said


def test_versions_and_choosing(index: Index) -> None:
    assert index.add(entry(content="a", size=1)) == STORED
    assert index.add(entry(content="b", size=2, series=b"1.2.3.9", modality=b"CT")) == CONFLICT
    assert index.add(entry(content="c", size=4)) == CONFLICT
    assert index.add(entry(content="b", size=2, series=b"1.2.3.9")) == DUPLICATE
    kept = versions(index, "1.2.3.1")
    assert [(one.version, one.size, one.current) for one in kept] == [(1, 1, True), (2, 2, False), (3, 4, False)]
    assert conflicts(index) == ["1.2.3.1"]
    study = _study(index)
    assert (study["series_count"], study["instance_count"], study["byte_count"], study["modalities"]) == (1, 1, 1, "XA")

    index.choose(kept[1].content, "1.2.3.1")
    study = _study(index)
    assert (study["series_count"], study["instance_count"], study["byte_count"], study["modalities"]) == (1, 1, 2, "CT")
    assert [one.size for one in instances(index, Selection(study_uids=["1.2.3"]))] == [2]
    assert index.current("1.2.3.1")[0] == kept[1].content
    with pytest.raises(LookupError):
        index.choose("0" * 16, "1.2.3.1")
    index.choose(kept[0].content, "1.2.3.1")
    assert _study(index) == study | {"byte_count": 1, "modalities": "XA"}


def test_one_study_row_and_every_name(index: Index) -> None:
    index.add(entry("1.1"))
    index.add(entry("1.2", name=b"Other^Person", patient_id=b"P2"))
    index.add(entry("1.3", name=b"Zhang^S."))
    study = _study(index)
    assert study["patients_differ"] == 1
    with index.session():
        assert Patient.select().count() == 2
        assert StudyPerson.select().count() == 2
        assert {"zhang^s.", "other^person"} <= {name for (name,) in PatientName.select(PatientName.name).tuples()}
        shown = Patient.get_by_id(study["patient_id"])
    assert shown.patient_id == "p1"


def test_the_same_patient_is_no_difference(index: Index) -> None:
    index.add(entry("1.1"))
    index.add(entry("1.2", name="ZHANG^SAN=张^三".encode()))
    assert _study(index)["patients_differ"] == 0
    # The same Patient ID of another issuer is another patient.
    index.add(entry("1.3", issuer=b"ELSEWHERE"))
    assert _study(index)["patients_differ"] == 1


def test_an_issuer_is_part_of_who_a_patient_is(index: Index) -> None:
    index.add(entry("1.1", study=b"1.1", issuer=b"A"))
    index.add(entry("1.2", study=b"1.2", issuer=b"B"))
    index.add(entry("1.3", study=b"1.3", patient_id=b"", name=b""))
    index.add(entry("1.4", study=b"1.4", patient_id=b"", name=b""))
    with index.session():
        assert Patient.select().count() == 4


def test_a_cleared_index_is_empty(index: Index) -> None:
    index.add(entry())
    index.clear()
    with index.session():
        assert [model.select().count() for model in (Instance, Folder, Series, StudyPerson, Study, Patient)] == [0] * 6
    assert index.add(entry()) == STORED


# --- Being rebuilt --------------------------------------------------------------------------------------------------


def test_nobody_else_adds_to_an_index_that_is_being_rebuilt(index: Index) -> None:
    assert index.mark(complete=False) is True
    with pytest.raises(IndexIncomplete, match="being rebuilt"):
        index.add(entry())
    assert index.incomplete
    index.clear()
    long = entry("1.9")
    problems = index.rebuild([entry("1.1"), entry("1.2"), entry("1.1"), entry("1.2", content="b"), long])
    assert problems == [""] * 5
    assert index.mark(complete=True) is False
    assert not index.incomplete
    assert _study(index)["instance_count"] == 3
    assert index.add(entry("1.1")) == DUPLICATE
    assert conflicts(index) == ["1.2"]


def test_one_that_cannot_be_indexed_does_not_hold_up_the_others(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_series = Adding._series

    def fail_in_the_middle(self: Adding, entry: Entry, study: Any) -> Any:
        series = new_series(self, entry, study)
        if entry.header.sop_instance_uid == "1.2":
            raise peewee.DataError(1406, "Data too long for column 'x'")
        return series

    monkeypatch.setattr(Adding, "_series", fail_in_the_middle)
    problems = index.rebuild([entry("1.1"), entry("1.2"), entry("1.3")])
    assert [bool(problem) for problem in problems] == [False, True, False]
    assert _study(index)["instance_count"] == 2  # nothing of the second one is left
    with pytest.raises(IndexRefuses, match="Data too long"):
        index.add(entry("1.2"))
    assert _study(index)["instance_count"] == 2


def test_what_is_added_before_and_after_the_flag(index: Index) -> None:
    """Adding and marking exclude each other: what was added in the old state is there before the mark returns."""
    seen = []
    stop = threading.Event()

    def add() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                index.add(entry(f"1.{number}"))
            except IndexIncomplete:
                return
            seen.append(number)

    thread = threading.Thread(target=add)
    thread.start()
    wait_until(lambda: len(seen) >= 20, "some to be added")
    index.mark(complete=False)
    with index.session():
        count = Instance.select().count()
    stop.set()
    thread.join()
    with index.session():
        assert Instance.select().count() == count


# --- The database's moods -------------------------------------------------------------------------------------------


def _failing(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> None:
    add = Adding.add

    def fail(self: Adding, one: Entry) -> str:
        outcome = add(self, one)
        if errors:
            raise errors.pop(0)
        return outcome

    monkeypatch.setattr(Adding, "add", fail)


@pytest.mark.parametrize(
    "error",
    [
        peewee.OperationalError(1213, "Deadlock found when trying to get lock"),
        peewee.OperationalError(1205, "Lock wait timeout exceeded"),
        peewee.OperationalError(2006, "MySQL server has gone away"),
        peewee.OperationalError(2013, "Lost connection to MySQL server during query"),
        peewee.IntegrityError(1062, "Duplicate entry"),
    ],
    ids=lambda error: str(error.args[0]),
)
def test_what_passes_is_tried_again(index: Index, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    _failing(monkeypatch, [error, error])
    assert index.add(entry()) == STORED
    assert _study(index)["instance_count"] == 1


def test_what_does_not_pass_is_said(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, [peewee.OperationalError(1045, "Access denied")])
    with pytest.raises(IndexUnavailable, match="cannot be used: .*Access denied"):
        index.add(entry())
    _failing(monkeypatch, [peewee.IntegrityError(1062, "Duplicate entry")] * 9)
    with pytest.raises(IndexRefuses, match="Duplicate entry"):
        index.add(entry())


@pytest.mark.mariadb
def test_a_connection_that_is_killed_in_a_transaction(
    mariadb: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(IndexURL.parse(mariadb.database(), tmp_path))
    index.open("a" * 32, complete=True)
    add, killed = Adding.add, []

    def kill_once(self: Adding, one: Entry) -> str:
        if not killed:
            killed.append(index.database.execute_sql("SELECT CONNECTION_ID()").fetchone()[0])
            mariadb.execute(f"KILL {killed[0]}")
        return add(self, one)

    monkeypatch.setattr(Adding, "add", kill_once)
    assert index.add(entry()) == STORED
    assert killed
    index.close()


@pytest.mark.mariadb
def test_what_was_left_in_a_transaction_is_rolled_back_and_nothing_else(mariadb: MariaDB, tmp_path: Path) -> None:
    index = Index(IndexURL.parse(mariadb.database(), tmp_path))
    index.open("a" * 32, complete=True)

    def rollbacks() -> int:
        return int(str(mariadb.execute("SHOW GLOBAL STATUS LIKE 'Com_rollback'")[0][1]))

    before = rollbacks()
    assert index.add(entry()) == STORED
    assert rollbacks() == before
    with index.session() as database:
        database.begin()
        index.execute("DELETE FROM instance")
    assert rollbacks() == before + 1
    with index.session():
        assert Instance.select().count() == 1
    index.close()


@pytest.fixture
def other_process(mariadb: MariaDB, tmp_path: Path) -> Iterator[tuple[Index, Any]]:
    """An index, and a connection to its database as another process has it."""
    url = mariadb.database()
    index = Index(IndexURL.parse(url, tmp_path))
    index.open("a" * 32, complete=True)
    user, password = urlsplit(url).username or "", urlsplit(url).password or ""
    with pymysql.connect(unix_socket=str(mariadb.socket), user=user, password=password, database=user) as other:
        yield index, other
    index.close()


@pytest.mark.mariadb
def test_over_a_socket_no_certificates_are_read(
    mariadb: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would take ten times as long as all else of a connection."""

    def read(*_: object, **__: object) -> None:
        pytest.fail("a connection that does not leave the machine needs no TLS")

    index = Index(IndexURL.parse(mariadb.database(), tmp_path))
    monkeypatch.setattr(ssl, "create_default_context", read)
    index.open("a" * 32, complete=True)
    index.close()


@pytest.mark.mariadb
def test_two_processes_lose_nothing_of_a_study_s_lists(other_process: tuple[Index, Any], mariadb: MariaDB) -> None:
    index, other = other_process
    index.add(entry("1.1"))

    def waits() -> bool:
        count = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        return bool(mariadb.execute(count)[0][0])

    with ThreadPoolExecutor(1) as pool:
        with other.cursor() as cursor:  # the other process has not yet committed what it adds
            cursor.execute("UPDATE study SET modalities = 'XA\\\\OT', instance_count = instance_count + 1")
        added = pool.submit(index.add, entry("1.2", modality=b"SR"))
        try:
            wait_until(waits, "the second one to wait for the first")
        finally:
            other.commit()
        assert added.result() == STORED
    study = _study(index)
    assert (study["modalities"], study["instance_count"]) == ("OT\\SR\\XA", 3)


@pytest.mark.mariadb
@pytest.mark.parametrize(("content", "outcome"), [("a", DUPLICATE), ("b", CONFLICT)])
def test_another_process_adds_the_same_between_looking_up_and_inserting(
    mariadb: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, outcome: str
) -> None:
    url = IndexURL.parse(mariadb.database(), tmp_path)
    index, other = Index(url), Index(url)
    for one in (index, other):
        one.open("a" * 32, complete=True)
    add, others = Adding.add, []

    def add_late(self: Adding, one: Entry) -> str:
        if not others:  # all were looked up already
            others.append("")
            with ThreadPoolExecutor(1) as pool:
                others[:] = pool.submit(other.add, entry("1.2", content=content)).result(), "", ""
        return add(self, one)

    monkeypatch.setattr(Adding, "add", add_late)
    assert index.add_together([entry("1.1"), entry("1.2"), entry("1.3")]) == [STORED, outcome, STORED]
    assert others[0] == STORED
    assert _study(index)["instance_count"] == 3
    assert [one.version for one in versions(index, "1.2")] == list(range(1, 2 + (outcome == CONFLICT)))
    index.close()
    other.close()


@pytest.mark.mariadb
def test_no_rebuild_begins_while_another_process_adds(
    other_process: tuple[Index, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, other = other_process
    add, codes = Adding.add, []

    def try_to_begin(self: Adding, one: Entry) -> str:
        with other.cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
            try:
                cursor.execute("UPDATE archive SET value = 'no' WHERE name = 'complete'")
            except pymysql.OperationalError as error:
                codes.append(error.args[0])
        return add(self, one)

    monkeypatch.setattr(Adding, "add", try_to_begin)
    assert index.add(entry()) == STORED
    assert codes == [1205]  # lock wait timeout exceeded


def test_a_damaged_sqlite_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(IndexUnavailable, match="the file is damaged: move it away, the index is rebuilt"):
        Index(IndexURL("sqlite", path=path)).open("a" * 32)


def test_many_threads_leave_no_connection_behind(index: Index) -> None:
    def work(number: int) -> None:
        chance = random.Random(number)
        for turn in range(10):
            if chance.random() < 0.5:
                index.add(entry(f"1.{number}.{turn}"))
            else:
                with index.session(), index.session():
                    Study.select().count()
            if chance.random() < 0.2:
                with pytest.raises(IndexUnavailable), index.session() as database:
                    database.execute_sql("SELECT nonsense FROM nowhere")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(32)))
    assert len(index.database._in_use) == 0
    with index.session():
        count = Instance.select().count()
    assert _study(index)["instance_count"] == count > 50


def test_the_reason_never_shows_the_password(tmp_path: Path) -> None:
    url = IndexURL.parse(f"mysql://user:geheim@/database?unix_socket={tmp_path}/none", tmp_path)
    with pytest.raises(IndexUnavailable) as caught:
        Index(url).open("a" * 32)
    assert "geheim" not in str(caught.value)
    assert urlsplit(str(url)).username == "user"


def test_statements_at_work_are_those_of_mariadb_10_0(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    uses: list[Callable[[], object]] = [
        lambda: index.add(entry()),
        lambda: index.add(entry(content="b")),
        lambda: index.choose(versions(index, "1.2.3.1")[1].content, "1.2.3.1"),
        lambda: conflicts(index),
        lambda: instances(index, Selection(patient_ids=["P1"], study_uids=["1.2.3"])),
        lambda: index.mark(complete=False),
        lambda: index.rebuild([entry("1.5")]),
        index.clear,
    ]
    with caplog.at_level(logging.DEBUG, logger="peewee"):
        for use in uses:
            use()
    statements = [str(record.args or record.msg) for record in caplog.records if record.name == "peewee"]
    assert len(statements) > 30
    assert [text for text in statements if later_syntax(text)] == []


@pytest.mark.mariadb
def test_two_come_upon_the_same_new_database(
    mariadb: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main loop and an association's end, when the database has come back empty: neither may fail."""
    index = Index(IndexURL.parse(mariadb.database(), tmp_path))
    barrier, met, fact = threading.Barrier(2), set[int](), Index._fact

    def meet(self: Index, name: str) -> str:
        found = fact(self, name)
        if name == "archive_id" and threading.get_ident() not in met:
            met.add(threading.get_ident())
            barrier.wait(20)
        return found

    monkeypatch.setattr(Index, "_fact", meet)
    with ThreadPoolExecutor(2) as pool:
        for opening in [pool.submit(index.open, "a" * 32, True) for _ in range(2)]:
            opening.result(30)
    assert not index.incomplete
    index.close()
