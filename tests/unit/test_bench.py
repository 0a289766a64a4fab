"""The bench: its data, its sink, the order of its runs and its table; the peers themselves are not run here."""

import fnmatch
import hashlib
import os
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import encode

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench import chart, data, large, report, rows, sink, targets
from bench.__main__ import choose, main
from bench.plan import plan as planned
from bench.sides import Side, SinkServer
from harness.dcmtk import Peer
from harness.waiting import wait_until

# ---- the data


def test_data_are_valid_studies_of_distinct_instances(tmp_path: Path) -> None:
    studies = data.studies(tmp_path, data.MR, 2, 3)
    assert [len(study.paths) for study in studies] == [3, 3]
    heads = [[pydicom.dcmread(path) for path in study.paths] for study in studies]
    for study, images in zip(studies, heads, strict=True):
        assert {image.StudyInstanceUID for image in images} == {study.uid}
        assert {image.SeriesInstanceUID for image in images} == {study.series_uid}
        assert {len(image.PixelData) for image in images} == {128 * 128 * 2} == {data.MR.pixel_bytes}
        assert all(image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID for image in images)
    assert len({image.SOPInstanceUID for images in heads for image in images}) == 6
    assert heads[0][0].PatientID != heads[1][0].PatientID


def test_multi_frame_runs_have_their_frames(tmp_path: Path) -> None:
    (study,) = data.studies(tmp_path, data.XA, 1, 1)
    run = pydicom.dcmread(study.paths[0])
    assert (run.NumberOfFrames, run.Rows, run.Columns) == (10, 1024, 1024)
    assert len(run.PixelData) == 10 * 1024 * 1024 * 2


def test_data_are_made_once_and_whole(tmp_path: Path) -> None:
    (study,) = data.studies(tmp_path, data.TINY, 1, 2)
    folder = study.paths[0].parents[1]
    before = [path.stat().st_ino for path in study.paths]
    assert data.studies(tmp_path, data.TINY, 1, 2) == (study,)
    assert [path.stat().st_ino for path in study.paths] == before
    # What a run that was cut off has left is not taken for data.
    folder.rename(folder.with_name(folder.name + ".unfinished"))
    (folder.with_name(folder.name + ".unfinished") / "0000" / "0001.dcm").unlink()
    (again,) = data.studies(tmp_path, data.TINY, 1, 2)
    assert all(path.exists() for path in again.paths)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


# ---- the sink


def _store(peer: Peer, images: Sequence[pydicom.FileDataset]) -> None:
    entity = AE("BENCH")
    for image in images:
        entity.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title)
    assert association.is_established
    try:
        assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
    finally:
        association.release()
    assert association.is_released


def _images(cache: Path) -> list[pydicom.FileDataset]:
    kinds = ((data.TINY, 2), (data.CT, 2))  # one fits into a PDU, the other does not
    return [pydicom.dcmread(path) for kind, count in kinds for path in data.studies(cache, kind, 1, count)[0].paths]


@pytest.mark.parametrize("hashing", [False, True])
def test_the_sink_keeps_every_data_set_byte_for_byte(hashing: bool, tmp_path: Path) -> None:
    images = _images(tmp_path / "data")
    folder = tmp_path / "sink"
    folder.mkdir()
    with SinkServer(folder, hashing=hashing) as server:
        _store(server.peer, images)
        _store(server.peer, images[:1])  # a second association
    kept = sorted(path.read_bytes() for path in (folder / "storage").iterdir())
    sent = [encode(image, False, True) or b"" for image in [*images, images[0]]]
    assert kept == sorted(one + (hashlib.sha256(one).digest() if hashing else b"") for one in sent)


def test_a_sink_that_keeps_nothing_counts_what_came(tmp_path: Path) -> None:
    images = _images(tmp_path / "data")
    folder = tmp_path / "sink"
    folder.mkdir()
    with SinkServer(folder, keeping=False) as server:
        _store(server.peer, images)
        wait_until(server.taken, "the association to be counted")
        sizes = [len(encode(image, False, True) or b"") for image in images]
        assert server.taken() == [(len(images), sum(sizes))]
    assert list((folder / "storage").iterdir()) == []


class _InThisProcess(socketserver.ThreadingTCPServer):
    folder: Path


@contextmanager
def _sink_in_this_process(folder: Path) -> Iterator[Peer]:
    folder.mkdir()
    with _InThisProcess(("127.0.0.1", 0), sink.Association) as server:
        server.folder = folder
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Peer("127.0.0.1", server.server_address[1], "SINK")
        finally:
            server.shutdown()
            thread.join()


def test_the_sink_syncs_file_and_folder_before_each_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, success = os.fsync, sink.success

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir() else "file")

    def noted_success(command: bytes, context: int) -> bytes:
        events.append("success")
        return success(command, context)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(sink, "success", noted_success)
    images = _images(tmp_path / "data")
    with _sink_in_this_process(tmp_path / "sink") as peer:
        _store(peer, images)
    assert events == ["file", "folder", "success"] * len(images)


