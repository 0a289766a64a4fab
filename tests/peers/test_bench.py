"""Parts of the bench that need real servers, or root."""

import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pynetdicom.dsutils import encode

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench import data, getter, nas, rows
from bench.stream import Stream
from harness.service import Service


def test_our_scu_gets_a_study_and_counts_it(tmp_path: Path) -> None:
    (study,) = data.studies(tmp_path / "data", data.CT, 1, 3)
    (tmp_path / "service").mkdir()
    with Service(tmp_path / "service", unknown_devices="all") as service:
        rows.send(service.peer, study.paths)
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
        (path,) = service.storage.rglob("*.dcm")
    kept = pydicom.dcmread(path)
    assert kept.PixelData == bytes(1_000_000)
    assert stream.sent == 1_000_000


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
