"""A small HTTP server on the panel's UNIX socket: it keeps what it is asked and answers as it is told."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import NamedTuple

from browser.desktop import PACKAGE_UID


class Asked(NamedTuple):
    """A request as it came over the socket."""

    line: str
    headers: dict[str, str]
    body: bytes


class Panel(ThreadingMixIn, UnixStreamServer):
    """Answers every request with `answer`; a path with `early` in it before its body is read."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        path.chmod(0o600)
        os.chown(path, PACKAGE_UID, PACKAGE_UID)
        self.asked: list[Asked] = []
        self.answer = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nthe panel"


class _Handler(BaseHTTPRequestHandler):
    server: Panel

    def do_GET(self) -> None:
        if "early" not in self.path:
            self._keep()
        self.wfile.write(self.server.answer)

    do_HEAD = do_POST = do_GET

    def _keep(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(Asked(self.requestline, dict(self.headers.items()), body))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what was asked is in `asked`."""


@contextmanager
def running_panel(var: Path) -> Iterator[Panel]:
    """Run a panel on var/panel.sock."""
    with Panel(var / "panel.sock") as panel:
        thread = threading.Thread(target=panel.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield panel
        finally:
            panel.shutdown()
            thread.join()
            (var / "panel.sock").unlink()


@contextmanager
def hanging_panel(var: Path) -> Iterator[socket.socket]:
    """Have somebody listen on var/panel.sock who never answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(var / "panel.sock"))
        os.chown(var / "panel.sock", PACKAGE_UID, PACKAGE_UID)
        listener.listen()
        yield listener
