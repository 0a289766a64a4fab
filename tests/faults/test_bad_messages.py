"""Bad DIMSE messages and bad data sets: the right status, nothing outside the storage, nothing lost."""

import random
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.battered import FIRST, Battered
from harness.service import Service
from harness.upper_layer import (
    ABORT,
    COMMITMENT,
    CT_IMAGE,
    DATA,
    EXPLICIT,
    IMPLICIT,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
    RawPeer,
    command_set,
    data_set,
    echo_rq,
    element,
    pdu,
    pdv,
    store_rq,
)

SUCCESS, MISMATCH, NOT_UNDERSTOOD, UNRECOGNISED = 0x0000, 0xA900, 0xC000, 0x0211
DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Battered]:
    with ExitStack() as stack:
        yield Battered(stack.enter_context(Service(tmp_path_factory.mktemp("battered"), unknown_devices="all")))


def everything_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


# ---- commands


ALL = [VERIFICATION, CT_IMAGE, STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET, COMMITMENT]
REQUESTS = {
    "C-STORE": 0x0001,
    "C-GET": 0x0010,
    "C-FIND": 0x0020,
    "C-MOVE": 0x0021,
    "C-ECHO": 0x0030,
    "N-ACTION": 0x0130,
}
BELONGS = dict(
    zip(REQUESTS, (CT_IMAGE, STUDY_ROOT_GET, STUDY_ROOT_FIND, STUDY_ROOT_MOVE, VERIFICATION, COMMITMENT), strict=True)
)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_in_a_context_of_another_service_is_not_recognised(battered: Battered, name: str) -> None:
    with battered.connect() as peer:
        peer.associate([(uid, [IMPLICIT]) for uid in ALL])
        for uid in ALL:
            if uid == BELONGS[name]:
                continue
            # With and without a data set, which has to be read over.
            for data in (None, bytes(1000)):
                command = {0x0002: uid, 0x0100: REQUESTS[name], 0x0110: 5, 0x0800: 0x0101 if data is None else 0}
                peer.message(peer.context(uid), command_set({**command, 0x1008: 1}), data)
                response = peer.response()
                assert (response[0x0900], response[0x0100]) == (UNRECOGNISED, REQUESTS[name] | 0x8000)
                assert response[0x0120] == 5
        assert peer.echo() == SUCCESS
        peer.release()
    assert "in a context that has none such" in battered.news()
    battered.is_well()


def test_requests_that_nobody_knows_are_not_recognised(battered: Battered) -> None:
    with battered.association() as peer:
        for field in (0x0000, 0x0002, 0x0100, 0x0110, 0x0120, 0x0140, 0x0150, 0x4242, 0x0FFE, 0x7FFF):
            peer.message(1, command_set({0x0100: field, 0x0110: 0xFFFF, 0x0800: 0x0101}))
            assert peer.status() == UNRECOGNISED
        peer.release()
    battered.is_well()


def test_answers_and_cancels_that_fit_nothing_are_passed_over(battered: Battered) -> None:
    with battered.association() as peer:
        for number in range(100):
            peer.message(1, command_set({0x0100: 0x0FFF, 0x0120: number, 0x0800: 0x0101}))
            peer.message(1, command_set({0x0100: 0x8030, 0x0120: number, 0x0800: 0x0101, 0x0900: 0}))
        peer.message(3, command_set({0x0100: 0x8001, 0x0120: 1, 0x0800: 0, 0x0900: 0xFFFF}), bytes(300))
        assert peer.echo() == SUCCESS
        peer.release()
    battered.is_well()


ODD = {
    "a group length of 0": echo_rq()[:8] + bytes(4) + echo_rq()[12:],
    "a group length of 4 GiB": echo_rq()[:8] + b"\xff" * 4 + echo_rq()[12:],
    "no group length": echo_rq()[12:],
    "no data set type": command_set({0x0002: VERIFICATION, 0x0100: 0x0030, 0x0110: 1}),
    "no SOP class": command_set({0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101}),
    "a priority that does not exist": command_set({0x0100: 0x0030, 0x0110: 1, 0x0700: 0xFFFF, 0x0800: 0x0101}),
    "elements in any order": command_set({0x0800: 0x0101, 0x0110: 1, 0x0100: 0x0030, 0x0002: VERIFICATION}),
    "the same element twice": echo_rq() + command_set({0x0110: 7})[12:],
    "elements that nobody knows": command_set(
        {0x0001: b"\1\2\3\4", 0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101, 0x5555: "?"}
    ),
    "an element of 60,000 bytes": command_set({0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101, 0x1000: "9" * 60000}),
}


@pytest.mark.parametrize("name", ODD)
def test_a_command_that_is_odd_but_clear_is_served(battered: Battered, name: str) -> None:
    with battered.association() as peer:
        peer.message(1, ODD[name])
        assert peer.status() == SUCCESS
        peer.release()
    battered.is_well()


