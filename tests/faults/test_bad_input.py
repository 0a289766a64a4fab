"""Bad connections and bad PDUs: a clear refusal, a line in the log, and the next association served."""

import contextlib
import random
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from harness.battered import Battered
from harness.service import Service
from harness.upper_layer import (
    ABORT,
    AC,
    CT_IMAGE,
    DATA,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    RQ,
    STUDY_ROOT_FIND,
    VERIFICATION,
    Closed,
    associate_rq,
    command_set,
    data_set,
    echo_rq,
    element,
    item,
    pdu,
    pdv,
    pdvs,
    store_rq,
    user_information,
)
from harness.waiting import wait_until


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Battered]:
    with ExitStack() as stack:
        yield Battered(stack.enter_context(Service(tmp_path_factory.mktemp("battered"), unknown_devices="all")))


@pytest.fixture
def impatient(service: Callable[..., Service]) -> Battered:
    """A service that waits for nobody longer than a second, but two between messages."""
    limits = "[dicom]\nartim-timeout = 1\nnetwork-timeout = 1\nidle-timeout = 2\nunknown-devices = all\n"
    return Battered(service(config=limits))


# ---- instead of an association request

CONTEXT = (1, VERIFICATION, [IMPLICIT])
INSTEAD_OF_A_REQUEST = {
    "zeros": (bytes(100), "not a DICOM PDU"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", "this is HTTP"),
    "a TLS hello": (bytes.fromhex("16030100c8010000c40303") + bytes(190), "this is TLS"),
    "a remote desktop": (b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", "type 3"),
    "random bytes": (b"\xa7" + random.Random(1).randbytes(5000), "not a DICOM PDU"),
    "a PDU of unknown type": (pdu(8, b"1234"), "not a DICOM PDU"),
    "an empty PDU": (pdu(RQ, b""), "too short"),
    "a request of 4 GiB": (pdu(RQ, b"", length=0xFFFFFFFF), "4294967295 bytes long"),
    "a request of more than 1 MiB": (pdu(RQ, b"", length=(1 << 20) + 1) + bytes(1 << 20), "1048577 bytes long"),
    "an acceptance": (pdu(AC, associate_rq([CONTEXT])[6:]), "type 2 where an association request is due"),
    "a rejection": (pdu(RJ, b"\0\1\1\1"), "type 3 where an association request is due"),
    "data": (pdu(DATA, pdv(1, echo_rq(), command=True)), "type 4 where an association request is due"),
    "a release": (pdu(RELEASE_RQ, bytes(4)), "type 5 where an association request is due"),
    "a release response": (pdu(RELEASE_RP, bytes(4)), "type 6 where an association request is due"),
    "an abort": (pdu(ABORT, bytes(4)), "type 7 where an association request is due"),
    "129 contexts": (associate_rq([(2 * n % 256 + 1, VERIFICATION, [IMPLICIT]) for n in range(129)]), "same ID"),
    "an even ID": (associate_rq([(2, VERIFICATION, [IMPLICIT])]), "even ID"),
    "the same ID twice": (associate_rq([CONTEXT, CONTEXT]), "same ID"),
    "an item longer than the PDU": (associate_rq([], more=item(0x20, b"", length=0xFFFF)), "20H is longer"),
    "a syntax longer than its context": (
        associate_rq([], more=item(0x20, bytes([1, 0, 0, 0]) + item(0x30, b"1.2", length=99))),
        "30H is longer",
    ),
    "a role without flags": (
        associate_rq([CONTEXT], information=user_information(more=item(0x54, struct.pack(">H", 3) + b"1.2"))),
        "role selection",
    ),
    "an extended negotiation whose UID is longer than it": (
        associate_rq([CONTEXT], information=user_information(more=item(0x56, struct.pack(">H", 999) + b"1.2"))),
        "extended negotiation",
    ),
}


@pytest.mark.parametrize("name", INSTEAD_OF_A_REQUEST)
def test_what_is_no_association_request_is_aborted(battered: Battered, name: str) -> None:
    encoded, words = INSTEAD_OF_A_REQUEST[name]
    with battered.connect() as peer:
        peer.send(encoded)
        assert peer.ending() == ABORT
    battered.wait_for_news(words)
    assert re.search(r"WARNING connection from 127\.0\.0\.1 aborted: .*" + re.escape(words), battered.news())
    battered.is_well()


def test_a_request_that_is_cut_anywhere_does_no_harm(battered: Battered) -> None:
    whole = associate_rq([CONTEXT, (3, CT_IMAGE, [EXPLICIT, IMPLICIT])])
    for cut in range(1, len(whole)):
        with battered.connect() as peer:
            peer.send(whole[:cut])
    # The same, but announced to be no longer than it is.
    for cut in range(6, len(whole)):
        with battered.connect() as peer:
            peer.send(pdu(RQ, whole[6:cut]))
            assert peer.receive()[0] in (AC, RJ, ABORT)
    battered.is_well()


def test_requests_with_any_bytes_changed_do_no_harm(battered: Battered) -> None:
    chance = random.Random(3)
    information = user_information(more=item(0x54, struct.pack(">H", 3) + b"1.2\0\1") + item(0x58, b"\1\0\0\1u\0\0"))
    whole = associate_rq([CONTEXT, (3, CT_IMAGE, [EXPLICIT, IMPLICIT])], information=information)
    answers = set()
    for _ in range(400):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 5)):
            broken[chance.randrange(6, len(broken))] = chance.randrange(256)
        with battered.connect() as peer:
            peer.send(bytes(broken))
            answers.add(peer.receive()[0])
    assert answers == {AC, RJ, ABORT}
    battered.is_well()


