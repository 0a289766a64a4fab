"""Matching of single attributes (PS3.4 C.2.2.2), without a database."""

import pytest

from angiovault.archive import elements
from angiovault.archive.finding.matching import Key, all_match, combined

TAG = 0x00100010
DATE, TIME = 0x00080021, 0x00080031


def key_of(vr: str, value: str | bytes, label: bytes = b"") -> Key:
    encoded = value if isinstance(value, bytes) else value.encode("gb18030" if label == b"GB18030" else "utf-8")
    return Key(vr, encoded, label)


def match(vr: str, key: str | bytes, stored: str | bytes | None, label: bytes = b"", stored_label: bytes = b"") -> bool:
    values = {}
    if stored is not None:
        raw = (
            stored if isinstance(stored, bytes) else stored.encode("gb18030" if stored_label == b"GB18030" else "utf-8")
        )
        values = {TAG: (vr, raw)}
    return all_match({TAG: key_of(vr, key, label)}, values, stored_label)


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("LO", ""), ("LO", "  "), ("LO", b"\0"), ("LO", "*"), ("LO", "***"), ("LO", "\\"), ("LO", "a\\*"),
        ("LO", b"\t "),
        ("PN", ""), ("PN", "*"), ("PN", "^^^^"), ("PN", "^"), ("PN", "="), ("PN", "*^*"), ("PN", "*=*"),
        ("PN", "*^*^*^*^*"), ("LO", "＊"),
        ("DA", ""), ("DA", "*"), ("TM", " "), ("UI", ""), ("UI", b"\0"), ("UI", "*"), ("UI", "\\"), ("IS", " "),
        ("US", b""),
        ("SQ", b""),
    ],
)  # fmt: skip
def test_keys_that_match_everything(vr: str, value: str | bytes) -> None:
    key = key_of(vr, value)
    assert key.universal
    assert all_match({TAG: key}, {}, b"")
    assert all_match({TAG: key}, {TAG: (vr, b"1" if vr != "SQ" else b"")}, b"")


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("LO", "?"),
        ("LO", "?*"),
        ("LO", '""'),
        ("PN", "?"),
        ("DA", "-"),
        ("US", b"\0\0"),
        ("US", b"\x20\0"),
        ("IS", "0"),
    ],
)
def test_keys_that_do_not_match_everything(vr: str, value: str | bytes) -> None:
    assert not key_of(vr, value).universal
    assert not match(vr, value, None)


@pytest.mark.parametrize(
    ("key", "stored", "expected"),
    [
        ("HEAD", "HEAD", True),
        ("head", "HEAD ", True),
        ("HEAD", "HEADS", False),
        ("HE?D", "HEAD", True),
        ("HE?D", "HED", False),
        ("H*", "HEAD", True),
        ("*D", "HEAD", True),
        ("*E*D*", "HEAD", True),
        ("D*", "HEAD", False),
        ("NECK\\HEAD", "HEAD", True),
        ("NECK\\H*", "HEAD", True),
        ("NECK\\ARM", "HEAD", False),
        ("PRIMARY", "DERIVED\\PRIMARY", True),
        ("[H]EAD", "HEAD", False),
        ("H%", "HEAD", False),
        ("H%", "H%", True),
        ("HEA_", "HEAD", False),
        ("' OR 1=1 --", "HEAD", False),
        ('""', "", False),
        ("血管", "脑血管", False),
        ("*血管*", "脑血管造影", True),
        ("ｈｅａｄ", "HEAD", True),
    ],
)
def test_text(key: str, stored: str, expected: bool) -> None:
    assert match("LO", key, stored, b"ISO_IR 192", b"ISO_IR 192") is expected
    assert match("LO", key, stored, b"GB18030", b"ISO_IR 192") is expected
    assert match("LO", key, stored, b"GB18030", b"GB18030") is expected


@pytest.mark.parametrize(
    "key",
    [
        "ZHANG^SAN", "zhang^san", "ZHANG^SAN^^^", "Zhang*", "Z?ANG*", "*san", "张^三", "张*", "*三", "ZHANG^SAN=张^三",
        "ZHANG^SAN^*",
        "ZHANG*=*", "*=张*", "=张^三", "LI^SI\\ZHANG^*", "张^三^^^^", "*三*", "ZHANG^SAN^*^*^*",
    ],
)  # fmt: skip
@pytest.mark.parametrize("label", [b"GB18030", b"ISO_IR 192"])
def test_names_are_found_by_any_component_group(key: str, label: bytes) -> None:
    assert match("PN", key, "Zhang^San=张^三^^", label, b"GB18030")


@pytest.mark.parametrize(
    "key", ["ZHANG", "SAN", "^SAN", "张", "张三", "*=李*", "LI*=李*", "LI^SI\\WANG*", "ZHAN", "ZHANG^SAN^MD"]
)
def test_names_that_are_others(key: str) -> None:
    assert not match("PN", key, "Zhang^San=张^三", b"ISO_IR 192", b"GB18030")


