"""The package's lifecycle scripts, run unmodified under dash and bash, in a mount namespace that looks like a NAS.

What the scripts call of the service is a stand-in here; `tests/dsm` plays the package's whole life with the real one.
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.mariadb import MariaDB
from harness.processes import program
from harness.waiting import wait_until

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
NAMES = ("preinst", "postinst", "preuninst", "postuninst", "preupgrade", "postupgrade", "start-stop-status")
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"]}  # DSM's sh is bash, which under that name is a POSIX shell
USER = 64321
OTHER_PROCESSOR = "armv8" if os.uname().machine == "x86_64" else "x86_64"
THIS_PROCESSOR = "x86_64" if os.uname().machine == "x86_64" else "armv8"

# What a NAS has and we have not: the packages' folder, MariaDB's socket, the package user.
ENTER_NAS = """
mount -t tmpfs tmpfs /var && mkdir /var/packages && mount --bind "$NAS/packages" /var/packages &&
mount -t tmpfs tmpfs /run && mkdir /run/mysqld &&
mount --bind "$NAS/passwd" /etc/passwd && mount --bind "$NAS/group" /etc/group || exit 99
if [ -n "$SOCKET" ]; then
    : >/run/mysqld/mysqld10.sock && mount --bind "$SOCKET" /run/mysqld/mysqld10.sock || exit 99
fi
unset NAS SOCKET
exec "$@"
"""

# `angiovault dsm …`; `behaviour` says how its supervisor behaves. Its name in /proc/PID/stat is as bad as can be.
STAND_IN = """#!/bin/sh
here=/var/packages/angiovault/target
var=/var/packages/angiovault/var; [ -d "$var" ] || var=$here/var
case "$*" in
    "dsm supervise") ;;
    "dsm show port") cat "$here/port"; exit ;;
    *) env -0 >"$here/environment"; id -u >"$here/user"; echo "did $*"; exit "$(cat "$here/exit-code")" ;;
