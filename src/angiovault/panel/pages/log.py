"""The log: its last lines, and a copy of it."""

from __future__ import annotations

from typing import Any, Final

from angiovault.config import Config
from angiovault.inifile import ConfigError
from angiovault.panel import loglines
from angiovault.panel.context import Context
from angiovault.panel.place import Place
from angiovault.panel.web import Answer, Asked, Refused, Route

_MOST: Final = 400
_LONGEST_FILTER: Final = 200


def routes(context: Context) -> list[Route]:
    """Return the routes of the page."""
    return [
        Route("GET", "/api/log", lambda asked: _lines(asked, context.place)),
        Route("GET", "/api/log/file", lambda asked: _file(asked, context.place)),
    ]


def _config(place: Place) -> Config | None:
    try:
        return place.config()
    except ConfigError:  # the log is there all the same, and says so
        return None


def _lines(asked: Asked, place: Place) -> dict[str, Any]:
    path = place.log(_config(place))
    if path is None:
        return {"path": None, "records": [], "whole": True}
    text, level = asked.query.get("text", "")[:_LONGEST_FILTER], asked.query.get("level", "")
    try:
        records, whole = loglines.last_records(path, text, level, _MOST)
    except FileNotFoundError:
        records, whole = [], True
    except OSError as error:
        raise Refused(409, "refused.log", path=str(path), reason=error.strerror) from None
    return {"path": str(path), "records": records, "whole": whole}


def _file(asked: Asked, place: Place) -> Answer:
    config = _config(place)
    path = place.log(config)
    if path is None or not path.is_file():
        raise Refused(404, "refused.not-found")
    storage = str(config.storage) if config is not None else ""
    lines = loglines.download(path, asked.query.get("names") == "yes", storage)
    return Answer(lines, "text/plain", {"Content-Disposition": 'attachment; filename="angiovault-log.txt"'})
