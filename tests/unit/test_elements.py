"""Data elements as bytes, judged by pydicom and by lengths that lie."""

import struct
from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from angiovault.archive import elements
from angiovault.archive.elements import Element, EncodingError

PATIENT_NAME = 0x00100010
REQUEST = 0x00400275
PROTOCOL_CODES = 0x00400008
CODE_VALUE = 0x00080100
PRIVATE = 0x00091001


def written(dataset: Dataset, *, implicit: bool) -> bytes:
    """Return pydicom's encoding of a data set."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit, True
    write_dataset(stream, dataset)
    return bytes(stream.getvalue())


def nested(*, undefined: bool) -> Dataset:
    """Return a data set with two levels of sequences."""
    code = Dataset()
    code.CodeValue = "XA-1"
    step = Dataset()
    step.ScheduledProcedureStepID = "S1"
    step.ScheduledProtocolCodeSequence = [code, Dataset()]
    step["ScheduledProtocolCodeSequence"].is_undefined_length = undefined
    step.is_undefined_length_sequence_item = undefined
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Odd^"
    dataset.RequestAttributesSequence = [step]
    dataset["RequestAttributesSequence"].is_undefined_length = undefined
    dataset.Rows = 512
    dataset.PatientComments = "text"
    return dataset


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Encode one element in Explicit VR with a length of our choice."""
    length = len(value) if length is None else length
    if vr in elements.LONG_FORM:
        return struct.pack("<HH2sxxL", tag >> 16, tag & 0xFFFF, vr.encode(), length) + value
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length) + value


def item(body: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(body) if length is None else length) + body


ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
UNDEFINED = 0xFFFFFFFF


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("undefined", [False, True])
def test_what_pydicom_writes_is_parsed(implicit: bool, undefined: bool) -> None:
    tree = elements.parse(written(nested(undefined=undefined), implicit=implicit), implicit)
    assert tree[PATIENT_NAME] == Element("PN", b"Odd^")
    assert tree[0x00280010] == Element("US", b"\x00\x02")
    (step,) = tree[REQUEST].items
    assert step[0x00400009] == Element("SH", b"S1")
    assert step[PROTOCOL_CODES].items == ({CODE_VALUE: Element("SH", b"XA-1")}, {})


@pytest.mark.parametrize("implicit", [False, True])
def test_pydicom_reads_what_is_encoded(implicit: bool) -> None:
    sequence = elements.encode_items(elements.parse(written(nested(undefined=True), implicit=False))[REQUEST].items)
    encoded = elements.encode(
        {REQUEST: ("SQ", sequence), PATIENT_NAME: ("PN", b"Odd"), 0x0020000D: ("UI", b"1.2.3")}, implicit
    )
    read = read_dataset(BytesIO(encoded), is_implicit_VR=implicit, is_little_endian=True)
    assert read.PatientName == "Odd"
    assert read.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0].CodeValue == "XA-1"
    assert len(read.RequestAttributesSequence[0].ScheduledProtocolCodeSequence) == 2
    assert [int(tag) for tag in read.keys()] == [PATIENT_NAME, 0x0020000D, REQUEST]  # noqa: SIM118
    assert len(encoded) % 2 == 0


def test_decode_reverses_encode() -> None:
    values = {
        0x00080005: ("CS", b"GB18030 "),
        PATIENT_NAME: ("PN", b"A^B "),
        0x00104000: ("LT", b""),
        REQUEST: ("SQ", b""),
    }
    assert elements.decode(elements.encode(values)) == values


def test_of_a_head_only_what_is_wanted_is_taken() -> None:
    values = {0x00080005: ("CS", b"GB18030 "), PATIENT_NAME: ("PN", b"A^B "), REQUEST: ("SQ", b"")}
    encoded = elements.encode(values)
    assert elements.decode(encoded, {PATIENT_NAME, 0x00100020}) == {PATIENT_NAME: ("PN", b"A^B ")}
    assert elements.decode(encoded, {REQUEST}) == {REQUEST: ("SQ", b"")}
    with pytest.raises(EncodingError):  # what is not wanted has to be whole as well
        elements.decode(elements.encode({PATIENT_NAME: ("PN", b"A^B ")})[:-1], {0x00080005})


def test_short_values_are_padded_and_long_ones_cut_to_what_the_length_can_say() -> None:
    decoded = elements.decode(elements.encode({PATIENT_NAME: ("PN", b"x" * 70_000), 0x00080018: ("UI", b"1.2")}))
    assert decoded == {PATIENT_NAME: ("PN", b"x" * 0xFFFE), 0x00080018: ("UI", b"1.2\0")}