esac
behaviour=$(cat "$here/behaviour")
[ "$behaviour" != broken ] || { echo "cannot start" >&2; exit 1; }
exec 9>>"$var/supervisor.lock"
flock -n 9 || exit 0
[ "$behaviour" = deaf ] && trap '' TERM || trap 'kill $child; rm -f "$var/supervisor.pid"; exit 0' TERM
echo $$ >>"$here/started"
sleep 300 9>&- & child=$!
started=$(sed 's/.*) //' /proc/$$/stat | cut -d ' ' -f 20)
echo "$$ $started $(cat /proc/sys/kernel/random/boot_id)" >"$var/.pid" && mv "$var/.pid" "$var/supervisor.pid"
wait
[ "$behaviour" != deaf ] || sleep 300
"""


class Nas:
    """A NAS of one generation with the package unpacked and a stand-in for its command."""

    def __init__(self, folder: Path, generation: int, shell: list[str]) -> None:
        self.folder = folder
        self.generation = generation
        self.shell = shell
        self.package = folder / "packages" / "angiovault"
        self.target = self.package / "target"
        self.etc = self.package / "etc"
        self.temporary = folder / "packages" / "tmp"
        self.messages = self.temporary / "messages"
        self.mariadb_socket: Path | None = None
        for made in (self.temporary, self.target / "bin", self.target / "conf", self.etc):
            made.mkdir(parents=True)
        self.temporary.chmod(0o777)
        shutil.copytree(SCRIPTS, self.package / "scripts")
        (self.package / "INFO").write_text(f'package="angiovault"\narch="{THIS_PROCESSOR} something_else"\n')
        (self.target / "conf" / "angiovault.sc").write_bytes((ROOT / "conf" / "angiovault.sc").read_bytes())
        odd = self.target / "bin" / ") S 1 odd ("
        odd.write_text(STAND_IN)
        odd.chmod(0o755)
        command = self.target / "bin" / "angiovault"
        command.write_text(f'#!/bin/sh\nexec "/var/packages/angiovault/target/bin/{odd.name}" "$@"\n')
        command.chmod(0o755)
        for name, text in {"behaviour": "good", "port": "11112", "exit-code": "0"}.items():
            (self.target / name).write_text(text)
        for name in ("passwd", "group"):
            entry = f"angiovault:x:{USER}:{USER}::/:/bin/sh\n" if name == "passwd" else f"angiovault:x:{USER}:\n"
            (folder / name).write_text(Path("/etc", name).read_text() + entry)
        if generation == 7:
            (self.package / "var").mkdir()
            self._give(self.package / "var", self.etc)
        self._give(self.target, *self.target.rglob("*"))

    def _give(self, *paths: Path) -> None:
        for path in paths:
            os.chown(path, USER, USER, follow_symlinks=False)

    @property
    def var(self) -> Path:
        return self.package / "var" if self.generation == 7 else self.target / "var"

    @property
    def pid_file(self) -> Path:
        return self.var / "supervisor.pid"

    def command(self, script: str, *arguments: str, as_root: bool | None = None) -> list[str]:
        """How Package Center runs a script: on DSM 6 all but start-stop-status as root."""
        if as_root is None:
            as_root = self.generation == 6 and script != "start-stop-status"
        user = [] if as_root else ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        path = f"/var/packages/angiovault/scripts/{script}"
        return ["unshare", "--mount", "sh", "-c", ENTER_NAS, "sh", *user, *self.shell, path, *arguments]

    def environment(self, status: str = "INSTALL", language: str = "enu", **values: str) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "NAS": str(self.folder),
            "SOCKET": str(self.mariadb_socket or ""),
            "TMPDIR": "/var/packages/tmp",
            "SYNOPKG_TEMP_LOGFILE": "/var/packages/tmp/messages",
            "SYNOPKG_PKGINST_TEMP_DIR": "/var/packages/angiovault",
            "SYNOPKG_PKG_STATUS": status,
            "SYNOPKG_DSM_LANGUAGE": language,
            **values,
        }

    def run(
        self, script: str, *arguments: str, as_root: bool | None = None, **values: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(script, *arguments, as_root=as_root),
            env=self.environment(**values),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 99, done.stderr
        return done

    def service(self, verb: str, *, as_root: bool = False, **values: str) -> int:
        return self.run("start-stop-status", verb, as_root=as_root, status="", **values).returncode

    def said(self) -> str:
        """What the administrator reads, since the last time."""
        text = self.messages.read_text(encoding="utf-8") if self.messages.exists() else ""
        self.messages.unlink(missing_ok=True)
        return text

    def use(self, server: MariaDB) -> None:
        """Make the server DSM's MariaDB 10."""
        self.mariadb_socket = server.socket
        self.use_client(f'#!/bin/sh\nexec {program("mariadb")} "$@"\n')

    def use_client(self, script: str) -> None:
        """Put a client program at one of its places on a NAS."""
        client = self.folder / "packages/MariaDB10/target/usr/local/mariadb10/bin/mysql"
        client.parent.mkdir(parents=True)
        client.write_text(script)
        client.chmod(0o755)

    def pid(self) -> int:
        return int(self.pid_file.read_text().split()[0])

    def end(self) -> None:
        started = self.target / "started"
        for line in started.read_text().split() if started.exists() else []:
            stat_file = Path(f"/proc/{line}/stat")
            if stat_file.exists() and "odd" in stat_file.read_text():
                os.killpg(int(line), signal.SIGKILL)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    return SHELLS[request.param]


@pytest.fixture(params=[6, 7], ids=["dsm6", "dsm7"])
def nas(request: pytest.FixtureRequest, tmp_path: Path, shell: list[str]) -> Iterator[Nas]:
    made = Nas(tmp_path, request.param, shell)
    yield made
    made.end()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- The files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "common"])
def test_a_script_is_posix_shell(name: str, shell: list[str]) -> None:
    subprocess.run([*shell, "-n", SCRIPTS / name], check=True)


def test_these_scripts_and_no_others_are_there() -> None:
    assert {path.name for path in SCRIPTS.iterdir()} == {*NAMES, "common"}
    for name in NAMES:
        assert (SCRIPTS / name).stat().st_mode & 0o777 == 0o755
        assert (SCRIPTS / name).read_text(encoding="utf-8").startswith("#!/bin/sh\n")


