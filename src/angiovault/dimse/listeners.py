"""The ports that are listened on, and how others take their place while associations run.

A new port is opened before an old one is closed: what cannot be had leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

_BACKLOG: Final = 256
_RETRY: Final = 0.1
_CLOSING_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Opening:
    """Where to listen.

    Attributes
    ----------
    address : str
        IPv4 or IPv6 address of this machine; ``::`` is every address of both.
    port : int
        TCP port; 0 is any free one.
    tls : ssl.SSLContext, optional
        The TLS that is spoken there, None for plain DICOM.
    """

    address: str
    port: int
    tls: ssl.SSLContext | None = None


class CannotListen(Exception):
    """An address or port cannot be had: `opening` is which, `error` is what the system says."""

    def __init__(self, opening: Opening, error: OSError) -> None:
        super().__init__(f"cannot listen on {opening.address} port {opening.port}: {error.strerror}")
        self.opening = opening
        self.error = error


class Listeners:
    """The open ports, each with a thread that accepts connections.

    Parameters
    ----------
    take : Callable
        Is given each connection: the socket, the peer's address, and the TLS to be spoken or None.
    make_room : Callable
        Is called when the process has no file left for a further connection.
    """

    def __init__(
        self, take: Callable[[socket.socket, str, ssl.SSLContext | None], None], make_room: Callable[[], None]
    ) -> None:
        self._take = take
        self._make_room = make_room
        self._open: list[_Listener] = []

    def change(self, openings: Sequence[Opening], when_had: Callable[[], None]) -> tuple[int, ...]:
        """Listen there from now on, and nowhere else; return the ports.

        Parameters
        ----------
        openings : Sequence of Opening
            Where; what is listened on already stays open, and takes over the TLS.
        when_had : Callable
            Is called when every port is had, and before anybody is served on a new one.

        Raises
        ------
        CannotListen
            When one of them cannot be had; then everything is as it was.
        """
        kept = [next((item for item in self._open if item.is_at(opening)), None) for opening in openings]
        dropped = [item for item in self._open if item not in kept]
        missing = [opening for opening, item in zip(openings, kept, strict=True) if item is None]
        had = iter(self._had(missing, dropped))
        when_had()
        now = []
        for opening, item in zip(openings, kept, strict=True):
            listener = item or _Listener(opening, next(had), self._take, self._make_room)
            listener.tls = opening.tls
            now.append(listener)
        for listener in now:
            if listener not in kept:
                listener.start()
        for listener in dropped:
            listener.close()
        self._open = now
        return tuple(listener.port for listener in now)

    def _had(self, openings: Sequence[Opening], dropped: Sequence[_Listener]) -> list[socket.socket]:
        """Return sockets that listen; nobody accepts from them yet."""
        try:
            return _listen(openings)
        except CannotListen as error:
            ports = {opening.port for opening in openings}
            ours = [item for item in dropped if item.port in ports]
            if error.error.errno != errno.EADDRINUSE or not ours:
                raise
        # The same port at another address: the system does not give `0.0.0.0` and an address to two sockets.
        for item in ours:
            item.close()
        try:
            return _listen(openings)
        except CannotListen:
            for item in ours:
                item.open_again()
            raise

    def close(self) -> None:
        """Listen no more."""
        for listener in self._open:
            listener.close()


def _listen(openings: Sequence[Opening]) -> list[socket.socket]:
    had: list[socket.socket] = []
    for opening in openings:
        try:
            had.append(_socket(opening.address, opening.port))
        except OSError as error:
            for each in had:
                each.close()
            raise CannotListen(opening, error) from error
    return had


def _socket(address: str, port: int) -> socket.socket:
    return socket.create_server(
        (address, port),
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        backlog=_BACKLOG,
        dualstack_ipv6=address == "::" and socket.has_dualstack_ipv6(),
    )


class _Listener:
    """A socket that listens, and the thread that accepts connections from it."""

    def __init__(
        self,
        opening: Opening,
        listening: socket.socket,
        take: Callable[[socket.socket, str, ssl.SSLContext | None], None],
        make_room: Callable[[], None],
    ) -> None:
        self.tls = opening.tls
        self.port = int(listening.getsockname()[1])
        self._opening = opening
        self._take = take
        self._make_room = make_room
        self._prepare(listening)

    def _prepare(self, listening: socket.socket) -> None:
        self._closing = threading.Event()
        self._socket = listening
        arguments = (listening, self._closing)
        self._thread = threading.Thread(target=self._accept, args=arguments, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to accept connections."""
        self._thread.start()

    def is_at(self, opening: Opening) -> bool:
        """Return whether this is the listener for an opening, and listens."""
        where = self._opening.address, self._opening.port
        return not self._closing.is_set() and where == (opening.address, opening.port)

    def close(self) -> None:
        """Accept no more; the port is free when this returns."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which closing does not
        self._thread.join(_CLOSING_SECONDS)

    def open_again(self) -> None:
        """Go on where `close` has ended."""
        try:
            self._prepare(_socket(self._opening.address, self.port))
        except OSError as error:
            log.error("port %d of %s cannot be had again: %s", self.port, self._opening.address, error)
        else:
            self.start()

    def _accept(self, listening: socket.socket, closing: threading.Event) -> None:
        problem = ""
        with listening:
            while not closing.is_set():
                try:
                    connection, address = listening.accept()
                    problem = ""
                except ConnectionAbortedError:  # gone before it was its turn
                    continue
                except OSError as error:
                    if closing.is_set():
                        return
                    if str(error) != problem:
                        log.error("cannot accept connections: %s", error)
                    problem = str(error)
                    if error.errno in (errno.EMFILE, errno.ENFILE):
                        self._make_room()
                    closing.wait(_RETRY)
                    continue
                self._take(connection, address[0], self.tls)
