"""The character set of C-FIND answers: what is chosen, and that others can read it."""

import io
import random
import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from angiovault.archive.finding.answers import DEVICE_LABELS, Values, encode, transcode
from angiovault.archive.names import character_set, decode, interpret

NAME, DESCRIPTION, COMMENTS, UID, STEPS = 0x00100010, 0x00081030, 0x00104000, 0x0020000D, 0x00400275
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"
CHINESE = "Wang^XiaoDong=王^小东"
LATIN = "Müller^Jörg"


def padded(raw: bytes) -> bytes:
    return raw + b" " * (len(raw) % 2)


def one(text: str, label: bytes, vr: str = "PN") -> Values:
    return {NAME: (vr, padded(encode(text, character_set(label), vr)))}


def read_by_pydicom(raw: bytes, label: bytes) -> str:
    """What pydicom reads, which leaves the escape sequence of GB 2312 in the text."""
    encodings = convert_encodings(label.decode().split("\\"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = str(PersonName(raw.rstrip(b" ")).decode(encodings))
    return text.replace("\x1b$)A", "")


def as_others_read(text: str, label: bytes) -> str:
    """Map the middle dot: the code it has in GB 2312 is a Katakana middle dot to pydicom and to the C library."""
    return text.replace("·", "・") if label.endswith(b"58") else text


def read_by_dcmtk(raw: bytes, label: bytes, folder: Path) -> str:
    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<2H2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value

    syntax = element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
    meta = element(0x00020000, b"UL", struct.pack("<I", len(syntax))) + syntax
    data = element(0x00080005, b"CS", padded(label)) + element(NAME, b"PN", raw)
    (folder / "answer.dcm").write_bytes(bytes(128) + b"DICM" + meta + data)
    subprocess.run(["dcmconv", "+U8", "answer.dcm", "utf8.dcm"], cwd=folder, check=True, capture_output=True)
    value = pydicom.dcmread(folder / "utf8.dcm", force=True).get_item("PatientName").value
    return str(value.decode().rstrip(" "))


# Which set


@pytest.mark.parametrize("setting", DEVICE_LABELS)
def test_plain_text_stays_and_takes_the_requested_label(setting: str) -> None:
    values = {NAME: ("PN", b"WANG^XIAODONG"), UID: ("UI", b"1.2\0"), 0x7FE00010: ("OB", b"\xff\x1b")}
    assert transcode(values, b"ISO_IR 100", b"ISO_IR 192 ", setting) == (b"ISO_IR 192", values)
    for nothing in (None, b"", b" ", b"NONSENSE"):
        assert transcode(values, b"GB18030", nothing, setting) == (b"", values)


@pytest.mark.parametrize("setting", DEVICE_LABELS)
@pytest.mark.parametrize("stored", [b"GB18030", b"GBK", b"ISO_IR 192", b"\\ISO 2022 IR 58"])
@pytest.mark.parametrize(
    "requested", [b"ISO_IR 192", b"GB18030", b"GBK", b"\\ISO 2022 IR 58", b"ISO 2022 IR 6\\ISO 2022 IR 58"]
)
def test_the_requested_set_comes_first(setting: str, stored: bytes, requested: bytes) -> None:
    label, values = transcode(one(CHINESE, stored), stored, requested, setting)
    assert label == requested
    vr, raw = values[NAME]
    assert vr == "PN"
    assert len(raw) % 2 == 0
    assert interpret(raw.rstrip(b" "), character_set(requested)) == (CHINESE, True)
    assert read_by_pydicom(raw, requested) == CHINESE


@pytest.mark.parametrize("requested", [None, b"ISO_IR 100", b"ISO_IR 6", b"ISO_IR 144", b"NONSENSE"])
@pytest.mark.parametrize("setting", DEVICE_LABELS)
def test_the_setting_comes_second(setting: str, requested: bytes | None) -> None:
    stored = one(CHINESE, b"ISO_IR 192")
    label, values = transcode(stored, b"ISO_IR 192 ", requested, setting)
    if setting in ("auto", "ISO_IR 100"):  # Latin-1 cannot hold it
        assert (label, values) == (b"ISO_IR 192", stored)
    else:
        assert label == DEVICE_LABELS[setting]
        assert read_by_pydicom(values[NAME][1], label) == CHINESE
    assert decode(values[NAME][1].rstrip(b" "), label) == CHINESE


@pytest.mark.parametrize("setting", DEVICE_LABELS)
def test_what_no_set_holds_goes_back_as_it_was_stored(setting: str) -> None:
    stored = one(KOREAN, b"\\ISO 2022 IR 149")
    label, values = transcode(stored, b"\\ISO 2022 IR 149", b"ISO_IR 144", setting)
    if setting in ("GB18030", "ISO_IR 192"):
        assert (label, read_by_pydicom(values[NAME][1], label)) == (DEVICE_LABELS[setting], KOREAN)
    else:
        assert (label, values) == (b"\\ISO 2022 IR 149", stored)


@pytest.mark.parametrize("stored_label", [b"", b"ISO_IR 100", b"ISO_IR 6"])
def test_auto_corrects_a_wrong_label(stored_label: bytes) -> None:
    gbk = {NAME: ("PN", padded(CHINESE.encode("gbk"))), DESCRIPTION: ("LO", padded("头部".encode("gbk")))}
    assert transcode(gbk, stored_label, None, "auto") == (b"GB18030", gbk)
    label, values = transcode(gbk, stored_label, b"ISO_IR 192", "auto")
    assert (label, values[DESCRIPTION]) == (b"ISO_IR 192", ("LO", "头部".encode()))
    utf8 = {NAME: ("PN", padded(CHINESE.encode()))}
    assert transcode(utf8, stored_label, None, "auto") == (b"ISO_IR 192", utf8)
    mixed = {NAME: ("PN", padded(CHINESE.encode("gbk"))), DESCRIPTION: ("LO", "头部".encode())}
    label, values = transcode(mixed, stored_label, None, "auto")
    assert (label, values[NAME]) == (b"ISO_IR 192", ("PN", padded(CHINESE.encode())))


def test_auto_corrects_a_label_that_declares_too_little() -> None:
    stored = one(JAPANESE, b"\\ISO 2022 IR 87")
    assert transcode(stored, b"\\ISO 2022 IR 87", None, "auto") == (b"\\ISO 2022 IR 87", stored)
    answer = {NAME: ("PN", padded(JAPANESE.encode()))}
    assert transcode(stored, b"ISO_IR 100", None, "auto") == (b"ISO_IR 192", answer)


def test_auto_leaves_a_right_label_alone() -> None:
    latin = {NAME: ("PN", b"M\xfcller^J\xf6rg ")}
    assert transcode(latin, b"ISO_IR 100", None, "auto") == (b"ISO_IR 100", latin)
    label, values = transcode(latin, b"", None, "auto")
    assert (label, values) == (b"ISO_IR 192", {NAME: ("PN", padded(LATIN.encode()))})


def test_undecodable_text_is_never_replaced() -> None:
    for end in (b"", b" "):
        cut: Values = {NAME: ("PN", "张三丰".encode("gb18030")[:-1] + end)}
        for requested in (b"ISO_IR 192", b"GBK", None):
            for setting in DEVICE_LABELS:
                label, values = transcode(cut, b"GB18030", requested, setting)
                assert values == cut
                assert label in (b"GB18030", b"GBK")


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown character set setting 'UTF-8'"):
        transcode({}, b"", None, "UTF-8")


def test_only_text_is_encoded() -> None:
    values: Values = {
        NAME: ("PN", b"\xcd\xf5"),
        UID: ("UI", b"1.2\xcd\xf5"),
        0x00080060: ("CS", b"\xcd\xf5"),
        0x00091001: ("UN", b"\xcd\xf5"),
        COMMENTS: ("LT", "头\r\n部 ".encode("gbk")),
    }
    label, answer = transcode(values, b"GB18030", b"ISO_IR 192", "auto")
    assert label == b"ISO_IR 192"
    assert answer == {**values, NAME: ("PN", "王 ".encode()), COMMENTS: ("LT", "头\r\n部".encode())}


# How it is encoded


@pytest.mark.parametrize(
    ("text", "label", "raw"),
    [
        (
            JAPANESE,
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        ),
        (
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
            b"ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
        ),
        (
            KOREAN,
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        ),
        ("Zhang^XiaoDong=张^小东=", b"\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="),
        ("丂^A", b"\\ISO 2022 IR 159", b"\x1b$(D0!\x1b(B^A"),
        ("ü^王^ü", b"ISO 2022 IR 100\\ISO 2022 IR 58", b"\xfc^\x1b$)A\xcd\xf5\x1b-A^\xfc"),
    ],
)
def test_escape_sequences_are_those_of_the_standard(text: str, label: bytes, raw: bytes) -> None:
    """PS3.5 annexes H, I and K."""
    assert encode(text, character_set(label)) == raw


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("é", b""),
        ("王", b"ISO_IR 100"),
        ("喆", b"\\ISO 2022 IR 58"),
        ("\U00020087", b"GBK"),
        ("뷁", b"\\ISO 2022 IR 149"),
        ("山", b"ISO_IR 13"),
        ("ﾔ", b"\\ISO 2022 IR 87"),
        ("\x1b", b"ISO_IR 100"),
        ("Ж", b"ISO 2022 IR 100\\ISO 2022 IR 126"),
    ],
)
def test_what_a_set_does_not_have_is_refused(text: str, label: bytes) -> None:
    with pytest.raises(UnicodeEncodeError):
        encode(text, character_set(label))


