"""The wire: PDUs in pieces, packed in every way, and broken; pynetdicom encodes and decodes on the other side."""

import array
import contextlib
import fcntl
import io
import itertools
import random
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from pynetdicom import pdu as pdus
from pynetdicom import pdu_primitives as primitives
from pynetdicom.presentation import PresentationContext

from angiovault.dimse.endings import (
    Aborted,
    AssociationEnded,
    ConnectionLost,
    Interrupted,
    ProtocolError,
    Released,
    TimedOut,
)
from angiovault.dimse.messages import Message, read_message
from angiovault.dimse.wire import LONGEST_ASSOCIATE, PDU_OVERRUN, Wire
from harness.upper_layer import DATA, echo_rq, pdu, pdv, pdvs, store_rq

ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 2])  # by the service provider; the reason follows


def in_views(message: Message) -> bytes:
    return message.data(1 << 20)


def in_memory_of_its_own(message: Message) -> bytes:
    """Read a data set into rooms of many sizes."""
    chance = random.Random(0)
    got = bytearray()
    room = bytearray(200_000)

    def filled(count: int) -> None:
        got.extend(room[:count])

    message.read_into(lambda: memoryview(room)[: chance.choice((1, 7, 40_000, len(room)))], filled)
    return bytes(got)


WAYS = {"in views": in_views, "in memory of its own": in_memory_of_its_own}
Way = Callable[[Message], bytes]


@pytest.fixture(params=WAYS)
def whole(request: pytest.FixtureRequest) -> Way:
    """How a data set is read."""
    return WAYS[request.param]


class Line:
    """A wire and the other end of its connection."""

    def __init__(self, max_pdu: int = 16384, network_timeout: float = 10) -> None:
        near, self.far = socket.socketpair()
        self.far.settimeout(20)
        self.wire = Wire(near, max_pdu, network_timeout)

    def received(self) -> bytes:
        """Return what the other side gets until the connection ends."""
        got = b""
        while more := self.far.recv(1 << 16):
            got += more
        return got

    def send_in_pieces(self, *pieces: bytes) -> threading.Thread:
        """Send each piece when what went before has been read."""

        def send() -> None:
            for piece in pieces:
                while unread(self.wire.connection.fileno()):
                    time.sleep(0.0001)
                self.far.sendall(piece)

        thread = threading.Thread(target=send)
        thread.start()
        return thread

    def close(self) -> None:
        self.wire.close()
        self.far.close()