# ---- the runs


class _Idle:
    """A server that does nothing but say that it was started, and on what."""

    peer = Peer("127.0.0.1", 0, "NOBODY")

    def __init__(self, name: str, folder: Path, log: list[str]) -> None:
        assert list(folder.iterdir()) == []
        (folder / "left behind").write_text("")
        log.append(name)

    def __enter__(self) -> "_Idle":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _sides(log: list[str]) -> list[Side]:
    return [
        Side("one", "", lambda folder: _Idle("one", folder, log)),
        Side("two", "", lambda folder: _Idle("two", folder, log), takes_several=False),
        Side("three", "", lambda folder: _Idle("three", folder, log), answers_queries=False),
    ]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What `send` was given: for each call, the files in each association. What was sent is always found."""
    calls: list[list[int]] = []
    monkeypatch.setattr(rows, "require_found", lambda peer, studies: None)

    def send(peer: Peer, *groups: Sequence[Path]) -> rows.Sample:
        calls.append([len(group) for group in groups])
        return rows.Sample(sum(calls[-1]), 1000, 1.0)

    monkeypatch.setattr(rows, "send", send)
    return calls


def _workshop(tmp_path: Path) -> rows.Workshop:
    (tmp_path / "run").mkdir()
    return rows.Workshop(tmp_path, tmp_path / "run", SinkServer(tmp_path))


def test_every_run_has_fresh_storage_and_another_side_goes_first(tmp_path: Path, sent: list[list[int]]) -> None:
    log: list[str] = []
    samples = rows.Receive(data.TINY, 1, 3).measure(_sides(log), 3, _workshop(tmp_path))
    assert log == ["one", "two", "three", "two", "three", "one", "three", "one", "two"]
    assert {name: len(runs) for name, runs in samples.items()} == {"one": 3, "two": 3, "three": 3}
    assert sent == [[3]] * 9


@pytest.mark.skipif(not (shutil.which("chattr") and shutil.which("lsattr")), reason="the tools of ext4 are not there")
def test_folders_of_runs_are_spread_where_the_file_system_can(tmp_path: Path) -> None:
    ours, reference = tmp_path / "ours", tmp_path / "reference"
    ours.mkdir()
    reference.mkdir()
    subprocess.run(["chattr", "+T", reference], check=False)  # on ext4 it can
    rows.spread(ours)
    assert _flags(ours) == _flags(reference)


def test_a_file_system_that_cannot_spread_folders_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    rows.spread(Path("/proc"))
    monkeypatch.setenv("PATH", "")
    rows.spread(Path("/proc"))


def _flags(folder: Path) -> str:
    """Return the flags that ext4 has for a folder, '' on another file system."""
    listed = subprocess.run(["lsattr", "-d", folder], capture_output=True, text=True, check=False)
    return listed.stdout.partition(" ")[0]


def test_several_associations_at_once_go_only_to_sides_that_take_them(tmp_path: Path, sent: list[list[int]]) -> None:
    samples = rows.Receive(data.TINY, 2, 3).measure(_sides([]), 1, _workshop(tmp_path))
    assert set(samples) == {"one", "three"}
    assert sent == [[3, 3]] * 2


def test_what_was_taken_must_be_found(tmp_path: Path, sent: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_found(peer: Peer, studies: Sequence[data.Study]) -> None:
        raise rows.ProgramFailed(f"{peer} finds nothing of {len(studies)} studies")

    monkeypatch.setattr(rows, "require_found", nothing_found)
    one, _, three = _sides([])
    row = rows.Receive(data.TINY, 1, 1)
    assert set(row.measure([three], 1, _workshop(tmp_path))) == {"three"}  # it cannot be asked
    with pytest.raises(rows.ProgramFailed, match="finds nothing of 1 studies"):
        row.measure([one], 1, rows.Workshop(tmp_path, tmp_path / "run", SinkServer(tmp_path)))


class _Asking(rows._Reading):
    kind, studies, instances, name = data.TINY, 3, 1, "asking"

    def run(self, peer: Peer, studies: Sequence[data.Study], workshop: rows.Workshop) -> rows.Sample:
        return rows.Sample(len(studies), 0, 1.0)


def test_sides_without_queries_are_left_out_and_limits_are_kept(tmp_path: Path, sent: list[list[int]]) -> None:
    one, two, three = _sides([])
    limited = Side("limited", "", three.make, most_studies=2)
    enough = Side("enough", "", three.make, most_studies=3)
    sides = [one, two, three, limited, enough]
    samples = _Asking().measure(sides, 2, _workshop(tmp_path))
    assert {name: len(runs) for name, runs in samples.items()} == {"one": 2, "two": 2, "enough": 2}
    assert sent == [[3], [3], [3]]
    assert report.left_out([(_Asking(), samples)], sides).splitlines() == [
        "* three has no part in asking: it gives nothing back",
        "* limited has no part in asking: it keeps 2 studies at most",
    ]


def test_programs_run_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Neither of the two ends without the other.
    assert rows.timed([["sh", "-c", f"cat {pipe}"], ["sh", "-c", f"echo word >{pipe}"]]) > 0


def test_a_program_that_fails_stops_the_bench_and_is_quoted() -> None:
    with pytest.raises(rows.ProgramFailed, match=r"sh exited with 3:\nno luck"):
        rows.timed([["sh", "-c", "true"], ["sh", "-c", "echo no luck; exit 3"]])


def test_a_time_ends_when_what_was_received_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incoming = tmp_path / ".angiovault" / "incoming"
    incoming.mkdir(parents=True)
    left = [incoming / str(number) for number in range(3)]
    for path in left:
        path.touch()
    monkeypatch.setattr(time, "sleep", lambda _: left.pop().unlink())
    assert rows.seconds_until_settled(tmp_path) > 0
    assert not left


# ---- rows and table


def test_rows_are_chosen_by_name() -> None:
    plan = planned(quick=False)
    assert len({row.name for row in plan}) == len(plan)
    assert [row.name for row in planned(quick=True)] == [row.name for row in plan]
    assert [row.name for row in choose(plan, ["find", "receive-*"])] == [
        "receive-xa",
        "receive-ct",
        "receive-mr",
        "find",
    ]
    with pytest.raises(ValueError, match="no row is called nothing; there are: receive-xa, "):
        choose(plan, ["find", "nothing"])


def test_a_wrong_row_ends_the_bench_before_it_begins(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "nothing", "--folder", str(tmp_path / "unused")])
    assert "no row is called nothing" in capsys.readouterr().err
    assert not (tmp_path / "unused").exists()


def test_the_table_shows_medians_and_ratios() -> None:
    sides = [
        Side("AngioVault", "", lambda _: None, ours=True),  # type: ignore[arg-type,return-value]
        Side("Orthanc", "", lambda _: None),  # type: ignore[arg-type,return-value]
        Side("sink", "", lambda _: None, answers_queries=False),  # type: ignore[arg-type,return-value]
    ]
    receive = rows.Receive(data.XA, 1, 12)
    size = 240_000_000
    received = {
        "AngioVault": [rows.Sample(12, size, seconds) for seconds in (0.5, 90.0, 1.0)],
        "Orthanc": [rows.Sample(12, size, seconds) for seconds in (3.0, 2.0, 1.0)],
        "sink": [rows.Sample(12, size, 0.8)],
    }
    found = {"AngioVault": [rows.Sample(5000, 0, 0.5)], "Orthanc": [rows.Sample(5000, 0, 1.0)]}
    results = [(receive, received), (rows.Find(1000), found)]
    assert report.table(results, sides).splitlines() == [
        "| work | AngioVault | Orthanc | sink |",
        "| --- | ---: | ---: | ---: |",
        "| receive XA runs 1024²×10, one association | 240 MB/s (12.0/s) | 120 MB/s (6.0/s) | 300 MB/s (15.0/s) |",
        "| C-FIND, 1,000 matching studies | 10,000/s | 5,000/s | – |",
    ]
    judged = [verdict for row, samples in results for verdict in targets.verdicts(row, samples, sides)]
    # dcmqrscp had no part, and is not judged against.
    assert report.judged(judged).splitlines() == [
        "| work | target | AngioVault |",
        "| --- | --- | --- |",
        "| receive XA runs 1024²×10, one association | ≥ 3 × Orthanc | 2 **falls short** |",
        "| receive XA runs 1024²×10, one association | ≥ 0.85 × sink | 0.80 **falls short** |",
        "| C-FIND, 1,000 matching studies | ≥ 2 × Orthanc | 2 pass |",
    ]
    assert [round(verdict.score, 2) for verdict in judged] == [0.67, 0.94, 1.0]
    picture = ElementTree.fromstring(chart.chart(judged))
    assert sum(element.get("fill") == "#c62828" for element in picture) == 2
    assert sum(element.get("fill") == "#2e7d32" for element in picture) == 1
    large_figure = chart.chart([replace(judged[0], value=2003.4)])
    assert "2,003  AngioVault" in large_figure


def test_limits_are_judged_by_the_quantity_itself() -> None:
    row = next(row for row in planned(quick=True) if row.name == "start")
    sides = [Side("AngioVault", "", lambda _: None, ours=True)]  # type: ignore[arg-type,return-value]
    for seconds, reached in ((0.99, True), (1.01, False)):
        samples = {"AngioVault": [rows.Reading({targets.READY: seconds})] * 3}
        (verdict,) = targets.verdicts(row, samples, sides)
        assert (verdict.value, verdict.reached) == (seconds, reached)
        assert (verdict.score >= 1) is reached


def test_every_target_is_one_of_a_row() -> None:
    names = [row.name for row in (*planned(quick=False), *large.plan({}))]
    for target in targets.TARGETS:
        assert fnmatch.filter(names, target.rows), target
