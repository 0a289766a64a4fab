"""An import that is stopped, as a whole or one of its helpers: no instance is lost, and the next import goes on."""

import random
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from faults import instances
from faults.power_cut import PowerCut
from harness.processes import Background
from harness.service import Service
from harness.waiting import wait_until

# Loaded by the import before anything else: a process is killed at a step of the work.
_KILLED_AT = """
import os, signal
from angiovault.archive.archive import Archive
from angiovault.archive.exchange import helpers, small_files, taking_over
from angiovault.archive.settling import Settler
from angiovault.archive.store import Store

main = os.getpid()

def killed_at(owner, name, skip=0, after=False, a_helper=False):
    function, left = getattr(owner, name), [skip]
    def replaced(*args):
        if a_helper and os.getpid() == main:
            return function(*args)
        left[0] -= 1
        if left[0] == -1 and not after:
            os.kill(os.getpid() if a_helper else main, signal.SIGKILL)
        done = function(*args)
        if left[0] == -1 and after:
            os.kill(main, signal.SIGKILL)
        return done
    setattr(owner, name, replaced)

killed_at({step})
"""
_STEPS = {
    "nothing written": 'helpers, "_help"',
    "some written": 'small_files, "_write", 20',
    "a batch written": 'helpers.Helpers, "_receive", 0, True',
    "more batches written": 'helpers.Helpers, "_receive", 1, True',
    "before anything is settled": 'Settler, "_settle"',
    "some linked": 'Store, "link", 10',
    "all linked": 'Store, "sync"',
    "in their places": 'Store, "sync", 0, True',
    "indexed": 'Archive, "index_together", 0, True',
    "a batch settled": 'Settler, "_settle", 0, True',
    "some sources removed": 'taking_over, "_remove", 20',
}
_HELPER_STEPS = {
    "nothing done": 'helpers, "_help", a_helper=True',
    "some written": 'small_files, "_write", 20, a_helper=True',
    "some sources removed": 'taking_over, "_remove", 20, a_helper=True',
}
_COUNT = 230


def _patched(folder: Path, text: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def _make(source: Path) -> tuple[list[str], dict[str, str]]:
    """Make studies to be imported; return their UIDs, and digests by SOP Instance UID."""
    studies = [generate_uid() for _ in range(3)]
    paths = [
        instances.make(source / str(number % 3), study=studies[number % 3], number=number) for number in range(_COUNT)
    ]
    return studies, instances.digests(paths)


def _import(place: Path, log: Path, env: Mapping[str, str] | None = None) -> Background:
    command = [sys.executable, "-m", "angiovault.cli", "import", "--move", place / "source"]
    return Background([*command, "--storage", place / "archive"], log=log, env=env)


def _assert_all_kept(place: Path, studies: list[str], sent: Mapping[str, str], back: Path) -> None:
    """Import what is left, and see that every instance is there, once."""
    with Service(place, unknown_devices="all") as server:
        server.cli("import", "--move", place / "source")
        assert not list((place / "source").rglob("*.dcm"))
        instances.assert_kept(server.peer, studies, set(sent), sent, back)
        assert not list((server.storage / ".angiovault" / "incoming").iterdir())
        assert len(instances.tree(server.storage)) == len(sent)
        assert server.cli("verify").stdout.endswith("0 damaged, 0 missing\n")
        assert "rebuilt" not in server.log_text()


@pytest.mark.parametrize("power_cut", [False, True], ids=["SIGKILL", "power cut"])
@pytest.mark.parametrize("step", _STEPS)
def test_stopped_at_every_step(step: str, power_cut: bool, tmp_path: Path) -> None:
    place = tmp_path / "before"
    studies, sent = _make(place / "source")
    env = _patched(tmp_path / "patch", _KILLED_AT.format(step=_STEPS[step]))
    cut = PowerCut(tmp_path / "layer")
    if power_cut:
        cut.sync_all(place)
        env |= cut.env
    killed = _import(place, tmp_path / "import.log", env)
    wait_until(killed.group_is_gone, "the import to be killed, and its helpers to end")
    assert "import done" not in killed.report()
    if power_cut:
        place = tmp_path / "after"
        cut.leave(tmp_path / "before", place, random.Random(step))
    _assert_all_kept(place, studies, sent, tmp_path / "back")


@pytest.mark.parametrize("step", _HELPER_STEPS)
def test_a_helper_that_is_killed_is_not_missed(step: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    studies, sent = _make(place / "source")
    env = _patched(tmp_path / "patch", _KILLED_AT.format(step=_HELPER_STEPS[step]))
    running = _import(place, tmp_path / "import.log", env)
    wait_until(running.group_is_gone, "the import to end")
    assert f"{_COUNT} stored" in running.report()
    assert not list((place / "source").rglob("*.dcm"))
    _assert_all_kept(place, studies, sent, tmp_path / "back")


def test_killed_at_any_moment(tmp_path: Path) -> None:
    place = tmp_path / "place"
    studies, sent = _make(place / "source")
    chance = random.Random(5)
    for turn in range(6):
        enough = len(instances.tree(place / "archive")) + chance.randrange(_COUNT // 6) if turn else 1
        running = _import(place, tmp_path / f"import{turn}.log")
        wait_until(
            lambda enough=enough, running=running: (
                not running.running or len(instances.tree(place / "archive")) >= enough
            ),
            "the moment of the kill",
        )
        running.process.kill()
        wait_until(running.group_is_gone, "its helpers to end")
    _assert_all_kept(place, studies, sent, tmp_path / "back")


def test_ended_by_sigterm_as_a_job_is(tmp_path: Path) -> None:
    place = tmp_path / "place"
    studies, sent = _make(place / "source")
    running = _import(place, tmp_path / "import.log")
    wait_until(lambda: instances.tree(place / "archive"), "the first to be in their places")
    running.process.terminate()
    wait_until(running.group_is_gone, "the import and its helpers to end")
    _assert_all_kept(place, studies, sent, tmp_path / "back")
