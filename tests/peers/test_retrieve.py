"""C-MOVE and C-GET (PS3.4 annex C) against real programs: what comes back, in which syntax, and what is said."""

import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pydicom
import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import _STORAGE_CLASSES

from angiovault import phantom
from harness import exact, part10
from harness.dcmtk import Peer, StoreSCP, getscu, movescu, storescu
from harness.exact import PATIENT_ROOT, STUDY_ROOT, UNCOMPRESSED, Instance, Receiver
from harness.mariadb import MariaDB
from harness.orthanc import Orthanc
from harness.processes import Background, free_port, program
from harness.service import Service
from harness.waiting import wait_until

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, MPEG2 = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.100"
XA, CT, MR, US = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("12.1", "2", "4", "6.1"))
PRIVATE_CLASSES = ("1.3.12.2.1107.5.9.1", "1.3.12.2.1107.5.99.3.10", "1.3.12.2.1107.5.99.3.11", "1.2.3.4")
# Their pixels lie elsewhere (JPIP, video streams), or they are no syntaxes of the network (MIME, XML, Papyrus).
NOT_KEPT = {
    "1.2.840.10008.1.20",
    *(f"1.2.840.10008.1.2.{tail}" for tail in ("4.94", "4.95", "4.204", "4.205", "6.1", "6.2", "7.1", "7.2", "7.3")),
}
NEWER_THAN_PYDICOM = {f"1.2.840.10008.1.2.{tail}" for tail in ("4.110", "4.111", "4.112", "8.1")}
SYNTAXES = sorted(
    ({uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"} | NEWER_THAN_PYDICOM) - NOT_KEPT
)
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)

STUDY = "1.2.826.0.1.3680043.9.1"
PENDING, SUCCESS, CANCELLED = 0xFF00, 0x0000, 0xFE00


def instance(
    number: int, sop_class: str = XA, syntax: str = EXPLICIT, *, series: int = 1, study: str = STUDY, size: int = 0
) -> Instance:
    """Make an instance that programs which decode and encode do not leave as it is.

    It has private elements of odd length, a private sequence of undefined length and, where the syntax is encapsulated,
    a pixel data element of fragments that no decoder understands.
    """
    dataset = Dataset()
    dataset.SpecificCharacterSet = "GB18030"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = f"{study}.{series}.{number}"
    dataset.StudyDate, dataset.StudyTime, dataset.Modality = "20240312", "092000", "XA"
    dataset.PatientName, dataset.PatientID = "Zhang^San=张^三", f"P{study[-1]}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.{series}"
    dataset.SeriesNumber, dataset.InstanceNumber = series, number
    dataset.private_block(0x0029, "SIEMENS MEDCOM HEADER", create=True).add_new(0x08, "CS", "MEDCOM 1")
    dataset.add(phantom.VerbatimElement(0x00291010, "OB", bytes(range(255)) + bytes(size)))
    item = Dataset()
    item.add(phantom.VerbatimElement(0x00291044, "UN", b"odd"))
    dataset.add_new(0x00291040, "SQ", DicomSequence([item]))
    dataset[0x00291040].is_undefined_length = True
    encoded = phantom.encode(dataset, syntax if syntax in NATIVE else EXPLICIT)
    if syntax not in NATIVE:
        offsets, fragment = (struct.pack("<HHL", 0xFFFE, 0xE000, length) for length in (0, 60))
        end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        encoded += b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + offsets + fragment + b"\x00\xff" * 30 + end
    return Instance(sop_class, str(dataset.SOPInstanceUID), syntax, encoded)


def store(service: Service, folder: Path, instances: Sequence[Instance]) -> None:
    """Send instances to the archive, every byte as it is."""
    folder.mkdir()
    paths = [item.write(folder / f"{number}.dcm") for number, item in enumerate(instances)]
    statuses = exact.send(service.peer, paths, [pair(item) for item in instances])
    assert statuses == [SUCCESS] * len(instances)


def pair(item: Instance) -> tuple[str, str]:
    return item.sop_class, item.transfer_syntax


def by_uid(instances: Sequence[Instance]) -> dict[str, Instance]:
    return {item.sop_instance: item for item in instances}


def device(name: str, peer: Peer) -> str:
    return f"[device {name}]\nae-title = {peer.ae_title}\nhost = {peer.host}\nport = {peer.port}\n"


STUDY_KEYS = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}


