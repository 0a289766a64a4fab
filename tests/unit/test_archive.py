"""The archive's door: what it does when parts of it are away, and which version of an instance is the first."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from angiovault.archive import settling
from angiovault.archive.archive import CONFLICT, DUPLICATE, STORED, Archive, DatasetMismatch, Receipt
from angiovault.archive.choices import Choices
from angiovault.archive.finding.selection import versions
from angiovault.archive.header import HeaderError
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.models import Patient, Study
from angiovault.archive.reindexing import reindex
from angiovault.archive.store import Incoming, NotMounted, StorageError
from angiovault.indexurl import IndexURL
from faults import instances

UID = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive(tmp_path / "archive", IndexURL("sqlite", path=tmp_path / "index"))
    archive.open()
    yield archive
    archive.close()


def _receive(archive: Archive, path: Path, uid: str = "") -> Receipt:
    file = instances.part10.read(path)
    announced = uid or file.sop_instance_uid
    sop_class = str(file.meta.MediaStorageSOPClassUID)
    with archive.receive(sop_class, announced, file.transfer_syntax, "SENDER") as reception:
        data = file.data_set()
        for start in range(0, len(data), 700):
            reception.write(data[start : start + 700])
        return reception.finish()


def _current(archive: Archive) -> str:
    (digest,) = (version.digest for version in versions(archive.index, UID) if version.current)
    return digest


def test_an_archive_that_is_not_open_says_so(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", IndexURL("sqlite", path=tmp_path / "index"))
    with pytest.raises(NotMounted, match="has not been opened"):
        archive.check()
    with pytest.raises(NotMounted, match="mounted"):
        archive.open(create=False)
    with pytest.raises(NotMounted, match="is the volume or shared folder mounted"):
        archive.ready_index()
    assert list(tmp_path.iterdir()) == []


def test_what_holds_the_storage_may_refuse(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", IndexURL("sqlite", path=tmp_path / "index"))

    def refuse() -> None:
        raise StorageError("somebody else has it")

    with pytest.raises(StorageError, match="somebody else has it"):
        archive.open(hold=refuse)
    assert not (tmp_path / "index").exists()
    with pytest.raises(NotMounted, match="somebody else has it"):
        archive.check()
    archive.open()
    archive.check()
    archive.close()


def test_what_was_announced_must_be_what_comes(archive: Archive, tmp_path: Path) -> None:
    path = instances.make(tmp_path / "sent")
    with pytest.raises(DatasetMismatch, match=r"announced was 1\.2\.3 of"):
        _receive(archive, path, "1.2.3")
    with archive.receive("1.2.3", UID, "1.2.840.10008.1.2.1", "SENDER") as reception:
        reception.write(b"no data set at all")
        with pytest.raises(HeaderError):
            reception.finish()
    assert list(archive.store.instance_files()) == []
    archive.rest(1)
    assert list((archive.store.private / "incoming").iterdir()) == []


def test_a_clock_that_is_set_back_changes_no_first_version(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first version received stays current, also in an index that is made anew from the times in the files."""
    first, second, third = (instances.make(tmp_path / "sent", uid=UID, seed=seed) for seed in (1, 2, 3))
    receipt = _receive(archive, first)
    assert receipt.outcome == STORED
    monkeypatch.setattr(settling, "now", lambda: "1970-01-01T00:00:00.000000Z")
    assert _receive(archive, second).outcome == CONFLICT
    assert _current(archive) == receipt.digest
    assert all(not item.problem for item in reindex(archive))
    assert _current(archive) == receipt.digest
    monkeypatch.undo()
    assert _receive(archive, third).outcome == CONFLICT
    list(reindex(archive))
    assert _current(archive) == receipt.digest


