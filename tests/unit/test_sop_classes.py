"""Which classes and transfer syntaxes are taken: the standard's own lists are the judge."""

import re

import pytest
from pydicom._uid_dict import UID_dictionary
from pynetdicom.sop_class import _STORAGE_CLASSES

from angiovault.archive.header import DatasetScanner
from angiovault.dimse import sop_classes
from angiovault.dimse.sop_classes import EXPLICIT_VR_LE, IMPLICIT_VR_LE

BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
GE_PRIVATE_SYNTAX = "1.2.840.113619.5.2"

# Retired, from former editions of PS3.4 B.5: pynetdicom has none of them.
RETIRED = {
    "1.2.840.10008.5.1.4.1.1.3": "Ultrasound Multi-frame Image Storage",
    "1.2.840.10008.5.1.4.1.1.5": "Nuclear Medicine Image Storage",
    "1.2.840.10008.5.1.4.1.1.6": "Ultrasound Image Storage",
    "1.2.840.10008.5.1.4.1.1.8": "Standalone Overlay Storage",
    "1.2.840.10008.5.1.4.1.1.9": "Standalone Curve Storage",
    "1.2.840.10008.5.1.4.1.1.10": "Standalone Modality LUT Storage",
    "1.2.840.10008.5.1.4.1.1.11": "Standalone VOI LUT Storage",
    "1.2.840.10008.5.1.4.1.1.12.3": "X-Ray Angiographic Bi-Plane Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1": "VL Image Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.88.1": "Text SR Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.129": "Standalone PET Curve Storage",
    "1.2.840.10008.5.1.1.27": "Stored Print Storage",
    "1.2.840.10008.5.1.1.29": "Hardcopy Grayscale Image Storage",
    "1.2.840.10008.5.1.1.30": "Hardcopy Color Image Storage",
}


@pytest.mark.parametrize("uid", [*map(str, _STORAGE_CLASSES.values()), *RETIRED])
def test_every_storage_class_of_the_standard_is_taken(uid: str) -> None:
    assert sop_classes.is_storage(uid)
    assert sop_classes.label(uid) != uid


@pytest.mark.parametrize(
    "uid",
    [
        "1.3.12.2.1107.5.9.1",  # Siemens CSA Non-Image
        "1.3.12.2.1107.5.99.3.10",  # Siemens CT-MR Volume
        "1.3.12.2.1107.5.99.3.11",  # Siemens AX Frame Sets
        "1.3.46.670589.2.3.1.1",  # Philips Specialised XA
        *(f"1.3.46.670589.5.0.{number}" for number in (1, 2, 3, 4)),
        *(f"1.3.46.670589.5.0.{number}.1" for number in (1, 2, 3, 4)),
        "1.3.46.670589.2.11.1.1",  # Philips Volume Set
        "1.3.46.670589.2.5.1.1",  # Philips 3D Presentation State
        *(f"1.3.46.670589.7.8.{number}" for number in (1618510091, 1618510092, 16185100129, 16185100130)),
        *(f"1.2.840.113619.4.{number}" for number in (2, 3, 4, 26, 27, 30)),  # GE
        "1.2.3.4",
        "2.25.329800735698586629295641978511506172918",
        "1.2.840.100080.1",  # begins with the same digits, is another root
        "1.02.3",
    ],
)
def test_private_classes_are_taken(uid: str) -> None:
    assert sop_classes.is_storage(uid)


@pytest.mark.parametrize(
    "uid",
    [
        *sorted(sop_classes.PRIVATE_NOT_STORAGE),
        "1.2.276.0.7230010.3.4.1915765545.18030.917282194.0",  # what DCMTK's termscu proposes
        sop_classes.VERIFICATION,
        sop_classes.STORAGE_COMMITMENT_PUSH,
        *sop_classes.FIND,
        *sop_classes.MOVE,
        *sop_classes.GET,
        "1.2.840.10008",
        "1.2.840.10008.5.1.4.1.1.2.99",  # nothing that the standard knows
        "1.2.840.10008.1.3.10",  # Media Storage Directory
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol: belongs to no patient
        "1.2.840.10008.3.1.2.3.3",  # Modality Performed Procedure Step
        "1.2.840.10008.4.2",  # the Storage Service Class itself
        "",
        ".1.2.3",
        "1.2.3/../../4",
        "1.2.3\0",
        "1.2.3\n",
        "١.٢.٣",
        "1." * 32 + "1",  # 65 characters
    ],
)
def test_everything_else_is_no_storage_class(uid: str) -> None:
    assert not sop_classes.is_storage(uid)