def image_keys(*instances: Instance) -> dict[str, str]:
    return {"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": "\\".join(item.sop_instance for item in instances)}


@pytest.fixture
def start(service: Callable[..., Service], tmp_path: Path) -> Callable[..., Service]:
    """Start the archive, open to all, with these peers as devices, holding these instances."""

    def run(instances: Sequence[Instance] = (), *peers: Peer, settings: str = "", **parameters: object) -> Service:
        config = settings + "\n".join(device(f"device {number}", peer) for number, peer in enumerate(peers))
        running = service(config=config, unknown_devices="all", **parameters)
        if instances:
            store(running, tmp_path / "sent", instances)
        return running

    return run


# ---- bytes


def test_every_transfer_syntax_and_private_class_comes_back_byte_for_byte(start: Callable[..., Service]) -> None:
    sent = [instance(number, XA, syntax) for number, syntax in enumerate(SYNTAXES)]
    sent += [
        instance(100 + number, sop_class, syntax)
        for number, (sop_class, syntax) in enumerate((c, s) for c in PRIVATE_CLASSES for s in (IMPLICIT, EXPLICIT))
    ]
    assert len(sent) == len(SYNTAXES) + 8 > 50
    pairs = [pair(item) for item in sent]
    with Receiver("DEST", pairs) as receiver:
        service = start(sent, receiver.peer)
        got = exact.get(service.peer, STUDY_KEYS, exact.contexts_of(pairs))
        assert got.statuses[-1] == SUCCESS
        assert by_uid(got.received) == by_uid(sent)
        assert len(got.received) == len(sent)

        moved = exact.move(service.peer, "DEST", STUDY_KEYS)
        assert moved.statuses == [PENDING] * len(sent) + [SUCCESS]
        assert by_uid(receiver.received) == by_uid(sent)
        assert len(receiver.received) == len(sent)
        assert set(receiver.originators) == {("EXACT", 1)}
    assert "converted" not in service.log_text()


def test_more_contexts_than_an_association_takes(start: Callable[..., Service]) -> None:
    classes = sorted(map(str, _STORAGE_CLASSES.values()))[:60]
    sent = [instance(number, sop_class, BIG_ENDIAN) for number, sop_class in enumerate(classes)]
    with Receiver("DEST", [pair(item) for item in sent]) as receiver:
        service = start(sent, receiver.peer)
        moved = exact.move(service.peer, "DEST", STUDY_KEYS)
        assert moved.statuses[-1] == SUCCESS
        assert moved.counts(-1) == (None, 60, 0, 0)
        assert by_uid(receiver.received) == by_uid(sent)
        assert receiver.associations == 2  # 42 classes with three contexts each fit into the first one


@pytest.mark.parametrize("max_pdu", [0, 64])
def test_the_destinations_pdu_length_is_kept(start: Callable[..., Service], max_pdu: int) -> None:
    sent = [instance(1, size=100_000), instance(2, size=0)]
    lengths = []

    def note(event: evt.Event) -> None:
        if type(event.pdu).__name__ == "P_DATA_TF":
            lengths.append(event.pdu.pdu_length)

    receiver = Receiver("DEST", [pair(sent[0])], max_pdu=max_pdu)
    with receiver:
        receiver.bind(evt.EVT_PDU_RECV, note)
        service = start(sent, receiver.peer)
        assert exact.move(service.peer, "DEST", STUDY_KEYS).statuses[-1] == SUCCESS
    assert by_uid(receiver.received) == by_uid(sent)
    assert len(lengths) >= 4
    assert max(lengths) <= max_pdu or (max_pdu == 0 and max(lengths) > 16384)


# ---- conversion: only when the peer takes nothing else, and without loss


