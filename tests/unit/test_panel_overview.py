"""The panel's first page: what the archive holds, what came when, and how the service is."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from angiovault import jsonfile
from angiovault.archive.index import Index
from angiovault.archive.models import Study
from angiovault.config import load
from angiovault.dsm import running
from angiovault.dsm.paths import Nas
from angiovault.indexurl import IndexURL
from angiovault.opening import archive_of, only_one
from angiovault.panel import network
from angiovault.panel.arrivals import DAYS, arrivals
from angiovault.panel.place import Place
from harness.panel import Client


@pytest.fixture
def index(index_url: str) -> Iterator[Index]:
    index = Index(IndexURL.parse(index_url, Path()))
    index.open("a" * 32, complete=True)
    yield index
    index.close()


def arrived(index: Index, when: datetime, number: int, instances: int, size: int) -> None:
    empty = dict.fromkeys(("study_date", "study_time", "accession_number", "study_id", "description"), "")
    with index.session():
        Study.insert(
            uid=f"1.2.{number}",
            patient_id=1,
            person="p",
            patients_differ=0,
            **empty,
            modalities="XA",
            sop_classes="",
            series_count=1,
            instance_count=instances,
            byte_count=size,
            received=when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            head=b"",
        ).execute()


def test_arrivals_are_counted_by_local_days(index: Index) -> None:
    today = date(2026, 11, 22)
    midnight = datetime(2026, 11, 22).astimezone()
    arrived(index, midnight, 1, 10, 1000)
    arrived(index, midnight + timedelta(hours=23, minutes=59), 2, 5, 500)
    arrived(index, midnight - timedelta(seconds=1), 3, 7, 700)
    arrived(index, datetime(2026, 11, 1).astimezone(), 4, 1, 1)
    arrived(index, datetime(2026, 10, 31, 23, 59).astimezone(), 5, 1, 1)
    arrived(index, datetime(2025, 11, 22).astimezone(), 6, 1, 1)
    found = arrivals(index, today)
    assert len(found["days"]) == DAYS
    assert found["today"] == {"studies": 2, "instances": 15, "bytes": 1500}
    assert found["month"] == {"studies": 4, "instances": 23, "bytes": 2201}
    by_day = {day["day"]: day["studies"] for day in found["days"]}
    assert by_day["2026-11-21"] == 1
    assert by_day["2026-10-31"] == 1
    assert sum(by_day.values()) == 5


def test_on_the_last_day_of_a_long_month_the_first_is_counted(index: Index) -> None:
    arrived(index, datetime(2026, 10, 1, 0, 5).astimezone(), 1, 1, 1)
    assert arrivals(index, date(2026, 10, 31))["month"]["studies"] == 1


def test_nothing_arrived(index: Index) -> None:
    found = arrivals(index)
    assert found["today"] == found["month"] == {"studies": 0, "instances": 0, "bytes": 0}


def test_arrivals_are_found_by_the_index_of_their_column(tmp_path: Path) -> None:
    index = Index(IndexURL("sqlite", path=tmp_path / "index.sqlite"))
    index.open("a" * 32, complete=True)
    with index.session() as database:
        plan = database.execute_sql("EXPLAIN QUERY PLAN SELECT COUNT(*) FROM study WHERE received >= '2026'").fetchall()
    assert "study_received" in str(plan)
    index.close()


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "angiovault.ini"
    text = f"[dicom]\nbind = 127.0.0.1\n[archive]\nstorage = {tmp_path}/archive\n[log]\nhealth-file = health.json\n"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_stopped_service_is_told_from_a_running_one(settings: Path) -> None:
    client = Client(Place(settings))
    assert client.get("/api/overview")["state"] == "stopped"
    archive = archive_of(load(settings))
    archive.open(create=True)
    try:
        with only_one(archive):
            client = Client(Place(settings))
            found = client.get("/api/overview")
            assert found["state"] == "well"
            assert found["archive"]["counts"]["studies"] == 0
            assert found["dicom"]["addresses"][0]["address"] == "127.0.0.1"
    finally:
        archive.close()
    assert Client(Place(settings)).get("/api/overview")["state"] == "stopped"


def test_what_the_service_says_of_itself_is_shown(settings: Path) -> None:
    dicom = {"ae_title": "<b>X</b>", "bind": "0.0.0.0", "port": 104, "tls_port": 2762}
    said = {"pid": os.getpid(), "since": "2026-11-22T08:00:00Z", **dicom, "problems": {"disk": "nearly full"}}
    jsonfile.write(settings.with_name("health.json"), said)
    found = Client(Place(settings)).get("/api/overview")
    assert found["dicom"]["ae_title"] == "<b>X</b>"
    assert (found["dicom"]["port"], found["dicom"]["tls_port"]) == (104, 2762)
    assert found["problems"] == [{"kind": "disk", "text": "nearly full"}]
    assert found["since"] == "2026-11-22T08:00:00Z"


@pytest.mark.parametrize("state", ["needs-set-up", "share-missing", "configuration", "port", "failing", "starting"])
def test_on_a_nas_the_state_is_the_supervisors(tmp_path: Path, state: str) -> None:
    nas = Nas(tmp_path, "")
    for folder in (nas.etc, nas.package / "var"):
        folder.mkdir(parents=True)
    running.write_pid(nas)
    said = {"pid": os.getpid(), "state": state, "message": "what to do", "message_zh": "怎么办", "restarts": 2}
    jsonfile.write(nas.state, said)
    found = Client(Place(nas.settings, nas)).get("/api/overview")
    assert (found["state"], found["restarts"]) == (state, 2)
    assert found["message"] == (None if state == "needs-set-up" else {"en": "what to do", "zh": "怎么办"})


def test_on_a_nas_without_a_supervisor_it_is_stopped(tmp_path: Path) -> None:
    nas = Nas(tmp_path, "")
    nas.etc.mkdir(parents=True)
    assert Client(Place(nas.settings, nas)).get("/api/overview")["state"] == "stopped"


def test_addresses_are_those_of_the_machine() -> None:
    found = network.addresses()
    assert {"interface": "lo", "address": "127.0.0.1"} in found
    assert all(item["interface"] != "lo" for item in network.reachable("0.0.0.0"))
    assert network.reachable("127.0.0.1") == [{"interface": "lo", "address": "127.0.0.1"}]