def test_a_store_without_priority_is_served(battered: Battered) -> None:
    uid = "1.2.55"
    command = command_set({0x0002: CT_IMAGE, 0x0100: 0x0001, 0x0110: 1, 0x0800: 0, 0x1000: uid})
    with battered.association() as peer:
        peer.message(3, command, data_set(uid))
        assert peer.status() == SUCCESS
        peer.release()
    battered.is_well()


def test_a_store_without_a_data_set_is_not_understood(battered: Battered) -> None:
    with battered.association() as peer:
        command = {0x0002: CT_IMAGE, 0x0100: 0x0001, 0x0110: 1, 0x0800: 0x0101, 0x1000: "1.2.54"}
        peer.message(3, command_set(command))
        assert peer.status() == NOT_UNDERSTOOD
        assert peer.store("1.2.54", b"") == NOT_UNDERSTOOD
        peer.release()
    battered.is_well()


@pytest.mark.parametrize("uid", [STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET, COMMITMENT])
def test_a_query_without_a_data_set_or_with_a_broken_one_fails(battered: Battered, uid: str) -> None:
    field = {STUDY_ROOT_FIND: 0x0020, STUDY_ROOT_MOVE: 0x0021, STUDY_ROOT_GET: 0x0010, COMMITMENT: 0x0130}[uid]
    chance = random.Random(4)
    nested = struct.pack("<HHL", 8, 0x1140, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    identifiers = [
        None,
        b"",
        b"\0",
        bytes(1000),
        chance.randbytes(1000),
        nested * 5000,
        struct.pack("<HHL", 8, 0x52, 999),
    ]
    with battered.connect() as peer:
        peer.associate([(uid, [IMPLICIT])])
        for data in identifiers:
            command = {0x0002: uid, 0x0003: uid, 0x0100: field, 0x0110: 3, 0x0600: "NOBODY", 0x0700: 0, 0x1008: 1}
            peer.message(1, command_set({**command, 0x0800: 0x0101 if data is None else 0}), data)
            assert peer.status() & 0xF000 in (0xA000, 0xC000, 0x0000)
        peer.message(1, command_set({**command, 0x0800: 0}), bytes(100))
        assert peer.status() not in (SUCCESS, 0xFF00)
        peer.release()
    assert "refused" in battered.news()
    battered.is_well()


# ---- UIDs and names

EVIL = [
    "../../../../tmp/evil",
    "/etc/evil",
    "1.2.3\0.4",
    "1.2.3\n4",
    "1.2.3;rm -rf",
    "1.2.3%s%n",
    "..",
    ".",
    "-rf",
    "1.2\\1.3",
    "9" * 65,
    "9" * 300,
    "1.2.ü",
    "*",
    "' OR 1=1 --",
]


@pytest.mark.parametrize("evil", EVIL)
def test_a_uid_that_is_none_is_refused_wherever_it_stands(battered: Battered, evil: str) -> None:
    place = battered.service.folder
    before = everything_below(place)
    raw = evil.encode("latin-1", "replace").decode("latin-1")
    with battered.association() as peer:
        assert peer.store(raw, data_set(raw)) == NOT_UNDERSTOOD
        assert peer.store(raw, data_set("1.2.44")) == NOT_UNDERSTOOD
        assert peer.store("1.2.44", data_set(raw)) in (NOT_UNDERSTOOD, MISMATCH)
        assert peer.store("1.2.44", data_set("1.2.44", study=raw)) == NOT_UNDERSTOOD
        assert peer.store("1.2.44", data_set("1.2.44", series=raw)) == NOT_UNDERSTOOD
        peer.release()
    assert battered.news().count("WARNING refused ") == 5
    assert max(map(len, battered.news().splitlines())) < 1000
    battered.is_well()
    assert everything_below(place) == before


NAMES = [
    b"../../../evil",
    b"..",
    b"/",
    b"\0",
    b"x" * 5000,
    b"\n\r\x1b[31m",
    b"CON",
    b"-",
    b" ",
    b"a/b\\c:d",
    b"\xff\xfe",
]


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_names_never_lead_out_of_the_storage(battered: Battered, number: int) -> None:
    uid, encoded = f"1.2.43.{number}", NAMES[number]
    data = data_set(uid, study=uid)
    for tag, vr, old in ((0x00100010, b"PN", b"RAW^PEER"), (0x00100020, b"LO", b"RAW1"), (0x00080060, b"CS", b"CT")):
        data = data.replace(element(tag, vr, old), element(tag, vr, encoded))
    with battered.association() as peer:
        assert peer.store(uid, data) == SUCCESS
        peer.release()
    (copy,) = battered.kept()[uid]
    assert copy.data_set() == data
    assert battered.service.storage.resolve() in copy.path.resolve().parents
    assert all(
        len(part.encode()) <= 143 and part.isprintable()
        for part in copy.path.relative_to(battered.service.storage).parts
    )
    battered.is_well()


# ---- data sets


def answered(battered: Battered, uid: str, *data_sets: bytes, syntax: str = EXPLICIT) -> list[int]:
    """Store data sets one after the other and return the statuses; what is acknowledged has to be there to the byte."""
    with battered.connect() as peer:
        peer.associate([(CT_IMAGE, [syntax])])
        statuses = [peer.store(uid, data) for data in data_sets]
        peer.release()
    kept = {copy.data_set() for copy in battered.kept().get(uid, [])}
    assert kept == {data for data, status in zip(data_sets, statuses, strict=True) if status == SUCCESS}
    return statuses


def test_a_data_set_cut_anywhere_is_kept_or_refused(battered: Battered) -> None:
    uid = "1.2.33"
    whole = data_set(uid, pixels=bytes(40))
    identified = whole.index(b"1.2.3.4\0") + 8
    statuses = answered(battered, uid, *(whole[:cut] for cut in range(len(whole) + 1)))
    assert statuses[:identified] == [NOT_UNDERSTOOD] * identified
    assert statuses[identified:] == [SUCCESS] * (len(whole) + 1 - identified)
    assert "is kept but incomplete" in battered.news()
    battered.is_well()


def nested(depth: int, body: bytes = b"") -> bytes:
    begin = struct.pack("<HH2sxxL", 0x0008, 0x1140, b"SQ", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return begin * depth + body + end * depth


def put_in(data: bytes, what: bytes, before: int = 0x00100010) -> bytes:
    at = data.index(struct.pack("<HH", before >> 16, before & 0xFFFF))
    return data[:at] + what + data[at:]


def test_what_is_nested_10000_deep_is_kept_as_it_is(battered: Battered) -> None:
    deep = put_in(data_set("1.2.31"), nested(10_000, element(0x00080005, b"CS", b"ISO_IR 100")))
    at_the_end = data_set("1.2.32") + nested(10_000).replace(b"\x08\0\x40\x11", b"\xfe\x7f\x40\x11")
    without_end = put_in(data_set("1.2.30"), nested(10_000)[: 20 * 10_000])
    assert answered(battered, "1.2.31", deep) == [SUCCESS]
    assert answered(battered, "1.2.32", at_the_end) == [SUCCESS]
    assert answered(battered, "1.2.30", without_end) == [NOT_UNDERSTOOD]
    battered.is_well()
    with battered.connect() as peer:  # the query reads what is indexed of them
        peer.associate([(STUDY_ROOT_FIND, [EXPLICIT])])
        find = command_set({0x0002: STUDY_ROOT_FIND, 0x0100: 0x0020, 0x0110: 2, 0x0700: 0, 0x0800: 1})
        keys = element(0x00080018, b"UI", b"") + element(0x00080052, b"CS", b"IMAGE") + element(0x00081140, b"SQ", b"")
        peer.message(1, find, keys)
        while (status := peer.status()) in (0xFF00, 0xFF01):
            pass
        assert status == SUCCESS
        peer.release()
    battered.is_well()


LYING = {
    "a head element longer than all": put_in(data_set("1.2.21"), element(0x00080070, b"LO", b"x", length=0xFFFF)),
    "4 GiB announced before the names": put_in(data_set("1.2.21"), element(0x00080070, b"UN", b"x", length=0xFFFFFFFE)),
    "text of undefined length": put_in(data_set("1.2.21"), element(0x00080070, b"UT", b"x", length=0xFFFFFFFF)),
    "a sequence longer than all": put_in(data_set("1.2.21"), element(0x00081140, b"SQ", b"", length=0x7FFFFFFF)),
    "a delimiter that ends nothing": put_in(data_set("1.2.21"), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)),
    "no VR": put_in(data_set("1.2.21"), struct.pack("<HH2sH", 8, 0x70, b"\0\0", 4) + b"abcd"),
    "a whole file": bytes(128) + b"DICM" + data_set("1.2.21"),
    "the other byte order": b"".join(
        struct.pack(">HH2sH", tag >> 16, tag & 0xFFFF, b"UI", 6) + b"1.2.21" for tag in (0x00080016, 0x00080018)
    ),
    "Implicit VR": b"".join(
        struct.pack("<HHL", tag >> 16, tag & 0xFFFF, 6) + b"1.2.21" for tag in (0x00080016, 0x00080018, 0x0020000D)
    ),
    "a data set of commands": echo_rq(),
    "an image": b"\x89PNG\r\n\x1a\n" + random.Random(5).randbytes(5000),
    "a program": b"MZ" + random.Random(6).randbytes(5000),
}


@pytest.mark.parametrize("name", LYING)
def test_a_head_that_lies_is_not_understood(battered: Battered, name: str) -> None:
    assert answered(battered, "1.2.21", LYING[name]) == [NOT_UNDERSTOOD]
    battered.wait_for_news("(status C000)")
    battered.is_well()


def test_lies_behind_the_head_are_kept_as_they_came(battered: Battered) -> None:
    head = data_set("1.2.20")[: -12 - 4]
    lies = [
        element(0x00280010, b"US", b"\0\2", length=0xFFFF),
        element(0x00280008, b"IS", b"2147483647"),
        element(0x7FE00010, b"OW", b"ab", length=0xFFFFFFFE),
        element(0x7FE00010, b"OB", struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFF0), length=0xFFFFFFFF),
        element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) + b"junk behind it",
        struct.pack("<HH2sH", 0x0030, 0, b"??", 4) + b"abcd",
        b"\0",
    ]
    assert answered(battered, "1.2.20", *(head + lie for lie in lies)) == [SUCCESS] * len(lies)
    battered.is_well()


