"""The command line as a person uses it, against a running service."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from angiovault import phantom
from angiovault.cli import main, parser
from harness import dcmtk, part10
from harness.processes import free_port
from harness.service import Service

ServiceFactory = Callable[..., Service]


@pytest.fixture(scope="module")
def phantom_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study of three slices, Chinese name in GB18030."""
    folder = tmp_path_factory.mktemp("phantom")
    study = phantom.Study(phantom.PATIENTS[0], number=9, start=datetime(2024, 3, 12, 9, 30))
    for number, item in enumerate(phantom.ct_volume(study, 1, slices=3, rows=32, columns=32)):
        phantom.write(item, folder / f"{number}.dcm")
    return folder


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["serve", "import", "reindex", "verify", "status", "echo", "send", "export", "conflicts", "device", "demo"]
    names += ["delete", "trash"]
    assert all(name in parser().format_help() for name in names)
    for name in names:
        with pytest.raises(SystemExit) as ending:
            main([name, "--help"])
        assert ending.value.code == 0
        assert name in capsys.readouterr().out


def test_ready_says_how_to_send_find_and_get(service: ServiceFactory, phantom_files: Path) -> None:
    running = service(unknown_devices="all")
    lines = running.stdout_text().splitlines()
    assert lines[0] == f"ready: ANGIOVAULT@127.0.0.1:{running.peer.port}"
    assert [line.split()[0] for line in lines[1:]] == ["send", "find", "get"]
    said = [line.split(":", 1)[1].split() for line in lines[1:]]
    out = running.folder / "OUT"
    out.mkdir()
    environment = {**os.environ, "TCP_NODELAY": "1"}
    filled = {"FOLDER": str(phantom_files), "OUT": str(out), "PatientName='*'": "PatientName=*"}
    filled["StudyInstanceUID=UID"] = f"StudyInstanceUID={_study_uid(phantom_files)}"
    for line in said:
        words = [filled.get(word, word) for word in line]
        subprocess.run(words, check=True, timeout=60, env=environment, capture_output=True)
    assert set(part10.collect(out)) == set(part10.collect(phantom_files))


def _study_uid(folder: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(next(folder.iterdir()), stop_before_pixels=True).StudyInstanceUID)


def test_status_of_a_running_and_a_stopped_archive(service: ServiceFactory, phantom_files: Path) -> None:
    running = service(unknown_devices="all")
    dcmtk.storescu(running.peer, sorted(phantom_files.iterdir())).ok()
    found = json.loads(running.cli("status", "--json").stdout)
    assert found["running"] is True
    assert found["problem"] == ""
    assert found["counts"]["instances"] == 3
    assert found["counts"]["studies"] == 1
    text = running.cli("status").stdout
    assert "1 studies, 1 series, 3 instances" in text
    running.stop()
    assert json.loads(running.cli("status", "--json").stdout)["running"] is False


def test_status_of_nothing_says_so_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--storage", str(tmp_path / "none"), "--index", f"sqlite:///{tmp_path}/none.sqlite3"]) == 1
    assert "mounted" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_devices_are_added_listed_and_removed_without_a_restart(service: ServiceFactory) -> None:
    running = service(unknown_devices="refuse", config="")
    assert dcmtk.echoscu(running.peer, calling="ROOM1").rejected
    running.cli("device", "add", "room one", "--ae-title", "ROOM1", "--host", "127.0.0.1", "--port", "104")
    dcmtk.echoscu(running.peer, calling="ROOM1").ok()
    listed = running.cli("device", "list").stdout
    assert "room one: ROOM1 at 127.0.0.1 port 104" in listed
    running.cli("device", "remove", "room one")
    assert dcmtk.echoscu(running.peer, calling="ROOM1").rejected
    wrong = running.cli("device", "remove", "room one", check=False)
    assert wrong.returncode == 1
    assert "there is no device 'room one'" in wrong.stderr


def test_echo_says_what_is_wrong(service: ServiceFactory) -> None:
    running = service(config="[dicom]\ncheck-called-ae-title = yes\n")
    port = running.peer.port
    assert "is there" in running.cli("echo", f"ANGIOVAULT@127.0.0.1:{port}").stdout
    for target, words in (
        (f"OTHER@127.0.0.1:{port}", "called AE title not recognised"),
        (f"ANGIOVAULT@127.0.0.1:{free_port()}", "refuses the connection"),
        ("nobody", "no configured device"),
    ):
        done = running.cli("echo", target, check=False)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "--port"),
        (["--ae-title", "SEVENTEENLETTERSX"], "1 to 16 ASCII characters"),
        (["--index", "oracle://x"], "unknown kind of database"),
        (["--config", "/nonexistent.ini"], "there is no such configuration file"),
        (["--bind", "192.0.2.1", "--port", "0"], "cannot listen on 192.0.2.1"),
    ],
)
def test_serve_refuses_wrong_settings_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "angiovault.cli", "serve", "--storage", tmp_path / "archive", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_goes_through_the_network_door_and_is_found(service: ServiceFactory) -> None:
    running = service(unknown_devices="all")
    running.cli("demo", "--to", f"ANGIOVAULT@127.0.0.1:{running.peer.port}")
    counts = json.loads(running.cli("status", "--json").stdout)["counts"]
    assert counts["studies"] == 4
    assert counts["instances"] == 81
    again = running.cli("demo", "--to", f"ANGIOVAULT@127.0.0.1:{running.peer.port}")
    assert again.returncode == 0
    assert json.loads(running.cli("status", "--json").stdout)["counts"] == counts


def test_an_interrupt_ends_serve_like_a_stop(service: ServiceFactory) -> None:
    running = service()
    os.kill(running.pid, signal.SIGINT)
    assert running.background.process.wait(20) == 0