# PS3.6 table A-1 has further ones, which are not for data sets that a Storage SCU could send: those whose pixels lie
# elsewhere, streams of DICOM real-time video, and what never was in PS3.5.
NOT_FOR_STORAGE = re.compile(r"JPIP|SMPTE ST 2110|RFC 2557|XML|Papyrus")


def every_transfer_syntax() -> list[str]:
    return [uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"]


@pytest.mark.parametrize("uid", every_transfer_syntax())
def test_every_transfer_syntax_of_the_standard_is_taken_but_those_that_hold_no_pixels(uid: str) -> None:
    taken = not NOT_FOR_STORAGE.search(UID_dictionary[uid][0])
    assert sop_classes.choose_for_storage((uid,)) == (uid if taken else "")


@pytest.mark.parametrize("number", ["4.110", "4.111", "4.112", "8.1"])
def test_transfer_syntaxes_newer_than_the_registry_are_taken(number: str) -> None:
    uid = f"1.2.840.10008.1.2.{number}"
    assert sop_classes.choose_for_storage((uid,)) == uid


@pytest.mark.parametrize("uid", sop_classes.TRANSFER_SYNTAXES)
def test_what_is_taken_can_be_read(uid: str) -> None:
    DatasetScanner(uid)


@pytest.mark.parametrize("uid", ["", GE_PRIVATE_SYNTAX, "1.2.3.4", "1.2.840.10008.1.1", "1.2.840.10008.1.2.4"])
def test_unknown_syntaxes_are_not_taken(uid: str) -> None:
    assert sop_classes.choose_for_storage((uid,)) == ""


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((JPEG_BASELINE, JPEG_LOSSLESS, IMPLICIT_VR_LE, EXPLICIT_VR_LE), EXPLICIT_VR_LE),
        ((BIG_ENDIAN, JPEG_LOSSLESS, IMPLICIT_VR_LE), IMPLICIT_VR_LE),
        ((JPEG_BASELINE, JPEG_2000_LOSSLESS, JPEG_LOSSLESS), JPEG_2000_LOSSLESS),
        ((JPEG_2000, JPEG_LS_NEAR_LOSSLESS, BIG_ENDIAN), BIG_ENDIAN),
        ((JPEG_LS_NEAR_LOSSLESS, DEFLATED), DEFLATED),
        ((JPEG_2000, JPEG_BASELINE), JPEG_2000),
        ((GE_PRIVATE_SYNTAX, JPEG_BASELINE), JPEG_BASELINE),
        ((GE_PRIVATE_SYNTAX,), ""),
        ((), ""),
    ],
)
def test_of_several_syntaxes_the_wanted_one_is_chosen(offered: tuple[str, ...], chosen: str) -> None:
    assert sop_classes.choose_for_storage(offered) == chosen


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((IMPLICIT_VR_LE, EXPLICIT_VR_LE), EXPLICIT_VR_LE),
        ((BIG_ENDIAN, IMPLICIT_VR_LE), IMPLICIT_VR_LE),
        ((BIG_ENDIAN, DEFLATED), ""),
    ],
)
def test_queries_are_in_plain_syntaxes(offered: tuple[str, ...], chosen: str) -> None:
    assert sop_classes.choose_for_messages(offered) == chosen


def test_a_name_is_for_people_and_never_long() -> None:
    assert sop_classes.name("1.2.840.10008.5.1.4.1.1.2") == "CT Image Storage 1.2.840.10008.5.1.4.1.1.2"
    assert sop_classes.name("1.2.3") == "1.2.3"
    assert sop_classes.name("") == "(empty UID)"
    assert sop_classes.name("9" * 60000) == "9" * 64
    assert sop_classes.label(IMPLICIT_VR_LE) == "Implicit VR Little Endian"