def test_a_bare_connect_is_no_error(battered: Battered) -> None:
    battered.is_well()
    for _ in range(3):
        battered.connect().socket.close()
    reset = battered.connect().socket
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    with battered.association() as peer:
        peer.release()
    battered.wait_for_news("association of RAWPEER@127.0.0.1 with ANGIOVAULT: nothing asked; released")
    assert "WARNING" not in battered.news()
    assert "ERROR" not in battered.news()


def test_requests_that_are_odd_but_legal_are_accepted(battered: Battered) -> None:
    many = [(2 * n + 1, CT_IMAGE, [EXPLICIT]) for n in range(127)] + [(255, VERIFICATION, [IMPLICIT])]
    none = [(1, VERIFICATION, [IMPLICIT]), (3, CT_IMAGE, []), (5, "", [IMPLICIT]), (7, "../../../etc", [EXPLICIT])]
    long = [(1, VERIFICATION, [IMPLICIT]), (3, "1." * 20000, [EXPLICIT]), (5, CT_IMAGE, ["9" * 20000] * 2)]
    for contexts in (many, none, long):
        with battered.connect() as peer:
            peer.send(associate_rq(contexts))
            kind, body = peer.receive()
            assert kind == AC
            answers = peer.take_accept(body, contexts)
            refused = [] if contexts is many else list(answers)[1:]
            assert [identifier for identifier, (result, _) in answers.items() if result] == refused
            assert peer.echo() == 0
            peer.release()
    assert len(battered.news()) < 40_000
    battered.is_well()


# ---- on an association

ECHO = pdu(DATA, pdv(1, echo_rq(), command=True))
STORE = pdu(DATA, pdv(3, store_rq(CT_IMAGE, "1.2.9"), command=True))
WHOLE = data_set("1.2.9")
ON_AN_ASSOCIATION = {
    "an empty P-DATA-TF": (pdu(DATA, b""), "holds no PDV"),
    "a PDU longer than agreed": (pdu(DATA, b"", length=131072 + 65), "131072 were agreed"),
    "a PDU of 4 GiB": (pdu(DATA, b"", length=0xFFFFFFFF), "131072 were agreed"),
    "a PDU of unknown type": (pdu(9, bytes(4)), "not a DICOM PDU"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "this is HTTP"),
    "a PDV of length 0": (pdu(DATA, pdv(1, echo_rq(), command=True, length=0)), "PDV of 0 bytes"),
    "a PDV of length 1": (pdu(DATA, pdv(1, echo_rq(), command=True, length=1)), "PDV of 1 bytes"),
    "a PDV longer than its PDU": (pdu(DATA, pdv(1, echo_rq(), command=True, length=999)), "does not fit"),
    "a PDV of 4 GiB": (pdu(DATA, pdv(1, b"", length=0xFFFFFFFF)), "does not fit"),
    "bytes that are no PDV": (pdu(DATA, pdv(1, echo_rq(), command=True, last=False) + b"\0\0"), "are no PDV"),
    "a context that was not proposed": (
        pdu(DATA, pdv(99, echo_rq(), command=True)),
        "context 99, which was not accepted",
    ),
    "context 0": (pdu(DATA, pdv(0, echo_rq(), command=True)), "context 0, which was not accepted"),
    "a data set without a command": (pdu(DATA, pdv(3, WHOLE)), "data set where a command is due"),
    "a command within a data set": (STORE + pdu(DATA, pdv(3, WHOLE, last=False)) + ECHO, "command where a data set"),
    "another command instead of the data set": (STORE + STORE, "command where a data set is due"),
    "another context in the data set": (STORE + pdu(DATA, pdv(1, WHOLE)), "context 1 within a message of 3"),
    "a release within a data set": (
        STORE + pdu(DATA, pdv(3, WHOLE, last=False)) + pdu(RELEASE_RQ, bytes(4)),
        "A-RELEASE-RQ in the middle",
    ),
    "an association request": (associate_rq([CONTEXT]), "type 1 within an association"),
    "a rejection": (pdu(RJ, bytes(4)), "type 3 within an association"),
    "a release response": (pdu(RELEASE_RP, bytes(4)), "nobody asked for"),
    "a release of wrong length": (pdu(RELEASE_RQ, bytes(8)), "length 8 instead of 4"),
    "a command without end": (pdu(DATA, pdv(1, bytes(9000), command=True, last=False)) * 8, "command set without end"),
    "a command of nothing": (pdu(DATA, pdv(1, b"", command=True)), "(0000,0100) is missing"),
    "a command cut short": (pdu(DATA, pdv(1, echo_rq()[:-1], command=True)), "longer than the command set"),
    "a command without field": (pdu(DATA, pdv(1, command_set({0x0110: 1}), command=True)), "(0000,0100) is missing"),
    "a command without Message ID": (
        pdu(DATA, pdv(1, command_set({0x0100: 0x0030, 0x0800: 0x0101}), command=True)),
        "(0000,0110) is missing",
    ),
    "a command that is a data set": (
        pdu(DATA, pdv(1, element(0x00080016, b"UI", b"1.2"), command=True)),
        "element (0008,0016)",
    ),
    "a command in Explicit VR": (
        pdu(DATA, pdv(1, element(0x00000100, b"US", b"\x30\0"), command=True)),
        "is longer than the command set",
    ),
}


