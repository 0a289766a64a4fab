"""The storage is away, another's, read-only, full: A700, a reason in the log, and all is well when that is over."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from faults import instances
from harness.dcmtk import echoscu, findscu, getscu, storescu
from harness.mariadb import MariaDB
from harness.processes import program
from harness.service import Service
from harness.settling import settled
from harness.waiting import wait_until

A700 = 0xA700


def _stores(server: Service, path: Path) -> bool:
    return storescu(server.peer, [path], "-xe").statuses == [0]


def _refuses(server: Service, path: Path, study: str, reason: str) -> None:
    """Check that storing, queries and retrievals are answered A700 (or its like), and that the log says why."""
    assert storescu(server.peer, [path], "-xe").statuses == [A700]
    keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"]
    assert findscu(server.peer, keys).final.status == A700
    assert getscu(server.peer, keys, server.folder / "nothing").final.status in (A700, 0xA701, 0xA702)
    echoscu(server.peer).ok()
    assert reason in server.log_text()


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def test_a_storage_that_is_not_mounted_is_no_new_archive(
    engine: str, service: Callable[..., Service], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mariadb: MariaDB | None = request.getfixturevalue("mariadb") if engine == "mariadb" else None
    server = service(index=mariadb.database() if mariadb else None, unknown_devices="all")
    study = generate_uid()
    first, second, third = (instances.make(tmp_path / "sent", study=study, number=number) for number in range(3))
    sent = instances.digests([first, third])
    assert _stores(server, first)
    server.stop()

    # Away at the start: the mount point is there and empty, or not there at all.
    away = tmp_path / "away"
    server.storage.rename(away)
    server.storage.mkdir()
    server.start()
    _refuses(server, second, study, "does not hold archive")
    assert "mount the volume or correct the storage setting" in server.log_text()
    assert list(server.storage.iterdir()) == []
    status = server.cli("status", check=False)
    assert status.returncode == 1
    assert "is the volume or shared folder mounted?" in status.stdout
    for command in (["reindex"], ["verify"], ["import", tmp_path / "sent"]):
        done = server.cli(*command, check=False)
        assert done.returncode == 1
        assert "mounted" in done.stderr or "mount the volume" in done.stderr
    if mariadb:  # nobody can say whether there was an archive
        mariadb.stop()
        server.stop()
        server.start()
        _refuses(server, second, study, "whether it should cannot be asked")
        mariadb.start()
    server.storage.rmdir()
    _refuses(server, second, study, "does not hold archive")
    assert not server.storage.exists()

    # Back again: it goes on by itself.
    away.rename(server.storage)
    wait_until(lambda: _stores(server, third), "the service to use the storage that came back")
    wait_until(lambda: server.cli("status", check=False).returncode == 0, "the index to be complete")
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def test_a_storage_that_goes_away_while_the_service_runs(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    study = generate_uid()
    first, second = (instances.make(tmp_path / "sent", study=study, number=number) for number in range(2))
    assert _stores(server, first)
    away = tmp_path / "away"
    server.settled().rename(away)
    _refuses(server, second, study, "is the volume or shared folder mounted?")
    server.storage.mkdir()
    _refuses(server, second, study, "is the volume or shared folder mounted?")
    assert list(server.storage.iterdir()) == []

    # Another archive in its place is not touched either.
    other = server.storage / ".angiovault"
    other.mkdir()
    (other / "archive.json").write_text(json.dumps({"id": "0" * 32}))
    _refuses(server, second, study, "holds another archive")
    assert [path.name for path in server.storage.rglob("*")] == [".angiovault", "archive.json"]
    shutil.rmtree(server.storage)
    away.rename(server.storage)
    assert _stores(server, second)
    sent = instances.digests([first, second])
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def test_the_index_of_another_archive_is_refused(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    server.stop()
    index = f"sqlite:///{server.folder / 'archive.index.sqlite3'}"
    other = Service(tmp_path / "other", storage=tmp_path / "other" / "storage", index=index)
    other.folder.mkdir()
    shutil.copytree(server.storage, other.storage)
    marker = other.storage / ".angiovault" / "archive.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"id": "1" * 32}))
    with pytest.raises(AssertionError, match="ended at once with 1"):
        other.start()
    assert "give each archive its own index" in other.log_text()
    assert "Traceback" not in other.log_text()


def test_a_folder_with_other_files_is_no_place_for_a_new_archive(tmp_path: Path) -> None:
    server = Service(tmp_path, unknown_devices="all")
    server.storage.mkdir()
    (server.storage / "holiday.jpg").touch()
    with server:
        _refuses(server, instances.make(tmp_path / "sent"), "1.2.3", "is not empty (holiday.jpg …)")
        assert [path.name for path in server.storage.iterdir()] == ["holiday.jpg"]
        (server.storage / "holiday.jpg").unlink()
        wait_until(lambda: _stores(server, instances.make(tmp_path / "sent")), "the archive to be made")


# --- As root only: mounts, other users ------------------------------------------------------------------------------


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 24 MB at the storage folder's place."""
    folder = tmp_path / "archive"
    folder.mkdir()
    subprocess.run([program("mount"), "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run([program("umount"), "--lazy", folder], check=True)


@pytest.mark.root
def test_disk_full(small_volume: Path, tmp_path: Path) -> None:
    """The reserve is one per cent of so small a volume, whatever is configured; what does not fit leaves nothing."""
    study = generate_uid()
    big = [instances.make(tmp_path / "sent", study=study, size=7_000_000, number=number) for number in range(5)]
    small = [instances.make(tmp_path / "sent", study=study, size=2000, number=10 + number) for number in range(3)]
    sent = instances.digests([*big, *small])
    # No scheduled check: it notes how far it has come, in this volume whose every byte is counted.
    config = "[archive]\nmin-free-space = 512\nverify-every-days = 0\n"
    with Service(tmp_path, unknown_devices="all", config=config) as server:
        result = storescu(server.peer, big, "-xe")
        assert result.statuses == [0, 0, 0, A700, A700]
        assert "no room left on the storage volume" in server.log_text()
        assert len(instances.tree(settled(small_volume))) == 3
        assert storescu(server.peer, small[:1], "-xe").statuses == [0]  # it fits

        # Filled up to the reserve: refused before a byte is written, and status says so.
        filler = small_volume / "@filler"
        free = os.statvfs(small_volume)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 200_000))
        assert storescu(server.peer, small[1:2], "-xe").statuses == [A700]
        assert "the storage volume is full" in server.log_text()
        status = server.cli("status", check=False)
        assert status.returncode == 1
        assert "full" in status.stdout

        # To the last byte: no lock, no journal, no folder can be written, and still nothing breaks.
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize))
        assert storescu(server.peer, small[1:], "-xe").statuses == [A700, A700]
        server.stop()
        server.start()
        assert instances.found(server.peer, [study]) == set(sent) - set(instances.digests([*big[3:], *small[1:]]))
        filler.unlink()
        assert storescu(server.peer, [*small[1:], big[3]], "-xe").statuses == [0, 0, A700]
        acked = set(sent) - set(instances.digests(big[3:]))
        instances.assert_kept(server.peer, [study], acked, sent, tmp_path / "back")
        server.cli("verify")


