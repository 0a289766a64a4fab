"""Import of folder trees, DICOMDIRs, ZIP files and single files, on pydicom's real files."""

import errno
import hashlib
import io
import json
import os
import shutil
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path, PurePosixPath

import pydicom.data
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file

from angiovault.archive import filemeta
from angiovault.archive.adding import Entry
from angiovault.archive.archive import Archive
from angiovault.archive.exchange.import_sources import find_sources
from angiovault.archive.exchange.importing import Imported, count_files, import_paths
from angiovault.archive.exchange.small_files import LARGEST
from angiovault.archive.finding.selection import Selection, StoredInstance, instances, versions
from angiovault.archive.incoming import Incoming
from angiovault.archive.models import Study
from angiovault.archive.settling import Sealed
from angiovault.archive.store import NoRoom, StorageError
from angiovault.archive.verifying import verify
from angiovault.config import IndexURL
from harness import part10

TEST_FILES = Path(pydicom.data.__file__).parent / "test_files"
CT, MR, SR = (Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm", "test-SR.dcm"))
CT_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


def opened(folder: Path) -> Archive:
    archive = Archive(folder / "storage", IndexURL.parse("sqlite:///index.sqlite", folder))
    archive.open()
    return archive


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = opened(tmp_path)
    yield made
    made.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder for what is to be imported."""
    folder = tmp_path / "来源"
    folder.mkdir()
    return folder


@pytest.fixture
def run(archive: Archive) -> Callable[..., list[Imported]]:
    def imported(*paths: Path, move: bool = False) -> list[Imported]:
        return list(import_paths(archive, paths, move))

    return imported


Run = Callable[..., list[Imported]]


def outcomes(results: list[Imported]) -> list[str]:
    return [result.outcome for result in results]


def held(archive: Archive) -> dict[str, StoredInstance]:
    """The current instances by SOP Instance UID."""
    with archive.index.session():
        uids = [uid for (uid,) in Study.select(Study.uid).tuples()]
    return {found.sop_instance_uid: found for found in instances(archive.index, Selection(study_uids=uids))}


def data_set(path: Path) -> bytes:
    """The bytes behind the file meta, found by pydicom."""
    with path.open("rb") as file:
        pydicom.filereader.read_preamble(file, False)
        pydicom.filereader._read_file_meta_info(file)
        return file.read()


def bytes_read() -> int:
    """How many bytes this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def rewritten(path: Path, target: Path, **changes: object) -> Path:
    """Write a copy of a file with other attributes."""
    instance = dcmread(path)
    for keyword, value in changes.items():
        setattr(instance, keyword, value)
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    dcmwrite(target, instance)
    return target


# ---- folder trees


def test_every_data_set_of_a_real_tree_is_kept_byte_for_byte(archive: Archive, run: Run) -> None:
    results = run(TEST_FILES)
    counts = Counter(outcomes(results))
    assert counts["stored"] > 100
    assert len(results) == count_files([TEST_FILES]) == sum(1 for path in TEST_FILES.rglob("*") if path.is_file())

    kept = {hashlib.sha256(data_set(path)).hexdigest() for path in map(Path, (r.source for r in results if r.size))}
    stored = {part10.read(archive.store.root / place).sha256() for place in archive.store.instance_files()}
    assert stored == kept
    assert all(not finding.problem for finding in verify(archive.store))
    reasons = {Path(result.source).name: result.reason for result in results if result.outcome == "failed"}
    assert reasons["meta_missing_tsyntax.dcm"] == "File Meta Information names no transfer syntax"
    assert "Study Instance UID (0020,000D) is missing" in reasons["JPEGLSNearLossless_08.dcm"]
    skipped = {Path(result.source).name: result.reason for result in results if result.outcome == "skipped"}
    assert skipped["DICOMDIR"] == "a DICOMDIR"
    assert skipped["README.txt"] == "not a DICOM file"


def test_a_foreign_file_has_no_calling_ae_and_is_received_now(archive: Archive, run: Run) -> None:
    assert outcomes(run(CT)) == ["stored"]
    with (archive.store.root / held(archive)[CT_UID].path).open("rb") as file:
        meta = filemeta.read(file)
    assert meta.calling == ""
    assert meta.received > "2026"


def test_hidden_files_and_recycle_bins_are_left_out(run: Run, source: Path) -> None:
    for name in ("@eaDir", "#recycle", "#snapshot", ".hidden", "sub/@eaDir"):
        (source / name).mkdir(parents=True)
        shutil.copy(CT, source / name / "a.dcm")
    shutil.copy(CT, source / ".ct.dcm")
    shutil.copy(MR, source / "sub" / "没有扩展名")
    results = run(source)
    assert [(Path(result.source).name, result.outcome) for result in results] == [("没有扩展名", "stored")]
    assert count_files([source]) == 1


def test_no_symbolic_link_is_followed_but_the_given_path_may_be_one(run: Run, source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(CT, outside / "ct.dcm")
    (source / "folder").symlink_to(outside)
    (source / "file.dcm").symlink_to(outside / "ct.dcm")
    (source / "nowhere").symlink_to(tmp_path / "nothing")
    results = run(source)
    assert outcomes(results) == ["skipped"] * 3
    assert {result.reason for result in results} == {"a symbolic link, not followed"}

    given = tmp_path / "given"
    given.symlink_to(outside)
    assert outcomes(run(given)) == ["stored"]


def test_a_linked_file_that_is_given_is_copied_only(run: Run, tmp_path: Path) -> None:
    real = Path(shutil.copy(CT, tmp_path / "real.dcm"))
    (tmp_path / "link.dcm").symlink_to(real)
    assert outcomes(run(tmp_path / "link.dcm", move=True)) == ["stored"]
    assert real.exists()


def test_pipes_and_what_is_not_there_are_said_and_do_not_block(run: Run, source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "pipe")
    results = run(source, source / "pipe", tmp_path / "nothing")
    assert outcomes(results) == ["skipped", "failed", "failed"]
    assert "neither a file nor a folder" in results[1].reason
    assert "No such file" in results[2].reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_said(run: Run, source: Path) -> None:
    shutil.copy(CT, source / "closed.dcm")
    (source / "closed.dcm").chmod(0)
    (source / "folder").mkdir(mode=0)
    results = run(source)
    assert outcomes(results) == ["failed", "failed"]
    assert all("Permission denied" in result.reason for result in results)


def test_a_folder_that_vanishes_is_said(archive: Archive, source: Path) -> None:
    (source / "a").mkdir()
    (source / "b").mkdir()
    for number in range(600):  # enough that the first is settled before the next folder is looked at
        shutil.copy(CT, source / "a" / f"{number:03d}.dcm")
    running = import_paths(archive, [source])
    assert next(running).outcome == "stored"
    (source / "b").rmdir()
    *_, left = running
    assert left.outcome == "failed"
    assert "No such file" in left.reason


# ---- single files, bad and odd


def test_an_unknown_transfer_syntax_is_said_and_the_file_left(archive: Archive, run: Run, source: Path) -> None:
    content = CT.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.2.1\0", 1)
    (source / "odd.dcm").write_bytes(content)
    (result,) = run(source, move=True)
    assert result.outcome == "failed"
    assert "1.2.840.10008.9.2.1" in result.reason
    assert (source / "odd.dcm").read_bytes() == content
    assert not held(archive)


@pytest.mark.parametrize("uid", ["1.2.3.4", "\xff" * 20, ""])
def test_where_head_and_data_set_differ_the_data_set_counts(archive: Archive, run: Run, source: Path, uid: str) -> None:
    content = CT.read_bytes()
    wrong = uid.encode("latin-1").ljust(len(CT_UID) + 1, b"\0")
    at = content.index(CT_UID.encode())
    (source / "wrong.dcm").write_bytes(content[:at] + wrong + content[at + len(wrong) :])
    assert outcomes(run(source)) == ["stored"]
    stored = part10.read(archive.store.root / held(archive)[CT_UID].path)
    assert stored.sop_instance_uid == CT_UID
    assert stored.data_set() == data_set(CT)


def test_an_endless_uid_in_the_head_is_no_crash(run: Run, source: Path) -> None:
    endless = b"\x02\0\x03\0UI" + (60000).to_bytes(2, "little") + b"\xff" * 60000
    syntax = b"\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"
    body = data_set(CT)
    (source / "endless.dcm").write_bytes(bytes(128) + b"DICM" + endless + syntax + body)
    assert outcomes(run(source)) == ["stored"]


def test_a_file_cut_in_its_head_is_said(run: Run, source: Path) -> None:
    for length in (100, 132, 140, 300, 700):
        (source / f"{length:04}.dcm").write_bytes(CT.read_bytes()[:length])
    results = run(source)
    assert outcomes(results) == ["skipped", "failed", "failed", "failed", "failed"]
    assert all(result.reason for result in results)


# ---- the same again


def test_a_second_run_reads_nothing_again(archive: Archive, tmp_path: Path, source: Path) -> None:
    for number in range(30):
        changes = {"SOPInstanceUID": f"1.2.3.{number}", "PixelData": bytes(500_000)}
        rewritten(CT, source / f"{number}.dcm", **changes)
    whole = sum(path.stat().st_size for path in source.iterdir())
    running = import_paths(archive, [source])
    for _ in range(10):
        next(running)
    running.close()  # as Ctrl-C does

    before = bytes_read()
    # The others are in the archive, too, though nobody was told so.
    assert Counter(outcomes(list(import_paths(archive, [source])))) == {"done before": 30}
    assert bytes_read() - before < whole * 0.05

    archive.close()
    again = opened(tmp_path)
    before = bytes_read()
    assert Counter(outcomes(list(import_paths(again, [source])))) == {"done before": 30}
    assert bytes_read() - before < whole * 0.05
    again.close()


def test_a_changed_file_is_read_again(archive: Archive, run: Run, source: Path) -> None:
    path = Path(shutil.copy(CT, source / "ct.dcm"))
    assert outcomes(run(source)) == ["stored"]
    rewritten(CT, path, PatientComments="changed since")
    assert outcomes(run(source)) == ["conflict"]
    assert held(archive)[CT_UID].version == 1


def test_a_file_that_the_archive_lost_is_imported_again(archive: Archive, run: Run, source: Path) -> None:
    shutil.copy(CT, source / "ct.dcm")
    run(source)
    stored = archive.store.root / held(archive)[CT_UID].path
    stored.unlink()
    assert outcomes(run(source)) == ["duplicate"]
    assert part10.read(stored).data_set() == data_set(CT)


def test_a_damaged_list_of_what_was_done_is_begun_anew(archive: Archive, run: Run, source: Path) -> None:
    shutil.copy(CT, source / "ct.dcm")
    run(source)
    (archive.store.private / "imports.sqlite3").write_bytes(b"no database" * 1000)
    assert outcomes(run(source)) == ["duplicate"]
    assert outcomes(run(source)) == ["done before"]


def test_a_list_that_cannot_be_written_stops_the_import(archive: Archive, run: Run, source: Path) -> None:
    shutil.copy(CT, source / "ct.dcm")
    (archive.store.private / "imports.sqlite3").mkdir()
    with pytest.raises(StorageError, match="list of imported files"):
        run(source)


def test_the_same_content_twice_is_one_copy(archive: Archive, run: Run, source: Path) -> None:
    shutil.copy(CT, source / "a.dcm")
    shutil.copy(CT, source / "b.dcm")
    assert outcomes(run(source)) == ["stored", "duplicate"]
    assert len(list(archive.store.instance_files())) == 1


# ---- taking over


def test_taking_over_removes_what_is_stored_and_leaves_the_rest(archive: Archive, run: Run, source: Path) -> None:
    (source / "sub").mkdir()
    shutil.copy(CT, source / "sub" / "a.dcm")
    shutil.copy(CT, source / "sub" / "b.dcm")
    rewritten(CT, source / "sub" / "c.dcm", PatientComments="another version")
    shutil.copy(get_testdata_file("UN_sequence.dcm"), source / "bad.dcm")
    (source / "note.txt").write_text("not an image")
    results = run(source, move=True)
    assert Counter(outcomes(results)) == {"stored": 1, "duplicate": 1, "conflict": 1, "failed": 1, "skipped": 1}
    assert sorted(path.name for path in source.rglob("*")) == ["bad.dcm", "note.txt", "sub"]
    assert held(archive)[CT_UID].digest == hashlib.sha256(data_set(CT)).hexdigest()


def test_nothing_is_removed_before_it_is_durable(
    archive: Archive, run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(CT, source / "ct.dcm"))

    def full(entries: object) -> list[str]:
        raise NoRoom("the storage volume is full")

    monkeypatch.setattr(archive.settler, "_index", full)
    with pytest.raises(NoRoom):
        run(source, move=True)
    assert path.exists()
    monkeypatch.undo()
    assert outcomes(run(source, move=True)) == ["duplicate"]  # the first one was kept all the same
    assert not path.exists()


def test_a_rotten_copy_in_the_archive_is_replaced_before_the_source_is_removed(
    archive: Archive, run: Run, source: Path
) -> None:
    run(CT)
    stored = archive.store.root / held(archive)[CT_UID].path
    good = stored.read_bytes()
    content = bytearray(good)
    content[-10] ^= 1
    stored.write_bytes(content)
    path = Path(shutil.copy(CT, source / "ct.dcm"))
    (result,) = run(source, move=True)
    assert result.outcome == "duplicate"
    assert part10.read(stored).sha256() == part10.read(CT).sha256()
    assert stored.with_suffix(".damaged").read_bytes() == content
    assert not path.exists()


def test_a_source_that_changes_meanwhile_is_kept(
    archive: Archive, run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(CT, source / "ct.dcm"))
    index = archive.index_together

    def and_change(entries: Sequence[Entry]) -> list[str]:
        path.write_bytes(path.read_bytes() + b"more")
        return index(entries)

    monkeypatch.setattr(archive.settler, "_index", and_change)
    (result,) = run(source, move=True)
    assert result.outcome == "stored"
    assert "changed meanwhile" in result.reason
    assert path.exists()


@pytest.mark.parametrize("move", [False, True])
def test_the_archives_own_storage_is_never_a_source(archive: Archive, run: Run, tmp_path: Path, move: bool) -> None:
    run(CT)
    stored = archive.store.root / held(archive)[CT_UID].path
    (tmp_path / "alias").symlink_to(archive.store.root)
    for path in (archive.store.root, stored.parent, stored, tmp_path / "alias", tmp_path / "alias" / "2004"):
        (result,) = run(path, move=move)
        assert result.outcome == "failed"
        assert "storage of the archive itself" in result.reason
    results = {result.source: result.reason for result in run(tmp_path, move=move)}
    assert results[str(archive.store.root)] == "this is the storage of the archive itself"
    assert stored.exists()


def test_a_hard_link_to_the_archives_file_is_left(archive: Archive, run: Run, source: Path) -> None:
    run(CT)
    stored = archive.store.root / held(archive)[CT_UID].path
    os.link(stored, source / "link.dcm")
    (result,) = run(source, move=True)
    assert result.outcome == "duplicate"
    assert "the archive's own file" in result.reason
    assert stored.exists()


def test_nothing_is_taken_over_from_a_copy_of_the_archive(archive: Archive, run: Run, tmp_path: Path) -> None:
    run(CT)
    copy = tmp_path / "backup"
    shutil.copytree(archive.store.root, copy)
    for path in (copy, copy / "2004"):
        (result,) = run(path, move=True)
        assert "without --move" in result.reason
    assert len(list(copy.rglob("*.dcm"))) == 1
    assert outcomes(run(copy)) == ["duplicate"]


# ---- files of another archive of ours


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A stored file of another archive, received from a device."""
    content, received = data_set(CT), "2021-03-04T05:06:07.000008Z"
    uids = str(dcmread(CT).SOPClassUID), CT_UID, "1.2.840.10008.1.2.1"
    head = filemeta.Head(*uids, "ARTIS").encode(received, hashlib.sha256(content).hexdigest())
    path = tmp_path / "other.dcm"
    path.write_bytes(head + content)
    return path


def test_time_and_device_of_another_archive_are_kept(archive: Archive, run: Run, other: Path) -> None:
    assert outcomes(run(other)) == ["stored"]
    with (archive.store.root / held(archive)[CT_UID].path).open("rb") as file:
        meta = filemeta.read(file)
    assert (meta.received, meta.calling) == ("2021-03-04T05:06:07.000008Z", "ARTIS")


def test_a_damaged_file_of_another_archive_is_not_imported(archive: Archive, run: Run, other: Path) -> None:
    content = bytearray(other.read_bytes())
    content[-10] ^= 1
    other.write_bytes(content)
    (result,) = run(other, move=True)
    assert result.outcome == "failed"
    assert "damaged" in result.reason
    assert other.exists()
    assert not held(archive)
    assert not list((archive.store.private / "incoming").iterdir())


def test_a_further_version_is_never_older_than_the_current_one(
    archive: Archive, run: Run, other: Path, source: Path
) -> None:
    first = rewritten(CT, source / "first.dcm", PatientComments="here first")
    assert outcomes(run(first, other)) == ["stored", "conflict"]
    with_times = [
        (archive.entry_of_file(version.path).received, version.current) for version in versions(archive.index, CT_UID)
    ]
    assert [current for _, current in sorted(with_times)] == [True, False]


def test_a_time_from_the_future_is_not_believed(archive: Archive, run: Run, other: Path) -> None:
    other.write_bytes(other.read_bytes().replace(b"received=2021", b"received=9021"))
    assert outcomes(run(other)) == ["stored"]
    assert archive.entry_of_file(held(archive)[CT_UID].path).received < "9"


# ---- ZIP files


def packed(target: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return target


def test_a_zip_is_read_without_unpacking(archive: Archive, run: Run, source: Path, tmp_path: Path) -> None:
    members = {
        "病人/ct": CT.read_bytes(),
        "/etc/mr.dcm": MR.read_bytes(),
        "../../sr.dcm": SR.read_bytes(),
        "__MACOSX/._ct": b"\0" * 200,
        "a/@eaDir/x": CT.read_bytes(),
        "readme.txt": b"nothing",
    }
    path = packed(source / "disc.zip", members)
    before = sorted(tmp_path.parent.rglob("*.dcm"))
    results = run(source, move=True)
    assert outcomes(results) == ["stored", "stored", "stored", "skipped"]
    assert results[0].source == f"{path}:病人/ct"
    assert count_files([source]) == 4
    assert path.exists(), "a ZIP is never taken over"
    new = set(tmp_path.parent.rglob("*.dcm")) - set(before)
    assert all(archive.store.root in file.parents for file in new)
    kept = {part10.read(archive.store.root / found.path).data_set() for found in held(archive).values()}
    assert kept == {data_set(CT), data_set(MR), data_set(SR)}
    assert outcomes(run(path)) == ["done before", "done before", "done before", "skipped"]


def test_a_zip_needs_no_name_when_it_is_given_itself(run: Run, source: Path) -> None:
    path = packed(source / "export.bin", {"a": CT.read_bytes()})
    assert outcomes(run(source)) == ["skipped"]
    assert outcomes(run(path)) == ["stored"]


def test_wrong_heads_in_a_zip_are_mended(archive: Archive, run: Run, source: Path) -> None:
    content = CT.read_bytes().replace(CT_UID.encode(), b"1.2.3".ljust(len(CT_UID), b"\0"), 1)
    assert outcomes(run(packed(source / "a.zip", {"a": content}))) == ["stored"]
    assert list(held(archive)) == [CT_UID]


def test_a_bomb_is_refused_and_what_is_no_image_is_hardly_inflated(archive: Archive, run: Run, source: Path) -> None:
    bomb = CT.read_bytes() + bytes(100 << 20)
    path = packed(source / "bomb.zip", {"bomb.dcm": bomb, "zeros": bytes(300 << 20), "mr": MR.read_bytes()})
    before = bytes_read()
    results = run(path)
    assert outcomes(results) == ["failed", "failed", "stored"]
    assert "200 times" in results[0].reason
    assert bytes_read() - before < 10 << 20
    assert list(held(archive)) != [CT_UID]


def test_a_member_never_gives_more_than_it_announces(archive: Archive, run: Run, source: Path) -> None:
    content = MR.read_bytes() + bytes(5 << 20)
    path = packed(source / "lie.zip", {"mr": content})
    small = (len(MR.read_bytes())).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(len(content).to_bytes(4, "little"), small))
    (result,) = run(path)
    assert result.outcome in ("stored", "failed")
    assert sum(file.stat().st_size for file in archive.store.root.rglob("*.dcm")) < 1 << 20


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_methods_that_inflate_without_bounds_are_refused(run: Run, source: Path, compression: int) -> None:
    (result,) = run(packed(source / "a.zip", {"ct": CT.read_bytes()}, compression))
    assert result.outcome == "failed"
    assert "unpack it" in result.reason


def test_an_encrypted_member_is_said(run: Run, source: Path) -> None:
    path = packed(source / "a.zip", {"ct": CT.read_bytes()})
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\1\2")
    content[6] |= 1
    content[central + 8] |= 1
    path.write_bytes(content)
    (result,) = run(path)
    assert result.outcome == "failed"
    assert "encrypted" in result.reason


def test_a_damaged_zip_is_said_and_the_rest_goes_on(run: Run, source: Path) -> None:
    whole = packed(source / "a.zip", {"ct": CT.read_bytes(), "mr": MR.read_bytes()}, zipfile.ZIP_STORED).read_bytes()
    (source / "a.zip").write_bytes(whole[:-30])
    flipped = bytearray(whole)
    flipped[20_000] ^= 1
    (source / "b.zip").write_bytes(flipped)
    (source / "c.dcm").write_bytes(SR.read_bytes())
    results = run(source)
    assert outcomes(results) == ["failed", "failed", "stored", "stored"]
    assert "CRC" in results[1].reason


def test_a_zip_with_an_endless_list_is_refused(run: Run, source: Path) -> None:
    path = source / "a.zip"
    end = b"PK\5\6\0\0\0\0\xff\xff\xff\xff" + (64 << 20).to_bytes(4, "little") + b"\0\0\0\0\0\0"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate((64 << 20) + 4)
        file.seek(0, io.SEEK_END)
        file.write(end)
    (result,) = run(path)
    assert result.outcome == "failed"
    assert "list of contents" in result.reason


def test_a_zip_cut_or_changed_anywhere_is_no_crash(archive: Archive, source: Path) -> None:
    whole = packed(source / "a.zip", {"note": b"some text" * 20, "more": b"x"}).read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        for content in (whole[:position], damaged):
            (source / "a.zip").write_bytes(content)
            for result in import_paths(archive, [source]):
                assert result.outcome in ("skipped", "failed")


# ---- DICOMDIR


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A copy of pydicom's File-set."""
    folder = tmp_path / "disc"
    shutil.copytree(TEST_FILES / "dicomdirtests", folder)
    return folder


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-implicit", "DICOMDIR-bigEnd"])
def test_a_dicomdir_leads_to_its_files(archive: Archive, run: Run, disc: Path, name: str) -> None:
    assert outcomes(run(disc / name)) == ["stored"] * 31
    assert len(held(archive)) == 31
    assert outcomes(run(disc / "DICOMDIR", move=True)) == ["done before"] * 31
    assert (disc / "77654033/CR1/6154").exists(), "what a DICOMDIR names is never taken over"


def test_names_on_a_mounted_disc_may_look_different(run: Run, disc: Path) -> None:
    (disc / "77654033").rename(disc / "77654033.")
    (disc / "98892003/MR1").rename(disc / "98892003/mr1")
    (disc / "98892003/mr1/4919").rename(disc / "98892003/mr1/4919;1")
    assert outcomes(run(disc / "DICOMDIR")) == ["stored"] * 31


def test_a_dicomdir_never_leads_outside(archive: Archive, run: Run, disc: Path) -> None:
    shutil.copy(CT, disc.parent / "CT2")
    content = (disc / "DICOMDIR").read_bytes()
    for inside, outside in (
        (b"77654033\\CR1\\6154", b"..\\CT2".ljust(17)),
        (b"77654033\\CR2\\6247", b"\\ETC\\PASSWD".ljust(17)),
        (b"77654033\\CR3\\6278", b"/ETC/PASSWD".ljust(17)),
        (b"77654033\\CT2\\17106", b"77654033\\..\\..\\CT2"),
    ):
        assert inside in content
        content = content.replace(inside, outside)
    (disc / "DICOMDIR").write_bytes(content)
    results = run(disc / "DICOMDIR")
    assert Counter(outcomes(results)) == {"stored": 27, "failed": 4}
    assert {result.reason for result in results if result.reason} == {"the DICOMDIR names a file outside its folder"}
    assert CT_UID not in held(archive)


def test_links_missing_files_and_removed_records_of_a_dicomdir(run: Run, disc: Path, tmp_path: Path) -> None:
    shutil.move(disc / "98892003/MR1", tmp_path / "elsewhere")
    (disc / "98892003/MR1").symlink_to(tmp_path / "elsewhere")
    (disc / "77654033/CR1/6154").unlink()
    directory = dcmread(disc / "DICOMDIR")
    in_use = [record for record in directory.DirectoryRecordSequence if "ReferencedFileID" in record]
    removed = next(record for record in in_use if list(record.ReferencedFileID) == ["77654033", "CR2", "6247"])
    removed.RecordInUseFlag = 0
    directory.save_as(disc / "DICOMDIR")
    results = run(disc / "DICOMDIR")
    assert Counter(outcomes(results)) == {"stored": 26, "skipped": 3, "failed": 1}
    reasons = {result.reason for result in results if result.reason}
    assert reasons == {"a symbolic link, not followed", "the DICOMDIR names it, but it is not there"}


def test_a_dicomdir_cut_anywhere_is_no_crash(disc: Path) -> None:
    whole = (disc / "DICOMDIR").read_bytes()
    for length in range(0, len(whole), 97):
        (disc / "DICOMDIR").write_bytes(whole[:length])
        found = list(find_sources([disc / "DICOMDIR"]))
        assert len(found) <= 32
        assert found


# ---- many small files, which other processes write


@pytest.mark.parametrize("move", [False, True])
def test_results_come_in_the_order_of_the_sources(archive: Archive, run: Run, source: Path, move: bool) -> None:
    for number in range(150):
        rewritten(CT, source / f"{number:03d}.dcm", SOPInstanceUID=f"1.2.3.{number}")
    rewritten(CT, source / "020.dcm", SOPInstanceUID="1.2.3.20", PixelData=bytes(LARGEST))
    (source / "040.dcm").write_text("no image")
    shutil.copy(source / "059.dcm", source / "060.dcm")
    rewritten(CT, source / "080.dcm", SOPInstanceUID="1.2.3.79", PatientComments="another version")
    packed(source / "100.zip", {"a": CT.read_bytes(), "b": MR.read_bytes()})
    packed(source / "147.zip", {"c": SR.read_bytes()})
    expected = [found.name for found in find_sources([source])]
    results = run(source, move=move)
    assert [result.source for result in results] == expected
    odd = {Path(result.source).name: result.outcome for result in results if result.outcome != "stored"}
    assert odd == {"040.dcm": "skipped", "060.dcm": "duplicate", "080.dcm": "conflict"}
    assert len(held(archive)) == 150 - 3 + 3
    assert [finding.problem for finding in verify(archive.store)] == [""] * (150 - 2 + 3)
    assert sorted(path.name for path in source.iterdir() if move) == ["040.dcm", "100.zip", "147.zip"][: 3 * move]
    assert not list(archive.store.folders[0].incoming.path.iterdir())


@pytest.mark.parametrize("moment", [1, 60, 150, 250, 350])
def test_an_import_that_is_cancelled_leaves_nothing_behind(archive: Archive, source: Path, moment: int) -> None:
    for number in range(300):
        rewritten(CT, source / f"{number:03d}.dcm", SOPInstanceUID=f"1.2.3.{number}")
    calls = iter(range(moment))

    def watch() -> None:
        if next(calls, None) is None:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(import_paths(archive, [source], True, watch))
    archive.settler.wait()
    assert not list(archive.store.folders[0].incoming.path.iterdir())
    assert len(list(source.iterdir())) + len(held(archive)) >= 300
    assert set(outcomes(list(import_paths(archive, [source], True)))) <= {"stored", "duplicate"}
    assert not list(source.iterdir())
    assert len(held(archive)) == 300


def test_what_helpers_wrote_and_the_archive_does_not_take_is_said(
    archive: Archive, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        rewritten(CT, source / f"{number:03d}.dcm", SOPInstanceUID=f"1.2.3.{number}")
    make_folder = archive.store.make_folder

    def full(place: PurePosixPath) -> None:
        raise NoRoom("the storage volume is full")

    monkeypatch.setattr(archive.store, "make_folder", full)
    with pytest.raises(NoRoom):
        list(import_paths(archive, [source], True))
    assert not list(archive.store.folders[0].incoming.path.iterdir())
    monkeypatch.setattr(archive.store, "make_folder", make_folder)
    assert outcomes(list(import_paths(archive, [source], True))) == ["stored"] * 100


# ---- the archive in trouble


def test_a_full_storage_stops_the_import(archive: Archive, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(CT, source / "ct.dcm")
    monkeypatch.setattr(archive.store.folders[0], "free_bytes", lambda: (0, 1))
    with pytest.raises(NoRoom):
        list(import_paths(archive, [source]))
    monkeypatch.undo()
    assert outcomes(list(import_paths(archive, [source]))) == ["stored"]


def test_an_index_that_is_away_stops_nothing(archive: Archive, run: Run, tmp_path: Path) -> None:
    database = tmp_path / "index.sqlite"
    archive.close()
    database.rename(tmp_path / "away.sqlite")
    database.mkdir()
    assert outcomes(run(CT, MR)) == ["stored", "stored"]
    database.rmdir()
    (tmp_path / "away.sqlite").rename(database)
    archive.ready_index()
    assert CT_UID in held(archive)


def test_the_list_of_what_was_done_names_no_patient(archive: Archive, run: Run, source: Path) -> None:
    shutil.copy(CT, source / "ZHANG^SAN.dcm")
    run(source)
    with sqlite3.connect(archive.store.private / "imports.sqlite3") as database:
        rows = database.execute("SELECT key FROM source").fetchall()
    assert [len(key) for (key,) in rows] == [16]


def test_a_marker_that_is_no_marker_is_ignored(run: Run, source: Path) -> None:
    (source / ".angiovault").mkdir()
    (source / ".angiovault" / "archive.json").write_text(json.dumps(["no marker"]))
    shutil.copy(CT, source / "ct.dcm")
    assert outcomes(run(source, move=True)) == ["stored"]


def test_a_batch_that_cannot_be_kept_is_said_and_loses_no_source(
    archive: Archive, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of another AngioVault archive, of which one UID comes twice: the line is kept in between."""
    other = opened(tmp_path / "other")
    for number in range(3):
        rewritten(CT, source / f"{number}.dcm", SOPInstanceUID=f"1.2.3.{number}")
    assert Counter(outcomes(list(import_paths(other, [source])))) == {"stored": 3}
    files = [other.store.root / place for place in other.store.instance_files()]
    other.close()
    old = tmp_path / "old"
    old.mkdir()
    for number, path in enumerate([*files, files[0]]):
        shutil.copy(path, old / f"{number}.dcm")
    sync = Incoming.sync
    failures = iter([True])

    def fail_once(self: Incoming) -> None:
        if next(failures, False):
            raise StorageError("the disk is gone for a moment")
        sync(self)

    monkeypatch.setattr(Incoming, "sync", fail_once)
    with pytest.raises(StorageError, match="gone for a moment"):
        list(import_paths(archive, [old]))
    assert Counter(outcomes(list(import_paths(archive, [old])))) == {"stored": 3, "duplicate": 1}


# ---- large and small files in one line


def _mixed(source: Path) -> list[Path]:
    """A file that goes one by one, and behind it those that are written ahead."""
    large = rewritten(CT, source / "00.dcm", SOPInstanceUID="1.2.3.0", PixelData=bytes(2 * LARGEST))
    return [large, *(rewritten(CT, source / f"{n:02}.dcm", SOPInstanceUID=f"1.2.3.{n}") for n in range(1, 90))]


def test_what_cannot_be_made_durable_ends_the_import(
    archive: Archive, run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mixed(source)

    def full(_: Incoming) -> None:
        raise NoRoom("no room left on the storage volume")

    with monkeypatch.context() as patch:
        patch.setattr(Incoming, "sync", full)
        with pytest.raises(NoRoom):
            run(source)
    assert outcomes(run(source)) == ["stored"] * 90


def test_times_of_receipt_are_in_the_order_of_the_sources(archive: Archive, run: Run, source: Path) -> None:
    files = _mixed(source)
    run(source)
    found = held(archive)
    times = []
    for number in range(len(files)):
        with archive.store.path(found[f"1.2.3.{number}"].path).open("rb") as file:
            times.append(filemeta.read(file).received)
    assert times == sorted(times)


def test_what_is_settled_before_a_failure_is_said(
    archive: Archive, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mixed(source)
    outcome, asked = archive.settler.outcome, []

    def away(item: Sealed) -> str:
        asked.append(item)
        if len(asked) > 40:
            raise StorageError("the storage is away")
        return outcome(item)

    monkeypatch.setattr(archive.settler, "outcome", away)
    results: list[Imported] = []
    with pytest.raises(StorageError):
        results.extend(import_paths(archive, [source], True))
    assert len(results) == 40
    assert len(list(source.iterdir())) == 50


def test_without_processes_an_import_goes_on_alone(
    archive: Archive, run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mixed(source)

    def none_left(_: ForkProcess) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(ForkProcess, "start", none_left)
    assert outcomes(run(source)) == ["stored"] * 90
