"""The least a durable receiver can do: what arrives goes to a file, file and folder are synced, success is answered.

It has no index, looks into no data set and keeps no head of a file: the pace of its machine, its disk and its sender.
It trusts its peer, which runs on the same machine. One process serves one association with blocking reads.

    python bench/sink.py FOLDER             listens on a free port of 127.0.0.1, which it prints
    python bench/sink.py FOLDER --sha256    the same, and each file ends with the SHA-256 of its data set: what a
                                            receiver has to do at least that promises to notice each changed bit
    python bench/sink.py                    forgets what comes: the receiver of a C-MOVE. For each association it
                                            prints how many instances it took, and the bytes of their data sets
"""

import hashlib
import os
import socket
import socketserver
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

_PDU = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")
_ITEM = struct.Struct(">BxH")
_MAX_PDU = 131072
_ASSOCIATE_RQ, _P_DATA, _RELEASE_RQ = 1, 4, 5
_APPLICATION_CONTEXT, _PROPOSED_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_TRANSFER_SYNTAX, _MAXIMUM_LENGTH = 0x40, 0x51
_NOWHERE = bytearray(_MAX_PDU)
_CLASS_UID, _INSTANCE_UID = 0x0002, 0x1000  # in group 0000
_MESSAGE_ID = 0x0110


class Association(socketserver.BaseRequestHandler):
    """One association, from its request to the end of the connection."""

    server: "Sink"

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(_MAX_PDU + 4096)
        self._view = memoryview(self._buffer)
        self._count = 0
        self._file = -1
        self._command = b""
        self._folder = os.open(self.server.folder, os.O_RDONLY | os.O_DIRECTORY)

    def handle(self) -> None:
        while (head := self._read(6)) is not None:
            kind, length = _PDU.unpack(head)
            if kind == _P_DATA:
                self._take(length)
                continue
            body = self._read(length)
            if kind == _ASSOCIATE_RQ and body is not None:
                self.request.sendall(accept(bytes(body)))
                continue
            if kind == _RELEASE_RQ:
                self.request.sendall(_PDU.pack(6, 4) + bytes(4))
            return

    def _read(self, count: int) -> memoryview | None:
        """Return `count` bytes, valid until the next call; None when the peer has closed the connection."""
        if count > len(self._buffer):
            raise ValueError(f"PDU of {count} bytes, {_MAX_PDU} were agreed")
        view = self._view[:count]
        got = 0
        while got < count:
            step = self.request.recv_into(view[got:])
            if not step:
                return None
            got += step
        return view

    def _take(self, length: int) -> None:
        """Take the PDVs of one P-DATA-TF (PS3.8 9.3.5)."""
        body = self._read(length) or self._view[:0]
        at = 0
        while at < len(body):
            length, context, flags = _PDV.unpack_from(body, at)
            part = body[at + 6 : at + 4 + length]
            at += 4 + length
            if flags & 1:
                self._command += part
                continue
            self._keep(part)
            if flags & 2:
                self._finish()
                self._answer(context)

    def _answer(self, context: int) -> None:
        self.request.sendall(success(self._command, context))
        self._command = b""

    def _keep(self, part: memoryview) -> None:
        """Write a part of a data set."""
        if self._file < 0:
            self._count += 1
            name = self.server.folder / f"{os.getpid()}-{self._count}"
            self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        while part:
            part = part[os.write(self._file, part) :]

    def _finish(self) -> None:
        """Make a data set durable."""
        os.fsync(self._file)
        os.close(self._file)
        os.fsync(self._folder)
        self._file = -1


class Hashing(Association):
    """An association whose files end with the digest of their data set."""

    def setup(self) -> None:
        super().setup()
        self._hash = hashlib.sha256()

    def _keep(self, part: memoryview) -> None:
        self._hash.update(part)
        super()._keep(part)

    def _finish(self) -> None:
        os.write(self._file, self._hash.digest())
        self._hash = hashlib.sha256()
        super()._finish()


