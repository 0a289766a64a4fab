"""Fills an index with many studies, fast: rows in bulk into tables without indexes, which are made at the end.

Tables and indexes are those of the archive's own migrations; marker, identity and storage are made by its own service.
What was made is kept, and marked as whole by a file.
"""

import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from angiovault.archive import models, schema
from bench import large_data
from bench.databases import FOR_LOADING, BenchMariaDB
from harness.service import Service

_STEP = 20_000
"""Studies made at once: about 150 MB of rows."""
_COLUMNS = {
    model._meta.table_name: [field.column_name for field in model._meta.sorted_fields]
    for model in models.ALL
    if model._meta.table_name in large_data.TABLES
}


@dataclass(frozen=True)
class LargeIndex:
    """An archive with a large index and no image files, in a folder that is kept."""

    folder: Path
    engine: str
    studies: int

    @property
    def whole(self) -> bool:
        """Whether it was made to the end, with the rows that would be made now."""
        known = json.loads(self._facts.read_text(encoding="utf-8")) if self._facts.exists() else {}
        return bool(known.get("rows") == large_data.fingerprint())

    @property
    def storage(self) -> Path:
        return self.folder / "archive"

    @property
    def data(self) -> Path:
        """The folder of MariaDB's data."""
        return self.folder / "mariadb"

    @property
    def _facts(self) -> Path:
        return self.folder / "whole.json"

    def url(self, mariadb: BenchMariaDB | None) -> str:
        """Return the index URL; that of MariaDB has the socket of the running server."""
        if mariadb is None:
            return f"sqlite:///{self.folder / 'index.sqlite3'}"
        facts = json.loads((self.folder / "database.json").read_text(encoding="utf-8"))
        return f"mysql://{facts['user']}:{facts['password']}@/{facts['user']}?unix_socket={mariadb.socket}"

    def make(self) -> None:
        """Make it unless it is there."""
        if self.whole:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        began = time.monotonic()
        if self.engine == "sqlite":
            self._create(self.url(None))
            with SqliteLoader(self.folder / "index.sqlite3") as loader:
                self._fill(loader)
        else:
            server = BenchMariaDB(self.data, FOR_LOADING)
            try:
                parts = urlsplit(server.start().database())
                user = {"user": parts.username, "password": parts.password}
                (self.folder / "database.json").write_text(json.dumps(user), encoding="utf-8")
                self._create(self.url(server))
                with MariaDBLoader(server, str(parts.username), self.folder) as loader:
                    self._fill(loader)
            finally:
                server.remove()
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        facts = {
            "rows": large_data.fingerprint(),
            "studies": self.studies,
            "seconds": round(time.monotonic() - began),
            "bytes": size,
        }
        self._facts.write_text(json.dumps(facts), encoding="utf-8")
        _say(f"{self.engine}: {self.studies:,} studies made in {facts['seconds']} s, {size / 1e9:.1f} GB")

    def _create(self, url: str) -> None:
        """Let the service make an empty archive with a complete index."""
        with Service(self.folder, storage=self.storage, index=url):
            pass

    def _fill(self, loader: "Loader") -> None:
        indexes = _indexes(self.engine)
        for table, name, _ in indexes:
            loader.drop_index(table, name)
        for start in range(0, self.studies, _STEP):
            made = large_data.rows(range(start, min(start + _STEP, self.studies)))
            for table, rows in made.items():
                loader.load(table, rows)
            _say(f"{self.engine}: {min(start + _STEP, self.studies):,} of {self.studies:,} studies")
        for _, name, statement in indexes:
            loader.execute(statement)
            _say(f"{self.engine}: index {name}")


class Loader(Protocol):
    """Puts rows into the tables of one engine."""

    def execute(self, statement: str) -> None: ...

    def drop_index(self, table: str, name: str) -> None: ...

    def load(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None: ...


class SqliteLoader:
    """Into SQLite: all in one transaction without a journal."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> Self:
        for pragma in ("journal_mode=off", "synchronous=off", "cache_size=-400000", "locking_mode=exclusive"):
            self.execute(f"PRAGMA {pragma}")
        self.execute("BEGIN")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.execute("COMMIT")
            self.execute("PRAGMA journal_mode=wal")
        self._connection.close()

    def execute(self, statement: str) -> None:
        self._connection.execute(statement)

    def drop_index(self, table: str, name: str) -> None:
        self.execute(f"DROP INDEX {name}")

    def load(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        columns = _COLUMNS[table]
        marks = ", ".join("?" * len(columns))
        self._connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


class MariaDBLoader:
    """Into MariaDB: by files that the server reads."""

    def __init__(self, server: BenchMariaDB, database: str, folder: Path) -> None:
        self._server, self._database, self._file = server, database, folder / "rows"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.unlink(missing_ok=True)

    def execute(self, statement: str) -> None:
        self._server.execute(statement, database=self._database)

    def drop_index(self, table: str, name: str) -> None:
        self.execute(f"DROP INDEX {name} ON {table}")

    def load(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._file.open("wb") as file:
            file.writelines(map(_line, rows))
        # `binary`: text is UTF-8 already, and heads are bytes.
        self.execute(
            f"LOAD DATA INFILE '{self._file}' INTO TABLE {table} CHARACTER SET binary ({', '.join(_COLUMNS[table])})"
        )


_ESCAPED = ((b"\\", b"\\\\"), (b"\t", b"\\\t"), (b"\n", b"\\\n"), (b"\0", b"\\0"))


def _line(row: tuple[Any, ...]) -> bytes:
    """Write a row as LOAD DATA reads it by default: fields end with tabs, lines with newlines."""
    fields = []
    for value in row:
        field = value if isinstance(value, bytes) else str(value).encode()
        for plain, escaped in _ESCAPED:
            if plain in field:
                field = field.replace(plain, escaped)
        fields.append(field)
    return b"\t".join(fields) + b"\n"


def _indexes(engine: str) -> list[tuple[str, str, str]]:
    """Return table, name and statement of the indexes of the tables that are filled."""
    return [found for found in _all_indexes(engine) if found[0] in large_data.TABLES]


def _all_indexes(engine: str) -> Iterator[tuple[str, str, str]]:
    found: dict[str, tuple[str, str, str]] = {}
    for version in range(1, len(schema.MIGRATIONS) + 1):
        for statement in schema.statements(engine, version):
            words = statement.split()
            if words[0] == "CREATE" and "INDEX" in words[:3]:
                at = words.index("INDEX")
                found[words[at + 1]] = words[at + 3], words[at + 1], statement
            elif words[:2] == ["DROP", "INDEX"]:
                del found[words[2]]
    yield from found.values()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
