"""C-FIND (PS3.4 annex C) asked by real programs, and by a peer that asks what no program would."""

import re
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import AE, build_context
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from angiovault.archive import elements
from angiovault.archive.archive import Archive
from angiovault.config import IndexURL
from harness.dcmtk import Peer, Result, findscu, storescu
from harness.instances import NAMES, entry, instance, sequence, write
from harness.mariadb import MariaDB
from harness.processes import program
from harness.service import Service
from harness.upper_layer import EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, VERIFICATION, RawPeer, command_set, pdu, pdv
from harness.upper_layer import element as explicit
from harness.waiting import wait_until

PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
ENGINES = ["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)]

DEVICES = {"GB": "GB18030", "IR58": "ISO 2022 IR 58", "LATIN": "ISO_IR 100", "UTF": "ISO_IR 192", "AUTO": "auto"}
"""AE title -> character set in the configuration; an unknown caller has ``auto`` too."""
CONFIG = "".join(
    f"[device {title}]\nae-title = {title}\nhost = 127.0.0.1\ncharacter-set = {setting}\n"
    for title, setting in DEVICES.items()
)

ZHANG = {
    "PatientID": "P1", "PatientBirthDate": "19610315", "PatientSex": "M", "SpecificCharacterSet": "GB18030",
    "PatientName": NAMES["GB18030"][1], "StudyDate": "20240312", "StudyTime": "092000", "AccessionNumber": "ACC-1",
    "StudyDescription": "脑血管造影".encode("gb18030"),
    "ProcedureCodeSequence": sequence({"CodeValue": "DSA-1", "CodingSchemeDesignator": "99LOCAL"}),
}  # fmt: skip
HOLDINGS = [
    instance("1.1", 1, 1, RequestAttributesSequence=sequence({"ScheduledProcedureStepID": "SPS1"}), **ZHANG),
    instance("1.1", 1, 2, **ZHANG),
    instance("1.1", 9, 1, Modality="SR", SOPClassUID=DOSE_REPORT, **ZHANG),
    *(
        instance(f"1.{10 + number}", PatientID=f"N{number}", SpecificCharacterSet=label, PatientName=name,
                 StudyDate=f"202301{10 + number}", StudyTime="080000")
        for number, (label, name) in enumerate(NAMES.values())
    ),
]  # fmt: skip
NAMED = {name: f"1.{10 + number}" for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module", params=ENGINES)
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """The archive in its own process, with the holdings above sent to it by storescu."""
    index = None
    if request.param == "mariadb":
        server: MariaDB = request.getfixturevalue("mariadb_server")
        index = (server if server.running else server.start()).database()
    folder = tmp_path_factory.mktemp("query")
    paths = [write(values, folder / f"{number}.dcm") for number, values in enumerate(HOLDINGS)]
    with Service(folder, index=index, config=CONFIG, unknown_devices="all") as service:
        sent = storescu(service.peer, paths).ok()
        assert sent.statuses == [0] * len(paths)
        yield service.peer


def find(peer: Peer, level: str, keys: Sequence[str | bytes], *options: str, **more: str) -> Result:
    return findscu(peer, [f"QueryRetrieveLevel={level}", *keys], *options, **more).ok()  # type: ignore[arg-type]


def uids(result: Result, keyword: str = "StudyInstanceUID") -> set[str]:
    found = [str(data_set[keyword].value) for data_set in result.data_sets]
    assert len(set(found)) == len(found), "a match was answered twice"
    assert result.statuses == [0xFF00] * len(found) + [0]
    return set(found)


# ---- models, levels, keys


@pytest.mark.parametrize(
    ("model", "level", "keyword", "expected"),
    [
        ("-P", "PATIENT", "PatientID", {"P1"}),
        ("-P", "STUDY", "StudyInstanceUID", {"1.1"}),
        ("-P", "SERIES", "SeriesInstanceUID", {"1.1.1", "1.1.9"}),
        ("-P", "IMAGE", "SOPInstanceUID", {"1.1.1.1", "1.1.1.2", "1.1.9.1"}),
        ("-S", "STUDY", "StudyInstanceUID", {"1.1"}),
        ("-S", "SERIES", "SeriesInstanceUID", {"1.1.1", "1.1.9"}),
        ("-S", "IMAGE", "SOPInstanceUID", {"1.1.1.1", "1.1.1.2", "1.1.9.1"}),
        ("-O", "PATIENT", "PatientID", {"P1"}),
        ("-O", "STUDY", "StudyInstanceUID", {"1.1"}),
    ],
)
@pytest.mark.parametrize("syntax", ["-xi", "-xe"])
def test_levels_of_the_models(
    archive: Peer, model: str, level: str, keyword: str, expected: set[str], syntax: str
) -> None:
    # Every unique key of the levels between is missing, and nothing was negotiated.
    result = find(archive, level, [keyword, "PatientID=P1"], syntax, model=model)
    assert uids(result, keyword) == expected
    assert {data_set.QueryRetrieveLevel for data_set in result.data_sets} == {level}


@pytest.mark.parametrize(
    ("model", "level"),
    [("-S", "PATIENT"), ("-O", "SERIES"), ("-O", "IMAGE"), ("-P", "STUDYS"), ("-S", "study"), ("-S", ""), ("-S", None)],
)
def test_a_level_that_is_none_of_the_model(archive: Peer, model: str, level: str | None) -> None:
    keys = ["PatientID=P1"] if level is None else ["PatientID=P1", f"QueryRetrieveLevel={level}"]
    result = findscu(archive, keys, model=model)
    assert result.statuses == [0xA900]


@pytest.mark.parametrize(
    ("level", "keys", "expected"),
    [
        ("STUDY", ["PatientID=p?", "StudyInstanceUID"], {"1.1"}),
        ("STUDY", ["StudyInstanceUID=1.1\\1.10\\1.99"], {"1.1", "1.10"}),
        ("STUDY", ["AccessionNumber=ACC-1\\ACC-2", "StudyInstanceUID"], {"1.1"}),
        ("STUDY", ["StudyDate=20240301-20240331", "StudyInstanceUID"], {"1.1"}),
        ("STUDY", ["StudyDate=-20230110", "StudyInstanceUID"], {"1.10"}),
        ("STUDY", ["StudyTime=0920", "StudyInstanceUID"], {"1.1"}),
        ("STUDY", ["StudyDate=2024-13-99", "StudyInstanceUID"], set()),
        ("STUDY", ["ModalitiesInStudy=SR", "StudyInstanceUID"], {"1.1"}),
        ("STUDY", ["ProcedureCodeSequence[0].CodeValue=DSA-1", "StudyInstanceUID"], {"1.1"}),
        ("STUDY", ["ProcedureCodeSequence[0].CodeValue=DSA-2", "StudyInstanceUID"], set()),
        ("SERIES", ["Modality=SR", "SeriesInstanceUID"], {"1.1.9"}),
        ("SERIES", ["StudyInstanceUID=1.1", "SeriesNumber=+9", "SeriesInstanceUID"], {"1.1.9"}),
        ("SERIES", ["RequestAttributesSequence[0].ScheduledProcedureStepID=SPS?", "SeriesInstanceUID"], {"1.1.1"}),
        ("IMAGE", ["SeriesInstanceUID=1.1.1", "InstanceNumber=2", "SOPInstanceUID"], {"1.1.1.2"}),
        ("IMAGE", [f"SOPClassUID={DOSE_REPORT}", "SOPInstanceUID"], {"1.1.9.1"}),
    ],
)
def test_matching(archive: Peer, level: str, keys: list[str], expected: set[str]) -> None:
    unique = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
    for syntax in ("-xi", "-xe"):
        assert uids(find(archive, level, keys, syntax), unique) == expected


def test_what_the_archive_counts_and_knows(archive: Peer) -> None:
    keys = [
        "StudyInstanceUID=1.1", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "ModalitiesInStudy",
        "NumberOfPatientRelatedStudies", "RetrieveAETitle", "InstanceAvailability", "SOPClassesInStudy", "StudyID",
        "ProcedureCodeSequence[0].CodeValue",
    ]  # fmt: skip
    (found,) = find(archive, "STUDY", keys).data_sets
    assert (found.NumberOfStudyRelatedSeries, found.NumberOfStudyRelatedInstances) == (2, 3)
    assert found.NumberOfPatientRelatedStudies == 1
    assert list(found.ModalitiesInStudy) == ["SR", "XA"]
    assert (found.RetrieveAETitle, found.InstanceAvailability) == ("ANGIOVAULT", "ONLINE")
    assert DOSE_REPORT in found.SOPClassesInStudy
    assert found["StudyID"].is_empty
    assert [list(item) for item in found.ProcedureCodeSequence] == [[pydicom.DataElement(0x00080100, "SH", "DSA-1")]]
    series = find(archive, "SERIES", ["StudyInstanceUID=1.1", "SeriesNumber=1", "NumberOfSeriesRelatedInstances"])
    assert [data_set.NumberOfSeriesRelatedInstances for data_set in series.data_sets] == [2]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["RetrieveAETitle=ANGIOVAULT", "InstanceAvailability=ONLINE"], {"1.1"}),
        (["RetrieveAETitle=ELSEWHERE"], set()),
        (["InstanceAvailability=OFFLINE"], set()),
        (["NumberOfStudyRelatedInstances=3"], {"1.1"}),
        (["NumberOfStudyRelatedInstances=4"], set()),
    ],
)
def test_what_the_archive_makes_can_be_asked_for(archive: Peer, keys: list[str], expected: set[str]) -> None:
    assert uids(find(archive, "STUDY", ["StudyInstanceUID=1.1", *keys])) == expected


