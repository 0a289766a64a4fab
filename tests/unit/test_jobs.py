"""Jobs of the panel: processes of their own that can be cancelled, killed and begun again."""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from angiovault.archive.store import Store
from angiovault.config import load
from angiovault.jobs import book
from angiovault.jobs.book import Book, Job, NoSuchJob
from angiovault.jobs.line import has_room
from angiovault.opening import open_archive
from angiovault.panel.place import Place
from angiovault.processes import identity, pid_of
from harness import jobs
from harness.jobs import files, look, start, stored, wait_for, wait_for_progress
from harness.panel import Client
from harness.processes import Background
from harness.waiting import wait_until

MANY = 12_000


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "angiovault.ini"
    path.write_text(f"[archive]\nstorage = {tmp_path}/archive\n", encoding="utf-8")
    open_archive(load(path), create=True).close()
    return path


@pytest.fixture
def client(settings: Path) -> Iterator[Client]:
    client = Client(Place(settings))
    yield client
    client.context.jobs.close(10)


def book_of(settings: Path) -> Book:
    store = Store(load(settings).storage)
    store.open(store.read_marker())
    return Book(store)


def process_of(settings: Path, number: str) -> int:
    """Return the process that does a job, once it does."""

    def looked() -> int:
        job = book_of(settings).read(number)
        return pid_of(job.process) if job.state == book.RUNNING else 0

    return wait_until(looked, "the job's process")


def test_an_import_that_is_cancelled_midway_goes_on_where_it_was(
    client: Client, settings: Path, tmp_path: Path
) -> None:
    uids = files(tmp_path / "disc", MANY)
    number = start(client, "import", path=str(tmp_path / "disc"), title="the disc")
    job = wait_for_progress(client, number)
    assert (job["state"], job["total_items"], job["title"], job["user"]) == ("running", MANY, "the disc", "admin")
    assert client.get("/api/overview")["jobs"][0]["id"] == number
    pid = process_of(settings, number)
    assert os.getpriority(os.PRIO_PROCESS, pid) > 0
    assert client.post(f"/api/jobs/{number}/cancel", {}).status == 200
    job = wait_for(client, number, "cancelled", seconds=5)
    assert 0 < job["items"] < MANY
    assert job["counts"]["stored"] == job["items"]
    assert len(stored(settings)) < MANY
    assert client.post(f"/api/jobs/{number}/cancel", {}).error == "refused.job-state"

    assert client.post(f"/api/jobs/{number}/again", {}).status == 200
    job = wait_for(client, number, "done")
    assert job["items"] == job["total_items"] == MANY
    assert job["counts"]["done before"] > 0
    assert job["counts"]["done before"] + job["counts"]["stored"] + job["counts"].get("duplicate", 0) == MANY
    assert stored(settings) == sorted(uids)
    assert client.post(f"/api/jobs/{number}/again", {}).error == "refused.job-state"


def test_an_import_whose_process_is_killed_is_interrupted(client: Client, settings: Path, tmp_path: Path) -> None:
    uids = files(tmp_path / "disc", MANY)
    number = start(client, "import", path=str(tmp_path / "disc"))
    wait_for_progress(client, number)
    os.kill(process_of(settings, number), signal.SIGKILL)
    job = wait_for(client, number, "interrupted")
    assert job["goes_on"]
    assert client.post(f"/api/jobs/{number}/again", {}).status == 200
    wait_for(client, number, "done")
    assert stored(settings) == sorted(uids)
    assert client.post(f"/api/jobs/{number}/remove", {}).status == 200
    assert client.get("/api/jobs")["jobs"] == []
    assert client.ask(f"/api/jobs/{number}").status == 404


def test_taking_over_removes_what_is_safe_and_what_fails_is_said(
    client: Client, settings: Path, tmp_path: Path
) -> None:
    uids = files(tmp_path / "disc", 3)
    whole = (tmp_path / "disc/00001.dcm").read_bytes()
    (tmp_path / "disc/00001.dcm").write_bytes(whole[:200])
    number = start(client, "import", path=str(tmp_path / "disc"), move=True)
    job = wait_for(client, number, "partly")
    assert (job["counts"], job["problem_count"]) == ({"stored": 2, "failed": 1}, 1)
    assert "00001.dcm" in job["problems"][0]
    assert [path.name for path in (tmp_path / "disc").iterdir()] == ["00001.dcm"]
    (tmp_path / "disc/00001.dcm").write_bytes(whole)
    assert client.post(f"/api/jobs/{number}/again", {}).status == 200
    assert wait_for(client, number, "done")["problems"] == []
    assert stored(settings) == sorted(uids)
    assert list((tmp_path / "disc").iterdir()) == []


