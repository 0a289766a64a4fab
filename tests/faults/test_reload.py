"""SIGHUP: settings change under associations that run, and what cannot be had changes nothing."""

import json
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from harness.dcmtk import Peer, echoscu, findscu
from harness.processes import free_port, program
from harness.service import Service
from harness.upper_layer import RJ, RawPeer, associate_rq, data_set
from harness.waiting import wait_until

REJECTED_CALLED = b"\0\1\1\7"


class Reloaded:
    """A service with its settings in a file, on a port that the file names."""

    def __init__(self, start: Callable[..., Service], folder: Path) -> None:
        self.health_file = folder / "health.json"
        self.values: dict[str, dict[str, object]] = {
            "dicom": {"bind": "127.0.0.1", "port": free_port(), "unknown-devices": "all"},
            "archive": {"storage": folder / "archive"},
            "tls": {},
            "log": {"health-file": self.health_file},
        }
        self.service = start(config=self.text(), flags=False)
        wait_until(self.health_file.exists, "the health file")

    def text(self) -> str:
        lines = []
        for section, values in self.values.items():
            lines += [f"[{section}]", *(f"{name} = {value}" for name, value in values.items())]
        return "\n".join(lines) + "\n"

    @property
    def health(self) -> dict[str, Any]:
        return dict(json.loads(self.health_file.read_text(encoding="utf-8")))

    @property
    def loading(self) -> dict[str, Any]:
        return dict(self.health["settings"])

    def hang_up(self) -> None:
        self.service.background.process.send_signal(signal.SIGHUP)

    def change(self, section: str, **values: object) -> dict[str, Any]:
        """Write changed settings, have them read, and return what came of it."""
        self.values[section] |= {name.replace("_", "-"): value for name, value in values.items()}
        return self.read_again(self.text())

    def read_again(self, text: str) -> dict[str, Any]:
        assert self.service.config_file is not None
        self.service.config_file.write_text(text, encoding="utf-8")
        serial = self.loading["serial"]
        self.hang_up()
        wait_until(lambda: self.loading["serial"] > serial, "the settings to be read")
        return self.loading

    def peer(self, ae_title: str = "ANGIOVAULT") -> Peer:
        return Peer("127.0.0.1", self.health["port"], ae_title)


@pytest.fixture
def running(service: Callable[..., Service], tmp_path: Path) -> Reloaded:
    return Reloaded(service, tmp_path)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_association_outlives_a_change_of_port_and_title(running: Reloaded) -> None:
    """What it sends afterwards is acknowledged and found; whoever is new comes to the new port and title only."""
    old, pid, study = running.peer(), running.service.pid, generate_uid()
    uids = [generate_uid() for _ in range(4)]
    with RawPeer(old) as sender:
        sender.associate()
        assert sender.store(uids[0], data_set(uids[0], study=study)) == 0
        loading = running.change("dicom", port=free_port(), ae_title="CATHLAB", check_called_ae_title="yes")
        assert (loading["problem"], loading["restart"]) == ({}, [])
        new = running.peer("CATHLAB")
        assert new.port != old.port
        for uid in uids[1:3]:
            assert sender.store(uid, data_set(uid, study=study)) == 0
        assert refused(old.port)
        echoscu(new).ok()
        with RawPeer(new) as stranger:  # who calls by the old title
            stranger.send(associate_rq([(1, "1.2.840.10008.1.1", ["1.2.840.10008.1.2"])]))
            assert stranger.receive() == (RJ, REJECTED_CALLED)
        assert running.change("dicom", port=free_port())["problem"] == {}  # and once more
        assert sender.store(uids[3], data_set(uids[3], study=study)) == 0
        sender.release()
    keys = ["QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study}", "SOPInstanceUID", "RetrieveAETitle"]
    found = findscu(running.peer("CATHLAB"), keys).ok().data_sets
    assert {each.SOPInstanceUID for each in found} == set(uids)
    assert {each.RetrieveAETitle for each in found} == {"CATHLAB"}
    assert running.service.pid == running.health["pid"] == pid
    assert "Traceback" not in running.service.log_text()


def test_an_instance_that_is_coming_in_is_acknowledged(running: Reloaded) -> None:
    """The port changes between two fragments of one data set."""
    uid = generate_uid()
    encoded = data_set(uid, pixels=bytes(900_000))
    with RawPeer(running.peer()) as sender:
        sender.associate()
        send, sent = sender.send, []

        def held_back(pdu: bytes) -> None:
            send(pdu)
            sent.append(pdu)
            if len(sent) == 4:
                running.change("dicom", port=free_port(), max_pdu=32768, network_timeout=5)

        sender.send = held_back  # type: ignore[method-assign]
        assert sender.store(uid, encoded) == 0
        assert len(sent) > 5


