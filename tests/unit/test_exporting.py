"""Export into folders, File-sets and ZIP files, read back by pydicom, DCMTK and dicom3tools."""

import errno
import hashlib
import logging
import os
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom.data
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence

from angiovault.archive.archive import Archive
from angiovault.archive.exchange.exporting import CannotExport, Exported, NothingFound, export, find
from angiovault.archive.exchange.importing import import_paths
from angiovault.archive.finding.selection import Selection, instances
from angiovault.archive.models import Study
from angiovault.config import IndexURL
from harness import part10

TEST_FILES = Path(pydicom.data.__file__).parent / "test_files"
CT = Path(str(get_testdata_file("CT_small.dcm")))
SR = Path(str(get_testdata_file("test-SR.dcm")))
CT_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
CT_SERIES = "1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"
CT_STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "storage", IndexURL.parse("sqlite:///index.sqlite", tmp_path))
    made.open()
    yield made
    made.close()


@pytest.fixture
def put(archive: Archive, tmp_path: Path) -> Callable[..., Path]:
    """Put a file into the archive, changed if attributes are given."""

    def put_in(path: Path, **changes: object) -> Path:
        source = path
        if changes:
            source = tmp_path / "changed.dcm"
            instance = dcmread(path)
            for keyword, value in changes.items():
                setattr(instance, keyword, value)
            instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
            instance.file_meta.MediaStorageSOPClassUID = instance.SOPClassUID
            dcmwrite(source, instance)
        for result in import_paths(archive, [source]):
            assert result.outcome in ("stored", "duplicate", "conflict", "skipped"), result
        return source

    return put_in


Put = Callable[..., Path]


@pytest.fixture
def full(archive: Archive) -> Archive:
    """An archive with all of pydicom's real files that can be stored."""
    for _ in import_paths(archive, [TEST_FILES]):
        pass
    return archive


def studies(archive: Archive) -> list[str]:
    with archive.index.session():
        return [uid for (uid,) in Study.select(Study.uid).tuples()]


def stored_files(archive: Archive) -> list[Path]:
    """The files of all current instances."""
    selection = Selection(study_uids=studies(archive))
    return [archive.store.root / found.path for found in instances(archive.index, selection)]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digests(paths: list[Path]) -> Counter[str]:
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def run(archive: Archive, uids: list[str], to: Path, **options: bool) -> list[Exported]:
    return list(export(archive, uids, to, **options))


