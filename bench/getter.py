"""A C-GET SCU that forgets what it gets, without even copying it, and answers each C-STORE with success.

`python -m bench.getter HOST PORT AE_TITLE SOP_CLASS STUDY_UID` prints how many instances came, and the bytes of their
data sets.
"""

import socket
import struct
import sys

from bench.sink import elements, fragments, items, success

_PDU = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")
_MAX_PDU = 131072
_STUDY_ROOT_GET = b"1.2.840.10008.5.1.4.1.2.2.3"
_IMPLICIT, _EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
_STORE_RQ, _GET_RSP = 0x0001, 0x8010
_PENDING = 0xFF00


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _context(number: int, abstract: bytes, transfer: bytes) -> bytes:
    return _item(0x20, bytes([number, 0, 0, 0]) + _item(0x30, abstract) + _item(0x40, transfer))


def associate_rq(called: bytes, sop_class: bytes) -> bytes:
    """Return the request for an association in which we are SCP of the storage class (PS3.7 D.3.3.4)."""
    role = struct.pack(">H", len(sop_class)) + sop_class + bytes([0, 1])
    user = _item(0x51, struct.pack(">L", _MAX_PDU)) + _item(0x52, b"1.2.826.0.1.3680043.10.1") + _item(0x54, role)
    body = struct.pack(">Hxx16s16s32x", 1, called.ljust(16), b"BENCH".ljust(16))
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    body += _context(1, _STUDY_ROOT_GET, _IMPLICIT) + _context(3, sop_class, _EXPLICIT) + _item(0x50, user)
    return _PDU.pack(1, len(body)) + body


def _data_set(values: dict[tuple[int, int], bytes]) -> bytes:
    padded = {tag: value + b"\0" * (len(value) % 2) for tag, value in values.items()}
    return b"".join(struct.pack("<HHL", *tag, len(value)) + value for tag, value in padded.items())


def get_rq(study_uid: bytes) -> bytes:
    """Return the P-DATA-TF with the request and its identifier (PS3.7 9.3.3.1)."""
    numbers = {0x0100: 0x0010, 0x0110: 1, 0x0700: 0, 0x0800: 0x0001}
    command = _data_set(
        {(0, 0x0002): _STUDY_ROOT_GET} | {(0, element): struct.pack("<H", value) for element, value in numbers.items()}
    )
    command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
    identifier = _data_set({(0x0008, 0x0052): b"STUDY ", (0x0020, 0x000D): study_uid})
    body = _PDV.pack(len(command) + 2, 1, 3) + command + _PDV.pack(len(identifier) + 2, 1, 2) + identifier
    return _PDU.pack(4, len(body)) + body


def get(host: str, port: int, called: bytes, sop_class: bytes, study_uid: bytes) -> tuple[int, int]:
    """Get a study; return how many instances came, and the bytes of their data sets."""
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(associate_rq(called, sop_class))
        kind, length = _head(connection)
        answer = connection.recv(length, socket.MSG_WAITALL)
        results = [value[2] for item, value in items(answer[68:]) if item == 0x21]
        if kind != 2 or results != [0, 0]:
            raise SystemExit(f"no association: PDU type {kind}, results {results}")
        connection.sendall(get_rq(study_uid))
        count = size = 0
        command = b""
        while True:
            kind, length = _head(connection)
            if kind != 4:
                raise SystemExit(f"PDU of type {kind} during the C-GET")
            for part, context, flags, bytes_of_data in fragments(connection, length):
                command += part
                size += bytes_of_data
                if not flags & 2:
                    continue
                if not flags & 1:
                    connection.sendall(success(command, context))
                    command = b""
                    count += 1
                elif (status := _status_of_get(command)) is not None:
                    command = b""
                    if status != _PENDING:
                        connection.sendall(_PDU.pack(5, 4) + bytes(4))
                        if status:
                            raise SystemExit(f"status {status:04X}")
                        return count, size


def _head(connection: socket.socket) -> tuple[int, int]:
    """Return type and length of the next PDU."""
    kind, length = _PDU.unpack(connection.recv(_PDU.size, socket.MSG_WAITALL))
    return int(kind), int(length)


def _status_of_get(command: bytes) -> int | None:
    """Return the status of a C-GET response; None for another message."""
    found = elements(command)
    (field,) = struct.unpack("<H", found[0x0100])
    if field == _STORE_RQ:
        return None
    if field != _GET_RSP:
        raise SystemExit(f"a message of type {field:04X}")
    return int(struct.unpack("<H", found[0x0900])[0])


if __name__ == "__main__":
    host, port, *texts = sys.argv[1:]
    print(*get(host, int(port), *(text.encode() for text in texts)))