@pytest.mark.parametrize(
    ("level", "key", "status"),
    [
        ("STUDY", "PatientBirthDate", 0xFF00),
        ("STUDY", "AdmittingDiagnosesDescription", 0xFF00),
        ("STUDY", "TimezoneOffsetFromUTC", 0xFF00),
        ("STUDY", "SeriesInstanceUID", 0xFF01),
        ("STUDY", "Modality=MR", 0xFF01),
        ("STUDY", "ExposureTime", 0xFF01),
        ("STUDY", "0009,1001=1", 0xFF01),
        ("SERIES", "Modality", 0xFF00),
        ("SERIES", "Rows", 0xFF01),
        ("IMAGE", "Rows", 0xFF00),
    ],
)
def test_ff01_says_that_an_optional_key_is_not_supported(archive: Peer, level: str, key: str, status: int) -> None:
    result = find(archive, level, ["StudyInstanceUID=1.1", key])
    assert set(result.statuses[:-1]) == {status}
    if status == 0xFF01:
        (tag,) = {element.tag for element in parse_key(key)}
        assert all(tag not in data_set for data_set in result.data_sets)


def parse_key(key: str) -> Dataset:
    data_set = Dataset()
    name = key.split("=")[0]
    if "," in name:
        data_set.add_new(int(name.replace(",", ""), 16), "UN", b"")
    else:
        setattr(data_set, name, None)
    return data_set


