"""Which SOP classes and transfer syntaxes the archive speaks (PS3.4 annex B, C, J; PS3.5 annex A).

The standard's own registry (PS3.6 annex A, as pydicom carries it) is the source, so that a new storage class needs a
new pydicom and no change here.
"""

from __future__ import annotations

import re
from typing import Final

from pydicom._uid_dict import UID_dictionary
from pynetdicom.sop_class import _STORAGE_CLASSES

from angiovault.archive.header import is_uid

IMPLICIT_VR_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LE: Final = "1.2.840.10008.1.2.1"

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH: Final = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_PUSH_INSTANCE: Final = "1.2.840.10008.1.20.1.1"

PATIENT_ROOT: Final = "PATIENT ROOT"
STUDY_ROOT: Final = "STUDY ROOT"
PATIENT_STUDY_ONLY: Final = "PATIENT/STUDY ONLY"

FIND: Final = {
    "1.2.840.10008.5.1.4.1.2.1.1": PATIENT_ROOT,
    "1.2.840.10008.5.1.4.1.2.2.1": STUDY_ROOT,
    "1.2.840.10008.5.1.4.1.2.3.1": PATIENT_STUDY_ONLY,
}
MOVE: Final = {
    "1.2.840.10008.5.1.4.1.2.1.2": PATIENT_ROOT,
    "1.2.840.10008.5.1.4.1.2.2.2": STUDY_ROOT,
    "1.2.840.10008.5.1.4.1.2.3.2": PATIENT_STUDY_ONLY,
}
GET: Final = {
    "1.2.840.10008.5.1.4.1.2.1.3": PATIENT_ROOT,
    "1.2.840.10008.5.1.4.1.2.2.3": STUDY_ROOT,
    "1.2.840.10008.5.1.4.1.2.3.3": PATIENT_STUDY_ONLY,
}
"""SOP class -> information model of query and retrieve (PS3.4 C.6, C.6.3 for the retired one)."""

_NOT_COMPOSITE: Final = re.compile(
    r"Storage Commitment|Media Storage Directory|Hanging Protocol|Color Palette|Implant|Procedure Protocol|"
    r"Protocol Approval|Inventory"
)
"""Classes named "Storage" that are of other services: Non-Patient Objects (PS3.4 annex GG) have no study."""

STORAGE: Final = {
    uid: entry[0]
    for uid, entry in UID_dictionary.items()
    if entry[1] == "SOP Class" and re.search(r"Storage\b", entry[0]) and not _NOT_COMPOSITE.search(entry[0])
} | {str(uid): UID_dictionary.get(uid, (keyword,))[0] for keyword, uid in _STORAGE_CLASSES.items()}
"""Classes of the Storage Service Class (PS3.4 B.5), retired and trial ones included: UID -> name."""

PRIVATE_NOT_STORAGE: Final = frozenset(
    {
        "1.2.40.0.13.1.5.1.4.1.2.2.1",  # dcm4che's private study root queries: all, blocked, virtual multi-frame
        "1.2.40.0.13.1.5.1.4.1.2.2.1.1",
        "1.2.40.0.13.1.5.1.4.1.2.2.1.2",
        "1.2.40.0.13.1.3.1.2.3.1.1",  # dcm4che's notification of modified attributes
        "1.2.276.0.7230010.3.4.1915765545.18030.917282194.0",  # DCMTK's request to a server to end itself
    }
)
"""Private classes of services that are not storage; every other UID outside the standard's root may be one."""

_LONGEST_UID: Final = 64

_NOT_FOR_FILES: Final = re.compile(r"JPIP|SMPTE|MIME|XML")

TRANSFER_SYNTAXES: Final = {
    uid: entry[0]
    for uid, entry in UID_dictionary.items()
    if entry[1] == "Transfer Syntax"
    and f"{uid}.".startswith("1.2.840.10008.1.2.")
    and not _NOT_FOR_FILES.search(entry[0])
} | {  # newer than pydicom's registry
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
"""Transfer syntaxes that are kept as they come; those whose pixels lie elsewhere (JPIP, video streams) are not."""

_LOSSLESS: Final = re.compile(r"Lossless|RLE|Deflated|Big Endian|Uncompressed|Reversible", re.IGNORECASE)


def is_storage(uid: str) -> bool:
    """Return whether instances of the class are taken."""
    if f"{uid}.".startswith("1.2.840.10008."):
        return uid in STORAGE
    return is_uid(uid) and uid not in PRIVATE_NOT_STORAGE


def is_lossless(transfer_syntax: str) -> bool:
    """Return whether the syntax never loses anything; one that only might counts as lossy."""
    name = TRANSFER_SYNTAXES.get(transfer_syntax, "")
    if transfer_syntax in (IMPLICIT_VR_LE, EXPLICIT_VR_LE):
        return True
    return bool(_LOSSLESS.search(name)) and "Near" not in name


def choose_for_storage(offered: tuple[str, ...]) -> str:
    """Return the syntax in which instances are wanted, '' when there is none among those offered.

    Explicit VR Little Endian, else Implicit, else the first lossless one, a lossy one only when nothing else is there.
    """
    for preferred in (EXPLICIT_VR_LE, IMPLICIT_VR_LE):
        if preferred in offered:
            return preferred
    known = [uid for uid in offered if uid in TRANSFER_SYNTAXES]
    return next((uid for uid in known if is_lossless(uid)), known[0] if known else "")


def choose_for_messages(offered: tuple[str, ...]) -> str:
    """Return the syntax for the small data sets of queries and notifications, '' when there is none."""
    return next((uid for uid in (EXPLICIT_VR_LE, IMPLICIT_VR_LE) if uid in offered), "")


def name(uid: str) -> str:
    """Return the standard's name of a UID with the UID, or the UID alone; what is too long for one is cut."""
    known = _name(uid)
    return f"{known} {uid}" if known else label(uid)


def label(uid: str) -> str:
    """Return the standard's name of a UID, else the UID; what is too long for one is cut."""
    return _name(uid) or uid[:_LONGEST_UID] or "(empty UID)"


def _name(uid: str) -> str:
    return STORAGE.get(uid) or TRANSFER_SYNTAXES.get(uid) or str(UID_dictionary.get(uid, ("",))[0])
