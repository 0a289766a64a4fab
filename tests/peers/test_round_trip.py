"""The main job: a study sent by a real program, found by patient name, moved back to another, identical to the byte."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.errors import InvalidDicomError

from angiovault import phantom
from harness import part10
from harness.dcmtk import PROPOSE, StoreSCP, findscu, getscu, movescu, storescu
from harness.part10 import Part10
from harness.service import Service

# Phantoms are made in all syntaxes that need no codec.
_UNCOMPRESSED = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
# What a person types, for what a device sent: any component group, any case, as much as is remembered.
_QUERIES: dict[str, tuple[str, bytes]] = {
    "PHANTOM-001": ("GB18030", "张^三".encode("gb18030")),
    "PHANTOM-002": ("GB18030", "李^秀*".encode("gb18030")),
    "PHANTOM-003": ("ISO_IR 192", b"wang^xiao*"),
    "PHANTOM-004": ("ISO_IR 100", "müller^j?rgen*".encode("latin-1")),
}


def _phantoms(folder: Path) -> Iterator[Path]:
    number = 0
    for _, data_sets in phantom.demo_studies(scale=0.05):
        for data_set in data_sets:
            path = folder / f"phantom{number:03}.dcm"
            phantom.write(data_set, path, _UNCOMPRESSED[number % len(_UNCOMPRESSED)])
            yield path
            number += 1


def _real() -> Iterator[Path]:
    """Yield pydicom's own test files, and the samples if there are some."""
    yield from sorted(Path(str(get_testdata_file("CT_small.dcm", download=False))).parent.glob("*.dcm"))
    if samples := os.environ.get("ANGIOVAULT_SAMPLES"):
        yield from sorted(Path(samples).glob("*.dcm"))


def _by_syntax(paths: Iterator[Path]) -> dict[str, list[Path]]:
    """Sort files by transfer syntax; one of several with the same UID is taken, and none that is no instance."""
    found: dict[str, list[Path]] = {}
    seen = set()
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            syntax = header.file_meta.TransferSyntaxUID
        except (InvalidDicomError, AttributeError):
            continue  # made on purpose without a head
        instance = header.get("SOPInstanceUID")
        if instance in seen or syntax not in PROPOSE or not header.get("StudyInstanceUID"):
            continue
        if not header.get("SeriesInstanceUID") or instance != header.file_meta.get("MediaStorageSOPInstanceUID"):
            continue
        seen.add(instance)
        found.setdefault(str(syntax), []).append(path)
    return found


def _digests(files: dict[str, Part10]) -> dict[str, tuple[str, str]]:
    return {key: (file.transfer_syntax, file.sha256()) for key, file in files.items()}


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
def test_sent_found_by_name_moved_and_fetched_back_identical(
    service: Callable[..., Service], receiver: Callable[..., StoreSCP], index_url: str, tmp_path: Path
) -> None:
    witness, destination = receiver("WITNESS"), receiver("DEST")
    config = f"[device workstation]\nae-title = DEST\nhost = 127.0.0.1\nport = {destination.peer.port}\n"
    archive = service(index=index_url, config=config, unknown_devices="all")
    folder = tmp_path / "files"
    folder.mkdir()
    groups = _by_syntax(iter([*_phantoms(folder), *_real()]))
    for syntax, paths in groups.items():
        # storescu encodes anew what it reads: what the same call sends to a witness is what left the sender.
        option = PROPOSE[uid.UID(syntax)]
        if not storescu(witness.peer, paths, option).statuses:
            continue  # storescu itself cannot send any of these
        assert set(storescu(archive.peer, paths, option).statuses) == {0}
    sent = witness.received()
    assert len(sent) > 45
    assert len({file.transfer_syntax for file in sent.values()}) >= 9

    studies: dict[str, set[str]] = {}
    for file in sent.values():
        header = pydicom.dcmread(file.path, stop_before_pixels=True)
        studies.setdefault(str(header.get("PatientID", "")), set()).add(str(header.StudyInstanceUID))
    for patient_id, expected in studies.items():
        assert _find(archive, sent, patient_id, expected) >= expected, patient_id
    for study in set().union(*studies.values()):
        moved = movescu(archive.peer, "DEST", ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"]).ok()
        assert (moved.final.status, moved.final.count("Failed")) == (0, 0)
    assert _digests(destination.received()) == _digests(sent)

    assert "converted" not in archive.log_text()

    # getscu offers the standard's usual classes, and always Explicit VR Little Endian among other syntaxes.
    explicit = {
        key: file
        for key, file in sent.items()
        if file.transfer_syntax == uid.ExplicitVRLittleEndian and not file.meta.MediaStorageSOPClassUID.is_private
    }
    assert len(explicit) > 10
    keys = ["QueryRetrieveLevel=IMAGE", "SOPInstanceUID=" + "\\".join(explicit)]
    got = getscu(archive.peer, keys, tmp_path / "got").ok()
    assert _digests(dict(got.received)) == _digests(explicit)
    assert "converted" not in archive.log_text()

    found = archive.cli("verify").stdout
    assert f"{len(sent)} files are sound, 0 damaged, 0 missing" in found
    assert len(part10.collect(archive.settled())) == len(sent)


def _find(archive: Service, sent: dict[str, Part10], patient_id: str, expected: set[str]) -> set[str]:
    """Query for a patient's studies by name alone, and return their UIDs."""
    if patient_id in _QUERIES:
        character_set, name = _QUERIES[patient_id]
    else:
        header = next(
            header
            for header in (pydicom.dcmread(file.path, stop_before_pixels=True) for file in sent.values())
            if str(header.StudyInstanceUID) in expected
        )
        character_set, name = "ISO_IR 100", str(header.get("PatientName", "")).encode("latin-1")
    keys = [
        "QueryRetrieveLevel=STUDY",
        "StudyInstanceUID",
        f"SpecificCharacterSet={character_set}",
        b"PatientName=" + name,
    ]
    return {str(item.StudyInstanceUID) for item in findscu(archive.peer, keys).ok().data_sets}


@pytest.mark.parametrize("level", ["SERIES", "IMAGE"])
def test_parts_of_a_study_come_back_alone(
    service: Callable[..., Service], receiver: Callable[..., StoreSCP], tmp_path: Path, level: str
) -> None:
    destination = receiver("DEST")
    config = f"[device workstation]\nae-title = DEST\nhost = 127.0.0.1\nport = {destination.peer.port}\n"
    archive = service(config=config, unknown_devices="all")
    paths = list(_phantoms(tmp_path))
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths[:8]]
    storescu(archive.peer, paths[:8]).ok()
    wanted = headers[3]
    key, keyword = {
        "SERIES": (wanted.SeriesInstanceUID, "SeriesInstanceUID"),
        "IMAGE": (wanted.SOPInstanceUID, "SOPInstanceUID"),
    }[level]
    keys = [f"QueryRetrieveLevel={level}", f"StudyInstanceUID={wanted.StudyInstanceUID}", f"{keyword}={key}"]
    movescu(archive.peer, "DEST", keys).ok()
    assert set(destination.received()) == {item.SOPInstanceUID for item in headers if item[keyword].value == key}