def _tool(*arguments: str | Path) -> None:
    done = Background([program(str(arguments[0])), *arguments[1:]], log=Path(arguments[-1]).with_suffix(".log"))
    assert done.process.wait(60) == 0, done.report()


def _reference(source: Path, syntax: str, folder: Path) -> bytes:
    """Return the pixels as DCMTK decodes them, or GDCM where DCMTK has no decoder."""
    result = folder / "reference.dcm"
    if syntax.startswith(("1.2.840.10008.1.2.4.5", "1.2.840.10008.1.2.4.7")):
        _tool("dcmdjpeg", "+cn", source, result)  # the colours stay as they are
    elif syntax.startswith("1.2.840.10008.1.2.4.8"):
        _tool("dcmdjpls", source, result)
    elif syntax.startswith("1.2.840.10008.1.2.4.9"):
        _tool("gdcmconv", "--raw", source, result)
    elif syntax == "1.2.840.10008.1.2.5":
        _tool("dcmdrle", source, result)
    else:
        _tool("dcmconv", "+te", source, result)
    return bytes(pydicom.dcmread(result).PixelData)


_PYDICOM_FILES = (
    "MR_small_RLE.dcm",
    "SC_rgb_rle_2frame.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG2000.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "MR_small_implicit.dcm",
    "CT_small.dcm",
    "JPGExtended.dcm",
)
_SAMPLES = ("xa1_JPLL.dcm", "xa1_J2KR.dcm", "xa1_JLSL.dcm", "xa1_RLE.dcm", "xa_multiframe_mask_jpegbaseline.dcm")


def _images(samples: Path | None) -> Iterator[tuple[Path, Instance]]:
    """Yield images and what to store of them: each with a UID of its own, as several of them share one."""
    files = [Path(str(get_testdata_file(name, download=False))) for name in _PYDICOM_FILES]
    files += [samples / name for name in _SAMPLES] if samples else []
    for number, path in enumerate(files):
        file = part10.read(path)
        old = file.sop_instance_uid
        new = f"{old[:-2]}{number:02}"
        data_set = file.data_set()
        if file.transfer_syntax != DEFLATED:
            data_set = data_set.replace(old.encode(), new.encode())
        else:
            new = old
        yield path, Instance(str(file.meta.MediaStorageSOPClassUID), new, file.transfer_syntax, data_set)


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT])
def test_a_peer_that_takes_only_uncompressed_gets_the_same_pixels(
    start: Callable[..., Service], receiver: Callable[..., StoreSCP], target: str, tmp_path: Path
) -> None:
    folder = os.environ.get("ANGIOVAULT_SAMPLES")
    images = list(_images(Path(folder) if folder else None))
    scp = receiver("PLAIN", options=["+xi"] if target == IMPLICIT else ["+xe"])
    service = start([stored for _, stored in images], scp.peer)
    uids = "\\".join(stored.sop_instance for _, stored in images)
    movescu(service.peer, "PLAIN", ["QueryRetrieveLevel=IMAGE", f"SOPInstanceUID={uids}"]).ok()
    contexts = exact.contexts_of((stored.sop_class, target) for _, stored in images)
    got = exact.get(service.peer, image_keys(*(stored for _, stored in images)), contexts)
    assert got.statuses[-1] == SUCCESS
    log = service.log_text()
    for path, stored in images:
        moved, fetched = scp.received()[stored.sop_instance], by_uid(got.received)[stored.sop_instance]
        if moved.transfer_syntax == stored.transfer_syntax:  # with +xe storescp takes every uncompressed syntax
            assert moved.data_set() == stored.data_set, path
            assert f"{stored.sop_instance} goes to PLAIN" not in log
        else:
            assert moved.data_set() == fetched.data_set, path
            assert f"{stored.sop_instance} goes to PLAIN@127.0.0.1 converted from" in log
        if stored.transfer_syntax == target:
            assert fetched == stored
            continue
        assert f"{stored.sop_instance} goes to EXACT@127.0.0.1 converted from" in log
        assert fetched.transfer_syntax == target
        _assert_same_image(path, fetched.write(tmp_path / "converted.dcm"), tmp_path)