@pytest.mark.parametrize("key", ["Wang^*", "Wang^*^*", "WANG*", "wang^", "W*^*"])
def test_components_that_are_left_out_are_empty(key: str) -> None:
    assert match("PN", key, "Wang")


@pytest.mark.parametrize(
    ("key", "stored", "expected"),
    [
        ("20240312", "20240312", True),
        ("20240312", "2024.03.12", True),
        ("2024.03.12", "20240312", True),
        ("20240312", "20240313", False),
        ("20240301-20240331", "20240312", True),
        ("20240301 - 20240331", "20240312", True),
        ("20240312-20240312", "20240312", True),
        ("20240313-20240331", "20240312", False),
        ("20240301-", "20240312", True),
        ("20240313-", "20240312", False),
        ("-20240312", "20240312", True),
        ("-20240311", "20240312", False),
        ("-", "20240312", True),
        ("-", "", False),
        ("-20240312", "", False),
        ("20240331-20240301", "20240312", False),
        ("20240101\\20240312", "20240312", True),
        ("20240101\\20240301-20240331", "20240312", True),
        ("2024-03-12", "20240312", False),
        ("2024-13-99", "20240312", False),
        ("a-b", "20240312", False),
        ("2024", "20240312", False),
        ("202403*", "20240312", False),
        ("--", "20240312", False),
        ("20240301-20240331-", "20240312", False),
        ("２０２４０３１２", "20240312", False),
    ],
)
def test_dates(key: str, stored: str, expected: bool) -> None:
    assert match("DA", key, stored, b"ISO_IR 192") is expected


@pytest.mark.parametrize(
    ("key", "stored", "expected"),
    [
        ("0920", "092000", True),
        ("0920", "092059.999999", True),
        ("0920", "092100", False),
        ("092000", "0920", True),
        ("09:20:00", "092000.0", True),
        ("092000", "09:20:00", True),
        ("09", "095959", True),
        ("092000.5", "092000.500000", True),
        ("092000.5", "092000.51", True),
        ("092000.5", "092000.6", False),
        ("09-10", "105959.9", True),
        ("09-10", "110000", False),
        ("0900-", "0859", False),
        ("-0920", "092030", True),
        ("-0920", "", False),
        ("9:20", "092000", False),
        ("noon", "120000", False),
        ("0900-noon", "092000", False),
        ("092000.1234567", "092000.1234567", False),
    ],
)
def test_times(key: str, stored: str, expected: bool) -> None:
    assert match("TM", key, stored) is expected


@pytest.mark.parametrize(
    ("key", "stored", "expected"),
    [
        ("20240312092000", "20240312092000.000000", True),
        ("20240312", "20240312092000.5+0800", True),
        ("20240312-20240313", "20240313235959", True),
        ("202403-", "20240312092000", True),
        ("2024-2025", "20251231", True),
        ("20240312092000-0500", "20240312092000-0500", True),
        ("20240312092000-0500-20240312100000-0500", "20240312093000", True),
        ("-2023", "20240312", False),
        ("yesterday", "20240312", False),
        ("20240312", "", False),
    ],
)
def test_date_times(key: str, stored: str, expected: bool) -> None:
    assert match("DT", key, stored) is expected


@pytest.mark.parametrize(
    ("dates", "times", "stored", "expected"),
    [
        ("20240101-20240103", "1000-1200", ("20240102", "0800"), True),  # within the days, outside the hours
        ("20240101-20240103", "1000-1200", ("20240101", "0959"), False),
        ("20240101-20240103", "1000-1200", ("20240101", "1000"), True),
        ("20240101-20240103", "1000-1200", ("20240103", "120030"), True),
        ("20240101-20240103", "1000-1200", ("20240103", "1201"), False),
        ("20240101-20240103", "1000-", ("20240103", "2359"), True),
        ("20240101-20240103", "-1200", ("20240101", "0001"), True),
        ("20240101-", "1000-1200", ("20290101", "2359"), True),
        ("-20240103", "1000-1200", ("20200101", "0001"), True),
        ("-20240103", "1000-1200", ("20240103", "1300"), False),
        ("20240101", "1000-1200", ("20240101", "1100"), True),
        ("20240101", "1000-1200", ("20240101", "1300"), False),
        ("20240101-20240103", "1000-1200", ("20240102", ""), True),
        ("20240101-20240103", "1000-1200", ("20240101", ""), False),
        ("20240101-20240103", "1000-1200", ("20240103", ""), False),
        ("20240101-20240103", "1000-1200", ("", "1100"), False),
    ],
)
def test_date_and_time_together(dates: str, times: str, stored: tuple[str, str], expected: bool) -> None:
    keys = {DATE: key_of("DA", dates), TIME: key_of("TM", times)}
    values = {DATE: ("DA", stored[0].encode()), TIME: ("TM", stored[1].encode())}
    assert all_match(keys, values, b"", combined(keys)) is expected