def program(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program and return what it says; it has to succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- what is exported, and where to


@pytest.mark.parametrize("uid", [CT_STUDY, CT_SERIES, CT_UID])
def test_every_level_is_found(archive: Archive, put: Put, tmp_path: Path, uid: str) -> None:
    put(CT)
    (result,) = run(archive, [uid, uid, CT_UID], tmp_path / "out")
    assert result.problem == ""
    (copy,) = files(tmp_path / "out")
    assert str(copy) == result.target
    assert result.size == copy.stat().st_size


def test_an_unknown_uid_stops_before_anything_is_written(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    with pytest.raises(NothingFound, match=r"1\.2\.3"):
        run(archive, [CT_UID, "1.2.3"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [found.sop_instance_uid for found in find(archive, [CT_STUDY])] == [CT_UID]


def test_every_byte_of_every_real_file_is_exported(full: Archive, tmp_path: Path) -> None:
    results = run(full, studies(full), tmp_path / "out")
    assert all(result.problem == "" for result in results)
    assert len(results) > 100
    assert digests(files(tmp_path / "out")) == digests(stored_files(full))


def test_folders_can_be_read_by_people(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT, PatientName="王^小东", SpecificCharacterSet="ISO_IR 192", PatientID="../../etc", SeriesDescription="LCA")
    run(archive, [CT_STUDY], tmp_path / "out")
    (copy,) = files(tmp_path / "out")
    study, series, name = copy.relative_to(tmp_path / "out").parts
    assert study.startswith("2004-01-19_王^小东_etc_")
    assert "LCA" in series
    assert CT_UID in name


def test_only_the_current_version_is_exported(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    put(CT, PatientComments="another content")
    run(archive, [CT_STUDY], tmp_path / "out")
    (copy,) = files(tmp_path / "out")
    assert "PatientComments" not in dcmread(copy)


def test_nothing_is_overwritten(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    put(SR)
    to = tmp_path / "out"
    run(archive, [CT_STUDY], to)
    (copy,) = files(to)
    copy.write_bytes(b"somebody's own")
    with pytest.raises(CannotExport, match="not overwritten"):
        run(archive, [str(dcmread(SR).StudyInstanceUID), CT_STUDY], to)
    assert files(to) == [copy]
    assert copy.read_bytes() == b"somebody's own"


@pytest.mark.parametrize("taken", ["DICOMDIR", "DICOM/ST000001/SE000001/IM000001"])
def test_a_file_set_is_not_mixed_with_another(archive: Archive, put: Put, tmp_path: Path, taken: str) -> None:
    put(CT)
    (tmp_path / "out" / taken).parent.mkdir(parents=True)
    (tmp_path / "out" / taken).write_text("somebody's own")
    with pytest.raises(CannotExport, match="not overwritten"):
        run(archive, [CT_STUDY], tmp_path / "out", dicomdir=True)
    assert [path.read_text() for path in files(tmp_path / "out")] == ["somebody's own"]


def test_a_link_in_the_way_is_not_written_through(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "DICOMDIR").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotExport, match="not overwritten"):
        run(archive, [CT_STUDY], tmp_path / "out", dicomdir=True)
    assert not (tmp_path / "elsewhere").exists()


def test_the_storage_is_no_place_to_export_to(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    (tmp_path / "alias").symlink_to(archive.store.root)
    for to in (archive.store.root, archive.store.root / "new" / "folder", tmp_path / "alias" / "new"):
        with pytest.raises(CannotExport, match="storage of the archive"):
            run(archive, [CT_STUDY], to)
    assert not (archive.store.root / "new").exists()


def test_a_target_that_is_no_folder_is_said(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotExport, match="file"):
        run(archive, [CT_STUDY], tmp_path / "file" / "out")


# ---- damage and lack of room


def damaged(archive: Archive, uid: str) -> Path:
    """Change a byte of a stored file and return it."""
    (found,) = instances(archive.index, Selection(instance_uids=[uid]))
    path = archive.store.root / found.path
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("dicomdir", [False, True])
def test_a_damaged_file_is_said_and_not_exported(
    archive: Archive, put: Put, tmp_path: Path, dicomdir: bool, as_zip: bool
) -> None:
    put(CT)
    put(CT, SOPInstanceUID="1.2.3.4", InstanceNumber=2)
    put(CT, SOPInstanceUID="1.2.3.5", InstanceNumber=3)
    damaged(archive, "1.2.3.4")
    (cut,) = instances(archive.index, Selection(instance_uids=["1.2.3.5"]))
    os.truncate(archive.store.root / cut.path, 1000)
    results = run(archive, [CT_STUDY], tmp_path / "out", dicomdir=dicomdir, as_zip=as_zip)
    assert ["damaged" in result.problem for result in results] == [False, True, True]
    if as_zip:
        (made,) = files(tmp_path / "out")
        shutil.unpack_archive(made, tmp_path / "out", "zip")
        made.unlink()
    names = [path for path in files(tmp_path / "out") if path.name != "DICOMDIR"]
    assert [str(dcmread(path).SOPInstanceUID) for path in names] == [CT_UID]
    if dicomdir:
        assert len(FileSet(tmp_path / "out" / "DICOMDIR")) == 1


def test_a_file_that_cannot_be_read_is_said(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    stored_files(archive)[0].unlink()
    (result,) = run(archive, [CT_STUDY], tmp_path / "out", as_zip=True)
    assert result.problem
    assert files(tmp_path / "out") == [], "no empty ZIP"


def test_a_file_that_rots_while_it_is_packed_makes_no_zip(
    archive: Archive, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(CT)
    damaged(archive, CT_UID)
    monkeypatch.setattr("angiovault.archive.exchange.exporting.sound", lambda *_: True)
    with pytest.raises(CannotExport, match="damaged"):
        run(archive, [CT_STUDY], tmp_path / "out", as_zip=True)
    assert files(tmp_path / "out") == []


def test_lack_of_room_is_known_beforehand(
    archive: Archive, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(CT)
    volume = os.statvfs(tmp_path)
    little = os.statvfs_result((volume[0], 1, *volume[2:4], 10, *volume[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: little)
    with pytest.raises(CannotExport, match="has room for"):
        run(archive, [CT_STUDY], tmp_path / "out")
    assert files(tmp_path / "out") == []


@pytest.mark.root
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_volume_that_runs_full_is_said_and_no_half_file_stays(
    archive: Archive, put: Put, tmp_path: Path, as_zip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(CT, PixelData=os.urandom(128 * 128 * 2))
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", small], check=True)
    try:
        monkeypatch.setattr("angiovault.archive.exchange.exporting._Folder.check", lambda *_: None)
        with pytest.raises(CannotExport, match="no room left"):
            run(archive, [CT_STUDY], small, as_zip=as_zip)
        assert files(small) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_file_too_large_for_the_target_is_said(
    archive: Archive, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(CT)

    def too_large(_: int) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("angiovault.archive.exchange.exporting.os.fsync", too_large)
    with pytest.raises(CannotExport, match="too large"):
        run(archive, [CT_STUDY], tmp_path / "out")
    assert files(tmp_path / "out") == []


# ---- File-sets


@pytest.mark.skipif(not shutil.which("dcmdump"), reason="DCMTK is not installed")
def test_a_file_set_of_every_real_file_is_read_by_others(full: Archive, tmp_path: Path) -> None:
    to = tmp_path / "out"
    results = run(full, studies(full), to, dicomdir=True)
    copies = [path for path in files(to) if path.name != "DICOMDIR"]
    assert len(copies) == len(results) == len(stored_files(full))
    assert digests(copies) == digests(stored_files(full))
    for path in copies:
        parts = path.relative_to(to).parts
        assert len(parts) <= 8
        assert all(re.fullmatch("[A-Z0-9_]{1,8}", part) for part in parts)

    file_set = FileSet(to / "DICOMDIR")
    assert len(file_set) == len(copies)
    for instance in file_set:
        content = dcmread(instance.path)
        assert instance.SOPInstanceUID == content.SOPInstanceUID == instance.ReferencedSOPInstanceUIDInFile
        assert instance.ReferencedSOPClassUIDInFile == content.SOPClassUID
        assert instance.ReferencedTransferSyntaxUIDInFile == content.file_meta.TransferSyntaxUID
        assert instance.StudyInstanceUID == content.StudyInstanceUID
        assert instance.SeriesInstanceUID == content.SeriesInstanceUID

    dump = program("dcmdump", "DICOMDIR", cwd=to)
    assert dump.count("ReferencedFileID") == len(copies)
    assert "E:" not in dump
    assert "W:" not in dump


needs_dicom3tools = pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools are not installed")


def checked(folder: Path) -> str:
    """What dicom3tools' validator finds wrong with a DICOMDIR."""
    done = subprocess.run(["dciodvfy", "DICOMDIR"], cwd=folder, capture_output=True, text=True, check=False)
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error"))


@needs_dicom3tools
def test_a_file_set_of_angiography_is_valid(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT, Modality="XA", SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1")
    put(SR)
    put(Path(str(get_testdata_file("waveform_ecg.dcm"))))
    study = [str(dcmread(path).StudyInstanceUID) for path in stored_files(archive)]
    run(archive, study, tmp_path / "out", dicomdir=True)
    assert checked(tmp_path / "out") == ""
    program("dcmftest", "DICOMDIR", cwd=tmp_path / "out")


def test_chinese_keys_keep_their_bytes_and_label(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT, SpecificCharacterSet="GB18030", PatientName="Wang^XiaoDong=王^小东", StudyDescription="冠状动脉造影")
    run(archive, [CT_STUDY], tmp_path / "out", dicomdir=True)
    records = dcmread(tmp_path / "out" / "DICOMDIR").DirectoryRecordSequence
    assert [record.DirectoryRecordType for record in records] == ["PATIENT", "STUDY", "SERIES", "IMAGE"]
    assert records[0].SpecificCharacterSet == "GB18030"
    assert records[0].PatientName.ideographic == "王^小东"
    assert records[1].StudyDescription == "冠状动脉造影"


def presentation(tmp_path: Path) -> Path:
    """A presentation state that applies to `CT`, and says so in Implicit VR."""
    state = Dataset()
    state.SOPClassUID, state.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.11.1", "1.2.3.11"
    state.StudyInstanceUID, state.SeriesInstanceUID, state.Modality = CT_STUDY, "1.2.3.10", "PR"
    state.SpecificCharacterSet = "ISO_IR 192"
    state.PresentationCreationDate, state.PresentationCreationTime = "20261122", "101112"
    state.InstanceNumber, state.ContentLabel, state.ContentDescription = 7, "MASK", "蒙片"
    image, series = Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = dcmread(CT).SOPClassUID, CT_UID
    series.SeriesInstanceUID, series.ReferencedImageSequence = CT_SERIES, Sequence([image])
    state.ReferencedSeriesSequence = Sequence([series])
    target = tmp_path / "state.dcm"
    dcmwrite(target, state, implicit_vr=True, little_endian=True, enforce_file_format=True)
    return target


@needs_dicom3tools
def test_presentation_states_and_reports_have_their_keys(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    put(presentation(tmp_path))
    put(SR)
    run(archive, [CT_STUDY, str(dcmread(SR).StudyInstanceUID)], tmp_path / "out", dicomdir=True)
    records = {
        record.DirectoryRecordType: record for record in dcmread(tmp_path / "out/DICOMDIR").DirectoryRecordSequence
    }
    state, report, given = records["PRESENTATION"], records["SR DOCUMENT"], dcmread(SR)
    assert (state.InstanceNumber, state.ContentLabel, state.ContentDescription) == (7, "MASK", "蒙片")
    reference = state.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == CT_SERIES
    assert reference.ReferencedImageSequence[0].ReferencedSOPInstanceUID == CT_UID
    assert report.CompletionFlag == given.CompletionFlag
    assert report.ConceptNameCodeSequence == given.ConceptNameCodeSequence
    assert all(item.RelationshipType == "HAS CONCEPT MOD" for item in report.get("ContentSequence", []))
    assert checked(tmp_path / "out") == ""


def test_a_private_class_has_a_private_record(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT, SOPClassUID="1.3.12.2.1107.5.9.1", SOPInstanceUID="1.2.3.4")
    run(archive, [CT_STUDY], tmp_path / "out", dicomdir=True)
    record = dcmread(tmp_path / "out" / "DICOMDIR").DirectoryRecordSequence[-1]
    assert record.DirectoryRecordType == "PRIVATE"
    assert record.PrivateRecordUID
    assert record.ReferencedSOPClassUIDInFile == "1.3.12.2.1107.5.9.1"
    assert len(FileSet(tmp_path / "out" / "DICOMDIR")) == 1


@needs_dicom3tools
def test_what_a_record_must_say_is_made_up_where_the_image_is_silent(
    archive: Archive, put: Put, tmp_path: Path
) -> None:
    silent = dict.fromkeys(("PatientID", "StudyID", "StudyDate", "StudyTime", "SeriesNumber", "InstanceNumber"), None)
    put(CT, **silent, PatientName="A")
    put(CT, **silent, PatientName="B", SOPInstanceUID="1.2.5", SeriesInstanceUID="1.2.4", StudyInstanceUID="1.2.3")
    run(archive, [CT_STUDY, "1.2.3"], tmp_path / "out", dicomdir=True)
    records = dcmread(tmp_path / "out" / "DICOMDIR").DirectoryRecordSequence
    of = {
        kind: [r for r in records if r.DirectoryRecordType == kind] for kind in ("PATIENT", "STUDY", "SERIES", "IMAGE")
    }
    assert [(r.PatientName, r.PatientID) for r in of["PATIENT"]] == [("A", "1"), ("B", "2")]
    assert [(r.StudyDate, r.StudyTime, r.StudyID) for r in of["STUDY"]] == [
        ("19000101", "000000", "1"),
        ("19000101", "000000", "2"),
    ]
    assert [r.SeriesNumber for r in of["SERIES"]] == [1, 1]
    assert [r.InstanceNumber for r in of["IMAGE"]] == [1, 1]
    assert checked(tmp_path / "out") == ""


def test_a_study_of_two_patients_stands_in_one_record(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    put(CT, PatientID="OTHER", PatientName="Other", SOPInstanceUID="1.2.3.4", InstanceNumber=2)
    run(archive, [CT_STUDY], tmp_path / "out", dicomdir=True)
    records = dcmread(tmp_path / "out" / "DICOMDIR").DirectoryRecordSequence
    assert [r.DirectoryRecordType for r in records] == ["PATIENT", "STUDY", "SERIES", "IMAGE", "IMAGE"]
    assert len(FileSet(tmp_path / "out" / "DICOMDIR")) == 2


@pytest.mark.parametrize(
    ("name", "level", "text"),
    [("CT_small.dcm", logging.INFO, "STD-GEN-CD"), ("MR_small_implicit.dcm", logging.WARNING, "1.2.840.10008.1.2")],
)
def test_whether_a_media_profile_is_met_is_said(
    archive: Archive, put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, level: int, text: str
) -> None:
    path = put(Path(str(get_testdata_file(name))))
    with caplog.at_level(logging.INFO, "angiovault.archive.exchange.exporting"):
        run(archive, [str(dcmread(path).StudyInstanceUID)], tmp_path / "out", dicomdir=True)
    (record,) = (record for record in caplog.records if record.name == "angiovault.archive.exchange.exporting")
    assert record.levelno == level
    assert text in record.getMessage()


def test_instances_are_numbered_within_their_series(archive: Archive, put: Put, tmp_path: Path) -> None:
    for number in range(12):
        changes = {
            "SOPInstanceUID": f"1.2.3.{number}",
            "SeriesInstanceUID": f"1.2.{number % 3}",
            "InstanceNumber": number,
        }
        put(CT, **changes)
    run(archive, [CT_STUDY], tmp_path / "out", dicomdir=True)
    made = [str(path.relative_to(tmp_path / "out")) for path in files(tmp_path / "out" / "DICOM")]
    expected = [f"DICOM/ST000001/SE{s:06}/IM{i:06}" for s in (1, 2, 3) for i in (1, 2, 3, 4)]
    assert made == expected


# ---- ZIP files


@pytest.mark.parametrize("dicomdir", [False, True])
def test_a_zip_holds_every_byte(full: Archive, tmp_path: Path, dicomdir: bool) -> None:
    results = run(full, studies(full), tmp_path / "out", dicomdir=dicomdir, as_zip=True)
    (made,) = files(tmp_path / "out")
    assert made.suffix == ".zip"
    assert all(result.target.startswith(f"{made}:") for result in results)
    program("unzip", "-q", made, "-d", tmp_path / "unpacked")
    copies = [path for path in files(tmp_path / "unpacked") if path.name != "DICOMDIR"]
    assert digests(copies) == digests(stored_files(full))
    if dicomdir:
        assert len(FileSet(tmp_path / "unpacked" / "DICOMDIR")) == len(copies)


def test_a_zip_has_a_name_for_people_and_is_imported_again(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    put(CT, PatientName="王^小东", SpecificCharacterSet="ISO_IR 192", SOPInstanceUID="1.2.9", StudyInstanceUID="1.2.8")
    run(archive, ["1.2.8"], tmp_path / "out", as_zip=True)
    run(archive, ["1.2.8", CT_STUDY], tmp_path / "more", as_zip=True)
    (one,), (two,) = files(tmp_path / "out"), files(tmp_path / "more")
    assert one.name.startswith("2004-01-19_王^小东_")
    assert two.name.endswith("_and_1_more.zip")
    assert {result.outcome for result in import_paths(archive, [one, two])} == {"duplicate"}


def test_an_existing_zip_is_not_overwritten(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    run(archive, [CT_STUDY], tmp_path / "out", as_zip=True)
    (made,) = files(tmp_path / "out")
    made.write_bytes(b"somebody's own")
    with pytest.raises(CannotExport, match="not overwritten"):
        run(archive, [CT_STUDY], tmp_path / "out", as_zip=True)
    assert files(tmp_path / "out") == [made]
    assert made.read_bytes() == b"somebody's own"


def test_an_interrupted_zip_leaves_nothing(archive: Archive, put: Put, tmp_path: Path) -> None:
    put(CT)
    put(CT, SOPInstanceUID="1.2.3.4", InstanceNumber=2)
    running = export(archive, [CT_STUDY], tmp_path / "out", as_zip=True)
    next(running)
    assert [path.suffix for path in files(tmp_path / "out")] == [".part"]
    running.close()
    assert files(tmp_path / "out") == []


def test_compressed_pixels_are_not_packed_again(full: Archive, tmp_path: Path) -> None:
    run(full, studies(full), tmp_path / "out", as_zip=True)
    (made,) = files(tmp_path / "out")
    kinds: dict[bool, set[int]] = {True: set(), False: set()}
    with zipfile.ZipFile(made) as opened:
        for info in opened.infolist():
            (tmp_path / "one").write_bytes(opened.read(info))
            syntax = part10.read(tmp_path / "one").meta.TransferSyntaxUID
            kinds[syntax.is_encapsulated or syntax.is_deflated].add(info.compress_type)
    assert kinds == {True: {zipfile.ZIP_STORED}, False: {zipfile.ZIP_DEFLATED}}