@pytest.mark.parametrize(
    "head",
    [
        b"\x10\x00\x10\x00PN\x09\x00too",  # ends early
        b"\x10\x00\x10\x00PN",
        b"\x10\x00\x10\x00\xff\xff\x02\x00ab",
        b"\x40\x00\x75\x02SQ\x00\x00\x04\x00",
        b"rotten",
    ],
)
def test_a_damaged_head_is_an_error(head: bytes) -> None:
    with pytest.raises(EncodingError):
        elements.decode(head)


def test_a_sequence_of_unknown_vr_is_implicit_inside() -> None:
    step = elements.encode({CODE_VALUE: ("SH", b"C1")}, implicit=True)
    for encoded in (
        element(REQUEST, "UN", item(step)),
        element(REQUEST, "UN", item(step) + SEQUENCE_END, UNDEFINED),
        element(REQUEST, "UN", item(step + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED),
    ):
        assert elements.parse(encoded)[REQUEST].items == ({CODE_VALUE: Element("SH", b"C1")},)


def test_private_elements_of_unknown_vr_stay_bytes() -> None:
    assert elements.parse(element(PRIVATE, "UN", b"ab")) == {PRIVATE: Element("UN", b"ab")}
    assert elements.parse(struct.pack("<HHL", 9, 0x1001, 2) + b"ab", True) == {PRIVATE: Element("UN", b"ab")}


@pytest.mark.parametrize(
    "encoded",
    [
        element(PATIENT_NAME, "PN", b"A^B", 400),
        element(PATIENT_NAME, "PN", b"A^B")[:-1],
        element(PATIENT_NAME, "PN", b"A^B ")[:5],
        b"\x10",
        element(REQUEST, "SQ", b"not an item"),
        element(REQUEST, "SQ", item(b"", 40)),
        element(REQUEST, "SQ", item(b""), 400),
        element(REQUEST, "SQ", item(element(CODE_VALUE, "SH", b"C1", 400))),
        element(REQUEST, "SQ", item(b""), UNDEFINED),
        element(REQUEST, "SQ", item(b"", UNDEFINED) + SEQUENCE_END, UNDEFINED),
        element(REQUEST, "SQ", SEQUENCE_END),
        element(0x7FE00010, "OB", b"", UNDEFINED),
        element(PATIENT_NAME, "pn", b"A^B "),
        struct.pack("<HHL", 0x10, 0x10, 4) + b"A^B ",  # Implicit VR where Explicit was negotiated
    ],
)
def test_what_is_no_data_set_is_an_error(encoded: bytes) -> None:
    with pytest.raises(EncodingError):
        elements.parse(encoded)


@pytest.mark.parametrize("undefined", [False, True])
def test_deep_nesting_is_an_error_and_no_recursion(undefined: bool) -> None:
    encoded = b""
    for _ in range(2000 if not undefined else 0):
        encoded = element(REQUEST, "SQ", item(encoded))
    if undefined:
        encoded = (element(REQUEST, "SQ", b"", UNDEFINED) + item(b"", UNDEFINED)) * 10_000
        encoded += (ITEM_END + SEQUENCE_END) * 10_000
    with pytest.raises(EncodingError, match="nested deeper than 16"):
        elements.parse(encoded)


def test_nesting_that_exists_is_followed() -> None:
    encoded = element(CODE_VALUE, "SH", b"C1")
    for _ in range(elements.DEEPEST):
        encoded = element(REQUEST, "SQ", item(encoded))
    tree = elements.parse(encoded)
    for _ in range(elements.DEEPEST):
        (tree,) = tree[REQUEST].items
    assert tree == {CODE_VALUE: Element("SH", b"C1")}


def test_data_sets_without_end_are_an_error() -> None:
    many = b"".join(element(PRIVATE + number, "LO", b"") for number in range(elements.MOST_ELEMENTS))
    assert len(elements.parse(many)) == elements.MOST_ELEMENTS
    with pytest.raises(EncodingError, match="more than"):
        elements.parse(many + element(PATIENT_NAME, "PN", b""))
    with pytest.raises(EncodingError, match="more than"):
        elements.items(item(b"") * (elements.MOST_ELEMENTS + 1))


@pytest.mark.parametrize(
    ("tag", "vr"), [(PATIENT_NAME, "PN"), (REQUEST, "SQ"), (0x00280106, "US"), (0x00090000, "UL"), (PRIVATE, "UN")]
)
def test_vr_of_the_dictionary(tag: int, vr: str) -> None:
    assert elements.dictionary_vr(tag) == vr