@pytest.mark.parametrize(
    ("query", "pending"),
    [
        (["--studyroot", "--study", "--key", "10,10=zhang*", "--key", "20,d="], 2),
        (["--patientroot", "--patient", "--key", "10,20=P1", "--key", "10,30="], 1),
    ],
)
def test_gdcm_finds(archive: Peer, query: list[str], pending: int) -> None:
    command = [program("gdcmscu"), archive.host, str(archive.port), "--call", archive.ae_title, "-D", "--find", *query]
    # It crashes when it releases an association after a C-FIND, with Orthanc as well: its log says what came before.
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    log = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert "C-Find was successful" in log
    responses = re.findall(r"\(0000,0900\) \?\? \(US\) (\d+)", log)
    assert responses.count(str(0xFF00)) == 2 * pending, "it logs every response twice"


def test_pynetdicoms_own_program_finds(archive: Peer) -> None:
    command = [sys.executable, "-m", "pynetdicom", "findscu", archive.host, str(archive.port)]
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=ZHANG^SAN", "-k", "StudyDescription=", "-S", "-d"]
    done = subprocess.run([*command, *keys, "-aec", archive.ae_title], capture_output=True, timeout=60, check=True)
    log = (done.stdout + done.stderr).decode("utf-8")
    assert "脑血管造影" in log
    assert "0x0000 (Success)" in log


# ---- extended negotiation (PS3.4 C.5.1.1)