def _assert_same_image(source: Path, converted: Path, folder: Path) -> None:
    before, after = pydicom.dcmread(source), pydicom.dcmread(converted)
    pixels, reference = bytes(after.PixelData), _reference(source, str(before.file_meta.TransferSyntaxUID), folder)
    assert pixels.rstrip(b"\0") == reference.rstrip(b"\0"), source
    assert len(pixels) - len(reference) in (-1, 0, 1), source  # padding to even length
    untouched = [
        element
        for element in before
        if element.VR not in ("OB", "OW", "SQ", "UN")
        and element.keyword not in ("SOPInstanceUID", "")
        and element.tag.group != 0x0028  # says how the pixels are coded
        and element.tag.element != 0
    ]
    assert len(untouched) > 10
    assert [after[element.tag].value for element in untouched] == [element.value for element in untouched], source


def test_what_cannot_be_converted_without_loss_is_not_sent(start: Callable[..., Service]) -> None:
    video, plain = instance(1, XA, MPEG2), instance(2, XA, EXPLICIT)
    lossy_only = "1.2.840.10008.1.2.4.50"
    with Receiver("PLAIN", [(XA, syntax) for syntax in UNCOMPRESSED]) as receiver:
        service = start([video, plain], receiver.peer)
        moved = exact.move(service.peer, "PLAIN", STUDY_KEYS)
        assert moved.statuses[-1] == 0xB000
        assert moved.failed == [video.sop_instance]
        assert receiver.received == [plain]
    got = exact.get(service.peer, STUDY_KEYS, exact.contexts_of([(XA, lossy_only)]))
    assert got.statuses[-1] == 0xA702
    assert sorted(got.failed) == [video.sop_instance, plain.sop_instance]
    assert got.received == []
    assert f"{plain.sop_instance}: stored in Explicit VR Little Endian" in service.log_text()


# ---- what is meant


def _populate() -> list[Instance]:
    return [
        instance(1, CT, series=1),
        instance(2, CT, series=1),
        instance(1, MR, series=2),
        instance(1, XA, series=1, study="1.2.826.0.1.3680043.9.2"),
    ]


@pytest.fixture
def populated(start: Callable[..., Service]) -> Service:
    return start(_populate())


def _got(service: Service, keys: dict[str, str], model: str = STUDY_ROOT, syntax: str = EXPLICIT) -> list[int]:
    contexts = exact.contexts_of((sop_class, EXPLICIT) for sop_class in (CT, MR, XA))
    got = exact.get(service.peer, keys, contexts, model=model, syntax=syntax)
    assert got.statuses[-1] == SUCCESS
    uids = [item.sop_instance for item in _populate()]
    return sorted(uids.index(item.sop_instance) for item in got.received)


