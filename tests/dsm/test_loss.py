"""The database is lost, or the whole NAS but for the share: one command, and everything is there again."""

from collections.abc import Callable

from dsm.generations import DSM6, DSM7
from dsm.mariadb10 import ROOT_PASSWORD
from dsm.nas import PACKAGE, SHARE, Nas

_COPY = f"{SHARE}/archive/.angiovault/settings/angiovault.ini"


def test_the_database_is_lost(each_nas: Nas) -> None:
    nas = each_nas
    nas.install_ready()
    nas.send()
    nas.mariadb.reset()
    nas.command("dsm", "restore", stdin=f"{ROOT_PASSWORD}\n")
    nas.wait_until_answers()
    nas.send()
    nas.assert_all_kept()


def test_the_copy_of_the_settings_has_no_password(nas: Nas) -> None:
    nas.install_ready(wizard_ae_title="HYBRID-OR")
    index = nas.setting("index")
    assert index is not None
    password = index.split(":")[2].split("@")[0]
    nas.command("dsm", "backup-settings")
    copy = nas.stage.read(_COPY)
    assert "HYBRID-OR" in copy
    assert "[device modality]" in copy
    assert password not in copy
    assert nas.stage.host(_COPY).stat().st_mode & 0o007 == 0


def test_the_whole_nas_is_lost_but_for_the_share(make_nas: Callable[..., Nas]) -> None:
    """A new NAS with DSM 7, onto which the shared folder was restored from a backup."""
    old = make_nas(DSM6)
    old.install_ready(wizard_ae_title="HYBRID-OR", wizard_port="11113")
    old.send()
    old.command("dsm", "backup-settings")
    assert old.center.stop().ok
    old.mariadb.reset()

    new = make_nas(DSM7)
    new.studies, new.sent = old.studies, old.sent
    new.stage.run(["mkdir", SHARE])
    new.stage.write("/.stage/shares/angiography", f"{SHARE}\n", mode=0o600)
    old.stage.copy(SHARE, new.stage, SHARE)
    outcome = new.center.install(new.spk)
    assert outcome.ok, new.explain(outcome)
    new.command("dsm", "restore", stdin=f"{ROOT_PASSWORD}\n")
    new.wait_until_answers()
    assert (new.peer.ae_title, new.peer.port) == ("HYBRID-OR", 11113)
    new.send()
    new.assert_all_kept()
    assert new.mariadb.databases() == {PACKAGE}
