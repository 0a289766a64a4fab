"""Where things are on DSM 6 and DSM 7."""

from pathlib import Path

import pytest

from angiovault.dsm.paths import Nas
from harness import synology


def test_the_paths_of_a_real_nas() -> None:
    nas = Nas()
    assert nas.settings == Path("/var/packages/angiovault/etc/angiovault.ini")
    assert nas.socket == Path("/run/mysqld/mysqld10.sock")
    assert nas.share_link == Path("/var/packages/angiovault/shares/angiography")
    assert nas.user == "angiovault"
    assert nas.notify_program == Path("/usr/syno/bin/synodsmnotify")


@pytest.mark.parametrize(("generation", "var"), [(6, "target/var"), (7, "var")])
def test_the_folder_for_log_and_state(tmp_path: Path, generation: int, var: str) -> None:
    nas = synology.make(tmp_path, generation=generation)
    assert nas.generation == generation
    assert nas.var == nas.package / var
    assert nas.log == nas.package / var / "angiovault.log"
    assert nas.is_synology
    assert not Nas(tmp_path / "elsewhere").is_synology


def test_the_packages_own_volume_comes_first(tmp_path: Path) -> None:
    nas = synology.make(tmp_path)
    for name in ("volume2", "volume10", "volumeUSB1", "volumes"):
        (tmp_path / name).mkdir()
    (tmp_path / "volume3").write_text("no folder")
    assert [path.name for path in nas.volumes] == ["volume1", "volume2", "volume10"]
    (nas.package / "target").unlink()
    (tmp_path / "volume10/@appstore/angiovault").mkdir(parents=True)
    (nas.package / "target").symlink_to(tmp_path / "volume10/@appstore/angiovault")
    assert [path.name for path in nas.volumes] == ["volume10", "volume1", "volume2"]


def test_what_dsm_says_of_itself(tmp_path: Path) -> None:
    nas = synology.make(tmp_path, generation=6, language="chs")
    assert (nas.generation, nas.language) == (6, "chs")
    (tmp_path / "etc.defaults/VERSION").write_text("majorversion=6\nbuildnumber=15284\n")
    assert nas.generation == 6
    (tmp_path / "etc.defaults/VERSION").unlink()
    (tmp_path / "etc/synoinfo.conf").write_bytes(b'maillang="enu"\nbroken \xff\n')
    assert (nas.generation, nas.language) == (7, "")
