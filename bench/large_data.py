"""The rows of a large index, made directly: what the archive's own index would hold of so many angiographies.

The archive's own code reads the head of the first image of each series; the rows of the others differ from it in what
counts up. `tests/unit/test_bench_large.py` compares them with what `Index.add` makes of the same images. No image
files belong to these rows.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage

from angiovault.archive import layout, names
from angiovault.archive.adding import TAGS, Entry, ascii_code, key_of
from angiovault.archive.header import Header

SERIES = 2
IMAGES = 5
"""Series of a study, and images of a series: ten instances a study."""
STUDIES_OF_A_PATIENT = 2
TABLES = ("patient", "patient_name", "study", "study_person", "series", "folder", "instance")
Rows = dict[str, list[tuple[Any, ...]]]
"""Table -> rows, in the order of the columns."""

_ROOT = "1.2.826.0.1.3680043.10.543"
_MOST_KEYS = 10
"""Ids that are kept free for the names of a patient."""
_FIRST_DAY = date(2016, 11, 23)
_DAYS = 3652
_CALLING = "ARTIS"
_SURNAMES = (
    *(("WANG", "王"), ("LI", "李"), ("ZHANG", "张"), ("LIU", "刘"), ("CHEN", "陈"), ("YANG", "杨"), ("ZHAO", "赵")),
    *(("HUANG", "黄"), ("ZHOU", "周"), ("WU", "吴"), ("XU", "徐"), ("SUN", "孙"), ("OUYANG", "欧阳"), ("MA", "马")),
    *(("MUELLER", ""), ("SMITH", ""), ("ROSSI", ""), ("DUPONT", ""), ("NOVAK", ""), ("JANSSEN", "")),
)
_GIVEN = (
    *(("FANG", "芳"), ("WEI", "伟"), ("NA", "娜"), ("XIUYING", "秀英"), ("MIN", "敏"), ("JING", "静"), ("LI", "丽")),
    *(("QIANG", "强"), ("LEI", "磊"), ("JUN", "军"), ("YANG", "洋"), ("YONG", "勇"), ("YAN", "艳"), ("JIE", "杰")),
    *(("GUIYING", "桂英"), ("XIAOMING", "晓明"), ("JIANGUO", "建国"), ("HAIYAN", "海燕"), ("PING", "平")),
)
_NUMBER = b"\x20\x00\x13\x00IS\x02\x00"
_ACQUISITION = b"\x20\x00\x12\x00IS\x02\x00"
"""Tag, VR and length of an Instance Number and of an Acquisition Number of one digit."""


@dataclass(frozen=True)
class Patient:
    """Who a study is of, in the words of a query."""

    number: int

    @property
    def patient_id(self) -> str:
        return f"P{self.number + 1_000_000}"

    @property
    def name(self) -> str:
        """PN with an ideographic group where there is one; the middle name makes it the name of one or a few only."""
        source = random.Random(self.number)
        (surname, chinese), (given, chinese_given) = source.choice(_SURNAMES), source.choice(_GIVEN)
        alphabetic = f"{surname}^{given}^{_letters(self.number)}"
        return f"{alphabetic}={chinese}^{chinese_given}" if chinese else alphabetic

    @property
    def birth_date(self) -> str:
        return (date(1930, 1, 1) + timedelta(days=self.number * 7919 % 29_000)).strftime("%Y%m%d")


def _letters(number: int) -> str:
    """Return four letters, the same for one of 17,576 patients of 500,000."""
    number = number * 104_729 % 26**3
    return "Q" + "".join(chr(65 + number // 26**digit % 26) for digit in range(3))


def patient_of(study: int) -> Patient:
    return Patient(study // STUDIES_OF_A_PATIENT)


def study_uid(study: int) -> str:
    return f"{_ROOT}.{study + 10_000_000}"


def day_of(study: int) -> date:
    """Return the date of a study; about 274 of a million are of one day."""
    return _FIRST_DAY + timedelta(days=study * 2_654_435 % _DAYS)


def entries(study: int) -> Iterator[Entry]:
    """Yield all images of a study as the archive would index them, one after the other."""
    for series in range(SERIES):
        for image in range(IMAGES):
            yield _entry(study, series, image)


def _entry(study: int, series: int, image: int) -> Entry:
    header = Header(ExplicitVRLittleEndian, _elements(study, series, image), True, "")
    digest = _digest(study, series, image)
    return Entry(header, digest, _size(image), layout.place(header, digest), _received(study), _CALLING)


def _digest(study: int, series: int, image: int) -> str:
    return hashlib.sha256(b"%d %d %d" % (study, series, image)).hexdigest()


def _size(image: int) -> int:
    return 20_973_000 + 2 * image


def _received(study: int) -> str:
    return f"{day_of(study).isoformat()}T{study % 24:02}:31:15.{study % 1_000_000:06}Z"


def _elements(study: int, series: int, image: int) -> dict[int, bytes]:
    patient, day = patient_of(study), day_of(study).strftime("%Y%m%d")
    moment = f"{study % 24:02}3015.250000"
    series_uid = f"{study_uid(study)}.{series + 1}"
    text = {
        0x00080005: "ISO_IR 192",
        0x00080008: "ORIGINAL\\PRIMARY\\SINGLE PLANE",
        0x00080016: XRayAngiographicImageStorage,
        0x00080018: f"{series_uid}.{image + 1}",
        0x00080020: day,
        0x00080021: day,
        0x00080022: day,
        0x00080023: day,
        0x00080030: moment,
        0x00080031: moment,
        0x00080033: moment,
        0x00080050: f"A{study + 10_000_000}",
        0x00080060: "XA",
        0x00080070: "SIEMENS",
        0x00080080: "市立医院",
        0x00080090: "LIN^YU=林^雨",
        0x00081010: "AXIS01",
        0x00081030: "Cerebral angiography 脑血管造影" if study % 3 else "Coronary angiography",
        0x0008103E: ("LCA", "RCA")[series],
        0x00081090: "AXIOM-Artis",
        0x00100010: patient.name,
        0x00100020: patient.patient_id,
        0x00100030: patient.birth_date,
        0x00100040: "FM"[patient.number % 2],
        0x00180015: "HEAD",
        0x00181030: "DSA 4 f/s",
        0x0020000D: study_uid(study),
        0x0020000E: series_uid,
        0x00200010: f"S{study % 100_000}",
        0x00200011: str(series + 1),
        0x00200012: str(image + 1),
        0x00200013: str(image + 1),
        0x00280004: "MONOCHROME2",
        0x00280008: "10",
    }
    padded = {tag: value.encode() for tag, value in text.items()}
    for tag, value in padded.items():
        if len(value) % 2:
            padded[tag] = value + (b"\0" if tag in (0x00080016, 0x00080018, 0x0020000D, 0x0020000E) else b" ")
    numbers = {0x00280002: 1, 0x00280010: 1024, 0x00280011: 1024, 0x00280100: 16}
    return padded | {tag: value.to_bytes(2, "little") for tag, value in numbers.items()}


def rows(studies: range) -> Rows:
    """Return the rows of these studies, which begin and end with whole patients."""
    made: Rows = {table: [] for table in TABLES}
    keys: set[str] = set()
    for study in studies:
        first = _entry(study, 0, 0)
        patient = patient_of(study).number
        if study % STUDIES_OF_A_PATIENT == 0:
            keys = names.name_keys(first.header.elements[0x00100010], b"ISO_IR 192")
            earliest = min(map(_received, range(study, study + STUDIES_OF_A_PATIENT)))
            _add_patient(made, first.header, patient, sorted(keys), earliest)
        _add_study(made, first, study, patient, sorted(keys))
        _add_series(made, first, study, 0)
        for series in range(1, SERIES):
            _add_series(made, _entry(study, series, 0), study, series)
    return made


def fingerprint() -> str:
    """Return what tells rows of this module from those of a changed one, which a kept index might hold."""
    return hashlib.sha256(repr(rows(range(20))).encode()).hexdigest()[:16]


def _add_patient(made: Rows, header: Header, patient: int, keys: list[str], received: str) -> None:
    patient_id = key_of(header, 0x00100020)
    identity = hashlib.sha256(f"id {patient_id} ".encode()).hexdigest()
    made["patient"].append(
        (patient + 1, identity, patient_id, header.text(0x00100030), header.encoded(TAGS["PATIENT"]), received)
    )
    for number, name in enumerate(keys):
        made["patient_name"].append((patient * _MOST_KEYS + number + 1, patient + 1, name))


def _add_study(made: Rows, first: Entry, study: int, patient: int, keys: list[str]) -> None:
    header = first.header
    made["study"].append(
        (
            study + 1,
            header.study_instance_uid,
            patient + 1,
            hashlib.sha256(repr((patient + 1, keys)).encode()).hexdigest(),
            0,
            header.text(0x00080020),
            header.text(0x00080030),
            key_of(header, 0x00080050),
            key_of(header, 0x00200010),
            key_of(header, 0x00081030),
            "XA",
            header.sop_class_uid,
            SERIES,
            SERIES * IMAGES,
            SERIES * sum(map(_size, range(IMAGES))),
            first.received,
            header.encoded(TAGS["PATIENT"] | TAGS["STUDY"]),
        )
    )
    made["study_person"].append((study + 1, study + 1, patient + 1))


def _add_series(made: Rows, first: Entry, study: int, series: int) -> None:
    header = first.header
    number = study * SERIES + series + 1
    uid = header.series_instance_uid
    path = str(first.place.parent)
    made["series"].append(
        (
            *(number, study + 1, uid, "xa", series + 1, key_of(header, 0x0008103E)),
            *(IMAGES, sum(map(_size, range(IMAGES))), header.encoded(TAGS["SERIES"]), first.received),
        )
    )
    made["folder"].append((number, hashlib.sha256(path.encode()).hexdigest(), path))
    head = header.encoded(TAGS["IMAGE"])
    first_uid = header.sop_instance_uid.encode()
    # A file's name begins with Instance Number and SOP Instance UID and ends in the key of its content.
    for image in range(IMAGES):
        digest = _digest(study, series, image)
        content = layout.content_key(ExplicitVRLittleEndian, digest)
        sop_uid = f"{uid}.{image + 1}"
        own = head.replace(first_uid, sop_uid.encode()).replace(_NUMBER + b"1 ", _NUMBER + b"%d " % (image + 1))
        own = own.replace(_ACQUISITION + b"1 ", _ACQUISITION + b"%d " % (image + 1))
        made["instance"].append(
            (
                *((number - 1) * IMAGES + image + 1, sop_uid, 1, content, 1, number),
                *(XRayAngiographicImageStorage, ExplicitVRLittleEndian, image + 1, digest, _size(image)),
                *(number, f"{image + 1:04}_{sop_uid}_{content}.dcm", first.received, ascii_code(_CALLING), 1, own),
            )
        )