@pytest.mark.root
@pytest.mark.parametrize("with_index", [False, True], ids=["storage", "storage and index"])
def test_disk_full_under_the_index(small_volume: Path, tmp_path: Path, with_index: bool) -> None:
    """An index that cannot grow is as one that is away: what the journal takes is acknowledged, nothing else is."""
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, size=150_000, number=number) for number in range(250)]
    sent = instances.digests(paths)
    index = f"sqlite:///{small_volume}/@index.sqlite3" if with_index else None
    with Service(tmp_path, index=index, unknown_devices="all", config="[archive]\nmin-free-space = 0\n") as server:
        result = storescu(server.peer, paths, "-xe")
        assert set(result.statuses) == {0, A700}
        acked = instances.acknowledged(result)
        subprocess.run([program("mount"), "-o", "remount,size=64m", small_volume], check=True)
        wait_until(lambda: server.cli("status", check=False).returncode == 0, "the index to be well again")
        instances.assert_kept(server.peer, [study], acked, sent, tmp_path / "back")
        assert set(storescu(server.peer, paths, "-xe").statuses) == {0}
        instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back again")


@pytest.mark.root
def test_a_storage_that_becomes_read_only(small_volume: Path, tmp_path: Path) -> None:
    study = generate_uid()
    first, second = (instances.make(tmp_path / "sent", study=study, number=number) for number in range(2))
    sent = instances.digests([first, second])
    uid = next(iter(instances.digests([first])))

    def remount(option: str) -> None:
        subprocess.run([program("mount"), "-o", f"remount,{option}", small_volume], check=True)

    with Service(tmp_path, unknown_devices="all") as server:
        assert _stores(server, first)
        settled(small_volume)
        remount("ro")
        assert storescu(server.peer, [second], "-xe").statuses == [A700]
        assert "Read-only file system" in server.log_text()
        instances.assert_kept(server.peer, [study], {uid}, sent, tmp_path / "read")  # giving back goes on
        server.stop()
        server.start()
        assert storescu(server.peer, [second], "-xe").statuses == [A700]
        instances.assert_kept(server.peer, [study], {uid}, sent, tmp_path / "read after the start")
        remount("rw")
        wait_until(lambda: _stores(server, second), "the storage to be used again")
        instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


