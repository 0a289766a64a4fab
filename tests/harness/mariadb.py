"""A real MariaDB server on a UNIX socket, without TCP, as the package on a NAS has it."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar, Self

import pymysql

from harness.processes import Background, Server, program

# struct sockaddr_un holds 108 bytes with the final NUL.
_LONGEST_SOCKET_PATH = 107
PASSWORD_RULE = (
    "--plugin-load-add=simple_password_check",
    "--simple-password-check-minimal-length=10",
    "--simple-password-check-digits=1",
    "--simple-password-check-letters-same-case=1",
    "--simple-password-check-other-characters=1",
)
"""Options for Debian's plugin with the rule of Synology's `synology_password_check`."""


class MariaDB(Server):
    """A server with its own data folder; databases are made by `database()`.

    The server never runs as root: root's server runs as the user `mysql`. Its folder lies beside pytest's, since
    nobody but root may enter those, and since the path of a socket is short.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Further options of the server."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="angiovault-mariadb-"))
        self.data = self.folder / "data"
        self.socket = self.folder / "socket"
        if len(os.fsencode(self.socket)) > _LONGEST_SOCKET_PATH:
            raise RuntimeError(f"{self.socket} is too long for a UNIX socket: set TMPDIR to a shorter path")
        self._user = pwd.getpwnam("mysql") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)

    def start(self) -> Self:
        if not self.data.exists():
            self._install()
        self._background = Background(
            [
                program("mariadbd"),
                "--no-defaults",
                "--skip-networking",
                f"--socket={self.socket}",
                f"--datadir={self.data}",
                f"--tmpdir={self.folder}",  # a server that starts removes what others have in a common one
                "--innodb-buffer-pool-size=64M",
                "--innodb-log-file-size=32M",
                f"--user={self._user.pw_name}",
                *self.OPTIONS,
            ],
            log=self.folder / "log",
        )
        self.background.wait_ready(self._answers, seconds=60)
        return self

    def _install(self) -> None:
        done = subprocess.run(
            [
                program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self.data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                f"--user={self._user.pw_name}",
            ],
            env={**os.environ, "TMPDIR": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except pymysql.OperationalError:
            return False
        return True

    def execute(self, statement: str, *, database: str | None = None) -> tuple[tuple[object, ...], ...]:
        """Run one statement as the server's administrator and return its rows."""
        connection = pymysql.connect(unix_socket=str(self.socket), user="root", database=database, autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return tuple(cursor.fetchall())

    def database(self) -> str:
        """Make an empty database with a user of its own and return its index URL."""
        name = f"av_{secrets.token_hex(8)}"
        password = secrets.token_hex(16)
        self.execute(f"CREATE DATABASE {name}")
        self.execute(f"CREATE USER {name}@localhost IDENTIFIED BY '{password}'")
        self.execute(f"GRANT ALL ON {name}.* TO {name}@localhost")
        return f"mysql://{name}:{password}@/{name}?unix_socket={self.socket}"

    def remove(self) -> None:
        """End the server and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder)
