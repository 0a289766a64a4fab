"""What every request passes before a page sees it, and what every answer is given on the way out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, Final

from angiovault.panel import texts
from angiovault.panel.door import Door, Environ
from angiovault.panel.web import LONGEST_BODY, Refused

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'self'; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
REASONS: Final = {
    303: "See Other",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    500: "Internal Server Error",
}
USER: Final = "angiovault.user"
CSRF: Final = "angiovault.csrf"

_LONGEST_PATH: Final = 2000
STATIC: Final = "/static/"
"""What lies below needs no login: it is the same for everybody, and holds nothing of this archive."""

StartResponse = Callable[..., Any]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Gate:
    """A WSGI app around the panel's own.

    Parameters
    ----------
    app : App
        The app that answers what is let in; it finds the user and the token for changes in the environment.
    door : Door
        Decides who is let in.
    """

    def __init__(self, app: App, door: Door) -> None:
        self._app = app
        self._door = door

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""

        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Any:
            given = {name.lower() for name, _ in headers}
            added = [(name, value) for name, value in HEADERS.items() if name.lower() not in given]
            return start_response(status, headers + added, error)

        try:
            cookie = self._let_in(environ)
        except Refused as refused:
            return _refuse(environ, start, refused)
        if cookie is not None:
            start(f"303 {REASONS[303]}", [("Location", "./"), ("Set-Cookie", cookie), ("Content-Length", "0")])
            return [b""]
        return self._app(environ, start)

    def _let_in(self, environ: dict[str, Any]) -> str | None:
        """Check a request; return the cookie of a session that begins with it.

        Raises
        ------
        Refused
            When it is not to be answered.
        """
        method, door = environ["REQUEST_METHOD"], self._door
        if method not in ("GET", "HEAD", "POST"):
            raise Refused(405, "refused.method")
        door.check_host(environ)
        if len(environ.get("PATH_INFO", "")) + len(environ.get("QUERY_STRING", "")) > _LONGEST_PATH:
            raise Refused(400, "refused.malformed")
        if method != "POST" and environ.get("PATH_INFO", "").startswith(STATIC):
            return None
        cookie = door.enter(environ)
        if cookie is not None:
            return cookie
        environ[USER] = door.user(environ)
        environ[CSRF] = door.csrf_token(environ)
        if method == "POST":
            door.check_change(environ)
            _check_body(environ)
        return None


def _check_body(environ: Environ) -> None:
    length = environ.get("CONTENT_LENGTH") or ""
    if not (length.isascii() and length.isdigit()):
        raise Refused(411, "refused.length")
    if len(length) > 9 or int(length) > LONGEST_BODY:
        raise Refused(413, "refused.too-large", kib=LONGEST_BODY >> 10)
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "refused.type")


def _refuse(environ: Environ, start: StartResponse, refused: Refused) -> Iterable[bytes]:
    """Say why: as a page to a person who opens one, else as JSON."""
    status = f"{refused.status} {REASONS[refused.status]}"
    if "text/html" in environ.get("HTTP_ACCEPT", "") and not environ.get("PATH_INFO", "").startswith("/api/"):
        lang = texts.language("", "", environ.get("HTTP_ACCEPT_LANGUAGE", ""))
        reason = escape(texts.say(lang, refused.content["error"]))
        title = escape(texts.TABLES[lang]["refused.title"])
        body = (
            f'<!DOCTYPE html><html lang="{texts.HTML_LANG[lang]}"><head><meta charset="utf-8"><title>{title}</title>'
            f'<link rel="stylesheet" href="static/panel.css"></head><body class="refused"><main><h1>{title}</h1>'
            f"<p>{reason}</p></main></body></html>"
        ).encode()
        kind = "text/html; charset=utf-8"
    else:
        body, kind = json.dumps(refused.content).encode(), "application/json"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    if refused.status == 405:
        headers.append(("Allow", "GET, HEAD, POST"))
    start(status, headers)
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]
