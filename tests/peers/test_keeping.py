"""What is kept: one copy of the same bytes, versions of others, one study row, and an index that can be made anew."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage, generate_uid

from angiovault import phantom
from angiovault.archive.archive import CONFLICT, DUPLICATE, STORED, Archive
from angiovault.indexurl import IndexURL
from faults import instances
from harness.dcmtk import Peer, findscu, getscu, storescu
from harness.mariadb import MariaDB
from harness.service import Service
from harness.waiting import wait_until


def _counts(server: Service) -> dict[str, int]:
    counts: dict[str, int] = json.loads(server.cli("status", "--json", check=False).stdout)["counts"]
    return counts


def _complete(server: Service) -> None:
    """Wait until the index holds everything."""
    wait_until(lambda: server.cli("status", check=False).returncode == 0, "the index to be complete")


def _get(peer: Peer, uid: str, study: str, folder: Path) -> str:
    """Return the digest of what C-GET brings of one instance."""
    keys = ["QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study}", f"SeriesInstanceUID={study[:60]}.1"]
    received = getscu(peer, [*keys, f"SOPInstanceUID={uid}"], folder).ok().received
    assert received.keys() == {uid}
    return received[uid].sha256()


def test_the_same_bytes_are_one_copy_and_other_bytes_a_version(
    service: Callable[..., Service], index_url: str, tmp_path: Path
) -> None:
    server = service(index=index_url, unknown_devices="all")
    study, uid = generate_uid(), generate_uid()
    first, second, third = (
        instances.make(tmp_path / "sent", study=study, uid=uid, seed=seed, ImageComments=f"version {seed}")
        for seed in (1, 2, 3)
    )
    digest = [instances.digests([path])[uid] for path in (first, second, third)]
    assert storescu(server.peer, [first], "-xe").statuses == [0]
    kept = instances.tree(server.settled())
    assert storescu(server.peer, [first, first], "-xe").statuses == [0, 0]
    assert instances.tree(server.settled()) == kept
    assert _counts(server)["conflicts"] == 0

    # Other bytes under the same UID: taken, kept, said; the first stays current.
    assert storescu(server.peer, [second, third, second], "-xe").statuses == [0, 0, 0]
    tree = instances.tree(server.settled())
    assert len(tree) == 3
    assert kept.items() <= tree.items()
    counts = _counts(server)
    assert (counts["instances"], counts["versions"], counts["conflicts"]) == (1, 2, 1)
    assert "came from STORESCU" in server.log_text()
    assert "with other bytes than before" in server.log_text()
    assert _get(server.peer, uid, study, tmp_path / "get first") == digest[0]
    keys = ["QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study}", "SOPInstanceUID", "ImageComments"]
    found = findscu(server.peer, keys).ok().data_sets
    assert [str(data_set.ImageComments) for data_set in found] == ["version 1"]

    # An administrator chooses, by what the list of conflicts shows.
    lines = server.cli("conflicts").stdout.splitlines()
    assert lines[0] == uid
    assert [line.split()[0] == "current" for line in lines[1:]] == [True, False, False]
    content = lines[3].split()[0]
    assert server.cli("conflicts", "--choose", f"{uid}=0000", check=False).returncode == 1
    server.cli("conflicts", "--choose", f"{uid}={content}")
    assert _get(server.peer, uid, study, tmp_path / "get third") == digest[2]
    assert _counts(server)["bytes"] == third.stat().st_size - instances.part10.read(third).offset

    # The choice outlives the index, and can be taken back.
    server.cli("reindex")
    assert _get(server.peer, uid, study, tmp_path / "get after reindex") == digest[2]
    assert len(server.cli("conflicts").stdout.splitlines()) == 4
    server.cli("conflicts", "--choose", f"{uid}={lines[1].split()[1]}")
    assert _get(server.peer, uid, study, tmp_path / "get first again") == digest[0]
    assert instances.tree(server.settled()) == tree


def test_the_same_bytes_in_another_transfer_syntax_are_a_version(index_url: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", IndexURL.parse(index_url, tmp_path))
    archive.open()
    path = instances.make(tmp_path / "sent")
    uid, data_set = instances.part10.read(path).sop_instance_uid, instances.part10.read(path).data_set()

    def receive(syntax: str) -> str:
        with archive.receive(SecondaryCaptureImageStorage, uid, syntax, "SENDER") as reception:
            reception.write(data_set)
            return reception.finish().outcome

    assert receive(ExplicitVRLittleEndian) == STORED
    assert receive(RLELossless) == CONFLICT
    assert [receive(syntax) for syntax in (ExplicitVRLittleEndian, RLELossless)] == [DUPLICATE, DUPLICATE]
    archive.close()


@pytest.mark.parametrize("same", [True, False], ids=["the same bytes", "different bytes"])
def test_eight_associations_store_the_same_instance_at_once(
    service: Callable[..., Service], index_url: str, tmp_path: Path, same: bool
) -> None:
    server = service(index=index_url, unknown_devices="all")
    study, uids = generate_uid(), [generate_uid() for _ in range(6)]
    batches = [
        [instances.make(tmp_path / "sent", study=study, uid=uid, seed=1 if same else seed) for uid in uids]
        for seed in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda batch: storescu(server.peer, batch, "-xe"), batches))
    assert [result.statuses for result in results] == [[0] * 6] * 8
    counts = _counts(server)
    assert counts["instances"] == 6
    assert counts["versions"] == (0 if same else 6 * 7)
    assert counts["conflicts"] == (0 if same else 6)
    tree = instances.tree(server.settled())
    assert len(tree) == (6 if same else 48)
    assert not list((server.storage / ".angiovault" / "incoming").iterdir())

    # Which one was the first is settled for good: in the index as in one made anew.
    current = instances.given_back(server.peer, [study], tmp_path / "before")
    assert current.keys() == set(uids)
    server.cli("reindex")
    assert instances.given_back(server.peer, [study], tmp_path / "after") == current
    assert _counts(server) == counts


def test_a_study_with_two_patients_is_one_study_found_by_every_name(
    service: Callable[..., Service], index_url: str, tmp_path: Path
) -> None:
    server = service(index=index_url, unknown_devices="all")
    study = generate_uid()
    people = [("Right^Anna", "P-1"), ("Wrong^Berta", "P-2"), ("Right^Anne", "P-1")]
    for number, (name, patient_id) in enumerate(people):
        path = instances.make(tmp_path / "sent", study=study, name=name, patient_id=patient_id, number=number)
        storescu(server.peer, [path], "-xe").ok()

    def shown(*keys: str) -> list[tuple[str, str, int]]:
        wanted = ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "NumberOfStudyRelatedInstances"]
        names = {key.split("=")[0] for key in keys}
        wanted += [name for name in ("PatientName", "PatientID") if name not in names]
        found = findscu(server.peer, [*wanted, *keys]).ok().data_sets
        return [(str(one.PatientName), one.PatientID, int(one.NumberOfStudyRelatedInstances)) for one in found]

    def check() -> None:
        expected = [("Right^Anna", "P-1", 3)]
        assert shown() == expected
        for key in ("PatientName=right*", "PatientName=WRONG^BERTA", "PatientName=Right^Anne", "PatientID=P-2"):
            assert shown(key) == expected, key
        assert _counts(server)["studies_with_several_patients"] == 1
        assert _counts(server)["studies"] == 1

    check()
    server.cli("reindex")
    check()


# --- An index made anew ---------------------------------------------------------------------------------------------


def _send_a_mixed_archive(server: Service, folder: Path) -> list[str]:
    """Store the demo's studies, small, with conflicts and a study of two patients; return the Study UIDs."""
    data_sets = [data_set for _, study in phantom.demo_studies(scale=0.06) for data_set in study]
    paths = []
    folder.mkdir()
    for number, data_set in enumerate(data_sets):
        paths.append(folder / f"{number}.dcm")
        phantom.write(data_set, paths[-1])
    studies = list(dict.fromkeys(str(data_set.StudyInstanceUID) for data_set in data_sets))
    study, uid = generate_uid(), generate_uid()
    paths += [instances.make(folder, study=study, uid=uid, seed=seed, SeriesDescription=f"{seed}") for seed in (1, 2)]
    paths.append(instances.make(folder, study=study, name="Other^Person", patient_id="OTHER"))
    # Two senders at once for the first study, one by one for the rest.
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(lambda part: storescu(server.peer, part, "-xe"), (paths[0:20:2], paths[1:20:2])):
            assert set(result.statuses) == {0}
    assert set(storescu(server.peer, paths[20:], "-xe").statuses) == {0}
    return [*studies, study]


