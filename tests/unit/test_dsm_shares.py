"""Which folder holds the images, and when an archive may be made in it."""

import json
import os
import stat
from pathlib import Path

import pytest

from angiovault.archive.archive import Archive
from angiovault.config import load
from angiovault.dsm import folders, settings, shares
from angiovault.dsm.paths import Nas
from angiovault.dsm.shares import Place
from angiovault.dsm.texts import Problem
from angiovault.indexurl import IndexURL
from faults import instances
from harness import synology

ID = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2


@pytest.fixture
def nas(tmp_path: Path) -> Nas:
    nas = synology.make(tmp_path)
    nas.settings.write_text("[archive]\n")
    return nas


def _archive(storage: Path, archive_id: str = ID) -> Path:
    (storage / ".angiovault").mkdir(parents=True)
    (storage / ".angiovault/archive.json").write_text(json.dumps({"id": archive_id}))
    return storage


def _problem(nas: Nas, storage: Path | None = None, archive_id: str = "") -> str:
    with pytest.raises(Problem) as caught:
        shares.find(nas, storage, archive_id)
    return caught.value.text.key


def test_there_is_no_share_yet(nas: Nas) -> None:
    assert shares.folders(nas) == []
    assert _problem(nas) == "share_missing"
    assert _problem(nas, nas.root / "volume1/angiography/archive", ID) == "share_missing"


def test_a_new_share_may_get_an_archive_and_an_old_one_not(nas: Nas) -> None:
    folder = synology.share(nas)
    assert shares.folders(nas) == [nas.share_link, folder]
    assert shares.find(nas, None, "") is None
    assert _problem(nas, None, ID) == "archive_missing"
    assert _problem(nas, folder / "archive", ID) == "archive_missing"


def test_the_marker_decides(nas: Nas) -> None:
    synology.share(nas)
    second = synology.share(Nas(nas.root), volume=2)
    nas.share_link.unlink()
    nas.share_link.symlink_to(nas.root / "volume1/angiography")
    archive = _archive(second / "archive")
    assert shares.find(nas, None, "") == Place(archive, ID)
    assert shares.find(nas, None, ID) == Place(archive, ID)
    assert shares.find(nas, nas.share_link / "archive", ID) == Place(archive, ID)
    assert _problem(nas, archive, OTHER) == "archive_missing"
    elsewhere = _archive(nas.root / "volume2/images/archive", OTHER)
    assert shares.find(nas, elsewhere, OTHER) == Place(elsewhere, OTHER)
    assert shares.find(nas, elsewhere, "") == Place(elsewhere, OTHER)


def test_a_folder_of_the_administrators_is_not_exchanged_for_another(nas: Nas) -> None:
    """What the settings say is meant, also before anything was made there."""
    _archive(synology.share(nas) / "archive")
    chosen = nas.root / "volume1/images"
    chosen.mkdir()
    assert shares.find(nas, chosen / "archive", "") is None
    assert _problem(nas, nas.root / "volume1/nothing/archive", "") == "share_missing"


def test_dsm6_has_no_link(tmp_path: Path) -> None:
    nas = synology.make(tmp_path, generation=6)
    folder = synology.share(nas)
    assert shares.folders(nas) == [folder]


