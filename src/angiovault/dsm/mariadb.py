"""The index's database in the package MariaDB 10: made with root's password, or an existing one tried out.

Only SQL that every MariaDB from 10.0 (DSM 6.0) to 10.11 (DSM 7.3) understands; always by the UNIX socket. A password is
sent to the server and nowhere else: neither the server's messages nor ours hold one.
"""

from __future__ import annotations

import contextlib
import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pymysql
from pymysql.constants import CR, ER

from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import Problem
from angiovault.indexurl import IndexURL

ROOT: Final = "root"
DATABASE: Final = "angiovault"
USER: Final = "angiovault"

_HOST: Final = "localhost"
_CONNECT_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 30
_NOT_VALID_PASSWORD: Final = 1819  # ER_NOT_VALID_PASSWORD, which PyMySQL has no name for
_LENGTH: Final = 24
_SPECIAL: Final = "!*+-=@_"
_PROBE: Final = "angiovault_probe"
_TRIAL: Final = (
    f"DROP TABLE IF EXISTS {_PROBE}",
    f"CREATE TABLE {_PROBE} (id INT NOT NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    f"ALTER TABLE {_PROBE} ADD COLUMN name VARCHAR(10)",
    f"CREATE INDEX {_PROBE}_name ON {_PROBE} (name)",
    f"TRUNCATE TABLE {_PROBE}",
    f"DROP TABLE {_PROBE}",
)
"""What migrations and rebuilds do; who may do this may also write rows."""
_MARK: Final = "archive"
"""The table that makes tables of these names ours."""


@dataclass(frozen=True)
class Account:
    """A database, and the account by which it is used; the text of it never shows the password."""

    socket: Path
    user: str
    password: str
    database: str

    def __repr__(self) -> str:
        return f"Account({self.user!r}, {self.database!r})"

    @classmethod
    def of(cls, url: IndexURL | None) -> Account | None:
        """Return the account of an index URL; None when it is not one by socket and with a password."""
        if url is None or url.unix_socket is None or not url.password:
            return None
        return cls(Path(url.unix_socket), url.user, url.password, url.database)

    @property
    def url(self) -> str:
        """The account as an index URL, password included; without one when there is none."""
        login = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        return f"mysql://{login}@/{quote(self.database, safe='')}?unix_socket={quote(str(self.socket), safe='/')}"


def not_set_up(nas: Nas) -> Account:
    """Return the account that stands in the settings until there is a database: it has no password."""
    return Account(nas.socket, USER, "", DATABASE)


def new_password() -> str:
    """Make a password that Synology's rule takes: ten characters or more, upper, lower, digit and special ones."""
    kinds = (string.ascii_uppercase, string.ascii_lowercase, string.digits, _SPECIAL)
    while True:
        password = "".join(secrets.choice("".join(kinds)) for _ in range(_LENGTH))
        if all(sum(letter in kind for letter in password) >= 2 for kind in kinds):
            return password


@contextlib.contextmanager
def _connection(nas: Nas, account: Account) -> Iterator[Any]:
    """Connect; the server's errors come out as a `Problem` that says what to do."""
    try:
        connection = pymysql.connect(
            unix_socket=str(account.socket),
            ssl_disabled=True,  # see `IndexURL.server`
            user=account.user,
            # PyMySQL would take text for Latin-1; root's password stays what it was in another encoding than UTF-8.
            password=account.password.encode("utf-8", "surrogateescape"),
            database=account.database or None,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_ANSWER_SECONDS,
            write_timeout=_ANSWER_SECONDS,
        )
        with connection, connection.cursor() as cursor:
            yield cursor
    except (pymysql.MySQLError, OSError) as error:
        raise _problem(nas, account, error) from None  # the chain would be shown, and may quote a statement


def _problem(nas: Nas, account: Account, error: Exception) -> Problem:
    code, reason = error.args[0] if error.args else 0, _reason(error)
    if code in (CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR, CR.CR_SERVER_LOST, CR.CR_SERVER_GONE_ERROR):
        if not account.socket.exists() and not nas.mariadb.exists():
            return Problem("mariadb_not_installed")
        return Problem("mariadb_not_running", socket=account.socket, reason=reason)
    if code == ER.ACCESS_DENIED_ERROR:
        if account.user == ROOT:
            return Problem("root_refused", reason=reason)
        return Problem("account_refused", user=account.user, reason=reason)
    if code in (ER.DBACCESS_DENIED_ERROR, ER.BAD_DB_ERROR):
        return Problem("database_missing", database=account.database, user=account.user)
    if code == _NOT_VALID_PASSWORD:
        return Problem("password_policy", reason=reason)
    return Problem("mariadb_failed", reason=reason)


def _reason(error: Exception) -> str:
    """Return the server's words, with its number; they never hold a password, but syntax errors quote a statement."""
    code = error.args[0] if error.args else 0
    if code in (ER.PARSE_ERROR, ER.SYNTAX_ERROR):
        return f"error {code}"
    return f"error {code}: {error.args[1]}" if len(error.args) > 1 else str(error)


