"""The trash: what goes into it, what comes back, and what is left in archive and index."""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from angiovault.archive import folder as folder_module
from angiovault.archive import removing
from angiovault.archive.archive import Archive
from angiovault.archive.choices import Choices
from angiovault.archive.exchange.importing import import_paths
from angiovault.archive.exclusion import Exclusion
from angiovault.archive.finding.selection import Selection, StoredInstance, conflicts, versions
from angiovault.archive.finding.selection import instances as selected
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.models import Folder, Instance, Patient, PatientName, Study
from angiovault.archive.reindexing import reindex
from angiovault.archive.scrubbing import Scrubber
from angiovault.archive.store import NotMounted, StorageError
from angiovault.archive.summary import summary
from angiovault.archive.trash import NoSuchStudy, StudyChanged, Trash
from angiovault.archive.trash_items import NoSuchItem
from angiovault.archive.verifying import missing_files, verify
from angiovault.indexurl import IndexURL
from faults import instances
from harness.waiting import wait_until

UID, STUDY = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"


@pytest.fixture
def archive(tmp_path: Path, index_url: str) -> Iterator[Archive]:
    archive = Archive(tmp_path / "archive", IndexURL.parse(index_url, tmp_path))
    archive.open()
    yield archive
    archive.close()


@pytest.fixture
def trash(archive: Archive) -> Trash:
    return Trash(archive)


def bring(archive: Archive, *paths: Path) -> list[str]:
    return [item.outcome for item in import_paths(archive, paths)]


def study_of(archive: Archive, study: str = STUDY) -> list[StoredInstance]:
    return selected(archive.ready_index(), Selection(study_uids=[study]))


def current(archive: Archive) -> str:
    (digest,) = (version.digest for version in versions(archive.ready_index(), UID) if version.current)
    return digest


def digest(path: Path) -> str:
    return next(iter(instances.digests([path]).values()))


