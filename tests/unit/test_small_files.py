"""Small files of an import: written whole and sealed, or not at all; and the processes that do it."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from angiovault.archive import filemeta
from angiovault.archive.exchange.helpers import Helpers
from angiovault.archive.exchange.small_files import LARGEST, Order, remove, write_all
from angiovault.archive.exchange.taking_over import Removal, remove_sources, state_of
from angiovault.archive.incoming import now, sealed
from harness import part10
from harness.memory import pages_in_memory, require_forgetting
from harness.waiting import wait_until

CT = Path(str(get_testdata_file("CT_small.dcm")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to be written into."""
    made = tmp_path / "incoming"
    made.mkdir()
    return made


def order(source: Path, target: Path) -> Order:
    return Order(str(source), str(target), now())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_sealed_and_has_the_same_data_set(folder: Path) -> None:
    (written,) = write_all([order(CT, folder / "a")])
    assert written is not None
    assert sealed(folder / "a")
    assert part10.read(folder / "a").sha256() == part10.read(CT).sha256() == written.digest
    with (folder / "a").open("rb") as file:
        meta = filemeta.read(file)
    assert (meta.digest, meta.received, meta.calling) == (written.digest, written.received, "")
    assert written.size == (folder / "a").stat().st_size - meta.offset
    assert written.state == state_of(CT.stat())
    assert written.place.startswith("2004/2004-01/2004-01-19_")


def test_what_is_written_takes_no_memory(folder: Path, tmp_path: Path) -> None:
    require_forgetting(tmp_path)
    assert write_all([order(CT, folder / "a")]) != [None]
    assert pages_in_memory(folder / "a") == 0


def _no_dicom(path: Path) -> None:
    path.write_bytes(b"no image")


def _large(path: Path) -> None:
    path.write_bytes(CT.read_bytes() + bytes(LARGEST))


def _linked(path: Path) -> None:
    path.symlink_to(CT)


def _cut(path: Path) -> None:
    path.write_bytes(CT.read_bytes()[:500])


def _of_another_archive(path: Path) -> None:
    write_all([order(CT, path)])


def _of_another_instance(path: Path) -> None:
    uid = b"1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
    path.write_bytes(CT.read_bytes().replace(uid, uid[:-1] + b"3", 1))


def _missing(path: Path) -> None:
    del path


@pytest.mark.parametrize(
    "make", [_no_dicom, _large, _linked, _cut, _of_another_archive, _of_another_instance, _missing, os.mkfifo]
)
def test_what_is_not_usual_is_left_to_others(make: Callable[[Path], None], folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "odd")
    written = write_all([order(tmp_path / "odd", folder / "a"), order(CT, folder / "b")])
    assert [one is not None for one in written] == [False, True]
    assert names(folder) == ["b"]


def test_a_folder_that_does_not_take_all_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    assert write_all([order(CT, folder / "a"), order(CT, tmp_path / "missing" / "b")]) == [None, None]
    assert names(folder) == []


def test_no_file_is_ever_written_over(folder: Path) -> None:
    (folder / "b").write_text("somebody else's")
    (folder / "kept").hardlink_to(folder / "b")
    assert write_all([order(CT, folder / "a"), order(CT, folder / "b")]) == [None, None]
    assert (folder / "kept").read_text() == "somebody else's"


def test_a_sync_that_fails_keeps_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert write_all([order(CT, folder / "a")]) == [None]
    assert names(folder) == []


def test_the_head_comes_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who looks at the file while it is written must not take it for a damaged instance."""
    write, seen = os.pwrite, []

    def look(descriptor: int, data: bytes, offset: int) -> int:
        seen.append(sealed(folder / "a"))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", look)
    write_all([order(CT, folder / "a")])
    assert seen == [False, False]
    assert sealed(folder / "a")


def test_a_source_is_removed_only_as_it_was_read(folder: Path) -> None:
    for name in ("same", "changed", "placed"):
        shutil.copy(CT, folder / name)
    (folder / "linked").hardlink_to(folder / "placed")
    removals = [
        Removal(str(folder / name), state_of((folder / name).stat()), str(folder / "placed"))
        for name in ("same", "changed", "linked")
    ]
    (folder / "changed").write_text("other")
    assert remove_sources(removals) == ["", "it was changed meanwhile", "it is the archive's own file"]
    assert names(folder) == ["changed", "linked", "placed"]
    assert remove_sources(removals[:1]) == [""], "gone already"
    (folder / "placed").unlink()
    assert remove_sources(removals[1:2]) == ["No such file or directory"], "the archive's file is not there"
    assert (folder / "changed").exists()


# ---- the processes


def _nobody() -> None:
    pass


def _pids(orders: Sequence[object]) -> list[int]:
    return [os.getpid() for _ in orders]


def _die(orders: Sequence[int]) -> list[int]:
    """Be killed, unless this is the process of the test, whose id the orders are."""
    for main in orders:
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
    return [os.getpid() for _ in orders]


def _free_lock(orders: Sequence[Path]) -> list[bool]:
    for path in orders:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    return [True for _ in orders]


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    made = Helpers(2)
    yield made
    made.close()


def test_one_task_needs_no_helper(helpers: Helpers) -> None:
    assert helpers.finish(helpers.give(_pids, [1, 2]), _nobody) == [os.getpid()] * 2
    assert helpers.finish(helpers.give(_pids, []), _nobody) == []


def test_more_tasks_are_done_by_others_who_end_with_their_work(helpers: Helpers) -> None:
    tasks = [helpers.give(_pids, [number]) for number in range(6)]
    pids = {pid for task in tasks for pid in helpers.finish(task, _nobody)}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    helpers.close()
    assert not any(Path("/proc", str(pid)).exists() for pid in pids)


def test_what_a_killed_helper_had_to_do_is_done(helpers: Helpers) -> None:
    tasks = [helpers.give(_die, [os.getpid()]) for _ in range(5)]
    assert [helpers.finish(task, _nobody) for task in tasks] == [[os.getpid()]] * 5


def test_a_lock_that_was_held_at_the_fork_is_not_kept(helpers: Helpers, tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        tasks = [helpers.give(_pids, [number]) for number in range(3)]
        assert os.getpid() not in {pid for task in tasks for pid in helpers.finish(task, _nobody)}
    tasks = [helpers.give(_free_lock, [tmp_path / "lock"]) for _ in range(2)]
    assert [helpers.finish(task, _nobody) for task in tasks] == [[True]] * 2


def test_who_waits_may_give_up(helpers: Helpers, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")
    tasks = [helpers.give(_read, [tmp_path / "never"]) for _ in range(2)]

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        helpers.finish(tasks[0], stop)
    helpers.close()


def _read(orders: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in orders]


def test_helpers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    parent = os.fork()
    if parent == 0:
        made = Helpers(2)
        tasks = [made.give(_pids, [number]) for number in range(6)]
        found = {pid for task in tasks for pid in made.finish(task, _nobody)}
        (tmp_path / "pids.new").write_text(" ".join(map(str, found)))
        (tmp_path / "pids.new").rename(tmp_path / "pids")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    pids = (tmp_path / "pids").read_text().split()
    assert pids
    wait_until(lambda: not any(_runs(pid) for pid in pids), "the helpers to end")


def _runs(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_may_be_there_is_removed(folder: Path) -> None:
    (folder / "a").touch()
    remove([folder / "a", folder / "b"])
    assert names(folder) == []