@pytest.mark.parametrize("name", ON_AN_ASSOCIATION)
def test_what_breaks_the_protocol_is_aborted(battered: Battered, name: str) -> None:
    encoded, words = ON_AN_ASSOCIATION[name]
    with battered.association() as peer:
        peer.send(encoded)
        assert peer.ending() == ABORT
    battered.wait_for_news(words)
    line = r"WARNING association of RAWPEER@127\.0\.0\.1 with ANGIOVAULT: nothing asked; aborted: .*" + re.escape(words)
    wait_until(lambda: re.search(line, battered.news()), f"{line!r} in the log")
    assert set(battered.kept()) == {"1.2.840.99.1"}
    battered.is_well()


def stored(battered: Battered, uid: str, *pieces: bytes) -> None:
    """Send a C-STORE in pieces; it must be answered by success and kept to the byte."""
    with battered.association() as peer:
        for piece in pieces:
            peer.send(piece)
        assert peer.status() == 0
        peer.release()
    (copy,) = battered.kept()[uid]
    assert copy.data_set() == data_set(uid)
    copy.path.unlink()


def test_what_is_odd_but_legal_is_stored(battered: Battered) -> None:
    uid = "1.2.77"
    command, data = store_rq(CT_IMAGE, uid), data_set(uid)
    command_pdv, data_pdv = pdv(3, command, command=True), pdv(3, data)
    first, rest = data[:33], data[33:]
    stored(battered, uid, pdu(DATA, command_pdv + data_pdv))
    stored(battered, uid, pdu(DATA, command_pdv), pdu(DATA, pdv(3, first, last=False) + pdv(3, rest)))
    stored(battered, uid, pdu(DATA, command_pdv + pdv(3, first, last=False)), pdu(DATA, pdv(3, rest)))
    single = [pdv(3, bytes([byte]), last=False) for byte in data[:-1]] + [pdv(3, data[-1:])]
    stored(battered, uid, pdu(DATA, command_pdv), *(pdu(DATA, each) for each in single))
    stored(battered, uid, pdu(DATA, command_pdv), pdu(DATA, b"".join(single)))
    stored(battered, uid, pdu(DATA, command_pdv), pdu(DATA, pdv(3, data, last=False)), pdu(DATA, pdv(3, b"")))
    empty = pdu(DATA, pdv(3, b"", last=False))
    stored(battered, uid, pdu(DATA, command_pdv), empty * 1000, pdu(DATA, data_pdv))
    parts = [pdv(3, command[n : n + 1], command=True, last=n == len(command) - 1) for n in range(len(command))]
    stored(battered, uid, pdu(DATA, b"".join(parts)), pdu(DATA, data_pdv))
    # The bits of the message control header that mean nothing are not looked at (PS3.8 E.2).
    stored(battered, uid, pdu(DATA, command_pdv), pdu(DATA, struct.pack(">LBB", len(data) + 2, 3, 0xFE) + data))
    stored(battered, uid, pdu(DATA, command_pdv), pdu(DATA, data_pdv).replace(b"\4\0", b"\4\xff", 1))
    battered.is_well()