def ask(peer: Peer, level: str, flags: bytes | None, **keys: str) -> tuple[bytes | None, set[str]]:
    """Query with pynetdicom; return the answer to the extended negotiation, and the Study Instance UIDs found."""
    ae = AE("PYNETDICOM")
    proposed = []
    if flags is not None:
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid = STUDY_ROOT_FIND
        item.service_class_application_information = flags
        proposed.append(item)
    association = ae.associate(
        peer.host, peer.port, [build_context(STUDY_ROOT_FIND)], ae_title=peer.ae_title, ext_neg=proposed
    )
    assert association.is_established
    try:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = level
        identifier.StudyInstanceUID = ""
        for keyword, value in keys.items():
            setattr(identifier, keyword, value)
        answers = list(association.send_c_find(identifier, STUDY_ROOT_FIND))
        assert [status.Status for status, _ in answers[:-1]] == [0xFF00] * (len(answers) - 1)
        assert answers[-1][0].Status == 0
        return association.acceptor.sop_class_extended.get(STUDY_ROOT_FIND), {
            str(found.StudyInstanceUID) for _, found in answers[:-1] if found is not None
        }
    finally:
        association.release()


def test_dates_and_times_are_combined_only_when_negotiated(archive: Peer) -> None:
    keys = {"StudyDate": "20240310-20240314", "StudyTime": "1000-1200"}  # 09:20 on the 12th
    assert ask(archive, "STUDY", None, **keys) == (None, set())
    assert ask(archive, "STUDY", b"\1\0\0", **keys) == (b"\1\0\0", set())
    assert ask(archive, "STUDY", b"\0\1", **keys) == (b"\0\1", {"1.1"})
    assert ask(archive, "STUDY", b"\1\1\1\1\1", **keys) == (b"\1\1\0\0\0", {"1.1"})


@pytest.mark.parametrize("flags", [None, b"\0", b"\1"])
def test_upper_keys_may_be_missing_with_or_without_relational_queries(archive: Peer, flags: bytes | None) -> None:
    answered, found = ask(archive, "IMAGE", flags, SOPInstanceUID="1.1.9.1", PatientName="")
    assert (answered, found) == (flags, {"1.1"})


# ---- names in any script

READABLE = {
    "GB18030": "Zhang^San=张^三",
    "GBK, unlabelled": "李^秀英",
    "GBK, mislabelled": "Chen^Wei=陈^伟",
    "UTF-8": "Wang^Xiaoming=王^小明",
    "Latin-1": "Müller^Jürgen",
    "ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "ISO 2022 IR 58": "Zhao^Dong=赵^东",
}


def name_of(result: Result) -> tuple[str, str]:
    """Return the label of the only answer, and its name as pydicom reads it by that label."""
    (found,) = result.data_sets
    label = found.get("SpecificCharacterSet", "")
    # pydicom leaves the escape sequences of GB 2312 in the text.
    name = re.sub(r"\x1b(\$\)A|\(B)", "", str(found.PatientName))
    return label if isinstance(label, str) else "\\".join(label), name


def raw_name(result: Result) -> bytes:
    (found,) = result.data_sets
    value = found.get_item("PatientName").value
    assert isinstance(value, bytes)
    return value.rstrip(b" ")


@pytest.mark.parametrize("stored", NAMES)
def test_names_are_found_and_answered_in_the_set_of_the_request(archive: Peer, stored: str) -> None:
    uid, name = NAMED[stored], READABLE[stored]
    for group in name.split("="):
        family = group.split("^")[0]
        for pattern in (group, f"{group}^^^", group.upper(), f"{family}^*", f"{family.lower()}*", f"*{group[-1]}"):
            keys = [f"PatientName={pattern}", f"StudyInstanceUID={uid}", "SpecificCharacterSet=ISO_IR 192"]
            result = find(archive, "STUDY", keys)
            assert name_of(result) == ("ISO_IR 192", name), pattern
    keys = [b"PatientName=" + name.encode("gb18030"), f"StudyInstanceUID={uid}", "SpecificCharacterSet=GB18030"]
    assert name_of(find(archive, "STUDY", keys)) == ("GB18030", name)