NAMES = [
    JAPANESE, KOREAN, CHINESE, LATIN, "=王A小B^C东", "王 小^四", "Люкc^И=Ж", "Διον^É", "قباني^لنزار", "=井^森",
    "ﾔﾏ", "李·四", "四A\\四",
]  # fmt: skip
LABELS = [
    b"GB18030", b"GBK", b"ISO_IR 192", b"ISO_IR 100", b"ISO_IR 144", b"ISO_IR 127", b"ISO_IR 13", b"\\ISO 2022 IR 58",
    b"\\ISO 2022 IR 149", b"ISO 2022 IR 100\\ISO 2022 IR 58", b"ISO 2022 IR 100\\ISO 2022 IR 126",
    b"ISO 2022 IR 6\\ISO 2022 IR 87", b"ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 159",
]  # fmt: skip
HELD = [
    (n, label)
    for n in NAMES
    for label in LABELS
    if transcode(one(n, b"ISO_IR 192"), b"ISO_IR 192", label, "auto")[0] == label
]


def test_the_cases_below_are_many() -> None:
    assert len(HELD) > 60


@pytest.mark.parametrize(("text", "label"), HELD)
def test_pydicom_reads_every_answer(text: str, label: bytes) -> None:
    raw = transcode(one(text, b"ISO_IR 192"), b"ISO_IR 192", label, "auto")[1][NAME][1]
    assert interpret(raw.rstrip(b" "), character_set(label)) == (text, True)
    assert read_by_pydicom(raw, label) == as_others_read(text, label)


