"""The archive as requestor: how associations are opened and ended, what is proposed, and how results are counted."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import pairwise

import pytest
from pydicom.filereader import read_dataset

from angiovault.archive.finding.matching import Key
from angiovault.archive.finding.selection import Selection
from angiovault.devices import Device
from angiovault.dimse import messages, scu
from angiovault.dimse.endings import AssociationEnded, CannotAssociate, ProtocolError, TimedOut
from angiovault.dimse.negotiation import ProposedContext
from angiovault.dimse.query import Identifier, IdentifierError
from angiovault.dimse.retrieve import Progress, encode_failed_list, selection_of
from angiovault.dimse.scu import Destination, Limits, storage_contexts
from harness.processes import free_port
from harness.upper_layer import (
    ABORT,
    AC,
    DATA,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    command_set,
    item,
    pdu,
    pdv,
    user_information,
)

EXPLICIT, IMPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"
VERIFICATION, CT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2"
LIMITS = Limits("ANGIOVAULT", network_timeout=2)
CONTEXTS = [ProposedContext(1, CT, (EXPLICIT,)), ProposedContext(3, CT, (IMPLICIT,))]
_ACCEPTED, _REFUSED = 0, 3


class Peer(threading.Thread):
    """An acceptor that follows a script on one connection; what it reads and says are whole PDUs."""

    def __init__(self, script: Callable[["Peer"], None]) -> None:
        super().__init__(daemon=True)
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.destination = Destination("PEER", "127.0.0.1", self._listener.getsockname()[1])
        self.heard: list[tuple[int, bytes]] = []

    def run(self) -> None:
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(10)
        with self._listener, self._connection:
            self._script(self)

    def read(self) -> tuple[int, bytes]:
        """Read the next PDU: type and what follows its header; type 0 when the connection is closed."""
        header = self._read(6)
        kind, length = struct.unpack(">BxL", header) if header else (0, 0)
        self.heard.append((kind, self._read(length)))
        return self.heard[-1]

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._connection.recv(length - len(data))
            if not part:
                return b""
            data += part
        return data

    def say(self, encoded: bytes) -> None:
        self._connection.sendall(encoded)

    def accept(self, *results: int, max_pdu: int = 16384, syntaxes: Sequence[str] = (EXPLICIT, IMPLICIT)) -> None:
        """Answer the association request: result and transfer syntax of each context, 1, 3 and so on."""
        self.read()
        contexts = b"".join(
            item(0x21, bytes([2 * number + 1, 0, result, 0]) + item(0x40, syntaxes[number].encode()))
            for number, result in enumerate(results)
        )
        fixed = struct.pack(">Hxx", 1) + b"PEER".ljust(16) + b"ANGIOVAULT".ljust(16) + bytes(32)
        application_context = item(0x10, b"1.2.840.10008.3.1.1.1")
        self.say(pdu(AC, fixed + application_context + contexts + user_information(max_pdu)))


@pytest.fixture
def peer() -> Iterator[Callable[[Callable[[Peer], None]], Peer]]:
    """Start an acceptor with a script; its thread must have come to the script's end when the test is over."""
    peers: list[Peer] = []

    def start(script: Callable[[Peer], None]) -> Peer:
        peers.append(Peer(script))
        peers[-1].start()
        return peers[-1]

    yield start
    for one in peers:
        one.join(10)
        assert not one.is_alive()


# ---- opening


