"""The panel on any Linux, beside a real service that nobody supervises: asked to reload, never ended by that."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from angiovault.config import load
from angiovault.panel.place import Place
from harness.dcmtk import Peer, StoreSCP, echoscu
from harness.panel import Client
from harness.processes import free_port
from harness.service import Service
from harness.upper_layer import RawPeer, data_set
from harness.waiting import wait_until

_HOLDS_THE_LOCK = """
import fcntl, os, pathlib, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, b"%d\\n" % os.getpid())
print("held", flush=True)
sys.stdin.read()
"""


class Beside:
    """A service whose settings are all in its file, and a panel for that file."""

    def __init__(self, start: Callable[..., Service], folder: Path, log: str = "") -> None:
        self.port = free_port()
        text = f"[dicom]\nbind = 127.0.0.1\nport = {self.port}\n[archive]\nstorage = {folder / 'archive'}\n[log]\n{log}"
        self.service = start(config=text, flags=False)
        assert self.service.config_file is not None
        self.file = self.service.config_file
        self.client = Client(Place(self.file))

    def save(self, **values: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in values.items()}
        return self.client.task("/api/service", {"values": named})

    def outcome(self, **values: str) -> tuple[str, str]:
        result = self.save(**values)
        return result["outcome"], result["message"]["key"]

    def peer(self, ae_title: str = "ANGIOVAULT") -> Peer:
        return Peer("127.0.0.1", load(self.file).port, ae_title)


@pytest.fixture
def watched(service: Callable[..., Service], tmp_path: Path) -> Beside:
    health = tmp_path / "health.json"
    beside = Beside(service, tmp_path, f"health-file = {health}\n")
    wait_until(health.exists, "the health file")
    return beside


def test_a_running_service_takes_the_settings_up(watched: Beside) -> None:
    uid = generate_uid()
    with RawPeer(watched.peer()) as sender:
        sender.associate()
        assert watched.outcome(port=str(free_port()), ae_title="CATHLAB") == ("applied", "apply.reopened")
        assert watched.outcome(unknown_devices="echo") == ("applied", "apply.at-once")
        assert sender.store(uid, data_set(uid)) == 0  # by the rules that it began with
        sender.release()
    echoscu(watched.peer("CATHLAB")).ok()
    assert watched.client.get("/api/overview")["dicom"]["port"] == load(watched.file).port


def test_what_the_service_refuses_is_taken_back(watched: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    before = watched.file.read_text(encoding="utf-8")
    monkeypatch.setattr("angiovault.panel.network.port_problem", lambda *_: None)
    with StoreSCP(watched.service.folder / "other") as other:
        result = watched.save(port=str(other.peer.port), ae_title="CATHLAB")
    assert (result["outcome"], result["message"]["key"]) == ("undone", "apply.kept")
    assert result["reason"]["key"] == "wrong.port-used"
    assert watched.file.read_text(encoding="utf-8").split() == before.split()
    assert watched.client.get("/api/overview")["problems"] == []
    echoscu(watched.peer()).ok()


def test_what_needs_a_new_start_is_said(watched: Beside, tmp_path: Path) -> None:
    port = load(watched.file).port
    values = {"storage": str(tmp_path / "elsewhere"), "port": str(free_port())}
    shown = watched.client.get("/api/service")
    assert "storage" in shown["restarted_for"]
    assert "port" in shown["reopened_for"]
    (tmp_path / "elsewhere").mkdir()
    assert watched.outcome(**values) == ("restart", "apply.restart")
    echoscu(Peer("127.0.0.1", port, "ANGIOVAULT")).ok()


def test_flags_of_the_service_win_over_what_is_saved(service: Callable[..., Service], tmp_path: Path) -> None:
    health = tmp_path / "health.json"
    text = f"[archive]\nstorage = {tmp_path / 'archive'}\n[log]\nhealth-file = {health}\n"
    started = service(config=text)
    wait_until(health.exists, "the health file")
    assert started.config_file is not None
    result = Client(Place(started.config_file)).task("/api/service", {"values": {"port": str(free_port())}})
    assert (result["outcome"], result["message"]["key"]) == ("applied", "apply.options")
    assert json.loads(health.read_text())["port"] == started.peer.port


def test_a_service_that_writes_no_health_file_is_told(service: Callable[..., Service], tmp_path: Path) -> None:
    beside = Beside(service, tmp_path)
    assert beside.outcome(port=str(free_port())) == ("saved", "apply.told")
    wait_until(lambda: echoscu(beside.peer()).returncode == 0, "the new port")
    assert beside.service.pid == int((tmp_path / "archive/.angiovault/lock").read_text())
    beside.service.stop()
    assert beside.outcome(ae_title="CATHLAB") == ("restart", "apply.restart")
    beside.service.start()


def test_a_process_that_does_not_take_the_signal_is_left_alone(tmp_path: Path) -> None:
    """An older version, say: SIGHUP would end it."""
    settings = tmp_path / "angiovault.ini"
    settings.write_text(f"[archive]\nstorage = {tmp_path / 'archive'}\n", encoding="utf-8")
    lock = tmp_path / "archive/.angiovault/lock"
    lock.parent.mkdir(parents=True)
    command = [sys.executable, "-c", _HOLDS_THE_LOCK, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        place = Place(settings)
        assert place.service(load(settings)) == other.pid
        result = Client(place).task("/api/service", {"values": {"ae-title": "CATHLAB"}})
        assert (result["outcome"], result["message"]["key"]) == ("restart", "apply.restart")
        assert other.poll() is None
        other.communicate()
