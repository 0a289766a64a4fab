"""Small instances of any size and identity for the tests of keeping, and what the archive says of them."""

import contextlib
import hashlib
import os
import random
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from harness import part10
from harness.dcmtk import Peer, Result, findscu, getscu
from harness.waiting import wait_until


def make(
    folder: Path,
    *,
    study: str | None = None,
    series: str | None = None,
    uid: str | None = None,
    size: int = 2000,
    seed: int | None = None,
    name: str = "Keep^Safe",
    patient_id: str = "K-1",
    number: int = 1,
    syntax: str = ExplicitVRLittleEndian,
    **more: object,
) -> Path:
    """Write a Secondary Capture image with about `size` bytes of noise, such that storescu sends its very bytes."""
    side = max(2, int((size / 2) ** 0.5))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    meta.TransferSyntaxUID = syntax
    data_set = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    study = study or generate_uid()
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyDate": "20240312",
        "StudyTime": "092000",
        "AccessionNumber": "A1",
        "Modality": "OT",
        "ConversionType": "WSD",
        "PatientName": name,
        "PatientID": patient_id,
        "PatientBirthDate": "19610315",
        "PatientSex": "M",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series or f"{study[:60]}.1",
        "StudyID": "1",
        "SeriesNumber": "1",
        "InstanceNumber": str(number),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": side * 2,
        "Columns": side,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": random.Random(seed).randbytes(side * side * 2),
        **more,
    }
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    data_set["PixelData"].VR = "OB"
    path = folder / f"{meta.MediaStorageSOPInstanceUID}-{random.randbytes(4).hex()}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    data_set.save_as(path, enforce_file_format=True)
    return path


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """Return SOP Instance UID -> SHA-256 of the data set of each file."""
    files = [part10.read(path) for path in paths]
    return {file.sop_instance_uid: file.sha256() for file in files}


def acknowledged(result: Result) -> set[str]:
    """Return the SOP Instance UIDs for which success came."""
    return {
        message.fields["Affected SOP Instance UID"]
        for message in result.responses
        if message.kind == "C-STORE RSP" and message.status == 0
    }


def found(peer: Peer, studies: Iterable[str]) -> set[str]:
    """Return the SOP Instance UIDs that C-FIND finds in the studies."""
    uids = set()
    for study in studies:
        keys = ["QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study}", "SeriesInstanceUID", "SOPInstanceUID"]
        result = findscu(peer, keys).ok()
        assert result.final.status == 0, result.log
        uids |= {str(data_set.SOPInstanceUID) for data_set in result.data_sets}
    return uids


def given_back(peer: Peer, studies: Iterable[str], folder: Path) -> dict[str, str]:
    """Return SOP Instance UID -> SHA-256 of the data set of all that C-GET brings of the studies."""
    out = {}
    for study in studies:
        result = getscu(peer, ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"], folder / study[-20:]).ok()
        assert result.final.status == 0, result.log[-4000:]
        out |= {uid: file.sha256() for uid, file in result.received.items()}
    return out


def assert_kept(peer: Peer, studies: Sequence[str], acked: set[str], sent: Mapping[str, str], folder: Path) -> None:
    """Check that what was acknowledged is found and comes back equal, and that nothing else came that was not sent."""
    there = found(peer, studies)
    assert acked <= there, f"acknowledged, but not found: {acked - there}"
    assert there <= sent.keys()
    back = given_back(peer, studies, folder)
    assert back.keys() == there
    assert {uid for uid in back if back[uid] != sent[uid]} == set(), "came back with other bytes"


def bytes_in(storage: Path) -> int:
    """Return how many bytes have arrived in a storage folder, by halves or whole, each counted once."""
    sizes: dict[int, int] = {}
    for folder, _, names in os.walk(storage):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it has got its place meanwhile
                status = Path(folder, name).stat()
                sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def tree(storage: Path) -> dict[str, str]:
    """Return path -> SHA-256 of every visible file of a storage folder."""
    return {
        str(path.relative_to(storage)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(storage.rglob("*"))
        if path.is_file() and ".angiovault" not in path.parts
    }


def wait_until_contact_is_noted(index: Path) -> None:
    """Wait until the end of an association stands in an SQLite index: the last that is written because of it."""

    def noted() -> bool:
        with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT COUNT(*) FROM past_association").fetchone()[0])

    wait_until(noted, "the association to be noted")
