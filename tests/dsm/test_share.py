"""The shared folder late, elsewhere, forbidden, encrypted: a state with a name each, and never a new archive beside."""

from collections.abc import Callable

import pytest

from dsm.generations import DSM6, DSM7, Generation
from dsm.nas import PACKAGE, SHARE, Nas
from faults import instances
from harness.settling import settled
from harness.waiting import wait_until

_AWAY = "share-missing"
_DENIED = "share-denied"


def _archives(nas: Nas, folder: str = SHARE) -> list[str]:
    host = nas.stage.host(folder)
    return sorted(path.name for path in host.iterdir()) if host.exists() else []


def test_the_share_is_made_only_after_the_start(each_nas: Nas) -> None:
    """The start finds no share, as nothing promises that it is there in time."""
    nas = each_nas
    nas.install(start=False)
    nas.center.verb("start")
    nas.wait_for(_AWAY)
    assert nas.center.status() == 0
    assert not nas.stage.exists(SHARE)
    assert nas.center.start().ok  # which makes the share
    nas.wait_for("running")
    nas.add_device()
    nas.send()
    nas.assert_all_kept()


def test_a_share_on_another_volume_that_was_there_before(each_nas: Nas) -> None:
    nas = each_nas
    nas.stage.host("/volume2/angiography").mkdir(mode=0o700)
    nas.stage.write("/.stage/shares/angiography", "/volume2/angiography\n", mode=0o600)
    nas.install_ready()
    nas.send()
    nas.assert_all_kept()
    assert _archives(nas, "/volume2/angiography")
    assert not nas.stage.exists(SHARE)
    mode = nas.stage.host("/volume2/angiography").stat().st_mode
    assert mode & 0o7777 == 0o770, "the rights of a share are Synology's"


def test_a_share_that_refuses_the_package_user(nas: Nas) -> None:
    nas.install_ready()
    nas.send()
    assert nas.center.stop().ok
    nas.stage.run(["chgrp", "root", SHARE])
    nas.stage.run(["chmod", "700", SHARE])
    nas.center.verb("start")
    said = nas.wait_for(_DENIED)
    assert PACKAGE in said["message"]
    assert "angiography" in said["message"]
    assert said["message_zh"]
    nas.stage.run(["chgrp", PACKAGE, SHARE])
    nas.stage.run(["chmod", "770", SHARE])
    nas.wait_for("running")
    nas.assert_all_kept()


def test_a_new_share_that_may_only_be_read(nas: Nas) -> None:
    nas.install(start=False)
    nas.stage.host(SHARE).mkdir()
    nas.stage.chown(SHARE, "root", group=PACKAGE)
    nas.stage.run(["chmod", "750", SHARE])
    nas.stage.write("/.stage/shares/angiography", f"{SHARE}\n", mode=0o600)
    nas.center.verb("start")
    nas.wait_for(_DENIED)
    assert _archives(nas) == []
    nas.stage.run(["chmod", "770", SHARE])
    nas.wait_for("running")


@pytest.mark.parametrize(
    ("generation", "mount_point"), [(DSM6, "absent"), (DSM7, "empty and open to all")], ids=["dsm6.1", "dsm7.2"]
)
def test_an_encrypted_share_that_is_mounted_late(
    generation: Generation, mount_point: str, make_nas: Callable[..., Nas]
) -> None:
    """What lies under the mount point is no archive, and none is made there."""
    nas = make_nas(generation)
    nas.stage.host(SHARE).mkdir()
    if mount_point == "absent":
        nas.stage.host("/volume1/@angiography@").mkdir(mode=0o700)  # where DSM keeps what is encrypted
    nas.stage.mount(SHARE)
    nas.stage.write("/.stage/shares/angiography", f"{SHARE}\n", mode=0o600)
    nas.install_ready()
    nas.send()
    nas.lose_power()
    nas.stage.bind(SHARE, "/volume2")  # what will be there again
    nas.stage.unmount(SHARE)
    if mount_point == "absent":
        nas.stage.host(SHARE).rmdir()
    else:
        nas.stage.host(SHARE).chmod(0o777)
    nas.boot()
    nas.wait_for(_AWAY)
    assert _archives(nas) == []
    assert nas.center.status() == 0
    if mount_point == "absent":
        nas.stage.host(SHARE).mkdir()
    nas.stage.bind("/volume2", SHARE)
    nas.wait_for("running")
    nas.send()
    nas.assert_all_kept()


