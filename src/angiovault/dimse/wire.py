"""The upper layer on an established connection (PS3.8 9.3): PDUs in, PDUs out, data sets streamed.

One thread serves one association with blocking reads: bytes go from the socket into one buffer, and the PDV fragments
are handed on as views of that buffer, so that an instance of any size passes through in constant memory and nothing
polls. A-ASSOCIATE PDUs are read and sent here whole; `negotiation` encodes and decodes them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, Final

from angiovault.dimse.endings import (
    Aborted,
    AssociationEnded,
    ConnectionLost,
    Interrupted,
    ProtocolError,
    Released,
    TimedOut,
)
from angiovault.dimse.tcp import TcpConnection
from angiovault.dimse.tls import TlsConnection

A_ASSOCIATE_RQ: Final = 0x01
A_ASSOCIATE_AC: Final = 0x02
A_ASSOCIATE_RJ: Final = 0x03
P_DATA_TF: Final = 0x04
A_RELEASE_RQ: Final = 0x05
A_RELEASE_RP: Final = 0x06
A_ABORT: Final = 0x07

UNEXPECTED_PDU: Final = 2
"""Reason of an A-ABORT (PS3.8 9.3.8)."""

LONGEST_ASSOCIATE: Final = 1 << 20
"""Most bytes of an A-ASSOCIATE PDU: 128 contexts with 40 syntaxes each take 380 kB."""
SMALLEST_PEER_PDU: Final = 16
"""Nobody needs less; a fragment of a few bytes is mostly headers."""
PDU_OVERRUN: Final = 64
"""Bytes a P-DATA-TF may be longer than announced: some peers leave the headers out of the count."""
_FIRST_BUFFER: Final = 1 << 13  # hundreds of idle associations need no more
_BUFFER: Final = 1 << 16  # a small image comes whole; of a large one little is copied before the rest is read directly
_SEND_BUFFER: Final = 1 << 18
_HEADERS: Final = 12  # bytes of those of a PDU and its first PDV
_COPIED: Final = 1 << 15  # bytes from which on two system calls cost less than copying
_FAREWELL: Final = 1.0  # seconds for the peer to take an A-ABORT
_OF_THE_FILE: Final = frozenset((errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV))
_ABORT_PROVIDER: Final = 2
_UNRECOGNISED_PDU: Final = 1

_PDU_HEADER: Final = struct.Struct(">BxL")
_PDV_HEADER: Final = struct.Struct(">LBB")
_PDATA_HEADER: Final = struct.Struct(">BxLLBB")
_HTTP: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI")


class Wire:
    """A connection that carries PDUs.

    Parameters
    ----------
    connection : socket.socket or TlsConnection
        Connected socket.
    max_pdu : int
        Longest P-DATA-TF (variable field, in bytes) that we announced.
    network_timeout : float
        Seconds within which one PDU has to arrive or be taken whole.
    """

    def __init__(self, connection: socket.socket | TlsConnection, max_pdu: int, network_timeout: float) -> None:
        self.connection = connection if isinstance(connection, TlsConnection) else TcpConnection(connection)
        self.max_pdu = max_pdu
        self.peer_max_pdu = 16384
        self.network_timeout = network_timeout
        self._buffer = bytearray(_FIRST_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._deadline = 0.0
        self._awaited = "", 0.0
        self._headers_alone = False
        self._pdu_left = 0  # bytes of the current P-DATA-TF not yet read
        self._send_lock = threading.Lock()
        self._send_buffer = bytearray()
        self._interruption = ""

    # ---- receiving

    def _expect(self, what: str, seconds: float) -> None:
        self._awaited = what, seconds
        self._deadline = time.monotonic() + seconds

    def _fill(self) -> None:
        """Read what the connection has, at least one byte, before the deadline."""
        if self._start == self._end:
            if self._end == len(self._buffer) < _BUFFER:  # much is coming
                self._buffer = bytearray(_BUFFER)
                self._view = memoryview(self._buffer)
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            rest = bytes(self._view[self._start : self._end])
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        # Behind what was read directly come the headers of more of its kind: only these are taken into the buffer.
        count = _HEADERS if self._headers_alone else len(self._buffer)
        self._headers_alone = False
        self._end += self._receive(self._view[self._end : self._end + count])

    def _receive(self, view: memoryview, all_of_it: bool = False) -> int:
        """Read what the connection has, at least one byte, or wait for all of it, at most until the deadline."""
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self.connection.settimeout(left)
            got = self.connection.recv_into(view, all_of_it)
        except TimeoutError:
            what, seconds = self._awaited
            raise TimedOut(f"{what} within {seconds:.3g} s") from None
        except (OSError, ValueError) as error:  # ValueError: closed
            raise self._lost(f"connection lost: {error}") from error
        if not got:
            raise self._lost("connection closed by the peer")
        return got

    def _lost(self, text: str) -> AssociationEnded:
        return Interrupted(self._interruption) if self._interruption else ConnectionLost(text)

    def _take(self, count: int) -> memoryview:
        """Return the next `count` bytes (few), valid until the next read."""
        while self._end - self._start < count:
            self._fill()
        view = self._view[self._start : self._start + count]
        self._start += count
        return view

    def wait(self, timeout: float) -> None:
        """Wait until a PDU begins.

        Raises
        ------
        TimedOut
            When nothing came within `timeout` seconds.
        """
        if self._start == self._end and not self._pdu_left:
            self._expect("nothing came", timeout)
            self._fill()

    @property
    def has_unread(self) -> bool:
        """Whether something was read from the connection that has not been taken yet."""
        return self._end > self._start

    @property
    def interruption(self) -> str:
        """Why another thread ended it, '' when none did."""
        return self._interruption

    def readable(self) -> bool:
        """Whether something has come from the peer; does not wait."""
        if self._end > self._start:
            return True
        if self.connection.pending():
            return True
        poller = select.poll()
        poller.register(self.connection, select.POLLIN)
        return bool(poller.poll(0))

    def read_pdu(self, longest: int = LONGEST_ASSOCIATE, timeout: float | None = None) -> tuple[int, bytes]:
        """Read one whole PDU that is not data: type and encoded bytes, header included.

        Parameters
        ----------
        longest : int
            Most bytes it may have.
        timeout : float, optional
            Seconds within which it has to arrive whole; by default the network time-out.

        Raises
        ------
        ProtocolError
            When it is longer than `longest`, or not a DICOM PDU.
        """
        self._expect("a PDU did not arrive whole", self.network_timeout if timeout is None else timeout)
        header = bytes(self._take(6))
        kind, length = _PDU_HEADER.unpack(header)
        if not A_ASSOCIATE_RQ <= kind <= A_ABORT:
            raise ProtocolError(_not_dicom(header), _UNRECOGNISED_PDU)
        if length > longest:
            raise ProtocolError(f"PDU of type {kind} is {length} bytes long, at most {longest} are taken")
        body = bytearray()
        while len(body) < length:
            if self._start == self._end:
                self._fill()
            stop = min(self._end, self._start + length - len(body))
            body += self._view[self._start : stop]
            self._start = stop
        return kind, header + bytes(body)

    def _next_pdata(self, within_message: bool) -> None:
        """Step into the next P-DATA-TF; every other PDU ends the association."""
        self._expect("a PDU did not arrive whole", self.network_timeout)
        header = bytes(self._take(6))
        kind, length = _PDU_HEADER.unpack(header)
        if kind == P_DATA_TF:
            if length < 6:
                raise ProtocolError(f"P-DATA-TF of {length} bytes holds no PDV")
            if length > self.max_pdu + PDU_OVERRUN:
                raise ProtocolError(f"P-DATA-TF of {length} bytes, {self.max_pdu} were agreed")
            self._pdu_left = length
        elif kind in (A_RELEASE_RQ, A_RELEASE_RP, A_ABORT):
            if length != 4:
                raise ProtocolError(f"PDU of type {kind} has length {length} instead of 4")
            body = bytes(self._take(4))
            if kind == A_ABORT:
                raise Aborted(f"aborted by the peer (source {body[2]}, reason {body[3]})")
            if kind == A_RELEASE_RP:
                raise ProtocolError("A-RELEASE-RP that nobody asked for", UNEXPECTED_PDU)
            if within_message:
                raise ProtocolError("A-RELEASE-RQ in the middle of a message", UNEXPECTED_PDU)
            self.send(_PDU_HEADER.pack(A_RELEASE_RP, 4) + bytes(4))
            raise Released("released")
        elif kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ):
            raise ProtocolError(f"PDU of type {kind} within an association", UNEXPECTED_PDU)
        else:
            raise ProtocolError(_not_dicom(header), _UNRECOGNISED_PDU)

    def next_pdv(self, within_message: bool) -> tuple[int, int, int]:
        """Step into the next PDV; return how many bytes it has, its Presentation Context ID and its control header.

        Raises
        ------
        AssociationEnded
            When anything else comes, in the words of what came; a release in the middle of a message is an error.
        """
        if self._pdu_left == 0:
            self._next_pdata(within_message)
        if self._pdu_left < 6:
            raise ProtocolError(f"P-DATA-TF ends with {self._pdu_left} bytes that are no PDV")
        length, context_id, flags = _PDV_HEADER.unpack(self._take(6))
        self._pdu_left -= 6
        if not 2 <= length <= self._pdu_left + 2:
            raise ProtocolError(f"PDV of {length} bytes does not fit its P-DATA-TF")
        return length - 2, context_id, flags

    def read_some(self, count: int) -> memoryview:
        """Return what there is of the next `count` bytes, which belong to the current PDV; valid until the next read.

        Raises
        ------
        AssociationEnded
            When nothing comes.
        """
        if self._start == self._end:
            self._fill()
        stop = min(self._end, self._start + count)
        view = self._view[self._start : stop]
        self._start = stop
        self._pdu_left -= len(view)
        return view

    def read_into(self, room: memoryview, left: int, goes_on: bool) -> int:
        """Read at least one of the next bytes, which belong to the current PDV, into `room`, and return how many.

        Parameters
        ----------
        room : memoryview
            Where they are to be put; what lies behind them in it may be overwritten.
        left : int
            How many the PDV has left.
        goes_on : bool
            Whether this is not the last PDV of its message.

        Raises
        ------
        AssociationEnded
            When nothing comes.
        """
        count = min(left, len(room))
        if self._start < self._end or count < _COPIED:
            part = self.read_some(count)
            room[: len(part)] = part
            return len(part)
        # What has come already often holds the headers of the next PDV, too: one system call for both.
        more = goes_on and count == left
        got = self._receive(room[: count + _HEADERS] if more else room[:count], all_of_it=not more)
        if got > count:
            self._start, self._end = 0, got - count
            self._view[: self._end] = room[count:got]
            got = count
        elif got < count:
            got += self._receive(room[got:count], all_of_it=True)
        self._pdu_left -= got
        self._headers_alone = goes_on and not self._pdu_left and self._end - self._start < _HEADERS
        return got

    # ---- sending

    def send(self, encoded: bytes | bytearray) -> None:
        """Send bytes whole.

        Raises
        ------
        AssociationEnded
            When the connection is gone or the peer takes nothing for the network time-out.
        """
        with self._send_lock:
            self._send(encoded, self.network_timeout)

    def _send(self, encoded: bytes | bytearray, timeout: float) -> None:
        try:
            self.connection.settimeout(timeout)
            self.connection.sendall(encoded)
        except (OSError, ValueError) as error:
            raise self._not_sent(error, timeout) from error

    def _send_buffered(self) -> None:
        """Send what the send buffer holds, and empty it."""
        self._send(self._send_buffer, self.network_timeout)
        self._send_buffer.clear()

    def _not_sent(self, error: OSError | ValueError, timeout: float) -> AssociationEnded:
        if isinstance(error, TimeoutError):
            return TimedOut(f"the peer took nothing within {timeout:.3g} s")
        return self._lost(f"connection lost: {error}")

    def send_message(
        self,
        context_id: int,
        command: bytes,
        data: bytes | BinaryIO | None = None,
        length: int | None = None,
        hold: bool = False,
    ) -> None:
        """Send a command set and, if there is one, its data set.

        Parameters
        ----------
        context_id : int
            Presentation Context ID.
        command : bytes
            Encoded command set.
        data : bytes or binary file, optional
            Encoded data set; a file is read from its position on.
        length : int, optional
            Bytes of the data set to read from a file.
        hold : bool
            Whether the message may wait for the next one or for `flush`, so that many small ones leave together.

        Raises
        ------
        AssociationEnded
            When the connection is gone.
        OSError
            When the file cannot be read or ends early; the association must be aborted then.
        """
        with self._send_lock:
            out = self._send_buffer
            self._pack(out, context_id, 1, command)
            if isinstance(data, bytes):
                self._pack(out, context_id, 0, data)
            elif data is not None and length is not None:
                self._send_file(out, context_id, data, length)
                return
            if not hold or len(out) >= _SEND_BUFFER:
                self._send_buffered()

    def repeated(self, context_id: int, command: bytes) -> Callable[[bytes], None]:
        """Return what sends one message after the other with the same command set, each with the data set it is given.

        They are held back like those of `send_message` with `hold`; sending raises what that raises.
        """
        begun = bytearray()
        self._pack(begun, context_id, 1, command)

        def send(data: bytes) -> None:
            with self._send_lock:
                out = self._send_buffer
                out += begun
                self._pack(out, context_id, 0, data)
                if len(out) >= _SEND_BUFFER:
                    self._send_buffered()

        return send

    def flush(self) -> None:
        """Send the messages that were held back.

        Raises
        ------
        AssociationEnded
            When the connection is gone.
        """
        with self._send_lock:
            if self._send_buffer:
                self._send_buffered()

    def _fragment_size(self) -> int:
        # 0 means "no limit" (PS3.8 D.1.1); even fragments, as data sets are even.
        limit = self.peer_max_pdu or _SEND_BUFFER
        return (min(limit, _SEND_BUFFER) - 6) & ~1

    def _pack(self, out: bytearray, context_id: int, command: int, encoded: bytes) -> None:
        size = self._fragment_size()
        for start in range(0, len(encoded) or 1, size):
            part = encoded[start : start + size]
            flags = command | (2 if start + size >= len(encoded) else 0)
            out += _PDATA_HEADER.pack(P_DATA_TF, len(part) + 6, len(part) + 2, context_id, flags)
            out += part

    def _send_file(self, out: bytearray, context_id: int, data: BinaryIO, length: int) -> None:
        """Send a part of a file in fragments: large ones from the file to the connection, small ones many together."""
        size, start, end = self._fragment_size(), data.tell(), data.tell() + length
        while True:
            count = min(size, end - start)
            flags = 0 if start + count < end else 2
            out += _PDATA_HEADER.pack(P_DATA_TF, count + 6, count + 2, context_id, flags)
            had = self._send_part(out, data.fileno(), start, count)
            if had < count:
                raise OSError(f"the stored file ends {end - start - had} bytes early")
            start += count
            if len(out) >= _SEND_BUFFER or (out and start == end):
                self._send_buffered()
            if start == end:
                return

    def _send_part(self, out: bytearray, descriptor: int, start: int, count: int) -> int:
        """Send a fragment behind `out`, or add a small one to it; return how much of it there was."""
        if count < _COPIED:
            part = os.pread(descriptor, count, start)
            out += part
            return len(part)
        self._send_buffered()
        try:
            return self.connection.sendfile(descriptor, start, count)
        except OSError as error:
            if error.errno in _OF_THE_FILE:
                raise
            raise self._not_sent(error, self.network_timeout) from error

    # ---- ending

    def abort(self, reason: int = 0, source: int = _ABORT_PROVIDER) -> None:
        """Send an A-ABORT if that is still possible, and close; for the thread that serves the connection."""
        self._say_abort(reason, source, _FAREWELL)
        self.leave_to_peer(_FAREWELL)

    def _say_abort(self, reason: int, source: int, timeout: float) -> None:
        if self._send_lock.acquire(timeout=timeout):
            try:
                with contextlib.suppress(AssociationEnded):  # it is over in any case
                    self._send(_PDU_HEADER.pack(A_ABORT, 4) + bytes([0, 0, source, reason]), timeout)
            finally:
                self._send_lock.release()

    def leave_to_peer(self, timeout: float) -> None:
        """Close after our last word when the peer has closed, at the latest after `timeout` seconds.

        Closing before everything was read resets the connection, and the reset may overtake the last word.
        """
        deadline = time.monotonic() + timeout
        with contextlib.suppress(OSError, ValueError):  # it is over in any case
            self.connection.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv_into(self._view):
                    break
        self.close()

    def interrupt(self, why: str) -> None:
        """End the association from another thread: the one that serves it gets `Interrupted` and closes."""
        self._interruption = why
        self._say_abort(0, _ABORT_PROVIDER, 0)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def request_release(self, timeout: float) -> None:
        """Ask for release, wait for the answer, and close.

        Raises
        ------
        AssociationEnded
            When the peer does not answer properly.
        """
        deadline = time.monotonic() + timeout
        try:
            self.send(_PDU_HEADER.pack(A_RELEASE_RQ, 4) + bytes(4))
            kind = 0
            while kind not in (A_RELEASE_RP, A_ABORT):  # a late response of the peer may come first
                self.wait(deadline - time.monotonic())
                kind, _ = self.read_pdu()
                if kind == A_RELEASE_RQ:  # release collision (PS3.8 9.2.3, AR-8)
                    self.send(_PDU_HEADER.pack(A_RELEASE_RP, 4) + bytes(4))
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; only the thread that reads from it may, others `interrupt`."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def _not_dicom(header: bytes) -> str:
    if header.startswith(b"\x16\x03"):
        return "this is TLS, not a DICOM PDU: use the archive's TLS port, or no TLS"
    if header.startswith(_HTTP):
        return "this is HTTP, not a DICOM PDU: the peer takes the archive for a web server"
    return f"not a DICOM PDU: begins with {header!r}"
