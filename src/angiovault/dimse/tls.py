"""TLS below the upper layer (PS3.15 annex B): a connection that one thread reads while another writes."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final

_POLLIN: Final = select.POLLIN
_POLLOUT: Final = select.POLLOUT


class TlsConnection:
    """The server's side of a TLS connection, with the methods of a socket that `Wire` needs.

    An `ssl.SSLSocket` may not be used by two threads at the same time, but a report may have to go out while the
    association's own thread waits for the next message. So the socket never blocks: what waits, waits outside the lock.

    Parameters
    ----------
    connection : socket.socket
        Connected socket; it belongs to this object from now on.
    context : ssl.SSLContext
        Certificate, key and rules.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._lock = threading.Lock()
        self._timeout: float | None = None

    def handshake(self, timeout: float) -> None:
        """Agree on keys, and check the client's certificate if one is wanted.

        Raises
        ------
        OSError
            When it fails (`ssl.SSLError`), or is not done within `timeout` seconds.
        """
        self._tls.settimeout(timeout)  # for the handshake as a whole, however slowly its bytes come
        self._tls.do_handshake()
        self._tls.setblocking(False)

    def settimeout(self, seconds: float | None) -> None:
        """Set how long the following calls may take."""
        self._timeout = seconds

    def recv_into(self, buffer: memoryview, all_of_it: bool = False) -> int:
        """Read what there is, at least one byte; 0 is the end. Raises OSError.

        `all_of_it` is for the kernel's connections: here the bytes come a record at a time, whoever waits for them.
        """
        return self._patiently(lambda: self._tls.recv_into(buffer), self._deadline())

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes whole. Raises OSError."""
        deadline = self._deadline()
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                with view[sent:] as rest:
                    sent += self._patiently(lambda rest=rest: self._tls.send(rest), deadline)  # type: ignore[misc]

    def sendfile(self, descriptor: int, start: int, count: int) -> int:
        """Send a part of a file; return how much of it there was. Raises OSError."""
        part = os.pread(descriptor, count, start)
        self.sendall(part)
        return len(part)

    def pending(self) -> bool:
        """Return whether decrypted bytes wait to be read."""
        with self._lock:
            return self._tls.pending() > 0

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._tls.fileno()

    def shutdown(self, how: int) -> None:
        """Shut the connection below TLS down, which wakes a thread that waits in it. Raises OSError."""
        # SSLSocket.shutdown would let a thread that is reading go on in plain text.
        socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        """Close the socket."""
        self._tls.close()

    def _deadline(self) -> float:
        return float("inf") if self._timeout is None else time.monotonic() + self._timeout

    def _patiently(self, operation: Callable[[], int], deadline: float) -> int:
        while True:
            try:
                with self._lock:
                    return operation()
            except ssl.SSLWantReadError:
                event = _POLLIN
            except ssl.SSLWantWriteError:
                event = _POLLOUT
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            poller = select.poll()
            poller.register(self._tls, event)
            poller.poll(None if left == float("inf") else max(1, int(left * 1000)))
