"""The first page: whether the archive runs and is well, what to type into the modality, what it holds."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any, Final

from angiovault.archive import contacts
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.archive.summary import summary
from angiovault.config import Config
from angiovault.dsm import running
from angiovault.inifile import ConfigError
from angiovault.panel.arrivals import arrivals
from angiovault.panel.context import Context
from angiovault.panel.loglines import LastError
from angiovault.panel.network import reachable
from angiovault.panel.pages import jobs
from angiovault.panel.place import Place
from angiovault.panel.settings_form import Form
from angiovault.panel.web import Route
from angiovault.reloading import Loading

_HOLD: Final = 30.0
"""Seconds for which counts are not made anew; they are read from all studies."""
_MOST_ASSOCIATIONS: Final = 8
_SERVING: Final = frozenset(("running", "needs-set-up"))


def routes(context: Context) -> list[Route]:
    """Return the routes of the page."""
    holdings, last_error = _Holdings(context), LastError()
    return [Route("GET", "/api/overview", lambda asked: _overview(context, holdings, last_error))]


def _overview(context: Context, holdings: _Holdings, last_error: LastError) -> dict[str, Any]:
    place = context.place
    try:
        config, wrong = place.config(), ""
    except ConfigError as error:
        config, wrong = None, str(error)
    health = place.health(config)
    # A NAS has no default for the storage: without it there is no archive to look at.
    named = place.nas is None or "storage" in Form.of(place).texts
    found = holdings.look(config) if config is not None and named else {}
    return {
        **_state(place, config, wrong, health, found),
        "dicom": _dicom(config, health),
        "archive": found,
        "jobs": jobs.active(context),
        "associations": _associations(context, config) if config and found.get("counts") else [],
        "last_error": last_error.look(place.log(config)),
        "now": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _associations(context: Context, config: Config) -> list[dict[str, Any]]:
    """Return the last associations, none while the index cannot be asked; that is said elsewhere on the page."""
    archive = context.archive(config)
    try:
        archive.inspect()
        return contacts.last_associations(archive.index, _MOST_ASSOCIATIONS)
    except (IndexUnavailable, StorageError):
        return []


def _state(
    place: Place, config: Config | None, wrong: str, health: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Return how the service is: a state that the texts know, a sentence, since when, and what is wrong."""
    problems = [{"kind": kind, "text": text} for kind, text in health.get("problems", {}).items()]
    refused = Loading.of(health).problem.get("text", "")
    if health and (wrong or refused):  # the service goes on with those it has
        problems.append({"kind": "settings", "text": wrong or refused})
    if place.nas is not None:
        said = running.state(place.nas)
        name = str(said.get("state", "unknown"))
        message = {"en": said.get("message", ""), "zh": said.get("message_zh", "")} if name not in _SERVING else None
        more = {"restarts": said.get("restarts", 0), "since": health.get("since", "")}
    else:
        name = "configuration" if config is None else "running" if found.get("running") else "stopped"
        message = {"en": wrong, "zh": wrong} if wrong else None
        more = {"restarts": 0, "since": health.get("since", "")}
    if name == "running" and not problems and found.get("problem"):
        problems = [{"kind": "archive", "text": found["problem"]}]
    if name == "running":
        name = "problems" if problems else "well"
    return {"state": name, "message": message, "problems": problems, **more}


def _dicom(config: Config | None, health: dict[str, Any]) -> dict[str, Any]:
    """Return what to type into the modality: of the running service, else of the settings."""
    if not health and config is None:
        return {}
    ae_title, bind, port, tls_port = (
        (health["ae_title"], health["bind"], health["port"], health["tls_port"])
        if health
        else (config.ae_title, config.bind, config.port, config.tls_port)  # type: ignore[union-attr]
    )
    return {"ae_title": ae_title, "port": port, "tls_port": tls_port, "addresses": reachable(bind)}


class _Holdings:
    """What the archive holds, looked at anew only now and then however many pages ask."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._found: dict[str, Any] = {}
        self._of: Config | None = None
        self._until = 0.0

    def look(self, config: Config) -> dict[str, Any]:
        with self._lock:
            if config != self._of or time.monotonic() >= self._until:
                self._found = self._looked(config)
                self._of, self._until = config, time.monotonic() + _HOLD
            return self._found

    def _looked(self, config: Config) -> dict[str, Any]:
        archive = self._context.archive(config)
        place = self._context.place
        found = summary(archive, lambda _: bool(place.service(config)))
        found["path"] = str(config.storage)
        found["index_url"] = config.index_url.redacted()
        # Lists are shown where they are worked on.
        found["commitments_waiting"] = found["commitments_waiting"][:5]
        found["refusals"] = found["refusals"][:5]
        try:
            found["arrivals"] = arrivals(archive.index) if found["counts"] is not None else None
        except IndexUnavailable:
            found["arrivals"] = None  # it has gone in this moment; the next look says so
        return found
