"""The index's database, SQLite or MariaDB: connections, migrations, and which archive it belongs to."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sized
from typing import Any, Final

import peewee
from playhouse.pool import PooledMySQLDatabase, PooledSqliteDatabase
from pymysql.constants.SERVER_STATUS import SERVER_STATUS_IN_TRANS

from angiovault.archive import models, schema
from angiovault.archive.durable import fsync_directory
from angiovault.archive.models import Archive
from angiovault.indexurl import IndexURL

log = logging.getLogger(__name__)

_MIGRATION_SECONDS: Final = 600
_JITTER: Final = 1.5
# A server tells its age in whole seconds. One that is younger than this could be killed and started anew within what
# the jitter hides.
_YOUNG_SECONDS: Final = 4.0
# Errors of MariaDB: table, column or index exists already (1050, 1060, 1061); nothing to drop (1091).
_DONE_BEFORE: Final = frozenset((1050, 1060, 1061, 1091))
# Lock wait timed out, deadlock; server gone away, connection lost in a query, connection killed; no connection.
_PASSING: Final = frozenset((1205, 1213, 2006, 2013, 1927, 4031, 0))


class IndexUnavailable(Exception):
    """The index cannot be used now; the text says why."""


class SchemaTooNew(IndexUnavailable):
    """The index was made by a newer version of this program."""


class WrongArchive(IndexUnavailable):
    """The index belongs to another archive, or its database to another program."""


class IndexIncomplete(IndexUnavailable):
    """The index does not hold all files: it has to be rebuilt, or is being rebuilt."""


class Database:
    """Where the index of one archive is kept.

    Parameters
    ----------
    url : IndexURL
        Where the database is.
    """

    def __init__(self, url: IndexURL) -> None:
        self.url = url
        self.engine = url.engine
        self.durable = True
        """Whether what is committed survives a power cut; known once `open` has succeeded."""
        self.incomplete = False
        """Whether the index was found to be incomplete when it was looked at last."""
        self._ready = False
        self._server_started = 0.0
        self._server_was_young = False
        self._lock = threading.Lock()  # one writer at a time: SQLite has one anyway, and counts stay simple
        if url.engine == "sqlite":
            # WAL with FULL syncs the log at every commit: what is committed survives a power cut.
            self.database: Any = PooledSqliteDatabase(
                str(url.path),
                max_connections=0,
                stale_timeout=300,
                check_same_thread=False,  # the pool hands a connection from thread to thread, to one at a time
                pragmas={
                    "journal_mode": "wal",
                    "synchronous": "full",
                    "busy_timeout": 30000,
                    "temp_store": "memory",
                    "journal_size_limit": 64 << 20,
                },
            )
        else:
            self.database = _MariaDBPool(
                url.database,
                max_connections=0,
                stale_timeout=60,
                user=url.user,
                password=url.password.encode(),  # PyMySQL would take text for Latin-1
                connect_timeout=5,
                read_timeout=60,
                write_timeout=60,
                charset="utf8mb4",
                sql_mode="STRICT_ALL_TABLES",
                init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
                **url.server(),
            )

    # ---- connections

    def _bind(self) -> None:
        """Let the models speak with this database: they know one, and a process may have made another since."""
        if models.Archive._meta.database is not self.database:
            self.database.bind(models.ALL)

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        """Give a connection to a block of work; the database's errors come out as `IndexUnavailable`."""
        if self.engine == "mysql" and not self.url.password:
            # Not tried again and again: each refusal would be a line in the server's log, and wake its disks.
            raise IndexUnavailable(f"the index ({self.url.redacted()}) is not set up yet: its URL has no password")
        self._bind()
        try:
            with self.database.connection_context():
                yield self.database
        except (peewee.IntegrityError, peewee.DataError):
            raise
        except (peewee.PeeweeException, OSError) as error:
            self._ready = False  # whatever comes back may be another server, or an empty database
            self.database.close_idle()
            hint = "; the file is damaged: move it away, the index is rebuilt from the files" if _damaged(error) else ""
            raise IndexUnavailable(f"the index ({self.url.redacted()}) cannot be used: {error}{hint}") from error

    def execute(self, statement: str, *values: Any) -> Any:
        """Execute a statement with ``?`` for values, within a session, and return its cursor.

        For what is done with every instance: there peewee would spend most of the time on writing the same SQL anew.
        """
        return self.database.execute_sql(statement.replace("?", "%s") if self.engine == "mysql" else statement, values)

    @staticmethod
    def marks(values: Sized) -> str:
        """Return as many ``?`` as there are values, for a list of them in a statement."""
        return ", ".join("?" * len(values))

    def transaction(self) -> Any:
        """Return a transaction as a context manager."""
        # IMMEDIATE: a read that becomes a write may not fail because another process wrote in between.
        return self.database.atomic("IMMEDIATE") if self.engine == "sqlite" else self.database.atomic()

    def sync(self) -> None:
        """Make what was committed survive a crash, also on a server that does not sync every commit.

        Raises
        ------
        IndexUnavailable
            When the database is away.
        """
        if not self.durable:
            # No account but root's may flush the log; InnoDB does so itself whenever a table is made.
            with self.session() as database:
                database.execute_sql("CREATE TABLE IF NOT EXISTS synced (id INT) ENGINE=InnoDB")
                database.execute_sql("DROP TABLE IF EXISTS synced")

    def close(self) -> None:
        """Close all connections; for SQLite this also folds the write-ahead log into the file."""
        with contextlib.suppress(peewee.PeeweeException):
            self.database.close_all()

    # ---- identity

    def exists(self) -> bool:
        """Return whether the database holds an index already; makes nothing.

        Raises
        ------
        IndexUnavailable
            When the database cannot be asked.
        """
        if self.url.path is not None and not self.url.path.exists():
            return False
        with self.session() as database:
            return bool(database.table_exists("archive"))

    def archive_id(self) -> str:
        """Return the id of the archive that the index belongs to, '' when it has none yet.

        Raises
        ------
        IndexUnavailable
            When the database cannot be asked.
        """
        if not self.exists():
            return ""
        with self.session():
            return self._fact("archive_id")

    def open(self, archive_id: str, complete: bool = False) -> None:
        """Bring the schema up to date and check that the index belongs to the archive; quick when it is open.

        Parameters
        ----------
        archive_id : str
            The archive's id.
        complete : bool
            Whether a new index is complete as it is, since the archive is new as well.

        Raises
        ------
        IndexUnavailable
            When it cannot be used; `SchemaTooNew` or `WrongArchive` when it is not for us.
        """
        if self._ready:
            return
        self._migrate()
        with self.session(), self.transaction():
            if not self._fact("archive_id"):
                # Another thread or process may come upon the same new database, and what it says is as good.
                with contextlib.suppress(peewee.IntegrityError), self.database.atomic():
                    Archive.insert(name="archive_id", value=archive_id).execute()
                    Archive.insert(name="complete", value="yes" if complete else "no").execute()
            self._refuse_others(archive_id)
            self.incomplete = self._fact("complete") != "yes"
        self._ready = True

    def inspect(self, archive_id: str) -> None:
        """Check that the index can be read as it is and belongs to the archive; changes nothing.

        Raises
        ------
        IndexUnavailable
            When it cannot be used, or has to be made or migrated first.
        """
        version = 0
        if self.exists():
            with self.session() as database:
                version = self._version(database)
        if version < len(schema.MIGRATIONS):
            raise IndexUnavailable(
                f"the index {self.url.redacted()} is missing or of an older version: the service brings it up to date "
                "when it starts"
            )
        with self.session():
            self._refuse_others(archive_id)

    def _refuse_others(self, archive_id: str) -> None:
        known = self._fact("archive_id")
        if known != archive_id:
            raise WrongArchive(
                f"the index {self.url.redacted()} belongs to archive {known}, the storage is archive {archive_id}: "
                "give each archive its own index"
            )

    @property
    def ready(self) -> bool:
        """Whether `open` has succeeded, and nothing has gone wrong since."""
        return self._ready

    def lost_commits(self, in_doubt: bool = False) -> bool:
        """Return whether the server, which does not sync its commits, was started anew; if so, `open` is due again.

        With `in_doubt` also when that cannot be told, since it was very young when it was opened.
        """
        if not self.durable:
            with self.session() as database:
                anew = abs(_start_of_server(database) - self._server_started) > _JITTER
                if anew or (in_doubt and self._server_was_young):
                    self._ready = False
                    return True
        return False

    # ---- being complete

    def require_complete(self) -> None:
        """Raise `IndexIncomplete` unless the index holds all files that are not in a journal."""
        with self.session():
            self._require_complete()

    def _require_complete(self, lock: bool = False) -> None:
        """Do the same in a session; with `lock` nobody may begin a rebuild before the transaction has ended."""
        self.incomplete = self._fact("complete", lock) != "yes"
        if self.incomplete:
            raise IndexIncomplete("the index is being rebuilt from the files, which may take a while")

    def mark(self, complete: bool) -> bool:
        """Note whether the index is complete, and return whether it was so far."""
        with self.session(), self.transaction():
            was = self._fact("complete") == "yes"
            Archive.update(value="yes" if complete else "no").where(Archive.name == "complete").execute()
        self.incomplete = not complete
        return was

    def _fact(self, name: str, lock: bool = False) -> str:
        """Return what the index says of itself, '' when it says nothing; with `lock` nobody else changes it."""
        query = "SELECT value FROM archive WHERE name = ?"
        if lock and self.engine == "mysql":
            query += " LOCK IN SHARE MODE"
        row = self.execute(query, name).fetchone()
        return str(row[0]) if row else ""

    # ---- schema

    def _migrate(self) -> None:
        new_file = self.url.path is not None and not self.url.path.exists()
        if new_file and self.url.path is not None:
            # It names patients: nobody else reads it. SQLite gives its log files the same mode, and says what is wrong.
            with contextlib.suppress(OSError):
                os.close(os.open(self.url.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        newest = len(schema.MIGRATIONS)
        with self.session() as database:
            if self._version(database) != newest:
                with self._alone(database):
                    for step in range(self._version(database) + 1, newest + 1):
                        log.info("the index %s is brought to schema %d", self.url.redacted(), step)
                        for statement in schema.statements(self.engine, step):
                            self._execute(database, statement)
                        Archive.replace(name="schema", value=str(step)).execute()
            if self.engine == "mysql":
                setting = database.execute_sql("SELECT @@GLOBAL.innodb_flush_log_at_trx_commit").fetchone()[0]
                self.durable = int(setting) == 1
                self._server_started = _start_of_server(database)
                self._server_was_young = time.monotonic() - self._server_started < _YOUNG_SECONDS
        if new_file and self.url.path is not None:
            fsync_directory(self.url.path.absolute().parent)

    @contextlib.contextmanager
    def _alone(self, database: Any) -> Iterator[None]:
        """Keep out other processes that would migrate at the same time; for SQLite all is one transaction."""
        if self.engine == "sqlite":
            with self.transaction():
                yield
            return
        name = f"angiovault {self.url.database}"[:64]
        if database.execute_sql("SELECT GET_LOCK(%s, %s)", (name, _MIGRATION_SECONDS)).fetchone()[0] != 1:
            raise IndexUnavailable(f"the index {self.url.redacted()} is being brought up to date by another process")
        try:
            yield
        finally:
            database.execute_sql("SELECT RELEASE_LOCK(%s)", (name,)).fetchone()

    def _version(self, database: Any) -> int:
        """Return the schema's version, 0 when there is none."""
        tables = set(database.get_tables())
        version = int(self._fact("schema") or 0) if "archive" in tables else 0
        strange = sorted(tables & {model._meta.table_name for model in models.ALL})
        if "archive" not in tables and strange:
            raise WrongArchive(
                f"the database {self.url.redacted()} holds tables of another program ({', '.join(strange)}): "
                "give AngioVault a database of its own"
            )
        if version > len(schema.MIGRATIONS):
            raise SchemaTooNew(
                f"the index {self.url.redacted()} has schema {version}, this version of AngioVault knows "
                f"{len(schema.MIGRATIONS)}: install the newer AngioVault again, or let this one make a new index"
            )
        return version

    def _execute(self, database: Any, statement: str) -> None:
        """Execute a statement of a migration, unless a migration that was cut off has done it already.

        MariaDB commits every statement of a migration by itself.
        """
        try:
            database.execute_sql(statement)
        except peewee.DatabaseError as error:
            if self.engine != "mysql" or error_code(error) not in _DONE_BEFORE:
                raise


class _MariaDBPool(PooledMySQLDatabase):  # type: ignore[misc]
    """Connections that go back into the pool as they are when their transaction has ended."""

    def _can_reuse(self, connection: Any) -> bool:
        # peewee would roll back whatever PyMySQL gives back: one more round trip for every session.
        return not connection.server_status & SERVER_STATUS_IN_TRANS or super()._can_reuse(connection)


def error_code(error: BaseException | None) -> int:
    """Return the number of a MariaDB error, -1 when there is none."""
    code = error.args[0] if error is not None and error.args else -1
    return code if isinstance(code, int) else -1


def passes(error: BaseException) -> bool:
    """Return whether an error is one after which the same work on a fresh connection may well succeed."""
    cause: BaseException | None = error
    while cause is not None:
        if error_code(cause) in _PASSING:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _start_of_server(database: Any) -> float:
    """Return when the MariaDB server was started, in seconds, to a second or two."""
    return time.monotonic() - float(database.execute_sql("SHOW GLOBAL STATUS LIKE 'Uptime'").fetchone()[1])


def _damaged(error: BaseException) -> bool:
    return "malformed" in str(error) or "not a database" in str(error)
