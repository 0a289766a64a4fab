"""Finding on the index: the matching matrix with the same answers from both engines, damaged rows, query plans."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.uid import SecondaryCaptureImageStorage as SC

from angiovault.archive import elements, models
from angiovault.archive.attributes import WANTED
from angiovault.archive.elements import Element, dictionary_vr
from angiovault.archive.finding import conditions, query
from angiovault.archive.finding.matching import Key
from angiovault.archive.finding.query import Match, Query, TooManyMatches, find, supported
from angiovault.archive.finding.rows import COMPUTED
from angiovault.archive.index import Index
from angiovault.archive.models import Study
from angiovault.config import IndexURL
from harness.instances import NAMES, entry, instance, sequence
from harness.mariadb import MariaDB

ENGINES = ["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)]
UTF8 = b"ISO_IR 192"


def tag_of(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def keys_of(label: bytes = UTF8, **values: object) -> dict[int, Key]:
    """Return keys by keyword: text in UTF-8, bytes as they are, a mapping of keywords as the item of a sequence."""
    keys = {}
    for keyword, value in values.items():
        tag = tag_of(keyword)
        if isinstance(value, dict):
            keys[tag] = Key("SQ", b"", label, (keys_of(label, **value),))
        else:
            keys[tag] = Key(dictionary_vr(tag), value if isinstance(value, bytes) else str(value).encode(), label)
    return keys


def matches(index: Index, level: str, combined: bool = False, **values: object) -> list[Match]:
    return [match for batch in find(index, Query(level, keys_of(**values), combined)) for match in batch]


UNIQUE = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


def found(index: Index, level: str, combined: bool = False, **values: object) -> set[str]:
    """Return the values of the level's unique key of all matches; UIDs are unique by their last two parts."""
    unique = UNIQUE[level]
    some = matches(index, level, combined, **{unique: "", **values})
    got = [match.values[tag_of(unique)][1].strip(b" \0").decode() for match in some]
    assert len(set(got)) == len(got), "a match was answered twice"
    return set(got)


def text(match: Match, keyword: str) -> str:
    return match.values[tag_of(keyword)][1].decode().strip(" \0")


# ---- the holdings of the matching matrix

HEAD = {
    "PatientID": "P1", "IssuerOfPatientID": "HOSPITAL", "PatientBirthDate": "19610315", "PatientSex": "M",
    "StudyDate": "20240312", "StudyTime": "092000.5", "AccessionNumber": "ACC-1", "StudyID": "S 1",
    "StudyDescription": "脑血管造影".encode("gb18030"),
    "ReferringPhysicianName": "Zhao^Doctor=赵^医生".encode("gb18030"),
    "SpecificCharacterSet": NAMES["GB18030"][0], "PatientName": NAMES["GB18030"][1],
    "ProcedureCodeSequence": sequence(
        {"CodeValue": "DSA-1", "CodingSchemeDesignator": "99LOCAL"},
        {"CodeValue": "DSA-2", "CodingSchemeDesignator": "SRT"}
    ),
}  # fmt: skip
PLANNED = sequence(
    {
        "RequestedProcedureID": "RP1",
        "ScheduledProcedureStepID": "SPS1",
        "ScheduledProtocolCodeSequence": sequence({"CodeValue": "PROTO"}),
    }
)
LIVER = {
    "PatientID": "P2", "PatientBirthDate": "19540720", "PatientSex": "F", "StudyDate": "20240313",
    "StudyTime": "140500", "AccessionNumber": "ACC-2", "StudyID": "2", "StudyDescription": "LIVER 50%_[x]!'",
    "PatientName": "Liver^Patient",
}  # fmt: skip
ODD = {
    "PatientID": "a_b%c'd[e]!", "PatientName": "O'Neil^100%!", "StudyDate": "", "AccessionNumber": "acc-1",
    "StudyDescription": "x" * 300, "StudyTime": "0930",
}  # fmt: skip

HOLDINGS = [
    instance(
        "1.1", 1, 1, SeriesDescription="ICA R PA", BodyPartExamined="HEAD", Laterality="R", StationName="ROOM1",
        InstitutionName="Hospital", InstitutionalDepartmentName="Radiology", PerformedProcedureStepStartDate="20240312",
        PerformedProcedureStepStartTime="091500", RequestAttributesSequence=PLANNED, Rows=512, Columns=512,
        NumberOfFrames=30, ContentDate="20240312", ContentTime="092100", AcquisitionDateTime="20240312092100.5", **HEAD,
    ),
    instance("1.1", 1, 2, ContentDate="20240313", ContentTime="080000", Rows=1024, InstanceNumber=" +02 ", **HEAD),
    instance(
        "1.1", 9, 1, Modality="SR", SeriesDescription="Dose", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", **HEAD
    ),
    instance("1.2", 1, 1, SeriesDescription="DSA 2", **LIVER),
    instance("1.2", 2, 1, Modality="CT", **LIVER),
    instance("1.3", 1, 1, **ODD),
    instance("1.4", 1, 1, PatientID="", PatientName=""),
]  # fmt: skip
HOLDINGS += [
    instance(
        f"1.{10 + number}",
        1,
        1,
        PatientID=f"N{number}",
        SpecificCharacterSet=label,
        PatientName=name,
        StudyDate="20230101",
    )
    for number, (label, name) in enumerate(NAMES.values())
]
NAMED = {name: f"1.{10 + number}" for number, name in enumerate(NAMES)}
# The same patient comes back under another name and another number: one study, found by both.
HOLDINGS.append(instance("1.12", 1, 2, PatientID="MERGED", PatientName="Merged^Patient", StudyDate="20230101"))
STUDIES = {"1.1", "1.2", "1.3", "1.4", *NAMED.values()}
NAMED_ALL = set(NAMED.values())


