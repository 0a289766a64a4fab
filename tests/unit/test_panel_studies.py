"""The studies in the panel, asked over HTTP as the page does, with an archive behind it."""

import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pydicom
import pytest
from pydicom.uid import generate_uid

from angiovault.archive.archive import Archive
from angiovault.archive.exchange.importing import import_paths
from angiovault.archive.exchange.streaming import ZipStream
from angiovault.archive.finding import conditions, listing
from angiovault.archive.finding.selection import Selection, versions
from angiovault.archive.finding.selection import instances as selected
from angiovault.panel.pages import studies
from angiovault.panel.place import Place
from angiovault.panel.web import Asked
from faults import instances
from harness.panel import Client
from harness.waiting import wait_until

STUDY = "1.2.826.0.1.3680043.8.498.2"
INSTANCE = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def settings(tmp_path: Path, index_url: str) -> Path:
    path = tmp_path / "angiovault.ini"
    path.write_text(
        f"[archive]\nstorage = {tmp_path}/archive\nindex = {index_url}\n[log]\nlog-file = {tmp_path}/log\n",
        encoding="utf-8",
    )
    path.chmod(0o600)
    return path


@pytest.fixture
def client(settings: Path) -> Client:
    return Client(Place(settings))


@pytest.fixture
def archive(client: Client) -> Iterator[Archive]:
    """The panel's own archive: a process has one."""
    archive = client.context.archive(client.context.place.config())
    archive.open()
    yield archive
    archive.close()


def bring(archive: Archive, *paths: Path) -> None:
    assert all(item.outcome in ("stored", "conflict") for item in import_paths(archive, paths))


def found(client: Client, query: str = "") -> list[str]:
    return [study["uid"] for study in client.get(f"/api/studies?{quote(query, safe='=&')}")["studies"]]


def make(folder: Path, study: str, name: str, **values: object) -> Path:
    return instances.make(folder, study=study, name=name, **values)  # type: ignore[arg-type]


# ---- finding


def test_studies_are_found_by_parts_of_names_in_any_script(client: Client, archive: Archive, tmp_path: Path) -> None:
    names = {
        "1.1": "ZHANG^San=张^三",
        "1.2": "Müller^Jürgen",
        "1.3": "Wang^Xiaoming=王^小明",
        "1.4": "Hong^Gildong=洪^吉洞=홍^길동",
        "1.5": "",
    }
    for study, name in names.items():
        bring(archive, make(tmp_path, study, name, patient_id=f"ID-{study}", AccessionNumber=f"ACC{study}"))
    expected = {
        "张三": ["1.1"],
        "张 三": ["1.1"],
        "三": ["1.1"],
        "san zhang": ["1.1"],
        "ZHANG, SAN": ["1.1"],
        "muller": [],
        "müll": ["1.2"],
        "jürgen mü": ["1.2"],
        "小明": ["1.3"],
        "王小明": ["1.3"],
        "홍길동": ["1.4"],
        "wang*ming": ["1.3"],
        "^xiao": ["1.3"],
        "an": ["1.3", "1.1"],
        "nobody": [],
        "": ["1.5", "1.4", "1.3", "1.2", "1.1"],
        "%": [],
        "a\\b=c": [],
    }
    for text, uids in expected.items():
        assert found(client, f"name={text}") == uids, text
    assert found(client, "id=ID-1.2") == found(client, "id=id-1.2") == ["1.2"]
    assert found(client, "id=2") == []
    assert found(client, "id=*.2") == ["1.2"]
    assert found(client, "accession=ACC1.3") == ["1.3"]
    assert found(client, "accession=acc&name=zhang") == ["1.1"]