# ---- looking


def works(nas: Nas, account: Account) -> bool:
    """Return whether the account reaches its database.

    Raises
    ------
    Problem
        When nobody can tell, since MariaDB is not there.
    """
    try:
        with _connection(nas, account) as cursor:
            cursor.execute("SELECT 1")
    except Problem as problem:
        if problem.text.key in ("account_refused", "root_refused", "database_missing"):
            return False
        raise
    return True


def check(nas: Nas, account: Account) -> None:
    """Try whether an account can be used: connect, make a table, drop it.

    Raises
    ------
    Problem
        When it cannot, or when the database is another program's.
    """
    _check_texts(account)
    with _connection(nas, account) as cursor:
        _refuse_foreign(cursor, account.database)
        try:
            for statement in _TRIAL:
                cursor.execute(statement)
        except pymysql.MySQLError as error:
            raise Problem(
                "rights_missing", user=account.user, database=account.database, reason=_reason(error)
            ) from None


def _check_texts(account: Account) -> None:
    for name in (account.user, account.database):
        if not 0 < len(name) <= 64 or not name.isprintable() or name != name.strip() or set(name) & set("/\\"):
            raise Problem("bad_name", name=repr(name))
    try:
        account.password.encode()
    except UnicodeEncodeError:
        raise Problem("account_refused", user=account.user, reason="the password is not UTF-8 text") from None


def _refuse_foreign(cursor: Any, database: str) -> None:
    from angiovault.archive import models  # only who sets up a database needs the tables' names

    cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (database,))
    found = {str(name) for (name,) in cursor.fetchall()} - {_PROBE}
    ours = {str(model._meta.table_name) for model in models.ALL} if _MARK in found else set()
    if strange := sorted(found - ours):
        raise Problem("database_foreign", database=database, tables=", ".join(strange[:5]))


# ---- making


def create(nas: Nas, root_password: str, kept: Account | None = None) -> Account:
    """Make database and user with root's password, and return the account; `kept` stays if it still works.

    A database of that name that is ours already is taken over with all that is in it, and its user gets a new
    password.

    Raises
    ------
    Problem
        When it cannot be done.
    """
    if kept is not None and works(nas, kept):
        return kept
    account = Account(nas.socket, USER, new_password(), DATABASE)
    with _connection(nas, Account(nas.socket, ROOT, root_password, "")) as cursor:
        cursor.execute("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = %s", (DATABASE,))
        if cursor.fetchone()[0]:
            _refuse_foreign(cursor, DATABASE)
        else:
            cursor.execute(f"CREATE DATABASE {DATABASE} DEFAULT CHARACTER SET utf8mb4")
        cursor.execute("SELECT COUNT(*) FROM mysql.user WHERE user = %s AND host = %s", (USER, _HOST))
        # In full, not as a digest: the server's password rule wants to see it.
        if cursor.fetchone()[0]:
            cursor.execute("SET PASSWORD FOR %s@%s = PASSWORD(%s)", (USER, _HOST, account.password))
        else:
            cursor.execute("CREATE USER %s@%s IDENTIFIED BY %s", (USER, _HOST, account.password))
        cursor.execute(f"GRANT ALL PRIVILEGES ON {DATABASE}.* TO %s@%s", (USER, _HOST))
    check(nas, account)
    return account


def change_archive(nas: Nas, account: Account, archive_id: str = "") -> None:
    """Have an index that is in the database already rebuilt from the files, as that of `archive_id` if one is given.

    Raises
    ------
    Problem
        When the database cannot be used.
    """
    with _connection(nas, account) as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
            (account.database, _MARK),
        )
        if cursor.fetchone()[0]:
            cursor.execute("UPDATE archive SET value = 'no' WHERE name = 'complete'")
            if archive_id:
                cursor.execute("UPDATE archive SET value = %s WHERE name = 'archive_id'", (archive_id,))


# ---- removing


def drop(nas: Nas, account: Account) -> None:
    """Remove our database with our own account.

    Raises
    ------
    Problem
        When that cannot be done, or when it holds something else.
    """
    with _connection(nas, account) as cursor:
        _refuse_foreign(cursor, account.database)
        name = account.database.replace("`", "``")
        cursor.execute(f"DROP DATABASE `{name}`")


def drop_user(nas: Nas, root_password: str) -> None:
    """Remove the user that `create` has made.

    Raises
    ------
    Problem
        When that cannot be done.
    """
    with _connection(nas, Account(nas.socket, ROOT, root_password, "")) as cursor:
        cursor.execute("SELECT COUNT(*) FROM mysql.user WHERE user = %s AND host = %s", (USER, _HOST))
        if cursor.fetchone()[0]:
            cursor.execute("DROP USER %s@%s", (USER, _HOST))