@pytest.fixture(scope="module", params=ENGINES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index with the holdings above."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('index') / 'index.sqlite'}"
    else:
        server: MariaDB = request.getfixturevalue("mariadb_server")
        url = (server if server.running else server.start()).database()
    with closing(new_index(url)) as index:
        fill(index, HOLDINGS)
        yield index


def new_index(url: str) -> Index:
    index = Index(IndexURL.parse(url, Path()))
    index.open("an archive", complete=True)
    return index


def fill(index: Index, holdings: Iterable[dict[str, bytes | str | int]]) -> None:
    assert set(index.rebuild([entry(values) for values in holdings])) == {""}


@pytest.fixture
def index(opened: Index) -> Index:
    opened.database.bind(models.ALL)  # another test of this process may have opened an index of its own
    return opened


# ---- which entities match


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, STUDIES),
        ({"PatientID": "P1"}, {"1.1"}),
        ({"PatientID": "P?"}, {"1.1", "1.2"}),
        ({"PatientID": "P1\\P2"}, {"1.1", "1.2"}),
        ({"PatientID": "*_b%c'd[e]!"}, {"1.3"}),
        ({"PatientID": "a_b%c'd[e]!"}, {"1.3"}),
        ({"PatientID": "a_b*"}, {"1.3"}),
        ({"PatientID": "%"}, set()),
        ({"PatientID": "a%"}, set()),
        ({"PatientID": "a_b_c*"}, set()),
        ({"PatientID": "[aP]*"}, set()),
        ({"PatientID": "' OR ''='"}, set()),
        ({"PatientID": '""'}, set()),
        ({"PatientID": "?"}, set()),
        ({"PatientID": "*?*?*?*"}, {"1.3", "1.12"}),
        ({"PatientID": "*!"}, {"1.3"}),
        ({"PatientID": "病人"}, set()),
        ({"PatientName": "o'neil^*"}, {"1.3"}),
        ({"PatientName": "O'Neil^100%!"}, {"1.3"}),
        ({"PatientName": "*"}, STUDIES),
        ({"PatientName": "^^^^"}, STUDIES),
        ({"PatientName": "?*"}, STUDIES - {"1.4"}),
        ({"PatientName": "ZHANG^SAN\\LI^*"}, {"1.1", NAMED["GB18030"]}),
        ({"IssuerOfPatientID": "HOSP*"}, {"1.1"}),
        ({"PatientBirthDate": "19610315"}, {"1.1"}),
        ({"PatientBirthDate": "19500101-19601231"}, {"1.2"}),
        ({"PatientBirthDate": "-19601231"}, {"1.2"}),
        ({"PatientBirthDate": "1961"}, set()),
        ({"PatientSex": "M"}, {"1.1"}),
        ({"PatientSex": "m\\F"}, {"1.1", "1.2"}),
        ({"StudyInstanceUID": "1.1"}, {"1.1"}),
        ({"StudyInstanceUID": "1.1\\1.3\\1.99"}, {"1.1", "1.3"}),
        ({"StudyInstanceUID": "1.1\\病人"}, {"1.1"}),
        ({"StudyInstanceUID": "病人"}, set()),
        ({"StudyInstanceUID": "1.*"}, set()),
        ({"StudyInstanceUID": "*"}, STUDIES),
        ({"StudyInstanceUID": "1.1' OR '1'='1"}, set()),
        ({"StudyDate": "20240312"}, {"1.1"}),
        ({"StudyDate": "2024.03.12"}, {"1.1"}),
        ({"StudyDate": "20240312-20240313"}, {"1.1", "1.2"}),
        ({"StudyDate": "20240313-"}, {"1.2"}),
        ({"StudyDate": "-20231231"}, NAMED_ALL),
        ({"StudyDate": "20240313-20240312"}, set()),
        ({"StudyDate": "20240312\\20240313"}, {"1.1", "1.2"}),
        ({"StudyDate": "-"}, {"1.1", "1.2"} | NAMED_ALL),
        ({"StudyDate": "2024-13-99"}, set()),
        ({"StudyDate": "a-b"}, set()),
        ({"StudyDate": "病"}, set()),
        ({"StudyTime": "0920"}, {"1.1"}),
        ({"StudyTime": "092000-093000"}, {"1.1", "1.3"}),
        ({"StudyTime": "09:20:00-"}, {"1.1", "1.2", "1.3"}),
        ({"StudyTime": "病"}, set()),
        ({"StudyDate": "20240312-20240313", "StudyTime": "1000-"}, {"1.2"}),
        ({"AccessionNumber": "ACC-1"}, {"1.1", "1.3"}),
        ({"AccessionNumber": "acc-?"}, {"1.1", "1.2", "1.3"}),
        ({"AccessionNumber": "ACC-1\\ACC-2"}, {"1.1", "1.2", "1.3"}),
        ({"AccessionNumber": "检查"}, set()),
        ({"StudyID": "S 1"}, {"1.1"}),
        ({"StudyID": "S*\\2"}, {"1.1", "1.2"}),
        ({"StudyDescription": "脑血管造影"}, {"1.1"}),
        ({"StudyDescription": "*血管*"}, {"1.1"}),
        ({"StudyDescription": "*%*"}, {"1.2"}),
        ({"StudyDescription": "liver 50%_[x]!'"}, {"1.2"}),
        ({"StudyDescription": "liver 50%?[*"}, {"1.2"}),
        ({"StudyDescription": "x" * 300}, {"1.3"}),
        ({"StudyDescription": "x" * 100 + "*"}, {"1.3"}),
        ({"StudyDescription": "*" * 60_000 + "x"}, {"1.3"}),
        ({"StudyDescription": "*" + "x" * 60_000}, set()),
        ({"StudyDescription": "*x" * 30_000}, set()),
        ({"ReferringPhysicianName": "zhao*"}, {"1.1"}),
        ({"ReferringPhysicianName": "赵^医生"}, {"1.1"}),
        ({"ModalitiesInStudy": "SR"}, {"1.1"}),
        ({"ModalitiesInStudy": "CT\\SR"}, {"1.1", "1.2"}),
        ({"ModalitiesInStudy": "X*"}, STUDIES),
        ({"ModalitiesInStudy": "X?"}, STUDIES),
        ({"ModalitiesInStudy": "*T"}, {"1.2"}),
        ({"ModalitiesInStudy": "血管\\血*"}, set()),
        ({"ModalitiesInStudy": "MR"}, set()),
        ({"ProcedureCodeSequence": {"CodeValue": "DSA-2"}}, {"1.1"}),
        ({"ProcedureCodeSequence": {"CodeValue": "DSA-2", "CodingSchemeDesignator": "SRT"}}, {"1.1"}),
        ({"ProcedureCodeSequence": {"CodeValue": "DSA-1", "CodingSchemeDesignator": "SRT"}}, set()),
        ({"ProcedureCodeSequence": {"CodeValue": ""}}, STUDIES),
        ({"NumberOfStudyRelatedInstances": "3"}, {"1.1"}),
        ({"NumberOfStudyRelatedSeries": " +2 "}, {"1.1", "1.2"}),
        ({"NumberOfPatientRelatedInstances": "3"}, {"1.1"}),
        ({"SOPClassesInStudy": "1.2.840.10008.5.1.4.1.1.88.67"}, {"1.1"}),
        ({"PatientID": "P*", "StudyDate": "20240313", "ModalitiesInStudy": "CT"}, {"1.2"}),
        ({"PatientID": "P1", "PatientName": "LI*"}, set()),
        # Keys of lower levels are no keys here (PS3.4 C.4.1.2.1): they are ignored.
        ({"SeriesInstanceUID": "1.99", "Modality": "MR", "SOPInstanceUID": "1.99"}, STUDIES),
    ],
)  # fmt: skip
def test_studies(index: Index, values: dict[str, object], expected: set[str]) -> None:
    assert found(index, "STUDY", **values) == expected


