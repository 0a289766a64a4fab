"""What the wizards were told becomes settings; and the commands where there is no database and no NAS."""

import json
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from angiovault import cli
from angiovault.dsm import commands, installing
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import CHINESE, Text
from angiovault.inifile import read_file
from harness import synology


@pytest.fixture
def nas(tmp_path: Path) -> Nas:
    return synology.make(tmp_path)


class Said(list[Text]):
    """What the administrator was told."""

    def __call__(self, text: Text) -> None:
        self.append(text)

    @property
    def keys(self) -> list[str]:
        return [text.key for text in self]


def _install(nas: Nas, **values: str) -> Said:
    said = Said()
    assert installing.install(nas, values, said) == 0
    return said


def test_a_silent_installation(nas: Nas) -> None:
    assert _install(nas).keys == ["installed", "database_later"]
    parser = read_file(nas.settings)
    assert parser.get("archive", "index") == f"mysql://angiovault@/angiovault?unix_socket={nas.socket}"
    assert not parser.has_option("archive", "storage")
    assert nas.settings.stat().st_mode & 0o777 == 0o600
    before = nas.settings.stat().st_ino
    assert _install(nas).keys == ["installed", "database_later"]  # an upgrade
    assert nas.settings.stat().st_ino == before


def test_the_wizards_values_win_and_nothing_else_changes(nas: Nas) -> None:
    nas.settings.write_text(
        "[dicom]\nae-title = OLD\nport = 4242\nunknown-devices = all\n[archive]\nindex =\n[device x]\nae-title = X\n"
        "host = 10.0.0.1\n"
    )
    said = _install(nas, wizard_ae_title=" A$B \"C' #1%; ", wizard_port="")
    assert "A$B \"C' #1%;" in str(said[0])
    parser = read_file(nas.settings)
    assert parser.get("dicom", "ae-title") == "A$B \"C' #1%;"
    assert (parser.get("dicom", "port"), parser.get("dicom", "unknown-devices")) == ("4242", "all")
    assert parser.get("archive", "index") == ""
    assert parser.has_section("device x")
    assert said.keys == ["installed"]


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("wizard_port", "0", "11112"),
        ("wizard_port", "65536", "11112"),
        ("wizard_port", "eleven", "11112"),
        ("wizard_ae_title", "A" * 17, "ANGIOVAULT"),
        ("wizard_ae_title", "影像", "ANGIOVAULT"),
        ("wizard_ae_title", "A\\B", "ANGIOVAULT"),
        ("wizard_ae_title", "A\nport = 1", "ANGIOVAULT"),
    ],
)
def test_a_bad_value_is_said_and_left_out(nas: Nas, key: str, value: str, kept: str) -> None:
    said = _install(nas, **{key: value})
    assert said.keys == ["value_refused", "installed", "database_later"]
    assert f"so {kept} stays" in str(said[0])
    parser = read_file(nas.settings)
    assert not parser.has_section("dicom")
    said = _install(nas, wizard_port="11113", wizard_ae_title="KEPT")
    said = _install(nas, **{key: value})
    assert f"so {'11113' if 'port' in key else 'KEPT'} stays" in str(said[0])


def test_a_port_for_root_is_taken_with_a_warning(nas: Nas) -> None:
    said = _install(nas, wizard_port="104")
    assert said.keys[0] == "port_privileged"
    assert f"setcap cap_net_bind_service=+ep {Path(sys.executable).resolve()}" in str(said[0])
    assert read_file(nas.settings).get("dicom", "port") == "104"


def test_settings_that_are_broken_do_not_break_the_installation(nas: Nas) -> None:
    nas.settings.write_text("[dicom]\nport = many\n")
    said = Said()
    assert installing.install(nas, {}, said) == 0
    assert installing.install(nas, {"wizard_ae_title": "NEW"}, said) == 0
    assert "settings_broken" in said.keys
    assert "port = many" in nas.settings.read_text()


def test_settings_that_cannot_be_written_do(nas: Nas) -> None:
    nas.settings.mkdir()
    said = Said()
    assert installing.install(nas, {}, said) == 1
    assert said.keys == ["settings_not_written"]


