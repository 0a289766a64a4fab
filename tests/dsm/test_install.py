"""Installing: what the administrator answers, what comes of it, and what is left when it is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dsm.generations import DSM6, DSM7
from dsm.mariadb10 import ROOT_PASSWORD, identifier
from dsm.nas import CREATE_DATABASE, LATER, MODALITY, PACKAGE, SETTINGS, SHARE, USE_DATABASE, Nas
from dsm.package_center import Habits
from dsm.spk_file import Refused
from dsm.stage import Stage
from faults import instances
from harness.dcmtk import StoreSCP, findscu, movescu, storescu


def test_a_fresh_installation_serves_dicom(each_nas: Nas, tmp_path: Path) -> None:
    """Sent, found by name, moved back to another program: equal to the byte."""
    nas = each_nas
    outcome = nas.install()
    assert set(outcome.codes.values()) == {0}
    nas.wait_for("running")
    assert nas.mariadb.databases() == {PACKAGE}
    assert nas.mariadb.users() == {PACKAGE}
    settings = nas.stage.host(SETTINGS)
    assert settings.stat().st_mode & 0o777 == 0o600
    assert nas.stage.run(["ls", "-l", SETTINGS]).stdout.split()[2:4] == [PACKAGE, PACKAGE]
    assert "11112/tcp" in nas.stage.read(f"/usr/local/etc/services.d/{PACKAGE}.sc")
    assert f"{nas.var}/angiovault.log" in nas.stage.read(f"/usr/local/etc/logrotate.d/{PACKAGE}")
    assert nas.stage.exists(f"{SHARE}/archive")
    assert {process.user for process in nas.stage.processes()} == {PACKAGE}

    nas.command("device", "add", "modality", "--ae-title", MODALITY, "--host", "127.0.0.1")
    paths = [instances.make(tmp_path / "sent", name="Zhāng^San=张^三", number=number) for number in range(3)]
    assert storescu(nas.peer, paths, "-xe", calling=MODALITY).ok().statuses == [0] * 3
    keys = ["QueryRetrieveLevel=STUDY", "SpecificCharacterSet=ISO_IR 192", "PatientName=张*".encode()]
    keys += ["StudyInstanceUID"]
    studies = [str(found.StudyInstanceUID) for found in findscu(nas.peer, keys, calling=MODALITY).ok().data_sets]
    assert len(studies) == 3
    with StoreSCP(tmp_path / "received", ae_title="WORKSTATION") as workstation:
        nas.add_device("workstation", "WORKSTATION", workstation.peer.port)
        for study in studies:
            keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"]
            assert movescu(nas.peer, "WORKSTATION", keys, calling=MODALITY).ok().final.status == 0
        back = {uid: file.sha256() for uid, file in workstation.received().items()}
    assert back == instances.digests(paths)


def test_dsm6_may_give_the_files_their_owner_after_postinst(make_nas: Callable[..., Nas]) -> None:
    nas = make_nas(DSM6, Habits(chown_after_postinst=True))
    nas.install_ready(wizard_port="11113")
    assert "11113/tcp" in nas.stage.read(f"/usr/local/etc/services.d/{PACKAGE}.sc")
    nas.send()
    nas.assert_all_kept()


def test_the_package_may_lie_on_the_second_volume(nas: Nas) -> None:
    wizard = {**CREATE_DATABASE, "wizard_db_root_password": ROOT_PASSWORD}
    outcome = nas.center.install(nas.spk, wizard, volume="/volume2")
    assert outcome.ok, nas.explain(outcome)
    nas.wait_for("running")
    nas.add_device()
    nas.send()
    nas.assert_all_kept()
    assert nas.stage.exists("/volume2/angiography/archive")


def test_strange_answers_survive(each_nas: Nas) -> None:
    nas = each_nas
    user, database, password = 'o\'brien "$HOME"', "影像 `$(id)` 'x'", "p\"w'd $PATH \\ 张% #1Aa"
    nas.mariadb.execute(f"CREATE DATABASE {identifier(database)}")
    nas.mariadb.execute("CREATE USER %s@localhost IDENTIFIED BY %s", values=(user, password))
    nas.mariadb.execute(f"GRANT ALL ON {identifier(database)}.* TO %s@localhost", values=(user,))
    title = "A$B \"C' #1%;"
    wizard = {**USE_DATABASE, "wizard_db_name": database, "wizard_db_user": user, "wizard_db_password": password}
    outcome = nas.center.install(nas.spk, {**wizard, "wizard_ae_title": title, "wizard_port": "2104"})
    assert outcome.ok, nas.explain(outcome)
    nas.wait_for("running")
    assert (nas.peer.ae_title, nas.peer.port) == (title, 2104)
    assert "2104/tcp" in nas.stage.read(f"/usr/local/etc/services.d/{PACKAGE}.sc")
    nas.add_device()
    nas.send()
    nas.assert_all_kept()
    assert nas.mariadb.execute("SELECT count(*) FROM instance", database=database) == ((2,),)


def test_a_silent_installation_works_and_waits_for_its_database(each_nas: Nas) -> None:
    nas = each_nas
    outcome = nas.center.install(nas.spk)
    assert outcome.ok, nas.explain(outcome)
    assert "database" in outcome.text
    nas.wait_for("needs-set-up")
    nas.add_device()
    nas.send()  # stored all the same
    assert nas.find() is None
    assert "needs-set-up" in nas.command("dsm", "state", user="root")
    said = nas.command("dsm", "create-database", stdin=f"{ROOT_PASSWORD}\n")
    assert ROOT_PASSWORD not in said
    nas.wait_for("running")
    nas.assert_all_kept()


def test_use_database_by_command(nas: Nas) -> None:
    outcome = nas.center.install(nas.spk, {**LATER})
    assert outcome.ok, nas.explain(outcome)
    nas.wait_for("needs-set-up")
    nas.mariadb.execute("CREATE DATABASE pacs")
    nas.mariadb.execute("CREATE USER radiology@localhost IDENTIFIED BY 'Ceci n''est 1 pipe'")
    nas.mariadb.execute("GRANT ALL ON pacs.* TO radiology@localhost")
    wrong = nas.command("dsm", "use-database", "--user", "radiology", "--database", "pacs", stdin="no\n", check=False)
    assert "password" in wrong
    nas.command("dsm", "use-database", "--user", "radiology", "--database", "pacs", stdin="Ceci n'est 1 pipe\n")
    nas.wait_for("running")
    nas.add_device()
    nas.send()
    nas.assert_all_kept()


REFUSED = {
    "root password": {**CREATE_DATABASE, "wizard_db_root_password": "Wr0ng password!"},
    "no root password": {**CREATE_DATABASE, "wizard_db_root_password": ""},
    "account": {
        **USE_DATABASE,
        "wizard_db_name": "nothing",
        "wizard_db_user": "nobody",
        "wizard_db_password": "Wr0ng password!",
    },
    "AE title too long": {**LATER, "wizard_ae_title": "ANGIOVAULT-ANGIOVAULT"},
    "AE title with a backslash": {**LATER, "wizard_ae_title": "A\\B"},
    "Chinese AE title": {**LATER, "wizard_ae_title": "影像"},
    "port that is no number": {**LATER, "wizard_port": "11112; reboot"},
    "port too high": {**LATER, "wizard_port": "65536"},
}


def test_a_refused_installation_leaves_nothing(each_nas: Nas) -> None:
    nas = each_nas
    before = _everything(nas.stage)
    for why, answers in REFUSED.items():
        outcome = nas.center.install(nas.spk, answers)
        assert not outcome.ok, why
        assert outcome.codes == {"preinst": 1}, why
        assert outcome.text, why
        assert "Wr0ng" not in outcome.text
        assert _everything(nas.stage) == before, why
    assert not nas.stage.processes()


def _everything(stage: Stage) -> dict[str, str]:
    """Return every file and folder of the stage with its owner and mode, those of the system left out."""
    pruned = " -o ".join(f"-path {path}" for path in ("/proc", "/sys", "/dev", "/.stage", "/usr/lib", "/var/log"))
    listing = stage.run(["sh", "-c", rf"find / \( {pruned} \) -prune -o -exec ls -ld --time-style=+ {{}} +"]).stdout
    return dict(sorted((line.split(None, 5)[-1], line.split(None, 5)[0]) for line in listing.splitlines()))


def test_a_port_in_use_is_refused(nas: Nas) -> None:
    with StoreSCP(nas.folder / "other", ae_title="OTHER", port=11112):
        outcome = nas.center.install(nas.spk, {**LATER})
        assert not outcome.ok
        assert "11112" in outcome.text
        taken = nas.center.install(nas.spk, {**LATER, "wizard_port": "11113"})
        assert taken.ok, nas.explain(taken)


def test_messages_are_in_the_language_of_dsm(make_nas: Callable[..., Nas]) -> None:
    nas = make_nas(DSM7, language="chs")
    refused = nas.center.install(nas.spk, REFUSED["root password"])
    assert "密码" in refused.text
    silent = nas.center.install(nas.spk)
    assert silent.ok, nas.explain(silent)
    assert "数据库" in silent.text


def test_the_scripts_need_no_bash(make_nas: Callable[..., Nas]) -> None:
    nas = make_nas(DSM6)
    nas.stage.link("/bin/sh", "/.stage/bin/dash")
    nas.install_ready(nas.previous_spk)
    nas.send()
    assert nas.center.stop().ok
    assert nas.center.status() == 3
    assert nas.center.start().ok
    upgraded = nas.center.upgrade(nas.spk)
    assert upgraded.ok, nas.explain(upgraded)
    nas.wait_for("running")
    nas.assert_all_kept()
    assert nas.center.uninstall().ok
    refused = nas.center.install(nas.spk, REFUSED["root password"])
    assert refused.codes == {"preinst": 1}


def test_each_generation_takes_its_own_file(make_nas: Callable[..., Nas]) -> None:
    nas = make_nas(DSM7)
    with pytest.raises(Refused):
        nas.center.install(nas.packages.now[6])
    nas.stage.be_generation(DSM6)
    with pytest.raises(Refused):
        nas.center.install(nas.packages.now[7])


def test_without_mariadb_package_center_does_not_install(nas: Nas) -> None:
    nas.stage.run(["rm", "-r", "/var/packages/MariaDB10"])
    with pytest.raises(Refused, match="MariaDB10"):
        nas.center.install(nas.spk)


def test_mariadb_stopped_during_the_installation_is_no_failure(nas: Nas) -> None:
    nas.mariadb.stop()
    outcome = nas.install()
    assert "MariaDB 10" in outcome.text  # says that it does not run, and what to do
    nas.wait_for("needs-set-up")
    nas.mariadb.start()
    nas.command("dsm", "create-database", stdin=f"{ROOT_PASSWORD}\n")
    nas.wait_for("running")