def test_an_encrypted_share_that_is_unmounted_while_the_service_runs(nas: Nas) -> None:
    nas.stage.host(SHARE).mkdir()
    nas.stage.mount(SHARE)
    nas.stage.write("/.stage/shares/angiography", f"{SHARE}\n", mode=0o600)
    nas.install_ready()
    nas.send()
    nas.stage.bind(SHARE, "/volume2")
    nas.stage.unmount(SHARE, lazily=True)
    nas.stage.host(SHARE).chmod(0o777)
    assert nas.store([instances.make(nas.folder / "tried")]) == [0xA700]
    assert _archives(nas) == []
    nas.stage.bind("/volume2", SHARE)
    nas.wait_for("running")
    nas.send()
    nas.assert_all_kept()


def test_another_folder_by_command(nas: Nas) -> None:
    """A folder that the administrator has granted to the package user."""
    nas.install()
    nas.wait_for("running")
    nas.stage.host("/volume2/images").mkdir(mode=0o700)
    refused = nas.command("dsm", "use-folder", "/volume2/images", check=False)
    assert PACKAGE in refused
    nas.stage.chown("/volume2/images", "root", group=PACKAGE)
    nas.stage.run(["chmod", "770", "/volume2/images"])
    nas.command("dsm", "use-folder", "/volume2/images")
    nas.wait_for("running")
    nas.add_device()
    nas.send()
    nas.assert_all_kept()
    assert _archives(nas, "/volume2/images")


def test_a_second_folder_when_the_first_is_full(nas: Nas) -> None:
    """On a volume of its own, granted to the package user; it goes away and comes back like the first."""
    nas.stage.host(SHARE).mkdir()
    nas.stage.mount(SHARE)
    nas.stage.write("/.stage/shares/angiography", f"{SHARE}\n", mode=0o600)
    nas.install_ready()
    nas.stage.host("/volume2/images").mkdir(mode=0o700)
    refused = nas.command("dsm", "use-folder", "--second", "/volume2/images", check=False)
    assert PACKAGE in refused
    assert nas.setting("second-storage") is None
    nas.stage.chown("/volume2/images", "root", group=PACKAGE)
    nas.stage.run(["chmod", "770", "/volume2/images"])
    nas.command("dsm", "use-folder", "--second", "/volume2/images")
    wait_until(lambda: _archives(nas, "/volume2/images") == ["archive"], "the service to make it")
    nas.wait_for("running")
    nas.send()
    nas.stage.run(["/.stage/bin/mount", "-o", "remount,size=1m", SHARE])
    nas.stage.run(["sh", "-c", f"head -c 2000000 /dev/zero > {SHARE}/@filler || true"])
    nas.send(4)
    assert list(settled(nas.stage.host("/volume2/images/archive")).rglob("*.dcm"))
    nas.assert_all_kept()
    status = nas.command("status", check=False)
    assert "/volume2/images/archive: " in status
    wait_until(lambda: "need room in the first as well" in str(nas.health()), "the service to say so")

    nas.stage.host("/volume2/images").rename(nas.stage.host("/volume2/away"))
    assert "/volume2/images/archive" in nas.wait_for(_AWAY)["message"]
    assert nas.statuses_of_sending() == [0xA700]
    nas.stage.host("/volume2/away").rename(nas.stage.host("/volume2/images"))
    nas.wait_for("running")
    nas.send()
    nas.assert_all_kept()