def test_an_abort_or_a_cut_at_any_byte_leaves_nothing_half_there(battered: Battered) -> None:
    uid = "1.2.66"
    data = data_set(uid, pixels=bytes(600))
    half = len(data) // 2
    whole = pdu(DATA, pdv(3, store_rq(CT_IMAGE, uid), command=True))
    whole += pdu(DATA, pdv(3, data[:half], last=False)) + pdu(DATA, pdv(3, data[half:]))
    for number, cut in enumerate(range(1, len(whole), 5)):
        with battered.association() as peer:
            peer.send(whole[:cut])
            if number % 3 == 0 and len(whole) - cut > 10:  # else the abort would be the rest of the data set
                peer.send(pdu(ABORT, bytes(4)))
            elif number % 3 == 1:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert "1.2.66 of class CT Image Storage" in battered.news()
    assert "did not arrive whole and is not kept" in battered.news()
    battered.is_well()
    assert uid not in battered.kept()
    with battered.association() as peer:
        peer.send(whole)
        assert peer.status() == 0
    battered.is_well()
    assert battered.kept()[uid][0].data_set() == data


# ---- what a peer takes


@pytest.mark.parametrize("max_pdu", [0, 16, 17, 20, 100])
def test_answers_fit_what_the_peer_takes(battered: Battered, max_pdu: int) -> None:
    with battered.connect() as peer:
        peer.associate(
            [(VERIFICATION, [IMPLICIT]), (STUDY_ROOT_FIND, [IMPLICIT])], information=user_information(max_pdu)
        )
        assert peer.echo() == 0
        level = struct.pack("<HHL", 8, 0x52, 6) + b"STUDY "
        study = struct.pack("<HHL", 0x20, 0x0D, 0)
        find = command_set({0x0002: STUDY_ROOT_FIND, 0x0100: 0x0020, 0x0110: 2, 0x0700: 0, 0x0800: 1})
        peer.message(peer.context(STUDY_ROOT_FIND), find, level + study)
        statuses, longest, part = [], 0, b""
        while not statuses or statuses[-1] != 0:
            kind, body = peer.receive()
            assert kind == DATA
            longest = max(longest, len(body))
            for _, flags, fragment in pdvs(body):
                if flags & 1:
                    part += fragment
                    if flags & 2:
                        at = part.index(struct.pack("<HHL", 0, 0x0900, 2))
                        statuses.append(struct.unpack_from("<H", part, at + 8)[0])
                        part = b""
        peer.release()
    assert statuses == [0xFF00, 0]
    assert not max_pdu or longest <= max_pdu
    battered.is_well()


@pytest.mark.parametrize("max_pdu", [1, 6, 15])
def test_a_peer_that_takes_next_to_nothing_is_rejected(battered: Battered, max_pdu: int) -> None:
    with battered.connect() as peer:
        peer.send(associate_rq([CONTEXT], information=user_information(max_pdu)))
        assert peer.receive() == (RJ, b"\0\1\1\1")
    battered.wait_for_news(f"maximum PDU length {max_pdu} is less than 16")
    battered.is_well()


# ---- slowness


def test_silence_ends_in_time(impatient: Battered) -> None:
    silent = impatient.connect()
    idle = impatient.connect()
    idle.associate()
    half_a_request = impatient.connect()
    half_a_request.send(associate_rq([CONTEXT])[:50])
    half_a_message = impatient.connect()
    half_a_message.associate()
    half_a_message.send(STORE + pdu(DATA, pdv(3, WHOLE))[:40])
    impatient.is_well()  # nobody keeps the others waiting
    assert silent.ending() is None
    for peer in (half_a_request, half_a_message, idle):
        assert peer.ending() in (None, ABORT)
    log = impatient.service
    log.wait_for_log("127.0.0.1 connected and asked for nothing in 1 s")
    log.wait_for_log("ended during negotiation: a PDU did not arrive whole within")
    log.wait_for_log("nothing asked; ended: a PDU did not arrive whole within 1 s")
    log.wait_for_log("nothing asked; ended: nothing came within 2 s")
    impatient.is_well()


@pytest.mark.parametrize("begun", [False, True])
def test_a_trickle_ends_in_time(impatient: Battered, begun: bool) -> None:
    with impatient.connect() as peer:
        if begun:
            peer.associate()
        slow = associate_rq([CONTEXT])
        if begun:
            slow = pdu(DATA, pdv(3, store_rq(CT_IMAGE, "1.2.9") + bytes(500), command=True))
        peer.socket.settimeout(0.1)
        sent = 0
        with contextlib.suppress(Closed, OSError):
            while sent < len(slow):
                peer.socket.send(slow[sent : sent + 1])
                sent += 1
                with contextlib.suppress(TimeoutError):
                    assert peer.receive()[0] == ABORT
    assert sent < 60
    impatient.is_well()


def test_a_peer_that_does_not_read_ends_in_time(impatient: Battered) -> None:
    with impatient.association() as deaf:
        with contextlib.suppress(OSError):
            while True:
                deaf.send(ECHO * 200)  # each wants an answer, none is read
        impatient.service.wait_for_log("took nothing within 1 s")
    impatient.is_well()