def test_studies_are_found_by_date_modality_and_conflict(client: Client, archive: Archive, tmp_path: Path) -> None:
    for number, (date, modality) in enumerate([("20230101", "XA"), ("20240312", "CT"), ("20240313", "XA")], start=1):
        bring(archive, make(tmp_path, f"1.{number}", "A^B", StudyDate=date, Modality=modality))
    bring(archive, *(make(tmp_path, "1.3", "A^B", uid=INSTANCE, seed=seed) for seed in (1, 2)))
    assert found(client, "from=2024-03-12") == ["1.3", "1.2"]
    assert found(client, "to=2024-03-12") == ["1.2", "1.1"]
    assert found(client, "from=2024-03-12&to=2024-03-12") == ["1.2"]
    assert found(client, "modality=xa") == ["1.3", "1.1"]
    assert found(client, "modality=XA&from=2024-01-01&name=b a") == ["1.3"]
    assert found(client, "conflicts=yes") == ["1.3"]
    listing_common = listing._COMMON
    try:
        listing._COMMON = 1  # type: ignore[misc]  # as with a modality that most studies have
        assert found(client, "modality=xa") == ["1.3", "1.1"]
        for number, each in enumerate(("CT", "XA", "SR")):
            bring(archive, make(tmp_path, "1.4", "A^B", series=f"1.4.{number}", Modality=each))
        assert found(client, "modality=XA") == ["1.4", "1.3", "1.1"]
        assert found(client, "modality=CT") == ["1.4", "1.2"]
        assert found(client, "modality=SR") == ["1.4"]
        assert found(client, "modality=_T") == found(client, "modality=X") == []
    finally:
        listing._COMMON = listing_common  # type: ignore[misc]


def test_pages_follow_one_another(client: Client, archive: Archive, tmp_path: Path) -> None:
    order = [f"1.{number}" for number in range(120, 0, -1)]
    bring(archive, *(make(tmp_path / "sent", study, "A^B") for study in reversed(order)))
    pages, before = [], ""
    while True:
        answer = client.get(f"/api/studies?name=a&before={before}")
        pages.append([study["uid"] for study in answer["studies"]])
        before = str(answer["next"])
        if before == "0":
            break
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [uid for page in pages for uid in page] == order


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("from=2024-13-01", 422),
        ("to=20240101", 422),
        ("modality=X%27A", 422),
        ("before=1%20OR%201", 400),
        ("before=-1", 400),
        ("name=" + "a" * 65, 400),
    ],
)
def test_what_is_no_search_is_refused(client: Client, query: str, status: int) -> None:
    reply = client.ask(f"/api/studies?{query}")
    assert reply.status == status
    if status == 422:
        assert set(reply.json["problems"]) == {query.partition("=")[0]}


# ---- opening


