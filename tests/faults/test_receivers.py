"""Receiving in several processes: what any of them acknowledged is found at once, and none of them is indispensable."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from angiovault.dimse import receivers
from faults import instances
from harness.dcmtk import echoscu, findscu, storescu
from harness.mariadb import MariaDB
from harness.service import Service
from harness.upper_layer import ABORT, CT_IMAGE, DATA, EXPLICIT, RawPeer, data_set, pdu, pdv, store_rq
from harness.waiting import wait_until

ServiceFactory = Callable[..., Service]
pytestmark = pytest.mark.skipif(not receivers.useful_count(), reason="one core is served by one process")
_STUDY = "1.2.826.0.1.3680043.10.99"


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    """Closes the connections of a test at its end."""
    with ExitStack() as stack:
        yield stack


def devices(service: Service, peers: ExitStack, count: int = 4) -> list[RawPeer]:
    """Open associations that can only store, as many as there are processes if nothing else is said."""
    opened = []
    for _ in range(count):
        device = peers.enter_context(RawPeer(service.peer))
        device.associate([(CT_IMAGE, [EXPLICIT])])
        opened.append(device)
    return opened


def others(service: Service) -> list[int]:
    """Return the processes that receive beside the one that listens."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            found += [int(entry.name)] if parent == service.pid else []
    return sorted(found)


def _state(number: int) -> str:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]


def serving(service: Service) -> list[int]:
    """Return by which other processes associations were served, in their order."""
    return [int(number) for number in re.findall(r"is served by process (\d+)", service.log_text())]


def find(service: Service, study: str) -> int:
    """Return how many instances of a study are found."""
    keys = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}", "NumberOfStudyRelatedInstances")
    matches = findscu(service.peer, keys).ok().data_sets
    return sum(int(match.NumberOfStudyRelatedInstances) for match in matches)


def has_open(number: int, file: Path) -> bool:
    """Return whether a process has a file open."""
    return any(os.path.samestat(entry.stat(), file.stat()) for entry in Path(f"/proc/{number}/fd").iterdir())


def store(device: RawPeer, study: str, number: int) -> None:
    uid = f"{study}.1.{number}"
    assert device.store(uid, data_set(uid, study=study)) == 0


def test_what_any_process_acknowledged_is_found_at_once(
    service: ServiceFactory, index_url: str, peers: ExitStack
) -> None:
    server = service(index=index_url, unknown_devices="all", options=["--log-level", "debug"])
    sending = devices(server, peers)
    for number in range(1, 6):
        for which, device in enumerate(sending):
            store(device, f"{_STUDY}.{which}", number)
            assert find(server, f"{_STUDY}.{which}") == number
    assert sorted(serving(server)) == others(server)
    for device in sending:
        device.release()
    wait_until(lambda: server.log_text().count("5 stored CT Image Storage") == 4, "the ends to be in the log")
    assert not list((server.storage / ".angiovault" / "incoming").iterdir())
    assert server.cli("verify").stdout.endswith("0 damaged, 0 missing\n")


def test_no_association_waits_until_the_index_is_opened(service: ServiceFactory) -> None:
    server = service()
    index = Path(f"{server.storage}.index.sqlite3")
    for number in others(server):
        wait_until(lambda number=number: has_open(number, index), f"process {number} to open the index")  # type: ignore[misc]


@pytest.mark.mariadb
def test_a_device_does_not_wait_for_a_database_that_hangs(
    service: ServiceFactory, mariadb: MariaDB, tmp_path: Path
) -> None:
    """Its release is answered, and it may come back at once: an association that has ended takes up no room."""
    index = mariadb.database()
    server = service(index=index, unknown_devices="all", config="[dicom]\nmax-associations = 1\n")
    asked = f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{urlsplit(index).username}'"
    wait_until(lambda: mariadb.execute(asked)[0][0] == 1 + len(others(server)), "all processes to have the index open")
    study = f"{_STUDY}.0"
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(4)]
    mariadb.background.process.send_signal(signal.SIGSTOP)
    try:
        assert [storescu(server.peer, [path], "-xe").statuses for path in paths] == [[0]] * 4
        assert "released after" not in server.log_text(), "the associations wait for what they brought to be settled"
    finally:
        mariadb.background.process.send_signal(signal.SIGCONT)
    wait_until(lambda: server.log_text().count("1 stored") == 4, "the associations to be in the log")
    sent = instances.digests(paths)
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def test_one_study_from_several_processes_has_the_right_counts(
    service: ServiceFactory, index_url: str, peers: ExitStack
) -> None:
    server = service(index=index_url, unknown_devices="all")
    sending = devices(server, peers)
    with ThreadPoolExecutor(len(sending)) as pool:
        list(pool.map(lambda which: [store(sending[which], _STUDY, 4 * n + which) for n in range(10)], range(4)))
    assert find(server, _STUDY) == 40
    for device in sending:
        device.release()
    assert server.cli("verify").stdout.endswith("0 damaged, 0 missing\n")


