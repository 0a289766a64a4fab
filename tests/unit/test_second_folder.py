"""The second folder: made once and never on a mount point, used when the first is full, and no content in both."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pytest
from pydicom.uid import generate_uid

from angiovault.archive import second
from angiovault.archive.adding import Entry
from angiovault.archive.archive import CONFLICT, DUPLICATE, STORED, Archive, Receipt
from angiovault.archive.exchange import exporting, importing
from angiovault.archive.filemeta import Head
from angiovault.archive.finding.selection import Selection, versions
from angiovault.archive.finding.selection import instances as instances_of
from angiovault.archive.folder import Marker, StorageFolder
from angiovault.archive.reindexing import reindex
from angiovault.archive.store import NoRoom, NotMounted, StorageError
from angiovault.archive.trash import Trash
from angiovault.archive.verifying import missing_files, verify
from angiovault.indexurl import IndexURL
from faults import instances

Open = Callable[..., Archive]


@pytest.fixture
def opened(tmp_path: Path, index_url: str) -> Open:
    """Open the archive of the test, once on SQLite and once on MariaDB."""

    def open_archive(second_storage: Path | None = tmp_path / "second", create: bool = True) -> Archive:
        index = IndexURL.parse(index_url, tmp_path)
        archive = Archive(tmp_path / "first", index, second_storage=second_storage)
        archive.open(create=create)
        return archive

    return open_archive


@pytest.fixture
def plainly(tmp_path: Path) -> Open:
    """Open the archive of the test, on SQLite alone."""

    def open_archive(second_storage: Path | None = tmp_path / "second", create: bool = True) -> Archive:
        index = IndexURL("sqlite", path=tmp_path / "index")
        archive = Archive(tmp_path / "first", index, second_storage=second_storage)
        archive.open(create=create)
        return archive

    return open_archive


def _fill(archive: Archive, part: int, monkeypatch: pytest.MonkeyPatch, free: int = 0) -> None:
    """Let the volume of one folder have so much room."""
    monkeypatch.setattr(archive.store.folders[part - 1], "free_bytes", lambda: (free, 1 << 40))


def _receive(archive: Archive, path: Path) -> Receipt:
    file = instances.part10.read(path)
    sop_class = str(file.meta.MediaStorageSOPClassUID)
    with archive.receive(sop_class, file.sop_instance_uid, file.transfer_syntax, "SENDER") as reception:
        reception.write(file.data_set())
        return reception.finish()


def _marker(folder: Path) -> dict[str, object]:
    found = json.loads((folder / ".angiovault" / "archive.json").read_text())
    assert isinstance(found, dict)
    return found


def _trees(archive: Archive) -> list[int]:
    return [len(list(folder.instance_files())) for folder in archive.store.folders]


# --- In use ---------------------------------------------------------------------------------------------------------


def test_the_archive_continues_in_the_second_folder_and_comes_back(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = opened()
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(3)]
    places = []
    for path, free in zip(paths, (1, 0, 1), strict=True):
        _fill(archive, 1, monkeypatch, free)
        receipt = _receive(archive, path)
        assert receipt.outcome == STORED
        places.append(receipt.place)
    assert [place.parts[0] for place in places] == ["2024", "+2", "2024"]
    assert archive.store.path(places[1]).is_relative_to(tmp_path / "second" / "2024")
    for path, place in zip(paths, places, strict=True):
        (found,) = versions(archive.ready_index(), instances.part10.read(path).sop_instance_uid)
        assert found.path == place
        with archive.open_instance(found) as (file, _):
            assert file.read() == instances.part10.read(path).data_set()
    assert [finding.problem for finding in verify(archive.store)] == [""] * 3
    assert list(missing_files(archive.store, archive.ready_index())) == []
    assert {item.problem for item in reindex(archive)} == {""}
    assert len(versions(archive.ready_index(), instances.part10.read(paths[1]).sop_instance_uid)) == 1
    archive.store.path(places[1]).unlink()
    assert list(missing_files(archive.store, archive.ready_index())) == [places[1]]
    archive.close()
    for folder in ("first", "second"):
        assert not list((tmp_path / folder / ".angiovault" / "incoming").iterdir())


def test_nothing_is_taken_in_when_both_are_full(plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = plainly()
    _fill(archive, 1, monkeypatch)
    _fill(archive, 2, monkeypatch)
    with pytest.raises(NoRoom, match="full"):
        _receive(archive, instances.make(tmp_path / "sent"))
    assert archive.store.free_bytes() == (0, 1 << 40)  # both are on one volume here, counted once
    archive.close()


def test_an_instance_that_did_not_fit_is_followed_by_one_in_the_second_folder(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much the first still has: the next would not fit either, and be refused for ever."""
    archive = plainly()
    path = instances.make(tmp_path / "sent")
    write = os.pwrite
    volume = os.statvfs(tmp_path)

    def full(descriptor: int, data: memoryview, at: int) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(tmp_path / "first"):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return write(descriptor, data, at)

    file = instances.part10.read(path)
    sop_class = str(file.meta.MediaStorageSOPClassUID)
    with archive.receive(sop_class, file.sop_instance_uid, file.transfer_syntax, "SENDER") as reception:
        monkeypatch.setattr(os, "pwrite", full)
        reception.write(file.data_set())
        with pytest.raises(NoRoom):
            reception.finish()
    assert _receive(archive, path).place.parts[0] == "+2"
    monkeypatch.setattr(os, "pwrite", write)
    assert _receive(archive, instances.make(tmp_path / "sent")).place.parts[0] == "+2"
    # Once there is more than twice the room in which it did not fit, the first is tried again.
    more = os.statvfs_result((*volume[:3], 3 * volume.f_blocks, 3 * volume.f_blocks, *volume[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: more)
    assert _receive(archive, instances.make(tmp_path / "sent")).place.parts[0] == "2024"
    archive.close()


def test_a_first_folder_that_takes_no_more_names_is_full(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = plainly()

    def none_left(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archive.store.folders[0].incoming, "begin", none_left)
    assert _receive(archive, instances.make(tmp_path / "sent")).place.parts[0] == "+2"
    archive.close()


@pytest.mark.parametrize("parts", [(1, 2), (2, 1)])
def test_the_same_content_sent_again_is_found_in_the_other_folder(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[int, int]
) -> None:
    archive = opened()
    path = instances.make(tmp_path / "sent")
    before, now = parts
    _fill(archive, 1, monkeypatch, free=before == 1)
    first = _receive(archive, path)
    assert first.outcome == STORED
    _fill(archive, 1, monkeypatch, free=now == 1)
    again = _receive(archive, path)
    assert again.outcome == DUPLICATE
    assert again.place == first.place
    assert sum(_trees(archive)) == 1
    assert [path for path in archive.store.folders[now - 1].root.iterdir() if path.name[0] != "."] == []
    other = instances.make(tmp_path / "sent", uid=instances.part10.read(path).sop_instance_uid, seed=1)
    assert _receive(archive, other).outcome == CONFLICT
    archive.close()


@pytest.mark.parametrize("parts", [(1, 2), (2, 1)])
def test_a_damaged_twin_is_put_aside_and_the_index_knows_the_sound_one(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[int, int]
) -> None:
    archive = opened()
    path = instances.make(tmp_path / "sent")
    before, now = parts
    _fill(archive, 1, monkeypatch, free=before == 1)
    first = _receive(archive, path)
    assert first.outcome == STORED
    with archive.store.path(first.place).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    _fill(archive, 1, monkeypatch, free=now == 1)
    again = _receive(archive, path)
    assert again.outcome == DUPLICATE
    assert again.place != first.place
    assert not archive.store.path(first.place).exists()
    assert archive.store.path(first.place).with_suffix(".damaged").exists()
    (found,) = versions(archive.ready_index(), first.header.sop_instance_uid)
    assert found.path == again.place
    with archive.open_instance(found) as (file, _):
        assert file.read() == instances.part10.read(path).data_set()
    archive.close()


def test_a_twin_that_is_removed_before_it_was_indexed(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was received is put in its own place then, though another stood for it when it was tried first."""
    archive = plainly()
    path = instances.make(tmp_path / "sent")
    first = _receive(archive, path)
    assert first.outcome == STORED
    _fill(archive, 1, monkeypatch)
    index = archive.settler._index

    def fail_once(entries: Sequence[Entry]) -> list[str]:
        monkeypatch.setattr(archive.settler, "_index", index)
        assert [entry.place for entry in entries] == [first.place]
        archive.store.path(first.place).unlink()
        raise StorageError("neither index nor journal")

    monkeypatch.setattr(archive.settler, "_index", fail_once)
    again = _receive(archive, path)
    with contextlib.suppress(StorageError):  # that of the first try, if it is asked for in time
        assert again.outcome == DUPLICATE
    assert again.outcome == DUPLICATE
    (found,) = versions(archive.ready_index(), first.header.sop_instance_uid)
    assert found.path == again.place == "+2" / first.place
    assert archive.store.path(again.place).exists()
    archive.close()


def test_two_processes_that_place_the_same_content_take_turns(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has the first folder and one the second: whoever comes later finds what the other has placed."""
    one, other = plainly(), plainly(create=False)
    _fill(one, 1, monkeypatch)
    path = instances.make(tmp_path / "sent")
    with one.store.placing():
        waiting = _receive(other, path)
        late = _receive(one, path)
        assert _trees(one) == [0, 0]
    assert sorted((waiting.outcome, late.outcome)) == [DUPLICATE, STORED]
    assert sum(_trees(one)) == 1
    assert waiting.place == late.place
    one.close()
    other.close()


def test_what_was_acknowledged_in_the_second_folder_is_settled_by_the_next_start(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = opened()
    monkeypatch.setattr(archive.settler, "_start", lambda: None)  # as if killed before
    uids = []
    for free in (1, 0):
        _fill(archive, 1, monkeypatch, free)
        uids.append(_receive(archive, instances.make(tmp_path / "sent")).header.sop_instance_uid)
    (tmp_path / "second" / ".angiovault" / "incoming" / "unfinished").touch()
    archive.index.close()
    again = opened()
    again.store.incoming.remove_unfinished()
    assert [len(versions(again.ready_index(), uid)) for uid in uids] == [1, 1]
    assert _trees(again) == [1, 1]
    assert not list((tmp_path / "second" / ".angiovault" / "incoming").iterdir())
    again.close()


# --- Coming and going -----------------------------------------------------------------------------------------------


def test_the_second_folder_is_made_once_with_a_marker_of_its_own(plainly: Open, tmp_path: Path) -> None:
    archive = plainly()
    first, made = _marker(tmp_path / "first"), _marker(tmp_path / "second")
    assert (made["id"], made["part"]) == (first["id"], 2)
    assert made["key"] == first["key"]
    assert first["second"] == str(tmp_path / "second")
    assert (tmp_path / "second").stat().st_mode & 0o007 == 0
    archive.close()
    plainly().close()
    assert _marker(tmp_path / "second") == made


def test_it_is_not_made_by_one_who_may_not_make_an_archive(plainly: Open, tmp_path: Path) -> None:
    plainly(second_storage=None).close()
    archive = plainly(create=False)
    assert not (tmp_path / "second").exists()
    assert len(archive.store.folders) == 1
    # It takes part when another process makes it.
    plainly().close()
    archive.check()
    assert len(archive.store.folders) == 2
    archive.close()


def test_a_process_without_the_setting_stops_when_another_makes_it(plainly: Open, tmp_path: Path) -> None:
    archive = plainly(second_storage=None)
    plainly().close()
    with pytest.raises(NotMounted, match="name the folder in the setting second-storage"):
        _receive(archive, instances.make(tmp_path / "sent"))
    archive.close()


@pytest.mark.parametrize("away", ["first", "second"])
def test_nothing_works_while_one_of_them_is_away(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    archive = opened()
    _fill(archive, 1, monkeypatch)
    receipt = _receive(archive, instances.make(tmp_path / "sent"))
    assert receipt.outcome == STORED
    (tmp_path / away).rename(tmp_path / "away")
    (tmp_path / away).mkdir()
    for refused in (
        lambda: _receive(archive, instances.make(tmp_path / "sent")),
        archive.ready_index,
        lambda: list(reindex(archive)),
        lambda: list(importing.import_paths(archive, [tmp_path / "sent"])),
        lambda: opened(create=False),
        opened,
    ):
        with pytest.raises(NotMounted, match="is the volume or shared folder mounted|mount the volume"):
            refused()  # type: ignore[operator]
    assert list((tmp_path / away).iterdir()) == []
    (tmp_path / away).rmdir()
    (tmp_path / "away").rename(tmp_path / away)
    assert len(versions(archive.ready_index(), receipt.header.sop_instance_uid)) == 1
    archive.close()


def test_only_an_empty_one_can_be_taken_away(plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly().close()
    plainly(second_storage=None).close()
    assert "key" not in _marker(tmp_path / "first")
    archive = plainly()
    _fill(archive, 1, monkeypatch)
    receipt = _receive(archive, instances.make(tmp_path / "sent"))
    assert receipt.outcome == STORED
    archive.close()
    remembered = _marker(tmp_path / "first")
    for chosen in (None, tmp_path / "third"):
        with pytest.raises(NotMounted, match=f"was last {tmp_path / 'second'}.*Only an empty one may be taken away"):
            plainly(second_storage=chosen)
    assert _marker(tmp_path / "first") == remembered
    assert not (tmp_path / "third").exists()
    # Moved by the administrator, it is found where the settings say.
    (tmp_path / "second").rename(tmp_path / "third")
    archive = plainly(second_storage=tmp_path / "third")
    assert len(versions(archive.ready_index(), receipt.header.sop_instance_uid)) == 1
    assert _marker(tmp_path / "first")["second"] == str(tmp_path / "third")
    archive.close()


def test_one_that_is_just_being_used_is_not_taken_away(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = plainly()
    _fill(archive, 1, monkeypatch)
    arriving = archive.store.begin("1.2.840.10008.5.1.4.1.1.7", "1.2.3", "1.2.840.10008.1.2.1", "SENDER")
    monkeypatch.setattr("angiovault.archive.incoming._owner", lambda _: "others")  # as another process sees it
    with pytest.raises(NotMounted, match="Only an empty one"):
        plainly(second_storage=None)
    arriving.discard()
    archive.store.incoming.drop_spares()
    # Taken away between the look at the marker and the making of the file: that instance is not begun there.
    begin = archive.store.folders[1].incoming.begin

    def begin_late(head: Head, received: str) -> object:
        second.settle(archive.store.folders[0], None)
        return begin(head, received)

    monkeypatch.setattr(archive.store.folders[1].incoming, "begin", begin_late)
    with pytest.raises(NotMounted, match="taken out"):
        archive.store.begin("1.2.840.10008.5.1.4.1.1.7", "1.2.3", "1.2.840.10008.1.2.1", "SENDER")
    archive.close()


def test_another_empty_folder_in_its_stead(plainly: Open, tmp_path: Path) -> None:
    plainly().close()
    plainly(second_storage=tmp_path / "third").close()
    assert _marker(tmp_path / "first")["second"] == str(tmp_path / "third")
    # What was the second once is taken again, by a process that is cut off before it is remembered, too.
    plainly().close()
    assert _marker(tmp_path / "first")["key"] == _marker(tmp_path / "second")["key"]


def test_a_second_folder_that_was_cut_off_while_it_was_made(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly(second_storage=None).close()

    write = StorageFolder.write_marker

    def write_second_only(folder: StorageFolder, marker: Marker) -> None:
        if folder.part == 1:
            raise KeyboardInterrupt
        write(folder, marker)

    with monkeypatch.context() as patch:
        patch.setattr(StorageFolder, "write_marker", write_second_only)
        with pytest.raises(KeyboardInterrupt):
            plainly()
    assert "key" not in _marker(tmp_path / "first")
    plainly(second_storage=None).close()  # nothing is lost without it
    made = _marker(tmp_path / "second")
    plainly().close()
    assert _marker(tmp_path / "second") == made
    assert _marker(tmp_path / "first")["key"] == made["key"]


@pytest.mark.parametrize("chosen", ["first", "first/second", ".", "link/second"])
def test_one_folder_in_the_other_is_refused(plainly: Open, tmp_path: Path, chosen: str) -> None:
    plainly(second_storage=None).close()
    (tmp_path / "link").symlink_to(tmp_path / "first")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match="lie in one another|is the first folder"):
        plainly(second_storage=tmp_path / chosen)
    assert sorted(tmp_path.rglob("*")) == before
    assert "key" not in _marker(tmp_path / "first")


def test_what_cannot_be_a_second_folder(plainly: Open, tmp_path: Path) -> None:
    plainly(second_storage=None).close()
    with pytest.raises(NotMounted, match="is the volume or shared folder mounted"):
        plainly(second_storage=tmp_path / "not" / "there")
    full = tmp_path / "full"
    full.mkdir()
    (full / "holiday.jpg").touch()
    with pytest.raises(StorageError, match=r"is not empty \(holiday.jpg"):
        plainly(second_storage=full)
    other = Archive(tmp_path / "other", IndexURL("sqlite", path=tmp_path / "other-index"))
    other.open()
    other.close()
    with pytest.raises(NotMounted, match="is the first folder of archive"):
        plainly(second_storage=tmp_path / "other")
    assert not (tmp_path / "not").exists()
    assert sorted(path.name for path in full.iterdir()) == ["holiday.jpg"]


def test_the_second_folder_is_no_first_one_and_another_second_is_not_taken(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = plainly()
    _fill(archive, 1, monkeypatch)
    assert _receive(archive, instances.make(tmp_path / "sent")).outcome == STORED
    archive.close()
    swapped = Archive(tmp_path / "second", IndexURL("sqlite", path=tmp_path / "index"))
    with pytest.raises(NotMounted, match="is the second folder of archive"):
        swapped.open(create=False)
    marker = tmp_path / "second" / ".angiovault" / "archive.json"
    marker.write_text(json.dumps(_marker(tmp_path / "second") | {"key": "0" * 16}))
    with pytest.raises(NotMounted, match="is not the second folder of this archive"):
        plainly(create=False)
    marker.write_text(json.dumps(_marker(tmp_path / "second") | {"id": "0" * 32}))
    with pytest.raises(NotMounted, match="holds another archive"):
        plainly()


def test_a_strangers_folder_of_that_name_in_the_first_is_not_looked_at(plainly: Open, tmp_path: Path) -> None:
    archive = plainly()
    stranger = tmp_path / "first" / "+2" / "2024"
    stranger.mkdir(parents=True)
    shutil.copy(instances.make(tmp_path / "sent"), stranger / "1.dcm")
    assert list(archive.store.instance_files()) == []
    assert not archive.store.path(PurePosixPath("+2/2024/1.dcm")).exists()
    archive.close()


# --- Import and export ----------------------------------------------------------------------------------------------


def test_import_and_export_keep_out_of_both_folders(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = plainly()
    _fill(archive, 1, monkeypatch)
    receipt = _receive(archive, instances.make(tmp_path / "sent"))
    assert receipt.outcome == STORED
    (refused,) = importing.import_paths(archive, [tmp_path / "second"], move=True)
    assert "storage of the archive itself" in refused.reason
    with pytest.raises(exporting.CannotExport):
        list(exporting.export(archive, [receipt.header.study_instance_uid], tmp_path / "second" / "out"))
    assert archive.store.path(receipt.place).exists()
    archive.close()


def test_an_import_that_finds_a_twin_in_the_other_folder(
    plainly: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = plainly()
    path = instances.make(tmp_path / "sent")
    assert _receive(archive, path).outcome == STORED
    _fill(archive, 1, monkeypatch)
    assert [item.outcome for item in importing.import_paths(archive, [path])] == [DUPLICATE]
    assert [item.outcome for item in importing.import_paths(archive, [path])] == [importing.DONE_BEFORE]
    (moved,) = importing.import_paths(archive, [path], move=True)
    assert (moved.outcome, moved.reason) == (DUPLICATE, "")
    assert not path.exists()
    assert _trees(archive) == [1, 0]
    archive.close()


# --- Deleting and restoring -----------------------------------------------------------------------------------------


def test_a_study_in_both_folders_goes_into_the_trash_and_comes_back(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file stays on its volume; what was sent again meanwhile, to either folder, is there once."""
    archive = opened()
    trash, study = Trash(archive), generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(4)]
    digests = instances.digests(paths)
    for path, free in zip(paths, (1, 0, 0, 1), strict=True):
        _fill(archive, 1, monkeypatch, free)
        assert _receive(archive, path).outcome == STORED
    assert _trees(archive) == [2, 2]

    item = trash.delete(study, "somebody")
    assert (item.files, _trees(archive)) == (4, [0, 0])
    for name in ("first", "second"):
        assert len(list(tmp_path.glob(f"{name}/.angiovault/trash/{item.id}/files/**/*.dcm"))) == 2
    assert (tmp_path / "second").is_dir()
    assert {entry.name for entry in (tmp_path / "second").iterdir()} == {".angiovault"}

    # Sent again: the first into the second folder, the second one, broken there since, into the first.
    for path, free in zip(paths[:2], (0, 1), strict=True):
        _fill(archive, 1, monkeypatch, free)
        assert _receive(archive, path).outcome == STORED
    (broken,) = archive.store.folders[0].instance_files()
    with (tmp_path / "first" / broken).open("r+b") as file:
        file.truncate(file.seek(-1, os.SEEK_END))
    trash.restore(item.id)
    archive.ready_index()
    assert {item.problem for item in verify(archive.store)} == {""}
    assert list(missing_files(archive.store, archive.ready_index())) == []
    found = instances_of(archive.ready_index(), Selection(study_uids=[study]))
    assert {each.sop_instance_uid: each.digest for each in found} == digests
    assert sum(_trees(archive)) == 4
    assert not list(tmp_path.glob(f"*/.angiovault/trash/{item.id}"))

    item = trash.delete(study, "somebody")
    trash.empty(item.id)
    assert not list(tmp_path.glob(f"*/.angiovault/trash/{item.id}"))
    archive.close()
