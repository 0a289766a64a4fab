"""Between the acknowledgement and the settling: stopped anywhere, nothing is lost, and every query finds it."""

import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from faults import instances
from faults.power_cut import PowerCut
from harness.dcmtk import storescu
from harness.mariadb import MariaDB
from harness.service import Service
from harness.waiting import wait_until

# Loaded by the service before anything else: it is killed at a step of the settler.
_KILLED_AT = """
import os, signal
from angiovault.archive import settling
from angiovault.archive.archive import Archive
from angiovault.archive.settling import Settler
from angiovault.archive.store import Store

def killed_at(owner, name, skip=0, after=False):
    function, left = getattr(owner, name), [skip]
    def replaced(*args):
        done = function(*args) if after or left[0] else None
        if left[0] == 0:
            os.killpg(0, signal.SIGKILL)  # whichever process it is
        left[0] -= 1
        return done
    setattr(owner, name, replaced)

settling._TOGETHER = 10  # so that each process has several batches
killed_at({step})
"""
_STEPS = {
    "before anything": 'Settler, "_settle"',
    "second batch": 'Settler, "_settle", 1',
    "some linked": 'Store, "link", 3',
    "all linked": 'Store, "sync"',
    "in their places": 'Store, "sync", 0, True',
    "indexed": 'Archive, "index_together", 0, True',
    "all done": 'Settler, "_settle", 0, True',
}


def _patched(folder: Path, text: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("power_cut", [False, True], ids=["SIGKILL", "power cut"])
@pytest.mark.parametrize("step", _STEPS)
def test_stopped_at_every_step(step: str, power_cut: bool, tmp_path: Path) -> None:
    place = tmp_path / "before"
    place.mkdir()
    env = _patched(tmp_path / "patch", _KILLED_AT.format(step=_STEPS[step]))
    cut = PowerCut(tmp_path / "layer")
    if power_cut:
        cut.sync_all(place)
        env |= cut.env
    studies = [generate_uid() for _ in range(3)]
    batches = [
        [instances.make(tmp_path / "sent", study=study, number=number) for number in range(30)] for study in studies
    ]
    batches[1].append(batches[0][0])  # the same instance on two associations
    sent = instances.digests(path for batch in batches for path in batch)
    server = Service(place, unknown_devices="all", env=env).start()
    with ThreadPoolExecutor(len(batches)) as pool:
        results = list(pool.map(lambda batch: storescu(server.peer, batch, "-xe"), batches))
    wait_until(lambda: not server.running, "the service to be killed")
    server.kill()
    acked = set.union(*map(instances.acknowledged, results))
    assert acked
    if power_cut:
        place = tmp_path / "after"
        cut.leave(tmp_path / "before", place, random.Random(step))
    with Service(place, unknown_devices="all") as server:
        instances.assert_kept(server.peer, studies, acked, sent, tmp_path / "back")
        assert not list((server.storage / ".angiovault" / "incoming").iterdir())
        assert "rebuilt" not in server.log_text()
        assert server.cli("verify").stdout.endswith("0 damaged, 0 missing\n")
        assert {status for batch in batches for status in storescu(server.peer, batch, "-xe").statuses} == {0}
        assert len(instances.tree(server.settled())) == len(sent)


class _Device:
    """An association that stays open."""

    def __init__(self, server: Service) -> None:
        entity = AE("DEVICE")
        entity.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
        entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        peer = server.peer
        self.association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title)
        assert self.association.is_established

    def store(self, path: Path) -> str:
        data_set = dcmread(path)
        assert self.association.send_c_store(data_set).Status == 0
        return str(data_set.SOPInstanceUID)

    def finds(self, study: str) -> set[str]:
        keys = Dataset()
        keys.QueryRetrieveLevel = "IMAGE"
        keys.StudyInstanceUID = study
        keys.SOPInstanceUID = ""
        answers = list(self.association.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind))
        assert answers[-1][0].Status == 0
        return {str(found.SOPInstanceUID) for _, found in answers[:-1] if found is not None}


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def test_a_query_finds_what_was_acknowledged_before_it(
    engine: str, service: Callable[..., Service], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mariadb: MariaDB | None = request.getfixturevalue("mariadb") if engine == "mariadb" else None
    server = service(index=mariadb.database() if mariadb else None, unknown_devices="all")
    start = threading.Barrier(4)

    def rounds(turn: int) -> None:
        study, known = generate_uid(), set()
        sender, asker = _Device(server), _Device(server)
        paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(30)]
        start.wait()
        for number, path in enumerate(paths):
            known.add(sender.store(path))
            if number % (turn + 1) == 0:
                assert asker.finds(study) == known
        for device in (sender, asker):
            device.association.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rounds, range(4)))


def test_a_command_sees_what_the_service_acknowledged(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    sender = _Device(server)

    def counts() -> Any:
        return json.loads(server.cli("status", "--json").stdout)["counts"]["instances"]

    for number in range(1, 4):
        uid = sender.store(instances.make(tmp_path / "sent"))
        assert counts() == number
        server.cli("export", uid, "--to", tmp_path / "exported" / str(number))
    sender.association.release()


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def test_an_import_beside_the_service(
    engine: str, service: Callable[..., Service], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two processes take in the same instances of the same studies: each is one file and one row."""
    mariadb: MariaDB | None = request.getfixturevalue("mariadb") if engine == "mariadb" else None
    server = service(index=mariadb.database() if mariadb else None, unknown_devices="all")
    studies = [generate_uid() for _ in range(3)]
    folders = [tmp_path / "sent" / str(number) for number in range(3)]
    batches = [
        [instances.make(folder, study=study, number=number) for number in range(40)]
        for folder, study in zip(folders, studies, strict=True)
    ]
    sent = instances.digests(path for batch in batches for path in batch)
    with ThreadPoolExecutor(5) as pool:
        imports = [pool.submit(server.cli, "import", *some) for some in (folders, folders[::-1])]
        results = list(pool.map(lambda batch: storescu(server.peer, batch, "-xe"), batches))
        assert {one.result().returncode for one in imports} == {0}
    assert {status for result in results for status in result.statuses} == {0}
    instances.assert_kept(server.peer, studies, set(sent), sent, tmp_path / "back")
    assert len(instances.tree(server.settled())) == len(sent)
    counts = json.loads(server.cli("status", "--json").stdout)["counts"]
    assert (counts["studies"], counts["instances"], counts["versions"]) == (3, 120, 0)
    assert not list((server.storage / ".angiovault" / "incoming").iterdir())


def test_sigterm_settles_what_was_acknowledged(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    sender, study = _Device(server), generate_uid()
    known = {sender.store(instances.make(tmp_path / "sent", study=study, number=number)) for number in range(10)}
    server.stop()
    assert len(instances.tree(server.storage)) == 10
    assert not list((server.storage / ".angiovault" / "incoming").iterdir())
    server.start()
    assert instances.found(server.peer, [study]) == known
