"""The scanner of incoming data sets, on well-made, real and hostile ones."""

import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import AllTransferSyntaxes

from angiovault.archive.attributes import WANTED
from angiovault.archive.header import DatasetScanner, Header, HeaderError
from angiovault.archive.walk import MOST_CAPTURED
from harness import part10

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, JPEG, DEFLATED_FRAMES = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.8.1"
PLAIN = (IMPLICIT, EXPLICIT, BIG)
UNDEFINED = 0xFFFFFFFF
LONG_FORM = ("OB", "OW", "SQ", "UN", "UT", "UC", "UV", "ZZ")

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
PATIENT_NAME, PATIENT_ID, ROWS, PIXEL_DATA = 0x00100010, 0x00100020, 0x00280010, 0x7FE00010
PROCEDURE_CODE, REQUEST_ATTRIBUTES = 0x00081032, 0x00400275
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UIDS: dict[int, bytes] = {
    SOP_CLASS: b"1.2.840.10008.5.1.4.1.1.12.1",
    SOP_INSTANCE: b"1.2.3.4\0",
    STUDY: b"1.2.3\0",
    SERIES: b"1.2.3.7\0",
}


def element(tag: int, vr: str, value: bytes, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """Return one element; an empty `vr` is that of a delimiter, `length` is what it claims if not the truth."""
    order = ">" if syntax == BIG else "<"
    length = len(value) if length is None else length
    start = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT or not vr:
        return start + struct.pack(order + "L", length) + value
    if vr in LONG_FORM:
        return start + vr.encode() + b"\0\0" + struct.pack(order + "L", length) + value
    return start + vr.encode() + struct.pack(order + "H", length) + value


def head(syntax: str = EXPLICIT, replaced: Mapping[int, bytes | None] | None = None) -> bytes:
    """Return the four identifying elements, some with other values; None leaves one out."""
    uids = UIDS | dict(replaced or {})
    return b"".join(element(tag, "UI", value, syntax) for tag, value in sorted(uids.items()) if value is not None)


def scan(data: bytes, syntax: str = EXPLICIT, sizes: Iterable[int] = ()) -> Header:
    """Scan a data set, in pieces of the given sizes and the rest at once."""
    scanner, position = DatasetScanner(syntax), 0
    for size in sizes:
        scanner.feed(memoryview(data)[position : position + size])
        position += size
    if position < len(data):
        scanner.feed(data[position:])
    return scanner.finish()


def outcome(data: bytes, syntax: str, sizes: Iterable[int] = ()) -> Header | str:
    try:
        return scan(data, syntax, sizes)
    except HeaderError as error:
        return str(error)


def deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def sample() -> Dataset:
    """Return a data set with text, numbers, nested sequences and private elements."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "GB18030"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "BIPLANE A"]
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.12.1", "1.2.826.0.1.3680043.2.1"
    dataset.StudyDate, dataset.StudyTime, dataset.Modality = "20261122", "101500.123", "XA"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "P1", "99LOCAL", "脑血管造影"
    dataset.ProcedureCodeSequence = [code, Dataset()]
    dataset.PatientName, dataset.PatientID = "Zhang^San=张^三", "4711"
    block = dataset.private_block(0x0009, "SOMEONE ELSE", create=True)
    block.add_new(0x10, "UN", b"odd")
    block.add_new(0x11, "OB", b"")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.2.2", "1.2.826.0.1.3680043.2.3"
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.NumberOfFrames = 3, -7, 10
    dataset.Rows, dataset.Columns, dataset.BitsAllocated = 1024, 512, 16
    request = Dataset()
    request.ScheduledProcedureStepID = "SPS"
    request.ScheduledProtocolCodeSequence = [code]
    dataset.RequestAttributesSequence = [request]
    for deep in (dataset["ProcedureCodeSequence"], request["ScheduledProtocolCodeSequence"]):
        deep.is_undefined_length = True
    dataset.PixelData = bytes(64)
    dataset["PixelData"].VR = "OW"
    return dataset


def encode(dataset: Dataset, syntax: str) -> bytes:
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = syntax == IMPLICIT, syntax != BIG
    write_dataset(stream, dataset)
    return deflate(stream.getvalue()) if syntax == DEFLATED else bytes(stream.getvalue())


def explicit(encoded: bytes, charset: str = "GB18030") -> Dataset:
    """Read Explicit VR Little Endian with pydicom."""
    return read_dataset(BytesIO(encoded), is_implicit_VR=False, is_little_endian=True, parent_encoding=charset)


# ---- every family of transfer syntaxes


def test_the_table_names_levels_and_vrs() -> None:
    assert WANTED[PATIENT_NAME] == ("PATIENT", "PN")
    assert WANTED[STUDY] == ("STUDY", "UI")
    assert WANTED[REQUEST_ATTRIBUTES] == ("SERIES", "SQ")
    assert WANTED[ROWS] == ("IMAGE", "US")
    assert {0x00080005, 0x00080201, 0x00100021, 0x00321060, 0x00400253, 0x00280008} - WANTED.keys() == {0x00321060}


@pytest.mark.parametrize("syntax", [*PLAIN, DEFLATED, JPEG, DEFLATED_FRAMES])
def test_every_family_of_transfer_syntaxes(syntax: str) -> None:
    dataset = sample()
    header = scan(encode(dataset, syntax), syntax)
    assert (header.complete, header.problem, header.transfer_syntax) == (True, "", syntax)
    assert header.sop_class_uid == dataset.SOPClassUID
    assert header.sop_instance_uid == dataset.SOPInstanceUID
    assert header.study_instance_uid == dataset.StudyInstanceUID
    assert header.series_instance_uid == dataset.SeriesInstanceUID
    assert header.elements[PATIENT_NAME] == "Zhang^San=张^三 ".encode("gb18030")
    assert [header.integer(tag) for tag in (ROWS, 0x00280011, 0x00200011, 0x00200013)] == [1024, 512, 3, -7]
    assert header.text(0x00080060) == "XA"
    again = explicit(header.encoded(WANTED))
    assert [item.tag for item in again] == sorted(WANTED.keys() & {item.tag for item in dataset})
    for item in again:
        assert item == dataset[item.tag]


def test_which_transfer_syntaxes_are_known() -> None:
    jpip = {f"1.2.840.10008.1.2.4.{last}" for last in (94, 95, 204, 205)}
    elsewhere = ("1.2.840.10008.1.2.6.", "1.2.840.10008.1.2.7.", "1.2.840.10008.1.20")
    for syntax in map(str, AllTransferSyntaxes):
        if syntax in jpip or syntax.startswith(elsewhere):
            with pytest.raises(ValueError, match="not supported"):
                DatasetScanner(syntax)
        else:
            DatasetScanner(syntax)
    for syntax in ("", "1.2.840.113619.5.2", "1.2.840.10008.1.2.1\0", "1.2.840.10008.1.2.4.", "1.2.840.10008.5.1"):
        with pytest.raises(ValueError, match="not supported"):
            DatasetScanner(syntax)


@pytest.mark.parametrize("syntax", [*PLAIN, DEFLATED])
def test_pieces_of_any_size_are_the_same_as_the_whole(syntax: str) -> None:
    data = encode(sample(), syntax)
    whole = scan(data, syntax)
    assert scan(data, syntax, [1] * len(data)) == whole
    choice = random.Random(1)
    for _ in range(200):
        sizes = []
        while sum(sizes) < len(data):
            sizes.append(choice.choice((0, 1, 2, 3, 5, 7, 8, 11, 12, 13, 100)))
        assert scan(data, syntax, sizes) == whole


# ---- real files


def part10_files() -> Iterator[tuple[str, part10.Part10]]:
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*.dcm")):
        try:
            yield path.name, part10.read(path)
        except ValueError:
            continue


def test_real_files_read_as_pydicom_reads_them() -> None:
    compared, short, refused = 0, set(), set()
    for name, file in part10_files():
        dataset = dcmread(file.path)
        if not all(dataset.get(tag) for tag in UIDS):
            continue
        data = file.data_set()
        header = outcome(data, file.transfer_syntax)
        if isinstance(header, str):
            refused.add(name)
            continue
        assert scan(data, file.transfer_syntax, [1] * min(len(data), 20_000)) == header, name
        for tag in WANTED.keys() & dataset.keys():
            raw = dataset.get_item(tag)
            if isinstance(raw, RawDataElement) and raw.VR != "SQ" and WANTED[tag][1] != "SQ":
                assert header.elements[tag] == (raw.value or b""), (name, hex(tag))
        sequences = {tag for tag, (_, vr) in WANTED.items() if vr == "SQ"} & dataset.keys()
        again = explicit(header.encoded(sequences), dataset.get("SpecificCharacterSet") or "iso8859")
        assert {tag: again[tag].value for tag in sequences} == {tag: dataset[tag].value for tag in sequences}, name
        compared += 1
        if not header.complete:
            short.add(name)
    assert compared >= 50
    assert refused == {"SC_rgb_jpeg.dcm"}  # Implicit VR under an Explicit VR transfer syntax
    assert short == {"MR_truncated.dcm", "rtplan_truncated.dcm"}


# ---- cut anywhere


@pytest.mark.parametrize("syntax", PLAIN)
def test_cut_at_every_byte(syntax: str) -> None:
    code = element(0x00080100, "SH", b"P1", syntax)
    items = element(ITEM, "", code, syntax) + element(
        ITEM, "", code + element(ITEM_END, "", b"", syntax), syntax, UNDEFINED
    )
    parts = [
        (tag, value, element(tag, vr, value, syntax))
        for tag, vr, value in (
            (SOP_CLASS, "UI", UIDS[SOP_CLASS]),
            (SOP_INSTANCE, "UI", UIDS[SOP_INSTANCE]),
            (PATIENT_NAME, "PN", b"A^B "),
            (PATIENT_ID, "LO", b""),
            (STUDY, "UI", UIDS[STUDY]),
            (SERIES, "UI", UIDS[SERIES]),
            (ROWS, "US", b"\1\2"),
            (PIXEL_DATA, "OW", bytes(20)),
        )
    ]
    closed = element(PROCEDURE_CODE, "SQ", items + element(SEQUENCE_END, "", b"", syntax), syntax, UNDEFINED)
    parts.insert(2, (PROCEDURE_CODE, items, closed))
    data = b"".join(encoded for _, _, encoded in parts)
    assert scan(data, syntax).complete
    for cut in range(len(data)):
        whole, end = {}, 0
        for tag, value, encoded in parts:
            if (end := end + len(encoded)) > cut:
                break
            whole[tag] = value
        between = cut in {sum(len(encoded) for _, _, encoded in parts[:n]) for n in range(len(parts))}
        result = outcome(data[:cut], syntax)
        if UIDS.keys() <= whole.keys():
            assert isinstance(result, Header)
            assert result.elements == {tag: value for tag, value in whole.items() if tag in WANTED}
            assert result.complete == (not result.problem) == between
        else:
            assert isinstance(result, str)
            assert "is missing" in result or result == "the data set is empty"


def test_a_short_last_element_is_named() -> None:
    header = scan(head() + element(PIXEL_DATA, "OW", bytes(80), length=200))
    assert (header.complete, header.problem) == (False, "last element (7FE0,0010) is 120 bytes short")
    with pytest.raises(HeaderError, match=r"^Study Instance UID .0020,000D. is missing; last .* is 4 bytes short$"):
        scan(head(replaced={STUDY: None}) + element(0x00090001, "OB", b"", length=4))


@pytest.mark.parametrize("syntax", [EXPLICIT, JPEG])
def test_encapsulated_pixel_data(syntax: str) -> None:
    pixels = element(ITEM, "", b"") + element(ITEM, "", bytes(50)) + element(ITEM, "", element(SEQUENCE_END, "", b""))
    whole = head() + element(PIXEL_DATA, "OB", pixels + element(SEQUENCE_END, "", b""), length=UNDEFINED)
    assert scan(whole, syntax).complete
    for cut in range(len(head()) + 12, len(whole)):
        header = scan(whole[:cut], syntax)
        assert header.problem == "last element (7FE0,0010), of undefined length, has no end"
    odd = head() + element(PIXEL_DATA, "OB", element(ITEM, "", pixels, length=UNDEFINED), length=UNDEFINED)
    assert "(FFFE,E000) is out of place inside (7FE0,0010)" in scan(odd, syntax).problem


# ---- the grammar


def test_unknown_vr_of_undefined_length_holds_implicit_vr_little_endian() -> None:
    nothing = element(ITEM, "", element(ITEM_END, "", b""), length=UNDEFINED) + element(SEQUENCE_END, "", b"")
    inner = element(0x00080100, "", b"P1") + element(PROCEDURE_CODE, "", nothing, length=UNDEFINED)
    items = element(ITEM, "", inner + element(ITEM_END, "", b""), length=UNDEFINED)
    for syntax in (EXPLICIT, BIG):
        start = element(PROCEDURE_CODE, "UN", b"", syntax, UNDEFINED)
        data = start + items + element(SEQUENCE_END, "", b"") + head(syntax) + element(ROWS, "US", b"\1\2", syntax)
        header = scan(data, syntax)
        assert header.complete
        assert header.elements[PROCEDURE_CODE] == items
        assert explicit(header.encoded([PROCEDURE_CODE])).ProcedureCodeSequence[0].CodeValue == "P1"
        assert header.integer(ROWS) == (0x0102 if syntax == BIG else 0x0201)


def test_known_elements_of_unknown_vr_are_little_endian() -> None:
    header = scan(head(BIG) + element(ROWS, "UN", b"\0\4", BIG) + element(0x00280011, "US", b"\4\0", BIG), BIG)
    assert (header.integer(ROWS), header.integer(0x00280011)) == (1024, 1024)
    assert header.encoded([ROWS]) == element(ROWS, "US", b"\0\4")
    assert header.encoded([0x00280011]) == element(0x00280011, "US", b"\0\4")


def test_values_under_a_foreign_vr() -> None:
    data = head() + element(PATIENT_ID, "SH", b"4711") + element(ROWS, "IS", b"512 ") + element(0x00081030, "SQ", b"")
    header = scan(data)
    assert header.text(PATIENT_ID) == "4711"
    assert not {ROWS, 0x00081030} & header.elements.keys()
    assert header.integer(ROWS) is None


def test_vrs_still_to_come_are_of_the_long_form() -> None:
    assert scan(element(0x00090001, "ZZ", bytes(70_000)) + head()).complete
    assert not scan(head() + b"\x30\0\1\0ZZ\2\0ab").complete
    assert not scan(head() + b"\x30\0\1\0Z \0\0\0\0\0\0").complete
    assert not scan(head() + element(0x00300001, "ZZ", b"", length=UNDEFINED)).complete
    assert not scan(head() + element(0x00300001, "UT", b"", length=UNDEFINED)).complete


def test_order_doubles_odd_lengths_and_low_groups() -> None:
    data = b"".join((
        element(0x00020010, "UI", b"1.2"), element(0x00000002, "UI", b"1"), element(PATIENT_ID, "LO", b"first"),
        element(0x00080000, "UL", bytes(4)), head(), element(PATIENT_ID, "LO", b"second"), element(ROWS, "US", b""),
        element(0xFFFCFFFC, "OB", b"\0"),
    ))  # fmt: skip
    header = scan(data)
    assert header.complete
    assert header.elements[PATIENT_ID] == b"first"
    assert header.encoded([PATIENT_ID, ROWS]) == element(PATIENT_ID, "LO", b"first ") + element(ROWS, "US", b"")
    assert header.integer(ROWS) is None


@pytest.mark.parametrize(
    ("value", "number"),
    [(b" 12 ", 12), (b"+3\\4", 3), (b"-2147483648", -(2**31)), (b"2147483648", None), (b"", None), (b"1.5", None),
     (b"1_0", None), (b"\xb2", None), (b"9" * 5000, None), (b"x", None)],
)  # fmt: skip
def test_integer_strings(value: bytes, number: int | None) -> None:
    assert scan(head() + element(0x00200013, "IS", value)).integer(0x00200013) == number


@pytest.mark.parametrize("syntax", PLAIN)
def test_stray_delimiters_are_a_problem(syntax: str) -> None:
    for tag in (ITEM, ITEM_END, SEQUENCE_END):
        assert scan(head(syntax) + element(tag, "", b"", syntax), syntax).problem.endswith(
            f"is out of place at byte {len(head(syntax))}"
        )


def test_what_follows_an_unreadable_element_is_left_alone() -> None:
    header = scan(head() + b"\x10\0\x10\0\x07\0\0\0" + element(PATIENT_ID, "LO", b"4711"))
    assert not header.complete
    assert header.problem == f"element (0010,0010) has no VR that can be read (bytes 07 00) at byte {len(head())}"
    assert header.elements.keys() == UIDS.keys()


# ---- sequences


@pytest.mark.parametrize("syntax", PLAIN)
def test_sequences_keep_undeclared_text(syntax: str) -> None:
    name = "张三".encode("gbk")
    inner = element(0x00080100, "SH", b"P1", syntax) + element(0x00080104, "LO", name, syntax)
    inner += element(0x00280010, "US", b"\1\2" if syntax == BIG else b"\2\1", syntax)
    deep = element(0x00400008, "SQ", element(ITEM, "", inner, syntax), syntax)
    data = head(syntax) + element(REQUEST_ATTRIBUTES, "SQ", element(ITEM, "", deep, syntax), syntax)
    header = scan(data, syntax)
    expected = element(0x00080100, "SH", b"P1") + element(0x00080104, "LO", name) + element(0x00280010, "US", b"\2\1")
    expected = element(0x00400008, "SQ", element(ITEM, "", expected))
    assert header.encoded([REQUEST_ATTRIBUTES]) == element(REQUEST_ATTRIBUTES, "SQ", element(ITEM, "", expected))


@pytest.mark.parametrize("syntax", PLAIN)
def test_long_and_unreadable_sequences_are_left_out(syntax: str) -> None:
    item = element(ITEM, "", element(0x00080104, "LO", bytes(1000), syntax), syntax)
    end = element(SEQUENCE_END, "", b"", syntax)
    for count, captured in ((16, True), (17, False)):
        for data in (
            element(PROCEDURE_CODE, "SQ", item * count, syntax),
            element(PROCEDURE_CODE, "SQ", item * count + end, syntax, UNDEFINED),
        ):
            header = scan(data + head(syntax), syntax)
            assert header.complete
            assert (PROCEDURE_CODE in header.elements) == captured
    header = scan(element(PROCEDURE_CODE, "SQ", b"no items at all", syntax) + head(syntax), syntax)
    assert header.complete
    assert header.encoded(WANTED) == b"".join(element(tag, "UI", UIDS[tag]) for tag in sorted(UIDS))
    value = b""
    for _ in range(900):
        value = element(ITEM, "", element(PROCEDURE_CODE, "SQ", value, syntax), syntax)[: 16 << 10]
    deep = element(PROCEDURE_CODE, "SQ", value[: 16 << 10], syntax) + head(syntax)
    assert len(scan(deep, syntax).encoded(UIDS)) == len(head())
    scan(deep, syntax).encoded([PROCEDURE_CODE])


def nested(syntax: str, depth: int) -> tuple[bytes, bytes]:
    """Return what opens and what closes sequences and items of undefined length, one in the other."""
    down = element(PROCEDURE_CODE, "SQ", element(ITEM, "", b"", syntax, UNDEFINED), syntax, UNDEFINED)
    return down * depth, (element(ITEM_END, "", b"", syntax) + element(SEQUENCE_END, "", b"", syntax)) * depth


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_deep_nesting(syntax: str, depth: int) -> None:
    down, up = nested(syntax, depth)
    begin = time.process_time()
    header = scan(down + up + head(syntax), syntax, [1 << 16] * (len(down + up) >> 16))
    assert time.process_time() - begin < 1 + depth / 20_000  # twenty times what it takes
    assert header.complete
    end = scan(head(syntax) + down, syntax).problem
    assert end == "last element (0008,1032), of undefined length, has no end"
    with pytest.raises(HeaderError, match="is missing; "):
        scan(down + up[:-8] + head(syntax), syntax)


@pytest.mark.parametrize("syntax", PLAIN)
def test_nesting_takes_no_memory(syntax: str) -> None:
    peaks = []
    for depth in (10_000, 30_000):
        data, scanner = memoryview(b"".join(nested(syntax, depth))), DatasetScanner(syntax)
        tracemalloc.start()
        for start in range(0, len(data), 1 << 16):
            scanner.feed(data[start : start + (1 << 16)])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 100_000
    assert peaks[1] - peaks[0] < 5_000


# ---- lies and limits


@pytest.mark.parametrize("syntax", PLAIN)
def test_a_head_of_many_strange_elements_is_read_to_its_end(syntax: str) -> None:
    """Longer than what is looked at at once, with more kinds of elements than are remembered."""
    uids = {tag: value for tag, value in UIDS.items() if tag < 0x00100000}
    strange = [element(0x00110000 | 0x1000 + number, "LO", bytes(number % 67 * 2), syntax) for number in range(9000)]
    last = [element(tag, "UI", UIDS[tag], syntax) for tag in (STUDY, SERIES)]
    rows = element(ROWS, "US", b"\0\2", syntax)
    data = b"".join([*(element(tag, "UI", value, syntax) for tag, value in uids.items()), *strange, *last, rows])
    tracemalloc.start()
    for sizes in ((), (1, 11, 16383, 16384, 16385, 3)):
        header = scan(data, syntax, sizes)
        assert header.elements == {**UIDS, ROWS: b"\0\2"}
        assert header.complete
    assert tracemalloc.get_traced_memory()[0] < 2_000_000
    tracemalloc.stop()


def test_what_was_met_in_one_encoding_is_not_mistaken_in_another() -> None:
    """The bytes of a tag mean another one in the other byte order, and a VR may be the length of an implicit value."""
    for syntax in (*PLAIN, *reversed(PLAIN)):
        strange = element(0x18000010, "LO", b"strange ", syntax) + element(0x20000D00, "UI", b"9.9 ", syntax)
        assert scan(head(syntax) + strange, syntax).elements == UIDS


def test_a_usual_element_that_comes_with_another_vr_is_looked_at_again() -> None:
    usual, odd = element(ROWS, "US", b"\0\2"), element(ROWS, "SQ", b"")
    for _ in range(2):
        assert scan(head() + usual).elements[ROWS] == b"\0\2"
        assert ROWS not in scan(head() + odd).elements
        assert scan(head() + element(PATIENT_ID, "UT", b"7 ")).elements[PATIENT_ID] == b"7 "
        assert scan(head() + element(PATIENT_ID, "LO", b"7 ")).elements[PATIENT_ID] == b"7 "


def test_lying_lengths() -> None:
    for lie in (20, 0x7FFFFFFF, 0xFFFFFFFE):
        with pytest.raises(HeaderError, match="is missing"):
            scan(element(0x00080001, "OB", b"", length=lie) + head()[:-20])
    swallowed = scan(head() + element(0x00300001, "OB", b"", length=12) + element(PATIENT_ID, "LO", b"4711"))
    assert (swallowed.complete, PATIENT_ID in swallowed.elements) == (True, False)
    for lie in (0xFFFF, 200):
        assert not scan(head() + element(0x00300001, "LO", b"", length=lie)).complete
    header = scan(head() + element(PROCEDURE_CODE, "SQ", element(ITEM, "", b"", length=500), length=UNDEFINED))
    assert (header.complete, PROCEDURE_CODE in header.elements) == (False, False)


def test_values_are_captured_up_to_a_limit() -> None:
    implicit = element(0x00104000, "LT", bytes(70_000), IMPLICIT) + head(IMPLICIT)
    assert 0x00104000 not in scan(implicit, IMPLICIT).elements
    long = element(0x00104000, "LT", b"x" * 0xFFFE, IMPLICIT) + head(IMPLICIT)
    assert scan(long, IMPLICIT).encoded([0x00104000]) == element(0x00104000, "LT", b"x" * 0xFFFE)
    texts = [tag for tag in WANTED if WANTED[tag][1] not in ("SQ", "US") and tag not in UIDS]
    flood = b"".join(element(tag, WANTED[tag][1], bytes(0xFFFE)) for tag in texts) + head()
    header = scan(flood)
    assert header.complete
    assert UIDS.keys() <= header.elements.keys()
    kept = sum(map(len, header.elements.values()))
    assert MOST_CAPTURED - 0xFFFE < kept <= MOST_CAPTURED + 200


def test_a_gigabyte_before_the_pixel_data_takes_no_memory() -> None:
    scanner, chunk = DatasetScanner(EXPLICIT), memoryview(bytes(1 << 17))
    tracemalloc.start()
    scanner.feed(head() + element(0x00300001, "OB", b"", length=1 << 30))
    begin = time.process_time()
    for _ in range((1 << 30) // len(chunk)):
        scanner.feed(chunk)
    assert time.process_time() - begin < 2
    scanner.feed(element(PIXEL_DATA, "OW", b"\0\0"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scanner.finish().complete
    assert peak < 2 << 20


def test_many_tiny_elements() -> None:
    scanner, chunk = DatasetScanner(EXPLICIT), element(0x00300001, "LO", b"") * 16384
    scanner.feed(head())
    for _ in range(31):
        scanner.feed(chunk)
    begin = time.process_time()
    scanner.feed(chunk)
    assert time.process_time() - begin < 1  # 16384 elements, about 15 ms
    assert scanner.finish().complete


# ---- the identifying head


@pytest.mark.parametrize(
    ("tag", "name"),
    [(SOP_CLASS, "SOP Class UID (0008,0016)"), (SOP_INSTANCE, "SOP Instance UID (0008,0018)"),
     (STUDY, "Study Instance UID (0020,000D)"), (SERIES, "Series Instance UID (0020,000E)")],
)  # fmt: skip
@pytest.mark.parametrize("syntax", [*PLAIN, DEFLATED])
def test_what_is_wrong_with_a_uid_is_said(syntax: str, tag: int, name: str) -> None:
    for value, fault in (
        (None, "is missing"),
        (b"", "is empty"),
        (b"\0\0 ", "is empty"),
        (b"../../etc/passwd", "is no UID: '../../etc/passwd'"),
        (b"..", "is no UID: '..'"),
        (b"1.2\0.3", r"is no UID: '1.2\x00.3'"),
        (b"1.2\n3", r"is no UID: '1.2\n3'"),
        (b"1.2.\xb2", r"is no UID: '1.2.\xb2'"),
        (b" 1.2", "is no UID: ' 1.2'"),
        (b"1.2\\1.3", r"is no UID: '1.2\\1.3'"),
        (b"1" * 300, "is no UID: 300 characters, more than 64"),
    ):
        inner = EXPLICIT if syntax == DEFLATED else syntax
        data = head(inner, {tag: value}) + element(ROWS, "US", b"\0\1", inner)
        with pytest.raises(HeaderError) as error:
            scan(deflate(data) if syntax == DEFLATED else data, syntax)
        assert str(error.value) == f"{name} {fault}"


def test_a_uid_of_huge_length_is_named() -> None:
    data = head(IMPLICIT, {SOP_INSTANCE: bytes(70_000)})
    with pytest.raises(HeaderError, match=r"^SOP Instance UID \(0008,0018\) is 70000 bytes long$"):
        scan(data, IMPLICIT)
    with pytest.raises(HeaderError, match=r"^SOP Instance UID \(0008,0018\) has VR SQ$"):
        scan(element(SOP_INSTANCE, "SQ", b"") + head())


def test_uids_as_devices_send_them() -> None:
    header = scan(head(replaced={STUDY: b"1.02.003.0", SERIES: b"1" * 64, SOP_INSTANCE: b"1.2.3  "}))
    assert header.study_instance_uid == "1.02.003.0"
    assert header.series_instance_uid == "1" * 64
    assert header.sop_instance_uid == "1.2.3"
    assert header.elements[SOP_INSTANCE] == b"1.2.3  "


def test_the_wrong_vr_encoding_is_suspected_not_guessed() -> None:
    with pytest.raises(HeaderError, match="is missing; element .* begins like Implicit VR although its"):
        scan(head(IMPLICIT))
    with pytest.raises(HeaderError, match="is 1853781 bytes long; last .* short; it begins like Explicit VR"):
        scan(head(), IMPLICIT)
    with pytest.raises(HeaderError, match="is missing"):
        scan(head(BIG))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        bytes(1000),
        b"\xff" * 1000,
        b"x",
        b"DICM",
    ],
)
@pytest.mark.parametrize("syntax", [*PLAIN, DEFLATED])
def test_garbage_is_refused(garbage: bytes, syntax: str) -> None:
    with pytest.raises(HeaderError) as error:
        scan(garbage, syntax)
    assert "although" not in str(error.value)


@pytest.mark.parametrize("syntax", [*PLAIN, DEFLATED])
def test_an_empty_data_set_is_refused(syntax: str) -> None:
    for pieces in ((), (b"",), (deflate(b""),) if syntax == DEFLATED else ()):
        scanner = DatasetScanner(syntax)
        for piece in pieces:
            scanner.feed(piece)
        with pytest.raises(HeaderError, match="^the data set is empty$"):
            scanner.finish()


# ---- deflated


def test_a_deflated_stream_that_ends_early_or_is_damaged() -> None:
    noise = random.Random(2).randbytes(300_000)
    data = deflate(head() + element(PIXEL_DATA, "OB", noise))
    assert scan(data, DEFLATED).complete
    assert scan(data + b"\0", DEFLATED).complete  # padded to even length: PS3.5 A.5
    short = scan(data[:-1000], DEFLATED)
    assert (short.complete, short.problem) == (False, "the deflated data set ends early")
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    healthy = deflater.compress(head() + element(PIXEL_DATA, "OB", noise)) + deflater.flush(zlib.Z_FULL_FLUSH)
    broken = scan(healthy + b"\x07", DEFLATED, [len(healthy)])  # no block of a deflated stream begins like this
    assert not broken.complete
    assert broken.problem.startswith("the deflated data set is damaged")
    with pytest.raises(HeaderError, match="^nothing of the data set can be read: the deflated data set is damaged"):
        scan(b"\x07", DEFLATED)
    with pytest.raises(HeaderError, match="ends early"):
        scan(data[:20], DEFLATED)


def bomb(start: bytes) -> Iterator[bytes]:
    """Deflate `start` and a GiB of zeros: about a megabyte."""
    deflater, zeros = zlib.compressobj(1, wbits=-zlib.MAX_WBITS), bytes(1 << 20)
    yield deflater.compress(start)
    for _ in range(1 << 10):
        yield deflater.compress(zeros)
    yield deflater.flush()


def test_a_deflate_bomb_takes_neither_memory_nor_time() -> None:
    after = head() + element(PIXEL_DATA, "OB", b"", length=1 << 30)
    before = element(0x00080001, "OB", b"", length=1 << 30)
    packed = {start: b"".join(bomb(start)) for start in (after, before)}
    for start, data in packed.items():
        scanner = DatasetScanner(DEFLATED)
        tracemalloc.start()
        begin = time.process_time()
        for at in range(0, len(data), 1 << 17):
            scanner.feed(memoryview(data)[at : at + (1 << 17)])
        assert time.process_time() - begin < 5
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20
        if start is after:
            assert scanner.finish().complete
        else:
            with pytest.raises(HeaderError, match=r"^SOP Class UID \(0008,0016\) is not within the first 64 MiB"):
                scanner.finish()


# ---- fuzz


def mutated(data: bytes, choice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(choice.randint(1, 6)):
        at = choice.randrange(len(changed))
        match choice.randrange(4):
            case 0:
                changed[at] = choice.randrange(256)
            case 1:
                changed[at : at + 4] = choice.choice(
                    (b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff", bytes(4), b"SQ\0\0", b"UN\0\0")
                )
            case 2:
                del changed[at : at + choice.randrange(20)]
            case 3:
                changed[at:at] = changed[choice.randrange(len(changed)) :][: choice.randrange(40)]
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("syntax", [*PLAIN, DEFLATED])
def test_mutations_raise_nothing_but_header_errors(syntax: str) -> None:
    choice = random.Random(syntax)
    data = encode(sample(), syntax)
    outcomes = {True: 0, False: 0}
    for _ in range(3000):
        hostile = mutated(data, choice)
        result = outcome(hostile, syntax)
        outcomes[isinstance(result, Header)] += 1
        if syntax != DEFLATED:  # zlib forgets what it had inflated of a damaged piece
            sizes = [choice.choice((1, 3, 8, 50)) for _ in range(100)]
            assert outcome(hostile, syntax, sizes) == result
        if isinstance(result, Header):
            encoded = scan(result.encoded(WANTED))
            unreadable = {tag for tag in result.elements.keys() - encoded.elements.keys() if WANTED[tag][1] != "SQ"}
            assert (encoded.problem, unreadable) == ("", set())
            for tag in WANTED:
                result.integer(tag)
                result.text(tag)
    assert min(outcomes.values()) > 100


def test_values_that_nobody_needs_can_be_stepped_over_without_being_read() -> None:
    scanner = DatasetScanner(EXPLICIT)
    scanner.feed(head() + element(PIXEL_DATA, "OW", bytes(1000))[:20])
    assert scanner.skippable == 992
    scanner.skip(900)
    assert scanner.skippable == 92
    scanner.skip(92)
    assert scanner.finish().complete


def test_what_is_captured_is_not_stepped_over() -> None:
    scanner = DatasetScanner(EXPLICIT)
    scanner.feed(element(PATIENT_NAME, "PN", b"A^B ")[:9])
    assert scanner.skippable == 0