@pytest.mark.skipif(not shutil.which("dcmconv"), reason="needs DCMTK's dcmconv")
@pytest.mark.parametrize(("text", "label"), [(n, s) for n, s in HELD if b"87" not in s and b"13" not in s])
def test_dcmtk_reads_every_answer(text: str, label: bytes, tmp_path: Path) -> None:
    """Without the Japanese sets, which DCMTK cannot convert when it is built on the C library."""
    raw = transcode(one(text, b"ISO_IR 192"), b"ISO_IR 192", label, "auto")[1][NAME][1]
    assert read_by_dcmtk(raw, label, tmp_path) == as_others_read(text, label)


def test_delimiter_bytes_inside_characters() -> None:
    """秀 and 神 in JIS X 0208 hold the bytes of ``=`` and ``@``; pydicom would split the name there."""
    label = b"\\ISO 2022 IR 87"
    for text in ("秀神^井", "=秀森^井"):
        raw = encode(text, character_set(label))
        assert b"=(" in raw
        assert interpret(raw, character_set(label)) == (text, True)


@pytest.mark.parametrize("text", ["左^右", "a=王b=东", "王\\小", "王\r\nA小", "a\t东"])
@pytest.mark.parametrize("vr", ["SH", "LO", "ST", "LT", "UC", "UT"])
@pytest.mark.parametrize("label", [b"\\ISO 2022 IR 58", b"ISO 2022 IR 100\\ISO 2022 IR 58", b"\\ISO 2022 IR 87"])
def test_other_text_than_names(text: str, vr: str, label: bytes) -> None:
    raw = encode(text, character_set(label), vr) if "东" not in text or b"87" not in label else None
    if raw is None:
        with pytest.raises(UnicodeEncodeError):
            encode(text, character_set(label), vr)
        return
    assert interpret(raw, character_set(label)) == (text, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = [
            decode_bytes(part, convert_encodings(label.decode().split("\\")), set(b"\r\n\t\f"))
            for part in raw.split(b"\\")
        ]
    assert "\\".join(read).replace("\x1b$)A", "") == text


@pytest.mark.parametrize(
    "path", [p for p in get_charset_files("*.dcm") if "SQEncoding" not in p], ids=lambda p: Path(p).stem
)
@pytest.mark.parametrize("target", [b"ISO_IR 192", b"GB18030"])
def test_the_test_files_of_pydicom_go_there_and_back(path: str, target: bytes) -> None:
    data = pydicom.dcmread(path)
    stored = data.get_item("SpecificCharacterSet").value
    stored = (stored if isinstance(stored, str) else "\\".join(stored)).encode()
    values = {NAME: ("PN", data.get_item("PatientName").value)}
    text = decode(values[NAME][1], stored).rstrip(" ")
    label, answer = transcode(values, stored, target, "auto")
    if character_set(stored) == character_set(target):
        assert answer == values
    assert (label, decode(answer[NAME][1], target).rstrip(" ")) == (target, text)
    label, back = transcode(answer, target, stored, "auto")
    assert (label, decode(back[NAME][1], stored).rstrip(" ")) == (stored, text)


# Sequences


def nested(label: str, undefined: bool = False) -> Dataset:
    """A data set with a sequence in a sequence; an item with a set of its own, a private element, numbers."""
    inner, other, outer, data = Dataset(), Dataset(), Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "冠状动脉造影"
    other.SpecificCharacterSet, other.CodeMeaning = "ISO_IR 144", "Люкc"
    outer.ScheduledProcedureStepDescription, outer.Rows = "造影", 0xC3C3
    outer.add_new(0x00091001, "UN", b"\xcd\xf5\xff")
    outer.ScheduledProtocolCodeSequence = Sequence([inner, other, Dataset()])
    data.SpecificCharacterSet = label
    data.RequestAttributesSequence = Sequence([outer, Dataset()])
    for part in (inner, other, outer):
        part.is_undefined_length_sequence_item = undefined
    for owner, keyword in ((data, "RequestAttributesSequence"), (outer, "ScheduledProtocolCodeSequence")):
        owner[keyword].is_undefined_length = undefined
    return data


def items_of(data: Dataset) -> bytes:
    """The bytes of the items of the one sequence in `data`."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, implicit_vr=False, little_endian=True)
    encoded = stream.getvalue()
    return encoded[encoded.index(struct.pack("<2H2s", 0x0040, 0x0275, b"SQ")) + 12 :]


def items_read(raw: bytes, label: bytes) -> Sequence:
    return read_sequence(io.BytesIO(raw), False, True, len(raw), convert_encodings(label.decode().split("\\")))


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("stored", ["GB18030", "ISO_IR 192"])
@pytest.mark.parametrize("target", [b"GB18030", b"ISO_IR 192"])
def test_text_in_sequences_is_encoded_too(stored: str, target: bytes, undefined: bool) -> None:
    raw = items_of(nested(stored, undefined))
    label, values = transcode({STEPS: ("SQ", raw)}, stored.encode(), target, "auto")
    assert label == target
    items = items_read(values[STEPS][1], target)
    assert len(items) == 2
    assert items[0].ScheduledProcedureStepDescription == "造影"
    assert items[0].Rows == 0xC3C3
    assert items[0][0x00091001].value[:3] == b"\xcd\xf5\xff"
    inner, other, empty = items[0].ScheduledProtocolCodeSequence
    assert (inner.CodeValue, inner.CodeMeaning) == ("1", "冠状动脉造影")
    assert (other.SpecificCharacterSet, other.CodeMeaning) == (target.decode(), "Люкc")
    assert len(empty) == 0


def test_auto_corrects_the_label_of_text_in_sequences() -> None:
    data = nested("GB18030")
    del data.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[1]
    raw = items_of(data)
    assert transcode({STEPS: ("SQ", raw)}, b"ISO_IR 100", None, "auto") == (b"GB18030", {STEPS: ("SQ", raw)})


def test_sequences_without_text_stay_as_they_are() -> None:
    item = Dataset()
    item.Rows, item.CodeMeaning = 0xC3C3, "plain"
    data = Dataset()
    data.RequestAttributesSequence = Sequence([item])
    values = {STEPS: ("SQ", items_of(data))}
    assert transcode(values, b"GB18030", None, "ISO_IR 192") == (b"", values)


def test_broken_sequences_go_back_as_stored() -> None:
    whole = items_of(nested("GB18030"))
    deep = b"".join(b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" for _ in range(10_000))
    long = b"\xfe\xff\x00\xe0\x10\0\0\0\x08\x00\x04\x01LO\xff\x00" + b"\xcd\xf5" * 4
    undefined = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x09\x00\x01\x10UN\0\0\xff\xff\xff\xff" + b"\xcd" * 8
    for raw in (whole[:-9], whole[2:], b"\xff" * 11, deep, long, undefined):
        values = {STEPS: ("SQ", raw), NAME: ("PN", b"\xcd\xf5")}
        assert transcode(values, b"GB18030", b"ISO_IR 192", "ISO_IR 192") == (b"GB18030", values)


# Anything


def test_random_values_never_raise_and_never_lose_text() -> None:
    chance = random.Random(11)
    labels = [*LABELS, b"", b"ISO_IR 6", b"NONSENSE", b"\xff\xfe", b"idna", b"ISO 2022 IR 58"]
    pieces = [
        b"\x1b$B;3",
        b"\x1b$)A\xcd\xf5",
        b"\x1b(B",
        b"^",
        b"=",
        b"\\",
        b"\xe7\x8e\x8b",
        b"\xcd\xf5",
        b"\xfc",
        b"A",
    ]
    kept = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10_000):
            raw = b"".join(chance.choices(pieces, k=chance.randrange(6))) + chance.randbytes(
                chance.choice([0, 0, 0, 2])
            )
            values: Values = {NAME: (chance.choice(["PN", "LO", "LT"]), raw)}
            if chance.random() < 0.3:
                values[STEPS] = ("SQ", chance.randbytes(chance.randrange(30)))
            stored, requested = chance.choice(labels), chance.choice([*labels, None])
            label, answer = transcode(values, stored, requested, chance.choice(list(DEVICE_LABELS)))
            if answer != values:
                kept += 1
                assert len(answer[NAME][1]) % 2 == 0
                text, valid = interpret(answer[NAME][1].rstrip(b" \0"), character_set(label))
                assert valid
                assert text == decode(raw, stored).rstrip(" \0")
    assert kept > 1000