def unread(descriptor: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@pytest.fixture
def lines() -> Iterator[Callable[..., Line]]:
    made: list[Line] = []

    def make(**parameters: float) -> Line:
        made.append(Line(**parameters))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def associate_primitive() -> primitives.A_ASSOCIATE:
    primitive = primitives.A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title = "CALLING"
    primitive.called_ae_title = "CALLED"
    maximum = primitives.MaximumLengthNotification()
    maximum.maximum_length_received = 16384
    implementation = primitives.ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [maximum, implementation]
    context = PresentationContext()
    context.context_id, context.abstract_syntax, context.transfer_syntax = 1, "1.2.840.10008.1.1", ["1.2.840.10008.1.2"]
    context.result = 0
    primitive.presentation_context_definition_list = [context]
    primitive.presentation_context_definition_results_list = [context]
    return primitive


def encoded_by_pynetdicom() -> dict[str, bytes]:
    """One PDU of every type but P-DATA-TF, made by pynetdicom."""
    accepted, rejected = associate_primitive(), associate_primitive()
    accepted.result = 0
    rejected.result, rejected.result_source, rejected.diagnostic = 1, 1, 3
    made = {
        "A-ASSOCIATE-RQ": pdus.A_ASSOCIATE_RQ(associate_primitive()),
        "A-ASSOCIATE-AC": pdus.A_ASSOCIATE_AC(accepted),
        "A-ASSOCIATE-RJ": pdus.A_ASSOCIATE_RJ(rejected),
        "A-RELEASE-RQ": pdus.A_RELEASE_RQ(),
        "A-RELEASE-RP": pdus.A_RELEASE_RP(),
    }
    abort = primitives.A_ABORT()
    abort.abort_source = 0
    made["A-ABORT"] = pdus.A_ABORT_RQ(abort)
    return {name: each.encode() for name, each in made.items()}


@pytest.mark.parametrize("name", encoded_by_pynetdicom())
def test_a_pdu_cut_at_any_byte_is_read_whole(line: Line, name: str) -> None:
    encoded = encoded_by_pynetdicom()[name]
    for cut in range(1, len(encoded)):
        sending = line.send_in_pieces(encoded[:cut], encoded[cut:])
        assert line.wire.read_pdu() == (encoded[0], encoded)
        sending.join()


def p_data(*values: tuple[int, bool, bool, bytes]) -> bytes:
    """Encode (context, is command, is last, fragment) by pynetdicom."""
    primitive = primitives.P_DATA()
    primitive.presentation_data_value_list = [
        [context, bytes([command | 2 * last]) + fragment] for context, command, last, fragment in values
    ]
    return bytes(pdus.P_DATA_TF(primitive).encode())


def test_a_message_cut_at_any_byte_is_read_whole(line: Line, whole: Way) -> None:
    body = bytes(range(40))
    encoded = (
        p_data((3, True, True, echo_rq(7)))
        + p_data((3, True, True, store_rq("1.2", "1.2.3")))
        + p_data((3, False, False, body[:13]), (3, False, True, body[13:]))
    )
    for cut in range(1, len(encoded)):
        sending = line.send_in_pieces(encoded[:cut], encoded[cut:])
        echo = read_message(line.wire, 10)
        store = read_message(line.wire, 10)
        assert (echo.context_id, echo.command.message_id, echo.data(0)) == (3, 7, b"")
        assert whole(store) == body
        sending.join()


def test_a_message_in_single_bytes(line: Line, whole: Way) -> None:
    encoded = p_data((1, True, True, store_rq("1.2", "1.2.3"))) + p_data((1, False, True, b"abcdef"))
    sending = line.send_in_pieces(*(bytes([byte]) for byte in encoded))
    assert whole(read_message(line.wire, 10)) == b"abcdef"
    sending.join()


def packed_at_random(context: int, command: bytes, data: bytes, chance: random.Random, longest: int) -> bytes:
    """Return a message whose PDVs have any length, several or one to a PDU, the command sharing one with the data."""
    values = []
    for is_command, part in ((True, command), (False, data)):
        start = 0
        while True:
            size = min(chance.choice((0, 1, 2, 3, 50, 1000, longest)), longest - 6)
            values.append(pdv(context, part[start : start + size], command=is_command, last=start + size >= len(part)))
            start += size
            if start >= len(part):
                break
    encoded, body = b"", b""
    for value in values:
        if body and (len(body) + len(value) > longest or chance.random() < 0.3):
            encoded += pdu(DATA, body)
            body = b""
        body += value
    return encoded + pdu(DATA, body)


@pytest.mark.parametrize("seed", range(30))
def test_messages_packed_in_any_way_are_read_whole(lines: Callable[..., Line], seed: int, whole: Way) -> None:
    chance = random.Random(seed)
    longest = chance.choice((64, 4096, 131072))
    line = lines(max_pdu=longest)
    sent = [
        (chance.choice((1, 3)), chance.randbytes(chance.choice((0, 1, 7, 600, 5000 if longest == 64 else 700_000))))
        for _ in range(8)
    ]
    encoded = b"".join(packed_at_random(c, store_rq("1.2", "1.2.3"), data, chance, longest) for c, data in sent)
    sending = threading.Thread(target=line.far.sendall, args=(encoded,))
    sending.start()
    for context, data in sent:
        message = read_message(line.wire, 10)
        assert message.context_id == context
        assert whole(message) == data
    sending.join()


@pytest.mark.parametrize("seed", range(10))
def test_large_fragments_cut_anywhere_are_read_whole(lines: Callable[..., Line], seed: int, whole: Way) -> None:
    chance = random.Random(seed)
    line = lines(max_pdu=131072)
    data = chance.randbytes(900_000)
    size = chance.choice((131066, 40_000, 32_768))
    pieces = [(start, data[start : start + size]) for start in range(0, len(data), size)]
    body = b"".join(pdu(DATA, pdv(1, part, last=start + size >= len(data))) for start, part in pieces)
    encoded = p_data((1, True, True, store_rq("1.2", "1.2.3"))) + body + p_data((1, True, True, echo_rq(9)))
    cuts = sorted(chance.sample(range(1, len(encoded)), 30))
    cuts += [at + extra for at in range(len(encoded) - len(body), len(encoded), size + 12) for extra in (3, 6, 9)]
    bounds = [0, *sorted({cut for cut in cuts if cut < len(encoded)}), len(encoded)]
    sending = line.send_in_pieces(*(encoded[start:stop] for start, stop in itertools.pairwise(bounds)))
    assert whole(read_message(line.wire, 10)) == data
    assert read_message(line.wire, 10).command.message_id == 9
    sending.join()


def test_what_has_come_is_read_by_few_calls(lines: Callable[..., Line], monkeypatch: pytest.MonkeyPatch) -> None:
    line = lines(max_pdu=131072)
    data = random.Random(0).randbytes(1_000_000)
    parts = [data[start : start + 50_000] for start in range(0, len(data), 50_000)]
    body = b"".join(pdu(DATA, pdv(1, part, last=part is parts[-1])) for part in parts)
    come = io.BytesIO(COMMAND + body)
    asked: list[int] = []

    def count(buffer: memoryview, all_of_it: bool = False) -> int:
        asked.append(len(buffer))
        return come.readinto(buffer)

    monkeypatch.setattr(line.wire.connection, "recv_into", count)
    room, got = bytearray(150_000), bytearray()
    message = read_message(line.wire, 10)
    message.read_into(lambda: memoryview(room), lambda count: got.extend(room[:count]))
    assert got == data
    assert len(asked) <= len(parts) + 2, asked


def test_what_a_service_leaves_unread_is_drained(line: Line) -> None:
    line.far.sendall(p_data((1, True, True, store_rq("1.2", "1.2.3"))))
    line.far.sendall(p_data((1, False, False, b"first")) + p_data((1, False, True, b"second")))
    line.far.sendall(p_data((1, True, True, echo_rq(9))))
    message = read_message(line.wire, 10)
    assert bytes(next(message.fragments())) == b"first"
    message.drain()
    assert read_message(line.wire, 10).command.message_id == 9


def test_what_is_left_when_taking_fails_is_drained(lines: Callable[..., Line]) -> None:
    line = lines(max_pdu=131072)
    body = pdu(DATA, pdv(1, bytes(131066), last=False)) + pdu(DATA, pdv(1, bytes(100_000)))
    encoded = COMMAND + body + p_data((1, True, True, echo_rq(9)))
    sending = threading.Thread(target=line.far.sendall, args=(encoded,))
    sending.start()
    message = read_message(line.wire, 10)
    room = memoryview(bytearray(50_000))

    def full(_: int) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        message.read_into(lambda: room, full)
    message.drain()
    assert read_message(line.wire, 10).command.message_id == 9
    sending.join()


def test_memory_of_an_idle_wire_is_small_and_of_a_busy_one_bounded(lines: Callable[..., Line]) -> None:
    line = lines(max_pdu=1 << 20)
    assert len(line.wire._buffer) <= 16384
    body = bytes(1_000_000)
    encoded = p_data((1, True, True, store_rq("1.2", "1.2.3"))) + pdu(DATA, pdv(1, body))
    sending = threading.Thread(target=line.far.sendall, args=(encoded,))
    sending.start()
    assert sum(len(view) for view in read_message(line.wire, 10).fragments()) == len(body)
    sending.join()
    assert len(line.wire._buffer) <= 1 << 16


COMMAND = pdu(DATA, pdv(1, store_rq("1.2", "1.2.3"), command=True))
BROKEN = {
    "a PDU without a PDV": (pdu(DATA, b""), "holds no PDV", 6),
    "a PDU too short for a PDV": (pdu(DATA, b"\0\0\0\4\1"), "holds no PDV", 6),
    "a PDU longer than agreed": (pdu(DATA, b"", length=16384 + PDU_OVERRUN + 1), "16384 were agreed", 6),
    "a PDU without end": (pdu(DATA, b"", length=0xFFFFFFFF), "were agreed", 6),
    "a PDV of length 0": (pdu(DATA, pdv(1, b"abcd", length=0)), "PDV of 0 bytes", 6),
    "a PDV of length 1": (pdu(DATA, pdv(1, b"abcd", length=1)), "PDV of 1 bytes", 6),
    "a PDV longer than its PDU": (pdu(DATA, pdv(1, b"abcd", length=7)), "does not fit", 6),
    "a PDV without end": (pdu(DATA, pdv(1, b"abcd", length=0xFFFFFFFF)), "does not fit", 6),
    "bytes behind the last PDV": (pdu(DATA, pdv(1, b"ab", last=False) + b"\0\0\0"), "3 bytes that are no PDV", 6),
    "a command in the data set": (COMMAND, "command where a data set is due", 2),
    "another context in the data set": (pdu(DATA, pdv(3, b"ab")), "context 3 within a message of 1", 6),
    "a release in the data set": (pdu(5, bytes(4)), "A-RELEASE-RQ in the middle", 2),
    "a release response": (pdu(6, bytes(4)), "nobody asked for", 2),
    "a release of wrong length": (pdu(5, bytes(6)), "length 6 instead of 4", 6),
    "an association request": (pdu(1, bytes(68)), "type 1 within an association", 2),
    "an unknown PDU": (pdu(8, bytes(4)), "not a DICOM PDU", 1),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "this is HTTP", 1),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", "this is TLS", 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_data_set_ends_the_association(line: Line, name: str, whole: Way) -> None:
    encoded, words, reason = BROKEN[name]
    line.far.sendall(COMMAND + pdu(DATA, pdv(1, b"begun", last=False)) + encoded)
    message = read_message(line.wire, 10)
    with pytest.raises(ProtocolError, match=words) as caught:
        whole(message)
    assert caught.value.reason == reason
    ending = threading.Thread(target=line.wire.abort, args=(caught.value.reason,))
    ending.start()
    assert line.received() == ABORT + bytes([reason])
    line.far.close()
    ending.join()


def test_a_data_set_without_a_command_is_refused(line: Line) -> None:
    line.far.sendall(pdu(DATA, pdv(1, b"ab")))
    with pytest.raises(ProtocolError, match="data set where a command is due"):
        read_message(line.wire, 10)


def test_a_command_without_end_is_refused_in_bounded_memory(line: Line) -> None:
    sending = threading.Thread(
        target=line.far.sendall, args=(pdu(DATA, pdv(1, bytes(9000), command=True, last=False)) * 8,)
    )
    sending.start()
    with pytest.raises(ProtocolError, match="command set without end"):
        read_message(line.wire, 10)
    sending.join()


def test_a_data_set_longer_than_its_service_needs_is_refused(line: Line) -> None:
    line.far.sendall(COMMAND + pdu(DATA, pdv(1, bytes(11))))
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        read_message(line.wire, 10).data(10)


def test_a_release_between_messages_is_answered(line: Line) -> None:
    line.far.sendall(encoded_by_pynetdicom()["A-RELEASE-RQ"])
    with pytest.raises(Released):
        read_message(line.wire, 10)
    line.wire.close()
    assert line.received() == encoded_by_pynetdicom()["A-RELEASE-RP"]


def test_an_abort_says_by_whom(line: Line) -> None:
    line.far.sendall(pdu(7, bytes([0, 0, 2, 6])))
    with pytest.raises(Aborted, match="source 2, reason 6"):
        read_message(line.wire, 10)


@pytest.mark.parametrize("length", [LONGEST_ASSOCIATE + 1, 0xFFFFFFFF])
def test_an_association_request_that_is_too_long_is_refused_before_it_is_read(line: Line, length: int) -> None:
    line.far.sendall(pdu(1, b"", length=length))
    with pytest.raises(ProtocolError, match=f"{length} bytes long"):
        line.wire.read_pdu()


def test_silence_between_messages_ends_at_the_time_out_that_was_asked_for(line: Line) -> None:
    with pytest.raises(TimedOut, match=r"nothing came within 0\.05 s"):
        read_message(line.wire, 0.05)


@pytest.mark.parametrize("cut", [1, 5, 6, 11, 13, 80, len(COMMAND) + 12, -1])
def test_a_pdu_that_stops_half_way_ends_at_the_network_time_out(
    lines: Callable[..., Line], cut: int, whole: Way
) -> None:
    line = lines(max_pdu=131072, network_timeout=0.05)
    line.far.sendall((COMMAND + pdu(DATA, pdv(1, bytes(100_000))))[:cut])
    with pytest.raises(TimedOut, match=r"not arrive whole within 0\.05 s"):
        whole(read_message(line.wire, 10))


def test_an_abort_between_large_fragments_is_seen_at_once(lines: Callable[..., Line], whole: Way) -> None:
    line = lines(max_pdu=131072)
    line.far.sendall(COMMAND + pdu(DATA, pdv(1, bytes(100_000), last=False)) + pdu(7, bytes((0, 0, 0, 0))))
    with pytest.raises(Aborted):
        whole(read_message(line.wire, 10))


def test_a_pdu_that_trickles_has_no_longer_than_one_that_stops(lines: Callable[..., Line]) -> None:
    line = lines(network_timeout=0.3)
    over = threading.Event()

    def trickle() -> None:
        for byte in itertools.cycle(pdu(1, bytes(200))):
            if over.wait(0.02):
                return
            line.far.send(bytes([byte]))

    sending = threading.Thread(target=trickle)
    sending.start()
    try:
        with pytest.raises(TimedOut, match="not arrive whole"):
            line.wire.read_pdu()
    finally:
        over.set()
        sending.join()


def test_a_closed_connection_is_told_from_silence(line: Line) -> None:
    line.far.close()
    with pytest.raises(ConnectionLost, match="closed by the peer"):
        read_message(line.wire, 10)


# ---- sending


def file_of(folder: Path, content: bytes, position: int = 0) -> BinaryIO:
    """Return an open file, at a position."""
    path = folder / "file"
    path.write_bytes(content)
    file = path.open("rb")
    file.seek(position)
    return file


@pytest.mark.parametrize("peer_max_pdu", [0, 16, 17, 20, 100, 4096, 4_000_000_000])
@pytest.mark.parametrize("size", [0, 1, 10, 11, 4090, 300_001])
@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_what_is_sent_fits_what_the_peer_takes(
    line: Line, peer_max_pdu: int, size: int, kind: str, tmp_path: Path
) -> None:
    line.wire.peer_max_pdu = peer_max_pdu
    body = random.Random(size).randbytes(size)
    command = store_rq("1.2", "1.2.3")
    data = body if kind == "bytes" else file_of(tmp_path, b"head" + body, 4)

    def send() -> None:
        line.wire.send_message(5, command, data, size)
        line.wire.close()

    sending = threading.Thread(target=send)
    sending.start()
    parts = {1: b"", 0: b""}
    ended = []
    stream = io.BytesIO(line.received())
    sending.join()
    while header := stream.read(6):
        kind_of_pdu, length = struct.unpack(">BxL", header)
        assert kind_of_pdu == DATA
        assert not peer_max_pdu or length <= peer_max_pdu
        encoded = header + stream.read(length)
        decoded = pdus.P_DATA_TF()
        decoded.decode(encoded)
        assert decoded.encode() == encoded
        for context, flags, fragment in pdvs(encoded[6:]):
            assert context == 5
            assert not ended or flags & 1 == 0
            parts[flags & 1] += fragment
            if flags & 2:
                ended.append(flags & 1)
            else:
                assert fragment
                assert len(fragment) % 2 == 0
    assert ended == [1, 0]
    assert parts == {1: command, 0: body}


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_file_that_ends_early_is_an_error_and_never_a_shorter_data_set(line: Line, size: int, tmp_path: Path) -> None:
    line.wire.peer_max_pdu = 131_072
    sending = threading.Thread(target=line.received)
    sending.start()
    with pytest.raises(OSError, match="ends 100 bytes early"):
        line.wire.send_message(1, echo_rq(), file_of(tmp_path, bytes(size - 100)), size)
    line.wire.close()
    sending.join()


def filled(line: Line) -> Line:
    """Make the other side deaf: what more is sent has no room on the way."""
    line.wire.connection.settimeout(0.01)
    with contextlib.suppress(TimeoutError):
        while True:
            line.wire.connection.sendall(bytes(1 << 16))
    return line


def test_a_peer_that_takes_nothing_ends_the_association(lines: Callable[..., Line]) -> None:
    line = filled(lines(network_timeout=0.05))
    with pytest.raises(TimedOut, match=r"took nothing within 0\.05 s"):
        line.wire.send(bytes(10))


def test_an_abort_does_not_wait_for_a_peer_that_takes_nothing(lines: Callable[..., Line]) -> None:
    line = filled(lines(network_timeout=3600))
    ending = threading.Thread(target=line.wire.abort, daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()


def test_the_abort_arrives_though_much_was_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
        wire = Wire(near, 16384, 10)
        sent = bytes([1, 0, 0xFF, 0xFF, 0xFF, 0xFF]) + bytes(1 << 17)
        far.sendall(sent)
        with pytest.raises(ProtocolError) as caught:
            wire.read_pdu()
        ending = threading.Thread(target=wire.abort, args=(caught.value.reason,))
        ending.start()
        far.settimeout(20)
        got = b""
        while more := far.recv(100):
            got += more
        far.close()
        ending.join()
        assert got == ABORT + b"\6"


def test_another_thread_may_end_the_association(line: Line) -> None:
    caught: list[AssociationEnded] = []

    def serve() -> None:
        try:
            read_message(line.wire, 60)
        except AssociationEnded as end:
            caught.append(end)
            line.wire.close()

    serving = threading.Thread(target=serve)
    serving.start()
    line.wire.interrupt("because")
    assert line.received() == ABORT + b"\0"
    serving.join(20)
    assert [(type(end), str(end)) for end in caught] == [(Interrupted, "because")]


def test_another_thread_may_end_the_association_while_something_is_sent(lines: Callable[..., Line]) -> None:
    line = filled(lines(network_timeout=60))
    caught: list[AssociationEnded] = []

    def send() -> None:
        try:
            line.wire.send(bytes(1 << 20))
        except AssociationEnded as end:
            caught.append(end)

    sending = threading.Thread(target=send)
    sending.start()
    while not line.wire._send_lock.locked():
        time.sleep(0.001)
    line.wire.interrupt("because")
    sending.join(20)
    assert [type(end) for end in caught] == [Interrupted]


# ---- release


def release(line: Line, *answers: bytes, timeout: float = 10) -> bytes:
    line.far.sendall(b"".join(answers))
    line.wire.request_release(timeout)
    return line.received()


def test_a_release_is_asked_for_and_answered(line: Line) -> None:
    encoded = encoded_by_pynetdicom()
    assert release(line, encoded["A-RELEASE-RP"]) == encoded["A-RELEASE-RQ"]


def test_a_late_response_comes_before_the_release(line: Line) -> None:
    encoded = encoded_by_pynetdicom()
    assert release(line, p_data((1, True, True, echo_rq())), encoded["A-RELEASE-RP"]) == encoded["A-RELEASE-RQ"]


def test_both_sides_ask_for_release(line: Line) -> None:
    encoded = encoded_by_pynetdicom()
    said = release(line, encoded["A-RELEASE-RQ"], encoded["A-RELEASE-RP"])
    assert said == encoded["A-RELEASE-RQ"] + encoded["A-RELEASE-RP"]


def test_a_release_that_nobody_answers_ends_in_time(line: Line) -> None:
    with pytest.raises(TimedOut):
        release(line, p_data((1, True, True, echo_rq())), timeout=0.05)


def test_readable_sees_what_has_come(line: Line) -> None:
    assert not line.wire.readable()
    line.far.sendall(COMMAND)
    assert line.wire.readable()
    message = read_message(line.wire, 10)
    assert isinstance(message, Message)
    assert not line.wire.readable()


def test_held_messages_leave_together_and_before_what_comes_next(line: Line) -> None:
    held = pdu(DATA, pdv(1, b"command", command=True)) + pdu(DATA, pdv(1, b"data"))
    for _ in range(3):
        line.wire.send_message(1, b"command", b"data", hold=True)
    assert unread(line.far.fileno()) == 0
    line.wire.flush()
    assert line.far.recv(1 << 16) == held * 3
    line.wire.send_message(1, b"command", b"data", hold=True)
    line.wire.send_message(1, b"last")
    assert line.far.recv(1 << 16) == held + pdu(DATA, pdv(1, b"last", command=True))
    line.wire.flush()
    assert unread(line.far.fileno()) == 0


def test_repeated_messages_are_held_ones_with_one_command_set(lines: Callable[..., Line]) -> None:
    data = [b"", b"data", bytes(range(250)) * 4, b"last"]
    sent = []
    for repeated in (True, False):
        line = lines()
        line.wire.peer_max_pdu = 100  # in many fragments
        send = line.wire.repeated(3, b"command" * 20)
        for one in data:
            if repeated:
                send(one)
            else:
                line.wire.send_message(3, b"command" * 20, one, hold=True)
        assert unread(line.far.fileno()) == 0
        line.wire.flush()
        line.wire.close()
        sent.append(line.received())
    assert sent[0] == sent[1] != b""


def test_repeated_messages_leave_by_themselves_when_they_are_many(lines: Callable[..., Line]) -> None:
    line = lines()
    send = line.wire.repeated(1, b"command")
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(line.received)
        for _ in range(600):
            send(bytes(1000))
        line.wire.close()
    assert 300_000 < len(got.result()) < 600_000