@pytest.mark.root
def test_a_volume_that_is_unmounted_in_the_middle(small_volume: Path, tmp_path: Path) -> None:
    """The folder below the mount point stays empty: it must not become a second archive."""
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(3)]
    with Service(tmp_path, unknown_devices="all") as server:
        assert _stores(server, paths[0])
        settled(small_volume)
        subprocess.run([program("umount"), "--lazy", small_volume], check=True)
        _refuses(server, paths[1], study, "is the volume or shared folder mounted?")
        assert list(small_volume.iterdir()) == []
        server.stop()
        server.start()
        _refuses(server, paths[1], study, "does not hold archive")
        assert list(small_volume.iterdir()) == []
        subprocess.run([program("mount"), "-t", "tmpfs", "-o", "size=24m", "tmpfs", small_volume], check=True)


@pytest.mark.root
def test_a_folder_that_may_not_be_read(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """Run by a user without rights to a folder, the service says so of the instances in it, and serves all others."""
    home = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        shutil.copytree(Path(instances.__file__).parents[2] / "src", home / "src")
        home.chmod(0o755)
        place = home / "place"
        place.mkdir()
        os.chown(place, 65534, 65534)
        as_nobody = [program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]
        server = Service(place, unknown_devices="all", prefix=as_nobody, env={"PYTHONDONTWRITEBYTECODE": "1"})
        study, closed = generate_uid(), generate_uid()
        first, second = (instances.make(tmp_path / "sent", study=one) for one in (study, closed))
        sent = instances.digests([first, second])
        with server:
            assert _stores(server, first)
            assert _stores(server, second)
            (folder,) = {path.parent for path in server.settled().rglob("*.dcm") if second.name[:40] in path.name}
            folder.chmod(0)
            os.chown(folder, 0, 0)
            keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={closed}"]
            assert getscu(server.peer, keys, tmp_path / "nothing").received == {}
            assert "Permission denied" in server.log_text()
            again = instances.make(tmp_path / "sent", study=closed, number=2)
            assert storescu(server.peer, [again], "-xe").statuses == [A700]
            assert instances.given_back(server.peer, [study], tmp_path / "back").items() <= sent.items()
            server.stop()
            for path in place.glob("archive.index.sqlite3*"):
                path.unlink()
            server.start()
            wait_until(lambda: "was rebuilt from" in server.log_text(), "the index to be rebuilt")
            assert f"{folder.relative_to(server.storage)} is no stored instance" in server.log_text()
            assert len(instances.found(server.peer, [study, closed])) == 1
    finally:
        shutil.rmtree(home)
