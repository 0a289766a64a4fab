"""Jobs that send: to real receivers that refuse, hang or die; what has arrived is not sent again."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage

from angiovault.config import load
from angiovault.devices import Device, DeviceBook
from angiovault.opening import open_archive
from angiovault.panel.place import Place
from harness.dcmtk import Peer, StoreSCP
from harness.instances import instance, write
from harness.jobs import files, look, start, wait_for, wait_for_progress
from harness.panel import Client
from harness.waiting import wait_until

NUMBER = 6
ONLY_CT = """\
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[CT]
PresentationContext1 = CTImageStorage\\Plain
PresentationContext2 = VerificationSOPClass\\Plain
[[Profiles]]
[OnlyCT]
PresentationContexts = CT
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "angiovault.ini"
    path.write_text(f"[archive]\nstorage = {tmp_path}/archive\n", encoding="utf-8")
    open_archive(load(path), create=True).close()
    return path


@pytest.fixture
def client(settings: Path, tmp_path: Path) -> Iterator[Client]:
    """A panel whose archive holds a study, half of it CT."""
    client = Client(Place(settings))
    files(tmp_path / "disc", NUMBER // 2)
    for number in range(NUMBER // 2):
        write(
            instance("1.2.3", 2, number, SOPClassUID=CTImageStorage, Modality="CT"), tmp_path / f"disc/ct{number}.dcm"
        )
    wait_for(client, start(client, "import", path=str(tmp_path / "disc")), "done")
    yield client
    client.context.jobs.close(10)


def know(settings: Path, peer: Peer, name: str = "") -> str:
    """Make a receiver a device, and return the device's name."""
    name = name or peer.ae_title
    DeviceBook(settings).add(
        Device.from_text(name, {"ae-title": peer.ae_title, "host": peer.host, "port": str(peer.port)})
    )
    return name


def again(client: Client, number: str) -> None:
    assert client.post(f"/api/jobs/{number}/again", {}).status == 200


def test_a_receiver_that_refuses_some_gets_only_those_when_it_is_tried_again(
    client: Client, settings: Path, tmp_path: Path, receiver: Callable[..., StoreSCP]
) -> None:
    (tmp_path / "only-ct.cfg").write_text(ONLY_CT)
    picky = receiver("PICKY", options=("-xf", tmp_path / "only-ct.cfg", "OnlyCT"))
    number = start(client, "send", device=know(settings, picky.peer), uids=["1.2.3"], title="张^三")
    job = wait_for(client, number, "partly")
    assert (job["counts"], job["items"], job["title"]) == ({"sent": 3, "failed": 3}, NUMBER, "张^三")
    assert job["problem_count"] == 3
    assert all("the peer takes" in text for text in job["problems"])
    assert len(picky.received()) == 3
    picky.stop()
    first = set(picky.received())
    easy = receiver("EASY", port=picky.peer.port, options=("+xa", "-aet", "PICKY"))
    again(client, number)
    job = wait_for(client, number, "done")
    assert (job["counts"], job["problems"]) == ({"sent": NUMBER}, [])
    assert len(easy.received()) == 3
    assert not first & set(easy.received())


def test_a_receiver_that_is_killed_midway_gets_the_rest_later(
    client: Client, settings: Path, receiver: Callable[..., StoreSCP]
) -> None:
    slow = receiver("SLOW", options=("+xa", "--sleep-after", "1"))
    number = start(client, "send", device=know(settings, slow.peer), uids=["1.2.3"])
    wait_for_progress(client, number, 2)
    slow.kill()
    job = wait_for(client, number, "partly")
    assert job["counts"]["sent"] + job["counts"]["failed"] == NUMBER
    assert "instances not sent" in job["problems"][0]
    # As long as nobody is there, nothing more is lost than time.
    again(client, number)
    job = wait_for(client, number, "partly")
    assert "refuses the connection" in job["problems"][0]
    there = job["counts"]["sent"]
    next_one = receiver("NEXT", port=slow.peer.port)
    again(client, number)
    assert wait_for(client, number, "done")["counts"] == {"sent": NUMBER}
    assert len(next_one.received()) == NUMBER - there


def test_a_sending_to_a_receiver_that_hangs_is_cancelled_at_once(
    client: Client, settings: Path, receiver: Callable[..., StoreSCP]
) -> None:
    scp = receiver("HANGS", options=("+xa", "--sleep-after", "1"))
    number = start(client, "send", device=know(settings, scp.peer), uids=["1.2.3"])
    sent = wait_for_progress(client, number, 1)["items"]
    os.kill(scp.pid, signal.SIGSTOP)
    try:
        assert client.post(f"/api/jobs/{number}/cancel", {}).status == 200
        job = wait_for(client, number, "cancelled", seconds=5)
    finally:
        os.kill(scp.pid, signal.SIGCONT)
    assert sent <= job["items"] < NUMBER
    again(client, number)
    job = wait_for(client, number, "done")
    assert job["counts"] == {"sent": NUMBER}
    assert len(scp.received()) == NUMBER


def test_the_sending_of_something_big_is_cancelled_in_its_middle(
    client: Client, settings: Path, tmp_path: Path, receiver: Callable[..., StoreSCP]
) -> None:
    files(tmp_path / "big", 1, "1.2.9", size=64 << 20)
    wait_for(client, start(client, "import", path=str(tmp_path / "big")), "done")
    slow = receiver("SLOW", options=("+xa", "--sleep-during", "60"))
    number = start(client, "send", device=know(settings, slow.peer), uids=["1.2.9"])
    slow.wait_for_log("C-STORE RQ")
    assert look(client, number)["total_bytes"] > 64 << 20
    assert client.post(f"/api/jobs/{number}/cancel", {}).status == 200
    job = wait_for(client, number, "cancelled", seconds=6)
    assert (job["items"], job["total_items"], job["counts"]) == (0, 1, {})
    slow.kill()


def test_two_sendings_at_once_and_the_third_waits(
    client: Client, settings: Path, receiver: Callable[..., StoreSCP]
) -> None:
    receivers = [receiver(f"RECEIVER{each}") for each in range(3)]
    for scp in receivers:
        os.kill(scp.pid, signal.SIGSTOP)
    try:
        numbers = [
            start(client, "send", device=know(settings, scp.peer), uids=["1.2.3.1", "1.2.3.2.0"]) for scp in receivers
        ]
        same = start(client, "send", device="RECEIVER0", uids=["1.2.3"])
        for number in numbers[:2]:
            wait_for(client, number, "running")
        assert look(client, numbers[2])["state"] == look(client, same)["state"] == "waiting"
        # An import may run beside them.
        wait_for(client, start(client, "verify"), "done")
        assert look(client, numbers[2])["state"] == look(client, same)["state"] == "waiting"
        os.kill(receivers[1].pid, signal.SIGCONT)
        wait_for(client, numbers[1], "done")
        wait_for(client, numbers[2], "running")
        assert look(client, same)["state"] == "waiting"
    finally:
        for scp in receivers:
            os.kill(scp.pid, signal.SIGCONT)
    for number in (*numbers, same):
        wait_for(client, number, "done")
    assert [len(scp.received()) for scp in receivers] == [NUMBER, NUMBER // 2 + 1, NUMBER // 2 + 1]


def test_what_is_not_there_and_who_is_not_known_any_more_are_said(
    client: Client, settings: Path, receiver: Callable[..., StoreSCP]
) -> None:
    device = know(settings, receiver().peer)
    job = wait_for(client, start(client, "send", device=device, uids=["1.2.3", "1.2.99"]), "failed")
    assert "1.2.99" in job["reason"]
    DeviceBook(settings).remove(device)
    again(client, job["id"])
    # The line keeps no device of its own: it is looked up when its turn comes.
    wait_until(lambda: "no device" in look(client, job["id"])["reason"], "the reason")
