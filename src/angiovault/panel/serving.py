"""Running the panel: on a UNIX socket for DSM's web server, or on a port of this machine for its browser."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import waitress

from angiovault.panel.app import make_app
from angiovault.panel.context import Context
from angiovault.panel.door import LoopbackDoor, SocketDoor
from angiovault.panel.gate import App, StartResponse
from angiovault.panel.place import Place

log = logging.getLogger(__name__)

_IDLE_SECONDS: Final = 900.0
_BUSY_SECONDS: Final = 10.0
_JOBS_END_WITHIN: Final = 2.0
"""Seconds; the supervisor kills a panel that takes three, and the jobs with it."""
_OPTIONS: Final = {
    "threads": 6,
    "ident": None,
    "connection_limit": 50,
    "channel_timeout": 30,
    "max_request_header_size": 1 << 15,
    "max_request_body_size": 1 << 20,
}


class CannotServe(Exception):
    """The panel cannot listen; the text says why."""


def serve_socket(place: Place, path: Path) -> None:
    """Serve on a UNIX socket, for our own user only, until SIGTERM.

    Raises
    ------
    CannotServe
        When the socket cannot be made.
    """
    old = os.umask(0o177)  # never open to others, not even between its making and chmod
    context = Context(place)
    try:
        server = waitress.create_server(
            make_app(context, SocketDoor()), unix_socket=str(path), unix_socket_perms="600", **_OPTIONS
        )
    except OSError as error:
        raise CannotServe(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(old)
    log.info("the panel listens on %s", path)
    try:
        _run(server, context)
    finally:
        path.unlink(missing_ok=True)


def serve_inherited(place: Place, descriptor: int) -> None:
    """Serve on a UNIX socket that the starting process holds, until SIGTERM or until nobody asks any more."""
    with socket.socket(fileno=descriptor) as listening:
        context = Context(place)
        app = _EndsWhenIdle(make_app(context, SocketDoor()), lambda: context.jobs.busy or context.tasks.busy)
        server = waitress.create_server(app, sockets=[listening], **_OPTIONS)
        app.start()
        _run(server, context)


class _GoingOn:
    """An answer that tells of each of its parts: a download may take hours."""

    def __init__(self, answer: Iterable[bytes], tell: Callable[[], None]) -> None:
        self._answer = answer
        self._parts = iter(answer)
        self._tell = tell

    def __iter__(self) -> _GoingOn:
        return self

    def __next__(self) -> bytes:
        self._tell()
        return next(self._parts)

    def close(self) -> None:
        """Close the answer."""
        if hasattr(self._answer, "close"):
            self._answer.close()


class _EndsWhenIdle:
    """A WSGI app that ends this process when nothing was asked of it for a quarter of an hour, and it is not busy."""

    def __init__(self, app: App, is_busy: Callable[[], bool]) -> None:
        self._app = app
        self._is_busy = is_busy
        self._asked = time.monotonic()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        self._note()
        return _GoingOn(self._app(environ, start_response), self._note)

    def _note(self) -> None:
        self._asked = time.monotonic()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="idle", daemon=True).start()

    def _watch(self) -> None:
        while (left := self._asked + _IDLE_SECONDS - time.monotonic()) > 0 or self._is_busy():
            time.sleep(left if left > 0 else _BUSY_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)


def serve_loopback(place: Place, port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM; the URL to open is printed.

    Raises
    ------
    CannotServe
        When the port cannot be had.
    """
    door, context = LoopbackDoor(), Context(place)
    try:
        server = waitress.create_server(make_app(context, door), host="127.0.0.1", port=port, **_OPTIONS)
    except OSError as error:
        raise CannotServe(f"cannot listen on 127.0.0.1 port {port}: {error.strerror}") from error
    print("open this address in a browser on this machine; it works once:", flush=True)  # noqa: T201
    print(door.url(int(server.effective_port)), flush=True)  # noqa: T201
    _run(server, context)


def _run(server: Any, context: Context) -> None:
    def stop(_number: int, _frame: object) -> None:
        context.jobs.stop()
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run()  # ends in order when SystemExit is raised in it
    server.close()
    context.jobs.close(_JOBS_END_WITHIN)