@pytest.mark.parametrize(
    ("level", "values", "expected"),
    [
        ("PATIENT", {}, {"P1", "P2", "a_b%c'd[e]!", "", "MERGED", *(f"N{number}" for number in range(len(NAMES)))}),
        ("PATIENT", {"PatientName": "张*"}, {"P1", "N0"}),
        ("PATIENT", {"PatientID": "p1"}, {"P1"}),
        ("PATIENT", {"PatientBirthDate": "-19601231"}, {"P2"}),
        ("PATIENT", {"PatientSex": "F"}, {"P2"}),
        ("PATIENT", {"NumberOfPatientRelatedSeries": "2", "PatientID": "P*"}, {"P1", "P2"}),
        ("SERIES", {"PatientID": "P*"}, {"1.1.1", "1.1.9", "1.2.1", "1.2.2"}),
        ("SERIES", {"StudyInstanceUID": "1.1"}, {"1.1.1", "1.1.9"}),
        ("SERIES", {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1\\1.2.1"}, {"1.1.1"}),
        ("SERIES", {"StudyInstanceUID": "1.1", "Modality": "SR"}, {"1.1.9"}),
        ("SERIES", {"Modality": "C*\\SR"}, {"1.1.9", "1.2.2"}),
        ("SERIES", {"Modality": "血*"}, set()),
        ("SERIES", {"SeriesNumber": "+9"}, {"1.1.9"}),
        ("SERIES", {"SeriesNumber": " 9\\2 "}, {"1.1.9", "1.2.2"}),
        ("SERIES", {"SeriesNumber": "9x"}, set()),
        ("SERIES", {"SeriesNumber": "9" * 4000}, set()),
        ("SERIES", {"SeriesDescription": "ica*"}, {"1.1.1"}),
        ("SERIES", {"BodyPartExamined": "HEAD"}, {"1.1.1"}),
        ("SERIES", {"Laterality": "R"}, {"1.1.1"}),
        ("SERIES", {"StationName": "room?"}, {"1.1.1"}),
        ("SERIES", {"InstitutionName": "HOSPITAL"}, {"1.1.1"}),
        ("SERIES", {"InstitutionalDepartmentName": "*logy"}, {"1.1.1"}),
        ("SERIES", {"PerformedProcedureStepStartDate": "20240301-20240331"}, {"1.1.1"}),
        ("SERIES", {"PerformedProcedureStepStartDate": "20240401-"}, set()),
        ("SERIES", {"PerformedProcedureStepStartTime": "09"}, {"1.1.1"}),
        ("SERIES", {"RequestAttributesSequence": {"ScheduledProcedureStepID": "sps*"}}, {"1.1.1"}),
        ("SERIES", {"RequestAttributesSequence": {"ScheduledProcedureStepID": "SPS2"}}, set()),
        ("SERIES", {"RequestAttributesSequence": {"ScheduledProtocolCodeSequence": {"CodeValue": "PROTO"}}}, {"1.1.1"}),
        ("SERIES", {"RequestAttributesSequence": {"ScheduledProtocolCodeSequence": {"CodeValue": "OTHER"}}}, set()),
        ("SERIES", {"ModalitiesInStudy": "CT"}, {"1.2.1", "1.2.2"}),
        ("SERIES", {"StudyDate": "20240312", "PatientName": "zhang^san", "Modality": "XA"}, {"1.1.1"}),
        ("SERIES", {"NumberOfSeriesRelatedInstances": "2", "PatientID": "P*"}, {"1.1.1"}),
        ("IMAGE", {"StudyInstanceUID": "1.1"}, {"1.1.1.1", "1.1.1.2", "1.1.9.1"}),
        ("IMAGE", {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}, {"1.1.1.1", "1.1.1.2"}),
        ("IMAGE", {"SeriesInstanceUID": "1.1.1", "InstanceNumber": "2"}, {"1.1.1.2"}),
        ("IMAGE", {"SeriesInstanceUID": "1.1.1", "InstanceNumber": "+1\\2"}, {"1.1.1.1", "1.1.1.2"}),
        ("IMAGE", {"SOPInstanceUID": "1.1.1.2\\1.2.1.1"}, {"1.1.1.2", "1.2.1.1"}),
        ("IMAGE", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}, {"1.1.9.1"}),
        ("IMAGE", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67\\1.2.3", "PatientID": "P2"}, set()),
        ("IMAGE", {"ContentDate": "20240312"}, {"1.1.1.1"}),
        ("IMAGE", {"ContentDate": "20240312-20240313", "ContentTime": "0900-1000"}, {"1.1.1.1"}),
        ("IMAGE", {"ContentTime": "0800"}, {"1.1.1.2"}),
        ("IMAGE", {"AcquisitionDateTime": "20240312-20240313"}, {"1.1.1.1"}),
        ("IMAGE", {"Rows": b"\x00\x02"}, {"1.1.1.1"}),
        ("IMAGE", {"NumberOfFrames": "30"}, {"1.1.1.1"}),
        ("IMAGE", {"PatientName": "张^三", "Modality": "SR", "StudyInstanceUID": "1.1"}, {"1.1.9.1"}),
    ],
)  # fmt: skip
def test_other_levels(index: Index, level: str, values: dict[str, object], expected: set[str]) -> None:
    assert found(index, level, **values) == expected


@pytest.mark.parametrize(
    ("date", "time", "apart", "together"),
    [
        ("20240312-20240313", "1000-1500", {"1.2"}, {"1.2"}),
        ("20240312-20240313", "0900-1000", {"1.1"}, {"1.1"}),
        ("20240312-20240313", "0930-1000", set(), set()),
        ("20240311-20240313", "1000-1500", {"1.2"}, {"1.1", "1.2"}),
        ("20240311-20240313", "1000-1400", set(), {"1.1"}),
        ("20240312-20240314", "0930-", {"1.2"}, {"1.2"}),
        ("20240311-", "2000-", set(), {"1.1", "1.2"}),
        ("-20240313", "-1300", {"1.1"}, {"1.1"} | NAMED_ALL),
        ("-", "-1300", {"1.1"}, {"1.1", "1.2"} | NAMED_ALL),
        ("20240312", "0900-1000", {"1.1"}, {"1.1"}),
        ("20240312\\20240313", "0900-1000", {"1.1"}, {"1.1"}),
    ],
)
def test_study_date_and_time(index: Index, date: str, time: str, apart: set[str], together: set[str]) -> None:
    assert found(index, "STUDY", StudyDate=date, StudyTime=time) == apart
    assert found(index, "STUDY", combined=True, StudyDate=date, StudyTime=time) == together


def test_other_dates_and_times_together(index: Index) -> None:
    values = {"ContentDate": "20240312-20240313", "ContentTime": "0900-1000"}
    assert found(index, "IMAGE", combined=True, **values) == {"1.1.1.1", "1.1.1.2"}


@pytest.mark.parametrize(
    ("stored", "key"),
    [
        ("GB18030", "Zhang^San"), ("GB18030", "张^三"), ("GB18030", "ZHANG*=张*"), ("GB18030", "zhang^san^^^"),
        ("GBK, unlabelled", "李^秀英"), ("GBK, unlabelled", "李*"), ("GBK, unlabelled", "*秀?"),
        ("GBK, unlabelled", "=李^秀英"),
        ("GBK, mislabelled", "CHEN^WEI"), ("GBK, mislabelled", "陈^伟"), ("GBK, mislabelled", "陈^*"),
        ("UTF-8", "wang^xiaoming^"), ("UTF-8", "王^小明"), ("UTF-8", "*小明"),
        ("Latin-1", "MÜLLER^JÜRGEN"), ("Latin-1", "müller*"), ("Latin-1", "M?LLER*"),
        ("ISO 2022 IR 87", "yamada^tarou"), ("ISO 2022 IR 87", "山田^太郎"), ("ISO 2022 IR 87", "やまだ^*"),
        ("ISO 2022 IR 149", "HONG*"), ("ISO 2022 IR 149", "洪^吉洞"), ("ISO 2022 IR 149", "홍^길동"),
        ("ISO 2022 IR 58", "zhao^dong"), ("ISO 2022 IR 58", "赵^东"), ("ISO 2022 IR 58", "*=赵*"),
    ],
)  # fmt: skip
def test_names_in_any_script(index: Index, stored: str, key: str) -> None:
    others = {"1.1"} if stored == "GB18030" else set()  # of the same name
    assert found(index, "STUDY", PatientName=key) == {NAMED[stored]} | others
    chinese = all("\u4e00" <= sign <= "\u9fff" or sign.isascii() for sign in key)
    for label, codec in [(b"GB18030", "gb18030"), (b"", "gbk"), (b"ISO_IR 100", "gbk")] if chinese else []:
        assert found(index, "STUDY", label=label, PatientName=key.encode(codec)) == {NAMED[stored]} | others


def test_a_study_is_found_by_every_patient_met_in_it(index: Index) -> None:
    assert found(index, "STUDY", PatientName="MERGED*") == {"1.12"}
    assert found(index, "STUDY", PatientName="CHEN*") == {"1.12"}
    (match,) = matches(index, "STUDY", PatientID="MERGED", PatientName="")
    assert (text(match, "PatientID"), match.values[tag_of("PatientName")][1]) == ("N2", NAMES["GBK, mislabelled"][1])
    (patient,) = matches(index, "PATIENT", PatientID="MERGED", PatientName="", NumberOfPatientRelatedStudies="")
    assert (text(patient, "PatientName"), text(patient, "NumberOfPatientRelatedStudies")) == ("Merged^Patient", "1")


# ---- what is answered


def test_counts_and_lists(index: Index) -> None:
    counts = dict.fromkeys(
        ("NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances",
         "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances",
         "ModalitiesInStudy", "SOPClassesInStudy", "AvailableTransferSyntaxUID", "Rows"), "",
    )  # fmt: skip
    (patient,) = matches(index, "PATIENT", PatientID="P1", **counts)
    assert [text(patient, keyword) for keyword in list(counts)[:3]] == ["1", "2", "3"]
    (study,) = matches(index, "STUDY", StudyInstanceUID="1.1", **counts)
    assert [text(study, keyword) for keyword in list(counts)[:5]] == ["1", "2", "3", "2", "3"]
    assert text(study, "ModalitiesInStudy") == "SR\\XA"
    assert text(study, "SOPClassesInStudy").split("\\")[1] == "1.2.840.10008.5.1.4.1.1.88.67"
    assert tag_of("NumberOfSeriesRelatedInstances") not in study.values
    (series,) = matches(index, "SERIES", SeriesInstanceUID="1.1.1", **counts)
    assert [text(series, keyword) for keyword in list(counts)[:6]] == ["1", "2", "3", "2", "3", "2"]
    (image,) = matches(index, "IMAGE", SOPInstanceUID="1.1.1.1", **counts)
    assert text(image, "AvailableTransferSyntaxUID") == "1.2.840.10008.1.2.1"
    assert image.values[tag_of("Rows")] == ("US", b"\x00\x02")


def test_only_what_was_asked_is_answered(index: Index) -> None:
    (match,) = matches(index, "STUDY", StudyInstanceUID="1.1", StudyID="")
    assert match.values == {tag_of("StudyInstanceUID"): ("UI", b"1.1"), tag_of("StudyID"): ("SH", b"S 1 ")}


@pytest.mark.parametrize("level", query.LEVELS)
def test_each_attribute_is_answered_alone_as_among_all(index: Index, level: str) -> None:
    unique = tag_of(UNIQUE[level])
    every = {tag: Key(dictionary_vr(tag)) for tag in (*WANTED, *COMPUTED) if supported(tag, level)}
    constants = {tag_of("RetrieveAETitle"): ("AE", b"VAULT")}

    def answers(keys: dict[int, Key]) -> dict[bytes, dict[int, tuple[str, bytes]]]:
        some = [match for batch in find(index, Query(level, keys, constants=constants)) for match in batch]
        return {match.values[unique][1]: match.values for match in some}

    whole = answers(every)
    assert len(whole) > 3
    assert len(set().union(*whole.values())) > {"PATIENT": 8, "STUDY": 18, "SERIES": 30, "IMAGE": 40}[level]
    for tag, key in every.items():
        if tag != unique:
            expected = {uid: {t: v for t, v in values.items() if t in (unique, tag)} for uid, values in whole.items()}
            assert answers({unique: Key(dictionary_vr(unique)), tag: key}) == expected


def test_of_a_sequence_the_asked_attributes_are_answered(index: Index) -> None:
    def items(asked: object) -> tuple[elements.Tree, ...]:
        (match,) = matches(index, "STUDY", StudyInstanceUID="1.1", ProcedureCodeSequence=asked)
        return elements.items(match.values[tag_of("ProcedureCodeSequence")][1])

    whole = items("")
    assert [item[tag_of("CodeValue")].value for item in whole] == [b"DSA-1 ", b"DSA-2 "]
    assert len(whole[0]) == 2
    assert items({}) == whole
    asked = items({"CodeValue": "", "CodeMeaning": ""})
    assert [item[tag_of("CodeValue")].value for item in asked] == [b"DSA-1 ", b"DSA-2 "]
    assert [item[tag_of("CodeMeaning")] for item in asked] == [Element("LO", b"")] * 2
    assert set(asked[0]) == {tag_of("CodeValue"), tag_of("CodeMeaning")}


def test_items_keep_the_character_set_they_have_of_their_own(index_url: str) -> None:
    meaning = "脑血管造影".encode("gb18030")
    codes = sequence({"SpecificCharacterSet": "GB18030", "CodeValue": "DSA-1", "CodeMeaning": meaning})
    with closing(new_index(index_url)) as index:
        fill(index, [instance("1.1", SpecificCharacterSet="ISO_IR 100", ProcedureCodeSequence=codes)])
        (match,) = matches(index, "STUDY", ProcedureCodeSequence={"CodeMeaning": "脑血管*"})
        (item,) = elements.items(match.values[tag_of("ProcedureCodeSequence")][1])
        assert item == {0x00080005: Element("CS", b"GB18030 "), tag_of("CodeMeaning"): Element("LO", meaning)}


def test_sequences_in_sequences_are_answered_as_asked(index: Index) -> None:
    asked = {"ScheduledProtocolCodeSequence": {"CodeValue": "", "CodeMeaning": ""}}
    (match,) = matches(index, "SERIES", SeriesInstanceUID="1.1.1", RequestAttributesSequence=asked)
    (item,) = elements.items(match.values[tag_of("RequestAttributesSequence")][1])
    assert list(item) == [tag_of("ScheduledProtocolCodeSequence")]
    (code,) = item[tag_of("ScheduledProtocolCodeSequence")].items
    assert code == {tag_of("CodeValue"): Element("SH", b"PROTO "), tag_of("CodeMeaning"): Element("LO", b"")}


def test_levels_in_different_character_sets_are_answered_in_one(index_url: str) -> None:
    latin = "Müller^Jürgen"
    with closing(new_index(index_url)) as index:
        fill(
            index,
            [
                instance("1.1", 1, 1, SpecificCharacterSet="GB18030", PatientName="张^三".encode("gb18030")),
                instance(
                    "1.1", 2, 1, SpecificCharacterSet="ISO_IR 100", PatientName="张^三".encode("gb18030"),
                    OperatorsName=latin.encode("latin-1"),
                ),
            ],
        )  # fmt: skip
        (match,) = matches(index, "SERIES", SeriesInstanceUID="1.1.2", PatientName="", OperatorsName="m?ller*")
        assert match.label == b"ISO_IR 192"
        assert (text(match, "PatientName"), text(match, "OperatorsName")) == ("张^三", latin)


def test_text_without_a_declared_set_and_text_with_one_are_answered_in_one(index_url: str) -> None:
    with closing(new_index(index_url)) as index:
        fill(
            index,
            [
                instance("1.1", 1, 1, SpecificCharacterSet="", PatientName="张^三".encode("gb18030")),
                instance("1.1", 2, 1, SpecificCharacterSet="ISO_IR 192", OperatorsName="王^五".encode()),
            ],
        )
        (match,) = matches(index, "SERIES", SeriesInstanceUID="1.1.2", PatientName="", OperatorsName="")
        assert match.label == b"ISO_IR 192"
        assert (text(match, "PatientName"), text(match, "OperatorsName")) == ("张^三", "王^五")
        # The label is that of what is asked, not of what is stored beside it.
        (match,) = matches(index, "SERIES", SeriesInstanceUID="1.1.2", OperatorsName="")
        assert (match.label, text(match, "OperatorsName")) == (b"ISO_IR 192", "王^五")
        (match,) = matches(index, "SERIES", SeriesInstanceUID="1.1.2", Modality="")
        assert match.label == b""


# ---- faults, limits


def test_a_damaged_row_does_not_hide_the_others(index_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with closing(new_index(index_url)) as index:
        fill(index, [instance(f"1.{number}", PatientID=f"P{number}", StudyID="x") for number in range(1, 10)])
        damages = [b"", b"rotten", b"\x10\x00\x10\x00PN\xff\x00short", b"\xff" * 100]
        with index.session() as database:
            for number, head in enumerate(damages, start=2):
                Study.update(head=head).where(Study.uid == f"1.{number}").execute()
            database.execute_sql("DELETE FROM study WHERE uid = '1.7'")  # its series has nothing above it now
            if index.engine == "sqlite":  # which does not look at types
                database.execute_sql("UPDATE study SET head = 'text' WHERE uid = '1.8'")
                database.execute_sql("UPDATE study SET instance_count = 'many' WHERE uid = '1.9'")
        gone = {"1.3", "1.4", "1.5"} | ({"1.8"} if index.engine == "sqlite" else set())
        studies = {f"1.{number}" for number in range(1, 10)} - {"1.7"}
        with caplog.at_level(logging.ERROR):
            assert found(index, "STUDY", NumberOfStudyRelatedInstances="") == studies - gone
        assert len([record for record in caplog.records if "is damaged and left out" in record.message]) == len(gone)
        assert found(index, "SERIES", StudyID="") == {f"{uid}.1" for uid in studies - gone}
        assert len(found(index, "PATIENT")) == 8


def test_long_lists_of_uids(index: Index) -> None:
    nobody = [f"9.{number}" for number in range(10_000)]
    everybody = "\\".join([*nobody[:5000], "1.1", *nobody[5000:], "1.2", "1.1"])
    assert found(index, "STUDY", StudyInstanceUID=everybody) == {"1.1", "1.2"}
    assert found(index, "SERIES", StudyInstanceUID=everybody, SeriesInstanceUID="1.1.1\\1.3.1") == {"1.1.1"}
    # A second long list, of a level above and of the same length.
    series = "\\".join(["1.2.2", *nobody, "1.1.1", "1.3.1"])
    assert found(index, "SERIES", StudyInstanceUID=everybody, SeriesInstanceUID=series) == {"1.1.1", "1.2.2"}
    # One that is no key at this level changes nothing.
    assert found(index, "STUDY", PatientID="P1", SOPInstanceUID=everybody) == {"1.1"}


def test_many_values_and_patterns(index: Index) -> None:
    many = "\\".join(f"Q{number}" for number in range(2000)) + "\\P1"
    wild = "\\".join(f"Q{number}*" for number in range(99)) + "\\*1"
    keys = ("PatientID", "AccessionNumber", "StudyID", "StudyDescription", "PatientName", "ModalitiesInStudy")
    assert found(index, "STUDY", **dict.fromkeys(keys, many)) == set()
    assert found(index, "STUDY", PatientID=many) == {"1.1"}
    assert found(index, "STUDY", **dict.fromkeys(keys, wild)) == set()
    assert found(index, "STUDY", AccessionNumber=wild) == {"1.1", "1.3"}
    assert found(index, "STUDY", PatientName=wild + "\\zhang^*") == {"1.1", NAMED["GB18030"]}


def test_more_matches_than_can_be_answered(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MOST_MATCHES", 3)
    assert len(found(index, "IMAGE", StudyInstanceUID="1.1")) == 3
    with pytest.raises(TooManyMatches, match="more than 3 matches"):
        found(index, "STUDY")


def test_the_last_received_comes_first_and_in_batches(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "_BATCH", 2)
    batches = list(find(index, Query("STUDY", keys_of(StudyInstanceUID="", PatientSex="?"))))
    assert [len(batch) for batch in batches].count(0) > 3, "a caller must get the chance to stop"
    uids = [text(match, "StudyInstanceUID") for batch in batches for match in batch]
    assert uids == ["1.2", "1.1"]


# ---- query plans

STUDIES_OF_A_LARGE_ARCHIVE = 20_000
FEW = 400
"""Rows that a selective query may look at."""


@pytest.fixture(scope="module", params=ENGINES)
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index of many studies, each of a patient of its own, with one series of two instances."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('large') / 'index.sqlite'}"
    else:
        server: MariaDB = request.getfixturevalue("mariadb_server")
        url = (server if server.running else server.start()).database()
    with closing(new_index(url)) as index:
        fill(index, [instance("1.0", 1, 1, PatientID="TEMPLATE", PatientName="Template")])
        with index.session() as database, database.atomic():
            for table, changes in LARGE.items():
                multiply(database, table, changes)
            if index.engine == "mysql":  # InnoDB does this by itself, but some seconds later
                database.execute_sql(f"ANALYZE TABLE {', '.join(LARGE)}")
        yield index


def days(number: int) -> str:
    """Return one of 5,000 days, so that a day has a few studies."""
    return f"{2010 + number % 5000 // 336:04}{number % 5000 % 336 // 28 + 1:02}{number % 28 + 1:02}"


LARGE = {
    "patient": lambda n: {"id": n, "identity": f"{n}", "patient_id": f"p{n:06}", "birth_date": days(n)},
    "patient_name": lambda n: {"id": n, "patient_id": n, "name": f"name{n:06}^first"},
    "study": lambda n: {
        "id": n, "uid": f"1.{n}", "patient_id": n, "study_date": days(n), "study_time": "120000.000000",
        "accession_number": f"a{n:06}", "study_id": f"{n}",
    },
    "study_person": lambda n: {"id": n, "study_id": n, "patient_id": n},
    "series": lambda n: {"id": n, "uid": f"1.{n}.1", "study_id": n, "modality": "mr" if n == 38 else "xa"},
    "instance": lambda n: {"id": n, "uid": f"1.{n // 2}.1.{n}", "series_id": n // 2},
}  # fmt: skip
"""Table -> what is different in row n from the row that is there."""


ON_THE_DAY = {f"1.{n}" for n in range(2, STUDIES_OF_A_LARGE_ARCHIVE + 2) if days(n) == days(100)}


def multiply(database: Any, table: str, changes: Callable[[int], dict[str, object]]) -> None:
    """Insert copies of the only row of a table."""
    cursor = database.execute_sql(f"SELECT * FROM {table}")
    columns, template = [column[0] for column in cursor.description], cursor.fetchone()
    marks = ", ".join([database.param] * len(columns))
    times = 2 if table == "instance" else 1
    first, last = 2 * times, (STUDIES_OF_A_LARGE_ARCHIVE + 2) * times
    rows = [
        tuple((dict(zip(columns, template, strict=True)) | changes(number)).values()) for number in range(first, last)
    ]
    database.cursor().executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def plan(index: Index, sql: str, params: Sequence[object]) -> tuple[list[str], int]:
    """Return the tables that a statement reads from end to end, and how many rows MariaDB thinks to look at."""
    with index.session() as database:
        if index.engine == "sqlite":
            steps = [row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params)]
            return [step for step in steps if step.startswith("SCAN")], 0
        cursor = database.execute_sql(f"EXPLAIN {sql}", params)
        columns = [column[0] for column in cursor.description]
        steps = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    scans = [str(step) for step in steps if step["type"] in ("ALL", "index") and not str(step["table"]).startswith("<")]
    return scans, max(int(step["rows"] or 0) for step in steps)


@pytest.mark.parametrize("name", ["NAME000100^First", "NAME00010*"])
def test_from_a_name_to_its_studies_no_row_is_read_beside_the_indexes(large: Index, name: str) -> None:
    large.database.bind(models.ALL)
    sql, params = conditions.select("STUDY", keys_of(PatientName=name), {}).sql()
    with large.session() as database:
        if large.engine == "sqlite":
            steps = " ".join(row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params))
            assert "COVERING INDEX patient_name_person" in steps
            assert "COVERING INDEX study_person_study" in steps
            assert "patient " not in sql
        else:
            rows = database.execute_sql(f"EXPLAIN {sql}", params).fetchall()
            within = {row[5] for row in rows if "Using index" in str(row[9]).split("; ")}
            assert {"patient_name_person", "study_person_study"} <= within, rows


@pytest.mark.parametrize(
    ("level", "values", "expected"),
    [
        ("STUDY", {"PatientID": "P000100"}, {"1.100"}),
        ("STUDY", {"PatientID": "P00010?"}, {f"1.{number}" for number in range(100, 110)}),
        ("STUDY", {"PatientName": "NAME000100^First"}, {"1.100"}),
        ("STUDY", {"PatientName": "NAME00010*"}, {f"1.{number}" for number in range(100, 110)}),
        ("STUDY", {"PatientName": "NAME000100^*"}, {"1.100"}),
        ("STUDY", {"PatientName": "NAME000100^*\\NAME000200*", "PatientID": "P000200"}, {"1.200"}),
        ("STUDY", {"PatientName": "NAME00010*", "StudyDate": "20100101-20301231"}, {f"1.{n}" for n in range(100, 110)}),
        ("STUDY", {"StudyInstanceUID": "1.100\\1.101\\1.999999"}, {"1.100", "1.101"}),
        ("STUDY", {"AccessionNumber": "A000100"}, {"1.100"}),
        ("STUDY", {"AccessionNumber": "A00010*"}, {f"1.{number}" for number in range(100, 110)}),
        ("STUDY", {"StudyID": "100"}, {"1.100"}),
        ("STUDY", {"StudyDate": days(100)}, ON_THE_DAY),
        ("STUDY", {"StudyDate": f"{days(100)}-{days(103)}", "PatientID": "P000101"}, {"1.101"}),
        ("STUDY", {"StudyDate": f"{days(100)}-{days(100)}", "StudyTime": "1100-1300"}, ON_THE_DAY),
        ("STUDY", {"ModalitiesInStudy": "MR"}, {"1.38"}),
        ("PATIENT", {"PatientID": "P000100"}, None),
        ("PATIENT", {"PatientName": "NAME00010*"}, None),
        ("SERIES", {"StudyInstanceUID": "1.100"}, {"1.100.1"}),
        ("SERIES", {"SeriesInstanceUID": "1.100.1"}, {"1.100.1"}),
        ("SERIES", {"PatientName": "NAME000100*"}, {"1.100.1"}),
        ("IMAGE", {"StudyInstanceUID": "1.100", "SeriesInstanceUID": "1.100.1"}, {"1.100.1.200", "1.100.1.201"}),
        ("IMAGE", {"SeriesInstanceUID": "1.100.1", "SOPClassUID": SC}, {"1.100.1.200", "1.100.1.201"}),
        ("IMAGE", {"SOPInstanceUID": "1.100.1.200"}, {"1.100.1.200"}),
        ("IMAGE", {"PatientID": "P000100", "InstanceNumber": "1"}, {"1.100.1.200", "1.100.1.201"}),
    ],
)  # fmt: skip
def test_selective_queries_use_indexes(
    large: Index, level: str, values: dict[str, object], expected: set[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    large.database.bind(models.ALL)
    with caplog.at_level(logging.DEBUG, logger="peewee"):
        for combined in (False, True):
            some = matches(large, level, combined, **{UNIQUE[level]: "", **values})
            if expected is not None:  # patients have one head in common here
                assert {text(match, UNIQUE[level]) for match in some} == expected
    statements = [record.msg for record in caplog.records if record.name == "peewee"]
    assert len(statements) >= 4
    caplog.clear()
    for sql, params in statements:
        scans, rows = plan(large, sql, params)
        assert not scans, f"{sql} {params}\n" + "\n".join(scans)
        assert rows <= FEW, f"{rows} rows for {sql} {params}"