def test_a_locked_share_is_no_share(nas: Nas) -> None:
    folder = synology.share(nas)
    (nas.root / "volume1/@angiography@").mkdir()
    assert _problem(nas) == "share_locked"
    assert _problem(nas, nas.share_link / "archive", ID) == "share_locked"
    assert _problem(nas, folder / "archive", ID) == "share_locked"
    with pytest.raises(Problem, match="encrypted and not mounted"):
        shares.create(folder / "archive", load(nas.settings))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", "{\xff"])
def test_a_marker_that_cannot_be_read(nas: Nas, content: str) -> None:
    storage = _archive(synology.share(nas) / "archive")
    (storage / ".angiovault/archive.json").write_bytes(content.encode("latin-1"))
    assert _problem(nas) == "share_failing"


def test_the_first_archive(nas: Nas) -> None:
    storage = synology.share(nas) / "archive"
    place = shares.create(storage, load(nas.settings, {"storage": str(storage)}))
    assert place.storage == storage
    assert shares.marker_of(storage) == place.archive_id
    assert shares.is_there(place)
    assert (storage.parent / "archive.index.sqlite3").exists()
    assert shares.create(storage, load(nas.settings, {"storage": str(storage)})) == place
    assert sorted(path.name for path in storage.parent.iterdir() if "probe" in path.name) == []


def test_an_index_that_knows_an_archive_gets_no_other(nas: Nas) -> None:
    storage = synology.share(nas) / "archive"
    config = load(nas.settings, {"storage": str(storage)})
    place = shares.create(storage, config)
    for path in sorted(storage.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(Problem, match=f"does not hold archive {place.archive_id}"):
        shares.create(storage, config)
    assert list(storage.iterdir()) == []


def test_a_folder_that_holds_something_else_gets_no_archive(nas: Nas) -> None:
    storage = synology.share(nas) / "archive"
    storage.mkdir()
    (storage / "holiday.jpg").touch()
    with pytest.raises(Problem, match="is not empty"):
        shares.create(storage, load(nas.settings, {"storage": str(storage)}))


def test_no_share_is_ever_made(nas: Nas) -> None:
    storage = nas.root / "volume1/angiography/archive"
    with pytest.raises(Problem, match="No such file"):
        shares.create(storage, load(nas.settings, {"storage": str(storage)}))
    assert not storage.parent.exists()


def test_the_probe_leaves_nothing_and_changes_no_mode(nas: Nas) -> None:
    folder = synology.share(nas)
    folder.chmod(0o751)
    (folder / f".angiovault-probe-{os.getpid()}").touch()  # of a run that could not delete it
    shares.probe(folder)
    assert list(folder.iterdir()) == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o751
    with pytest.raises(Problem, match="No such file"):
        shares.probe(folder / "nothing")


# ---- another folder


def _used(nas: Nas, storage: Path) -> settings.Settings:
    """Have the settings know an archive in a folder."""
    archive = Archive(storage, IndexURL("sqlite", path=nas.root / "index"))
    archive.open()
    archive.close()
    nas.settings.write_text(f"[archive]\nstorage = {storage}\narchive-id = {archive.store.read_marker()}\n")
    return settings.read(nas)


def _receive(known: settings.Settings, folder: Path) -> None:
    assert known.storage
    archive = Archive(known.storage, IndexURL("sqlite", path=folder / "index"))
    archive.open()
    path = instances.make(folder / "sent")
    file = instances.part10.read(path)
    with archive.receive(
        str(file.meta.MediaStorageSOPClassUID), file.sop_instance_uid, file.transfer_syntax, "SENDER"
    ) as reception:
        reception.write(file.data_set())
        reception.finish()
    archive.close()


def test_another_folder_while_nothing_was_stored(nas: Nas) -> None:
    known = _used(nas, synology.share(nas) / "archive")
    images = nas.root / "volume1/images"
    images.mkdir()
    place = folders.use_folder(nas, images)
    assert place.storage == images / "archive"
    assert place.archive_id != known.config.archive_id
    now = settings.read(nas)
    assert (now.storage, now.config.archive_id) == (place.storage, place.archive_id)
    assert folders.use_folder(nas, images) == place  # once more
    assert folders.use_folder(nas, images / "archive") == place


def test_another_folder_with_an_archive_while_nothing_was_stored(nas: Nas) -> None:
    _used(nas, synology.share(nas) / "archive")
    images = _archive(nas.root / "volume1/images")
    assert folders.use_folder(nas, images) == Place(images, ID)


def test_an_archive_with_images_is_not_left_behind(nas: Nas, tmp_path: Path) -> None:
    known = _used(nas, synology.share(nas) / "archive")
    _receive(known, tmp_path)
    images = nas.root / "volume1/images"
    images.mkdir()
    with pytest.raises(Problem, match="Stop the package, move the folder"):
        folders.use_folder(nas, images)
    assert list(images.iterdir()) == []
    assert settings.read(nas) == known
    assert known.storage
    known.storage.rename(images / "archive")  # what the message says
    assert folders.use_folder(nas, images) == Place(images / "archive", known.config.archive_id)


def test_an_archive_that_is_not_to_be_seen_is_not_left_behind(nas: Nas) -> None:
    share = synology.share(nas)
    _used(nas, share / "archive")
    share.rename(nas.root / "away")
    images = nas.root / "volume1/images"
    images.mkdir()
    with pytest.raises(Problem, match="not to be seen"):
        folders.use_folder(nas, images)


def test_folders_that_are_none(nas: Nas) -> None:
    with pytest.raises(Problem, match="not the full path"):
        folders.use_folder(nas, Path("images"))
    with pytest.raises(Problem, match="There is no folder"):
        folders.use_folder(nas, nas.root / "volume1/images")


# ---- a second folder


@pytest.fixture
def place(nas: Nas) -> Place:
    known = _used(nas, synology.share(nas) / "archive")
    assert known.storage
    (nas.root / "volume2/images").mkdir(parents=True)
    return Place(known.storage, known.config.archive_id)


def _start(nas: Nas) -> None:
    """Do what the service does first."""
    config = settings.read(nas).config
    archive = Archive(
        config.storage, IndexURL("sqlite", path=nas.root / "index"), 0, config.archive_id, config.second_storage
    )
    archive.open()
    archive.close()


def _missing(nas: Nas, place: Place, *wanted: Path) -> str:
    with pytest.raises(Problem) as caught:
        shares.find_second(nas, place, wanted)
    return caught.value.text.key


def test_a_second_folder_is_set_and_made_by_the_service(nas: Nas, place: Place) -> None:
    images = nas.root / "volume2/images"
    assert folders.use_second(nas, images) == images / "archive"
    assert list(images.iterdir()) == []
    assert settings.find_second(nas, place, images / "archive") == (Place(*_of(place), images / "archive"), None)
    assert not shares.is_there(Place(*_of(place), images / "archive"))
    _start(nas)
    assert shares.is_there(Place(*_of(place), images / "archive"))
    assert shares.marker_of(images / "archive") == ""  # it is no archive of its own
    assert folders.use_second(nas, images) == images / "archive"
    assert folders.use_second(nas, images / "archive") == images / "archive"
    assert folders.use_second(nas, None) is None
    _start(nas)
    assert settings.read(nas).config.second_storage is None
    assert shares.remembered_second(place) == ("", None)


def _of(place: Place) -> tuple[Path, str]:
    return place.storage, place.archive_id


def test_a_second_folder_that_is_away_or_elsewhere(nas: Nas, place: Place) -> None:
    images = nas.root / "volume2/images"
    wanted = folders.use_second(nas, images)
    assert wanted
    images.rename(nas.root / "away")
    assert _missing(nas, place, wanted) == "second_missing"  # nothing is made on a mount point
    with pytest.raises(Problem):
        settings.find_second(nas, place, wanted)
    (nas.root / "away").rename(images)
    _start(nas)
    for mount_point in (False, True):
        images.rename(nas.root / "away")
        if mount_point:
            images.mkdir()
        assert _missing(nas, place, wanted) == "second_missing"
        found, problem = settings.find_second(nas, place, wanted)
        assert problem is not None
        assert found.second == wanted
        if mount_point:
            images.rmdir()
        (nas.root / "away").rename(images)
    images.rename(nas.root / "volume2/@images@")
    images.mkdir()
    assert _missing(nas, place, wanted) == "share_locked"
    images.rmdir()
    (nas.root / "volume3").mkdir()
    (nas.root / "volume2/@images@").rename(nas.root / "volume3/images")
    moved = nas.root / "volume3/images/archive"
    assert settings.find_second(nas, place, wanted) == (Place(*_of(place), moved), None)
    assert settings.read(nas).config.second_storage == moved
    # Another archive's second folder, or another one of this archive's, is not taken for it.
    marker = moved / ".angiovault/archive.json"
    said = json.loads(marker.read_text())
    for other in ({"id": OTHER}, {"key": "0" * 16}, {"part": 1}):
        marker.write_text(json.dumps({**said, **other}))
        assert _missing(nas, place, moved) == "second_missing"
    marker.write_text("{")
    assert _missing(nas, place, moved) == "share_failing"


def test_what_cannot_be_a_second_folder_on_a_nas(nas: Nas, place: Place) -> None:
    images = nas.root / "volume2/images"
    for folder, match in (
        (Path("images"), "not the full path"),
        (nas.root / "volume2/none", "There is no folder"),
        (place.storage, "is the first folder of archive"),
        (place.storage.parent, "is the first folder of archive"),
    ):
        with pytest.raises(Problem, match=match):
            folders.use_second(nas, folder)
    (images / "archive").mkdir()
    (images / "archive/holiday.jpg").touch()
    with pytest.raises(Problem, match="is not empty"):
        folders.use_second(nas, images)
    (nas.root / "volume2/@images@").mkdir()
    with pytest.raises(Problem, match="encrypted"):
        folders.use_second(nas, images)
    assert settings.read(nas).config.second_storage is None


def test_another_first_folder_has_no_second(nas: Nas, place: Place) -> None:
    """Both were empty; the second would be one of an archive that is no more."""
    folders.use_second(nas, nas.root / "volume2/images")
    _start(nas)
    other = nas.root / "volume1/other"
    other.mkdir()
    assert folders.use_folder(nas, other).archive_id != place.archive_id
    assert settings.read(nas).config.second_storage is None


def test_a_second_folder_with_images_is_not_left_behind(nas: Nas, place: Place, tmp_path: Path) -> None:
    images = nas.root / "volume2/images"
    folders.use_second(nas, images)
    _start(nas)
    path = images / "archive/2024/2024-01/study/series/1.dcm"
    path.parent.mkdir(parents=True)
    path.touch()
    for chosen in (None, images.with_name("other")):
        if chosen:
            chosen.mkdir()
        with pytest.raises(Problem, match="Only an empty one may be taken away"):
            folders.use_second(nas, chosen)
    other = nas.root / "volume1/other"
    other.mkdir()
    with pytest.raises(Problem, match="not empty"):
        folders.use_folder(nas, other)
    assert settings.read(nas).config.second_storage == images / "archive"
