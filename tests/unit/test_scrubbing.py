"""The scheduled check lets devices go first, and comes to its end in any case."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from angiovault.archive import scrubbing
from angiovault.archive.archive import Archive
from angiovault.archive.exchange.importing import import_paths
from angiovault.archive.scrubbing import Scrubber
from angiovault.indexurl import IndexURL
from faults import instances
from harness.waiting import wait_until


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive(tmp_path / "archive", IndexURL.parse(f"sqlite:///{tmp_path}/index.sqlite", tmp_path))
    archive.open()
    list(import_paths(archive, [instances.make(tmp_path / "sent", number=number) for number in range(3)]))
    yield archive
    archive.close()


class _Device:
    """Keeps the archive busy; notes when somebody wanted to know."""

    def __init__(self) -> None:
        self.is_served = True
        self.asked = threading.Semaphore(0)

    def __call__(self) -> bool:
        self.asked.release()
        return self.is_served

    def wait_until_asked(self, times: int) -> None:
        for _ in range(times):
            assert self.asked.acquire(timeout=20)


def _finished(archive: Archive) -> bool:
    return bool(Scrubber.read_state(archive).get("finished"))


def test_it_waits_while_devices_are_served(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "_LOOK_FOR_QUIET", 0.01)
    read = []
    monkeypatch.setattr(scrubbing, "check_file", lambda *arguments: read.append(arguments[1]))
    device = _Device()
    scrubber = Scrubber(archive, 30, 1000, device)
    scrubber.start()
    device.wait_until_asked(5)
    assert read == []
    monkeypatch.undo()
    device.is_served = False
    wait_until(lambda: _finished(archive), "the check to come to its end")
    scrubber.stop()


def test_it_does_not_wait_for_ever(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "_LONGEST_WAIT", 0.0)
    scrubber = Scrubber(archive, 30, 1000, _Device())
    scrubber.start()
    wait_until(lambda: _finished(archive), "the check to come to its end")
    scrubber.stop()


def test_it_stops_while_it_waits(archive: Archive) -> None:
    device = _Device()
    scrubber = Scrubber(archive, 30, 1000, device)
    scrubber.start()
    device.wait_until_asked(1)
    scrubber.stop()
    scrubber._thread.join(20)
    assert not scrubber._thread.is_alive()
    assert not Scrubber.read_state(archive).get("files")