def test_times_of_receipt_and_rows_have_one_order(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that come at once the one with the earlier time is the first in the index, however long its sync takes."""
    study = generate_uid()
    slow, quick = (instances.make(tmp_path / "sent", study=study, patient_id=name) for name in ("SLOW", "QUICK"))
    sealed, overtaken = threading.Event(), threading.Event()
    sync = Incoming.sync

    def sync_slowly(self: Incoming) -> None:
        sync(self)
        if not sealed.is_set():
            sealed.set()
            overtaken.wait(0.3)  # long enough for the other one, if nothing holds that up

    monkeypatch.setattr(Incoming, "sync", sync_slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_receive, archive, slow)
        assert sealed.wait(10)
        second = pool.submit(_receive, archive, quick)
        second.add_done_callback(lambda _: overtaken.set())
        assert [one.result().outcome for one in (first, second)] == [STORED, STORED]
    with archive.index.session():
        shown = Patient.get_by_id(Study.get(Study.uid == study).patient_id)
    assert shown.patient_id == "slow"


def test_the_usual_conflict_needs_no_note(archive: Archive, tmp_path: Path) -> None:
    for seed in (1, 2):
        _receive(archive, instances.make(tmp_path / "sent", uid=UID, seed=seed))
    assert Choices(archive.store).all() == {}


def test_a_duplicate_keeps_time_of_receipt_and_sender_of_the_first(archive: Archive, tmp_path: Path) -> None:
    path = instances.make(tmp_path / "sent", uid=UID)
    first = _receive(archive, path)
    assert first.outcome == STORED
    archive.index.clear()  # as if a crash had come between the file and the index
    assert _receive(archive, path).outcome == STORED
    assert _receive(archive, path).outcome == DUPLICATE
    entry = archive.entry_of_file(first.place)
    assert archive.index.current(UID)[1] == entry.received


def test_a_choice_that_was_cut_short_spoils_no_other(archive: Archive) -> None:
    choices = Choices(archive.store)
    choices.add("1.2.3", "a" * 16)
    with (archive.store.private / "choices").open("a") as file:
        file.write("1.2.4 bbb")
    choices.add("1.2.5", "c" * 16)
    choices.add("1.2.3", "d" * 16)
    assert choices.all() == {"1.2.3": "d" * 16, "1.2.4": "bbb", "1.2.5": "c" * 16}


def test_a_reindex_that_is_left_in_the_middle_is_not_complete(archive: Archive, tmp_path: Path) -> None:
    for number in range(3):
        _receive(archive, instances.make(tmp_path / "sent", number=number))
    items = reindex(archive)
    assert next(items).total == 3
    items.close()  # type: ignore[attr-defined]
    with pytest.raises(IndexUnavailable, match="being rebuilt"):
        archive.ready_index()
    assert _receive(archive, instances.make(tmp_path / "sent", uid=UID)).outcome == STORED
    assert archive.behind
    assert len(list(reindex(archive, if_incomplete=True))) == 4
    assert list(reindex(archive, if_incomplete=True)) == []
    assert len(versions(archive.ready_index(), UID)) == 1
    archive.rest(1)
    assert list((archive.store.private / "incoming").iterdir()) == []


def test_a_listing_that_fails_leaves_the_index_as_it_was(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _receive(archive, instances.make(tmp_path / "sent", uid=UID))

    def fail() -> Iterator[None]:
        raise PermissionError(13, "Permission denied")
        yield

    monkeypatch.setattr(archive.store, "instance_files", fail)
    with pytest.raises(StorageError, match="cannot list the storage: Permission denied"):
        list(reindex(archive))
    assert len(versions(archive.ready_index(), UID)) == 1


def test_foreign_files_in_the_tree_are_reported_and_left_alone(archive: Archive, tmp_path: Path) -> None:
    receipt = _receive(archive, instances.make(tmp_path / "sent", uid=UID))
    folder = (archive.store.root / receipt.place).parent
    stranger = instances.make(folder)
    (folder / "text.dcm").write_text("not DICOM")
    problems = {item.place.name: item.problem for item in reindex(archive)}
    assert problems[receipt.place.name] == ""
    assert problems[stranger.name] == "the file has no digest of an archive in its head"
    assert "not a DICOM file" in problems["text.dcm"]
    assert stranger.exists()
