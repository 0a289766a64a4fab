"""A DICOM peer made of bytes: it can say everything that the programs never would, whole, in pieces or wrongly.

Nothing in here comes from the archive's own code, so that a mistake is not made twice.
"""

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from harness.dcmtk import Peer

VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
XA_IMAGE = "1.2.840.10008.5.1.4.1.1.12.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
COMMITMENT = "1.2.840.10008.1.20.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

RQ, AC, RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

Context = tuple[int, str, Sequence[str]]
"""Presentation Context ID, abstract syntax, transfer syntaxes."""


def item(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """Return an item or sub-item (PS3.8 9.3.2), with another length than its own if one is given."""
    return struct.pack(">BxH", kind, len(body) if length is None else length) + body


def pdu(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """Return a PDU, with another length than its own if one is given."""
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def context_item(context: Context) -> bytes:
    """Return a presentation context item (PS3.8 9.3.2.2)."""
    identifier, abstract, transfers = context
    syntaxes = item(0x30, abstract.encode()) + b"".join(item(0x40, uid.encode()) for uid in transfers)
    return item(0x20, bytes([identifier, 0, 0, 0]) + syntaxes)


def user_information(max_pdu: int | None = 16384, more: bytes = b"") -> bytes:
    """Return a user information item with further sub-items `more`."""
    longest = b"" if max_pdu is None else item(0x51, struct.pack(">L", max_pdu))
    return item(0x50, longest + item(0x52, b"1.2.3.4") + more)


def associate_rq(
    contexts: Iterable[Context],
    *,
    calling: bytes = b"RAWPEER",
    called: bytes = b"ANGIOVAULT",
    information: bytes | None = None,
    version: int = 1,
    application_context: str = "1.2.840.10008.3.1.1.1",
    more: bytes = b"",
) -> bytes:
    """Return an A-ASSOCIATE-RQ; the AE titles are padded with blanks, `more` are further items."""
    fixed = struct.pack(">Hxx", version) + called.ljust(16)[:16] + calling.ljust(16)[:16] + bytes(32)
    items = item(0x10, application_context.encode()) + b"".join(map(context_item, contexts)) + more
    return pdu(RQ, fixed + items + (user_information() if information is None else information))


def command_set(elements: Mapping[int, int | str | bytes], *, group_length: int | None = None) -> bytes:
    """Return a command set of elements (0000,eeee): numbers are US, text is padded to even length with NUL."""
    body = b""
    for element, value in elements.items():
        raw = struct.pack("<H", value) if isinstance(value, int) else value
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        raw += b"\0" * (len(raw) % 2)
        body += struct.pack("<HHL", 0, element, len(raw)) + raw
    return struct.pack("<HHLL", 0, 0, 4, len(body) if group_length is None else group_length) + body


def store_rq(sop_class: str, uid: str, *, message_id: int = 1) -> bytes:
    """Return the command set of a C-STORE request."""
    return command_set({0x0002: sop_class, 0x0100: 0x0001, 0x0110: message_id, 0x0700: 0, 0x0800: 0, 0x1000: uid})


def echo_rq(message_id: int = 1) -> bytes:
    """Return the command set of a C-ECHO request."""
    return command_set({0x0002: VERIFICATION, 0x0100: 0x0030, 0x0110: message_id, 0x0800: 0x0101})


def pdv(
    context_id: int, fragment: bytes, *, command: bool = False, last: bool = True, length: int | None = None
) -> bytes:
    """Return a presentation data value item (PS3.8 9.3.5.1), with another length than its own if one is given."""
    size = len(fragment) + 2 if length is None else length
    return struct.pack(">LBB", size, context_id, command | 2 * last) + fragment


def element(tag: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    """Return an element in Explicit VR Little Endian, with another length than its own if one is given."""
    value += (b" " if vr not in (b"UI", b"OB", b"OW") else b"\0") * (len(value) % 2)
    size = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sxxL", tag >> 16, tag & 0xFFFF, vr, size) + value
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, size) + value


def data_set(
    uid: str, *, sop_class: str = CT_IMAGE, study: str = "1.2.3", series: str = "1.2.3.4", pixels: bytes = b"\1\2\3\4"
) -> bytes:
    """Return a small image in Explicit VR Little Endian; an empty study or series UID is left out."""
    parts = [
        element(0x00080016, b"UI", sop_class.encode()),
        element(0x00080018, b"UI", uid.encode("latin-1")),
        element(0x00080060, b"CS", b"CT"),
        element(0x00100010, b"PN", b"RAW^PEER"),
        element(0x00100020, b"LO", b"RAW1"),
    ]
    if study:
        parts.append(element(0x0020000D, b"UI", study.encode("latin-1")))
    if series:
        parts.append(element(0x0020000E, b"UI", series.encode("latin-1")))
    return b"".join(parts) + element(0x7FE00010, b"OW", pixels)


class Closed(Exception):
    """The other side closed the connection."""


class RawPeer:
    """A connection on which anything may be said; a context manager."""

    def __init__(self, peer: Peer, *, timeout: float = 20, connection: socket.socket | None = None) -> None:
        self.socket = connection or socket.create_connection((peer.host, peer.port), timeout)
        self.socket.settimeout(timeout)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.max_pdu = 16384
        self._contexts: dict[str, int] = {}
        self._pdvs: list[tuple[int, int, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, encoded: bytes) -> None:
        self.socket.sendall(encoded)

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            try:
                more = self.socket.recv(count - len(got))
            except ConnectionResetError:
                raise Closed from None
            if not more:
                raise Closed
            got += more
        return got

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; `Closed` at the end."""
        kind, length = struct.unpack(">BxL", self._exactly(6))
        return kind, self._exactly(length)

    def ending(self) -> int | None:
        """Read on to the end of the connection; return the type of the last PDU, None when there was none."""
        last = None
        while True:
            try:
                last, _ = self.receive()
            except Closed:
                return last

    def associate(
        self, contexts: Iterable[tuple[str, Sequence[str]]] = (), **parameters: object
    ) -> dict[int, tuple[int, str]]:
        """Ask for an association; return result and transfer syntax by Presentation Context ID.

        Without contexts those for C-ECHO and for CT images in Explicit VR Little Endian. AssertionError if rejected.
        """
        chosen = list(contexts) or [(VERIFICATION, [IMPLICIT]), (CT_IMAGE, [EXPLICIT])]
        numbered = [(2 * number + 1, *pair) for number, pair in enumerate(chosen)]
        self.send(associate_rq(numbered, **parameters))  # type: ignore[arg-type]
        kind, body = self.receive()
        assert kind == AC, f"PDU type {kind}: {body!r}"
        return self.take_accept(body, numbered)

    def take_accept(self, body: bytes, proposed: Iterable[Context]) -> dict[int, tuple[int, str]]:
        """Read an A-ASSOCIATE-AC."""
        answers: dict[int, tuple[int, str]] = {}
        for kind, content in items(body[68:]):
            if kind == 0x21:
                answers[content[0]] = content[2], content[8:].decode()
            elif kind == 0x50:
                self.max_pdu = struct.unpack(">L", dict(items(content))[0x51])[0]
        for identifier, abstract, _ in proposed:
            if answers[identifier][0] == 0:
                self._contexts.setdefault(abstract, identifier)
        return answers

    def context(self, abstract: str) -> int:
        """Return the ID of the accepted context of a class."""
        return self._contexts[abstract]

    def message(self, context_id: int, command: bytes, data: bytes | None = None) -> None:
        """Send a message in as few PDUs as the other side allows."""
        self.send(pdu(DATA, pdv(context_id, command, command=True)))
        if data is not None:
            size = (self.max_pdu or 65536) - 6
            for start in range(0, len(data) or 1, size):
                self.send(pdu(DATA, pdv(context_id, data[start : start + size], last=start + size >= len(data))))

    def response(self) -> dict[int, int | bytes]:
        """Read a response and return its command set by element number; a data set that follows is read too."""
        command = self._part(1)
        found: dict[int, int | bytes] = {}
        offset = 0
        while offset < len(command):
            _, number, length = struct.unpack_from("<HHL", command, offset)
            value = command[offset + 8 : offset + 8 + length]
            found[number] = struct.unpack("<H", value)[0] if length == 2 and number < 0x1000 and number > 3 else value
            offset += 8 + length
        if found[0x0800] != 0x0101:
            self._part(0)
        return found

    def _part(self, flag: int) -> bytes:
        part = b""
        while True:
            if not self._pdvs:
                kind, body = self.receive()
                if kind != DATA:
                    raise AssertionError(f"PDU of type {kind} instead of a response: {body!r}")
                self._pdvs = list(pdvs(body))
            _, flags, fragment = self._pdvs.pop(0)
            assert flags & 1 == flag
            part += fragment
            if flags & 2:
                return part

    def status(self) -> int:
        """Read a response and return its status."""
        status = self.response()[0x0900]
        assert isinstance(status, int)
        return status

    def echo(self) -> int:
        """Send a C-ECHO and return the status."""
        self.message(self.context(VERIFICATION), echo_rq())
        return self.status()

    def store(self, uid: str, data: bytes, *, sop_class: str = CT_IMAGE) -> int:
        """Send a C-STORE and return the status."""
        self.message(self.context(sop_class), store_rq(sop_class, uid), data)
        return self.status()

    def release(self) -> None:
        """Release; the answer must come, and then the end."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        assert self.ending() == RELEASE_RP


def items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of the items in `encoded`."""
    while encoded:
        kind, length = struct.unpack_from(">BxH", encoded)
        yield kind, encoded[4 : 4 + length]
        encoded = encoded[4 + length :]


def pdvs(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield context ID, flags and fragment of the PDVs in the body of a P-DATA-TF."""
    while body:
        length, context, flags = struct.unpack_from(">LBB", body)
        yield context, flags, body[6 : 4 + length]
        body = body[4 + length :]
