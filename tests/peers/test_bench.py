"""Parts of the bench that need real servers, or root."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pydicom
import pytest
from pynetdicom.dsutils import encode

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench import data, getter, large_data, nas, probes, rows
from bench.databases import BenchMariaDB
from bench.large import Base
from bench.large_index import LargeIndex
from bench.stream import Stream
from harness.service import Service


def test_our_scu_gets_a_study_and_counts_it(tmp_path: Path) -> None:
    (study,) = data.studies(tmp_path / "data", data.CT, 1, 3)
    (tmp_path / "service").mkdir()
    with Service(tmp_path / "service", unknown_devices="all") as service:
        rows.send(service, study.paths)
        peer = service.peer
        place = peer.host, peer.port, peer.ae_title.encode()
        count, size = getter.get(*place, data.CT.sop_class.encode(), study.uid.encode())
        assert getter.get(*place, data.CT.sop_class.encode(), b"1.2.3") == (0, 0)
    sent = [pydicom.dcmread(path) for path in study.paths]
    assert (count, size) == (3, sum(len(encode(image, False, True) or b"") for image in sent))


def test_a_stream_is_one_whole_instance(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        stream = Stream(service.peer, 1, 1_000_000)
        stream.send()
        (path,) = service.settled().rglob("*.dcm")
    kept = pydicom.dcmread(path)
    assert kept.PixelData == bytes(1_000_000)
    assert stream.sent == 1_000_000


_BUSY = """
import os, subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
thread = threading.Thread(target=lambda: sum(range(3_000_000)))
thread.start()
thread.join()
with open(sys.argv[1], "wb") as file:
    file.write(bytes(1 << 20))
    os.fsync(file.fileno())
print("done", flush=True)
input()
child.communicate(b"\\n")
"""


def test_probes_see_every_process_and_thread_of_a_session(tmp_path: Path) -> None:
    script, file = tmp_path / "busy.py", tmp_path / "written"
    script.write_text(_BUSY)
    with subprocess.Popen(
        [sys.executable, script, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as work:
        assert work.stdout is not None
        assert work.stdout.readline() == b"done\n"
        assert len(probes.processes(work.pid)) == 2
        assert 4e6 < probes.pss(work.pid) < 1e8
        assert probes.written(work.pid) >= 1 << 20
        assert 0.01 < probes.processor_seconds(work.pid) < 10
        work.communicate(b"\n")
    assert probes.processes(work.pid) == []
    assert probes.changed_since(tmp_path, script.stat().st_mtime) == [file]
    assert probes.changed_since(tmp_path, file.stat().st_mtime) == []


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("mysql", marks=pytest.mark.mariadb)])
def test_a_large_index_holds_its_rows_and_takes_more(tmp_path: Path, engine: str) -> None:
    large = LargeIndex(tmp_path / "large", engine, 40)
    large.make()
    made = large_data.rows(range(40))
    server = None
    if engine == "mysql":
        server = BenchMariaDB(large.data)
        server.start()
    try:
        base = Base(large, large, server, None)
        for turn in range(2):
            with base.service(tmp_path) as service:
                (study,) = data.studies(tmp_path / "data", data.MR, 1, 3)
                rows.send(service, study.paths)
                rows.require_found(service.peer, [study])
            assert {table: len(found) for table, found in _tables(large, server).items()}["instance"] == 403
            received = tmp_path / f"received {turn}"
            received.mkdir()
            base.forget_received(received)
            assert _tables(large, server) == made
            assert len(list(received.rglob("*.dcm"))) == 3
            assert not list(large.storage.rglob("*.dcm"))
    finally:
        if server is not None:
            server.remove()


def _tables(large: LargeIndex, server: BenchMariaDB | None) -> dict[str, list[tuple[object, ...]]]:
    statements = {table: f"SELECT * FROM {table} ORDER BY id" for table in large_data.TABLES}
    if server is None:
        with closing(sqlite3.connect(large.folder / "index.sqlite3")) as connection:
            return {table: connection.execute(statement).fetchall() for table, statement in statements.items()}
    database = urlsplit(large.url(server)).username
    return {table: list(server.execute(statement, database=database)) for table, statement in statements.items()}


_SYNCS = """
import os, subprocess, sys, tempfile, threading, time
def sync():
    with tempfile.TemporaryFile() as file:
        for call in (os.fsync, os.fdatasync):
            began = time.monotonic()
            call(file.fileno())
            print(time.monotonic() - began, flush=True)
sync()
thread = threading.Thread(target=sync)
thread.start()
thread.join()
if len(sys.argv) == 1:
    subprocess.run([sys.executable, __file__, "child"], check=True)
"""


@pytest.mark.root
def test_every_sync_is_slow_and_the_processor_is_limited(tmp_path: Path) -> None:
    script = tmp_path / "syncs.py"
    script.write_text(_SYNCS)
    with nas.Slow(tmp_path) as slow:
        with slow.starting():
            work = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        output, _ = work.communicate()
        assert slow.speed() < 0.4
    times = [float(line) for line in output.splitlines()]
    assert len(times) == 8
    assert min(times) >= nas.SYNC_MS / 1000