@pytest.mark.parametrize(
    ("stored", "key"),
    [("GB18030", "张^三"), ("GBK, unlabelled", "李*"), ("UTF-8", "王^小明"), ("ISO 2022 IR 58", "*=赵^东")],
)
@pytest.mark.parametrize("label", [None, "ISO_IR 100", "GBK"])
def test_keys_in_gbk_that_say_so_or_not(archive: Peer, stored: str, key: str, label: str | None) -> None:
    keys = [b"PatientName=" + key.encode("gbk"), f"StudyInstanceUID={NAMED[stored]}"]
    assert uids(find(archive, "STUDY", keys + ([f"SpecificCharacterSet={label}"] if label else []))) == {NAMED[stored]}


@pytest.mark.parametrize(
    ("calling", "stored", "label"),
    [
        ("GB", "UTF-8", "GB18030"),
        ("GB", "ISO 2022 IR 58", "GB18030"),
        ("GB", "ISO 2022 IR 149", "GB18030"),
        ("GB", "Latin-1", "GB18030"),
        ("UTF", "GBK, unlabelled", "ISO_IR 192"),
        ("UTF", "ISO 2022 IR 87", "ISO_IR 192"),
        ("IR58", "GBK, mislabelled", "\\ISO 2022 IR 58"),
        ("IR58", "GB18030", "\\ISO 2022 IR 58"),
        ("LATIN", "Latin-1", "ISO_IR 100"),
        ("LATIN", "UTF-8", "ISO_IR 192"),  # Latin-1 cannot hold it: as it was stored
        ("AUTO", "GB18030", "GB18030"),
        ("AUTO", "ISO 2022 IR 87", "\\ISO 2022 IR 87"),
        ("AUTO", "ISO 2022 IR 149", "\\ISO 2022 IR 149"),
        ("AUTO", "GBK, unlabelled", "GB18030"),  # its own label would be wrong
        ("AUTO", "GBK, mislabelled", "GB18030"),
        ("STRANGER", "GBK, mislabelled", "GB18030"),
    ],
)
def test_the_device_decides_where_the_request_does_not(archive: Peer, calling: str, stored: str, label: str) -> None:
    for key in ([], ["SpecificCharacterSet=ISO_IR 100"] if READABLE[stored] != "Müller^Jürgen" else []):
        keys = [f"StudyInstanceUID={NAMED[stored]}", "PatientName", *key]
        result = find(archive, "STUDY", keys, calling=calling)
        assert name_of(result) == (label, READABLE[stored])


def test_the_set_of_the_request_comes_before_that_of_the_device(archive: Peer) -> None:
    keys = [f"StudyInstanceUID={NAMED['GB18030']}", "PatientName", "SpecificCharacterSet=ISO_IR 192"]
    assert name_of(find(archive, "STUDY", keys, calling="GB")) == ("ISO_IR 192", READABLE["GB18030"])


def test_what_a_device_cannot_hold_is_answered_as_stored(archive: Peer) -> None:
    for stored in ("GB18030", "ISO 2022 IR 87"):
        result = find(archive, "STUDY", [f"StudyInstanceUID={NAMED[stored]}", "PatientName"], calling="LATIN")
        assert raw_name(result) == NAMES[stored][1].rstrip(b" ")
        assert name_of(result)[0].encode() == NAMES[stored][0]


# ---- what no program would ask


class Finder(RawPeer):
    """Sends identifiers as they are and reads the answers."""

    def ask(self, identifier: bytes, message_id: int = 1, *, more: bytes = b"") -> None:
        command = command_set({0x0002: STUDY_ROOT_FIND, 0x0100: 0x0020, 0x0110: message_id, 0x0700: 0, 0x0800: 1})
        context = self.context(STUDY_ROOT_FIND)
        self.send(pdu(4, pdv(context, command, command=True)))
        size = self.max_pdu - 6
        parts = [identifier[start : start + size] for start in range(0, len(identifier), size)] or [b""]
        last = [number == len(parts) for number in range(1, len(parts) + 1)]
        self.send(b"".join(pdu(4, pdv(context, part, last=end)) for part, end in zip(parts, last, strict=True)) + more)

    def cancel(self, message_id: int = 1) -> bytes:
        """Return the PDU of a C-CANCEL request."""
        command = command_set({0x0100: 0x0FFF, 0x0120: message_id, 0x0800: 0x0101})
        return pdu(4, pdv(self.context(STUDY_ROOT_FIND), command, command=True))

    def answer(self) -> tuple[Dataset, bytes]:
        """Read one response: its command set, and its identifier."""
        command = read_dataset(BytesIO(self._part(1)), is_implicit_VR=True, is_little_endian=True)
        return command, b"" if command.CommandDataSetType == 0x0101 else self._part(0)

    def answers(self, identifier: bytes) -> tuple[Dataset, list[bytes]]:
        """Ask; return the command set of the final response, and the identifiers before it."""
        self.ask(identifier)
        found = []
        while True:
            command, data = self.answer()
            if command.Status not in (0xFF00, 0xFF01):
                return command, found
            found.append(data)