@pytest.mark.root
@pytest.mark.parametrize("name", ["postuninst", "preupgrade", "postupgrade"])
def test_scripts_without_work_succeed(nas: Nas, name: str) -> None:
    for status in ("INSTALL", "UPGRADE", "UNINSTALL", ""):
        assert nas.run(name, status=status).returncode == 0
    assert nas.said() == ""


# --- preinst --------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_defaults_are_good(nas: Nas) -> None:
    before = sorted(nas.folder.rglob("*"))
    assert nas.run("preinst", wizard_port=str(unused_port())).returncode == 0
    assert nas.said() == ""
    assert sorted(nas.folder.rglob("*")) == before


def unused_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.mark.root
@pytest.mark.parametrize("status", ["INSTALL", "UPGRADE"])
def test_the_wrong_processor_is_refused(nas: Nas, status: str) -> None:
    (nas.package / "INFO").write_text(f'arch="{OTHER_PROCESSOR}"\n')
    assert nas.run("preinst", status=status).returncode == 1
    assert f"file whose name says {THIS_PROCESSOR}" in nas.said()


@pytest.mark.root
@pytest.mark.parametrize("title", ["A", "ANGIO VAULT", "16 CHARACTERS!!!", " !\"#$%&'()*+,-./", "09:;<=>?@[]^_`~", ""])
def test_ae_titles_that_dicom_allows(nas: Nas, title: str) -> None:
    assert nas.run("preinst", wizard_ae_title=title, wizard_port=str(unused_port())).returncode == 0


@pytest.mark.root
@pytest.mark.parametrize("title", ["SEVENTEEN LETTERS", "BACK\\SLASH", "   ", "血管", "A\tB", "A\nB", "Ä", "A\x7f"])
def test_ae_titles_that_dicom_forbids(nas: Nas, title: str) -> None:
    done = nas.run("preinst", wizard_ae_title=title, wizard_port=str(unused_port()))
    assert done.returncode == 1
    assert nas.said().startswith("The AE title must have 1 to 16 characters")


@pytest.mark.root
@pytest.mark.parametrize("port", ["0", "65536", "9" * 20, "011112", "11112 ", "1e3", "-1", "$(id)", "1\n2"])
def test_ports_that_are_none(nas: Nas, port: str) -> None:
    done = nas.run("preinst", wizard_port=port)
    assert (done.returncode, nas.said()) == (1, "The port must be a whole number from 1 to 65535.\n")
    assert done.stderr == ""


@pytest.mark.root
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_a_port_in_use_is_refused_at_an_installation_only(nas: Nas, family: socket.AddressFamily) -> None:
    with closing(socket.socket(family)) as taken:
        taken.bind(("", 0))
        port = str(taken.getsockname()[1])
        assert nas.run("preinst", wizard_port=port).returncode == 0, "bound, but nobody listens"
        taken.listen()
        assert nas.run("preinst", wizard_port=port).returncode == 1
        assert nas.said().startswith(f"Port {port} is already in use by another program")
        assert nas.run("preinst", wizard_port=port, language="chs").returncode == 1
        assert nas.said().startswith(f"端口 {port} 已被本机的其他程序占用")
        assert nas.run("preinst", wizard_port=port, status="UPGRADE").returncode == 0
        # Not asked again, the port of the last time counts.
        (nas.etc / "angiovault.ini").write_text(f"[device x]\nport = 1\n\n[dicom]\ntls-port = 2\nport = {port}\n")
        assert nas.run("preinst").returncode == 1
        assert f"Port {port} " in nas.said()


@pytest.mark.root
def test_a_port_for_administrators_is_allowed(nas: Nas) -> None:
    # `dsm install` says which command it takes.
    assert nas.run("preinst", wizard_port="104").returncode == 0


@pytest.mark.root
def test_an_existing_database_needs_a_name_a_user_and_a_password(nas: Nas) -> None:
    values = {"wizard_db_name": "images", "wizard_db_user": "me", "wizard_db_password": "it's mine"}
    always = {"wizard_db_existing": "true", "wizard_port": str(unused_port())}
    for missing in values:
        assert nas.run("preinst", **always, **{**values, missing: ""}).returncode == 1
        assert nas.said().startswith("The existing database needs a name, a user and a password.")
    # Nobody to ask: the values may be right.
    assert nas.run("preinst", **always, **values).returncode == 0


