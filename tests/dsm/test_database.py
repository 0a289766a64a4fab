"""MariaDB late, stopped, restarted, with another password: the package keeps storing, says so, and takes up."""

import pytest

from dsm.generations import DSM7
from dsm.mariadb10 import ROOT_PASSWORD
from dsm.nas import PACKAGE, Nas
from harness.waiting import wait_until


def _problem(nas: Nas) -> str:
    """Wait until the service names a problem with the database, and return it."""
    try:
        return str(wait_until(lambda: nas.health().get("problems", {}).get("database"), "a problem with the database"))
    except AssertionError as error:
        raise AssertionError(f"{error}; {nas.health()} {nas.supervisor()}\n{nas.log()[-4000:]}") from None


def _wait_until_well(nas: Nas) -> None:
    wait_until(lambda: "database" not in nas.health().get("problems", {}), "the problem to be over", seconds=40)


def test_the_database_comes_up_later_than_the_package(nas: Nas) -> None:
    nas.install_ready()
    nas.send()
    nas.lose_power()
    nas.mariadb.stop()
    nas.boot()
    nas.wait_for("running")
    nas.send()
    assert nas.find() is None
    assert _problem(nas)
    nas.mariadb.start()
    nas.assert_all_kept()
    _wait_until_well(nas)


def test_the_database_is_restarted_meanwhile(nas: Nas) -> None:
    nas.install_ready()
    nas.send()
    nas.mariadb.stop()
    nas.send()
    assert _problem(nas)
    (service,) = nas.services()
    nas.mariadb.start()
    nas.assert_all_kept()
    _wait_until_well(nas)
    assert nas.services() == [service]


def test_the_password_is_changed_and_entered_again(nas: Nas) -> None:
    nas.install_ready()
    nas.send()
    nas.mariadb.execute(f"SET PASSWORD FOR {PACKAGE}@localhost = PASSWORD('Another1 password!')")
    nas.mariadb.stop()
    nas.mariadb.start()
    nas.send()
    assert "denied" in _problem(nas)
    nas.command("dsm", "use-database", "--user", PACKAGE, "--database", PACKAGE, stdin="Another1 password!\n")
    nas.wait_for("running")
    nas.assert_all_kept()
    nas.mariadb.execute(f"SET PASSWORD FOR {PACKAGE}@localhost = PASSWORD('Yet another 2!')")
    nas.mariadb.stop()
    nas.mariadb.start()
    nas.command("dsm", "create-database", stdin=f"{ROOT_PASSWORD}\n")  # gives the user a new password
    nas.assert_all_kept()


@pytest.mark.parametrize("dsm_starts_us_again", [True, False])
def test_dsm_stops_the_package_before_the_database(dsm_starts_us_again: bool, nas: Nas) -> None:
    """What DSM does to a package that depends on another one; whether it starts it again nobody could tell."""
    nas.install_ready()
    nas.send()
    assert nas.center.stop(status="").codes == {"prestop": 0, "stop": 0}
    nas.mariadb.stop()
    nas.mariadb.start()
    if not dsm_starts_us_again:
        assert not nas.stage.processes(PACKAGE)
        assert nas.center.status() == 3
    assert nas.center.start(status="" if dsm_starts_us_again else "START").ok
    nas.wait_for("running")
    nas.assert_all_kept()


def test_the_database_is_reached_without_tcp(nas: Nas) -> None:
    assert nas.generation is DSM7
    nas.install_ready()
    index = nas.setting("index")
    assert index is not None
    assert index.endswith("@/angiovault?unix_socket=/run/mysqld/mysqld10.sock")
    assert nas.mariadb.execute("SELECT @@skip_networking") == ((1,),)
    password = index.split(":")[2].split("@")[0]
    assert len(password) >= 20
    assert nas.stage.host("/var/packages/angiovault/etc/angiovault.ini").stat().st_mode & 0o077 == 0
