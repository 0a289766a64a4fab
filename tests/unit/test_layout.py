"""Where an instance lies: names that a person can read, that every file system takes, and that leave no folder."""

import random
import re
from pathlib import PurePosixPath

import pytest

from angiovault.archive import layout
from angiovault.archive.header import Header

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
CHARACTER_SET, DATE, MODALITY, SERIES_DESCRIPTION = 0x00080005, 0x00080020, 0x00080060, 0x0008103E
NAME, PATIENT_ID, SERIES_NUMBER, INSTANCE_NUMBER = 0x00100010, 0x00100020, 0x00200011, 0x00200013
DIGEST = "0123456789abcdef" * 4

PLAIN = {
    CHARACTER_SET: b"ISO_IR 192",
    SOP_CLASS: b"1.2.840.10008.5.1.4.1.1.12.1",
    SOP_INSTANCE: b"1.2.3.4",
    STUDY: b"1.2.3",
    SERIES: b"1.2.3.7",
    DATE: b"20261122",
    MODALITY: b"XA",
    SERIES_DESCRIPTION: b"LCA 30 LAO",
    NAME: "ZHANG^SAN=张^三".encode(),
    PATIENT_ID: b"12345 ",
    SERIES_NUMBER: b"1 ",
    INSTANCE_NUMBER: b"12",
}


def _place(replaced: dict[int, bytes] | None = None, syntax: str = "1.2.840.10008.1.2.1") -> PurePosixPath:
    return layout.place(Header(syntax, PLAIN | (replaced or {}), True, ""), DIGEST)


def test_a_person_can_read_it() -> None:
    assert re.fullmatch(
        r"2026/2026-11/2026-11-22_ZHANG\^SAN_12345_[0-9a-f]{8}/001_XA_LCA_30_LAO_[0-9a-f]{8}/"
        r"0012_1\.2\.3\.4_[0-9a-f]{16}\.dcm",
        str(_place()),
    )
    chinese = _place({NAME: "张^三".encode(), SERIES_DESCRIPTION: "左冠".encode()})
    assert "2026-11-22_张^三_12345_" in str(chinese)
    assert "001_XA_左冠_" in str(chinese)
    gbk = _place({NAME: "李^秀英".encode("gbk"), CHARACTER_SET: b""})
    assert "李^秀英" in str(gbk)


def test_the_content_decides() -> None:
    assert _place() == _place()
    assert _place(syntax="1.2.840.10008.1.2.5") != _place()
    assert layout.place(Header("1.2.840.10008.1.2.1", PLAIN, True, ""), "f" * 64) != _place()
    assert _place({STUDY: b"1.2.4"}).parts[2] != _place().parts[2]
    assert _place({SERIES: b"1.2.3.8"}).parts[3] != _place().parts[3]


@pytest.mark.parametrize("date", [b"", b"2026", b"20261322", b"20261132", b"00000000", b"../../..", b"20261122-"])
def test_dates_that_are_none(date: bytes) -> None:
    place = _place({DATE: date})
    assert place.parts[:2] in (("undated", "undated"), ("2026", "2026-11"))
    assert place.parts[0] == ("2026" if date == b"20261122-" else "undated")


def test_the_old_form_of_a_date() -> None:
    assert _place({DATE: b"2026.11.22"}).parts[:2] == ("2026", "2026-11")


HOSTILE = [
    b"..",
    b"../../../../etc/passwd",
    b"/absolute",
    b"C:\\windows\\system32",
    b"nul\0byte",
    b"new\nline\r",
    b".",
    b" ",
    b"~",
    b"~root",
    b"#recycle",
    b"@eaDir",
    b".hidden",
    b"-rf *",
    b"$(reboot)`id`;&|",
    b"\x1b[31m",
    b"\xff\xfe\xfd",
    "\u202e\u200b\ufeff".encode(),
    ("龘" * 64).encode(),
    ("𝕏" * 64).encode(),
    ("e\u0301" * 64).encode(),
    b"A" * 5000,
]


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_hostile_values(value: bytes) -> None:
    text = dict.fromkeys(
        (DATE, MODALITY, SERIES_DESCRIPTION, NAME, PATIENT_ID, SERIES_NUMBER, INSTANCE_NUMBER, CHARACTER_SET), value
    )
    for replaced in (text, text | {CHARACTER_SET: b"ISO_IR 192"}):
        _is_safe(_place(replaced))


def test_random_values() -> None:
    chance = random.Random(7)
    for _ in range(2000):
        tags = (DATE, MODALITY, SERIES_DESCRIPTION, NAME, PATIENT_ID, SERIES_NUMBER, INSTANCE_NUMBER)
        replaced = {tag: chance.randbytes(chance.randrange(80)) for tag in tags}
        character_set = chance.choice((b"", b"ISO_IR 192", b"GB18030", b"ISO 2022 IR 58", b"\\ISO 2022 IR 87", b"?"))
        _is_safe(_place(replaced | {CHARACTER_SET: character_set}))


def test_the_longest_of_everything() -> None:
    long = ("龘" * 64).encode()
    replaced = {NAME: long, PATIENT_ID: long, SERIES_DESCRIPTION: long, MODALITY: b"M" * 16}
    numbers = {SERIES_NUMBER: b"999999999", INSTANCE_NUMBER: b"999999999"}
    uids = dict.fromkeys((SOP_INSTANCE, STUDY, SERIES), b"1" * 64)
    _is_safe(_place(replaced | numbers | uids))


def _is_safe(place: PurePosixPath) -> None:
    assert len(place.parts) == 5
    assert not place.is_absolute()
    assert place.suffix == ".dcm"
    for part in place.parts:
        assert 0 < len(part.encode()) <= layout.LONGEST_NAME
        assert part[0].isalnum()  # so no part is hidden, '.', '..', or one that listing leaves out
        assert part[-1] not in " ."
        assert all(sign.isalnum() or sign in "^-._" for sign in part)
