"""The database's set-up on a NAS against a real MariaDB with the rule for passwords that Synology's has."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pymysql
import pytest

from angiovault.config import load
from angiovault.dsm import database, installing, mariadb, running
from angiovault.dsm.mariadb import Account
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import Problem, Text
from angiovault.indexurl import IndexURL
from faults import instances
from harness import synology
from harness.dcmtk import findscu, storescu
from harness.mariadb import PASSWORD_RULE, MariaDB
from harness.synology import Supervised
from harness.waiting import wait_until

pytestmark = pytest.mark.mariadb

ROOT = "Rööt \"p'w$d\\ 张 1"


class Server(MariaDB):
    """A server of its own: root has a password, and new ones have to be good."""

    OPTIONS = PASSWORD_RULE

    def __init__(self) -> None:
        super().__init__()
        self._password = b""

    def start(self) -> Self:
        super().start()
        if not self._password:
            self.execute("SET PASSWORD FOR root@localhost = PASSWORD(%s)", (ROOT,))
            self._password = ROOT.encode()
        return self

    def execute(  # type: ignore[override]
        self, statement: str, values: tuple[str, ...] = ()
    ) -> tuple[tuple[object, ...], ...]:
        connection = pymysql.connect(
            unix_socket=str(self.socket), user="root", password=self._password, autocommit=True, charset="utf8mb4"
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return tuple(cursor.fetchall())


@pytest.fixture(scope="module")
def running_server() -> Iterator[Server]:
    server = Server()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def server(running_server: Server) -> Iterator[Server]:
    """The server without databases and users."""
    if not running_server.running:
        running_server.start()
    yield running_server
    if not running_server.running:
        running_server.start()
    for (name,) in running_server.execute("SHOW DATABASES"):
        if name not in ("information_schema", "mysql", "performance_schema", "sys"):
            running_server.execute("DROP DATABASE `{}`".format(str(name).replace("`", "``")))
    for name, host in running_server.execute("SELECT user, host FROM mysql.user"):
        if name not in ("root", "mariadb.sys", "mysql"):
            running_server.execute("DROP USER %s@%s", (str(name), str(host)))


@pytest.fixture
def nas(server: Server) -> Iterator[Nas]:
    root = synology.short_folder()
    nas = synology.make(root)
    nas.socket.symlink_to(server.socket)
    nas.mariadb.mkdir()
    nas.settings.write_text(f"[archive]\nindex = {mariadb.not_set_up(nas).url}\n")
    yield nas
    shutil.rmtree(root)


def _key(call: Callable[[], object]) -> str:
    with pytest.raises(Problem) as caught:
        call()
    assert ROOT not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.text.key


def _grants(server: Server, user: str = "angiovault") -> list[str]:
    return [str(row[0]).split(" IDENTIFIED")[0] for row in server.execute("SHOW GRANTS FOR %s@localhost", (user,))]


# ---- making


def test_database_and_user_are_made(nas: Nas, server: Server) -> None:
    account = mariadb.create(nas, ROOT)
    assert mariadb.works(nas, account)
    assert _grants(server) == [
        "GRANT USAGE ON *.* TO `angiovault`@`localhost`",
        "GRANT ALL PRIVILEGES ON `angiovault`.* TO `angiovault`@`localhost`",
    ]
    made = server.execute(
        "SELECT default_character_set_name FROM information_schema.schemata WHERE schema_name = 'angiovault'"
    )
    assert made == (("utf8mb4",),)
    assert IndexURL.parse(account.url, Path("/")) == IndexURL(
        "mysql", user="angiovault", password=account.password, database="angiovault", unix_socket=str(nas.socket)
    )
    assert account.password not in repr(account)


def test_the_passwords_that_are_made() -> None:
    made = {mariadb.new_password() for _ in range(200)}
    assert len(made) == 200
    for password in made:
        assert len(password) >= 20
        assert password.isascii()
        assert any(map(str.isupper, password))
        assert any(map(str.islower, password))
        assert any(map(str.isdigit, password))
        assert not password.isalnum()
        url = Account(Path("/s"), "u", password, "d").url
        assert IndexURL.parse(url, Path("/")).password == password


def test_what_works_is_kept_and_what_does_not_is_made_anew(nas: Nas, server: Server) -> None:
    first = mariadb.create(nas, ROOT)
    assert mariadb.create(nas, "wrong: it is not even asked", kept=first) == first
    second = mariadb.create(nas, ROOT)  # the settings were lost
    assert second.password != first.password
    assert mariadb.works(nas, second)
    assert not mariadb.works(nas, first)
    server.execute("CREATE TABLE angiovault.archive (name VARCHAR(10), value VARCHAR(10))")
    server.execute("INSERT INTO angiovault.archive VALUES ('kept', 'yes')")
    mariadb.create(nas, ROOT, kept=first)
    assert server.execute("SELECT * FROM angiovault.archive") == (("kept", "yes"),)
    assert len(server.execute("SELECT user FROM mysql.user WHERE user = 'angiovault'")) == 1


def test_a_database_of_another_program_is_left_alone(nas: Nas, server: Server) -> None:
    server.execute("CREATE DATABASE angiovault")
    server.execute("CREATE TABLE angiovault.patient (id INT)")  # a name of ours, but not made by us
    with pytest.raises(Problem, match=r"tables of another program \(patient\)"):
        mariadb.create(nas, ROOT)
    assert server.execute("SELECT COUNT(*) FROM mysql.user WHERE user = 'angiovault'") == ((0,),)
    server.execute("CREATE TABLE angiovault.archive (id INT)")
    mariadb.create(nas, ROOT)
    server.execute("CREATE TABLE angiovault.wp_posts (id INT)")
    with pytest.raises(Problem, match="wp_posts"):
        mariadb.create(nas, ROOT)


def test_every_failure_says_what_to_do(nas: Nas, server: Server) -> None:
    assert _key(lambda: mariadb.create(nas, "wrong")) == "root_refused"
    assert _key(lambda: mariadb.create(nas, "")) == "root_refused"
    server.execute("SET GLOBAL simple_password_check_minimal_length = 100")
    try:
        assert _key(lambda: mariadb.create(nas, ROOT)) == "password_policy"
    finally:
        server.execute("SET GLOBAL simple_password_check_minimal_length = 10")
    server.stop()
    assert _key(lambda: mariadb.create(nas, ROOT)) == "mariadb_not_running"
    nas.mariadb.rmdir()
    assert _key(lambda: mariadb.create(nas, ROOT)) == "mariadb_not_installed"


def test_an_existing_account_is_tried(nas: Nas, server: Server) -> None:
    user, name, password = 'o\'brien "$HOME"', "影像 `$(id)` 'x'", "p\"w'd $PATH \\ 张% #1Aa"
    quoted = name.replace("`", "``")
    account = Account(nas.socket, user, password, name)
    assert _key(lambda: mariadb.check(nas, account)) == "account_refused"
    server.execute("CREATE USER %s@localhost IDENTIFIED BY %s", (user, password))
    assert _key(lambda: mariadb.check(nas, account)) == "database_missing"
    server.execute(f"CREATE DATABASE `{quoted}`")
    assert _key(lambda: mariadb.check(nas, account)) == "database_missing"
    server.execute(f"GRANT SELECT, INSERT ON `{quoted}`.* TO %s@localhost", (user,))
    assert _key(lambda: mariadb.check(nas, account)) == "rights_missing"
    server.execute(f"GRANT ALL ON `{quoted}`.* TO %s@localhost", (user,))
    mariadb.check(nas, account)
    assert server.execute(f"SHOW TABLES FROM `{quoted}`") == ()
    server.execute(f"CREATE TABLE `{quoted}`.other (id INT)")
    assert _key(lambda: mariadb.check(nas, account)) == "database_foreign"
    assert _key(lambda: mariadb.drop(nas, account)) == "database_foreign"
    server.execute(f"DROP TABLE `{quoted}`.other")
    database.use_account(nas, account)
    assert Account.of(load(nas.settings).index) == account
    mariadb.drop(nas, account)
    assert _key(lambda: mariadb.check(nas, account)) == "database_missing"


# ---- installing and removing


class Said(list[Text]):
    def __call__(self, text: Text) -> None:
        self.append(text)


def test_the_wizard_and_its_end(nas: Nas, server: Server) -> None:
    nas.settings.unlink()
    said = Said()
    create = {"wizard_db_create": "true", "wizard_db_root_password": ROOT}
    assert installing.install(nas, create, said) == 0
    assert [text.key for text in said] == ["installed", "database_ready"]
    account = Account.of(load(nas.settings).index)
    assert account
    said.clear()
    assert installing.install(nas, create, said) == 0
    assert [text.key for text in said] == ["installed", "database_kept"]
    assert Account.of(load(nas.settings).index) == account

    said.clear()
    remove = {"wizard_drop_database": "true", "wizard_db_root_password": "wrong"}
    assert installing.uninstall(nas, remove, said) == 0
    assert [text.key for text in said] == ["database_dropped", "user_not_dropped"]
    assert load(nas.settings).index == IndexURL.parse(mariadb.not_set_up(nas).url, Path("/"))
    assert installing.install(nas, create, said) == 0
    said.clear()
    remove["wizard_db_root_password"] = ROOT
    assert installing.uninstall(nas, remove, said) == 0
    assert [text.key for text in said] == ["database_dropped", "user_dropped"]
    assert server.execute("SELECT COUNT(*) FROM mysql.user WHERE user = 'angiovault'") == ((0,),)
    assert ("angiovault",) not in server.execute("SHOW DATABASES")


def test_the_account_of_another_is_not_removed(nas: Nas, server: Server) -> None:
    server.execute("CREATE DATABASE pacs")
    server.execute("CREATE USER radiology@localhost IDENTIFIED BY 'Ceci n''est 1 pipe'")
    server.execute("GRANT ALL ON pacs.* TO radiology@localhost")
    said = Said()
    existing = {"wizard_db_existing": "true", "wizard_db_name": "pacs", "wizard_db_user": "radiology"}
    assert installing.install(nas, {**existing, "wizard_db_password": "Ceci n'est 1 pipe"}, said) == 0
    installing.uninstall(nas, {"wizard_drop_database": "true", "wizard_db_root_password": ROOT}, said)
    assert [text.key for text in said] == ["installed", "database_ready", "database_dropped"]
    assert server.execute("SELECT COUNT(*) FROM mysql.user WHERE user = 'radiology'") == ((1,),)


def test_roots_password_is_nowhere(nas: Nas) -> None:
    done = synology.command(nas, "create-database", stdin=f"{ROOT}\n")
    assert done.returncode == 0, done.stderr
    assert "is set up" in done.stdout
    wrong = synology.command(nas, "create-database", stdin="wrong secret\n")
    assert wrong.returncode == 0  # what works is kept
    nas.settings.write_text("[archive]\n")
    wrong = synology.command(nas, "create-database", stdin="wrong secret\n", env={"SYNOPKG_DSM_LANGUAGE": "chs"})
    assert wrong.returncode == 1
    assert "MariaDB 拒绝了 root 密码" in wrong.stderr
    kept = b"".join(path.read_bytes() for path in nas.root.rglob("*") if path.is_file())
    for text in (done.stdout, done.stderr, wrong.stdout, wrong.stderr, kept.decode("utf-8", "replace")):
        assert ROOT not in text
        assert "wrong secret" not in text


# ---- the running package


def _find(supervisor: Supervised) -> int:
    answer = findscu(supervisor.peer, ["QueryRetrieveLevel=STUDY", "StudyInstanceUID"])
    return len(answer.data_sets) if answer.responses and answer.final.status == 0 else -1


def _settings(nas: Nas, supervisor: Supervised) -> None:
    supervisor.write_settings(f"index = {mariadb.not_set_up(nas).url}\n")


@pytest.fixture
def supervisor(nas: Nas) -> Iterator[Supervised]:
    """A package without a database, which holds two studies already."""
    synology.share(nas)
    supervised = Supervised(nas)
    _settings(nas, supervised)
    with supervised:
        supervised.wait_for("needs-set-up")
        paths = [instances.make(nas.root / "sent", number=number) for number in range(2)]
        assert storescu(supervised.peer, paths, "-xe").statuses == [0, 0]
        yield supervised


def test_the_database_may_come_later(nas: Nas, supervisor: Supervised) -> None:
    assert "not set up yet" in wait_until(lambda: supervisor.health()["problems"].get("database"), "the problem")
    assert _find(supervisor) == -1
    done = synology.command(nas, "create-database", stdin=f"{ROOT}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "takes this over" in done.stdout
    supervisor.wait_for("running")
    wait_until(lambda: _find(supervisor) == 2, "the studies to be found")
    assert supervisor.state()["restarts"] == 0
    assert supervisor.health()["problems"] == {}


def test_the_database_goes_away_and_comes_back_unasked(nas: Nas, supervisor: Supervised, server: Server) -> None:
    """Nobody sends or asks anything: it is noticed all the same, and so is its return."""
    assert synology.command(nas, "create-database", stdin=f"{ROOT}\n").returncode == 0
    wait_until(lambda: _find(supervisor) == 2, "the studies to be found")
    server.stop()
    wait_until(lambda: "database" in supervisor.health()["problems"], "the problem to be noticed", seconds=40)
    service = supervisor.service
    server.start()
    wait_until(lambda: supervisor.health()["problems"] == {}, "the return to be noticed", seconds=40)
    assert supervisor.service == service


def test_an_index_that_was_left_is_not_taken_for_complete(nas: Nas, supervisor: Supervised) -> None:
    """From MariaDB to a file and back: what came meanwhile is found."""
    assert synology.command(nas, "create-database", stdin=f"{ROOT}\n").returncode == 0
    wait_until(lambda: _find(supervisor) == 2, "the studies to be found")
    account = Account.of(load(nas.settings).index)
    assert account
    for count, arguments in enumerate(
        (["--embedded"], ["--user", account.user, "--database", account.database], ["--embedded"]), start=3
    ):
        done = synology.command(nas, "use-database", *arguments, stdin=f"{account.password}\n")
        assert done.returncode == 0, done.stderr
        supervisor.wait_for("running")
        wait_until(lambda: supervisor.health(), "the service")
        assert storescu(supervisor.peer, [instances.make(nas.root / "sent", number=count)], "-xe").statuses == [0]
        wait_until(lambda count=count: _find(supervisor) == count, "all studies to be found")


def test_everything_is_lost_but_the_share(nas: Nas, supervisor: Supervised, server: Server) -> None:
    assert synology.command(nas, "create-database", stdin=f"{ROOT}\n").returncode == 0
    wait_until(lambda: _find(supervisor) == 2, "the studies to be found")
    text = nas.settings.read_text().replace("[dicom]", "[dicom]\nae-title = HYBRID-OR")
    nas.settings.write_text(f"{text}\n[device zeego]\nae-title = ZEEGO\nhost = 10.0.0.1\n")
    assert synology.command(nas, "backup-settings").returncode == 0
    supervisor.stop()
    server.execute("DROP DATABASE angiovault")
    server.execute("DROP USER angiovault@localhost")
    nas.settings.unlink()

    supervisor.start()
    supervisor.wait_for("configuration")
    refused = synology.command(nas, "restore", stdin="")
    assert refused.returncode == 1
    assert "use-database --embedded" in refused.stderr
    done = synology.command(nas, "restore", stdin=f"{ROOT}\n")
    assert done.returncode == 0, done.stderr
    supervisor.wait_for("running")
    assert (load(nas.settings).ae_title, load(nas.settings).port) == ("HYBRID-OR", supervisor.port)
    assert "[device zeego]" in nas.settings.read_text()
    wait_until(lambda: _find(supervisor) == 2, "the studies to be found")
    again = synology.command(nas, "restore", stdin="")
    assert again.returncode == 0, again.stderr
    assert "still work" in again.stdout
    wait_until(lambda: _find(supervisor) == 2, "the studies to be found")


def test_the_share_of_another_nas(nas: Nas, supervisor: Supervised) -> None:
    """The supervisor has made an empty archive before the old one was copied over it."""
    assert synology.command(nas, "create-database", stdin=f"{ROOT}\n").returncode == 0
    wait_until(lambda: _find(supervisor) == 2, "the studies to be found")
    supervisor.stop()
    old = nas.root / "volume1/old"
    (nas.root / "volume1/angiography").rename(old)
    (nas.root / "volume1/angiography").mkdir()
    with_new = f"index = {mariadb.not_set_up(nas).url}\n"
    supervisor.write_settings(with_new)
    supervisor.start()
    supervisor.wait_for("needs-set-up")
    new_id = load(nas.settings).archive_id
    supervisor.stop()
    shutil.rmtree(nas.root / "volume1/angiography")
    old.rename(nas.root / "volume1/angiography")
    supervisor.start()
    assert new_id in supervisor.wait_for("share-missing")["message"]
    done = synology.command(nas, "restore", stdin=f"{ROOT}\n")
    assert done.returncode == 0, done.stderr
    supervisor.wait_for("running")
    assert load(nas.settings).archive_id != new_id
    wait_until(lambda: _find(supervisor) == 2, "the studies to be found")
    found = json.loads(synology.command(nas, "state", "--json").stdout)
    assert (found["state"], found["problems"]) == ("running", {})
    assert running.state(nas)["service"] == supervisor.service