def test_a_million_elements_and_a_deflate_bomb_take_no_memory(battered: Battered) -> None:
    peak = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
    status = Path(f"/proc/{battered.service.pid}/status")
    (before,) = peak.findall(status.read_text())
    tiny = element(0x00290010, b"LO", b"") * 1_000_000
    assert answered(battered, "1.2.11", data_set("1.2.11")[:-16] + tiny) == [SUCCESS]
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = compressor.compress(data_set("1.2.12")[:-16] + element(0x00290010, b"OB", b"", length=0xFFFFFFFE))
    for _ in range(512):
        bomb += compressor.compress(bytes(1 << 20))
    bomb += compressor.flush()
    assert len(bomb) < 1 << 20
    assert answered(battered, "1.2.12", bomb, syntax=DEFLATED) == [SUCCESS]
    (after,) = peak.findall(status.read_text())
    assert int(after) - int(before) < 40_000
    battered.is_well()


def test_data_sets_with_any_bytes_changed_are_kept_or_refused(battered: Battered) -> None:
    chance = random.Random(7)
    uid = "1.2.10"
    whole = put_in(data_set(uid, pixels=bytes(60)), nested(3, element(0x00080005, b"CS", b"ISO_IR 100")))
    broken = []
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        broken.append(bytes(data[: chance.randint(len(data) // 2, len(data))]))
    statuses = set(answered(battered, uid, *broken))
    assert {SUCCESS, NOT_UNDERSTOOD} <= statuses <= {SUCCESS, NOT_UNDERSTOOD, MISMATCH}
    battered.is_well()


def test_a_store_that_was_refused_is_read_to_its_end_and_the_next_one_served(battered: Battered) -> None:
    with battered.association() as peer:
        for number in range(20):
            assert peer.store("..", bytes(300_000)) == NOT_UNDERSTOOD
            assert peer.store(f"1.2.9.{number}", data_set(f"1.2.9.{number}")) == SUCCESS
        peer.release()
    assert {f"1.2.9.{number}" for number in range(20)} <= set(battered.kept())
    battered.is_well()


def test_a_message_in_a_context_that_was_refused_is_aborted(battered: Battered) -> None:
    with battered.connect() as peer:
        peer.associate([(VERIFICATION, [IMPLICIT]), (CT_IMAGE, ["1.2.840.10008.1.2.4.94"])])
        peer.send(pdu(DATA, pdv(3, store_rq(CT_IMAGE, "1.2.8"), command=True)))
        assert peer.ending() == ABORT
    battered.wait_for_news("message in presentation context 3, which was not accepted")
    battered.is_well()


def test_two_associations_store_the_same_instance_at_once(battered: Battered) -> None:
    uid = "1.2.7"
    data = data_set(uid, pixels=bytes(1000))
    other = data_set(uid, pixels=b"\1" * 1000)
    peers = [RawPeer(battered.service.peer) for _ in range(6)]
    for peer in peers:
        peer.associate()
        peer.send(pdu(DATA, pdv(3, store_rq(CT_IMAGE, uid), command=True)))
    for number, peer in enumerate(peers):
        peer.send(pdu(DATA, pdv(3, other if number % 2 else data)))
    assert [peer.status() for peer in peers] == [SUCCESS] * 6
    for peer in peers:
        peer.release()
        peer.socket.close()
    assert sorted(copy.data_set() for copy in battered.kept()[uid]) == sorted([data, other])
    assert "conflict: 1.2.7 came from RAWPEER@127.0.0.1 with other bytes than before" in battered.news()
    battered.is_well()
    assert FIRST in battered.kept()