def test_levels_models_and_lists(populated: Service) -> None:
    one, two, three, other = _populate()
    series = [f"{STUDY}.1", f"{STUDY}.2"]
    cases: list[tuple[str, str, dict[str, str], list[int]]] = [
        (PATIENT_ROOT, "PATIENT", {"PatientID": "P1"}, [0, 1, 2]),
        (PATIENT_ROOT, "STUDY", {"PatientID": "P1", "StudyInstanceUID": STUDY}, [0, 1, 2]),
        (PATIENT_ROOT, "STUDY", {"PatientID": "P2", "StudyInstanceUID": STUDY}, []),
        (STUDY_ROOT, "STUDY", {"StudyInstanceUID": f"{STUDY}\\1.2.826.0.1.3680043.9.2"}, [0, 1, 2, 3]),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series[1]}, [2]),
        (STUDY_ROOT, "SERIES", {"SeriesInstanceUID": "\\".join(series)}, [0, 1, 2]),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": other.sop_instance[:-4], "SeriesInstanceUID": series[1]}, []),
        (
            STUDY_ROOT,
            "IMAGE",
            {
                "StudyInstanceUID": STUDY,
                "SeriesInstanceUID": series[0],
                "SOPInstanceUID": f"{one.sop_instance}\\{two.sop_instance}\\{three.sop_instance}\\1.2.3",
            },
            [0, 1],
        ),
        (STUDY_ROOT, "IMAGE", {"SOPInstanceUID": f"{one.sop_instance}\\{other.sop_instance}"}, [0, 3]),
        (STUDY_ROOT, "STUDY", {"StudyInstanceUID": "1.2.3.4.5"}, []),
        # Other keys are no unique keys: they do not narrow a retrieval (PS3.4 C.4.3.1.3).
        (STUDY_ROOT, "STUDY", {"StudyInstanceUID": STUDY, "PatientName": "NOBODY"}, [0, 1, 2]),
    ]
    for model, level, keys, expected in cases:
        for syntax in UNCOMPRESSED:
            assert _got(populated, {"QueryRetrieveLevel": level, **keys}, model, syntax) == expected, (level, keys)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_does_not_say_what_is_wanted_is_refused(populated: Service) -> None:
    cases: list[tuple[str, dict[str, str]]] = [
        (STUDY_ROOT, {"QueryRetrieveLevel": "STUDY"}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "*"}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": f"{STUDY[:-1]}?"}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "*", "SeriesInstanceUID": f"{STUDY}.1"}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.1"}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"}),
        (STUDY_ROOT, {"StudyInstanceUID": STUDY}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "FRAME", "StudyInstanceUID": STUDY}),
        (PATIENT_ROOT, {"QueryRetrieveLevel": "PATIENT", "PatientID": ""}),
        (PATIENT_ROOT, {"QueryRetrieveLevel": "PATIENT", "PatientID": "P*"}),
        (PATIENT_ROOT, {"QueryRetrieveLevel": "PATIENT", "PatientName": "ZHANG^SAN"}),
        ("1.2.840.10008.5.1.4.1.2.3.", {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": f"{STUDY}.1"}),
    ]
    for model, keys in cases:
        got = exact.get(populated.peer, keys, exact.contexts_of([(CT, EXPLICIT), (MR, EXPLICIT)]), model=model)
        assert (got.statuses, got.received) == ([0xA900], []), (model, keys)
        assert got.responses[0].get("ErrorComment"), keys


def test_a_retrieval_of_patient_and_study_only(populated: Service) -> None:
    model = "1.2.840.10008.5.1.4.1.2.3."
    assert _got(populated, {"QueryRetrieveLevel": "PATIENT", "PatientID": "P2"}, model) == [3]
    assert _got(populated, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}, model) == [0, 1, 2]


# ---- counts and statuses


def test_failures_and_warnings_are_counted_and_named(start: Callable[..., Service]) -> None:
    sent = [instance(number, sop_class) for number, sop_class in enumerate((CT, CT, CT, CT, US, MR))]
    refused, warned = sent[1], sent[2]

    def answer(event: evt.Event) -> int:
        return {refused.sop_instance: 0xA700, warned.sop_instance: 0xB007}.get(
            str(event.request.AffectedSOPInstanceUID), 0
        )

    # Ultrasound is not accepted at all.
    with Receiver("DEST", [(CT, EXPLICIT), (MR, EXPLICIT)], on_store=answer) as receiver:
        service = start(sent, receiver.peer)
        moved = exact.move(service.peer, "DEST", STUDY_KEYS, syntax=EXPLICIT)
        got = exact.get(service.peer, STUDY_KEYS, exact.contexts_of([(CT, EXPLICIT), (MR, EXPLICIT)]), on_store=answer)
    for retrieval in (moved, got):
        assert retrieval.statuses == [PENDING] * 6 + [0xB000]
        assert sorted(retrieval.failed) == [refused.sop_instance, sent[4].sop_instance]
        assert retrieval.counts(0) == (6, 0, 0, 0)
        assert retrieval.counts(-1) == (None, 3, 2, 1)
        for position in range(len(retrieval.responses) - 1):
            remaining, *done = retrieval.counts(position)
            assert remaining == 6 - position
            assert sum(number or 0 for number in done) == position
    log = service.log_text()
    assert f"{refused.sop_instance}: the peer answers with status A700" in log
    assert f"{sent[4].sop_instance}: the peer takes Ultrasound Image Storage {US} not at all" in log