@pytest.fixture
def finder(archive: Peer) -> Iterator[Callable[[str], Finder]]:
    """Return a function that associates for C-FIND with one transfer syntax."""
    open_now: list[Finder] = []

    def associate(syntax: str = EXPLICIT) -> Finder:
        peer = Finder(archive)
        open_now.append(peer)
        peer.associate([(STUDY_ROOT_FIND, [syntax]), (VERIFICATION, [IMPLICIT])])
        return peer

    yield associate
    for peer in open_now:
        peer.socket.close()


STUDY_LEVEL = explicit(0x00080052, b"CS", b"STUDY")
ASK_UID = explicit(0x0020000D, b"UI", b"")
ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HHL", 0xFFFE, n, 0) for n in (0xE000, 0xE00D, 0xE0DD))
OPEN_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)


def study_uids(identifiers: Sequence[bytes]) -> set[str]:
    found = [elements.decode(data)[0x0020000D][1] for data in identifiers]
    return {uid.decode().rstrip("\0") for uid in found}


@pytest.mark.parametrize(
    "identifier",
    [
        b"\x08",
        b"no data set at all",
        STUDY_LEVEL + explicit(0x00100010, b"PN", b"CUT^OFF")[:-3],
        STUDY_LEVEL + explicit(0x00100010, b"PN", b"LIE", length=60_000),
        STUDY_LEVEL + explicit(0x00100010, b"??", b"VR"),
        elements.encode({0x00080052: ("CS", b"STUDY")}, implicit=True),
        STUDY_LEVEL + explicit(0x00400275, b"SQ", b"no items"),
        STUDY_LEVEL + explicit(0x00400275, b"LO", b"no sequence"),
        STUDY_LEVEL + explicit(0x00100010, b"SQ", ITEM),
        STUDY_LEVEL + explicit(0x00400275, b"SQ", OPEN_ITEM, length=0xFFFFFFFF),
        STUDY_LEVEL
        + (explicit(0x00400275, b"SQ", b"", length=0xFFFFFFFF) + OPEN_ITEM) * 10_000
        + (ITEM_END + SEQUENCE_END) * 10_000,
        STUDY_LEVEL + b"".join(explicit(0x00110000 + number, b"LO", b"") for number in range(1, 20_000)),
    ],
    ids=["byte", "text", "cut", "lying", "vr", "implicit", "items", "sq", "no-sq", "open", "deep", "many"],
)
def test_an_identifier_that_cannot_be_decoded(finder: Callable[..., Finder], identifier: bytes) -> None:
    peer = finder()
    final, found = peer.answers(identifier)
    assert (final.Status, found) == (0xC000, [])
    assert "decoded" in final.ErrorComment
    assert study_uids(peer.answers(STUDY_LEVEL + explicit(0x0020000D, b"UI", b"1.1"))[1]) == {"1.1"}
    peer.release()


def test_an_empty_identifier_has_no_level(finder: Callable[..., Finder]) -> None:
    final, found = finder().answers(b"")
    assert (final.Status, found) == (0xA900, [])
    assert "missing" in final.ErrorComment


def implicit(values: Mapping[int, bytes]) -> bytes:
    """Encode a query at study level in Implicit VR, where a value may have any length."""
    values = {0x00080052: b"STUDY ", 0x0020000D: b"", **values}
    return b"".join(
        struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(values[tag])) + values[tag] for tag in sorted(values)
    )


