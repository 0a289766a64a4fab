"""Many connections: idle ones, floods, more than allowed, more than the system gives."""

import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.battered import Battered
from harness.dcmtk import echoscu
from harness.service import Service
from harness.upper_layer import ABORT, CT_IMAGE, DATA, RJ, RawPeer, associate_rq, data_set, pdu, pdv, store_rq
from harness.waiting import wait_until

ServiceFactory = Callable[..., Service]
LOCAL_LIMIT_EXCEEDED = (RJ, b"\0\2\3\2")


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    """Closes the connections of a test at its end."""
    with ExitStack() as stack:
        yield stack


def of_process(pid: int, what: str) -> int:
    """Return a number from /proc/PID/status: `VmRSS` in kB, `Threads`."""
    (number,) = re.findall(rf"^{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(number)


def files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_hundreds_of_idle_associations_cost_little_and_keep_nobody_waiting(
    service: ServiceFactory, peers: ExitStack
) -> None:
    battered = Battered(service())
    pid = battered.service.pid
    threads, descriptors, memory = (of_process(pid, "Threads"), files(pid), of_process(pid, "VmRSS"))
    idle = [peers.enter_context(battered.connect()) for _ in range(300)]
    for peer in idle:
        peer.associate()
    battered.is_well()
    echoscu(battered.service.peer).ok()
    assert of_process(pid, "VmRSS") - memory < 60_000
    assert of_process(pid, "Threads") - threads <= 305
    assert idle[0].echo() == 0
    assert idle[299].store("1.2.3", data_set("1.2.3")) == 0
    for peer in idle:
        peer.release()
    # A database connection or two stay in their pool.
    wait_until(lambda: files(pid) <= descriptors + 10, "the connections to be closed")
    wait_until(lambda: of_process(pid, "Threads") <= threads, "the threads to be gone")
    battered.is_well()


def test_a_flood_of_connections_does_no_harm(service: ServiceFactory) -> None:
    battered = Battered(service())
    pid = battered.service.pid
    for number in range(2000):
        peer = battered.connect()
        if number % 2:
            peer.send(associate_rq([(1, CT_IMAGE, ["1.2.840.10008.1.2.1"])]))
        peer.socket.close()
    battered.is_well()
    wait_until(lambda: of_process(pid, "Threads") < 30, "the threads to be gone")
    assert of_process(pid, "VmRSS") < 300_000


def test_whoever_comes_beyond_the_limit_is_rejected_for_now(service: ServiceFactory, peers: ExitStack) -> None:
    battered = Battered(service(config="[dicom]\nmax-associations = 3\n"))
    open_ones = [peers.enter_context(battered.connect()) for _ in range(3)]
    for peer in open_ones:
        peer.associate()
    # Several times: a rejected peer that stays connected is not counted.
    for _ in range(5):
        beyond = peers.enter_context(battered.connect())
        beyond.send(associate_rq([(1, CT_IMAGE, ["1.2.840.10008.1.2.1"])]))
        assert beyond.receive() == LOCAL_LIMIT_EXCEEDED
    rejected = "rejected association from RAWPEER@127.0.0.1 to ANGIOVAULT: "
    battered.wait_for_news(f"{rejected}local limit exceeded: 3 associations are open already")
    assert echoscu(battered.service.peer).rejected == ("Rejected Transient", "Local Limit Exceeded")
    assert open_ones[1].store("1.2.3", data_set("1.2.3")) == 0
    open_ones[0].release()
    wait_until(lambda: echoscu(battered.service.peer).returncode == 0, "room for another association")
    open_ones[1].release()
    battered.is_well()


def test_connections_without_an_association_take_no_room_from_those_that_have_one(
    service: ServiceFactory, peers: ExitStack
) -> None:
    battered = Battered(service(config="[dicom]\nmax-associations = 2\n"))
    pid = battered.service.pid
    working = peers.enter_context(battered.connect())
    working.associate()
    silent = [peers.enter_context(battered.connect()) for _ in range(400)]
    # The oldest make room for the newest; a few may wait to be taken.
    assert silent[0].ending() is None
    battered.wait_for_news("ended a connection from 127.0.0.1 without an association")
    assert echoscu(battered.service.peer).returncode == 0
    assert working.store("1.2.3", data_set("1.2.3")) == 0
    assert of_process(pid, "Threads") < 150
    working.release()
    battered.is_well()


def test_few_file_descriptors_are_kept_for_those_who_store(service: ServiceFactory, peers: ExitStack) -> None:
    battered = Battered(service(prefix=["prlimit", "--nofile=100:100"]))
    working = peers.enter_context(battered.connect())
    working.associate()
    for _ in range(300):
        peers.enter_context(battered.connect())
    for number in range(5):
        assert working.store(f"1.2.{number}", data_set(f"1.2.{number}")) == 0
        battered.is_well()
    assert "associations at a time instead of 512: this process may open only" in battered.service.log_text()
    working.release()


def test_running_out_of_file_descriptors_is_overcome(service: ServiceFactory, peers: ExitStack) -> None:
    battered = Battered(service())
    pid = battered.service.pid
    working = peers.enter_context(battered.connect())
    working.associate()
    # Taken away while it runs, so that it cannot have provided for it.
    subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={files(pid) + 8}"], check=True)
    for _ in range(20):
        peers.enter_context(battered.connect())
    battered.wait_for_news("ERROR cannot accept connections: [Errno 24] Too many open files")
    assert working.echo() == 0
    for number in range(20):
        statuses = {working.store(f"1.2.{number}", data_set(f"1.2.{number}"))}
        assert statuses <= {0, 0xA700}
    assert battered.news().count("cannot accept connections") < 20
    peers.close()
    wait_until(lambda: echoscu(battered.service.peer).returncode == 0, "the next association to be served")
    battered.is_well()


def test_a_low_limit_of_files_is_raised_where_that_is_permitted(service: ServiceFactory) -> None:
    running = service(prefix=["prlimit", "--nofile=100:20000"])
    limits = Path(f"/proc/{running.pid}/limits").read_text()
    assert int(re.findall(r"^Max open files\s+(\d+)", limits, re.MULTILINE)[0]) > 4000
    assert "may open only" not in running.log_text()


def test_stopping_ends_idle_associations_and_lets_a_running_one_finish(
    service: ServiceFactory, peers: ExitStack
) -> None:
    battered = Battered(service())
    silent, idle, storing = (peers.enter_context(battered.connect()) for _ in range(3))
    idle.associate()
    storing.associate()
    data = data_set("1.2.3", pixels=bytes(100_000))
    storing.send(pdu(DATA, pdv(3, store_rq(CT_IMAGE, "1.2.3"), command=True) + pdv(3, data[:50_000], last=False)))
    wait_until(battered.unfinished, "the instance to arrive")
    stopping = threading.Thread(target=battered.service.stop)
    stopping.start()
    assert silent.ending() is None
    assert idle.ending() == ABORT
    storing.send(pdu(DATA, pdv(3, data[50_000:])))
    assert storing.status() == 0
    assert storing.ending() == ABORT
    stopping.join()
    assert battered.kept()["1.2.3"][0].data_set() == data
    log = battered.service.log_text()
    assert "association of RAWPEER@127.0.0.1 with ANGIOVAULT: nothing asked; stopped" in log
    assert "1 stored CT Image Storage in Explicit VR Little Endian, " in log
    assert "WARNING" not in log
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((battered.service.peer.host, battered.service.peer.port))


def test_stopping_does_not_wait_for_an_instance_that_never_ends(service: ServiceFactory, peers: ExitStack) -> None:
    battered = Battered(service())
    storing = peers.enter_context(battered.connect())
    storing.associate()
    storing.send(pdu(DATA, pdv(3, store_rq(CT_IMAGE, "1.2.3"), command=True) + pdv(3, b"begun", last=False)))
    wait_until(battered.unfinished, "the instance to arrive")
    battered.service.stop()  # at most 10 s, and with exit code 0: the harness checks both
    assert set(battered.kept()) == {"1.2.840.99.1"}


def test_raw_peers_are_counted_by_address(service: ServiceFactory) -> None:
    """Two associations from one address are two; what one says does not reach the other."""
    battered = Battered(service())
    with battered.association() as one, battered.association() as other:
        command = store_rq(CT_IMAGE, "1.2.3")
        one.send(pdu(DATA, pdv(3, command, command=True)))
        assert other.echo() == 0
        assert isinstance(other, RawPeer)
        one.send(pdu(DATA, pdv(3, data_set("1.2.3"))))
        assert one.status() == 0
    battered.is_well()