def test_a_storage_context_without_the_scp_role_is_not_used_for_sub_operations(start: Callable[..., Service]) -> None:
    sent = instance(1)
    service = start([sent])
    got = exact.get(service.peer, STUDY_KEYS, exact.contexts_of([pair(sent)]), role=False)
    assert (got.statuses[-1], got.failed, got.received) == (0xA702, [sent.sop_instance], [])
    assert "only in the SCU role" in service.log_text()


def test_a_stored_file_that_is_gone_or_cut_fails_alone(start: Callable[..., Service]) -> None:
    sent = [instance(number, size=2000) for number in range(4)]
    service = start(sent)
    files = part10.collect(service.settled())
    files[sent[0].sop_instance][0].path.unlink()
    cut = files[sent[2].sop_instance][0].path
    cut.chmod(0o600)
    cut.write_bytes(cut.read_bytes()[:-100])
    got = exact.get(service.peer, STUDY_KEYS, exact.contexts_of([pair(sent[0])]))
    assert got.statuses[-1] == 0xB000
    assert got.failed == [sent[0].sop_instance, sent[2].sop_instance]
    assert got.received == [sent[1], sent[3]]


@pytest.mark.mariadb
def test_while_the_database_is_away_nothing_is_counted(start: Callable[..., Service], mariadb: MariaDB) -> None:
    sent = instance(1)
    with Receiver("DEST", [pair(sent)]) as receiver:
        service = start([sent], receiver.peer, index=mariadb.database())
        mariadb.stop()
        try:
            assert exact.move(service.peer, "DEST", STUDY_KEYS).statuses == [0xA701]
            got = exact.get(service.peer, STUDY_KEYS, exact.contexts_of([pair(sent)]))
            assert (got.statuses, got.received) == ([0xA701], [])
            assert "cannot be used" in got.responses[0].ErrorComment or "index" in got.responses[0].ErrorComment
        finally:
            mariadb.start()
        assert exact.move(service.peer, "DEST", STUDY_KEYS).statuses[-1] == SUCCESS
        assert receiver.received == [sent]


def test_a_destination_nobody_knows_or_without_port(start: Callable[..., Service]) -> None:
    service = start([instance(1)], settings="[device mute]\nae-title = MUTE\nhost = 127.0.0.1\n")
    for name, reason in (("NOBODY", "not a configured device"), ("MUTE", "has no host and port")):
        moved = exact.move(service.peer, name, STUDY_KEYS)
        assert moved.statuses == [0xA801]
        assert reason in service.log_text()


# ---- destinations that do not behave