@pytest.mark.parametrize(
    "values",
    [
        {0x0020000D: b"1.2.3.4\\" * 600_000},  # more than 4 MiB
        {0x00100020: b"x" * 70_000},
        {0x00100020: b"x\\" * 3_000},
        {0x00100010: b"*x\\" * 300},
        {0x00100010: b"*x=" * 300},
    ],
    ids=["identifier", "key", "values", "patterns", "groups"],
)
def test_a_query_that_is_too_much(finder: Callable[..., Finder], values: dict[int, bytes]) -> None:
    peer = finder(IMPLICIT)
    final, found = peer.answers(implicit(values))
    assert (final.Status, found) == (0xC001, [])
    assert study_uids_implicit(peer.answers(implicit({0x0020000D: b"1.1\0"}))[1]) == {"1.1"}
    peer.release()


def study_uids_implicit(identifiers: Sequence[bytes]) -> set[str]:
    read = [read_dataset(BytesIO(data), is_implicit_VR=True, is_little_endian=True) for data in identifiers]
    return {str(data_set.StudyInstanceUID) for data_set in read}


def test_large_keys_that_are_not_too_much(finder: Callable[..., Finder]) -> None:
    peer = finder(IMPLICIT)
    list_of_uids = b"\\".join(b"9.9.%d" % number for number in range(10_000)) + b"\\1.1\\1.10"
    assert study_uids_implicit(peer.answers(implicit({0x0020000D: list_of_uids}))[1]) == {"1.1", "1.10"}
    for key in (b"*" * 60_000, b"*" * 60_000 + b"P1"):
        assert "1.1" in study_uids_implicit(peer.answers(implicit({0x00100020: key}))[1])
    gbk = "\\".join(f"李{number}^*" for number in range(100)).encode("gbk")
    for key in (b"*x" * 30_000, b"?" * 60_000, b"x" * 60_000, gbk, b"x" + b"^*" * 30_000, b"x*" * 30_000 + b"^"):
        for tag in (0x00100010, 0x00100020, 0x00081030, 0x00080061, 0x00080090):
            final, found = peer.answers(implicit({tag: key}))
            assert (final.Status, found) == (0, [])


@pytest.mark.parametrize(
    "value", ["%", "_1", "'", '"', "P1' OR '1'='1", "[P]1", "!", "P!1", ";--", "\0", "病人", "\x1b$)A"]
)
@pytest.mark.parametrize("tag", [0x0020000D, 0x00100010, 0x00100020, 0x00080050, 0x00080061, 0x00080020, 0x00080062])
def test_metacharacters_are_ordinary(finder: Callable[..., Finder], tag: int, value: str) -> None:
    encoded = value.encode() + b" " * (len(value.encode()) % 2)
    final, found = finder(IMPLICIT).answers(implicit({tag: encoded, 0x00080005: b"ISO_IR 192"}))
    assert final.Status == 0
    assert len(found) == (len(NAMED) + 1 if value == "\0" else 0)  # padding is no value


def test_keys_of_unknown_vr_and_group_lengths(finder: Callable[..., Finder]) -> None:
    peer = finder()
    code = struct.pack("<HHL", 0x0008, 0x0100, 6) + b"DSA-1 "
    identifier = b"".join(
        [
            explicit(0x00080000, b"UL", bytes(4)),
            STUDY_LEVEL,
            explicit(0x00081032, b"UN", ITEM[:4] + struct.pack("<L", len(code)) + code),
            explicit(0x00100000, b"UL", bytes(4)),
            explicit(0x00100010, b"UN", b"zhang*"),
            explicit(0x0020000D, b"UN", b""),
        ]
    )
    peer.ask(identifier)
    command, data = peer.answer()
    assert command.Status == 0xFF00, "group lengths are no keys that are not supported"
    assert study_uids([data]) == {"1.1"}
    assert elements.decode(data)[0x00100010][0] == "PN"
    assert peer.answer()[0].Status == 0


# ---- much, cancelled, damaged, away


def filled(folder: Path, values: list[dict[str, bytes | str | int]]) -> Path:
    """Make a storage whose index holds entries without files, which queries do not need; return the index's path."""
    path = folder / "index.sqlite"
    with closing(Archive(folder / "archive", IndexURL("sqlite", path))) as archive:
        archive.open()
        assert set(archive.index.rebuild([entry(value) for value in values])) == {""}
    return path