def test_a_port_that_is_taken_changes_nothing(running: Reloaded) -> None:
    before = running.health
    with socket.create_server(("127.0.0.1", 0)) as other, RawPeer(running.peer()) as peer:
        taken = other.getsockname()[1]
        peer.associate()
        loading = running.change("dicom", port=taken, ae_title="OTHER")
        assert (loading["problem"]["kind"], loading["problem"]["port"]) == ("port-taken", taken)
        assert loading["fingerprint"] == before["settings"]["fingerprint"]
        assert (running.health["port"], running.health["ae_title"]) == (before["port"], "ANGIOVAULT")
        assert peer.echo() == 0
        echoscu(running.peer()).ok()
        assert f"cannot listen on 127.0.0.1 port {taken}" in running.service.log_text()
    loading = running.change("dicom", port=before["port"])  # taken back; the title is in force now
    assert loading["problem"] == {}
    assert running.health["ae_title"] == "OTHER"


def test_a_certificate_that_cannot_be_used_changes_nothing(running: Reloaded, tmp_path: Path) -> None:
    before, tls_port = running.health, free_port()
    certificate, key = tmp_path / "archive.pem", tmp_path / "archive.key"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=a", "-keyout", key]
    command = [program("openssl"), "req", *options, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    loading = running.change(
        "tls", tls_port=tls_port, tls_certificate=certificate, tls_key=certificate
    )
    assert loading["problem"]["kind"] == "tls"
    assert refused(tls_port)
    assert running.health["port"] == before["port"]
    echoscu(running.peer()).ok()
    secure = Peer("127.0.0.1", tls_port, "ANGIOVAULT")
    assert running.change("tls", tls_key=key)["problem"] == {}
    echoscu(secure, "+tla", "-ic").ok()

    # A new certificate at the same place is taken by a further SIGHUP; a broken one leaves the one that is in use.
    with RawPeer(running.peer()) as peer:
        peer.associate()
        subprocess.run([*command[:-4], "-subj", "/CN=b", "-keyout", key, "-out", certificate], capture_output=True)
        assert running.read_again(running.text())["problem"] == {}
        certificate.write_text("nonsense", encoding="ascii")
        assert running.read_again(running.text())["problem"]["kind"] == "tls"
        echoscu(secure, "+tla", "-ic").ok()
        assert running.change("tls", tls_port=0)["problem"] == {}
        assert refused(tls_port)
        assert peer.echo() == 0


def test_a_mistake_in_the_file_changes_nothing(running: Reloaded) -> None:
    good = running.text()
    loading = running.read_again(good.replace("[log]", "[log]\nlog-level = loud"))
    assert loading["problem"]["kind"] == "file"
    assert "log-level" in loading["problem"]["text"]
    echoscu(running.peer()).ok()
    assert running.read_again(good)["problem"] == {}


def test_what_needs_a_new_start_is_named_and_waits_for_it(running: Reloaded, tmp_path: Path) -> None:
    before = running.health
    running.values["dicom"]["port"] = free_port()
    loading = running.change("archive", storage=tmp_path / "elsewhere", archive_id="0" * 32)
    assert loading["restart"] == ["storage", "archive-id"]
    assert running.health["port"] == before["port"]
    echoscu(running.peer()).ok()
    assert not (tmp_path / "elsewhere").exists()


def test_log_level_and_access_change_at_once(running: Reloaded) -> None:
    log = running.service.log_text
    running.change("log", log_level="debug")
    echoscu(running.peer()).ok()
    running.service.wait_for_log("association from ECHOSCU@127.0.0.1 to ANGIOVAULT")
    running.change("dicom", unknown_devices="refuse")
    assert echoscu(running.peer()).returncode != 0
    running.change("log", log_level="error")
    lines = len(log().splitlines())
    assert echoscu(running.peer()).returncode != 0
    assert len(log().splitlines()) == lines


def test_signals_close_together(running: Reloaded) -> None:
    """None is lost, none ends the service, and one that comes while it stops does no harm."""
    with RawPeer(running.peer()) as peer:
        peer.associate()
        for title in ("ONE", "TWO", "THREE"):
            running.values["dicom"]["ae-title"] = title
            assert running.service.config_file is not None
            running.service.config_file.write_text(running.text(), encoding="utf-8")
            for _ in range(5):
                running.hang_up()
        wait_until(lambda: running.health["ae_title"] == "THREE", "the last settings")
        assert peer.echo() == 0
        process = running.service.background.process
        process.send_signal(signal.SIGTERM)
        running.hang_up()
        running.service.wait_for_log("stopping")
        while process.poll() is None:
            running.hang_up()
    assert process.returncode == 0
    assert "Traceback" not in running.service.log_text()
    running.service.start()
