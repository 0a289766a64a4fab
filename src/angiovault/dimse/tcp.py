"""A plain TCP connection whose time-outs the kernel keeps: one system call for a read, where Python's make three."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

_TIMEVAL: Final = struct.Struct("ll")
_SHORTEST: Final = 0.001  # 0 would mean for ever
_SLACK: Final = 1.05
_NO_SENDFILE: Final = frozenset((errno.EINVAL, errno.ENOSYS))  # a file system that cannot do it


class TcpConnection:
    """A connected socket, with the methods that `Wire` needs of a connection.

    Python's own time-outs make a socket non-blocking and `poll` before every call; SO_RCVTIMEO and SO_SNDTIMEO leave it
    blocking. They are set anew only when they would let a call take more than a twentieth too long.

    Parameters
    ----------
    connection : socket.socket
        Connected socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._timeout = float("inf")
        self._set = {socket.SO_RCVTIMEO: float("inf"), socket.SO_SNDTIMEO: float("inf")}

    def settimeout(self, seconds: float | None) -> None:
        """Set how long the following calls may take; `None` is for ever."""
        self._timeout = float("inf") if seconds is None else max(seconds, _SHORTEST)

    def recv_into(self, buffer: memoryview, all_of_it: bool = False) -> int:
        """Read what there is, at least one byte, or wait for all of it until the time is over; 0 is the end.

        Raises OSError.
        """
        flags = socket.MSG_WAITALL if all_of_it else 0
        return self._patiently(socket.SO_RCVTIMEO, self._socket.recv_into, buffer, 0, flags)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes whole; the time-out is that of the peer's taking nothing. Raises OSError."""
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                with view[sent:] as rest:
                    sent += self._patiently(socket.SO_SNDTIMEO, self._socket.send, rest)

    def sendfile(self, descriptor: int, start: int, count: int) -> int:
        """Send a part of a file without copying it; return how much of it there was. Raises OSError."""
        sent = 0
        while sent < count:
            try:
                rest = start + sent, count - sent
                got = self._patiently(socket.SO_SNDTIMEO, os.sendfile, self._socket.fileno(), descriptor, *rest)
            except OSError as error:
                if error.errno not in _NO_SENDFILE:
                    raise
                part = os.pread(descriptor, count - sent, start + sent)
                self.sendall(part)
                got = len(part)
            if not got:
                break
            sent += got
        return sent

    def pending(self) -> bool:
        """Return whether bytes wait that the kernel does not know of: never."""
        return False

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def shutdown(self, how: int) -> None:
        """Shut the connection down, which wakes a thread that waits in it. Raises OSError."""
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _patiently(self, option: int, operation: Callable[..., int], *arguments: object) -> int:
        """Call until it is done or the time is over: a shorter time-out than the present one may be in force."""
        timeout = self._timeout  # of this call: whoever sends meanwhile sets another
        if self._set[option] > timeout * _SLACK:
            self._set_kernel_timeout(option, timeout)
        began = 0.0
        while True:
            try:
                return operation(*arguments)
            except BlockingIOError:
                now = time.monotonic()
                began = began or now - self._set[option]
                left = began + timeout - now
                if left <= 0:
                    raise TimeoutError from None
                self._set_kernel_timeout(option, max(left, _SHORTEST))

    def _set_kernel_timeout(self, option: int, seconds: float) -> None:
        self._set[option] = seconds
        if seconds == float("inf"):
            seconds = 0  # for ever
        whole = int(seconds)
        self._socket.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(whole, int((seconds - whole) * 1e6)))
