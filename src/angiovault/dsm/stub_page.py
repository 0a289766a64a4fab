"""The page that `ui/index.cgi` shows itself: the state of the archive, or why somebody may not come in.

It is made without the service, so that it can say why the service does not run.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from angiovault.dsm import stub_state
from angiovault.dsm.paths import Nas
from angiovault.dsm.stub_state import State
from angiovault.dsm.stub_texts import LANGUAGES, Texts, language

Answer = tuple[str, dict[str, str], bytes]
"""The value of CGI's Status header, further headers, the body."""

_NAS: Final = Nas()
_WEB: Final = "/webman/3rdparty/angiovault/"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    413: "Content Too Large",
    503: "Service Unavailable",
}
_COMMAND: Final = re.compile("`([^`]*)`")
_SIGNS: Final = {"good": "✔", "warning": "▲", "bad": "✖", "busy": "…"}
_KINDS: Final = {
    "well": "good",
    "problems": "warning",
    "needs-set-up": "warning",
    "starting": "busy",
    "stopping": "busy",
}
"""How a state looks; those that are not here are bad."""


def answer(environ: Mapping[str, str], panel: str, nas: Nas = _NAS) -> Answer:
    """Answer an administrator's request in the panel's place.

    Parameters
    ----------
    environ
        The CGI variables (RFC 3875 4.1).
    panel
        "absent", "silent" or "there": what came of looking for the panel.
    """
    lang = _language(environ, nas)
    texts = LANGUAGES[lang]
    state = stub_state.read_state(nas)
    parts = {
        "state": _state_part(state, texts, lang),
        "log": _log_part(stub_state.last_log_lines(nas.log), texts),
    }
    path = environ.get("PATH_INFO", "")
    if path == "/stub/state.json":
        content = json.dumps({"state": state.name, "panel": panel, "parts": parts})
        return f"200 {_REASONS[200]}", {"Content-Type": "application/json"}, content.encode()
    # A page of the panel's own is not there now, and nothing was changed.
    code = 200 if path in ("", "/") and environ.get("REQUEST_METHOD") != "POST" else 503
    silent = (
        f'<p class="note">{texts["panel-silent"]} <a href="{_WEB}index.cgi/?lang={lang}">{texts["retry"]}</a></p>'
        if panel == "silent"
        else ""
    )
    body = f"""{silent}
<p id="lost" class="note" role="alert" hidden>{texts["connection-lost"]}</p>
<div id="state" aria-live="polite">{parts["state"]}</div>
<section aria-labelledby="log-title"><h2 id="log-title">{texts["log"]}</h2>
<div id="log">{parts["log"]}</div></section>"""
    return _page(nas, code, lang, body, panel)


def refusal(environ: Mapping[str, str], status: int, reason: str, detail: str, nas: Nas = _NAS) -> Answer:
    """Say why a request is refused, as a page for people and as JSON for programs.

    The page asks DSM for a SynoToken and loads itself again with it: some NAS take no request without one.
    """
    lang = _language(environ, nas)
    texts = LANGUAGES[lang]
    message = texts[reason].format(detail)
    headers = {"Allow": "GET, HEAD, POST"} if status == 405 else {}
    if "text/html" not in environ.get("HTTP_ACCEPT", ""):
        content = json.dumps({"error": reason, "message": message}).encode()
        return f"{status} {_REASONS[status]}", {"Content-Type": "application/json", **headers}, content
    advice = f"<p>{texts['refused-do']}</p>" if status == 403 else ""
    body = f"""<section class="state bad"><h2><span class="sign" aria-hidden="true">{_SIGNS["bad"]}</span>
{texts["refused"]}</h2><p>{escape(message)}</p>{advice}</section>"""
    code, page_headers, page = _page(nas, status, lang, body, "refused")
    return code, {**page_headers, **headers}, page


def _page(nas: Nas, status: int, lang: str, body: str, panel: str) -> Answer:
    texts, other = LANGUAGES[lang], "enu" if lang == "chs" else "chs"
    page = f"""<!DOCTYPE html>
<html lang="{texts["html-lang"]}" data-lang="{lang}" data-panel="{panel}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{texts["title"]}</title>
<link rel="stylesheet" href="{_asset(nas, "stub.css")}">
<script src="{_asset(nas, "token.js")}" defer></script>
<script src="{_asset(nas, "stub.js")}" defer></script>
</head>
<body>
<header><h1>{texts["title"]}</h1>
<a id="other-language" href="?lang={other}" lang="{LANGUAGES[other]["html-lang"]}">{texts["other-language"]}</a>
</header>
<main>
{body}
</main>
</body>
</html>
"""
    return f"{status} {_REASONS[status]}", {"Content-Type": "text/html; charset=utf-8"}, page.encode()


def _state_part(state: State, texts: Texts, lang: str) -> str:
    kind = _KINDS.get(state.name, "bad")
    message = state.message_zh if lang == "chs" else state.message
    advice = _COMMAND.sub(r"<code>\1</code>", escape(texts.get(f"{state.name}-do", message)))
    rows = [
        (texts["ae-title"], [state.ae_title]),
        (texts["addresses"], state.addresses or [texts["no-address"]]),
        (texts["port-number"], [state.port]),
        (texts["tls-port"], [state.tls_port]),
    ]
    times = [(texts["since"], [state.since]), (texts["restarts"], [str(state.restarts or "")])]
    return f"""<section class="state {kind}"><h2><span class="sign" aria-hidden="true">{_SIGNS[kind]}</span>
{texts[state.name]}</h2>
{f"<p>{advice}</p>" if advice else ""}{_table(times)}</section>
{_problems(state, texts)}<section><h2>{texts["connection"]}</h2>
{_table(rows)}</section>"""


def _problems(state: State, texts: Texts) -> str:
    if not state.problems:
        return ""
    rows = [(texts.get(kind, kind), [text]) for kind, text in state.problems]
    return f"<section><h2>{texts['found-problems']}</h2>\n{_table(rows)}</section>\n"


def _table(rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Write names and values; a row without a value is left out."""
    lines = [
        f"<dt>{escape(name)}</dt>" + "".join(f"<dd>{escape(value)}</dd>" for value in values)
        for name, values in rows
        if any(values)
    ]
    return f"<dl>{''.join(lines)}</dl>" if lines else ""


def _log_part(lines: list[str], texts: Texts) -> str:
    if not lines:
        return f"<p>{texts['log-empty']}</p>"
    text = escape("\n".join(lines))
    return f'<pre class="log" tabindex="0" role="region" aria-labelledby="log-title">{text}</pre>'


def _asset(nas: Nas, name: str) -> str:
    """Return the address of a static file, with its content's check sum: browsers keep it until it changes."""
    content = (nas.package / "target/ui" / name).read_bytes()
    return f"{_WEB}{name}?v={zlib.crc32(content):08x}"


def _language(environ: Mapping[str, str], nas: Nas) -> str:
    query = dict(part.partition("=")[::2] for part in environ.get("QUERY_STRING", "").split("&"))
    return language(query.get("lang", ""), nas.language, environ.get("HTTP_ACCEPT_LANGUAGE", ""))
