"""Who may come in: administrators of DSM through the UNIX socket, or whoever has the printed URL on loopback."""

from __future__ import annotations

import hashlib
import hmac
import http.cookies
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, unquote

from angiovault import __version__
from angiovault.panel.web import Refused

Environ = Mapping[str, Any]

_LONGEST_USER: Final = 256


class Door(ABC):
    """Decides about requests before anything else looks at them."""

    token_script: ClassVar[str] = ""
    """Where, relative to the panel, lies the script that knows how to get DSM's token."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    @abstractmethod
    def user(self, environ: Environ) -> str:
        """Return who asks.

        Raises
        ------
        Refused
            When nobody does who may.
        """

    def check_host(self, environ: Environ) -> None:  # noqa: B027 - a door may have nothing to check
        """Refuse requests that name another host than ours."""

    def enter(self, environ: Environ) -> str | None:
        """Return the cookie of a new session for a request that has the right to one, None for all others."""
        return None

    def csrf_token(self, environ: Environ) -> str:
        """Return what requests that change something must bring along, which other web sites cannot know.

        It goes in the header X-Requested-With, which no form can set and which ui/index.cgi passes on.
        """
        return hmac.new(self._secret, self._identity(environ).encode(), hashlib.sha256).hexdigest()

    def check_change(self, environ: Environ) -> None:
        """Refuse a changing request that another web site could have made.

        Raises
        ------
        Refused
            When it does not come from our own page.
        """
        site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
        if site is not None:
            same = site == "same-origin"
        elif origin is not None:
            same = origin.partition("://")[2] == environ.get("HTTP_HOST", "")
        else:
            same = True  # an old browser or a program: the token decides
        if not same:
            raise Refused(403, "refused.cross-site")
        given = environ.get("HTTP_X_REQUESTED_WITH", "")
        if not hmac.compare_digest(given.encode(), self.csrf_token(environ).encode()):
            raise Refused(403, "refused.csrf")

    @abstractmethod
    def _identity(self, environ: Environ) -> str:
        """Return what the token is bound to."""


class SocketDoor(Door):
    """The UNIX socket, which only `ui/index.cgi` can open: it has asked DSM, and names the administrator."""

    token_script: ClassVar[str] = f"../token.js?v={__version__}"

    def user(self, environ: Environ) -> str:
        """Return the user that the header names."""
        name = unquote(environ.get("HTTP_X_ANGIOVAULT_USER", ""))
        if not name or len(name) > _LONGEST_USER or not name.isprintable():
            raise Refused(403, "refused.user")
        return name

    def _identity(self, environ: Environ) -> str:
        return self.user(environ)


class LoopbackDoor(Door):
    """A port of this machine: the one-time token of the printed URL becomes a session."""

    def __init__(self) -> None:
        super().__init__()
        self._once = secrets.token_urlsafe(32)
        self._sessions: frozenset[str] = frozenset()
        self._hosts: frozenset[str] = frozenset()
        self._cookie = "angiovault"

    def url(self, port: int) -> str:
        """Return the URL that lets in once; called when the port is known."""
        self._hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))
        self._cookie = f"angiovault-{port}"  # cookies of a host are shared by all its ports
        return f"http://127.0.0.1:{port}/?token={self._once}"

    def check_host(self, environ: Environ) -> None:
        """Refuse names that are not loopback's: another web site's name may lead here (DNS rebinding)."""
        if environ.get("HTTP_HOST", "").lower() not in self._hosts:
            raise Refused(403, "refused.host")

    def enter(self, environ: Environ) -> str | None:
        """Turn the one-time token into a session."""
        if environ["REQUEST_METHOD"] != "GET" or environ.get("PATH_INFO", "") not in ("", "/"):
            return None
        given = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0]
        if not self._once or not hmac.compare_digest(given.encode(), self._once.encode()):
            return None
        self._once = ""
        session = secrets.token_urlsafe(32)
        self._sessions |= {session}
        return f"{self._cookie}={session}; Path=/; HttpOnly; SameSite=Strict"

    def user(self, environ: Environ) -> str:
        """Return who has the URL, if the request belongs to a session."""
        self._identity(environ)
        return "local"

    def _identity(self, environ: Environ) -> str:
        try:
            cookie = http.cookies.SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self._cookie)
        except http.cookies.CookieError:
            cookie = None
        value = cookie.value if cookie else ""
        if not any(hmac.compare_digest(value.encode(), session.encode()) for session in self._sessions):
            raise Refused(403, "refused.session")
        return value