NASTY_PASSWORDS = [
    "simple",
    "with blanks  inside and after ",
    " blank before",
    "#comment ; and # more",
    "quote\"quote'quote`",
    '"in double quotes"',
    "'in single quotes'",
    'back\\slash \\n \\s \\\\ \\" end\\',
    "$HOME $(id) `id` ${x} $$ %s %d !history &|<>*?[a]~",
    "[client]",
    "密码 пароль Ünïcödé 😀",
    "-p=--password --",
    "x" * 500,
]


@pytest.mark.root
@pytest.mark.mariadb
@pytest.mark.parametrize("nas", [6], ids=["dsm6"], indirect=True)
def test_any_password_reaches_mariadb_as_it_is(nas: Nas, mariadb: MariaDB) -> None:
    nas.use(mariadb)
    mariadb.execute('CREATE DATABASE IF NOT EXISTS `影像 "1"`')
    values = {"wizard_db_existing": "true", "wizard_db_name": '影像 "1"', "wizard_port": str(unused_port())}
    for number, password in enumerate(NASTY_PASSWORDS):
        user = f"用户 '{number}\\\""
        mariadb.execute(f"CREATE USER {literal(user)}@localhost IDENTIFIED BY {literal(password)}")
        mariadb.execute(f'GRANT ALL ON `影像 "1"`.* TO {literal(user)}@localhost')
        try:
            done = nas.run("preinst", wizard_db_user=user, wizard_db_password=password, **values)
            assert (done.returncode, nas.said()) == (0, ""), password
            for wrong in (password + "x", password[:-1]):
                done = nas.run("preinst", wizard_db_user=user, wizard_db_password=wrong, **values)
                assert done.returncode == 1, wrong
                assert "does not let this user" in nas.said()
            assert list(nas.temporary.iterdir()) == []
        finally:
            mariadb.execute(f"DROP USER {literal(user)}@localhost")


