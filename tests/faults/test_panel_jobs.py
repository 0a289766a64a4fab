"""The panel's own process ends, in order or not: no job goes on without it, and each can be continued by the next."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from angiovault.config import load
from angiovault.opening import open_archive
from angiovault.panel.place import Place
from harness.dcmtk import findscu
from harness.jobs import files, look, start, stored, wait_for
from harness.panel import Client
from harness.processes import Background
from harness.service import Service
from harness.waiting import wait_until

_MANY = 12_000
_SERVE = """
import sys
from pathlib import Path
from angiovault.panel import serving
from angiovault.panel.place import Place
serving._IDLE_SECONDS, serving._BUSY_SECONDS = 1.0, 0.1
serving.serve_inherited(Place(Path(sys.argv[1])), int(sys.argv[2]))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "angiovault.ini"
    path.write_text(f"[archive]\nstorage = {tmp_path}/archive\n", encoding="utf-8")
    open_archive(load(path), create=True).close()
    return path


@pytest.fixture
def ended() -> Iterator[ExitStack]:
    """Ends what a test has started."""
    with ExitStack() as stack:
        yield stack


def _ask(path: Path, route: str, content: object = None) -> Any:
    """Ask the panel behind a socket, or have it change something."""
    more = ""
    body = ""
    if content is not None:
        body = json.dumps(content)
        token = _ask(path, "/api/session")["csrf"]
        more = f"X-Requested-With: {token}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        method = "GET" if content is None else "POST"
        connection.sendall(f"{method} {route} HTTP/1.0\r\nX-AngioVault-User: admin\r\n{more}\r\n{body}".encode())
        with connection.makefile("rb") as answer:
            head, _, text = answer.read().decode().partition("\r\n\r\n")
    assert head.split()[1] == "200", text
    return json.loads(text)


def _panel(ended: ExitStack, settings: Path, path: Path) -> Background:
    command = [sys.executable, "-m", "angiovault.cli", "panel", "--config", settings, "--socket", path]
    panel = Background(command, log=settings.with_name("panel.log"))
    ended.callback(panel.kill)

    def answers() -> bool:
        try:
            return bool(_ask(path, "/api/session"))
        except OSError:
            return False

    panel.wait_ready(answers)
    return panel


def _children(pid: int, what: str = "") -> list[int]:
    """Return the processes that a process has started, those with a certain word in their command."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (thread / "children").read_text().split())
    return [child for child in found if what.encode() in Path(f"/proc/{child}/cmdline").read_bytes()]


def _wait_for_items(path: Path, number: str) -> None:
    wait_until(lambda: _ask(path, f"/api/jobs/{number}")["items"], "the job to get on")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_no_job_outlives_the_panel(settings: Path, tmp_path: Path, ended: ExitStack, how: signal.Signals) -> None:
    uids = files(tmp_path / "disc", _MANY)
    path = tmp_path / "panel.sock"
    panel = _panel(ended, settings, path)
    number = _ask(path, "/api/jobs", {"kind": "import", "path": str(tmp_path / "disc")})["job"]
    waiting = _ask(path, "/api/jobs", {"kind": "verify"})["job"]
    _wait_for_items(path, number)
    (job,) = _children(panel.process.pid)
    began = time.monotonic()
    os.kill(panel.process.pid, how)
    panel.process.wait(10)
    wait_until(lambda: not Path(f"/proc/{job}").exists(), "the job's process to be gone", seconds=3)
    assert time.monotonic() - began < 3
    assert panel.process.returncode == (-how if how == signal.SIGKILL else 0)
    assert 0 < len(stored(settings, in_order=False)) < _MANY

    panel = _panel(ended, settings, path)
    for each in (number, waiting):
        assert _ask(path, f"/api/jobs/{each}")["state"] == "interrupted"
        _ask(path, f"/api/jobs/{each}/again", {})
    for each in (number, waiting):
        wait_until(
            lambda each=each: _ask(path, f"/api/jobs/{each}")["state"] == "done", "the job to be done", seconds=60
        )
    assert stored(settings) == sorted(uids)
    assert _ask(path, f"/api/jobs/{waiting}")["counts"] == {"sound": _MANY}
    assert panel.stop() == 0


def test_a_panel_stays_as_long_as_a_job_runs(settings: Path, tmp_path: Path) -> None:
    uids = files(tmp_path / "disc", _MANY)
    path = tmp_path / "panel.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        command = [sys.executable, "-c", _SERVE, str(settings), str(listening.fileno())]
        panel = subprocess.Popen(command, pass_fds=[listening.fileno()])
        number = _ask(path, "/api/jobs", {"kind": "import", "path": str(tmp_path / "disc")})["job"]
        assert panel.wait(60) == 0  # and nobody asks it anything meanwhile
    job = json.loads((tmp_path / f"archive/.angiovault/jobs/{number}.json").read_text())
    assert (job["state"], job["items"]) == ("done", _MANY)
    assert stored(settings) == sorted(uids)


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_an_index_whose_making_is_cut_off_is_made_by_the_service(
    service: Callable[..., Service], tmp_path: Path, how: str
) -> None:
    running = service(unknown_devices="all")
    settings = tmp_path / "panel.ini"
    settings.write_text(f"[archive]\nstorage = {running.storage}\n", encoding="utf-8")
    uids = files(tmp_path / "disc", _MANY)
    client = Client(Place(settings))
    try:
        wait_for(client, start(client, "import", path=str(tmp_path / "disc")), "done")
        number = start(client, "reindex")
        # The total is written down with the first file: the old index is gone by then.
        wait_until(lambda: look(client, number)["total_items"], "the rebuilding to begin")
        if how == "cancelled":
            assert client.post(f"/api/jobs/{number}/cancel", {}).status == 200
        else:
            (job,) = _children(os.getpid(), "angiovault.jobs.process")
            os.kill(job, signal.SIGKILL)
        assert wait_for(client, number, "cancelled", "interrupted", seconds=10)["items"] < _MANY
        keys = ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "NumberOfStudyRelatedInstances"]
        (found,) = wait_until(lambda: findscu(running.peer, keys).data_sets, "the study to be found", seconds=60)
        assert found.NumberOfStudyRelatedInstances == _MANY
    finally:
        client.context.jobs.close(10)
    assert stored(settings) == sorted(uids)