@pytest.mark.parametrize("which", [0, 2])
def test_a_process_is_lost_and_nothing_else(service: ServiceFactory, peers: ExitStack, which: int) -> None:
    server = service(unknown_devices="all", options=["--log-level", "debug"])
    sending = []
    for number in range(4):
        sending += devices(server, peers, 1)
        wait_until(lambda number=number: len(serving(server)) == number, "it to be handed over")
        store(sending[-1], _STUDY, number)
    lost = serving(server)[which]
    uid = f"{_STUDY}.0"
    unfinished = sending[1 + which]
    unfinished.message(unfinished.context(CT_IMAGE), store_rq(CT_IMAGE, uid))
    unfinished.send(pdu(DATA, pdv(unfinished.context(CT_IMAGE), data_set(uid), last=False)))
    incoming = server.storage / ".angiovault" / "incoming"
    wait_until(lambda: any(file.stat().st_size for file in incoming.glob(f"{lost}-*")), "it to arrive")
    os.kill(lost, signal.SIGKILL)
    assert sending[1 + which].ending() == ABORT
    assert find(server, _STUDY) == 4
    wait_until(lambda: not list(incoming.glob(f"{lost}-*")), "what it left to be gone")
    going_on = [device for number, device in enumerate(sending) if number != 1 + which]
    for number, device in enumerate((*going_on, *devices(server, peers)), 10):
        store(device, _STUDY, number)
    assert find(server, _STUDY) == 4 + 3 + 4
    assert f"process {lost}, which received, is gone" in server.log_text()
    assert len(others(server)) == 2


def test_all_are_lost_and_the_service_goes_on(service: ServiceFactory, peers: ExitStack) -> None:
    server = service(unknown_devices="all")
    for number in others(server):
        os.kill(number, signal.SIGKILL)
        wait_until(lambda number=number: "Z" in _state(number), "the process to be dead")
    for number, device in enumerate(devices(server, peers)):
        store(device, _STUDY, number)
    assert find(server, _STUDY) == 4
    assert others(server) == []


def test_they_end_with_a_service_that_is_killed_and_nothing_is_lost(service: ServiceFactory, peers: ExitStack) -> None:
    server = service(unknown_devices="all")
    for number, device in enumerate(devices(server, peers)):
        store(device, _STUDY, number)
    left = others(server)
    assert len(left) == 3
    server.kill()
    wait_until(lambda: not any(Path("/proc", str(number)).exists() for number in left), "the processes to be gone")
    server.start()
    assert find(server, _STUDY) == 4


def test_associations_elsewhere_end_when_the_service_stops(service: ServiceFactory, peers: ExitStack) -> None:
    server = service(unknown_devices="all", options=["--log-level", "debug"])
    sending = devices(server, peers)
    for number, device in enumerate(sending):
        store(device, _STUDY, number)
    assert len(serving(server)) == 3
    server.stop()
    assert [device.ending() for device in sending] == [ABORT] * 4
    assert not list((server.storage / ".angiovault" / "incoming").iterdir())
    assert len(re.findall(r"1 stored CT Image Storage .*; stopped after", server.log_text())) == 4


def test_the_settings_count_there_as_well(service: ServiceFactory, peers: ExitStack) -> None:
    server = service(config="[dicom]\nidle-timeout = 1\nmax-associations = 3\n", options=["--log-level", "debug"])
    sending = devices(server, peers, 3)
    wait_until(lambda: len(serving(server)) == 2, "two to be served by others")
    assert [device.ending() for device in sending] == [ABORT] * 3
    wait_until(lambda: server.log_text().count("ended: nothing came within 1 s") == 3, "the ends to be in the log")
    echoscu(server.peer).ok()


def test_who_may_also_query_is_served_by_the_one_that_listens(service: ServiceFactory, peers: ExitStack) -> None:
    server = service(unknown_devices="all", options=["--log-level", "debug"])
    devices(server, peers, 1)
    device = peers.enter_context(RawPeer(server.peer))
    device.associate([(CT_IMAGE, [EXPLICIT]), ("1.2.840.10008.5.1.4.1.2.2.1", [EXPLICIT])])
    store(device, _STUDY, 1)
    assert serving(server) == []


def test_a_storage_that_is_not_there_yet(service: ServiceFactory, peers: ExitStack, tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    away = tmp_path / "away"
    server.stop()
    server.storage.rename(away)
    server.start()
    sending = devices(server, peers)
    uid = f"{_STUDY}.1"
    assert [device.store(uid, data_set(uid)) for device in sending] == [0xA700] * 4
    away.rename(server.storage)
    wait_until(lambda: sending[0].store(uid, data_set(uid)) == 0, "the storage to be found")