def test_no_database_is_no_reason_to_fail(nas: Nas) -> None:
    said = _install(nas, wizard_db_create="true", wizard_db_root_password="R00t-secret!")
    assert said.keys == ["installed", "mariadb_not_installed"]
    nas.mariadb.mkdir()
    said = _install(nas, wizard_db_create="true", wizard_db_root_password="R00t-secret!")
    assert said.keys == ["installed", "mariadb_not_running"]
    assert "Package Center" in str(said[1])
    assert "secret" not in "".join(text.in_language(CHINESE) + str(text) for text in said)
    assert "secret" not in nas.settings.read_text()
    said = _install(nas, wizard_db_existing="true", wizard_db_user="u", wizard_db_name="d", wizard_db_password="p")
    assert said.keys == ["installed", "mariadb_not_running"]
    said = _install(nas, wizard_db_existing="true", wizard_db_user="u", wizard_db_name="d")
    assert said.keys == ["installed", "password_missing"]
    said = _install(nas, wizard_db_existing="true", wizard_db_user="u", wizard_db_name="../d", wizard_db_password="p")
    assert said.keys == ["installed", "bad_name"]


def test_by_default_removing_keeps_everything(nas: Nas) -> None:
    _install(nas)
    for values in ({}, {"wizard_keep_all": "true"}, {"wizard_keep_all": "true", "wizard_delete_settings": "true"}):
        said = Said()
        assert installing.uninstall(nas, values, said) == 0
        assert said.keys == ["settings_kept"]
        assert nas.settings.exists()


def test_removing_what_is_not_there(nas: Nas) -> None:
    share = synology.share(nas)
    (share / "image").touch()
    said = Said()
    values = {"wizard_keep_all": "false", "wizard_delete_settings": "true", "wizard_drop_database": "true"}
    _install(nas)
    assert installing.uninstall(nas, values, said) == 0
    assert said.keys == ["settings_deleted"]
    assert not nas.settings.exists()
    assert installing.uninstall(nas, values, said) == 0
    assert (share / "image").exists()
    nas.settings.write_text(f"[archive]\nindex = mysql://angiovault:pw@/angiovault?unix_socket={nas.socket}\n")
    said.clear()
    assert installing.uninstall(nas, values, said) == 0
    assert said.keys == ["database_not_dropped", "settings_deleted"]
    assert "not installed" in str(said[0])


# ---- the commands


def _command(nas: Nas, *arguments: str) -> int:
    return commands.main(arguments, nas)


def test_anywhere_else_the_commands_say_that_this_is_no_nas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("supervise", "install", "uninstall", "state", "create-database", "backup-settings", "restore"):
        assert _command(Nas(tmp_path), name) == 1
        assert "no Synology NAS" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_leads_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["dsm", "--help"])
    assert ended.value.code == 0
    assert "create-database" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "Synology" in capsys.readouterr().out


def test_show_and_state(nas: Nas, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNOPKG_DSM_LANGUAGE", "enu")
    assert _command(nas, "show", "port") == 1  # there are no settings
    capsys.readouterr()
    _install(nas, wizard_ae_title="HYBRID-OR", wizard_port="11113")
    for name, value in (("port", "11113"), ("ae-title", "HYBRID-OR"), ("storage", ""), ("state", "stopped")):
        assert _command(nas, "show", name) == 0
        assert capsys.readouterr().out == f"{value}\n"
    assert _command(nas, "state") == 0
    assert "stopped: AngioVault is not running" in capsys.readouterr().out
    monkeypatch.setenv("SYNOPKG_DSM_LANGUAGE", "chs")
    assert _command(nas, "state") == 0
    assert "未运行" in capsys.readouterr().out
    assert _command(nas, "state", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["ae_title"], found["port"]) == ("stopped", "HYBRID-OR", 11113)
    nas.settings.write_text("[nonsense]\n")
    assert _command(nas, "state", "--json") == 0
    assert "nonsense" in json.loads(capsys.readouterr().out)["problems"]["settings"]


def test_use_database_wants_to_know_which(nas: Nas) -> None:
    assert _command(nas, "use-database", "--user", "u") == 2


def test_a_copy_needs_an_archive(nas: Nas, capsys: pytest.CaptureFixture[str]) -> None:
    _install(nas)
    assert _command(nas, "backup-settings") == 1
    synology.share(nas)
    assert _command(nas, "backup-settings") == 1
    assert "not found yet" in capsys.readouterr().err


@pytest.mark.root
def test_root_becomes_the_package_user() -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom angiovault.dsm import commands\n"
        "from angiovault.dsm.paths import Nas\nos.setuid(int(sys.argv[2]))\n"
        "commands._become_package_user(Nas(Path('/'), user=sys.argv[1]))\n"
        "print(os.getresuid(), os.getresgid(), os.getgroups())"
    )
    user = pwd.getpwnam("daemon")
    done = subprocess.run([sys.executable, "-c", script, "daemon", "0"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{(user.pw_uid,) * 3} {(user.pw_gid,) * 3} [{user.pw_gid}]\n"
    for name, uid, said in (("nobody-knows", 0, "install the package again"), ("nobody", user.pw_uid, "type `sudo`")):
        command = [sys.executable, "-c", script, name, str(uid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert said in done.stderr
