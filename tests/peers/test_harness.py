"""The harness itself: the real servers start, talk to each other and end, and what it reads from them is right."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from harness import part10
from harness.dcmtk import Peer, StoreSCP, echoscu, findscu, getscu, movescu, prefer, storescu
from harness.mariadb import MariaDB
from harness.orthanc import Orthanc
from harness.processes import free_port

# Computed Tomography, Explicit VR Little Endian; part of pydicom's package.
CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))
CT_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
CT_STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"


def test_part10_reads_the_bytes_on_disk() -> None:
    instance = part10.read(CT)
    raw = CT.read_bytes()
    assert instance.sop_instance_uid == CT_UID
    assert instance.transfer_syntax == ExplicitVRLittleEndian
    # The first element of this data set is (0008,0005) Specific Character Set.
    assert instance.data_set()[:6] == b"\x08\x00\x05\x00CS"
    assert raw.endswith(instance.data_set())
    assert len(raw) == instance.offset + len(instance.data_set())


def test_part10_refuses_what_is_no_part10_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("no DICOM " * 40)
    with pytest.raises(ValueError, match="no Part 10 file"):
        part10.read(path)
    assert part10.collect(tmp_path) == {}


def test_storescu_to_storescp(receiver: Callable[..., StoreSCP]) -> None:
    scp = receiver()
    echoscu(scp.peer).ok()
    result = storescu(scp.peer, [CT], "-xe").ok()
    assert result.statuses == [0]
    assert result.final.kind == "C-STORE RSP"
    assert result.rejected is None
    received = scp.received()[CT_UID]
    assert received.transfer_syntax == ExplicitVRLittleEndian
    # storescu leaves out the trailing padding of this file; what it sent once, it sends unchanged a second time.
    second = receiver("SECOND")
    storescu(second.peer, [received.path], "-xe").ok()
    assert second.received()[CT_UID].sha256() == received.sha256()


def test_a_receiver_may_be_narrowed_to_one_transfer_syntax(receiver: Callable[..., StoreSCP]) -> None:
    scp = receiver(options=["+xi"])
    storescu(scp.peer, [CT]).ok()
    assert scp.received()[CT_UID].transfer_syntax == ImplicitVRLittleEndian


def test_a_rejected_association_is_told_from_a_failed_one(receiver: Callable[..., StoreSCP]) -> None:
    nobody = Peer("127.0.0.1", free_port(), "NOBODY")
    failed = echoscu(nobody)
    assert failed.returncode != 0
    assert failed.rejected is None
    refuser = receiver("REFUSER", options=["--refuse"])
    assert echoscu(refuser.peer).rejected == ("Rejected Permanent", "No Reason")


def test_orthanc_is_queried_and_gives_back(
    orthanc: Callable[..., Orthanc], receiver: Callable[..., StoreSCP], tmp_path: Path
) -> None:
    scp = receiver("DEST")
    server = orthanc(modalities={"dest": scp.peer})
    identifier = server.upload(CT)
    assert server.get(f"/instances/{identifier}")["MainDicomTags"]["SOPInstanceUID"] == CT_UID

    found = findscu(
        server.peer, ["QueryRetrieveLevel=STUDY", "PatientName=CompressedSamples*", "StudyInstanceUID"]
    ).ok()
    assert found.statuses == [0xFF00, 0]
    assert [item.StudyInstanceUID for item in found.data_sets] == [CT_STUDY]

    keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={CT_STUDY}"]
    moved = movescu(server.peer, "DEST", keys).ok()
    assert moved.final.status == 0
    assert moved.final.count("Completed") == 1
    assert moved.final.count("Failed") == 0
    assert list(scp.received()) == [CT_UID]

    got = getscu(server.peer, keys, tmp_path / "got", prefer(ExplicitVRLittleEndian)).ok()
    assert got.final.kind == "C-GET RSP"
    assert got.received[CT_UID].transfer_syntax == ExplicitVRLittleEndian


def test_orthanc_sends(orthanc: Callable[..., Orthanc], receiver: Callable[..., StoreSCP]) -> None:
    server = orthanc()
    scp = receiver()
    server.add_modality("late", scp.peer)
    assert server.send("late", server.upload(CT))["FailedInstancesCount"] == 0
    assert list(scp.received()) == [CT_UID]


@pytest.mark.mariadb
def test_mariadb_keeps_what_was_committed_when_killed(mariadb: MariaDB) -> None:
    url = mariadb.database()
    name = url.rsplit("/", 1)[0].split("@")[0].split("//")[1].split(":")[0]
    mariadb.execute("CREATE TABLE kept (a INT) ENGINE=InnoDB", database=name)
    mariadb.execute("INSERT INTO kept VALUES (42)", database=name)
    mariadb.kill()
    with pytest.raises(pymysql.OperationalError):
        mariadb.execute("SELECT 1")
    mariadb.start()
    assert mariadb.execute("SELECT a FROM kept", database=name) == ((42,),)
    mariadb.stop()
    assert not mariadb.running


@pytest.mark.mariadb
def test_mariadb_listens_on_its_socket_only(mariadb: MariaDB) -> None:
    assert mariadb.execute("SELECT @@skip_networking") == ((1,),)
    (row,) = mariadb.execute("SELECT @@version")
    assert str(row[0]).startswith("10.")


def test_index_url_is_a_new_index_for_each_test(index_url: str) -> None:
    assert index_url.startswith(("sqlite:////", "mysql://av_"))


def test_a_server_that_dies_by_itself_is_noticed(receiver: Callable[..., StoreSCP]) -> None:
    scp = receiver()
    os.kill(scp.pid, signal.SIGKILL)
    scp.background.process.wait()
    with pytest.raises(AssertionError, match="exit code -9"):
        scp.stop()


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path, receiver: Callable[..., StoreSCP]) -> None:
    scp = StoreSCP(tmp_path / "bad", options=["--no-such-option"])
    with pytest.raises(AssertionError, match="no-such-option"):
        scp.start()