def test_an_association_is_opened_and_released(peer: Callable[..., Peer]) -> None:
    def script(it: Peer) -> None:
        it.accept(_ACCEPTED, _REFUSED, max_pdu=0)
        assert it.read()[0] == RELEASE_RQ
        it.say(pdu(RELEASE_RP, bytes(4)))
        assert it.read()[0] == 0

    one = peer(script)
    with scu.associate(one.destination, CONTEXTS, LIMITS) as association:
        assert [context.transfer_syntax for context in association.contexts.values()] == [EXPLICIT]
        assert association.wire.peer_max_pdu == 0
        assert str(association) == "PEER@127.0.0.1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (pdu(RJ, bytes([0, 1, 1, 3])), r"rejected for good: calling AE title not recognised \(1/1/3\)"),
        (pdu(RJ, bytes([0, 2, 3, 2])), "rejected for now: local limit exceeded"),
        (pdu(ABORT, bytes(4)), "aborts the association"),
        (pdu(DATA, pdv(1, b"\0\0")), "PDU of type 4"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer as a DICOM device"),
        (b"", "connection closed by the peer"),
    ],
)
def test_what_is_no_acceptance_is_said_in_words(peer: Callable[..., Peer], answer: bytes, words: str) -> None:
    def script(it: Peer) -> None:
        it.read()
        it.say(answer)

    one = peer(script)
    with pytest.raises(CannotAssociate, match=words), scu.associate(one.destination, CONTEXTS, LIMITS):
        pytest.fail("there is no association")


@pytest.mark.parametrize("max_pdu", [1, 15])
def test_a_peer_whose_pdus_hold_no_message_is_refused(peer: Callable[..., Peer], max_pdu: int) -> None:
    def script(it: Peer) -> None:
        it.accept(_ACCEPTED, _ACCEPTED, max_pdu=max_pdu)
        assert it.read()[0] == ABORT

    one = peer(script)
    expected = pytest.raises(CannotAssociate, match=f"maximum PDU length {max_pdu} leaves no room")
    with expected, scu.associate(one.destination, CONTEXTS, LIMITS):
        pytest.fail("there is no association")


def test_a_silent_peer_is_left_after_the_network_timeout(peer: Callable[..., Peer]) -> None:
    def script(it: Peer) -> None:
        it.read()
        assert it.read()[0] == ABORT

    one = peer(script)
    limits = Limits("ANGIOVAULT", network_timeout=0.2)
    with pytest.raises(CannotAssociate, match=r"does not answer within 0\.2 s"):
        scu.echo(one.destination, limits)


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 99999, "there is no port 99999"),
        ("no-such-host.invalid", 104, "the host name is not known"),
        (f"{'a' * 64}.invalid", 104, "the host name is not known"),
        ("127.0.0.1", 0, "refuses the connection: is the device on"),
    ],
)
def test_an_address_that_leads_nowhere(host: str, port: int, words: str) -> None:
    with pytest.raises(CannotAssociate, match=words):
        scu.echo(Destination("NOBODY", host, port or free_port()), LIMITS)


def test_a_device_without_a_place_to_be_called_at() -> None:
    for device in (Device("a", "A", ("10.0.0.1",)), Device("b", "B", ("10.0.0.0/24",), 104)):
        with pytest.raises(CannotAssociate, match="has no host and port"):
            Destination.of(device)
    assert Destination.of(Device("c", "C", ("10.0.0.0/24", "10.1.0.1"), 104)) == Destination("C", "10.1.0.1", 104)


# ---- ending


def test_a_release_collision_is_answered(peer: Callable[..., Peer]) -> None:
    def script(it: Peer) -> None:
        it.accept(_ACCEPTED, _ACCEPTED)
        assert it.read()[0] == RELEASE_RQ
        it.say(pdu(RELEASE_RQ, bytes(4)))
        assert it.read()[0] == RELEASE_RP
        it.say(pdu(RELEASE_RP, bytes(4)))
        assert it.read()[0] == 0

    with scu.associate(peer(script).destination, CONTEXTS, LIMITS):
        pass


@pytest.mark.parametrize(
    ("error", "source", "reason"), [(KeyError("a fault of ours"), 0, 0), (ProtocolError("nonsense", 2), 2, 2)]
)
def test_an_exception_aborts(peer: Callable[..., Peer], error: Exception, source: int, reason: int) -> None:
    def script(it: Peer) -> None:
        it.accept(_ACCEPTED, _ACCEPTED)
        assert it.read() == (ABORT, bytes([0, 0, source, reason]))

    with pytest.raises(type(error)), scu.associate(peer(script).destination, CONTEXTS, LIMITS):
        raise error


