"""A real MariaDB 10 set up as Synology's package does: a socket, no TCP, root with a password, a rule for passwords."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pymysql

from harness.mariadb import PASSWORD_RULE, MariaDB

ROOT_PASSWORD = "r00t \"P$w'd\\ Ü张"
"""What people type: a blank, both quotes, a dollar sign, a backslash, other scripts."""

# Installing is mostly waiting for the server's disk: its data lie in memory where there is enough of that.
_MEMORY = Path("/dev/shm")
_ROOM = 1 << 30


class MariaDB10(MariaDB):
    """The server of Synology's package MariaDB10; the socket lies alone in `run`, which becomes /run/mysqld."""

    OPTIONS = PASSWORD_RULE

    def __init__(self) -> None:
        super().__init__()
        self.run = self.folder / "run"
        self.run.mkdir(mode=0o755)
        shutil.chown(self.run, self._user.pw_name)
        self.socket = self.run / "mysqld10.sock"
        self._root_password = ""
        if shutil.disk_usage(_MEMORY).free > _ROOM:
            self.data = Path(tempfile.mkdtemp(prefix="angiovault-mariadb-", dir=_MEMORY)) / "data"
            shutil.chown(self.data.parent, self._user.pw_name)

    def start(self) -> Self:
        super().start()
        if not self._root_password:
            self.set_root_password(ROOT_PASSWORD)
        return self

    def execute(
        self, statement: str, *, database: str | None = None, values: Sequence[str] = ()
    ) -> tuple[tuple[object, ...], ...]:
        with self._connected(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return tuple(cursor.fetchall())

    def _connected(self, database: str | None = None) -> pymysql.Connection:
        return pymysql.connect(
            unix_socket=str(self.socket),
            user="root",
            password=self._root_password.encode(),  # PyMySQL would take text for Latin-1
            database=database,
            charset="utf8mb4",
            autocommit=True,
        )

    def set_root_password(self, password: str) -> None:
        with self._connected() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT Host FROM mysql.user WHERE User = 'root'")
            for (host,) in cursor.fetchall():
                cursor.execute("SET PASSWORD FOR root@%s = PASSWORD(%s)", (host, password))
        self._root_password = password

    def databases(self) -> set[str]:
        """Return the databases that are not the server's own."""
        own = {"information_schema", "mysql", "performance_schema", "sys"}
        return {str(name) for (name,) in self.execute("SHOW DATABASES")} - own

    def users(self) -> set[str]:
        """Return the users that are not the server's own."""
        own = {"root", "mariadb.sys", "mysql", ""}
        return {str(name) for (name,) in self.execute("SELECT User FROM mysql.user")} - own

    def reset(self) -> None:
        """Make it as new: no databases, no users, root's first password."""
        for name in self.databases():
            self.execute(f"DROP DATABASE {identifier(name)}")
        for host, user in self.execute("SELECT Host, User FROM mysql.user"):
            if str(user) in self.users():
                self.execute("DROP USER %s@%s", values=(str(user), str(host)))
        if self._root_password != ROOT_PASSWORD:
            self.set_root_password(ROOT_PASSWORD)

    def remove(self) -> None:
        super().remove()
        if self.data.is_relative_to(_MEMORY):
            shutil.rmtree(self.data.parent)


def identifier(name: str) -> str:
    """Write a name of a database as SQL takes it, whatever is in it."""
    return "`" + name.replace("`", "``") + "`"
