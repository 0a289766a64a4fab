"""What is wrong, said in a file for other programs; and that saying nothing new costs nothing."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from angiovault import health as health_module
from angiovault.archive import commitments
from angiovault.archive.archive import Archive
from angiovault.config import Config
from angiovault.health import Health
from angiovault.indexurl import IndexURL
from angiovault.reloading import Loading


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """An open archive and its health."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.file = folder / "health.json"
        self.waiting = False
        self.archive = Archive(folder / "archive", IndexURL("sqlite", path=folder / "index"))
        self.archive.open()
        config = Config(ae_title="HYBRID-OR", bind="127.0.0.1")
        self.health = Health(self.file, self.archive, lambda: self.waiting, self.clock)
        self.health.tell(config, 104, Loading(1, "abc"))

    def look(self, seconds: float = 5) -> dict[str, str]:
        """Look again after some time and return the problems in the file."""
        self.clock.now += seconds
        self.health.look()
        said = json.loads(self.file.read_text(encoding="utf-8"))
        assert said["problems"] == self.health.problems
        return dict(said["problems"])


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_the_facts(watched: Watched) -> None:
    assert watched.look() == {}
    said = json.loads(watched.file.read_text(encoding="utf-8"))
    assert said.pop("since").endswith("Z")
    assert said == {
        "pid": os.getpid(),
        "ae_title": "HYBRID-OR",
        "bind": "127.0.0.1",
        "port": 104,
        "tls_port": 0,
        "settings": {"serial": 1, "fingerprint": "abc", "problem": {}, "restart": []},
        "problems": {},
    }
    assert watched.file.stat().st_mode & 0o777 == 0o600
    watched.health.close()
    assert not watched.file.exists()
    watched.health.close()


def test_it_is_written_only_when_something_has_changed(watched: Watched) -> None:
    watched.look()
    before = watched.file.stat()
    for _ in range(100):
        watched.look(600)
    after = watched.file.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [path.name for path in watched.file.parent.glob(".health*")] == []


def test_a_storage_that_goes_and_comes(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    assert watched.look() == {}
    root = watched.archive.store.root
    root.rename(root.with_name("away"))
    assert list(watched.look()) == ["storage"]
    assert "mounted" in watched.health.problems["storage"]
    assert caplog.text.count("health: storage") == 1
    watched.look()
    assert caplog.text.count("health: storage") == 1
    root.with_name("away").rename(root)
    assert watched.look() == {}


def test_a_storage_that_never_came(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", IndexURL("sqlite", path=tmp_path / "index"))
    health = Health(tmp_path / "health.json", archive, lambda: True)
    health.look()
    assert list(health.problems) == ["storage"]


@pytest.mark.parametrize(
    ("free", "total", "expected"),
    [
        (0, 10 << 40, "is full"),
        (-5, 10 << 40, "is full"),
        (1, 10 << 40, "nearly full"),
        ((50 << 30) - 1, 10 << 40, "nearly full: 54 of 10995 GB"),
        (50 << 30, 10 << 40, ""),  # half a per cent, but days of work
        ((50 << 30) + 1, 200 << 40, ""),
        (4 << 30, 100 << 30, "nearly full: 4 of 107 GB"),
        (5 << 30, 100 << 30, ""),
    ],
)
def test_a_volume_that_fills(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, free: int, total: int, expected: str
) -> None:
    monkeypatch.setattr(watched.archive.store, "free_bytes", lambda: (free, total))
    problems = watched.look()
    assert list(problems) == (["disk"] if expected else [])
    assert expected in problems.get("disk", "")
    monkeypatch.setattr(watched.archive.store, "free_bytes", lambda: (1 << 40, 2 << 40))
    assert watched.look() == {}


def test_a_volume_that_is_read_only(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(watched.archive.store.root)

    class ReadOnly:
        f_flag = found.f_flag | os.ST_RDONLY

    monkeypatch.setattr(health_module.os, "statvfs", lambda _path: ReadOnly)
    monkeypatch.setattr(watched.archive.store, "free_bytes", lambda: (1 << 40, 2 << 40))
    assert "read-only" in watched.look()["storage"]


def test_results_that_nobody_takes(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    index = watched.archive.open_index()
    commitments.accept(index, "1.2.3", "ZEEGO", "ANGIOVAULT", "10.0.0.1", [("1.2", "1.2.4")])
    request = commitments.next_due(index)
    assert request
    commitments.postpone(index, request, "nobody answers", 7)
    watched.waiting = True
    assert watched.look() == {}  # it is young
    tomorrow = time.time() + 86401
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert watched.look() == {}  # looked at less than an hour ago
    problem = watched.look(3600)["commitment"]
    assert "ZEEGO@10.0.0.1: nobody answers" in problem
    assert problem.startswith("1 storage commitment")
    assert list(watched.look()) == ["commitment"]
    commitments.delivered(index, request)
    watched.waiting = False  # as the worker says then
    assert watched.look() == {}


def test_the_queue_is_not_read_while_nothing_waits(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(commitments, "late", fail)
    for _ in range(10):
        watched.look(3600)


def test_a_file_that_cannot_be_written_is_logged_once(
    watched: Watched, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "gone"
    health = Health(folder / "health.json", watched.archive, lambda: False, watched.clock)
    for _ in range(3):
        watched.clock.now += 5
        health.look()
    assert caplog.text.count("cannot be written") == 1
    folder.mkdir()
    health.look()
    assert (folder / "health.json").exists()
    shutil.rmtree(folder)


def test_an_embedded_index_is_not_asked(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Callable[[], None]:
        raise AssertionError

    monkeypatch.setattr(watched.archive, "open_index", fail)
    for _ in range(10):
        watched.look(60)


def test_a_database_that_is_not_set_up_is_not_tried(tmp_path: Path) -> None:
    """Each try would be a line in the log of the server, which stands for it here: nobody may connect."""
    with socket.socket(socket.AF_UNIX) as server:
        path = tmp_path / "s"
        server.bind(str(path))
        server.listen()
        server.setblocking(False)
        archive = Archive(tmp_path / "archive", IndexURL("mysql", user="u", database="d", unix_socket=str(path)))
        archive.store.create()
        archive.open()
        clock = Clock()
        health = Health(tmp_path / "health.json", archive, lambda: True, clock)
        for _ in range(3):
            clock.now += 60
            health.look()
        assert "not set up yet: its URL has no password" in health.problems["database"]
        with pytest.raises(BlockingIOError):
            server.accept()