class Discarding(Association):
    """An association whose data sets are counted and forgotten."""

    def setup(self) -> None:
        super().setup()
        self._size = 0

    def finish(self) -> None:
        print(self._count, self._size, flush=True)

    def _take(self, length: int) -> None:
        for command, context, flags, size in fragments(self.request, length):
            self._command += command
            self._size += size
            if not flags & 1 and flags & 2:
                self._count += 1
                self._answer(context)


def fragments(connection: socket.socket, left: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Take the PDVs of a P-DATA-TF of `left` bytes, of those of data sets the heads alone.

    Yields the fragment of a command set, or nothing, Presentation Context ID, message control header, and how many
    bytes of a data set there were. The system forgets these without copying them anywhere (tcp(7), MSG_TRUNC): what a
    receiver does with them is not the sender's work.
    """
    while left > 0:
        length, context, flags = _PDV.unpack(connection.recv(_PDV.size, socket.MSG_WAITALL))
        left -= 4 + length
        if flags & 1:
            yield connection.recv(length - 2, socket.MSG_WAITALL), context, flags, 0
            continue
        rest = length - 2
        while rest:
            got = connection.recv_into(_NOWHERE, min(rest, len(_NOWHERE)), socket.MSG_WAITALL | socket.MSG_TRUNC)
            if not got:
                raise ConnectionError("closed within a data set")
            rest -= got
        yield b"", context, flags, length - 2


class Sink(socketserver.ForkingTCPServer):
    """Takes connections on 127.0.0.1 and keeps what comes in `folder`, or nothing without one."""

    def __init__(self, folder: Path | None, hashing: bool = False) -> None:
        self.folder = folder or Path()
        super().__init__(("127.0.0.1", 0), Hashing if hashing else Association if folder else Discarding)


def items(encoded: bytes) -> list[tuple[int, bytes]]:
    """Split a sequence of items of an A-ASSOCIATE PDU into type and value (PS3.8 9.3.2)."""
    found = []
    at = 0
    while at < len(encoded):
        kind, length = _ITEM.unpack_from(encoded, at)
        found.append((kind, encoded[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def accept(request: bytes) -> bytes:
    """Return the A-ASSOCIATE-AC for the body of a request: every context, each with its first transfer syntax."""
    answer = request[:68]
    for kind, value in items(request[68:]):
        if kind == _APPLICATION_CONTEXT:
            answer += _item(kind, value)
        elif kind == _PROPOSED_CONTEXT:
            first = next(syntax for kind, syntax in items(value[4:]) if kind == _TRANSFER_SYNTAX)
            answer += _item(0x21, value[:1] + bytes(3) + _item(_TRANSFER_SYNTAX, first))
    maximum = _item(_MAXIMUM_LENGTH, struct.pack(">L", _MAX_PDU))
    answer += _item(_USER_INFORMATION, maximum + _item(0x52, b"1.2.826.0.1.3680043.10.1"))
    return _PDU.pack(2, len(answer)) + answer


def elements(command: bytes) -> dict[int, bytes]:
    """Return the elements of a command set, which is Implicit VR Little Endian (PS3.7 6.3.1), by element number."""
    found = {}
    at = 0
    while at < len(command):
        _, element, length = struct.unpack_from("<HHL", command, at)
        found[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def success(command: bytes, context: int) -> bytes:
    """Return the P-DATA-TF with the C-STORE-RSP that answers a request with success (PS3.7 9.3.1.2)."""
    request = elements(command)
    values = {
        _CLASS_UID: request[_CLASS_UID],
        0x0100: struct.pack("<H", 0x8001),
        0x0120: request[_MESSAGE_ID],
        0x0800: struct.pack("<H", 0x0101),
        0x0900: struct.pack("<H", 0),
        _INSTANCE_UID: request[_INSTANCE_UID],
    }
    body = b"".join(struct.pack("<HHL", 0, element, len(value)) + value for element, value in values.items())
    body = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    return _PDU.pack(_P_DATA, len(body) + 6) + _PDV.pack(len(body) + 2, context, 3) + body


if __name__ == "__main__":
    with Sink(Path(sys.argv[1]) if len(sys.argv) > 1 else None, "--sha256" in sys.argv) as sink:
        print(sink.server_address[1], flush=True)
        sink.serve_forever()