MANY = 1500


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """An archive of more studies than fit into the buffers of a connection."""
    folder = tmp_path_factory.mktemp("crowded")
    path = filled(folder, [instance(f"1.{number}", PatientID=f"P{number}") for number in range(MANY)])
    with Service(folder, index=f"sqlite:///{path}", unknown_devices="all") as service:
        yield service.peer


def test_all_of_many_are_answered(crowded: Peer) -> None:
    result = find(crowded, "STUDY", ["StudyInstanceUID", "PatientName"])
    assert len(uids(result)) == MANY


def test_findscu_cancels(crowded: Peer) -> None:
    result = find(crowded, "STUDY", ["StudyInstanceUID"], "--cancel", "3")
    assert result.final.status == 0xFE00
    assert 3 <= len(result.data_sets) < MANY


def test_a_cancelled_query_ends_within_a_second(crowded: Peer) -> None:
    with Finder(crowded) as peer:
        peer.associate([(STUDY_ROOT_FIND, [EXPLICIT])])
        # The second query finds nobody, but not by an index: it looks at every study.
        for message_id, key in ((1, b""), (2, explicit(0x00100021, b"LO", b"NOBODY"))):
            peer.ask(STUDY_LEVEL + key + ASK_UID, message_id, more=peer.cancel(message_id))
            began, count = time.monotonic(), 0
            while (command := peer.answer()[0]).Status == 0xFF00:
                count += 1
            assert command.Status == 0xFE00
            assert command.MessageIDBeingRespondedTo == message_id
            assert count < MANY
            assert time.monotonic() - began < 1
        # A cancel that comes too late, or names another query, changes nothing.
        peer.send(peer.cancel(2) + peer.cancel(77))
        final, found = peer.answers(STUDY_LEVEL + explicit(0x0020000D, b"UI", b"1.7"))
        assert (final.Status, len(found)) == (0, 1)
        peer.release()


def test_a_requestor_that_goes_away_in_the_middle_is_no_fault(crowded: Peer) -> None:
    with Finder(crowded) as peer:
        peer.associate([(STUDY_ROOT_FIND, [EXPLICIT])])
        peer.ask(STUDY_LEVEL + ASK_UID)
        peer.answer()
    result = find(crowded, "STUDY", ["StudyInstanceUID=1.7"])
    assert uids(result) == {"1.7"}


def test_a_damaged_row_does_not_end_the_query(service: Callable[..., Service], tmp_path: Path) -> None:
    path = filled(tmp_path, [instance(f"1.{number}", PatientID=f"P{number}") for number in range(10)])
    running = service(index=f"sqlite:///{path}", unknown_devices="all")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE study SET head = x'1000100050' WHERE uid = '1.4'")
    result = find(running.peer, "STUDY", ["StudyInstanceUID", "PatientID"])
    assert uids(result) == {f"1.{number}" for number in range(10) if number != 4}
    assert re.search(r"ERROR.*STUDY \d+ of the index is damaged", running.log_text())


@pytest.mark.mariadb
def test_while_the_database_is_away_queries_are_refused(
    mariadb: MariaDB, service: Callable[..., Service], tmp_path: Path
) -> None:
    running = service(index=mariadb.database(), unknown_devices="all")
    storescu(running.peer, [write(HOLDINGS[0], tmp_path / "1.dcm")]).ok()
    keys = ["QueryRetrieveLevel=STUDY", "StudyInstanceUID"]
    assert uids(findscu(running.peer, keys)) == {"1.1"}
    mariadb.kill()
    refused = findscu(running.peer, keys)
    assert refused.statuses == [0xA700]
    running.wait_for_log("cannot answer a query")
    with Finder(running.peer) as peer:
        peer.associate([(STUDY_ROOT_FIND, [EXPLICIT])])
        final, _ = peer.answers(STUDY_LEVEL)
        assert (final.Status, final.ErrorComment[:9]) == (0xA700, "the index")
    mariadb.start()
    wait_until(lambda: findscu(running.peer, keys).statuses == [0xFF00, 0], "queries to be answered again")
