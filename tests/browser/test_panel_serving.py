"""`angiovault panel` as a person or a supervisor starts it."""

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest

from harness.processes import Background, free_port
from harness.waiting import wait_until

PANEL = (sys.executable, "-m", "angiovault.cli", "panel")


@pytest.fixture
def ended() -> Iterator[ExitStack]:
    """Ends what a test has started."""
    with ExitStack() as stack:
        yield stack


def start(ended: ExitStack, folder: Path, *arguments: str) -> Background:
    panel = Background([*PANEL, *arguments], log=folder / "panel.log", stdout=folder / "panel.stdout")
    ended.callback(panel.kill)
    return panel


def url_of(panel: Background, folder: Path) -> str:
    panel.wait_ready(lambda: "http://" in (folder / "panel.stdout").read_text())
    return (folder / "panel.stdout").read_text().split()[-1]


@pytest.mark.parametrize(
    "settings", ["", "[dicom]\nport = many\n", "\0\n", None], ids=["empty", "wrong", "broken", "none"]
)
def test_it_runs_whatever_the_settings_are(tmp_path: Path, ended: ExitStack, settings: str | None) -> None:
    file = tmp_path / "angiovault.ini"
    if settings is not None:
        file.write_text(settings)
    panel = start(ended, tmp_path, "--config", str(file))
    match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/\?token=[\w-]{43})", url_of(panel, tmp_path))
    assert match
    connection = HTTPConnection("127.0.0.1", int(match[1]), timeout=30)
    connection.request("GET", match[2])
    response = connection.getresponse()
    assert response.status == 303
    response.read()
    cookie = (response.getheader("Set-Cookie") or "").partition(";")[0]
    connection.request("GET", "/api/overview", headers={"Cookie": cookie})
    answer = connection.getresponse()
    assert answer.status == 200
    expected = "stopped" if settings in ("", None) else "configuration"
    assert f'"state": "{expected}"' in answer.read().decode()
    connection.close()
    assert panel.stop() == 0
    assert match[2] not in (tmp_path / "panel.log").read_text()


def test_it_listens_on_loopback_only(tmp_path: Path, ended: ExitStack) -> None:
    port = free_port()
    panel = start(ended, tmp_path, "--config", str(tmp_path / "none.ini"), "--port", str(port))
    url_of(panel, tmp_path)
    own = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listening = [line.split()[1] for line in own.splitlines() if f":{port:04X} " in line and " 0A " in line]
    assert listening == [f"0100007F:{port:04X}"]
    second = start(ended, tmp_path, "--config", str(tmp_path / "none.ini"), "--port", str(port))
    assert second.process.wait(30) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in (tmp_path / "panel.log").read_text()


def test_its_socket_is_for_its_user_only(tmp_path: Path, ended: ExitStack) -> None:
    path = tmp_path / "panel.sock"
    panel = start(ended, tmp_path, "--config", str(tmp_path / "none.ini"), "--socket", str(path))
    panel.wait_ready(path.exists)
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /api/session HTTP/1.0\r\nX-AngioVault-User: admin\r\n\r\n")
        answer = wait_until(lambda: connection.recv(65536), "an answer")
    assert answer.startswith(b"HTTP/1.0 200")
    # After a crash the socket is still there.
    panel.kill()
    assert path.exists()
    again = start(ended, tmp_path, "--config", str(tmp_path / "none.ini"), "--socket", str(path))
    again.wait_ready(lambda: "listens" in (tmp_path / "panel.log").read_text().partition("listens")[2])
    assert again.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("more", "status"),
    [("Content-Length: 99999999999", b"413"), ("X-Long: " + "x" * 70000, b"431")],
    ids=["body", "head"],
)
def test_what_is_far_too_much_is_not_even_read(tmp_path: Path, ended: ExitStack, more: str, status: bytes) -> None:
    path = tmp_path / "panel.sock"
    panel = start(ended, tmp_path, "--config", str(tmp_path / "none.ini"), "--socket", str(path))
    panel.wait_ready(path.exists)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(
            f"POST /api/devices/add HTTP/1.1\r\nHost: nas\r\nX-AngioVault-User: a\r\n{more}\r\n\r\n".encode()
        )
        assert connection.recv(65536).split()[1] == status
    assert panel.stop() == 0
