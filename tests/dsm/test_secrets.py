"""No password lies anywhere but in the settings of the package, nor in a command line or an environment."""

from urllib.parse import quote, unquote

from dsm.mariadb10 import ROOT_PASSWORD
from dsm.nas import SETTINGS, Nas
from dsm.stage import Stage

_ARGUMENTS = "/.stage/arguments-of-mysql"


def test_passwords_stay_where_they_belong(each_nas: Nas) -> None:
    nas = each_nas
    _note_arguments_of_mysql(nas.stage)
    nas.install_ready(nas.previous_spk)
    arguments = nas.stage.read(_ARGUMENTS)
    assert "--defaults-file=" in arguments  # it was called, and not with a password
    assert ROOT_PASSWORD not in arguments
    index = nas.setting("index")
    assert index is not None
    ours = index.split(":")[2].split("@")[0]
    nas.send()
    nas.command("dsm", "backup-settings")
    nas.command("dsm", "state", check=False)
    nas.command("status", check=False)
    outcome = nas.center.upgrade(nas.spk)
    assert outcome.ok, nas.explain(outcome)
    nas.wait_until_answers()
    nas.mariadb.execute("SET PASSWORD FOR angiovault@localhost = PASSWORD('Another1 password!')")
    nas.mariadb.stop()
    nas.mariadb.start()
    nas.send()  # its refusal is in the log
    for secret in (ROOT_PASSWORD, ROOT_PASSWORD[:8], quote(ROOT_PASSWORD, safe=""), ours, unquote(ours)):
        for place, text in _all_there_is_to_read(nas.stage).items():
            assert secret.encode() not in text, f"a password is in {place}"
    assert nas.stage.host(SETTINGS).stat().st_mode & 0o077 == 0


def _note_arguments_of_mysql(stage: Stage) -> None:
    """Have MariaDB's client note its command line, which ps would show to everybody."""
    client = "/usr/local/mariadb10/bin/mysql"
    stage.run(["mv", client, "/.stage/bin/mysql"])
    stage.write(_ARGUMENTS, "", mode=0o666)
    stage.write(client, f'#!/bin/sh\nprintf "%s\\n" "$@" >>{_ARGUMENTS}\nexec /.stage/bin/mysql "$@"\n', mode=0o755)


def _all_there_is_to_read(stage: Stage) -> dict[str, bytes]:
    """Return the files that the package or its scripts can have written, and what ps shows of its processes."""
    settings = stage.host(SETTINGS)
    roots = ("/tmp", "/var/log", "/var/packages", "/usr/local/etc", "/usr/syno/etc", "/volume1", "/volume2", "/dev/shm")
    found = {}
    for root in roots:
        for path in stage.host(root).rglob("*"):
            program = "@appstore" in path.parts and "var" not in path.parts
            if path.is_file() and not path.is_symlink() and path != settings and not program:
                found[str(path)] = path.read_bytes()
    for process in stage.processes():
        for kind in ("cmdline", "environ"):
            found[f"{kind} of {process.command}"] = stage.run(["cat", f"/proc/{process.pid}/{kind}"]).stdout.encode()
    return found
