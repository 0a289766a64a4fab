"""The settings as a form: what stands in the file, and what may be changed to what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from angiovault.config import NEEDS_START, SETTINGS, Config
from angiovault.indexurl import IndexURL
from angiovault.inifile import ConfigError, read_file
from angiovault.network import setcap_command
from angiovault.panel import folders, network
from angiovault.panel.place import Place
from angiovault.panel.rules import problem_of, rules_of
from angiovault.panel.web import Message, said
from angiovault.tls_context import CannotUseCertificate, tls_context

FIELDS: Final = (
    *("bind", "port", "ae-title", "unknown-devices", "check-called-ae-title", "storage", "second-storage"),
    *("tls-port", "tls-certificate", "tls-key", "tls-client-ca", "log-level"),
)
ROWS: Final = {row.name: row for row in SETTINGS if row.name in FIELDS}
LISTENING: Final = frozenset(("bind", "port", "tls-port"))
"""Settings for which the listener is opened anew; what is neither here nor in `NEEDS_START` is in force at once."""
_INDEX: Final = next(row for row in SETTINGS if row.name == "index")
_PLACE: Final = re.compile(r"(?P<socket>/.*)|(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Form:
    """The settings of the file as texts, by name; a setting that is not in it is not in `texts`."""

    place: Place
    texts: Mapping[str, str]
    unreadable: str = ""

    @classmethod
    def of(cls, place: Place) -> Form:
        """Read the file; one that cannot be read has no texts, and says why."""
        try:
            parser = read_file(place.settings) if place.settings.exists() else None
        except ConfigError as error:
            return cls(place, {}, str(error))
        found = {}
        for row in SETTINGS:
            if parser is not None and parser.has_option(row.section, row.name):
                found[row.name] = parser.get(row.section, row.name).strip()
        return cls(place, found)

    def text(self, name: str) -> str:
        """Return a setting's text, its default when it is not in the file; on a NAS storage has no default."""
        if name == "storage" and self.place.nas is not None:
            return self.texts.get(name, "")
        return self.texts.get(name, ROWS[name].default or "")

    @property
    def base(self) -> Path:
        """The folder that relative paths start at."""
        return self.place.settings.parent

    @property
    def index(self) -> IndexURL | None:
        """The database of the index; None when it is the default, or cannot be read."""
        try:
            found = _INDEX.read(self.texts.get("index", ""), "index", self.base)
        except ConfigError:
            return None
        assert found is None or isinstance(found, IndexURL)
        return found

    def shown(self) -> dict[str, Any]:
        """Return what the page shows; of the password only whether there is one."""
        index = self.index
        mariadb = index is not None and index.engine == "mysql"
        assert index is not None or not mariadb
        where = "" if index is None or not mariadb else index.unix_socket or f"{_bracketed(index.host)}:{index.port}"
        nas = self.place.nas
        return {
            "values": {name: self.text(name) for name in FIELDS},
            "index": {
                "engine": "mariadb" if mariadb else "embedded",
                "where": where or (str(nas.socket) if nas else "/run/mysqld/mysqld.sock"),
                "user": index.user if index is not None and mariadb else "angiovault",
                "database": index.database if index is not None and mariadb else "angiovault",
                "has_password": bool(index is not None and index.password),
            },
            "rules": {**rules_of(list(ROWS.values())), "port": {**rules_of([ROWS["port"]])["port"], "low": 1}},
            "addresses": network.addresses(),
            "setcap": setcap_command(),
            "nas": nas is not None,
            "reopened_for": sorted(LISTENING),
            "restarted_for": list(NEEDS_START),
            "file": str(self.place.settings.absolute()),
            "unreadable": self.unreadable,
        }

    def changes(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return those of the values that differ in meaning from what is in force; one that is not valid differs."""
        changed = {}
        for name in FIELDS:
            if name in values and not self._same(name, values[name].strip()):
                changed[name] = values[name].strip()
        return changed

    def _same(self, name: str, text: str) -> bool:
        known = self.text(name)
        if text == known:
            return True
        try:
            return bool(ROWS[name].read(text, name, self.base) == ROWS[name].read(known, name, self.base))
        except ConfigError:
            return False

    def wanted_index(self, asked: Mapping[str, Any]) -> tuple[IndexURL | None, dict[str, Message]]:
        """Return the database that the page describes, None for the embedded one, and what is wrong with its fields.

        An empty password means the present one, if it is for the same account at the same place.
        """
        if asked.get("engine") != "mariadb":
            return None, {}
        texts = {name: str(asked.get(name, "")).strip() for name in ("where", "user", "database")}
        password = str(asked.get("password", ""))
        match = _PLACE.fullmatch(texts["where"])
        problems = {f"index-{name}": said("wrong.missing") for name, text in texts.items() if not text}
        if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
            problems.setdefault("index-where", said("wrong.database-where"))
        if problems or match is None:
            return None, problems
        url = _url(texts, password, match)
        known = self.index
        if not password and known is not None and known.password and _account(known) == _account(url):
            url = _url(texts, known.password, match)
        if not url.password:
            problems["index-password"] = said("wrong.password-missing")
        return url, problems


def _url(texts: Mapping[str, str], password: str, match: re.Match[str]) -> IndexURL:
    return IndexURL(
        "mysql",
        user=texts["user"],
        password=password,
        database=texts["database"],
        unix_socket=match["socket"],
        host=None if match["socket"] else match["host"].strip("[]").lower(),
        port=None if match["socket"] else int(match["port"] or 3306),
    )


def _account(url: IndexURL) -> tuple[object, ...]:
    """Return what a password belongs to: it is never sent anywhere else without being typed again."""
    return (url.engine, url.unix_socket, url.host, url.port, url.user)


def _bracketed(host: str | None) -> str:
    return f"[{host}]" if host and ":" in host else host or ""


def index_text(url: IndexURL | None) -> str:
    """Return a database's URL as the file has it, password included."""
    if url is None:
        return ""
    login = f"{quote(url.user, safe='')}:{quote(url.password, safe='')}"
    where = f"{_bracketed(url.host)}:{url.port}" if url.host else ""
    option = f"?unix_socket={quote(url.unix_socket)}" if url.unix_socket else ""
    return f"mysql://{login}@{where}/{quote(url.database, safe='')}{option}"


def problems_of(form: Form, changed: Mapping[str, str], own_ports: frozenset[int]) -> dict[str, Message]:
    """Return what is wrong with changed settings, by name: first what can be read off them, then what must be tried.

    Parameters
    ----------
    form : Form
        The settings as they are.
    changed : Mapping
        Those to be changed.
    own_ports : frozenset of int
        Ports that the running service holds, and will give back.
    """
    texts = {name: changed.get(name, form.text(name)) for name in FIELDS}
    # What is wrong in the file already has to be put right as well: nothing else could be saved.
    problems = {
        name: problem
        for name, text in texts.items()
        if (text or name in changed) and (problem := problem_of(ROWS[name], text, form.base)) is not None
    }
    if changed.get("port") == "0":
        problems["port"] = said("wrong.number", low=1, high=65535)
    if problems:
        return problems
    values = {name: ROWS[name].read(texts[name], name, form.base) for name in _PORTS}
    if values["tls-port"] and values["tls-port"] == values["port"]:
        return {"tls-port": said("wrong.ports-same")}
    problems.update(_network_problems(form, changed, own_ports))
    if "storage" in changed and form.place.nas is None:
        storage = ROWS["storage"].read(changed["storage"], "storage", form.base)
        problem = folders.storage_problem(storage, form.texts.get("archive-id", ""))
        problems.update({"storage": problem} if problem else {})
    if "second-storage" in changed and form.place.nas is None:
        storage, second = (ROWS[name].read(texts[name], name, form.base) for name in ("storage", "second-storage"))
        problem = folders.second_problem(storage, second)
        problems.update({"second-storage": problem} if problem else {})
    if values["tls-port"] and any(name.startswith("tls-") for name in changed):
        problems.update(_tls_problems(form, changed))
    return problems


_PORTS: Final = ("port", "tls-port")


def _network_problems(form: Form, changed: Mapping[str, str], own_ports: frozenset[int]) -> dict[str, Message]:
    bind = changed.get("bind", form.text("bind"))
    problems = {}
    if "bind" in changed:
        problem = network.port_problem(bind, 0)
        if problem:
            return {"bind": problem}
    for name in _PORTS:
        port = int(changed.get(name, "0"))
        if port and port not in own_ports:
            problem = network.port_problem(bind, port)
            if problem:
                problems[name] = problem
    return problems


def _tls_problems(form: Form, changed: Mapping[str, str]) -> dict[str, Message]:
    texts = {name: changed.get(name, form.text(name)) for name in FIELDS if name.startswith("tls-")}
    missing = [name for name in ("tls-certificate", "tls-key") if not texts[name]]
    if missing:
        return {name: said("wrong.tls-missing") for name in missing}
    values = {ROWS[name].attribute: ROWS[name].read(text, name, form.base) for name, text in texts.items()}
    try:
        tls_context(Config(port=0, **values))
    except (CannotUseCertificate, ConfigError) as error:
        return {"tls-certificate": said("wrong.tls", reason=str(error))}
    return {}