def test_a_peer_that_does_not_answer_a_release_is_left(
    peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scu, "_RELEASE_TIMEOUT", 0.2)

    def script(it: Peer) -> None:
        it.accept(_ACCEPTED, _ACCEPTED)
        assert it.read()[0] == RELEASE_RQ
        assert it.read()[0] == 0

    with scu.associate(peer(script).destination, CONTEXTS, LIMITS):
        pass


# ---- messages


def _response(**elements: int) -> bytes:
    names = {"answered": 0x0120, "status": 0x0900}
    return command_set({0x0100: 0x8030, 0x0800: 0x0101} | {names[name]: value for name, value in elements.items()})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([_response(answered=1, status=0)], None),
        ([_response(answered=7, status=0xA700), _response(answered=1, status=0)], None),
        ([_response(answered=1, status=0x0110)], (CannotAssociate, "status 0110")),
        ([_response(status=0)], (ProtocolError, r"command element \(0000,0[19][02]0\) is missing")),
        ([_response(answered=1)], (ProtocolError, r"command element \(0000,0[19][02]0\) is missing")),
        ([command_set({0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101})], (ProtocolError, "a request where a response")),
        ([], (TimedOut, "nothing came within")),
    ],
)
def test_the_answer_to_an_echo(
    peer: Callable[..., Peer], said: list[bytes], expected: tuple[type[Exception], str] | None
) -> None:
    def refusing(it: Peer) -> None:
        it.accept(_REFUSED, syntaxes=[IMPLICIT])
        it.read()

    def accepting(it: Peer) -> None:
        it.accept(_ACCEPTED, syntaxes=[IMPLICIT])
        it.read()
        for command in said:
            it.say(pdu(DATA, pdv(1, command, command=True)))
        if it.read()[0] == RELEASE_RQ:
            it.say(pdu(RELEASE_RP, bytes(4)))

    limits = Limits("ANGIOVAULT", network_timeout=0.2 if not said else 2)
    if expected is None:
        scu.echo(peer(accepting).destination, limits)
    else:
        with pytest.raises(expected[0], match=expected[1]):
            scu.echo(peer(accepting).destination, limits)
    with pytest.raises((CannotAssociate, AssociationEnded), match="accepts the association but no C-ECHO"):
        scu.echo(peer(refusing).destination, limits)


def test_a_response_may_take_longer_than_the_network() -> None:
    assert Limits("A").response_timeout == 300
    assert Limits("A", network_timeout=1).response_timeout == 5


# ---- what is proposed for storage


def test_each_stored_syntax_has_a_context_of_its_own_before_the_uncompressed_ones() -> None:
    (contexts,) = storage_contexts([(CT, JPEG), (CT, EXPLICIT), (CT, JPEG), ("1.2.3.4", IMPLICIT)])
    assert [(context.abstract_syntax, context.transfer_syntaxes) for context in contexts] == [
        (CT, (JPEG,)),
        (CT, (EXPLICIT,)),
        (CT, (IMPLICIT,)),
        ("1.2.3.4", (IMPLICIT,)),
        ("1.2.3.4", (EXPLICIT,)),
    ]
    assert [context.context_id for context in contexts] == [1, 3, 5, 7, 9]


def test_no_association_has_more_than_128_contexts_and_none_is_left_out() -> None:
    pairs = [(f"1.2.3.{number}", syntax) for number in range(100) for syntax in (JPEG, EXPLICIT)]
    groups = list(storage_contexts(pairs))
    assert len(groups) == 3
    assert all(len(group) <= 128 for group in groups)
    proposed = [(context.abstract_syntax, *context.transfer_syntaxes) for group in groups for context in group]
    assert len(proposed) == 300
    assert set(pairs) < set(proposed)
    for group in groups:
        identifiers = [context.context_id for context in group]
        assert identifiers[0] == 1
        assert all(second - first == 2 for first, second in pairwise(identifiers))
        assert identifiers[-1] <= 255
    # All contexts of a class are on one association.
    classes = [{context.abstract_syntax for context in group} for group in groups]
    assert sum(len(group) for group in classes) == len(set().union(*classes)) == 100