def test_one_import_or_verification_at_a_time_and_the_next_begins_by_itself(
    client: Client, settings: Path, tmp_path: Path
) -> None:
    files(tmp_path / "disc", MANY)
    files(tmp_path / "more", 2, "1.2.4")
    first = start(client, "import", path=str(tmp_path / "disc"))
    second = start(client, "import", path=str(tmp_path / "more"))
    third = start(client, "verify")
    fourth = start(client, "reindex")
    wait_for_progress(client, first)
    assert [job["state"] for job in client.get("/api/jobs")["jobs"]] == ["waiting", "waiting", "waiting", "running"]
    assert client.post(f"/api/jobs/{second}/remove", {}).error == "refused.job-state"
    # Who waits can be cancelled as well.
    assert client.post(f"/api/jobs/{second}/cancel", {}).status == 200
    assert look(client, second)["state"] == "cancelled"
    wait_for(client, first, "done")
    ended = wait_for(client, third, "done")
    assert ended["counts"] == {"sound": MANY}
    assert ended["total_items"] == MANY
    assert wait_for(client, fourth, "done")["counts"] == {"indexed": MANY}
    assert len(stored(settings)) == MANY
    assert look(client, second)["state"] == "cancelled"
    wait_until(lambda: not client.context.jobs.busy, "the line to be empty")


def test_a_verification_finds_what_is_damaged_or_missing(client: Client, settings: Path, tmp_path: Path) -> None:
    files(tmp_path / "disc", 5)
    wait_for(client, start(client, "import", path=str(tmp_path / "disc")), "done")
    archive = tmp_path / "archive"
    damaged, missing = sorted(archive.rglob("*.dcm"))[:2]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    missing.unlink()
    number = start(client, "verify")
    job = wait_for(client, number, "partly")
    assert job["counts"] == {"sound": 3, "damaged": 1, "missing": 1}
    assert any(damaged.name in text for text in job["problems"])
    assert any(missing.name in text for text in job["problems"])


def test_a_verification_goes_on_where_it_was(client: Client, settings: Path, tmp_path: Path) -> None:
    files(tmp_path / "disc", 60, size=1 << 20)
    wait_for(client, start(client, "import", path=str(tmp_path / "disc")), "done")
    number = start(client, "verify")
    os.kill(process_of(settings, number), signal.SIGTERM)
    job = wait_for(client, number, "interrupted")
    jobs_book = book_of(settings)
    places = [str(place) for place in Store(load(settings).storage).instance_files()]
    # As if it had been cut off after the fortieth file.
    kept = jobs_book.read(number)
    kept.checkpoint, kept.items, kept.counts = places[39], 40, {"sound": 39, "damaged": 1}
    jobs_book.write(kept)
    assert client.post(f"/api/jobs/{number}/again", {}).status == 200
    job = wait_for(client, number, "partly")
    assert (job["items"], job["counts"]) == (60, {"sound": 59, "damaged": 1})
    # The next time, and when that file is gone, it begins anew.
    for gone in (False, True):
        kept = jobs_book.read(number)
        assert kept.checkpoint == ""
        if gone:
            kept.checkpoint, kept.items = "gone.dcm", 40
            jobs_book.write(kept)
        assert client.post(f"/api/jobs/{number}/again", {}).status == (200 if kept.state != "done" else 409)
        assert wait_for(client, number, "done")["counts"] == {"sound": 60}
        kept = jobs_book.read(number)
        kept.state = book.FAILED
        jobs_book.write(kept)


def test_when_the_panel_ends_its_jobs_are_interrupted(client: Client, settings: Path, tmp_path: Path) -> None:
    files(tmp_path / "disc", MANY)
    running = start(client, "import", path=str(tmp_path / "disc"))
    waiting = start(client, "verify")
    wait_for_progress(client, running)
    pid = process_of(settings, running)
    client.context.jobs.close(10)
    assert not Path(f"/proc/{pid}").exists()
    assert look(client, running)["state"] == "interrupted"
    # It waits for a process that still runs: this one. Another panel does not take it for its own.
    assert look(client, waiting)["state"] == "waiting"
    jobs_book = book_of(settings)
    job = jobs_book.read(waiting)
    job.process = identity(os.getpid()).replace(" ", " 9", 1)
    jobs_book.write(job)
    assert look(client, waiting)["state"] == "interrupted"
    again = Client(Place(settings))
    try:
        assert again.post(f"/api/jobs/{waiting}/again", {}).status == 200
        wait_for(again, waiting, "done")
    finally:
        again.context.jobs.close(10)


