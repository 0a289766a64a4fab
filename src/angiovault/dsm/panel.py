"""The settings panel's process: there while somebody looks at it, so that a small NAS has the memory otherwise.

The supervisor holds the socket. When `ui/index.cgi` connects and no panel runs, one is started that inherits it, and
ends by itself when nothing was asked of it for a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from typing import Final

from angiovault.dsm.paths import Nas

log = logging.getLogger(__name__)

_PAUSE: Final = 5.0
"""Seconds between two starts: a panel that ends at once must not keep the NAS busy."""
_BACKLOG: Final = 32


class PanelOnDemand:
    """The panel's socket, and its process when there is one.

    Parameters
    ----------
    nas : Nas
        The NAS.
    """

    def __init__(self, nas: Nas) -> None:
        self._nas = nas
        self._child: subprocess.Popen[bytes] | None = None
        self._next_start = 0.0
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)  # for our own user alone, from the beginning
        try:
            nas.panel.unlink(missing_ok=True)  # of a supervisor that was killed
            self._socket.bind(str(nas.panel))
            self._socket.listen(_BACKLOG)
        except OSError as error:  # the service matters more
            log.error("there is no panel: %s cannot be made: %s", nas.panel, error)
            self._socket.close()
            self._socket = None
        finally:
            os.umask(mask)

    @property
    def waits_for(self) -> socket.socket | None:
        """What becomes readable when somebody asks for a panel; None while one runs or may not be started yet."""
        return self._socket if self._child is None and time.monotonic() >= self._next_start else None

    def start(self) -> None:
        """Start the panel, since somebody asks for it."""
        assert self._socket is not None
        descriptor = self._socket.fileno()
        arguments = ["panel", "--config", str(self._nas.settings), "--descriptor", str(descriptor)]
        command = [sys.executable, "-I", "-m", "angiovault.dsm.child", str(os.getpid()), *arguments]
        self._next_start = time.monotonic() + _PAUSE
        try:
            self._child = subprocess.Popen(command, cwd="/", pass_fds=[descriptor])  # noqa: S603 - our own words
        except OSError as error:
            log.error("the panel does not start: %s", error)

    def reap(self) -> None:
        """Notice that the panel has ended."""
        if self._child is not None and self._child.poll() is not None:
            if self._child.returncode != 0:
                log.error("the panel ended with exit code %d", self._child.returncode)
            self._child = None

    def close(self) -> None:
        """End the panel and take its socket away."""
        if self._socket is not None:
            self._socket.close()
            with contextlib.suppress(OSError):  # one that nobody listens on does no harm
                self._nas.panel.unlink(missing_ok=True)
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(3)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._child = None
