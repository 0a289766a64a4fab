"""Settling: in order, together, whatever is away meanwhile, and never at the cost of another instance."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from angiovault.archive import filemeta, settling
from angiovault.archive.adding import CONFLICT, DUPLICATE, SET_ASIDE, STORED, Adding, Entry
from angiovault.archive.archive import Archive, Receipt
from angiovault.archive.finding.selection import versions
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import NoRoom, NotMounted, StorageError
from angiovault.indexurl import IndexURL
from faults import instances


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive(tmp_path / "archive", IndexURL("sqlite", path=tmp_path / "index"))
    archive.open()
    yield archive
    archive.close()


def _receive(archive: Archive, path: Path, then: Callable[[Receipt, str], None] | None = None) -> Receipt:
    file = instances.part10.read(path)
    sop_class = str(file.meta.MediaStorageSOPClassUID)
    with archive.receive(sop_class, file.sop_instance_uid, file.transfer_syntax, "SENDER") as reception:
        reception.write(file.data_set())
        return reception.finish(then) if then else reception.finish()


def _uids(archive: Archive, receipt: Receipt) -> int:
    return len(versions(archive.ready_index(), receipt.header.sop_instance_uid))


class _Gate:
    """Holds the settler before its next batch until it is opened."""

    def __init__(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        settle = archive.settler._settle

        def held(batch: list[settling.Sealed]) -> None:
            assert self.opened.wait(20)
            settle(batch)

        monkeypatch.setattr(archive.settler, "_settle", held)


def test_a_query_finds_what_was_acknowledged_before_it(index_url: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", IndexURL.parse(index_url, tmp_path))
    archive.open()

    def rounds(number: int) -> None:
        study = generate_uid()
        for _ in range(40):
            receipt = _receive(archive, instances.make(tmp_path / str(number), study=study, size=500))
            (version,) = versions(archive.ready_index(), receipt.header.sop_instance_uid)
            with archive.open_instance(version) as (file, length):
                assert len(file.read()) == length == receipt.size

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rounds, range(4)))
    archive.close()
    assert not list((archive.store.private / "incoming").iterdir())


def test_many_are_settled_together_in_the_order_of_their_receipt(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[str]] = []
    index = archive.index_together

    def noted(entries: Sequence[Entry]) -> list[str]:
        batches.append([entry.received for entry in entries])
        return index(entries)

    monkeypatch.setattr(archive.settler, "_index", noted)
    paths = [instances.make(tmp_path / "sent") for _ in range(40)]
    told: list[tuple[str, str]] = []

    def tell(receipt: Receipt, outcome: str) -> None:
        told.append((receipt.digest, outcome))

    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(lambda path: _receive(archive, path, tell), paths))
    archive.rest(10)
    assert len(batches) < 20
    order = [received for batch in batches for received in batch]
    assert order == sorted(order)
    assert sorted(told) == sorted((receipt.digest, STORED) for receipt in receipts)


def test_the_same_instance_from_two_at_once_is_one_file(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(archive, monkeypatch)
    uid = generate_uid()
    path, other = (instances.make(tmp_path / "sent", uid=uid, seed=seed) for seed in (1, 2))
    receipts = [_receive(archive, each) for each in (path, path, other, path)]
    gate.opened.set()
    assert [receipt.outcome for receipt in receipts] == [STORED, DUPLICATE, CONFLICT, DUPLICATE]
    assert len(list(archive.store.instance_files())) == 2


def test_a_storage_that_goes_away_before_the_settling(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(archive, monkeypatch)
    receipt = _receive(archive, instances.make(tmp_path / "sent"))
    away = archive.store.root.rename(tmp_path / "away")
    archive.store.root.mkdir()
    gate.opened.set()
    with pytest.raises(NotMounted):
        _ = receipt.outcome
    with pytest.raises(NotMounted):
        archive.ready_index()
    with pytest.raises(NotMounted):
        _receive(archive, instances.make(tmp_path / "sent"))
    assert list(archive.store.root.iterdir()) == []
    archive.store.root.rmdir()
    away.rename(archive.store.root)
    assert _uids(archive, receipt) == 1
    assert receipt.outcome == STORED


def test_an_index_that_goes_away_before_the_settling(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(archive, monkeypatch)
    receipts = [_receive(archive, instances.make(tmp_path / "sent")) for _ in range(3)]

    def away(*_: object) -> None:
        raise IndexUnavailable("the database has gone away")

    with monkeypatch.context() as patch:
        patch.setattr(archive.index, "add_together", away)
        gate.opened.set()
        assert {receipt.outcome for receipt in receipts} == {STORED}
        assert archive.journals.waiting.entries() == [receipt.place for receipt in receipts]
        with pytest.raises(IndexUnavailable, match="gone away"):
            archive.ready_index()
    assert [_uids(archive, receipt) for receipt in receipts] == [1, 1, 1]
    assert not archive.behind


def test_no_room_to_settle_refuses_what_comes_and_loses_nothing(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NoRoom("no room left on the storage volume")

    with monkeypatch.context() as patch:
        patch.setattr(archive.store, "sync", full)
        first = _receive(archive, instances.make(tmp_path / "sent"))
        with pytest.raises(NoRoom):
            _ = first.outcome
        with pytest.raises(NoRoom):
            _receive(archive, instances.make(tmp_path / "sent"))
        with pytest.raises(NoRoom):
            archive.ready_index()
    second = _receive(archive, instances.make(tmp_path / "sent"))
    assert [_uids(archive, receipt) for receipt in (first, second)] == [1, 1]


def test_one_folder_that_cannot_be_used_holds_up_nobody_else(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = _Gate(archive, monkeypatch)
    held, other = (_receive(archive, instances.make(tmp_path / "sent")) for _ in range(2))
    folder = archive.store.root / held.place.parent
    folder.rmdir()
    folder.touch()  # a file in its place
    gate.opened.set()
    assert other.outcome == STORED
    assert "was acknowledged and waits for its place" in caplog.text
    assert len(list(archive.store.incoming.waiting("dead or us"))) == 1
    folder.unlink()
    assert held.outcome == STORED
    assert list(archive.store.incoming.waiting("all")) == []


def test_one_that_the_index_cannot_take_holds_up_nobody_else(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(archive, monkeypatch)
    receipts = [_receive(archive, instances.make(tmp_path / "sent")) for _ in range(3)]
    add = Adding.add

    def strange(self: Adding, entry: Entry) -> str:
        if entry.place == receipts[1].place:
            raise RecursionError("something nobody has thought of")
        return add(self, entry)

    monkeypatch.setattr(Adding, "add", strange)
    gate.opened.set()
    assert [receipt.outcome for receipt in receipts] == [STORED, SET_ASIDE, STORED]
    assert archive.journals.aside.entries() == [receipts[1].place]


def test_without_hard_links_the_journal_stands_in(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", none)
    path = instances.make(tmp_path / "sent")
    first, again = _receive(archive, path), _receive(archive, path)
    assert first.outcome == again.outcome == STORED
    assert _uids(archive, first) == 1
    assert not archive.behind
    archive.rest(1)
    assert not list((archive.store.private / "incoming").iterdir())
    assert len(list(archive.store.instance_files())) == 1


def test_what_cannot_be_synced_is_not_acknowledged_and_holds_up_nobody(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    paths = [instances.make(tmp_path / "sent") for _ in range(3)]
    assert _receive(archive, paths[0]).outcome == STORED
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        _receive(archive, paths[1])
    monkeypatch.undo()
    assert _receive(archive, paths[2]).outcome == STORED
    assert len(list(archive.store.instance_files())) == 2
    archive.rest(1)
    assert not list((archive.store.private / "incoming").iterdir())


def test_too_many_that_are_not_settled_hold_up_the_next(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_MOST_WAITING", 3)
    gate = _Gate(archive, monkeypatch)
    for _ in range(3):
        _receive(archive, instances.make(tmp_path / "sent"))
    with ThreadPoolExecutor(1) as pool:
        fourth = pool.submit(_receive, archive, instances.make(tmp_path / "sent"))
        time.sleep(0.2)  # long enough for it, if nothing held it up
        assert not fourth.done()
        gate.opened.set()
        assert fourth.result(20).outcome == STORED


def test_what_an_earlier_run_left_is_settled_and_what_is_torn_is_not(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = threading.Event()

    def stop(batch: list[settling.Sealed]) -> None:
        assert stopped.wait(20)
        raise StorageError("stopped")

    monkeypatch.setattr(archive.settler, "_settle", stop)
    receipts = [_receive(archive, instances.make(tmp_path / "sent")) for _ in range(3)]
    stopped.set()
    archive.close()
    left = sorted(archive.store.incoming.waiting("all"), key=lambda path: _received(path))
    assert len(left) == 3
    with left[2].open("r+b") as torn:
        torn.truncate(left[2].stat().st_size - 100)
    listed: list[object] = []
    synced: set[int] = set()
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.add(os.fstat(descriptor).st_ino), sync(descriptor)))
    numbers = [path.stat().st_ino for path in left]
    again = Archive(archive.store.root, archive.index.url)
    files = again.store.instance_files
    monkeypatch.setattr(again.store, "instance_files", lambda: (listed.append(one) or one for one in files()))
    again.open()
    assert [_uids(again, receipt) for receipt in receipts] == [1, 1, 0]
    assert set(numbers[:2]) <= synced  # it may have been stopped between the seal and the sync
    assert len(listed) <= 1  # it looks whether there is any, and through no more
    assert "did not arrive whole before a power cut" in caplog.text
    assert not list((again.store.private / "incoming").iterdir())
    again.close()


def _received(path: Path) -> str:
    with path.open("rb") as file:
        return filemeta.read(file).received


def test_whoever_is_told_may_fail(archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no ear")

    _receive(archive, instances.make(tmp_path / "sent"), fail)
    second = _receive(archive, instances.make(tmp_path / "sent"))
    assert second.outcome == STORED
    archive.rest(10)
    assert "telling of an instance failed" in caplog.text