def test_a_process_does_no_job_that_is_not_written_down_as_its_own(client: Client, settings: Path) -> None:
    number = book_of(settings).make(book.VERIFY, {}, "", "admin", identity(os.getpid())).id
    background = Background(
        [sys.executable, "-m", "angiovault.jobs.process", str(os.getpid()), number, str(settings)],
        log=settings.with_name("job.log"),
    )
    assert background.process.wait(30) == 1
    assert "not for this process" in background.report()
    assert book_of(settings).read(number).state == "waiting"


def test_only_the_latest_ended_jobs_are_kept(client: Client, settings: Path, tmp_path: Path) -> None:
    jobs_book = book_of(settings)
    for _ in range(105):
        job = jobs_book.make(book.VERIFY, {}, "", "admin", "")
        job.state = book.DONE
        jobs_book.write(job)
        jobs_book.sent_file(job.id).touch()
    number = start(client, "verify")
    wait_for(client, number, "done")
    assert len(client.get("/api/jobs")["jobs"]) == 101
    assert len(list((tmp_path / "archive/.angiovault/jobs").glob("*.sent"))) == 100


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"id": "x"}', "\0"])
def test_a_file_that_is_no_job_is_passed_over(client: Client, settings: Path, damage: str) -> None:
    jobs_book = book_of(settings)
    job = jobs_book.make(book.VERIFY, {}, "", "admin", "")
    path = load(settings).storage / f".angiovault/jobs/{job.id}.json"
    text = json.loads(path.read_text())
    path.write_text(damage)
    assert client.get("/api/jobs")["jobs"] == []
    path.write_text(json.dumps({**text, "kind": "harm"}))
    with pytest.raises(NoSuchJob):
        jobs_book.read(job.id)


@pytest.mark.parametrize(
    "number",
    ["..", "../archive", "..%2farchive", "archive", "20261122T182209000000-0123456789AB", "x" * 300, "１", "lock"],
)
@pytest.mark.parametrize("action", ["", "/cancel", "/again", "/remove"])
def test_an_id_leads_to_no_other_file(client: Client, tmp_path: Path, number: str, action: str) -> None:
    marker = tmp_path / "archive/.angiovault/archive.json"
    before = marker.read_bytes()
    path = f"/api/jobs/{number}{action}"
    reply = client.post(path, {}) if action else client.ask(path)
    assert reply.status in (404, 405)
    assert marker.read_bytes() == before
    with pytest.raises(NoSuchJob):
        client.context.jobs.book().read(number)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 422),
        ({"kind": "export"}, 422),
        ({"kind": 5}, 400),
        ({"kind": "verify", "title": "x" * 300}, 400),
        ({"kind": "import"}, 422),
        ({"kind": "import", "path": "/etc"}, 422),
        ({"kind": "import", "path": "{tmp}/../../etc"}, 422),
        ({"kind": "import", "path": "{tmp}/none"}, 422),
        ({"kind": "import", "path": "{tmp}/link"}, 422),
        ({"kind": "import", "path": "{tmp}/archive"}, 422),
        ({"kind": "import", "path": "{tmp}/archive/.angiovault"}, 422),
        ({"kind": "import", "path": "{tmp}\0"}, 422),
        ({"kind": "import", "path": ["{tmp}"]}, 400),
        ({"kind": "import", "path": "{tmp}/disc", "move": "yes"}, 400),
        ({"kind": "send", "device": "nobody", "uids": ["1.2.3"]}, 422),
        ({"kind": "send", "device": "mute", "uids": ["1.2.3"]}, 422),
        ({"kind": "send", "device": "console", "uids": []}, 422),
        ({"kind": "send", "device": "console", "uids": "1.2.3"}, 422),
        ({"kind": "send", "device": "console", "uids": ["1.2.3", "'; DROP TABLE"]}, 422),
        ({"kind": "send", "device": "console", "uids": ["1.2.3", 5]}, 422),
        ({"kind": "send", "device": "console"}, 422),
    ],
)
def test_what_cannot_be_done_is_refused(
    client: Client, settings: Path, tmp_path: Path, asked: dict[str, Any], status: int
) -> None:
    (tmp_path / "disc").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    more = "[device console]\nae-title = CONSOLE\nhost = 127.0.0.1\nport = 104\n[device mute]\nae-title = MUTE\n"
    settings.write_text(settings.read_text() + more + "host = 10.0.0.0/8\n", encoding="utf-8")
    if isinstance(asked.get("path"), str):
        asked = {**asked, "path": asked["path"].replace("{tmp}", str(tmp_path))}
    reply = client.post("/api/jobs", asked)
    assert reply.status == status, reply
    assert client.get("/api/jobs")["jobs"] == []


