"""The stage itself: that it is as poor as DSM, and that nothing of it outlives it."""

import contextlib
from pathlib import Path

import pymysql
import pytest

from dsm.mariadb10 import MariaDB10
from dsm.nas import Nas
from harness.waiting import wait_until


def test_nothing_of_this_machine_is_at_hand(each_nas: Nas) -> None:
    stage = each_nas.stage
    for program in ("python3", "python", "perl", "mktemp", "apt-get"):
        assert stage.run(["sh", "-c", f"command -v {program}"], check=False).returncode != 0, program
    assert not stage.exists("/usr/lib/python3")
    stage.add_user("angiovault", "angiovault")
    assert stage.run(["/usr/syno/sbin/synoshare", "--get", "x"], user="angiovault", check=False).returncode != 0
    assert stage.run(["sh", "-c", "ls -A /volume1 && touch /volume1/x"], user="angiovault", check=False).returncode != 0


def test_the_stage_ends_with_all_that_runs_on_it(nas: Nas) -> None:
    token = "1000.271828"
    nas.stage.run(["sh", "-c", f"setsid sleep {token} </dev/null >/dev/null 2>&1 &"])
    assert _runs(token)
    nas.stage.close()
    wait_until(lambda: not _runs(token), "the stage's process to be gone")
    assert not Path(f"/proc/{nas.stage.pid}").exists()


def _runs(token: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended since it was listed
            if token.encode() in path.read_bytes():
                return True
    return False


def test_the_server_has_synologys_rule_for_passwords(mariadb10: MariaDB10) -> None:
    for weak in ("Short1!", "no capital 1!", "NO SMALL 1!", "No digit at all!", "NoSpecial1234"):
        with pytest.raises(pymysql.MySQLError):
            mariadb10.execute("CREATE USER weak@localhost IDENTIFIED BY %s", values=(weak,))
    with pytest.raises(pymysql.MySQLError, match="Access denied"):
        pymysql.connect(unix_socket=str(mariadb10.socket), user="root", password="")
