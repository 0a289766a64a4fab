"""Removing the package: what is kept, what goes, and that a new installation finds again what was kept."""

from collections.abc import Callable

import pytest

from dsm.generations import DSM6, DSM7, Generation
from dsm.mariadb10 import ROOT_PASSWORD
from dsm.nas import LATER, PACKAGE, SHARE, Nas
from dsm.package_center import Habits
from harness.settling import settled

KEEP = {"wizard_delete_settings": "false", "wizard_drop_database": "false"}
DELETE = {"wizard_delete_settings": "true", "wizard_drop_database": "true"}


def _settings_left(nas: Nas) -> bool:
    places = ("/volume1/@appconf/angiovault", "/usr/syno/etc/packages/angiovault")
    return any(nas.stage.exists(f"{place}/angiovault.ini") for place in places)


def _image_files(nas: Nas) -> list[str]:
    archive = settled(nas.stage.host(f"{SHARE}/archive"))
    return sorted(str(path.relative_to(archive)) for path in archive.rglob("*.dcm"))


@pytest.mark.parametrize(
    ("generation", "answers"), [(DSM6, KEEP), (DSM7, KEEP), (DSM7, None)], ids=["dsm6.1", "dsm7.2", "silent"]
)
def test_everything_is_kept_and_found_again(
    generation: Generation, answers: dict[str, str] | None, make_nas: Callable[..., Nas]
) -> None:
    nas = make_nas(generation)
    nas.install_ready(wizard_ae_title="HYBRID-OR", wizard_port="11113")
    nas.send()
    files = _image_files(nas)
    outcome = nas.center.uninstall(answers)
    assert outcome.ok, nas.explain(outcome)
    assert set(outcome.codes.values()) == {0}
    assert not nas.stage.processes()
    assert not nas.stage.exists(f"/var/packages/{PACKAGE}")
    assert not nas.stage.exists(f"/usr/local/bin/{PACKAGE}")
    assert nas.mariadb.databases() == {PACKAGE}
    assert _settings_left(nas)
    assert _image_files(nas) == files

    again = nas.center.install(nas.spk)  # silently: the settings are there
    assert again.ok, nas.explain(again)
    nas.wait_until_answers()
    assert (nas.peer.ae_title, nas.peer.port) == ("HYBRID-OR", 11113)
    nas.send()
    nas.assert_all_kept()


def test_installed_again_through_the_wizard_over_what_was_kept(nas: Nas) -> None:
    nas.install_ready()
    nas.send()
    assert nas.center.uninstall(KEEP).ok
    nas.install(wizard_ae_title="NEW-TITLE")
    nas.wait_until_answers()
    assert nas.peer.ae_title == "NEW-TITLE"
    nas.send()
    nas.assert_all_kept()


def test_settings_and_database_are_deleted_when_asked_and_images_never(each_nas: Nas) -> None:
    nas = each_nas
    nas.install_ready()
    nas.send()
    files = _image_files(nas)
    outcome = nas.center.uninstall({**DELETE, "wizard_db_root_password": ROOT_PASSWORD})
    assert outcome.ok, nas.explain(outcome)
    assert nas.mariadb.databases() == set()
    assert nas.mariadb.users() == set()
    assert not _settings_left(nas)
    assert _image_files(nas) == files
    nas.install_ready()  # and a new installation indexes the images that are there
    nas.send()
    nas.assert_all_kept()


@pytest.mark.parametrize("password", ["", "Wr0ng password!"], ids=["no root password", "wrong root password"])
def test_the_database_can_be_dropped_without_root(password: str, nas: Nas) -> None:
    """Our own user may drop our own database; the user stays, and nothing fails."""
    nas.install_ready()
    outcome = nas.center.uninstall({**DELETE, "wizard_db_root_password": password})
    assert outcome.ok, nas.explain(outcome)
    assert nas.mariadb.databases() == set()


@pytest.mark.parametrize("answers", [KEEP, DELETE], ids=["keep", "delete"])
def test_the_database_is_away_during_the_removal(answers: dict[str, str], nas: Nas) -> None:
    nas.install_ready()
    nas.send()
    files = _image_files(nas)
    nas.mariadb.stop()
    outcome = nas.center.uninstall(answers)
    assert outcome.ok, nas.explain(outcome)
    if answers is DELETE:
        assert outcome.text  # says that the database is still there
    assert not nas.stage.exists(f"/var/packages/{PACKAGE}")
    assert _image_files(nas) == files


def test_dsm6_takes_the_settings_away(make_nas: Callable[..., Nas]) -> None:
    """What was kept in the share and in the database is found again with MariaDB's root password."""
    nas = make_nas(DSM6, Habits(settings_survive=False))
    nas.install_ready(wizard_ae_title="HYBRID-OR", wizard_port="11113")
    nas.send()
    nas.command("dsm", "backup-settings")
    assert nas.center.uninstall(KEEP).ok
    assert not _settings_left(nas)
    nas.install()
    nas.wait_until_answers()
    assert (nas.peer.ae_title, nas.peer.port) == ("HYBRID-OR", 11113)
    nas.send()
    nas.assert_all_kept()  # by the device that was there before


def test_an_index_that_was_left_is_not_taken_for_complete(nas: Nas) -> None:
    """The database was in use, then was not, and images came meanwhile; the settings are gone."""
    nas.install_ready()
    nas.send()
    nas.command("dsm", "use-database", "--embedded")
    nas.wait_for("running")
    nas.send()
    nas.assert_all_kept()
    assert nas.center.uninstall({"wizard_delete_settings": "true"}).ok
    assert nas.mariadb.databases() == {PACKAGE}
    assert nas.center.install(nas.spk, LATER).ok
    nas.wait_for("needs-set-up", answering=False)
    nas.command("dsm", "create-database", stdin=f"{ROOT_PASSWORD}\n")
    nas.wait_until_answers()
    nas.assert_all_kept()


def test_installed_again_without_the_root_password(each_nas: Nas) -> None:
    """As the wizard says: over kept settings it may be left empty."""
    nas = each_nas
    nas.install_ready(wizard_port="11113")
    nas.send()
    assert nas.center.uninstall(KEEP).ok
    nas.install(wizard_db_root_password="")
    nas.wait_until_answers()
    assert nas.peer.port == 11113
    nas.send()
    nas.assert_all_kept()


def test_a_package_without_settings_can_be_removed(make_nas: Callable[..., Nas]) -> None:
    nas = make_nas(DSM7)
    assert nas.center.install(nas.spk).ok
    nas.stage.run(["rm", "-f", "/var/packages/angiovault/etc/angiovault.ini"])
    outcome = nas.center.uninstall(DELETE)
    assert outcome.ok, nas.explain(outcome)
    assert not nas.stage.processes()