def test_a_study_opens_to_its_series_as_people_read_it(client: Client, archive: Archive, tmp_path: Path) -> None:
    for number in range(3):
        bring(
            archive,
            make(
                tmp_path,
                STUDY,
                "ZHANG^San=张^三",
                series=f"{STUDY}.{number // 2}",
                SeriesNumber=str(9 - number // 2),
                SeriesDescription=f"左冠状动脉 {number // 2}",
                StudyDescription="<script>alert(1)</script>",
            ),
        )
    opened = client.get(f"/api/studies/{STUDY}")
    study = opened["study"]
    assert study["names"] == ["ZHANG San", "张三"]
    assert study["description"] == "<script>alert(1)</script>"
    assert (study["birth_date"], study["sex"], study["date"], study["series"]) == ("19610315", "M", "20240312", 2)
    assert [(series["number"], series["description"], series["instances"]) for series in opened["series"]] == [
        ("8", "左冠状动脉 1", 1),
        ("9", "左冠状动脉 0", 2),
    ]
    assert study["size"] == sum(series["size"] for series in opened["series"])
    assert (opened["conflicts"], opened["files"]) == ({}, 3)


def test_names_are_shown_as_they_are_written() -> None:
    names = {
        "ZHANG^San=张^三": ("ZHANG San", "张三"),
        "Müller^Jürgen^^Dr.": ("Müller Jürgen Dr.",),
        "=山田^太郎=やまだ^たろう": ("山田太郎", "やまだたろう"),
        "Hong^Gildong=洪^吉洞=홍^길동": ("Hong Gildong", "洪吉洞", "홍길동"),
        "^^^": (),
        "": (),
    }
    for text, shown in names.items():
        assert listing.readable_names(text) == shown


def test_versions_are_shown_and_chosen(client: Client, archive: Archive, tmp_path: Path) -> None:
    bring(archive, *(make(tmp_path, STUDY, "A^B", uid=INSTANCE, seed=seed) for seed in (1, 2)))
    conflicts = client.get(f"/api/studies/{STUDY}")["conflicts"]
    assert list(conflicts) == [INSTANCE]
    first, second = conflicts[INSTANCE]
    assert (first["current"], second["current"]) == (True, False)
    assert first["received"] < second["received"]
    assert client.post("/api/conflicts/choose", {"uid": INSTANCE, "content": second["content"]}).status == 200
    current = [version.content for version in versions(archive.ready_index(), INSTANCE) if version.current]
    assert current == [second["content"]]
    for body in ({"uid": INSTANCE, "content": "none"}, {"uid": "1.2", "content": first["content"]}):
        assert client.post("/api/conflicts/choose", body).status == 404


@pytest.mark.parametrize(
    "uid", ["1.2.3", "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "1' OR '1'='1", "a" * 65, "1.2/../.."]
)
def test_a_uid_is_no_path(client: Client, archive: Archive, tmp_path: Path, uid: str) -> None:
    bring(archive, make(tmp_path, STUDY, "A^B"))
    for path in (f"/api/studies/{uid}", f"/api/studies/{uid}/zip", f"/api/studies/{uid}/zip?check=yes"):
        reply = client.ask(path)
        assert (reply.status, reply.error) == (404, "refused.not-found"), path
    assert client.post("/api/trash/add", {"uid": uid, "files": 1, "confirm": "K-1"}).status in (400, 404)
    for path in ("restore", "empty"):
        reply = client.post(f"/api/trash/{path}", {"id": uid, "confirm": "remove"})
        assert reply.status in (400, 404), reply
    assert client.post("/api/trash/empty", {"ids": [uid], "confirm": "remove"}).status == 404


# ---- exporting


def unzipped(reply: Any) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(reply.body)) as file:
        assert file.testzip() is None
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.parametrize("dicomdir", ["no", "yes"])
def test_a_study_as_zip_is_what_was_received(client: Client, archive: Archive, tmp_path: Path, dicomdir: str) -> None:
    paths = [make(tmp_path, STUDY, "张^三", number=number, size=700_000) for number in range(3)]
    bring(archive, *paths)
    reply = client.ask(f"/api/studies/{STUDY}/zip?dicomdir={dicomdir}")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("application/zip")
    disposition = reply.headers["content-disposition"]
    assert disposition.isascii()
    assert disposition.endswith(".zip")
    assert "%E5%BC%A0" in disposition
    members = unzipped(reply)
    if dicomdir == "yes":
        directory = pydicom.dcmread(io.BytesIO(members.pop("DICOMDIR")))
        assert len([item for item in directory.DirectoryRecordSequence if item.DirectoryRecordType == "IMAGE"]) == 3
    kept = {path.read_bytes() for path in archive.store.root.rglob("*.dcm")}
    assert set(members.values()) == kept
    assert len(members) == 3
    assert client.get(f"/api/studies/{STUDY}/zip?check=yes")["name"].startswith("2024-03-12_张^三_K-1")


def test_a_damaged_file_is_left_out_and_named(client: Client, archive: Archive, tmp_path: Path) -> None:
    bring(archive, *(make(tmp_path, STUDY, "A^B", number=number) for number in range(2)))
    good, bad = sorted(archive.store.root.rglob("*.dcm"))
    rotten = bytearray(bad.read_bytes())
    rotten[-1] ^= 1
    bad.write_bytes(rotten)
    members = unzipped(client.ask(f"/api/studies/{STUDY}/zip"))
    text = members.pop("LEFT-OUT.txt").decode()
    assert bad.name in text
    assert good.name not in text
    assert list(members.values()) == [good.read_bytes()]


def test_a_large_file_that_turns_out_damaged_leaves_no_whole_zip(
    client: Client, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("angiovault.archive.exchange.streaming._CHECKED", 0)
    bring(archive, make(tmp_path, STUDY, "A^B"))
    (path,) = archive.store.root.rglob("*.dcm")
    rotten = bytearray(path.read_bytes())
    rotten[-1] ^= 1
    path.write_bytes(rotten)
    wanted = selected(archive.ready_index(), Selection(study_uids=[STUDY]))
    stream = ZipStream(archive, wanted, dicomdir=False)
    data = io.BytesIO()
    with pytest.raises(Exception, match="damaged"):
        data.writelines(stream)
    stream.close()
    assert not zipfile.is_zipfile(data)


def test_a_browser_that_goes_away_ends_the_work(archive: Archive, tmp_path: Path) -> None:
    bring(archive, *(make(tmp_path, STUDY, "A^B", number=number, size=2_000_000) for number in range(3)))
    wanted = selected(archive.ready_index(), Selection(study_uids=[STUDY]))
    before = threading.active_count()
    for _ in range(3):
        stream = ZipStream(archive, wanted, dicomdir=False)
        assert next(stream)[:4] == b"PK\x03\x04"
        stream.close()
        assert list(stream) == []
    wait_until(lambda: threading.active_count() <= before, "the threads to end")


def test_downloads_do_not_take_all_of_the_server(client: Client, archive: Archive, tmp_path: Path) -> None:
    bring(archive, make(tmp_path, STUDY, "A^B", size=2_000_000))
    handler = next(
        route.handler for route in studies.routes(client.context) if route.path == "/api/studies/<uid>/zip"
    )
    running = [handler(Asked("admin"), STUDY) for _ in range(2)]
    with pytest.raises(Exception, match=r"refused\.downloads"):
        handler(Asked("admin", {"check": "yes"}), STUDY)
    assert found(client) == [STUDY]
    running[0].body.close()
    running[0].body.close()
    third = handler(Asked("admin"), STUDY)
    with pytest.raises(Exception, match=r"refused\.downloads"):
        handler(Asked("admin"), STUDY)
    for answer in (running[1], third):
        answer.body.close()
    for _ in range(3):
        assert client.ask(f"/api/studies/{STUDY}/zip", method="HEAD").status == 200


def test_no_search_reads_through_the_studies(
    client: Client, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a million of them a page has to come from an index, or from the last rows."""
    if archive.index.engine != "sqlite":
        pytest.skip("the plan is read in SQLite's words")
    bring(archive, make(tmp_path, STUDY, "A^B"))
    made: list[tuple[str, list[object]]] = []
    select = conditions.select

    def noted(*values: Any) -> Any:
        query = select(*values)
        made.append(query.limit(listing.PAGE).sql())
        return query

    monkeypatch.setattr(conditions, "select", noted)
    for query in ("", "id=K", "accession=A", "name=a&id=K", "from=2024-01-01&to=2024-01-31", "modality=CT"):
        found(client, query)
        with archive.index.session() as database:
            statement, values = made[-1]
            plan = [row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
        assert "OFFSET" not in statement
        assert "COUNT" not in statement
        # Parts of names are looked for in all names. Without a condition the studies are read from the last one on, as
        # far as the page goes.
        assert "SCAN t1" not in plan or query == "", (query, plan)


# ---- deleting


def test_a_study_is_deleted_restored_and_removed(client: Client, archive: Archive, tmp_path: Path) -> None:
    bring(archive, make(tmp_path, STUDY, "ZHANG^San=张^三"))
    client.get("/api/overview")  # which looks into the storage and the index by itself
    client.get("/api/jobs")
    body: dict[str, object] = {"uid": STUDY, "files": 1}
    for wrong in ("", "K", "张", "zhang", "delete", "*"):
        reply = client.post("/api/trash/add", {**body, "confirm": wrong})
        assert (reply.status, reply.error) == (422, "refused.confirmation"), wrong
        assert set(reply.json["problems"]) == {"confirm"}
    for right in ("zhang san", "张三", "k-1"):
        assert found(client) == [STUDY]
        result = client.task("/api/trash/add", {**body, "confirm": right})
        assert result["message"]["key"] == "studies.deleted"
        assert found(client) == []
        answer = client.get("/api/trash")
        (item,) = answer["items"]
        assert (item["names"], item["by"]) == (["ZHANG San", "张三"], "admin")
        assert (item["files"], item["state"]) == (1, "deleted")
        assert answer["free"] > 0
        if right != "k-1":
            result = client.task("/api/trash/restore", {"id": item["id"]})
            assert result["message"]["key"] == "studies.restored"
    for wrong in ({"id": item["id"]}, {"id": item["id"], "confirm": "yes"}, {"ids": [item["id"]], "confirm": ""}):
        assert client.post("/api/trash/empty", wrong).error == "refused.confirmation"
    result = client.task("/api/trash/empty", {"ids": [item["id"]], "confirm": "彻底删除"})
    assert result["message"]["key"] == "trash.emptied"
    assert client.get("/api/trash")["items"] == []
    assert not list(archive.store.root.rglob("*.dcm"))
    assert client.ask(f"/api/studies/{STUDY}").status == 404


def test_a_study_without_name_and_id_is_confirmed_by_a_word(client: Client, archive: Archive, tmp_path: Path) -> None:
    bring(archive, make(tmp_path, STUDY, "", patient_id=""))
    body = {"uid": STUDY, "files": 1}
    assert client.post("/api/trash/add", {**body, "confirm": ""}).status == 422
    assert "message" in client.task("/api/trash/add", {**body, "confirm": "删除"})


def test_what_has_changed_since_it_was_opened_is_not_deleted(client: Client, archive: Archive, tmp_path: Path) -> None:
    bring(archive, make(tmp_path, STUDY, "A^B"), make(tmp_path, STUDY, "A^B"))
    result = client.task("/api/trash/add", {"uid": STUDY, "files": 1, "confirm": "K-1"})
    assert result["failed"]["key"] == "studies.changed"
    for files in (None, "2", True, 2.0):
        assert client.post("/api/trash/add", {"uid": STUDY, "files": files, "confirm": "K-1"}).status == 400
    assert found(client) == [STUDY]


def test_it_says_when_the_archive_is_not_ready(client: Client, archive: Archive, tmp_path: Path) -> None:
    bring(archive, make(tmp_path, STUDY, "A^B"))
    assert found(client) == [STUDY]
    archive.index.mark(complete=False)
    for path in ("/api/studies", f"/api/studies/{STUDY}", f"/api/studies/{STUDY}/zip"):
        reply = client.ask(path)
        assert (reply.status, reply.error) == (409, "refused.archive")
        assert "being rebuilt" in reply.json["error"]["values"]["reason"]
    archive.index.mark(complete=True)
    archive.store.private.rename(archive.store.private.with_name("away"))
    for path in ("/api/studies", "/api/trash"):
        assert client.ask(path).error == "refused.archive"
    assert client.post("/api/trash/empty", {"ids": [generate_uid()], "confirm": "remove"}).status == 409


def test_what_is_done_is_in_the_log_without_names(
    client: Client, archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bring(archive, make(tmp_path, STUDY, "Secret^Person"))
    client.ask(f"/api/studies/{STUDY}/zip?SynoToken=Tok3n")
    client.task("/api/trash/add", {"uid": STUDY, "files": 1, "confirm": "Secret Person"})
    text = caplog.text
    assert f"panel: admin deletes the study {STUDY}" in text
    assert f"panel: admin exports the study {STUDY}" in text
    assert "Secret" not in text
    assert "Tok3n" not in text
