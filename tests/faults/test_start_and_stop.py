"""Starting twice, stopping in the middle of things, and doing nothing when there is nothing to do."""

import re
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from faults import instances
from harness.dcmtk import echoscu, findscu, storescu
from harness.processes import program
from harness.service import Service
from harness.waiting import wait_until


def test_a_second_serve_on_the_same_storage_is_refused(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service()
    second = Service(tmp_path / "second", storage=server.storage)
    second.folder.mkdir()
    with pytest.raises(AssertionError, match="ended at once with 1"):
        second.start()
    said = second.log_text()
    assert f"another `angiovault serve` (process {server.pid}) is using the storage {server.storage}" in said
    assert "Traceback" not in said
    echoscu(server.peer).ok()
    server.kill()
    second.start()
    second.stop()


def test_a_newer_schema_is_refused_politely(tmp_path: Path) -> None:
    with Service(tmp_path) as server:
        server.stop()
        with closing(sqlite3.connect(tmp_path / "archive.index.sqlite3")) as index:
            index.execute("UPDATE archive SET value = '99' WHERE name = 'schema'")
            index.commit()
        with pytest.raises(AssertionError, match="ended at once with 1"):
            server.start()
        last = server.log_text().splitlines()[-1]
        assert re.fullmatch(r"angiovault: the index .* has schema 99, this version of AngioVault knows \d+: .*", last)
        assert "Traceback" not in server.log_text()
        server.kill()


def test_sigterm_finishes_the_instance_that_is_coming_in(service: Callable[..., Service], tmp_path: Path) -> None:
    """The instance is acknowledged, the exit code is 0, and an idle association does not hold up the end."""
    server = service(unknown_devices="all")
    path = instances.make(tmp_path / "sent", size=60_000_000)
    with socket.create_connection((server.peer.host, server.peer.port)):  # a connection that says nothing
        idle = AE("IDLE")
        idle.add_requested_context(Verification)
        association = idle.associate(server.peer.host, server.peer.port, ae_title=server.peer.ae_title)
        assert association.is_established
        # A proxy that holds back the second half of the instance, until the service has been told to stop.
        told = threading.Event()
        with _Brake(server, told) as brake:
            results: list[list[int]] = []
            sender = threading.Thread(
                target=lambda: results.append(storescu(brake.peer, [path], "-xe").statuses), daemon=True
            )
            sender.start()
            wait_until(lambda: brake.held_back, "half of the instance to have come")
            server.background.process.send_signal(signal.SIGTERM)
            server.wait_for_log("stopping")
            told.set()
            sender.join(30)
        assert results == [[0]]
        server.stop()
        wait_until(lambda: not association.is_established, "the idle association to be ended")
    server.start()
    assert len(list(server.storage.rglob("*.dcm"))) == 1
    assert not list((server.storage / ".angiovault" / "incoming").iterdir())


class _Brake:
    """A proxy before the service that lets 30 MB through and the rest only when `told`."""

    def __init__(self, server: Service, told: threading.Event) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = server
        self._told = told
        self.held_back = False
        port = self._listener.getsockname()[1]
        self.peer = type(server.peer)("127.0.0.1", port, server.peer.ae_title)

    def __enter__(self) -> "_Brake":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        upstream = socket.create_connection((self._server.peer.host, self._server.peer.port))
        threading.Thread(target=self._pass, args=(upstream, client, None), daemon=True).start()
        self._pass(client, upstream, 30_000_000)

    def _pass(self, source: socket.socket, sink: socket.socket, most: int | None) -> None:
        passed = 0
        while data := source.recv(1 << 16):
            sink.sendall(data)
            passed += len(data)
            if most is not None and passed > most and not self._told.is_set():
                self.held_back = True
                self._told.wait(30)
        sink.shutdown(socket.SHUT_WR)


def test_sigterm_while_the_index_is_rebuilt(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(200)]
    storescu(server.peer, paths, "-xe").ok()
    server.stop()
    index = server.folder / "archive.index.sqlite3"
    with closing(sqlite3.connect(index)) as database:
        database.execute("UPDATE archive SET value = 'no' WHERE name = 'complete'")
        database.commit()
    server.start()
    server.stop()  # at once; exits with 0 wherever the rebuild is
    server.start()
    wait_until(lambda: server.cli("status", check=False).returncode == 0, "the index to be complete")
    assert instances.found(server.peer, [study]) == set(instances.digests(paths))


def test_an_idle_service_lets_the_disks_sleep(service: Callable[..., Service], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "write,writev,pwrite64,fsync,fdatasync,rename,openat,unlink,mkdir,sendto"
    strace = [program("strace"), "-f", "-D", "-yy", "-o", trace, "-e", f"trace={calls}"]
    server = service(unknown_devices="all", prefix=strace)
    storescu(server.peer, [instances.make(tmp_path / "sent")], "-xe").ok()
    server.wait_for_log("scheduled check: 1 files read", seconds=10)
    instances.wait_until_contact_is_noted(tmp_path / "archive.index.sqlite3")
    begin = len(trace.read_text())
    threading.Event().wait(5)  # nothing is to happen, so there is nothing to wait for
    done = trace.read_text()[begin:]
    assert not re.findall(r".*(?:write|sync|rename|unlink|mkdir|O_WRONLY|O_RDWR|O_CREAT).*", done)


def test_commands_that_come_upon_the_same_new_folder_make_one_archive(tmp_path: Path) -> None:
    place = Service(tmp_path)
    source = tmp_path / "sent"
    for number in range(3):
        instances.make(source, number=number)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: place.cli("import", source).stdout, range(4)))
    assert len(done) == 4
    assert len(list(place.storage.rglob("*.dcm"))) == 3
    place.cli("status")


def test_a_small_archive_without_its_index_is_answered_from_once_it_is_ready(tmp_path: Path) -> None:
    source = tmp_path / "sent"
    for number in range(3):
        instances.make(source, number=number)
    with Service(tmp_path, unknown_devices="all") as running:
        storescu(running.peer, sorted(source.iterdir())).ok()
        running.stop()
        for part in tmp_path.glob("archive.index.sqlite3*"):
            part.unlink()
        running.start()
        found = findscu(running.peer, ["QueryRetrieveLevel=STUDY", "StudyInstanceUID"])
        assert found.final.status == 0
        assert found.data_sets


def test_nobody_else_can_read_the_index(tmp_path: Path) -> None:
    with Service(tmp_path) as running:
        storescu(running.peer, [instances.make(tmp_path / "sent", number=1)]).ok()
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("archive.index.sqlite3*")}
        assert modes
        assert all(mode & 0o007 == 0 for mode in modes.values()), modes