def literal(text: str) -> str:
    """Write a string in SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.mark.root
@pytest.mark.mariadb
def test_the_root_password_is_checked(nas: Nas, mariadb: MariaDB) -> None:
    nas.use(mariadb)
    values = {"wizard_db_create": "true", "wizard_port": str(unused_port())}
    assert nas.run("preinst", wizard_db_root_password="wrong", **values).returncode == 1
    assert nas.said().startswith("MariaDB 10 refuses this password of its user root.")
    assert nas.run("preinst", wizard_db_root_password="two\nlines", **values).returncode == 1
    assert nas.run("preinst", wizard_db_root_password="wrong", language="chs", **values).returncode == 1
    assert "MariaDB 10 拒绝了 root 用户的这个密码" in nas.said()
    assert nas.run("preinst", wizard_db_root_password="", **values).returncode == 0
    assert nas.run("preinst", wizard_db_root_password="wrong", status="UPGRADE", **values).returncode == 0
    assert list(nas.temporary.iterdir()) == []


@pytest.mark.root
@pytest.mark.mariadb
@pytest.mark.parametrize("nas", [6], ids=["dsm6"], indirect=True)
def test_a_password_of_roots_own_file_is_not_taken_for_the_wizards(nas: Nas, mariadb: MariaDB) -> None:
    nas.use(mariadb)
    (nas.temporary / ".my.cnf").write_text("[client]\npassword=\n")
    values = {"wizard_db_create": "true", "wizard_port": str(unused_port()), "HOME": "/var/packages/tmp"}
    assert nas.run("preinst", wizard_db_root_password="wrong", **values).returncode == 1


@pytest.mark.root
@pytest.mark.mariadb
def test_an_unknown_database_is_refused(nas: Nas, mariadb: MariaDB) -> None:
    nas.use(mariadb)
    mariadb.execute("CREATE USER me@localhost IDENTIFIED BY 'mine'")
    account = {"wizard_db_user": "me", "wizard_db_password": "mine"}
    values = {"wizard_db_existing": "true", "wizard_port": str(unused_port()), **account}
    try:
        for name in ("no_such_database", "mysql"):
            assert nas.run("preinst", wizard_db_name=name, **values).returncode == 1
        assert nas.run("preinst", wizard_db_name="information_schema", **values).returncode == 0
    finally:
        mariadb.execute("DROP USER me@localhost")


@pytest.mark.root
def test_another_trouble_of_mariadb_does_not_hinder(nas: Nas) -> None:
    nas.use_client("#!/bin/sh\necho 'ERROR 1040 (08004): Too many connections' >&2; exit 1\n")
    values = {"wizard_db_create": "true", "wizard_port": str(unused_port())}
    assert nas.run("preinst", wizard_db_root_password="any", **values).returncode == 0


@pytest.mark.root
def test_a_mariadb_that_is_stopped_does_not_hinder(nas: Nas) -> None:
    nas.use_client(f'#!/bin/sh\nexec {program("mariadb")} "$@"\n')
    values = {"wizard_db_create": "true", "wizard_port": str(unused_port())}
    assert nas.run("preinst", wizard_db_root_password="any", **values).returncode == 0
    assert nas.said() == ""


@pytest.mark.root
def test_the_password_lies_in_no_file_that_others_can_read_and_in_no_argument(nas: Nas) -> None:
    nas.use_client(
        '#!/bin/sh\ncd /var/packages/tmp\necho "$*" >arguments\nls -ln angiovault.* >listing\n'
        "cat angiovault.* >options\necho 'ERROR 1045 (28000): Access denied' >&2; exit 1\n"
    )
    values = {"wizard_db_create": "true", "wizard_db_root_password": "secret", "wizard_port": str(unused_port())}
    assert nas.run("preinst", **values).returncode == 1
    assert "secret" not in (nas.temporary / "arguments").read_text()
    assert (nas.temporary / "listing").read_text().startswith("-rw-------")
    assert 'password="secret"' in (nas.temporary / "options").read_text()
    assert {path.name for path in nas.temporary.iterdir()} == {"arguments", "listing", "options", "messages"}


@pytest.mark.root
def test_a_kept_database_is_not_made_anew(nas: Nas) -> None:
    nas.use_client("#!/bin/sh\necho 'ERROR 1045 (28000): Access denied' >&2; exit 1\n")
    values = {"wizard_db_create": "true", "wizard_port": str(unused_port())}
    settings = nas.etc / "angiovault.ini"
    database = "angiovault?unix_socket=/run/mysqld/mysqld10.sock"
    settings.write_text(f"[archive]\nindex = mysql://angiovault:x%2F@/{database}\n")
    assert nas.run("preinst", wizard_db_root_password="", **values).returncode == 0
    assert nas.run("preinst", wizard_db_root_password="given", **values).returncode == 1
    settings.write_text(f"[archive]\nindex = mysql://angiovault@/{database}\n")
    assert nas.run("preinst", wizard_db_root_password="", **values).returncode == 1, "it was never set up"


@pytest.mark.root
def test_without_package_centers_file_messages_go_to_standard_output(nas: Nas) -> None:
    assert nas.run("preinst", wizard_port="0", SYNOPKG_TEMP_LOGFILE="").stdout.startswith("The port must be")
    done = nas.run("preinst", wizard_port="0", SYNOPKG_TEMP_LOGFILE="/no/such/folder")
    assert done.stdout.startswith("The port must be")


# --- postinst and preuninst -----------------------------------------------------------------------------------------


@pytest.mark.root
def test_postinst_hands_over_the_values_and_the_messages(nas: Nas) -> None:
    (nas.target / "port").write_text("4242")
    nas.messages.write_text("said before\n")
    nas.messages.chmod(0o666)
    values = {"wizard_ae_title": "A 'B' \"C\" $D", "wizard_db_root_password": "密 码\\ $(id)"}
    done = nas.run("postinst", **values)
    assert (done.returncode, done.stdout) == (0, "")
    assert nas.said() == "said before\ndid dsm install\n"
    given = (nas.target / "environment").read_bytes().decode().split("\0")
    assert {f"{name}={value}" for name, value in values.items()} <= set(given)
    entry = (ROOT / "conf" / "angiovault.sc").read_text()
    assert (nas.target / "conf" / "angiovault.sc").read_text() == entry.replace("11112/tcp", "4242/tcp")


@pytest.mark.root
@pytest.mark.parametrize("nas", [6], ids=["dsm6"], indirect=True)
@pytest.mark.parametrize("there", [True, False], ids=["etc", "no-etc"])
def test_on_dsm6_postinst_makes_the_package_users_folders(nas: Nas, there: bool) -> None:
    if there:
        (nas.etc / "angiovault.ini").write_text("[dicom]\n")
        (nas.folder / "packages" / "foreign").write_text("root's")
        (nas.etc / "link").symlink_to("../../foreign")
        (nas.etc / "hard").hardlink_to(nas.folder / "packages" / "foreign")
    else:
        nas.etc.rmdir()
    assert nas.run("postinst").returncode == 0
    for folder in (nas.etc, nas.var):
        assert folder.stat().st_uid == folder.stat().st_gid == USER
    assert stat.S_IMODE(nas.var.stat().st_mode) == 0o700
    if there:
        assert (nas.etc / "angiovault.ini").stat().st_uid == USER
        assert (nas.folder / "packages" / "foreign").stat().st_uid == 0


@pytest.mark.root
@pytest.mark.parametrize("nas", [6], ids=["dsm6"], indirect=True)
def test_on_dsm6_the_owner_may_be_set_before_or_after_postinst(nas: Nas) -> None:
    for path in [nas.target, *nas.target.rglob("*")]:
        os.chown(path, 0, 0, follow_symlinks=False)
    assert nas.run("postinst").returncode == 0
    assert nas.var.stat().st_uid == USER
    nas._give(nas.target, *nas.target.rglob("*"))
    assert nas.service("start") == 0


@pytest.mark.root
def test_postinst_fails_when_the_settings_cannot_be_written(nas: Nas) -> None:
    (nas.target / "exit-code").write_text("1")
    assert nas.run("postinst", language="chs").returncode == 1
    assert nas.said().startswith("did dsm install\nAngioVault 设置失败")


@pytest.mark.root
def test_a_service_entry_that_cannot_be_written_is_said(nas: Nas) -> None:
    (nas.target / "conf" / "angiovault.sc").unlink()
    (nas.target / "conf").rmdir()
    assert nas.run("postinst").returncode == 0
    assert "firewall's entry" in nas.said()


@pytest.mark.root
def test_only_an_uninstallation_takes_anything_away(nas: Nas) -> None:
    for status in ("UPGRADE", "INSTALL", ""):
        assert nas.run("preuninst", status=status, wizard_drop_database="true").returncode == 0
    assert not (nas.target / "environment").exists()
    (nas.target / "exit-code").write_text("1")  # and even a failure does not keep the package
    assert nas.run("preuninst", status="UNINSTALL", wizard_drop_database="true").returncode == 0
    assert b"wizard_drop_database=true" in (nas.target / "environment").read_bytes().split(b"\0")
    assert nas.said() == "did dsm uninstall\n"


# --- start-stop-status ----------------------------------------------------------------------------------------------


@pytest.fixture
def installed(nas: Nas) -> Nas:
    assert nas.run("postinst").returncode == 0
    nas.said()
    return nas


@pytest.mark.root
def test_start_status_and_stop(installed: Nas) -> None:
    assert installed.service("status") == 3
    before = time.monotonic()
    assert installed.service("start") == 0
    assert time.monotonic() - before < 3
    assert installed.service("status") == 0
    pid = installed.pid()
    assert alive(pid)
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.stat(f"/proc/{pid}").st_uid == USER
    assert installed.service("start") == 0, "started again, it is the same one"
    assert installed.pid() == pid
    assert installed.service("stop") == 0
    assert not alive(pid)
    assert not installed.pid_file.exists()
    assert installed.service("status") == 3
    assert installed.service("stop") == 0


@pytest.mark.root
def test_restart_and_killall(installed: Nas) -> None:
    assert installed.service("restart") == 0
    pid = installed.pid()
    assert installed.service("restart") == 0
    assert installed.pid() != pid
    assert installed.service("killall") == 0
    assert installed.service("status") == 3


@pytest.mark.root
def test_other_verbs(installed: Nas) -> None:
    for verb in ("prestart", "prestop", "reload", "", "start stop"):
        assert installed.service(verb) == 0
    assert installed.run("start-stop-status").returncode == 0
    assert not installed.pid_file.exists()
    done = installed.run("start-stop-status", "log")
    folder = "var" if installed.generation == 7 else "target/var"
    assert done.stdout == f"/var/packages/angiovault/{folder}/angiovault.log\n"


@pytest.mark.root
def test_a_crash_shows_and_is_got_over(installed: Nas) -> None:
    assert installed.service("start") == 0
    pid = installed.pid()
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the supervisor to end")
    assert installed.service("status") == 1
    assert installed.service("start") == 0
    assert installed.service("status") == 0
    assert installed.pid() != pid
    os.killpg(installed.pid(), signal.SIGKILL)
    assert installed.service("stop") == 0
    assert installed.service("status") == 3


@pytest.mark.root
@pytest.mark.parametrize("case", ["start time", "boot", "no number", "path", "empty", "short"])
def test_no_other_process_is_taken_for_the_service(installed: Nas, case: str) -> None:
    sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        started = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        installed.pid_file.write_text(
            {
                "start time": f"{sleeper.pid} {int(started) - 1} {boot}\n",
                "boot": f"{sleeper.pid} {started} 00000000-0000-0000-0000-000000000000\n",
                "no number": f"-{sleeper.pid} {started} {boot}\n",
                "path": f"self/../{sleeper.pid} {started} {boot}\n",
                "empty": "",
                "short": f"{sleeper.pid}\n",
            }[case]
        )
        installed.pid_file.chmod(0o644)
        assert installed.service("status") == 1
        assert installed.service("stop") == 0
        assert sleeper.poll() is None
        assert installed.service("status") == 3
        installed.pid_file.write_text(f"{sleeper.pid} {started} {boot}\n")
        installed.pid_file.chmod(0o644)
        assert installed.service("status") == 0, "the same file with all three right"
        installed.pid_file.unlink()
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.root
def test_two_starts_make_one_service(installed: Nas) -> None:
    for round_ in range(1, 4):
        starts = [
            subprocess.Popen(installed.command("start-stop-status", "start"), env=installed.environment(""))
            for _ in range(3)
        ]
        assert [start.wait(30) for start in starts] == [0, 0, 0]
        assert len((installed.target / "started").read_text().split()) == round_
        assert installed.service("status") == 0
        assert installed.service("stop") == 0


@pytest.mark.root
def test_a_start_that_fails_says_where_the_reason_is(installed: Nas) -> None:
    (installed.target / "behaviour").write_text("broken")
    before = time.monotonic()
    assert installed.service("start") == 1
    assert time.monotonic() - before < 3
    assert installed.said().startswith("AngioVault does not start")
    assert (installed.var / "angiovault.log").read_text() == "cannot start\n"
    assert stat.S_IMODE((installed.var / "angiovault.log").stat().st_mode) == 0o600
    assert installed.service("status") == 3


@pytest.mark.root
@pytest.mark.parametrize("nas", [6], ids=["dsm6"], indirect=True)
def test_started_by_root_nothing_of_roots_lies_in_the_services_folder(installed: Nas) -> None:
    assert installed.service("start", as_root=True) == 0
    assert not (installed.var / "angiovault.log").exists()
    assert installed.service("stop", as_root=True) == 0


@pytest.mark.root
@pytest.mark.parametrize("shell", ["bash"], indirect=True)
@pytest.mark.parametrize("nas", [7], ids=["dsm7"], indirect=True)
def test_what_does_not_stop_is_killed_with_all_its_processes(installed: Nas) -> None:
    (installed.target / "behaviour").write_text("deaf")
    assert installed.service("start") == 0
    pid = installed.pid()
    children = Path(f"/proc/{pid}/task/{pid}/children")
    child = int(wait_until(lambda: children.read_text(), "the supervisor's child").split()[0])
    before = time.monotonic()
    assert installed.service("stop") == 0
    assert 19 < time.monotonic() - before < 25
    assert not alive(pid)
    wait_until(lambda: not alive(child), "the child to end")
    assert installed.service("status") == 3