def test_nothing_is_started_from_another_site_or_without_the_token(client: Client) -> None:
    body = json.dumps({"kind": "verify"}).encode()
    assert client.ask("/api/jobs", method="POST", body=body).error == "refused.csrf"
    assert client.post("/api/jobs", {"kind": "verify"}, **{"Sec-Fetch-Site": "cross-site"}).status == 403
    number = client.context.jobs.book().make(book.VERIFY, {}, "", "admin", "").id
    for action in ("cancel", "again", "remove"):
        assert client.ask(f"/api/jobs/{number}/{action}", method="POST", body=b"{}").error == "refused.csrf"
        assert client.ask(f"/api/jobs/{number}/{action}").status == 405


def test_without_the_storage_there_are_no_jobs(client: Client, tmp_path: Path) -> None:
    (tmp_path / "archive").rename(tmp_path / "away")
    found = client.get("/api/jobs")
    assert found["jobs"] == []
    assert "marker" in found["away"]
    assert client.post("/api/jobs", {"kind": "verify"}).error == "refused.no-archive"
    assert not (tmp_path / "archive").exists()
    assert client.get("/api/overview")["jobs"] == []


def job_of(kind: str, device: str = "") -> Job:
    return Job("", kind, {"device": device} if device else {}, "", "")


@pytest.mark.parametrize(
    ("job", "running", "expected"),
    [
        (job_of("import"), [], True),
        (job_of("import"), [job_of("verify")], False),
        (job_of("verify"), [job_of("send", "a")], True),
        (job_of("reindex"), [job_of("import")], False),
        (job_of("send", "a"), [job_of("import")], True),
        (job_of("send", "a"), [job_of("reindex")], False),
        (job_of("send", "a"), [job_of("send", "a")], False),
        (job_of("send", "a"), [job_of("send", "b")], True),
        (job_of("send", "a"), [job_of("send", "b"), job_of("send", "c")], False),
    ],
)
def test_what_may_run_beside_what(job: Job, running: list[Job], expected: bool) -> None:
    assert has_room(job, running) is expected


def test_names_of_files_that_are_no_text_do_no_harm(client: Client, settings: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"disc-\xff")
    files(folder, 1)
    (folder / os.fsdecode(b"bad-\xfe\n")).write_bytes(b"\0" * 128 + b"DICM")
    number = start(client, "import", path=str(folder), title="\ud800")
    job = wait_for(client, number, "partly")
    assert job["counts"] == {"stored": 1, "failed": 1}
    assert "\\udcfe\\x0a" in job["problems"][0]


def test_a_job_of_an_archive_that_cannot_be_asked_says_why(client: Client, settings: Path, tmp_path: Path) -> None:
    lock = tmp_path / "archive/.angiovault/reindex.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        number = start(client, "reindex")
        job = wait_for(client, number, "failed")
    assert "being rebuilt already" in job["reason"]
    assert client.post(f"/api/jobs/{number}/again", {}).status == 200
    wait_for(client, number, "done")
    assert jobs.stored(settings) == []


@pytest.mark.parametrize("number", ["..", "..%2f1", "1%2f..", "-1", "1e3", "x", "１", "9" * 19, "1%00", "1;drop"])
def test_a_commitment_is_named_by_a_number_only(client: Client, number: str) -> None:
    for action in ("retry", "cancel"):
        assert client.post(f"/api/commitments/{number}/{action}", {}).status == 404
    assert client.post("/api/commitments/123456/retry", {}).error == "refused.commitment-state"


def test_a_folder_that_has_become_a_link_is_not_imported(client: Client, settings: Path, tmp_path: Path) -> None:
    """While a job waits, or before it goes on, whoever can write in the share could lead it elsewhere."""
    files(tmp_path / "disc", 1)
    number = start(client, "import", path=str(tmp_path / "disc"))
    wait_for(client, number, "done")
    (broken,) = (tmp_path / "disc").iterdir()
    broken.write_bytes(b"\0" * 128 + b"DICM")
    number = start(client, "import", path=str(tmp_path / "disc"))
    wait_for(client, number, "failed")
    files(tmp_path / "elsewhere", 1, "1.2.9")
    (tmp_path / "disc").rename(tmp_path / "old")
    (tmp_path / "disc").symlink_to(tmp_path / "elsewhere")
    assert client.post(f"/api/jobs/{number}/again", {}).status == 200
    assert "is not the folder any more" in wait_for(client, number, "failed")["reason"]
    assert stored(settings, "1.2.9", in_order=False) == []
