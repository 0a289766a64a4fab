"""The bench's small NAS: syncs are slow in threads and child processes, too, and the processor is limited."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench import nas

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
        assert slow.speed() < 0.5
    times = [float(line) for line in output.splitlines()]
    assert len(times) == 8
    assert min(times) >= nas.SYNC_MS / 1000
