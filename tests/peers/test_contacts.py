"""What devices did last, as the panel tells it: from the archive's own books, whatever became of the log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.uid import generate_uid

from angiovault.panel.place import Place
from faults import instances
from harness.dcmtk import echoscu, findscu, getscu, storescu
from harness.panel import Client
from harness.service import Service
from harness.upper_layer import RawPeer, data_set
from harness.waiting import wait_until

CONFIG = """[dicom]
bind = 127.0.0.1
port = 0
[archive]
storage = {0}/archive
[log]
log-file = {0}/log
[device console]
ae-title = CONSOLE
host = 127.0.0.1
[device off]
ae-title = OFF
host = 127.0.0.1
allow = none
"""


def test_the_panel_tells_who_did_what_and_how_it_ended(service: Callable[..., Service], tmp_path: Path) -> None:
    running = service(config=CONFIG.format(tmp_path), flags=False)
    paths = [instances.make(tmp_path / "sent", number=number) for number in range(2)]
    keys = ["QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.3"]
    echoscu(running.peer, calling="CONSOLE").ok()
    storescu(running.peer, paths, "-xe", calling="CONSOLE").ok()
    findscu(running.peer, keys, calling="CONSOLE").ok()
    getscu(running.peer, keys, tmp_path / "got", calling="CONSOLE").ok()
    assert echoscu(running.peer, calling="OFF").rejected
    with RawPeer(running.peer) as lost:  # leaves in the middle of a data set
        lost.associate(calling=b"LOST")
        uid = generate_uid()
        assert lost.store(uid, data_set(uid)) == 0
    with RawPeer(running.peer) as rude:
        rude.associate(calling=b"RUDE")
        rude.send(b"\4\0\0\0\0\1\0")
        rude.ending()

    assert running.config_file is not None
    client = Client(Place(running.config_file))

    def endings() -> dict[str, str]:
        return {item["calling"]: item["ending"] for item in client.get("/api/overview")["associations"]}

    wait_until(lambda: {"RUDE", "LOST"} <= endings().keys(), "the last associations", seconds=40)
    (tmp_path / "log").unlink()
    found = endings()
    assert found == {"CONSOLE": "released", "OFF": "rejected", "LOST": "lost", "RUDE": "protocol"}
    devices: dict[str, Any] = client.get("/api/devices")["contacts"]
    console = {item["operation"]: (item["status"], item["instances"]) for item in devices["console"]}
    assert console == {"echo": (0, 0), "store": (0, 2), "find": (0, 0), "get": (0, 0)}
    assert [item["operation"] for item in devices["off"]] == ["rejected"]
    tallies = [item["tally"] for item in client.get("/api/overview")["associations"] if item["calling"] == "CONSOLE"]
    assert {"stored": 2, "bytes": sum(tally.get("bytes", 0) for tally in tallies)} in tallies


def test_what_was_noted_last_is_there_after_a_stop(service: Callable[..., Service], tmp_path: Path) -> None:
    running = service(config=CONFIG.format(tmp_path), flags=False)
    echoscu(running.peer, calling="CONSOLE").ok()
    running.stop()
    assert running.config_file is not None
    client = Client(Place(running.config_file))
    assert [item["operation"] for item in client.get("/api/devices")["contacts"]["console"]] == ["echo"]
    running.start()
