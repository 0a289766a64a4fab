"""Storage Commitment Push Model (PS3.4 annex J): what is promised was checked, and the promise arrives."""

import json
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt

from angiovault import phantom
from angiovault.panel.place import Place
from harness import exact, part10
from harness.dcmtk import Peer
from harness.exact import Instance
from harness.mariadb import MariaDB
from harness.orthanc import Orthanc
from harness.panel import Client
from harness.processes import free_port
from harness.service import Service
from harness.upper_layer import EXPLICIT, IMPLICIT, RawPeer, command_set, element
from harness.waiting import wait_until

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
CT, MR, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.1"
STUDY = "1.2.826.0.1.3680043.9.7"
SETTINGS = "[commitment]\ncommitment-delay = 1\n[dicom]\nnetwork-timeout = 5\n"

Item = tuple[str, str]


@dataclass(frozen=True)
class Report:
    """An N-EVENT-REPORT as the requestor of a commitment got it."""

    transaction: str
    event_type: int
    safe: tuple[Item, ...]
    failed: dict[str, int]
    retrieve_ae_title: str
    on_new_association: bool
    calling: str
    """Who called, for a new association."""


class Requestor:
    """A modality that asks for commitments, and listens for the results if it has a port.

    Parameters
    ----------
    ae_title
        Its AE title.
    port
        Where it listens for associations of the archive, 0 for nowhere.
    """

    def __init__(self, ae_title: str, port: int = 0) -> None:
        self.peer = Peer("127.0.0.1", port, ae_title)
        self.reports: list[Report] = []
        self.answer = 0x0000
        self._lock = threading.Lock()
        self._ae = AE(ae_title)
        self._ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        self._server: Any = None

    def device(self) -> str:
        port = f"port = {self.peer.port}\n" if self.peer.port else ""
        return f"[device {self.peer.ae_title}]\nae-title = {self.peer.ae_title}\nhost = 127.0.0.1\n{port}"

    def _take(self, event: Any) -> tuple[int, None]:
        data = event.event_information
        requestor = event.assoc.requestor
        report = Report(
            str(data.TransactionUID),
            event.event_type,
            tuple(_pair(item) for item in data.get("ReferencedSOPSequence", ())),
            {_pair(item)[1]: int(item.FailureReason) for item in data.get("FailedSOPSequence", ())},
            str(data.get("RetrieveAETitle", "")),
            event.assoc.is_acceptor,
            str(requestor.ae_title),
        )
        with self._lock:
            self.reports.append(report)
        return self.answer, None

    def ask(
        self,
        peer: Peer,
        transaction: str,
        items: Sequence[Item],
        *,
        stay: bool = False,
        action: int = 1,
        syntax: str = ImplicitVRLittleEndian,
    ) -> int:
        """Send an N-ACTION and return its status; to stay is to take a report on the same association."""
        data = Dataset()
        if transaction:
            data.TransactionUID = transaction
        data.ReferencedSOPSequence = [_item(*item) for item in items]
        sent: list[str] = []  # the PDUs
        handlers: list[Any] = [(evt.EVT_PDU_SENT, lambda event: sent.append(type(event.pdu).__name__))]
        if stay:
            handlers.append((evt.EVT_N_EVENT_REPORT, self._take))
        assoc = self._ae.associate(
            peer.host,
            peer.port,
            [build_context(PUSH_MODEL, [syntax])],
            ae_title=peer.ae_title,
            evt_handlers=handlers,
        )
        assert assoc.is_established
        status, _ = assoc.send_n_action(data, action, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        if stay:
            had = len(sent)
            wait_until(lambda: len(sent) > had, "the answer to the report on the open association")
        assoc.release()
        return int(status.get("Status", -1))

    def wait(self, number: int = 1) -> Report:
        """Wait until there are so many reports, and return the last."""
        wait_until(lambda: len(self.reports) >= number, f"{number} reports to {self.peer.ae_title}")
        return self.reports[number - 1]

    def __enter__(self) -> Self:
        handlers = [(evt.EVT_N_EVENT_REPORT, self._take)]
        self._server = self._ae.start_server(("127.0.0.1", self.peer.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()


def _item(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


def _wanted(transaction: str, item: Item) -> bytes:
    """Encode what an N-ACTION asks for one instance, in Explicit VR Little Endian (PS3.4 J.3.2.1.1)."""
    sop_class, uid = (text.encode() for text in item)
    body = element(0x00081150, b"UI", sop_class) + element(0x00081155, b"UI", uid)
    sequence = struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body
    return element(0x00081195, b"UI", transaction.encode()) + element(0x00081199, b"SQ", sequence)


def _pair(item: Dataset) -> Item:
    return str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)


def instances(count: int, sop_class: str = CT) -> list[Instance]:
    made = []
    for number in range(count):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"{STUDY}.1.{number + 1}"
        dataset.PatientName, dataset.PatientID = "Zhang^San", "P7"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, f"{STUDY}.1"
        encoded = phantom.encode(dataset, ExplicitVRLittleEndian)
        made.append(Instance(sop_class, str(dataset.SOPInstanceUID), str(ExplicitVRLittleEndian), encoded))
    return made


def items(stored: Sequence[Instance]) -> list[Item]:
    return [(item.sop_class, item.sop_instance) for item in stored]


@pytest.fixture
def start(service: Callable[..., Service], tmp_path: Path) -> Callable[..., Service]:
    """Start the archive with these requestors as devices, holding these instances."""

    def run(stored: Sequence[Instance], *requestors: Requestor, devices: str = "", **parameters: Any) -> Service:
        config = SETTINGS + devices + "".join(requestor.device() for requestor in requestors)
        running = service(config=config, **{"unknown_devices": "all", **parameters})
        paths = [item.write(tmp_path / f"{number}.dcm") for number, item in enumerate(stored)]
        statuses = exact.send(running.peer, paths, [(item.sop_class, item.transfer_syntax) for item in stored])
        assert statuses == [0] * len(stored)
        return running

    return run


def queue(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(service.cli("status", "--json", check=False).stdout)
    return found


# ---- where the result goes


def test_the_result_comes_on_the_open_association(start: Callable[..., Service]) -> None:
    stored = instances(3)
    service = start(stored)
    stranger = Requestor("STRANGER")
    for number, syntax in enumerate((ImplicitVRLittleEndian, ExplicitVRLittleEndian), 1):
        assert stranger.ask(service.peer, f"1.2.{number}", items(stored), stay=True, syntax=syntax) == 0
        report = stranger.wait(number)
        assert report == Report(f"1.2.{number}", 1, tuple(items(stored)), {}, "ANGIOVAULT", False, "STRANGER")
    wait_until(lambda: queue(service)["commitment"] == {"delivered": 2}, "both to be noted as delivered")


def test_the_result_comes_on_a_new_association_with_the_titles_exchanged(start: Callable[..., Service]) -> None:
    stored = instances(2)
    with Requestor("ARTIS", free_port()) as modality:
        service = start(stored, modality)
        called = Peer(service.peer.host, service.peer.port, "CALLED_SO")
        assert modality.ask(called, "1.2.3", items(stored)) == 0
        assert modality.wait() == Report("1.2.3", 1, tuple(items(stored)), {}, "ANGIOVAULT", True, "CALLED_SO")
        assert len(modality.reports) == 1
    assert "storage commitment 1.2.3 reported to ARTIS@127.0.0.1: 2 instances safe, 0 not" in service.log_text()


def test_a_stranger_that_has_left_is_given_up(start: Callable[..., Service]) -> None:
    stored = instances(1)
    service = start(stored)
    stranger = Requestor("STRANGER")
    asked = items(stored)
    assert stranger.ask(service.peer, "1.2.3", asked) == 0
    wait_until(lambda: queue(service)["commitment"] == {"given up": 1}, "the request to be given up")
    assert "not a configured device with a port" in service.log_text()
    assert stranger.reports == []
    # When it asks again and stays, it is told.
    assert stranger.ask(service.peer, "1.2.3", asked, stay=True) == 0
    assert queue(service)["commitment"].get("given up") is None


def test_orthanc_asks_and_is_told(start: Callable[..., Service], orthanc: Callable[..., Orthanc]) -> None:
    stored = instances(2)
    server = orthanc()
    device = f"[device orthanc]\nae-title = ORTHANC\nhost = 127.0.0.1\nport = {server.peer.port}\n"
    service = start(stored, devices=device)
    server.add_modality("archive", service.peer)
    asked = [*items(stored), (CT, "1.2.3.4.5")]
    transaction = server.post("/modalities/archive/storage-commitment", {"DicomInstances": asked})["ID"]
    path = f"/storage-commitment/{transaction}"
    wait_until(lambda: server.get(path)["Status"] != "Pending", "Orthanc to get the report")
    report = server.get(path)
    assert report["Status"] == "Failure"
    assert {item["SOPInstanceUID"] for item in report["Success"]} == {item.sop_instance for item in stored}
    assert [(item["SOPInstanceUID"], item["FailureReason"]) for item in report["Failures"]] == [("1.2.3.4.5", 0x0112)]

    good = server.post("/modalities/archive/storage-commitment", {"DicomInstances": items(stored)})["ID"]
    wait_until(lambda: server.get(f"/storage-commitment/{good}")["Status"] == "Success", "Orthanc to get the second")


def test_a_requestor_that_goes_on_with_other_work_is_not_disturbed(start: Callable[..., Service]) -> None:
    stored = instances(1)
    with Requestor("ARTIS", free_port()) as modality:
        service = start(stored, modality)
        # pynetdicom's own thread takes a response now and then for a request, when another follows closely.
        with RawPeer(service.peer) as requestor:
            requestor.associate([(PUSH_MODEL, [EXPLICIT]), (VERIFICATION, [IMPLICIT])], calling=b"ARTIS")
            (wanted,) = items(stored)
            command = {0x0003: PUSH_MODEL, 0x0100: 0x0130, 0x0110: 1, 0x0800: 0, 0x1001: PUSH_MODEL_INSTANCE, 0x1008: 1}
            requestor.message(requestor.context(PUSH_MODEL), command_set(command), _wanted("1.2.3", wanted))
            assert requestor.status() == 0
            # commitment-delay is a second: so long the archive waits for a pause, then it calls. A report on this
            # association would be read where the response to an echo is due.
            wait_until(lambda: requestor.echo() != 0 or modality.reports, "the report on a new association")
            assert requestor.echo() == 0
            requestor.release()
        assert modality.wait().on_new_association


def test_what_waits_is_tried_at_once_or_given_up_when_the_panel_asks_for_it(
    start: Callable[..., Service], tmp_path: Path, index_url: str
) -> None:
    stored = instances(2)
    modality, other = Requestor("ARTIS", free_port()), Requestor("OTHER", free_port())
    service = start(stored, modality, other, index=index_url)
    # Another process than the service's writes into the same table.
    settings = tmp_path / "panel.ini"
    settings.write_text(f"[archive]\nstorage = {service.storage}\nindex = {index_url}\n", encoding="utf-8")
    client = Client(Place(settings))
    for each in (modality, other):
        assert each.ask(service.peer, "1.2.3", items(stored)) == 0

    def listed(requestor: Requestor) -> Any:
        name = f"{requestor.peer.ae_title}@127.0.0.1"
        found = client.get("/api/jobs")["commitments"]
        return next(each for each in found if each["requestor"] == name)

    for each in (modality, other):
        wait_until(lambda each=each: listed(each)["attempts"] == 1, "the first attempts to fail")
    assert (listed(modality)["state"], listed(modality)["instances"]) == ("waiting", 2)
    assert "refuses the connection" in listed(modality)["problem"]
    assert client.post(f"/api/commitments/{listed(other)['number']}/cancel", {}).status == 200
    assert listed(other)["state"] == "given up"
    with modality, other:
        assert client.post(f"/api/commitments/{listed(modality)['number']}/retry", {}).status == 200
        assert modality.wait().transaction == "1.2.3"
        wait_until(lambda: listed(modality)["state"] == "delivered", "the delivery to be noted")
        assert other.reports == []
    for action in ("retry", "cancel"):
        assert client.post(f"/api/commitments/{listed(modality)['number']}/{action}", {}).status == 409
        for number in ("0", "x", "-1", "1 OR 1=1", "9" * 30):
            assert client.post(f"/api/commitments/{number}/{action}", {}).status in (404, 409)
        assert client.ask(f"/api/commitments/1/{action}", method="POST", body=b"{}").error == "refused.csrf"


# ---- what is promised


def test_only_what_is_whole_is_promised(start: Callable[..., Service], index_url: str) -> None:
    good, flipped, removed, conflict, *_ = stored = instances(4)
    service = start(stored, index=index_url)
    files = part10.collect(service.settled())
    removed_path = files[removed.sop_instance][0].path
    removed_path.unlink()
    path = files[flipped.sop_instance][0].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    asked = [
        *items([good, flipped, removed]),
        (MR, conflict.sop_instance),
        (CT, "1.2.3.4.5"),
        (VERIFICATION, "1.2.3.4.6"),
    ]
    requestor = Requestor("ARTIS")
    assert requestor.ask(service.peer, "1.2.3", asked, stay=True) == 0
    report = requestor.wait()
    assert report.event_type == 2
    assert report.safe == ((CT, good.sop_instance),)
    assert report.failed == {
        flipped.sop_instance: 0x0110,
        removed.sop_instance: 0x0110,
        conflict.sop_instance: 0x0119,
        "1.2.3.4.5": 0x0112,
        "1.2.3.4.6": 0x0122,
    }


def test_the_same_transaction_again(start: Callable[..., Service], index_url: str) -> None:
    stored = instances(2)
    service = start(stored[:1], index=index_url)
    requestor, other = Requestor("ARTIS"), Requestor("OTHER")
    asked = items(stored)
    assert requestor.ask(service.peer, "1.2.3", asked, stay=True) == 0
    assert requestor.wait().failed == {stored[1].sop_instance: 0x0112}
    # What was missing is sent; the order of the list means nothing; the result is made anew.
    path = stored[1].write(service.folder / "late.dcm")
    assert exact.send(service.peer, [path], [(CT, stored[1].transfer_syntax)]) == [0]
    assert requestor.ask(service.peer, "1.2.3", asked[::-1], stay=True) == 0
    assert requestor.wait(2).event_type == 1
    assert requestor.ask(service.peer, "1.2.3", asked[:1]) == 0x0131
    # Transactions are told apart by who asks, too.
    assert other.ask(service.peer, "1.2.3", asked[:1], stay=True) == 0
    assert other.wait().safe == (asked[0],)
    assert len(requestor.reports) == 2


def test_ten_thousand_instances(start: Callable[..., Service], index_url: str) -> None:
    stored = instances(3)
    service = start(stored, index=index_url)
    asked = [*items(stored), *((CT, f"1.2.826.0.1.3680043.10.1234567.20240312.{number}") for number in range(9_997))]
    requestor = Requestor("ARTIS")
    assert requestor.ask(service.peer, "1.2.3", asked, stay=True) == 0
    report = requestor.wait()
    assert report.safe == tuple(items(stored))
    assert set(report.failed) == {uid for _, uid in asked[3:]}
    assert set(report.failed.values()) == {0x0112}
    wait_until(lambda: queue(service)["commitment"] == {"delivered": 1}, "it to be noted as delivered")


def test_requests_that_are_none(start: Callable[..., Service]) -> None:
    service = start([])
    requestor = Requestor("ARTIS")
    assert requestor.ask(service.peer, "1.2.3", [(CT, "1.2.3")], action=2) == 0x0123
    assert requestor.ask(service.peer, "", [(CT, "1.2.3")]) == 0x0115
    assert requestor.ask(service.peer, "1.2.3", []) == 0x0115
    assert requestor.ask(service.peer, "1.2.3", [(CT, "")]) == 0x0115
    assert queue(service)["commitment"] == {}


def test_who_may_not_ask_is_refused_as_a_context(start: Callable[..., Service]) -> None:
    service = start([], unknown_devices="store")
    assoc = AE("STRANGER").associate(service.peer.host, service.peer.port, [build_context(PUSH_MODEL)])
    assert not assoc.is_established
    assert [context.result for context in assoc.rejected_contexts] == [1]


@pytest.mark.mariadb
def test_while_the_database_is_away_nothing_is_promised(start: Callable[..., Service], mariadb: MariaDB) -> None:
    stored = instances(1)
    service = start(stored, index=mariadb.database())
    requestor = Requestor("ARTIS")
    mariadb.stop()
    try:
        assert requestor.ask(service.peer, "1.2.3", items(stored)) == 0x0213
    finally:
        mariadb.start()
    assert requestor.ask(service.peer, "1.2.3", items(stored), stay=True) == 0


# ---- the result is delivered in the end


def test_the_queue_survives_a_crash_and_the_result_is_delivered_later(
    start: Callable[..., Service], index_url: str, servers: ExitStack
) -> None:
    stored = instances(2)
    modality = Requestor("ARTIS", free_port())  # it does not listen yet
    service = start(stored, modality, index=index_url)
    assert modality.ask(service.peer, "1.2.3", items(stored)) == 0
    wait_until(lambda: [item["attempts"] for item in queue(service)["commitments_waiting"]] == [1], "a first attempt")
    (waiting,) = queue(service)["commitments_waiting"]
    assert waiting["transaction_uid"] == "1.2.3"
    assert waiting["requestor"] == "ARTIS@127.0.0.1"
    assert waiting["instances"] == 2
    assert "refuses the connection" in waiting["problem"]
    assert waiting["next_attempt"] > waiting["received"]
    assert "1.2.3 of ARTIS@127.0.0.1: 2 instances, 1 attempts" in service.cli("status", check=False).stdout
    service.kill()
    servers.enter_context(modality)
    service.start()
    assert modality.wait().safe == tuple(items(stored))
    wait_until(lambda: queue(service)["commitment"] == {"delivered": 1}, "it to be noted as delivered")
    assert queue(service)["commitments_waiting"] == []


def test_a_result_that_was_not_taken_is_told_again_when_the_device_calls(start: Callable[..., Service]) -> None:
    stored = instances(2)
    with Requestor("ARTIS", free_port()) as modality:
        service = start(stored, modality)
        modality.answer = 0x0110
        assert modality.ask(service.peer, "1.2.1", items(stored[:1])) == 0
        modality.wait(1)
        wait_until(lambda: queue(service)["commitments_waiting"], "the failure to be noted")
        (waiting,) = queue(service)["commitments_waiting"]
        assert waiting["problem"].endswith("answers the report with status 0110")
        modality.answer = 0x0000
        assert modality.ask(service.peer, "1.2.2", items(stored[1:])) == 0
        modality.wait(3)
        assert {report.transaction for report in modality.reports[1:]} == {"1.2.1", "1.2.2"}
        wait_until(lambda: queue(service)["commitment"] == {"delivered": 2}, "both to be noted as delivered")


def test_a_device_that_is_away_does_not_hold_up_the_others(start: Callable[..., Service]) -> None:
    stored = instances(1)
    away = Requestor("AWAY", free_port())
    with Requestor("ARTIS", free_port()) as modality:
        service = start(stored, away, modality)
        for number in range(5):
            assert away.ask(service.peer, f"1.2.{number}", items(stored)) == 0
        assert modality.ask(service.peer, "1.3.1", items(stored)) == 0
        assert modality.wait().transaction == "1.3.1"
        wait_until(lambda: len(queue(service)["commitments_waiting"]) == 5, "the others to wait")
        with away:
            assert away.ask(service.peer, "1.2.5", items(stored)) == 0
            away.wait(6)
            assert {report.transaction for report in away.reports} == {f"1.2.{number}" for number in range(6)}