def test_date_and_time_apart() -> None:
    keys = {DATE: key_of("DA", "20240101-20240103"), TIME: key_of("TM", "1000-1200")}
    values = {DATE: ("DA", b"20240102"), TIME: ("TM", b"0800")}
    assert not all_match(keys, values, b"")
    assert all_match(keys, values, b"", combined(keys))
    # A list of dates, or a date alone, is no pair.
    assert combined({**keys, DATE: key_of("DA", "20240101\\20240102")}) == {}
    assert combined({DATE: keys[DATE]}) == {}
    assert combined({**keys, TIME: key_of("TM", "")}) == {}


@pytest.mark.parametrize(
    ("vr", "key", "stored", "expected"),
    [
        ("IS", "+1", "1", True),
        ("IS", " 1 ", "01", True),
        ("IS", "1", " +1 ", True),
        ("IS", "1\\2", "2", True),
        ("IS", "1", "11", False),
        ("IS", "1_0", "10", False),
        ("IS", "one", "1", False),
        ("IS", "-1", "1", False),
        ("DS", "1.50", "1.5", True),
        ("DS", "15E-1", "1.5", True),
        ("DS", "nan", "1.5", False),
        ("DS", "9" * 5000, "1.5", False),
        ("US", b"\x00\x02", b"\x00\x02", True),
        ("US", b"\x00\x02", b"\x00\x04\x00\x02", True),
        ("US", b"\x00\x02", b"\x02\x00", False),
        ("US", b"\x00", b"\x00\x00", False),
        ("UI", "1.2.3", b"1.2.3\0", True),
        ("UI", "1.2\\1.2.3", b"1.2.3\0", True),
        ("UI", "1.2.*", "1.2.3", False),
        ("UI", "1.2", "1.2.3", False),
        ("AS", "063Y", "063Y", True),
    ],
)
def test_other_value_representations(vr: str, key: str | bytes, stored: str | bytes, expected: bool) -> None:
    assert match(vr, key, stored) is expected


def test_integers_leave_out_what_is_none() -> None:
    assert key_of("IS", "+1\\ 2\\x\\1_0\\" + "9" * 5000).integers == (1, 2)


def sequence(*items: dict[int, tuple[str, bytes]]) -> bytes:
    return elements.encode_items(
        {
            tag: elements.Element(vr, b"" if vr == "SQ" else value, elements.items(value) if vr == "SQ" else ())
            for tag, (vr, value) in item.items()
        }
        for item in items
    )


STEP, CODES, CODE, MEANING = 0x00400009, 0x00400008, 0x00080100, 0x00080104


def test_all_keys_of_a_sequence_have_to_match_one_item() -> None:
    stored = {
        TAG: ("SQ", sequence({STEP: ("SH", b"S1"), CODE: ("SH", b"A")}, {STEP: ("SH", b"S2"), CODE: ("SH", b"B")}))
    }

    def found(**keys: str) -> bool:
        tags = {"step": STEP, "code": CODE}
        items = ({tags[name]: key_of("SH", value) for name, value in keys.items()},)
        return all_match({TAG: Key("SQ", items=items)}, stored, b"")

    assert found(step="S1", code="A")
    assert found(step="S2", code="")
    assert found(step="*", code="")
    assert not found(step="S1", code="B")
    assert not found(step="S3")
    assert not all_match({TAG: Key("SQ", items=({STEP: key_of("SH", "S1")},))}, {}, b"")
    assert all_match({TAG: Key("SQ", items=({},))}, {}, b"")


def test_sequences_in_sequences() -> None:
    codes = sequence({CODE: ("SH", b"XA")}, {CODE: ("SH", b"CT")})
    stored = {TAG: ("SQ", sequence({STEP: ("SH", b"S1"), CODES: ("SQ", codes)}))}
    for code, expected in (("CT", True), ("MR", False), ("", True)):
        inner = Key("SQ", items=({CODE: key_of("SH", code)},))
        assert all_match({TAG: Key("SQ", items=({CODES: inner},))}, stored, b"") is expected


def test_an_item_may_have_a_character_set_of_its_own() -> None:
    item = {0x00080005: ("CS", b"GB18030 "), MEANING: ("LO", "脑血管造影".encode("gb18030"))}
    for code in ("脑血管造影", "脑*"):
        wanted = Key("SQ", items=({MEANING: key_of("LO", code, b"ISO_IR 192")},))
        assert all_match({TAG: wanted}, {TAG: ("SQ", sequence(item))}, b"ISO_IR 192")


def test_long_patterns_are_quick() -> None:
    assert not match("LO", "*a" * 30_000 + "b", "a" * 60_000)
    assert not match("LO", "*a" * 20_000 + "b", "a" * 60_000)