def test_a_study_goes_with_all_it_has_and_comes_back(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    sent = [
        instances.make(tmp_path / "sent", study=STUDY, series=f"{STUDY}.{number}", number=number, name="张^三")
        for number in range(3)
    ]
    other = instances.make(tmp_path / "other", StudyDate="20240313")
    assert bring(archive, *sent, other) == ["stored"] * 4
    before = instances.tree(archive.store.root)
    day = next(archive.store.root.glob("2024/*/2024-03-12*"))
    (day / "@eaDir").mkdir()
    counted = summary(archive, lambda _: False)["counts"]

    item = trash.delete(STUDY, "somebody", files=3)
    assert (item.patient_name, item.patient_id, item.instances, item.files) == ("张^三", "K-1", 3, 3)
    assert trash.items() == [item]
    assert item.size == sum(len(instances.part10.read(path).data_set()) for path in sent)
    assert list(instances.tree(archive.store.root)) == [path for path in before if "2024-03-13" in path]
    assert list(day.iterdir()) == [day / "@eaDir"]  # what is not ours stays, with the folder
    assert study_of(archive) == []
    counts = summary(archive, lambda _: False)["counts"]
    assert counts == {**counted, "studies": 1, "series": 1, "instances": 1, "bytes": counts["bytes"]}
    with archive.index.session():
        assert Folder.select().count() == 1
    assert [found.problem for found in verify(archive.store)] == [""]
    assert not list(missing_files(archive.store, archive.index))

    # Made anew from the files, the index does not know it either.
    assert len(list(reindex(archive))) == 1
    assert study_of(archive) == []

    assert trash.restore(item.id) == item
    assert instances.tree(archive.store.root) == before
    assert summary(archive, lambda _: False)["counts"] == counted
    assert trash.items() == []
    assert [path.name for path in (archive.store.private / "trash").iterdir()] == ["lock"]


def test_a_patient_without_a_study_is_not_known_any_more(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    further = generate_uid()
    for study in (STUDY, further):
        bring(archive, instances.make(tmp_path, study=study, name="Wang^Li=王^丽", patient_id="P"))
    for study, patients, names in ((STUDY, 1, 2), (further, 0, 0)):
        trash.delete(study, "somebody")
        with archive.index.session():
            assert (Patient.select().count(), PatientName.select().count()) == (patients, names)


def test_what_was_emptied_is_gone_and_can_be_imported_again(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    path = instances.make(tmp_path / "sent", study=STUDY)
    assert bring(archive, path) == ["stored"]
    assert bring(archive, path) == ["done before"]
    item = trash.delete(STUDY, "somebody")
    assert bring(archive, path) == ["stored"]  # what is in the trash is not in the archive
    assert trash.empty(item.id) == item
    assert trash.items() == []
    assert not list((archive.store.private / "trash").rglob("*.dcm"))
    assert [found.digest for found in study_of(archive)] == [digest(path)]
    with pytest.raises(NoSuchItem):
        trash.restore(item.id)


def test_a_newer_copy_stays_what_it_is_when_the_old_one_comes_back(
    archive: Archive, trash: Trash, tmp_path: Path
) -> None:
    first, second = (instances.make(tmp_path, study=STUDY, uid=UID, seed=seed) for seed in (1, 2))
    same = instances.make(tmp_path, study=STUDY, number=2)
    bring(archive, first, same)
    item = trash.delete(STUDY, "somebody")
    assert bring(archive, second, same) == ["stored", "stored"]
    trash.restore(item.id)
    assert [version.digest for version in versions(archive.ready_index(), UID)] == [digest(second), digest(first)]
    assert current(archive) == digest(second)
    assert len(study_of(archive)) == 2
    assert len(list(archive.store.instance_files())) == 3
    list(reindex(archive))
    assert current(archive) == digest(second)
    assert not list((archive.store.private / "trash").rglob("*.dcm"))


def test_a_choice_between_versions_goes_and_comes_back_with_the_study(
    archive: Archive, trash: Trash, tmp_path: Path
) -> None:
    first, second = (instances.make(tmp_path, study=STUDY, uid=UID, seed=seed) for seed in (1, 2))
    assert bring(archive, first, second) == ["stored", "conflict"]
    chosen = versions(archive.ready_index(), UID)[1]
    archive.index.choose(chosen.content, UID)
    Choices(archive.store).add(UID, chosen.content)
    item = trash.delete(STUDY, "somebody")
    assert (item.instances, item.files) == (1, 2)
    assert Choices(archive.store).all() == {}
    assert conflicts(archive.index) == []
    trash.restore(item.id)
    assert current(archive) == chosen.digest
    list(reindex(archive))
    assert current(archive) == chosen.digest


def test_a_version_in_another_study_becomes_current(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    further = generate_uid()
    first = instances.make(tmp_path, study=STUDY, uid=UID, seed=1)
    second, third = (instances.make(tmp_path, study=further, uid=UID, seed=seed) for seed in (2, 3))
    assert bring(archive, first, second, third) == ["stored", "conflict", "conflict"]
    assert study_of(archive, further) == []
    trash.delete(STUDY, "somebody")
    assert [(found.digest, found.version) for found in study_of(archive, further)] == [(digest(second), 1)]
    assert len(conflicts(archive.index)) == 1
    live = versions(archive.index, UID)
    counts = summary(archive, lambda _: False)["counts"]
    list(reindex(archive))
    assert versions(archive.index, UID) == live
    assert summary(archive, lambda _: False)["counts"] == counts


def test_a_damaged_file_at_the_place_does_not_cost_the_good_one_in_the_trash(
    archive: Archive, trash: Trash, tmp_path: Path
) -> None:
    path = instances.make(tmp_path / "sent", study=STUDY)
    bring(archive, path)
    item = trash.delete(STUDY, "somebody")
    bring(archive, path)
    (place,) = archive.store.instance_files()
    rotten = bytearray((archive.store.root / place).read_bytes())
    rotten[-1] ^= 1
    (archive.store.root / place).write_bytes(rotten)
    trash.restore(item.id)
    assert [found.problem for found in verify(archive.store)] == [""]
    damaged = (archive.store.root / place).with_suffix(".damaged")
    assert damaged.read_bytes() == rotten

    # It goes with its study, and comes back with it.
    item = trash.delete(STUDY, "somebody")
    assert [entry for entry in archive.store.root.iterdir() if entry.name != ".angiovault"] == []
    trash.restore(item.id)
    assert damaged.read_bytes() == rotten


def test_files_without_a_row_go_with_their_study(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    """One that was put in its place and never indexed, one that cannot be read any more, one of another study."""
    paths = [instances.make(tmp_path, study=STUDY, number=number) for number in range(3)]
    bring(archive, *paths, instances.make(tmp_path, StudyDate="20200101"))
    first, second, _ = (found.path for found in study_of(archive))
    with archive.index.session():
        for place in (first, second):
            Instance.delete().where(Instance.file == place.name).execute()
    (archive.store.root / first).write_bytes(b"nothing")
    archive.journals.aside.append(first)
    stranger = next(archive.store.root.glob("2020/*/*/*/*.dcm"))
    guest = (archive.store.root / first).with_name(stranger.name)
    guest.write_bytes(stranger.read_bytes())
    item = trash.delete(STUDY, "somebody", files=1)
    assert sorted(path.name for path in (archive.store.root / "2024").rglob("*.dcm")) == [stranger.name]
    assert archive.journals.aside.entries() == []
    guest.unlink()
    trash.restore(item.id)
    assert {path.name for path in (archive.store.root / "2024").rglob("*.dcm")} == {
        found.path.name for found in study_of(archive)
    } | {first.name}
    assert len(study_of(archive)) == 2


def test_what_the_check_found_damaged_is_no_problem_once_it_was_deleted(
    archive: Archive, trash: Trash, tmp_path: Path
) -> None:
    bring(archive, instances.make(tmp_path, study=STUDY))
    (place,) = archive.store.instance_files()
    state = {"began": 1.0, "after": str(place), "files": 1, "damaged": [str(place)], "finished": 2.0}
    Scrubber(archive, 0, 1, lambda: False)._save(state)  # type: ignore[arg-type]
    assert "damaged" in summary(archive, lambda _: False)["problem"]
    trash.delete(STUDY, "somebody")
    assert summary(archive, lambda _: False)["problem"] == ""


def test_nothing_is_deleted_that_was_not_looked_at(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    bring(archive, instances.make(tmp_path, study=STUDY))
    with pytest.raises(NoSuchStudy):
        trash.delete(generate_uid(), "somebody")
    bring(archive, instances.make(tmp_path, study=STUDY))
    with pytest.raises(StudyChanged, match="1 files when it was looked at and has 2"):
        trash.delete(STUDY, "somebody", files=1)
    assert len(study_of(archive)) == 2
    assert trash.items() == []


def test_it_refuses_while_storage_or_index_are_not_ready(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    bring(archive, instances.make(tmp_path, study=STUDY))
    before = instances.tree(archive.store.root)
    archive.index.mark(complete=False)
    with pytest.raises(IndexUnavailable, match="being rebuilt"):
        trash.delete(STUDY, "somebody")
    archive.index.mark(complete=True)
    hidden = archive.store.private.with_name(".away")
    archive.store.private.rename(hidden)
    for work in (trash.items, lambda: trash.delete(STUDY, "somebody"), lambda: trash.restore("any")):
        with pytest.raises(NotMounted):
            work()
    trash.finish_interrupted()
    assert not archive.store.private.exists()
    hidden.rename(archive.store.private)
    assert instances.tree(archive.store.root) == before


def test_a_deletion_that_cannot_be_finished_is_undone(
    archive: Archive, trash: Trash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(archive, *(instances.make(tmp_path, study=STUDY, number=number) for number in range(3)))
    before = instances.tree(archive.store.root)
    counts = summary(archive, lambda _: False)["counts"]
    rename, left = os.rename, [2]

    def fails_once(source: str, target: str) -> None:
        if str(source).endswith(".dcm"):
            left[0] -= 1
            if not left[0]:
                raise OSError(errno.EIO, "the disk is ill")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(StorageError, match="the disk is ill"):
        trash.delete(STUDY, "somebody")
    assert trash.items() == []
    assert instances.tree(archive.store.root) == before
    assert summary(archive, lambda _: False)["counts"] == counts


def test_what_is_deleted_while_it_is_checked_is_not_damaged(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    bring(archive, *(instances.make(tmp_path, study=STUDY, number=number) for number in range(3)))
    checked = verify(archive.store)
    assert next(checked).problem == ""
    trash.delete(STUDY, "somebody")
    assert list(checked) == []


def test_what_waits_in_the_journal_goes_with_its_study(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    bring(archive, instances.make(tmp_path, study=STUDY))
    archive.journals.waiting.append(next(archive.store.instance_files()))
    assert archive.behind
    bring(archive, instances.make(tmp_path, study=STUDY))
    item = trash.delete(STUDY, "somebody")
    assert item.files == 2
    assert not archive.behind
    archive.journals.recall_recent()
    archive.ready_index()
    assert study_of(archive) == []
    assert archive.journals.aside.entries() == []


@pytest.mark.parametrize("number", ["", ".", "..", "../incoming", "20240101T000000Z-0123456g", "/etc", "lock"])
def test_an_id_is_no_path(trash: Trash, number: str) -> None:
    for work in (trash.item, trash.restore, trash.empty):
        with pytest.raises(NoSuchItem):
            work(number)


def test_a_damaged_list_moves_nothing(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    bring(archive, instances.make(tmp_path, study=STUDY))
    item = trash.delete(STUDY, "somebody")
    kept = archive.store.private / "trash" / item.id
    (kept / "files.json").write_text('{"places": ["../outside.dcm"]}', encoding="utf-8")
    with pytest.raises(Exception, match="the list of files of .* is damaged"):
        trash.restore(item.id)
    assert len(list(kept.rglob("*.dcm"))) == 1


def test_a_half_emptied_item_is_not_there_any_more(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    bring(archive, instances.make(tmp_path, study=STUDY))
    item = trash.delete(STUDY, "somebody")
    trash._items.note(replace(item, state="emptying"))
    assert trash.items() == []
    with pytest.raises(NoSuchItem):
        trash.restore(item.id)
    trash.finish_interrupted()
    assert not list((archive.store.private / "trash").rglob("*.dcm"))


def test_a_study_the_index_lost_is_described_all_the_same(archive: Archive) -> None:
    assert removing.study(archive.ready_index(), STUDY) is None
    removing.remove_study(archive.ready_index(), STUDY)
    with archive.index.session():
        assert Study.select().count() == 0


# ---- keeping apart


def test_many_share_and_one_is_alone(tmp_path: Path) -> None:
    lock = Exclusion(tmp_path / "lock", lambda: None)
    inside, alone = threading.Barrier(3, timeout=10), threading.Event()

    def share() -> None:
        with lock.shared():
            inside.wait()  # all three are in at once
            assert not alone.is_set()

    def be_alone() -> None:
        with lock.exclusive():
            alone.set()

    with ThreadPoolExecutor(4) as pool, lock.shared():
        work = [pool.submit(share) for _ in range(3)]
        for each in work:
            each.result(10)
        last = pool.submit(be_alone)
        assert not alone.wait(0.1)
        assert not last.done()
    assert alone.is_set()


def test_a_stream_of_those_who_share_does_not_keep_out_the_other(tmp_path: Path) -> None:
    lock = Exclusion(tmp_path / "lock", lambda: None)
    stop, times = threading.Event(), [0, 0]

    def share(number: int) -> None:
        while not stop.is_set():
            with lock.shared():
                times[number] += 1

    with ThreadPoolExecutor(2) as pool:
        for number in range(2):
            pool.submit(share, number)
        try:
            for _ in range(50):
                with lock.exclusive():
                    before = list(times)
                # And those who share get in between.
                wait_until(lambda before=before: times != before, "the others")
        finally:
            stop.set()


def test_those_who_share_hear_of_others_who_were_alone(tmp_path: Path) -> None:
    heard: list[str] = []
    one, other = (Exclusion(tmp_path / "lock", lambda name=name: heard.append(name)) for name in ("one", "other"))  # type: ignore[misc]

    def share() -> list[str]:
        heard.clear()
        for lock in (one, other, one):
            with lock.shared():
                pass
        return list(heard)

    assert share() == ["one", "other"]
    assert share() == []
    with one.exclusive():
        pass
    assert share() == ["one", "other"]
    assert share() == []


def test_a_folder_that_was_removed_is_synced_again(
    archive: Archive, trash: Trash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be there again without being durable: another process has made it and not come to its sync."""
    bring(archive, instances.make(tmp_path, study=STUDY))
    folders = {path for path in archive.store.root.glob("2024/**") if path.is_dir()}
    trash.delete(STUDY, "somebody")
    for folder in sorted(folders):
        folder.mkdir()
    synced: set[Path] = set()
    sync = folder_module.fsync_directory
    monkeypatch.setattr(folder_module, "fsync_directory", lambda path: (synced.add(path), sync(path)))
    bring(archive, instances.make(tmp_path, study=STUDY))
    assert {folder.parent for folder in folders} <= synced


def test_a_link_in_the_folder_of_a_study_is_not_followed(archive: Archive, trash: Trash, tmp_path: Path) -> None:
    """Others can write to a shared folder."""
    bring(archive, instances.make(tmp_path / "sent", study=STUDY))
    (found,) = study_of(archive)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "theirs.dcm").write_bytes(b"theirs")
    study = archive.store.path(found.path).parent.parent
    (study / "link").symlink_to(foreign)
    (study / found.path.parent.name / "one.dcm").symlink_to(foreign / "theirs.dcm")
    item = trash.delete(STUDY, "somebody")
    trash.empty(item.id)
    assert (foreign / "theirs.dcm").read_bytes() == b"theirs"
    assert (study / "link").is_symlink()