def test_nothing_to_send_needs_no_association() -> None:
    assert list(storage_contexts([])) == []


# ---- counting


def test_counts_beyond_16_bits_are_said_as_the_largest() -> None:
    progress = Progress(70_000)
    assert progress.counts(final=False)["remaining"] == 65535
    for number in range(70_000):
        progress.count(f"1.2.{number}", failed=number % 7 == 0, warning=number % 7 == 1)
    assert progress.remaining == 0
    assert progress.counts(final=True) == {"completed": 50_000, "failed": 10_000, "warning": 10_000}
    assert "remaining" not in progress.counts(final=True)
    huge = Progress(0, completed=65536, warning=65535, failed=["1.2"] * 65536)
    request = messages.Command({messages.COMMAND_FIELD: 0x21, messages.MESSAGE_ID: 1})
    encoded = messages.encode(messages.response(request, 0xB000, **huge.counts(final=True)))
    decoded = messages.decode(encoded)
    assert [decoded.number(tag) for tag in (0x1021, 0x1022, 0x1023)] == [65535] * 3


@pytest.mark.parametrize("length", [10, 63, 64])
def test_a_list_of_failures_holds_whole_uids_only(length: int) -> None:
    uids = [f"1.{number:0{length - 2}d}" for number in range(7000)]
    for implicit in (True, False):
        encoded = encode_failed_list(uids, implicit)
        data = read_dataset(BytesIO(encoded), is_implicit_VR=implicit, is_little_endian=True)
        listed = bytes(data.get_item(0x00080058).value).decode().rstrip("\0").split("\\")
        assert len(encoded) % 2 == 0
        assert listed == uids[: len(listed)]
        # An explicit length has 16 bits: as many as fit are named.
        assert len(listed) == (7000 if implicit else 65535 // (length + 1))


# ---- what is meant


def _identifier(level: str, **keys: bytes) -> Identifier:
    tags = {"patient": 0x00100020, "study": 0x0020000D, "series": 0x0020000E, "image": 0x00080018}
    return Identifier(level, None, {tags[name]: Key("UI", value) for name, value in keys.items()})


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        (_identifier("STUDY", study=b"1.2\\1.3\0"), Selection(study_uids=("1.2", "1.3"))),
        (_identifier("STUDY", study=b"1.2\0", series=b"1.9"), Selection(study_uids=("1.2",))),
        (
            _identifier("IMAGE", patient=b"P 1 ", study=b"1.2\0", series=b"", image=b"1.4\\"),
            Selection(("p 1",), ("1.2",), (), ("1.4",)),
        ),
        (_identifier("IMAGE", image=b"1.4"), Selection(instance_uids=("1.4",))),
    ],
)
def test_keys_that_say_what_is_wanted(identifier: Identifier, expected: Selection) -> None:
    assert selection_of(identifier) == expected


@pytest.mark.parametrize(
    "identifier",
    [
        _identifier("PATIENT"),
        _identifier("PATIENT", patient=b"  "),
        _identifier("STUDY", patient=b"P1"),
        _identifier("STUDY", study=b"\0"),
        _identifier("STUDY", study=b"\\"),
        _identifier("STUDY", study=b"*"),
        _identifier("STUDY", study=b"1.2\\1.?"),
        _identifier("IMAGE", study=b"1.*", image=b"1.2"),
        _identifier("IMAGE", study=b"1.2", series=b"1.3"),
    ],
)
def test_keys_that_do_not(identifier: Identifier) -> None:
    with pytest.raises(IdentifierError, match="unique key of level") as caught:
        selection_of(identifier)
    assert caught.value.status == 0xA900
