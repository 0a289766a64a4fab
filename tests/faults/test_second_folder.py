"""Two folders on volumes that run full, go away, and are killed in between: nothing lost, no content twice."""

import random
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from faults import instances
from harness.dcmtk import findscu, storescu
from harness.processes import program
from harness.service import Service
from harness.settling import settled
from harness.waiting import wait_until

A700 = 0xA700
_BIG = 7_000_000


def _mount(folder: Path, megabytes: int) -> None:
    subprocess.run([program("mount"), "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)


def _umount(folder: Path) -> None:
    subprocess.run([program("umount"), "--lazy", folder], check=True)


def _resize(folder: Path, megabytes: int) -> None:
    subprocess.run([program("mount"), "-o", f"remount,size={megabytes}m", folder], check=True)


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two volumes of 24 MB; the first is at the storage folder's place."""
    folders = tmp_path / "archive", tmp_path / "volume2"
    for folder in folders:
        folder.mkdir()
        _mount(folder, 24)
    try:
        yield folders
    finally:
        for folder in folders:
            _umount(folder)


def _config(volumes: tuple[Path, Path]) -> str:
    # No scheduled check: it notes how far it has come, in a volume whose every byte is counted.
    return f"[archive]\nsecond-storage = {volumes[1]}/images\nverify-every-days = 0\n"


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.dcm")}


def _counts(volumes: tuple[Path, Path]) -> tuple[int, int]:
    """Return how many instances each volume holds when all have their places."""
    first, volume2 = volumes
    return len(_names(settled(first))), len(_names(settled(volume2 / "images")))


@pytest.mark.root
def test_a_full_first_volume_and_then_both(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    first, volume2 = volumes
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, size=_BIG, number=number) for number in range(8)]
    sent = instances.digests(paths)
    with Service(tmp_path, unknown_devices="all", config=_config(volumes)) as server:
        # The fourth does not fit in what is left, and is refused as it always was; it and the others go on.
        assert storescu(server.peer, paths[:5], "-xe").statuses == [0, 0, 0, A700, 0]
        assert storescu(server.peer, paths[3:4], "-xe").statuses == [0]
        assert _counts(volumes) == (3, 2)
        status = server.cli("status").stdout
        assert f"{first}: " in status
        assert f"{volume2}/images: " in status
        assert f"{len(paths[:5])} instances" in status

        # Both full: nothing is stored any more, as with one.
        assert storescu(server.peer, paths[5:], "-xe").statuses == [0, A700, A700]
        assert "no room left on the storage volume" in server.log_text()
        for folder in (first, volume2 / "images"):
            settled(folder)
        (volume2 / "filler").write_bytes(bytes(1_000_000))
        (first / "@filler").write_bytes(bytes(1_000_000))
        kept = set(instances.digests(paths[:6]))
        instances.assert_kept(server.peer, [study], kept, sent, tmp_path / "full")
        assert "6 instances indexed" in server.cli("reindex").stdout
        assert "6 files are sound, 0 damaged, 0 missing" in server.cli("verify").stdout

        # Room in the first again: it is used again, by the next instance.
        _resize(first, 160)
        assert storescu(server.peer, paths[6:7], "-xe").statuses == [0]
        assert _counts(volumes) == (4, 3)
        _resize(volume2, 160)

        # All once more: found where they are.
        assert storescu(server.peer, paths[:7], "-xe").statuses == [0] * 7
        assert _counts(volumes) == (4, 3)
        server.stop()
        server.start()
        instances.assert_kept(server.peer, [study], set(instances.digests(paths[:7])), sent, tmp_path / "back")


@pytest.mark.root
@pytest.mark.parametrize("engine", ["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def test_sigkill_while_it_goes_on_in_the_second_folder(
    engine: str, volumes: tuple[Path, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Room comes and goes on the first volume, devices send everything again, and the service is killed meanwhile."""
    first, volume2 = volumes
    _resize(volume2, 512)
    chance = random.Random(7)
    index = request.getfixturevalue("mariadb").database() if engine == "mariadb" else None
    server = Service(tmp_path, index=index, unknown_devices="all", config=_config(volumes))
    studies = [generate_uid() for _ in range(3)]
    batches = [
        [
            instances.make(tmp_path / "sent" / str(turn), study=study, size=size, number=number)
            for number, size in enumerate([1_500_000] * 4 + [2_000] * 12)
        ]
        for turn, study in enumerate(studies)
    ]
    sent = instances.digests(path for batch in batches for path in batch)
    acked: set[str] = set()
    with server:
        for turn in range(6):
            _resize(first, 24 + 4 * turn)
            instances_in = instances.bytes_in(first) + instances.bytes_in(volume2)
            moment = instances_in + chance.uniform(0, 12_000_000 if turn < 2 else 500_000)
            with ThreadPoolExecutor(len(batches)) as pool:
                senders = [pool.submit(storescu, server.peer, batch, "-xe") for batch in batches]
                wait_until(
                    lambda moment=moment, senders=senders: instances.bytes_in(first) + instances.bytes_in(volume2)
                    >= moment
                    or all(one.done() for one in senders),
                    "the moment of the kill",
                )
                server.kill()
            acked |= {uid for one in senders for uid in instances.acknowledged(one.result())}
            # The volume has little room when it comes back: the rest goes into the second.
            server.start()
            for folder in (first, volume2 / "images"):
                assert not list((folder / ".angiovault" / "incoming").iterdir())
            instances.assert_kept(server.peer, studies, acked, sent, tmp_path / f"back{turn}")
            assert not _names(first) & _names(volume2), "the same content is in both folders"
        _resize(first, 24)
        results = [storescu(server.peer, batch, "-xe") for batch in batches]
        while any(set(result.statuses) != {0} for result in results):
            results = [storescu(server.peer, batch, "-xe") for batch in batches]
        assert sum(_counts(volumes)) == len(sent)
        assert not _names(first) & _names(volume2)
        assert _names(first)
        instances.assert_kept(server.peer, studies, set(sent), sent, tmp_path / "back")
        assert server.cli("verify").stdout.endswith("0 damaged, 0 missing\n")


@pytest.mark.root
def test_a_second_volume_that_is_not_mounted(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    """Nothing is made on its mount point, and no index is made from half of the images."""
    volume2 = volumes[1]
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, size=_BIG, number=number) for number in range(5)]
    sent = instances.digests(paths)
    kept = tmp_path / "kept"
    kept.mkdir()
    with Service(tmp_path, unknown_devices="all", config=_config(volumes)) as server:
        assert storescu(server.peer, paths, "-xe").statuses == [0, 0, 0, A700, 0]
        subprocess.run([program("mount"), "--bind", volume2, kept], check=True)
        _umount(volume2)

        def refused() -> None:
            assert storescu(server.peer, paths[3:4], "-xe").statuses == [A700]
            assert findscu(server.peer, ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"]).final.status == A700
            for command in (["reindex"], ["verify"], ["import", tmp_path / "sent"]):
                done = server.cli(*command, check=False)
                assert done.returncode == 1
                assert f"{volume2}/images does not hold the archive's marker" in done.stderr
            status = server.cli("status", check=False)
            assert status.returncode == 1
            assert "is the volume or shared folder mounted?" in status.stdout
            assert list(volume2.iterdir()) == []

        refused()
        server.stop()
        server.start()
        refused()
        (volume2 / "images").mkdir()  # as DSM may leave it
        server.stop()
        server.start()
        assert storescu(server.peer, paths[3:4], "-xe").statuses == [A700]
        assert list((volume2 / "images").iterdir()) == []
        (volume2 / "images").rmdir()
        subprocess.run([program("mount"), "--move", kept, volume2], check=False)
        if not (volume2 / "images").exists():  # a shared mount cannot be moved
            subprocess.run([program("mount"), "--bind", kept, volume2], check=True)
            _umount(kept)
        wait_until(lambda: storescu(server.peer, paths[3:4], "-xe").statuses == [0], "the second folder to be used")
        instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


@pytest.mark.root
def test_the_setting_taken_away(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    volume2 = volumes[1]
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, size=_BIG, number=number) for number in range(5)]
    sent = instances.digests(paths)
    with Service(tmp_path, unknown_devices="all", config=_config(volumes)) as server:
        assert storescu(server.peer, paths, "-xe").statuses == [0, 0, 0, A700, 0]
        server.stop()
        assert server.config_file is not None
        server.config_file.write_text("[archive]\nverify-every-days = 0\n", encoding="utf-8")
        server.start()
        assert storescu(server.peer, paths[3:4], "-xe").statuses == [A700]
        assert f"the archive continues in a second folder, which was last {volume2}/images" in server.log_text()
        assert server.cli("reindex", check=False).returncode == 1
        server.stop()
        server.config_file.write_text(_config(volumes), encoding="utf-8")
        server.start()
        # By an import, which does not know yet that it does not fit in what is left of the first.
        assert server.cli("import", paths[3]).stdout == "1 stored\n"
        instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


@pytest.mark.root
def test_a_second_volume_that_is_lost_for_good(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    """Somebody has to say so; then the archive goes on with what is left, and a new second folder may be made."""
    volume2 = volumes[1]
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, size=_BIG, number=number) for number in range(5)]
    sent = instances.digests(paths)
    with Service(tmp_path, unknown_devices="all", config=_config(volumes)) as server:
        assert storescu(server.peer, paths, "-xe").statuses == [0, 0, 0, A700, 0]
        refused = server.cli("reindex", "--second-folder-is-lost", check=False)
        assert refused.returncode == 1
        assert "nothing is forgotten" in refused.stderr
        _umount(volume2)
        _mount(volume2, 24)
        assert storescu(server.peer, paths[3:4], "-xe").statuses == [A700]
        done = server.cli("reindex", "--second-folder-is-lost")
        assert done.stdout == "3 instances indexed\n"
        assert list(volume2.iterdir()) == []
        instances.assert_kept(server.peer, [study], set(instances.digests(paths[:3])), sent, tmp_path / "left")
        server.stop()
        server.start()
        assert storescu(server.peer, paths[3:], "-xe").statuses == [A700, 0]
        assert len(_names(volume2)) == 1
        again = server.cli("reindex", "--second-folder-is-lost", check=False)
        assert "nothing is forgotten" in again.stderr


def test_a_second_folder_that_is_set_later(service: Callable[..., Service], tmp_path: Path) -> None:
    """A process that runs without it says so, and stops, as soon as another has made it."""
    server = service(unknown_devices="all")
    study = generate_uid()
    first, second = (instances.make(tmp_path / "sent", study=study, number=number) for number in range(2))
    assert storescu(server.peer, [first], "-xe").statuses == [0]
    config = tmp_path / "with-second.ini"
    config.write_text(f"[archive]\nsecond-storage = {tmp_path}/volume2\n", encoding="utf-8")
    server.cli("import", second, "--config", config)
    assert storescu(server.peer, [second], "-xe").statuses == [A700]
    assert "name the folder in the setting second-storage" in server.log_text()
