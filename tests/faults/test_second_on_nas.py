"""The second folder on a NAS: set by command, waited for, followed to another volume, and found after a loss."""

import configparser
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from angiovault.dsm.paths import Nas
from faults import instances
from harness import synology
from harness.dcmtk import findscu, storescu
from harness.synology import Supervised
from harness.waiting import wait_until


@pytest.fixture
def nas() -> Iterator[Nas]:
    root = synology.short_folder()
    yield synology.make(root)
    shutil.rmtree(root)


@pytest.fixture
def start(nas: Nas, servers: ExitStack) -> Callable[..., Supervised]:
    """Start the supervisor."""
    return lambda: servers.enter_context(Supervised(nas))


def _setting(nas: Nas, name: str) -> str:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(nas.settings)
    return parser.get("archive", name, fallback="")


def _has_marker(folder: Path) -> bool:
    return (folder / ".angiovault/archive.json").exists()


def _answer(supervisor: Supervised, folder: Path) -> int | None:
    """Send an image, and return the answer if there is one."""
    statuses = storescu(supervisor.peer, [instances.make(folder / "sent")], "-xe").statuses
    return statuses[0] if statuses else None


def test_the_second_folder_is_watched_like_the_first(
    nas: Nas, start: Callable[..., Supervised], tmp_path: Path
) -> None:
    synology.share(nas)
    images = nas.root / "volume2/images"
    images.mkdir(parents=True)
    supervisor = start()
    supervisor.wait_for("running")
    done = synology.command(nas, "use-folder", "--second", images)
    assert done.returncode == 0, done.stderr
    assert f"continues in {images}/archive" in done.stdout
    second = images / "archive"
    wait_until(lambda: _has_marker(second), "the service to make it")
    supervisor.wait_for("running")
    wait_until(lambda: _answer(supervisor, tmp_path) == 0, "an answer")

    # Away, with its empty mount point left, also over a new start.
    images.rename(nas.root / "away")
    images.mkdir()
    said = supervisor.wait_for("share-missing")
    assert str(second) in said["message"]
    assert str(second) in said["message_zh"]
    assert _answer(supervisor, tmp_path) == 0xA700
    supervisor.stop()
    supervisor.start()
    supervisor.wait_for("share-missing")
    assert list(images.iterdir()) == []

    # Back, on another volume.
    images.rmdir()
    (nas.root / "volume3").mkdir()
    (nas.root / "away").rename(nas.root / "volume3/images")
    wait_until(lambda: _setting(nas, "second-storage") == f"{nas.root}/volume3/images/archive", "the new place")
    supervisor.wait_for("running")
    wait_until(lambda: _answer(supervisor, tmp_path) == 0, "an answer")

    done = synology.command(nas, "use-folder", "--no-second")
    assert done.returncode == 0, done.stderr
    supervisor.wait_for("running")
    wait_until(lambda: not _setting(nas, "second-storage"), "the setting to be gone")
    wait_until(lambda: _answer(supervisor, tmp_path) == 0, "an answer")
    assert "Traceback" not in supervisor.log_text()


def test_a_share_that_is_locked_before_the_second_was_made(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    images = nas.root / "volume2/images"
    images.mkdir(parents=True)
    nas.settings.write_text(f"[dicom]\nbind = 127.0.0.1\n[archive]\nsecond-storage = {images}/archive\n")
    (nas.root / "volume2/@images@").mkdir()
    supervisor = start()
    assert "encrypted and not mounted" in supervisor.wait_for("share-missing")["message"]
    assert list(images.iterdir()) == []
    assert supervisor.service == 0
    (nas.root / "volume2/@images@").rmdir()
    wait_until(lambda: _has_marker(images / "archive"), "the service to make it")


@pytest.mark.parametrize("named_by", ["copy", "first folder", "nothing"])
def test_after_the_loss_of_the_nas_both_are_found(
    named_by: str, nas: Nas, start: Callable[..., Supervised], tmp_path: Path
) -> None:
    share = synology.share(nas)
    images = nas.root / "volume2/images"
    images.mkdir(parents=True)
    supervisor = start()
    supervisor.wait_for("running")
    assert synology.command(nas, "use-database", "--embedded").returncode == 0
    assert synology.command(nas, "use-folder", "--second", images).returncode == 0
    wait_until(lambda: _has_marker(images / "archive"), "the service to make it")
    supervisor.wait_for("running")
    study = generate_uid()
    path = instances.make(tmp_path / "sent", study=study)
    wait_until(lambda: storescu(supervisor.peer, [path], "-xe").statuses == [0], "an answer")
    copy = share / "archive/.angiovault/settings/angiovault.ini"
    wait_until(lambda: copy.exists() and "second-storage" in copy.read_text(), "the copy of the settings")
    supervisor.stop()
    # What the first had no room for.
    (year,) = (share / "archive").glob("2*")
    year.rename(images / "archive" / year.name)
    nas.settings.write_text(f"[dicom]\nbind = 127.0.0.1\nport = {supervisor.port}\nunknown-devices = all\n")
    (share / "archive.index.sqlite3").unlink()
    if named_by != "copy":
        shutil.rmtree(copy.parent)
    nas.settings.open("a").write("[archive]\nindex = sqlite:///angiovault.sqlite3\n")
    if named_by == "nothing":
        images.rename(nas.root / "away")
        lost = synology.command(nas, "restore")
        assert lost.returncode == 1
        assert f"{images}/archive is not there" in lost.stderr
        (nas.root / "away").rename(images)
    done = synology.command(nas, "restore")
    assert done.returncode == 0, done.stderr
    assert f"Its second folder is {images}/archive" in done.stdout
    assert _setting(nas, "second-storage") == f"{images}/archive"
    supervisor.start()
    supervisor.wait_for("running")
    found = findscu(supervisor.peer, ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"])
    assert len(found.data_sets) == 1