@pytest.fixture
def black_hole() -> Iterator[Peer]:
    """A socket that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Peer("127.0.0.1", listener.getsockname()[1], "HOLE")


def test_destinations_that_are_away_or_silent(start: Callable[..., Service], black_hole: Peer) -> None:
    sent = [instance(1), instance(2)]
    away = Peer("127.0.0.1", free_port(), "AWAY")
    release = threading.Event()

    def never(event: evt.Event) -> int:
        release.wait(60)
        return 0

    with Receiver("SLOW", [pair(sent[0])], on_store=never) as slow:
        service = start(sent, away, black_hole, slow.peer, settings="[dicom]\nnetwork-timeout = 1\n")
        for peer, reason in (
            (away, "refuses the connection"),
            (black_hole, "does not answer within 1 s"),
            (slow.peer, "within 5 s"),
        ):
            moved = exact.move(service.peer, peer.ae_title, STUDY_KEYS)
            assert moved.statuses[-1] == 0xA702
            assert moved.failed == [item.sop_instance for item in sent]
            assert moved.counts(-1) == (None, 0, 2, 0)
            assert reason in service.log_text()
        release.set()


def test_a_destination_that_aborts_half_way(start: Callable[..., Service]) -> None:
    sent = [instance(number) for number in range(5)]

    def abort_at_the_third(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == sent[2].sop_instance:
            event.assoc.abort()
        return 0

    with Receiver("DEST", [pair(sent[0])], on_store=abort_at_the_third) as receiver:
        service = start(sent, receiver.peer)
        moved = exact.move(service.peer, "DEST", STUDY_KEYS)
    assert moved.statuses[-1] == 0xB000
    assert moved.failed == [item.sop_instance for item in sent[2:]]
    assert moved.counts(-1) == (None, 2, 3, 0)
    assert service.log_text().count("3 instances not sent: aborted by the peer") == 1


def test_a_destination_that_rejects(start: Callable[..., Service], receiver: Callable[..., StoreSCP]) -> None:
    scp = receiver("REFUSER", options=["--refuse"])
    sent = instance(1)
    service = start([sent], scp.peer)
    moved = exact.move(service.peer, "REFUSER", STUDY_KEYS)
    assert (moved.statuses[-1], moved.failed) == (0xA702, [sent.sop_instance])
    assert "association rejected" in service.log_text()


# ---- cancel


def test_a_move_is_cancelled(start: Callable[..., Service]) -> None:
    sent = [instance(number) for number in range(15)]
    with Receiver("DEST", [pair(sent[0])]) as receiver:
        service = start(sent, receiver.peer)
        moved = exact.move(service.peer, "DEST", STUDY_KEYS, cancel_after=3)
        remaining, completed, failed, warning = moved.counts(-1)
        assert moved.statuses[-1] == CANCELLED
        assert (failed, warning) == (0, 0)
        assert completed is not None
        assert remaining == 15 - completed > 0
        assert len(receiver.received) == completed
        # The association to the destination was released, and the archive goes on.
        assert exact.move(service.peer, "DEST", image_keys(sent[14])).statuses[-1] == SUCCESS


def test_a_get_is_cancelled(start: Callable[..., Service]) -> None:
    sent = [instance(number) for number in range(15)]
    service = start(sent)
    got = exact.get(service.peer, STUDY_KEYS, exact.contexts_of([pair(sent[0])]), cancel_after=3)
    remaining, completed, failed, warning = got.counts(-1)
    assert got.statuses[-1] == CANCELLED
    assert completed == len(got.received)
    assert remaining == 15 - len(got.received) > 0
    assert (failed, warning) == (0, 0)


def test_a_move_ends_when_its_requestor_goes_away(start: Callable[..., Service]) -> None:
    sent = [instance(number) for number in range(20)]
    first, gone = threading.Event(), threading.Event()

    def wait(event: evt.Event) -> int:
        first.set()
        gone.wait(20)
        return 0

    with Receiver("DEST", [pair(sent[0])], on_store=wait) as receiver:
        service = start(sent, receiver.peer)
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", STUDY
        assoc = AE("LEAVES").associate(
            service.peer.host, service.peer.port, [build_context(STUDY_ROOT + "2")], ae_title=service.peer.ae_title
        )
        assoc.send_c_move(identifier, "DEST", STUDY_ROOT + "2")
        assert first.wait(20)
        assoc.abort()
        gone.set()
        wait_until(lambda: "association of LEAVES" in service.log_text(), "the requestor's association to end")
        assert len(receiver.received) == 1


# ---- other programs


def test_orthanc_as_destination(start: Callable[..., Service], orthanc: Callable[..., Orthanc]) -> None:
    server = orthanc()
    files = [Path(str(get_testdata_file(name, download=False))) for name in ("MR_small_RLE.dcm", "JPEG2000.dcm")]
    service = start((), server.peer)
    for file, option in zip(files, ("-xr", "-xw"), strict=True):
        storescu(service.peer, [file], option).ok()
    stored = part10.collect(service.settled())
    for file in files:
        original = pydicom.dcmread(file)
        keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={original.StudyInstanceUID}"]
        assert movescu(service.peer, "ORTHANC", keys).ok().final.count("Completed") == 1
    for identifier in server.get("/instances"):
        uid = server.get(f"/instances/{identifier}")["MainDicomTags"]["SOPInstanceUID"]
        copy = service.folder / f"{identifier}.dcm"
        copy.write_bytes(server.request("GET", f"/instances/{identifier}/file"))
        assert part10.read(copy).data_set() == stored.pop(uid)[0].data_set()
    assert not stored


def test_pynetdicoms_own_programs(start: Callable[..., Service], servers: ExitStack, tmp_path: Path) -> None:
    # getscu offers all syntaxes in one context for each class, of which the archive takes Explicit VR Little Endian.
    sent = [instance(1, CT, EXPLICIT), instance(2, MR, EXPLICIT)]
    scp = Peer("127.0.0.1", free_port(), "PYNETDICOM")
    folders = {name: tmp_path / name for name in ("storescp", "getscu")}
    for folder in folders.values():
        folder.mkdir()
    storescp = Background(
        [
            sys.executable,
            "-m",
            "pynetdicom",
            "storescp",
            "-aet",
            scp.ae_title,
            "-od",
            folders["storescp"],
            str(scp.port),
        ],
        log=tmp_path / "storescp.log",
    )
    servers.callback(storescp.kill)
    storescp.wait_ready(lambda: _listens(scp))
    service = start(sent, scp)
    keys = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    address = ["-aec", service.peer.ae_title, service.peer.host, str(service.peer.port)]
    for name, options in (("movescu", ["-aem", scp.ae_title]), ("getscu", ["-od", folders["getscu"]])):
        done = Background(
            [sys.executable, "-m", "pynetdicom", name, *options, *keys, *address], log=tmp_path / f"{name}.log"
        )
        assert done.process.wait(60) == 0, done.report()
    for folder in folders.values():
        received = {key: files[0].data_set() for key, files in part10.collect(folder).items()}
        assert received == {item.sop_instance: item.data_set for item in sent}


def _listens(peer: Peer) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((peer.host, peer.port)) == 0


def test_the_command_send(start: Callable[..., Service]) -> None:
    sent = [instance(1, CT), instance(1, MR, series=2), instance(1, US, series=3)]
    with Receiver("DEST", [(CT, EXPLICIT), (MR, EXPLICIT)]) as receiver:
        service = start(sent, receiver.peer)
        done = service.cli("send", "device 0", f"{STUDY}.1", sent[1].sop_instance)
        assert "2 of 2 instances sent to DEST@127.0.0.1" in done.stdout
        assert by_uid(receiver.received) == by_uid(sent[:2])
        receiver.received.clear()
        partly = service.cli("send", str(receiver.peer), STUDY, check=False)
        assert partly.returncode == 3
        assert "2 of 3 instances sent" in partly.stdout
        assert f"{sent[2].sop_instance}: the peer takes Ultrasound" in partly.stdout + partly.stderr
        nothing = service.cli("send", str(receiver.peer), "1.2.3.4.5", check=False)
        assert nothing.returncode == 1
        assert "holds no study, series or instance 1.2.3.4.5" in nothing.stderr


def test_getscu_of_what_it_knows_and_movescu_of_a_list(
    start: Callable[..., Service], receiver: Callable[..., StoreSCP], tmp_path: Path
) -> None:
    sent = [instance(number, CT) for number in range(3)]
    scp = receiver("DEST")
    service = start(sent, scp.peer)
    keys = ["QueryRetrieveLevel=IMAGE", f"SOPInstanceUID={sent[0].sop_instance}\\{sent[2].sop_instance}"]
    expected = {item.sop_instance: item.data_set for item in (sent[0], sent[2])}
    got = getscu(service.peer, keys, tmp_path / "got").ok()
    assert {key: file.data_set() for key, file in got.received.items()} == expected
    moved = movescu(service.peer, "DEST", keys).ok()
    assert moved.final.count("Completed") == 2
    assert {key: file.data_set() for key, file in scp.received().items()} == expected
