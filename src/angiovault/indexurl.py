"""Where the index is: a URL for an SQLite file or a MariaDB database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit


@dataclass(frozen=True, repr=False)
class IndexURL:
    """Where the index lies: an SQLite file, or a MariaDB/MySQL database by UNIX socket or by host and port.

    `path` is set for SQLite only; the others for MariaDB only. Its text never shows the password.
    """

    engine: Literal["sqlite", "mysql"]
    path: Path | None = None
    user: str = ""
    password: str = ""
    database: str = ""
    unix_socket: str | None = None
    host: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str, base: Path) -> IndexURL:
        """Read a URL; a relative SQLite path starts at `base`. Raises ValueError, never with the value in it."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:  # its message would quote the URL and so, perhaps, the password
            raise ValueError("not a URL; write special characters in its parts as %XX") from None
        if parts.fragment or (parts.scheme == "sqlite" and parts.query):
            raise ValueError("write '#' as %23 and '?' as %3F")
        if parts.scheme == "sqlite":
            name = unquote(parts.path, errors="strict")[1:]
            if parts.netloc or not name:
                raise ValueError("an SQLite URL has three slashes before a relative path, four before an absolute one")
            return cls("sqlite", path=base.absolute() / Path(name).expanduser())
        if parts.scheme != "mysql":
            raise ValueError("unknown kind of database")
        database, options = parts.path[1:], dict(parse_qsl(parts.query, keep_blank_values=True))
        socket = options.pop("unix_socket", None)
        if options:
            raise ValueError("the only option is unix_socket")
        if not parts.username or not database or "/" in database:
            raise ValueError("user or database is missing, or a '/' in one of them is not written as %2F")
        if (socket is None) == (parts.hostname is None) or not (socket is None or socket.startswith("/")):
            raise ValueError("give either a host or an absolute unix_socket path")
        return cls(
            "mysql",
            user=unquote(parts.username, errors="strict"),
            password=unquote(parts.password or "", errors="strict"),
            database=unquote(database, errors="strict"),
            unix_socket=socket,
            host=parts.hostname,
            port=(port or 3306) if parts.hostname else None,
        )

    def server(self) -> dict[str, Any]:
        """Return where the MariaDB server is, as PyMySQL is told it; `path` is not set.

        What does not leave the machine needs no TLS, for which PyMySQL would read all certificates at each connection.
        """
        if self.unix_socket:
            return {"unix_socket": self.unix_socket, "ssl_disabled": True}
        return {"host": self.host, "port": self.port}

    def redacted(self) -> str:
        """Return the URL for people and logs, with `***` in place of the password."""
        if self.path is not None:
            return "sqlite:///" + str(self.path).translate({ord(sign): quote(sign) for sign in "%?#"})
        login = quote(self.user, safe="") + (":***" if self.password else "")
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host or ""
        place = f"{host}:{self.port}" if host else ""
        option = f"?unix_socket={quote(self.unix_socket)}" if self.unix_socket else ""
        return f"mysql://{login}@{place}/{quote(self.database, safe='')}{option}"

    __str__ = redacted

    def __repr__(self) -> str:
        return f"IndexURL({self.redacted()!r})"
