"""A newer file over an older one, and the DSM 7 file over the DSM 6 file: settings, index, share and images stay."""

from collections.abc import Callable

import pytest

from dsm.generations import DSM6, DSM7, Generation
from dsm.nas import PACKAGE, SETTINGS, SHARE, Nas
from dsm.package_center import Habits


@pytest.mark.parametrize(
    ("generation", "late_chown"), [(DSM6, False), (DSM6, True), (DSM7, False)], ids=["dsm6.1", "late chown", "dsm7.2"]
)
def test_from_the_previous_build(generation: Generation, late_chown: bool, make_nas: Callable[..., Nas]) -> None:
    nas = make_nas(generation, Habits(chown_after_postinst=late_chown))
    nas.install_ready(nas.previous_spk, wizard_ae_title="HYBRID-OR", wizard_port="11113")
    nas.send()
    before = nas.stage.read(SETTINGS)
    outcome = nas.center.upgrade(nas.spk)
    assert outcome.ok, nas.explain(outcome)
    assert set(outcome.codes.values()) == {0}
    nas.wait_until_answers()
    assert (nas.peer.ae_title, nas.peer.port) == ("HYBRID-OR", 11113)
    assert nas.stage.read(SETTINGS) == before
    assert "11113/tcp" in nas.stage.read(f"/usr/local/etc/services.d/{PACKAGE}.sc")
    assert nas.mariadb.databases() == {PACKAGE}
    nas.send()
    nas.assert_all_kept()
    assert (len(nas.supervisors()), len(nas.services())) == (1, 1)


def test_a_stopped_package_stays_stopped(nas: Nas) -> None:
    nas.install_ready(nas.previous_spk)
    nas.send()
    assert nas.center.stop().ok
    outcome = nas.center.upgrade(nas.spk)
    assert outcome.ok, nas.explain(outcome)
    assert not nas.stage.processes(PACKAGE)
    assert nas.center.start().ok
    nas.wait_until_answers()
    nas.assert_all_kept()


def test_an_upgrade_while_the_database_is_away(nas: Nas) -> None:
    nas.install_ready(nas.previous_spk)
    nas.send()
    nas.mariadb.stop()
    outcome = nas.center.upgrade(nas.spk)
    assert outcome.ok, nas.explain(outcome)
    nas.wait_until_answers()
    nas.send()
    nas.mariadb.start()
    nas.assert_all_kept()


@pytest.mark.parametrize("old_scripts", [True, False], ids=["old scripts run", "old scripts do not run"])
def test_from_dsm6_to_dsm7(old_scripts: bool, make_nas: Callable[..., Nas]) -> None:
    """After the update of the system the DSM 6 file cannot run; the DSM 7 file is installed over it."""
    nas = make_nas(DSM6, Habits(old_scripts_on_new_system=old_scripts))
    nas.install_ready(nas.previous_spk, wizard_ae_title="HYBRID-OR", wizard_port="11113")
    nas.send()
    nas.lose_power()
    nas.stage.be_generation(DSM7)
    outcome = nas.center.upgrade(nas.spk)
    assert outcome.ok, nas.explain(outcome)
    assert nas.center.start().ok
    nas.wait_until_answers()
    assert (nas.peer.ae_title, nas.peer.port) == ("HYBRID-OR", 11113)
    assert str(nas.stage.host(SETTINGS)).endswith("/volume1/@appconf/angiovault/angiovault.ini")
    nas.send()
    nas.assert_all_kept()


def test_from_dsm6_to_dsm7_when_the_old_package_was_removed_first(make_nas: Callable[..., Nas]) -> None:
    """Nothing but the share and the database is there: the new installation takes both up."""
    nas = make_nas(DSM6, Habits(settings_survive=False))
    nas.install_ready()
    nas.send()
    assert nas.center.uninstall().ok
    assert nas.stage.exists(f"{SHARE}/archive")
    nas.lose_power()
    nas.stage.be_generation(DSM7)
    nas.install_ready()
    nas.send()
    nas.assert_all_kept()
