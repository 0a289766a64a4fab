"""The panel as a WSGI app: its pages' routes in bottle, the shell they appear in, and the files of that shell."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from typing import Any, Final

import bottle

from angiovault import __version__
from angiovault.panel import texts
from angiovault.panel.context import Context
from angiovault.panel.door import Door
from angiovault.panel.gate import CSRF, REASONS, USER, Gate
from angiovault.panel.pages import PAGES
from angiovault.panel.web import LONGEST_BODY, Answer, Asked, Handler, Refused, Route, said

log = logging.getLogger(__name__)

_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_A_YEAR: Final = "public, max-age=31536000, immutable"


def make_app(context: Context, door: Door) -> Gate:
    """Return the panel."""
    app = bottle.Bottle()
    static = Static()
    own = [
        Route("GET", "/", lambda asked: _shell(asked, context, static, door.token_script)),
        Route("GET", "/api/session", lambda asked: _session(asked, context)),
        Route("GET", "/api/texts", _texts),
        Route("GET", "/api/tasks/<number>", lambda asked, number: context.tasks.look(number)),
        Route("GET", "/static/<name>", lambda asked, name: static.file(name)),
    ]
    pages = [route for page in PAGES for route in page.routes(context)]
    for route in own + pages:
        app.route(route.path, method=route.method, callback=_callback(route.handler))
    app.default_error_handler = _error
    return Gate(app, door)


def _callback(handler: Handler) -> Callable[..., Any]:
    """Return what bottle calls for a route."""

    def answer(**parts: str) -> Any:
        environ = bottle.request.environ
        try:
            asked = Asked(environ.get(USER, ""), _query(), _body() if bottle.request.method == "POST" else {})
            answered = handler(asked, **parts)
        except Refused as refused:
            return _response(refused.status, json.dumps(refused.content).encode(), "application/json", {})
        if isinstance(answered, Answer):
            kind = f"{answered.type}; charset=utf-8"
            return _response(answered.status, answered.body, kind, answered.headers)
        return _response(200, json.dumps(answered).encode(), "application/json", {})

    return answer


def _response(status: int, body: Any, kind: str, headers: Mapping[str, str]) -> Any:
    line = f"{status} {REASONS.get(status, 'OK')}"
    return bottle.HTTPResponse(body, line, {"Content-Type": kind, **headers})


def _query() -> dict[str, str]:
    try:
        return {name: str(bottle.request.query.getunicode(name, "")) for name in bottle.request.query}
    except ValueError:
        raise Refused(400, "refused.malformed") from None


def _body() -> dict[str, Any]:
    try:
        body = json.loads(bottle.request.body.read(LONGEST_BODY))
    except (ValueError, RecursionError):
        raise Refused(400, "refused.malformed") from None
    if not isinstance(body, dict):
        raise Refused(400, "refused.malformed")
    return body


def _error(error: Any) -> str:
    """Answer what no route answers, and what went wrong inside; the log has the rest."""
    if error.status_code >= 500:
        log.error("the panel failed: %s", error.exception, exc_info=error.exception)
        key = "refused.failed"
    else:
        key = {404: "refused.not-found", 405: "refused.method"}.get(error.status_code, "refused.malformed")
    bottle.response.content_type = "application/json"
    return json.dumps({"error": said(key), "problems": {}})


class Static:
    """The files of the shell, under names that change with their content; the scripts are one file."""

    def __init__(self) -> None:
        folder = resources.files("angiovault.panel") / "static"
        scripts = ["core.js", "forms.js", *(page.script for page in PAGES), "start.js"]
        self._files = {
            "panel.js": b"\n".join((folder / name).read_bytes() for name in scripts),
            "panel.css": (folder / "panel.css").read_bytes(),
            "icon.svg": (folder / "icon.svg").read_bytes(),
        }

    def url(self, name: str) -> str:
        """Return a file's URL relative to the shell."""
        return f"static/{name}?v={hashlib.sha256(self._files[name]).hexdigest()[:12]}"

    def file(self, name: str) -> Answer:
        """Return a file.

        Raises
        ------
        Refused
            When there is none of that name.
        """
        if name not in self._files:
            raise Refused(404, "refused.not-found")
        return Answer(self._files[name], _TYPES[name.rpartition(".")[2]], {"Cache-Control": _A_YEAR})


def _shell(asked: Asked, context: Context, static: Static, token_script: str) -> Answer:
    """Return the page that the script fills."""
    nas = context.place.nas
    accepted = bottle.request.get_header("Accept-Language", "")
    lang = texts.language(asked.query.get("lang", ""), nas.language if nas else "", accepted)
    table = {key: escape(text) for key, text in texts.TABLES[lang].items()}
    token = f'<script src="{token_script}" defer></script>\n' if token_script else ""
    page = f"""<!DOCTYPE html>
<html lang="{texts.HTML_LANG[lang]}" data-lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{table["title"]}</title>
<link rel="icon" href="{static.url("icon.svg")}">
<link rel="stylesheet" href="{static.url("panel.css")}">
{token}<script src="{static.url("panel.js")}" defer></script>
</head>
<body>
<a class="skip" href="#content">{table["skip"]}</a>
<header><img src="{static.url("icon.svg")}" alt="" width="28" height="28"><span class="product">{table["title"]}</span>
<button type="button" id="language" class="plain"></button></header>
<div id="frame">
<nav id="pages"></nav>
<main id="content" tabindex="-1"><noscript><p>{table["no-script"]}</p></noscript></main>
</div>
<div id="said" role="status" aria-live="polite"></div>
</body>
</html>
"""
    return Answer(page.encode(), "text/html")


def _session(asked: Asked, context: Context) -> dict[str, Any]:
    return {
        "user": asked.user,
        "csrf": bottle.request.environ[CSRF],
        "version": __version__,
        "pages": [page.name for page in PAGES],
        "nas": context.place.nas is not None,
    }


def _texts(asked: Asked) -> dict[str, Any]:
    lang = texts.language(asked.query.get("lang", ""), "", "")
    return {"lang": lang, "texts": texts.TABLES[lang]}