_KEYS = {
    "PATIENT": "PatientName PatientID PatientBirthDate PatientSex NumberOfPatientRelatedStudies "
    "NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances",
    "STUDY": "PatientName PatientID StudyInstanceUID StudyDate StudyTime StudyDescription AccessionNumber "
    "ReferringPhysicianName ModalitiesInStudy NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances",
    "SERIES": "StudyInstanceUID SeriesInstanceUID Modality SeriesNumber SeriesDescription PerformingPhysicianName "
    "ProtocolName NumberOfSeriesRelatedInstances",
    "IMAGE": "StudyInstanceUID SeriesInstanceUID SOPInstanceUID SOPClassUID InstanceNumber NumberOfFrames Rows",
}


def _answers(peer: Peer) -> dict[str, list[str]]:
    """Return all that C-FIND answers at every level, sorted."""
    out = {}
    for level, keywords in _KEYS.items():
        result = findscu(peer, [f"QueryRetrieveLevel={level}", *keywords.split()], model="-P").ok()
        assert result.final.status == 0
        out[level] = sorted(data_set.to_json() for data_set in result.data_sets)
        assert out[level]
    return out


def test_an_index_made_anew_gives_identical_answers(
    service: Callable[..., Service], index_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = service(index=index_url, unknown_devices="all")
    studies = _send_a_mixed_archive(server, tmp_path / "sent")
    counts, answers = _counts(server), _answers(server.peer)
    back = instances.given_back(server.peer, studies, tmp_path / "back")
    tree = instances.tree(server.settled())
    assert counts["conflicts"] == counts["studies_with_several_patients"] == 1

    # By the command, while the service runs.
    done = server.cli("reindex")
    assert done.stdout.endswith(f"{len(tree)} instances indexed\n")
    assert (_counts(server), _answers(server.peer)) == (counts, answers)

    # By the service itself, when it finds its index gone: at its start, and on MariaDB also while it runs.
    if index_url.startswith("mysql"):
        mariadb: MariaDB = request.getfixturevalue("mariadb")
        name = str(urlsplit(index_url).username)
        mariadb.execute(f"DROP DATABASE {name}")
        mariadb.execute(f"CREATE DATABASE {name}")
        path = instances.make(tmp_path / "sent", study=studies[-1], number=9)
        assert storescu(server.peer, [path], "-xe").statuses == [0]
        _complete(server)
        assert path.name[:64].split("-")[0] in instances.found(server.peer, studies[-1:])
        counts, answers = _counts(server), _answers(server.peer)
        back = instances.given_back(server.peer, studies, tmp_path / "back now")
        mariadb.execute(f"DROP DATABASE {name}")
        mariadb.execute(f"CREATE DATABASE {name}")
        server.stop()
    else:
        server.stop()
        index = Path(index_url.removeprefix("sqlite:///"))
        index.unlink()
    server.start()
    _complete(server)
    assert (_counts(server), _answers(server.peer)) == (counts, answers)
    assert instances.given_back(server.peer, studies, tmp_path / "back again") == back
    assert "is rebuilt from the files" in server.log_text()


def test_status_does_not_make_an_index(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    path = instances.make(tmp_path / "sent", study=(study := generate_uid()))
    storescu(server.peer, [path], "-xe").ok()
    server.stop()
    index = server.folder / "archive.index.sqlite3"
    index.unlink()
    status = server.cli("status", check=False)
    assert status.returncode == 1
    assert "is missing or of an older version" in status.stdout
    assert not index.exists()
    server.start()
    _complete(server)
    assert len(instances.found(server.peer, [study])) == 1


def test_nothing_is_lost_while_the_index_is_rebuilt(service: Callable[..., Service], tmp_path: Path) -> None:
    """What is stored while another process rebuilds waits in the journal; queries are not answered incompletely."""
    server = service(unknown_devices="all")
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(20)]
    storescu(server.peer, paths[:10], "-xe").ok()
    # The rebuild stands still when it has emptied the index, until it is told to go on.
    script = (
        "import sys\n"
        "from angiovault.archive.index import Index\n"
        "clear = Index.clear\n"
        "def stand_still(self):\n"
        "    clear(self)\n"
        "    print('emptied', flush=True)\n"
        "    sys.stdin.readline()\n"
        "Index.clear = stand_still\n"
        "from angiovault import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    index = server.folder / "archive.index.sqlite3"
    command = [sys.executable, "-c", script, "reindex", "--storage", server.storage, "--index", f"sqlite:///{index}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as rebuild:
        assert rebuild.stdin
        assert rebuild.stdout
        assert rebuild.stdout.readline() == "emptied\n"
        assert storescu(server.peer, paths[10:], "-xe").statuses == [0] * 10
        keys = ["QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study}", "SOPInstanceUID"]
        assert findscu(server.peer, keys).statuses == [0xA700]
        assert "being rebuilt from the files" in server.log_text()
        second = server.cli("reindex", check=False)
        assert second.returncode == 1
        assert "is being rebuilt already" in second.stderr
        rebuild.stdin.write("go on\n")
        rebuild.stdin.close()
        assert rebuild.wait(30) == 0
    _complete(server)
    assert instances.found(server.peer, [study]) == set(instances.digests(paths))


# --- Several processes at once --------------------------------------------------------------------------------------


def test_one_study_comes_in_three_processes_at_once(
    service: Callable[..., Service], index_url: str, tmp_path: Path
) -> None:
    server = service(index=index_url, unknown_devices="all")
    study = generate_uid()
    parts = []
    for part, modality in enumerate(("XA", "OT", "SR")):
        folder = tmp_path / f"part{part}"
        for number in range(40):
            # Three series, to each of which all three processes add.
            series = f"{study[:58]}.{number % 3 + 1}"
            instances.make(folder, study=study, series=series, number=number, Modality=modality)
        parts.append(folder)
    sent = instances.digests(path for folder in parts for path in folder.iterdir())
    with ThreadPoolExecutor(3) as pool:
        imports = [pool.submit(server.cli, "import", folder) for folder in parts[:2]]
        stored = pool.submit(storescu, server.peer, sorted(parts[2].iterdir()), "-xe").result()
        assert [done.result().stdout for done in imports] == ["40 stored\n"] * 2
    assert stored.statuses == [0] * 40
    _complete(server)
    keywords = "ModalitiesInStudy NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances StudyInstanceUID"
    (found,) = findscu(server.peer, ["QueryRetrieveLevel=STUDY", *keywords.split()]).ok().data_sets
    assert set(_values(found.ModalitiesInStudy)) == {"XA", "OT", "SR"}
    assert (found.NumberOfStudyRelatedSeries, found.NumberOfStudyRelatedInstances) == (3, 120)
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def _values(value: object) -> Iterable[object]:
    return [value] if isinstance(value, str) else value  # type: ignore[return-value]


# --- Rot ------------------------------------------------------------------------------------------------------------


def test_verify_finds_rot_without_a_database(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(4)]
    storescu(server.peer, paths, "-xe").ok()
    server.stop()
    (server.folder / "archive.index.sqlite3").rename(tmp_path / "index put away")
    pixels, head, cut, sound = sorted(server.settled().rglob("*.dcm"))
    _flip(pixels, -100)
    _flip(head, head.read_bytes().index(b"1.2.840.10008.1.2.1\0") + 18)  # the transfer syntax becomes another one
    os.truncate(cut, cut.stat().st_size - 2)
    done = server.cli("verify", check=False)
    assert done.returncode == 3
    output = done.stdout + done.stderr
    for path in (pixels, head, cut):
        assert f"damaged: {path.relative_to(server.storage)}: " in output
    assert str(sound.relative_to(server.storage)) not in output
    assert "1 files are sound, 3 damaged" in output


def test_the_scheduled_check_finds_rot_and_status_says_so(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all", config="[archive]\nverify-every-days = 1\n")
    paths = [instances.make(tmp_path / "sent", study=generate_uid()) for _ in range(2)]
    storescu(server.peer, paths, "-xe").ok()
    server.stop()
    state = server.storage / ".angiovault" / "check.json"
    state.unlink(missing_ok=True)
    rotten, _ = sorted(server.settled().rglob("*.dcm"))
    _flip(rotten, -100)
    server.start()
    wait_until(lambda: state.exists() and json.loads(state.read_text())["finished"], "the check to be through")
    place = str(rotten.relative_to(server.storage))
    assert f"scheduled check: {place} is damaged" in server.log_text()
    status = server.cli("status", check=False)
    assert status.returncode == 1
    assert "1 stored files are damaged" in status.stdout

    # A day later the next round begins; until it has come to the file, that one stays reported.
    server.stop()
    known = json.loads(state.read_text())
    state.write_text(json.dumps(known | {"began": known["began"] - 90000}))
    _flip(rotten, -100)
    server.start()
    wait_until(lambda: json.loads(state.read_text())["began"] > known["began"], "the next round to be through")
    assert json.loads(state.read_text())["damaged"] == []
    assert server.cli("status").returncode == 0


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("missing", [False, True], ids=["damaged", "missing"])
def test_a_lost_file_is_made_good_by_sending_it_again(
    service: Callable[..., Service], tmp_path: Path, missing: bool
) -> None:
    server = service(unknown_devices="all")
    path = instances.make(tmp_path / "sent", study=(study := generate_uid()))
    sent = instances.digests([path])
    storescu(server.peer, [path], "-xe").ok()
    (stored,) = server.settled().rglob("*.dcm")
    place = stored.relative_to(server.storage)
    if missing:
        stored.unlink()
    else:
        os.truncate(stored, 1000)
    keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"]
    result = getscu(server.peer, keys, tmp_path / "nothing")
    assert result.received == {}
    assert result.final.status in (0xA702, 0xB000)
    done = server.cli("verify", check=False)
    assert done.returncode == 3
    assert f"{'missing' if missing else 'damaged'}: {place}" in done.stdout + done.stderr
    assert storescu(server.peer, [path], "-xe").statuses == [0]
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")
    damaged = stored.with_suffix(".damaged")
    assert missing != damaged.exists()


# --- The folder tree ------------------------------------------------------------------------------------------------


def test_the_tree_is_readable_and_hostile_names_do_not_leave_it(
    service: Callable[..., Service], tmp_path: Path
) -> None:
    server = service(unknown_devices="all")
    hostile = ["../../../../etc/passwd", "..", "~root/.ssh", "a/b\\c", "-rf", "CON", "#recycle", "@eaDir", "龘" * 60]
    paths = []
    for name in hostile:
        more = {"SeriesDescription": name[:64], "StudyDate": "20240312"}
        paths.append(instances.make(tmp_path / "sent", name=name[:64], patient_id=name[:60], **more))
    paths.append(instances.make(tmp_path / "sent", name="Zhang^San=张^三", SeriesDescription="左冠 LCA", Modality="XA"))
    before = {path for path in tmp_path.rglob("*") if server.storage not in path.parents}
    assert storescu(server.peer, paths, "-xe").statuses == [0] * len(paths)
    kept = list(server.settled().rglob("*.dcm"))
    assert {path for path in tmp_path.rglob("*") if server.storage not in path.parents} - before == set()
    assert len(kept) == len(paths)
    for path in kept:
        assert all(len(part.encode()) <= 143 for part in path.relative_to(server.storage).parts)
        assert str(path.relative_to(server.storage)).startswith("2024/2024-03/2024-03-12_")
    assert [path for path in kept if "2024-03-12_Zhang^San_K-1_" in str(path) and "/001_XA_左冠_LCA_" in str(path)]
    server.cli("reindex")
    assert _counts(server)["instances"] == len(paths)


def test_the_index_is_not_only_right_but_small(service: Callable[..., Service], tmp_path: Path) -> None:
    """The write-ahead log is folded in again and again, and is gone when the service has stopped."""
    server = service(unknown_devices="all")
    paths = [instances.make(tmp_path / "sent", number=number) for number in range(150)]
    assert storescu(server.peer, paths, "-xe").statuses == [0] * 150
    log = server.folder / "archive.index.sqlite3-wal"
    assert log.stat().st_size < 16 << 20
    server.stop()
    assert not log.exists()
    with sqlite3.connect(server.folder / "archive.index.sqlite3") as index:
        assert index.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    index.close()
