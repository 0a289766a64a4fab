"""The settings of the service: shown, checked, tried, and put into force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from angiovault.inifile import ConfigError
from angiovault.panel import folders
from angiovault.panel.applying import Change, create_database
from angiovault.panel.context import Context
from angiovault.panel.database_trial import database_problem
from angiovault.panel.settings_form import FIELDS, Form, problems_of
from angiovault.panel.web import Asked, Refused, Route, said

_LONGEST: Final = 2000


def routes(context: Context) -> list[Route]:
    """Return the routes of the page."""
    return [
        Route("GET", "/api/service", lambda asked: Form.of(context.place).shown()),
        Route("POST", "/api/service", lambda asked: _save(asked, context)),
        Route("POST", "/api/service/check", lambda asked: _check(asked, context)),
        Route("POST", "/api/service/database", lambda asked: _try_database(asked, context)),
        Route("POST", "/api/service/create-database", lambda asked: _create_database(asked, context)),
        Route("GET", "/api/folders", lambda asked: _folders(asked, context)),
    ]


def _values(asked: Asked) -> dict[str, str]:
    """Return the settings that a request brings.

    Raises
    ------
    Refused
        When there are others among them, or no texts.
    """
    values = asked.body.get("values", {})
    if not isinstance(values, dict) or not set(values) <= set(FIELDS):
        raise Refused(400, "refused.malformed")
    if not all(isinstance(text, str) and len(text) <= _LONGEST for text in values.values()):
        raise Refused(400, "refused.malformed")
    return values


def _index(asked: Asked) -> Mapping[str, str] | None:
    index = asked.body.get("index")
    if index is None:
        return None
    if not isinstance(index, dict) or not all(isinstance(text, str) and len(text) <= 500 for text in index.values()):
        raise Refused(400, "refused.malformed")
    return index


def _check(asked: Asked, context: Context) -> dict[str, Any]:
    """Say what is wrong with settings as they stand in the form."""
    form = Form.of(context.place)
    return {"problems": problems_of(form, form.changes(_values(asked)), _own_ports(context))}


def _save(asked: Asked, context: Context) -> dict[str, Any]:
    form = Form.of(context.place)
    if form.unreadable:
        raise Refused(409, "refused.settings", reason=form.unreadable)
    changed, index = form.changes(_values(asked)), _index(asked)
    problems = problems_of(form, changed, _own_ports(context))
    url, index_changes = form.index, False
    if index is not None:
        is_embedded = url is None or url.engine == "sqlite"
        if index.get("engine") == "mariadb" or not is_embedded:
            url, wrong = form.wanted_index(index)
            problems.update(wrong)
            index_changes = url != form.index
    if problems:
        raise Refused(422, "refused.fields", problems)
    if not changed and not index_changes:
        raise Refused(422, "refused.nothing-changed")
    if context.applying.locked():
        raise Refused(409, "refused.busy")
    names = [*changed, *(["index"] if index_changes else [])]
    context.note(asked.user, f"changes {', '.join(names)}")
    return context.tasks.start(Change(context, changed, url, index_changes).apply)


def _own_ports(context: Context) -> frozenset[int]:
    """Return the ports of the running service; those of the settings where it does not say which they are."""
    try:
        config = context.place.config()
    except ConfigError:
        config = None
    health = context.place.health(config)
    if health:
        return frozenset((int(health["port"]), int(health["tls_port"])))
    return frozenset((config.port, config.tls_port)) if config is not None else frozenset()


def _try_database(asked: Asked, context: Context) -> dict[str, Any]:
    url, problems = Form.of(context.place).wanted_index(_index(asked) or {})
    if problems or url is None:
        raise Refused(422, "refused.fields", problems)
    nas = context.place.nas

    def attempt() -> dict[str, Any]:
        problem = database_problem(nas, url)
        return {"ok": problem is None, "message": problem or said("database.ok", database=url.database)}

    return context.tasks.start(attempt)


def _create_database(asked: Asked, context: Context) -> dict[str, Any]:
    password = asked.text("root-password", 200)
    if context.place.nas is None or not password:
        raise Refused(422, "refused.fields", {"root-password": said("wrong.missing")})
    context.note(asked.user, "has the database made")
    return context.tasks.start(lambda: create_database(context, password))


def _folders(asked: Asked, context: Context) -> dict[str, Any]:
    form = Form.of(context.place)
    texts = [form.text("storage") or "/", *filter(None, [form.text("second-storage")])]
    used = [form.base.absolute() / text for text in texts]
    return folders.listing(asked.query.get("path", ""), folders.roots(context.place.nas, *used))
