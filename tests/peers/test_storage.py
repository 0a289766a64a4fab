"""C-STORE: real senders, every class and syntax, every status, and instances of any size in constant memory."""

import hashlib
import re
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.sop_class import _STORAGE_CLASSES

from angiovault.dimse import sop_classes
from harness import part10
from harness.dcmtk import PROPOSE, StoreSCP, storescu
from harness.orthanc import Orthanc
from harness.part10 import Part10
from harness.processes import environment, program
from harness.service import Service
from harness.upper_layer import (
    CT_IMAGE,
    DATA,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    XA_IMAGE,
    RawPeer,
    data_set,
    element,
    pdu,
    pdv,
    store_rq,
)

SIEMENS_NON_IMAGE = "1.3.12.2.1107.5.9.1"
PRIVATE = (SIEMENS_NON_IMAGE, "1.3.12.2.1107.5.99.3.10", "1.3.12.2.1107.5.99.3.11", "1.3.46.670589.2.3.1.1", "1.2.3.4")
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"


def sample(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


FILES = {
    name: sample(name)
    for name in (
        "MR_small_implicit.dcm",
        "CT_small.dcm",
        "MR_small_bigendian.dcm",
        "image_dfl.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "JPGExtended.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "MR_small_jp2klossless.dcm",
        "JPEG2000.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_RLE.dcm",
    )
}


@pytest.fixture
def archive(service: Callable[..., Service]) -> Iterator[Service]:
    """A service with default settings, in whose log nothing may look like a mistake of the program."""
    running = service()
    yield running
    log = running.log_text()
    assert "Traceback" not in log
    assert "internal error" not in log


def kept(service: Service) -> dict[str, list[Part10]]:
    return part10.collect(service.settled())


def rows(service: Service, columns: str) -> list[tuple[object, ...]]:
    """Return columns of the instances in the index."""
    with sqlite3.connect(f"file:{service.settled()}.index.sqlite3?mode=ro", uri=True) as database:
        return database.execute(f"SELECT {columns} FROM instance ORDER BY id").fetchall()


# ---- real senders


@pytest.mark.parametrize("name", FILES)
def test_storescu_in_every_syntax_it_can_send(archive: Service, receiver: Callable[..., StoreSCP], name: str) -> None:
    """What DCMTK's own receiver gets from the same call is the judge: storescu encodes anew what it sends."""
    path = FILES[name]
    syntax = part10.read(path).transfer_syntax
    twin = receiver()
    for peer in (archive.peer, twin.peer):
        assert storescu(peer, [path], PROPOSE[syntax]).ok().statuses == [0]
    assert {
        uid: [(copy.transfer_syntax, copy.sha256()) for copy in copies] for uid, copies in kept(archive).items()
    } == {uid: [(copy.transfer_syntax, copy.sha256())] for uid, copy in twin.received().items()}
    (copies,) = kept(archive).values()
    assert copies[0].transfer_syntax == syntax
    class_name = sop_classes.label(str(copies[0].meta.MediaStorageSOPClassUID))
    archive.wait_for_log(f"1 stored {class_name} in {sop_classes.label(syntax)}, ")


def test_dcmsend_sends_many_classes_and_syntaxes_on_one_association(archive: Service) -> None:
    arguments = [program("dcmsend"), "127.0.0.1", str(archive.peer.port), *FILES.values()]
    subprocess.run(arguments, check=True, capture_output=True, timeout=60, env=environment())
    assert set(kept(archive)) == {part10.read(path).sop_instance_uid for path in FILES.values()}


def test_the_same_instance_again_is_a_success_and_one_copy(archive: Service) -> None:
    for _ in range(2):
        assert storescu(archive.peer, [FILES["CT_small.dcm"]]).ok().statuses == [0]
    assert [len(copies) for copies in kept(archive).values()] == [1]
    archive.wait_for_log("1 duplicate CT Image Storage in Explicit VR Little Endian")


def test_pynetdicoms_storescu(archive: Service) -> None:
    arguments = [sys.executable, "-m", "pynetdicom", "storescu", "127.0.0.1", str(archive.peer.port)]
    subprocess.run([*arguments, FILES["CT_small.dcm"], "-cx"], check=True, capture_output=True, timeout=60)
    ((copy,),) = kept(archive).values()
    stored = pydicom.dcmread(copy.path)
    assert stored.PixelData == pydicom.dcmread(FILES["CT_small.dcm"]).PixelData
    archive.wait_for_log("1 stored CT Image Storage in Explicit VR Little Endian")


def test_gdcmscu(archive: Service) -> None:
    arguments = [program("gdcmscu"), "--store", "127.0.0.1", str(archive.peer.port), "--call", "ANGIOVAULT"]
    done = subprocess.run(
        [*arguments, "-i", FILES["MR_small_implicit.dcm"]],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )
    ((copy,),) = kept(archive).values()
    assert copy.sop_instance_uid == part10.read(FILES["MR_small_implicit.dcm"]).sop_instance_uid, done.stderr
    archive.wait_for_log("association of GDCMSCU@127.0.0.1 with ANGIOVAULT: 1 stored MR Image Storage")


def test_orthanc_sends(archive: Service, orthanc: Callable[..., Orthanc]) -> None:
    sender = orthanc(modalities={"archive": archive.peer})
    identifiers = [sender.upload(path) for path in FILES.values()]
    summary = sender.send("archive", *identifiers)
    assert (summary["InstancesCount"], summary["FailedInstancesCount"]) == (len(FILES), 0)
    assert set(kept(archive)) == {part10.read(path).sop_instance_uid for path in FILES.values()}
    for path in FILES.values():
        original = part10.read(path)
        (copy,) = kept(archive)[original.sop_instance_uid]
        if copy.transfer_syntax == original.transfer_syntax:
            assert pydicom.dcmread(copy.path).PixelData == pydicom.dcmread(path).PixelData


# ---- classes and syntaxes, over the network door


def test_every_storage_class_is_accepted_and_no_other(archive: Service) -> None:
    storage = [*map(str, _STORAGE_CLASSES.values()), "1.2.840.10008.5.1.4.1.1.12.3", "1.2.840.10008.5.1.1.27", *PRIVATE]
    other = [*sorted(sop_classes.PRIVATE_NOT_STORAGE), "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.5.1.4.38.1"]
    accepted, refused = [], []
    for start in range(0, len(storage + other), 128):
        caller = AE("PYNETDICOM")
        for uid in (storage + other)[start : start + 128]:
            caller.add_requested_context(uid, EXPLICIT)
        association = caller.associate("127.0.0.1", archive.peer.port)
        accepted += [str(context.abstract_syntax) for context in association.accepted_contexts]
        refused += [(str(context.abstract_syntax), context.result) for context in association.rejected_contexts]
        association.release()
    assert sorted(accepted) == sorted(storage)
    assert sorted(refused) == sorted((uid, 3) for uid in other)
    for uid in other:
        assert f"{sop_classes.name(uid)}: SOP class not supported" in archive.log_text()


@pytest.mark.parametrize("sop_class", PRIVATE)
def test_private_objects_are_kept_to_the_byte(archive: Service, sop_class: str) -> None:
    odd = element(0x00291010, b"UN", b"", length=3) + b"\0\1\2"  # an odd length, as some devices send it
    data = data_set("1.2.99", sop_class=sop_class).replace(element(0x7FE00010, b"OW", b"\1\2\3\4"), odd)
    with RawPeer(archive.peer) as peer:
        peer.associate([(sop_class, [EXPLICIT])])
        assert peer.store("1.2.99", data, sop_class=sop_class) == 0
        peer.release()
    ((copy,),) = kept(archive).values()
    assert copy.data_set() == data
    assert copy.preamble == bytes(128)
    assert copy.meta.MediaStorageSOPClassUID == sop_class


def test_every_transfer_syntax_is_answered_as_the_standard_and_the_manual_say(archive: Service) -> None:
    syntaxes = [
        *sop_classes.TRANSFER_SYNTAXES,
        "1.2.840.10008.1.2.4.94",
        "1.2.840.10008.1.2.4.205",
        "1.2.840.113619.5.2",
    ]
    several = [
        (JPEG_LOSSLESS, IMPLICIT, EXPLICIT),
        (JPEG_LOSSLESS, IMPLICIT),
        ("1.2.840.10008.1.2.4.50", JPEG_LOSSLESS),
    ]
    with RawPeer(archive.peer) as peer:
        answers = peer.associate([(CT_IMAGE, [uid]) for uid in syntaxes] + [(XA_IMAGE, list(each)) for each in several])
        peer.release()
    given = list(answers.values())
    assert given[: len(syntaxes) - 3] == [(0, uid) for uid in sop_classes.TRANSFER_SYNTAXES]
    assert [result for result, _ in given[len(syntaxes) - 3 : len(syntaxes)]] == [4, 4, 4]
    assert given[len(syntaxes) :] == [(0, EXPLICIT), (0, IMPLICIT), (0, JPEG_LOSSLESS)]


# ---- statuses


def test_what_is_wrong_is_answered_by_the_status_that_says_so(archive: Service) -> None:
    whole = data_set("1.2.99")
    with RawPeer(archive.peer) as peer:
        peer.associate([(VERIFICATION, [IMPLICIT]), (CT_IMAGE, [EXPLICIT]), (XA_IMAGE, [EXPLICIT])])
        ct = peer.context(CT_IMAGE)

        def answer(command: bytes, data: bytes | None, context: int = ct) -> tuple[object, str]:
            peer.message(context, command, data)
            response = peer.response()
            return response[0x0900], bytes(response.get(0x0902, b"")).decode().rstrip()  # type: ignore[arg-type]

        assert answer(store_rq(CT_IMAGE, "1.2.98"), whole) == (
            0xA900,
            "the data set is 1.2.99 of class 1.2.840.10008.5.1.4.1.1.2, annou",
        )
        assert answer(store_rq(CT_IMAGE, "1.2.99"), data_set("1.2.99", sop_class=XA_IMAGE))[0] == 0xA900
        assert answer(store_rq(XA_IMAGE, "1.2.99"), whole) == (
            0x0122,
            f"class of the presentation context is {CT_IMAGE}",
        )
        assert answer(store_rq(CT_IMAGE, "1.2.99"), whole, peer.context(VERIFICATION))[0] == 0x0211
        assert answer(store_rq(CT_IMAGE, ""), whole)[0] == 0xC000
        assert answer(store_rq(CT_IMAGE, "1.2.99"), b"")[0] == 0xC000
        assert answer(store_rq(CT_IMAGE, "1.2.99"), b"no DICOM at all" * 100)[0] == 0xC000
        assert answer(store_rq(CT_IMAGE, "1.2.99"), data_set("1.2.99", study=""))[0] == 0xC000
        assert answer(store_rq(CT_IMAGE, "1.2.99"), data_set("1.2.99", series=""))[0] == 0xC000
        # The head is cut within the Study Instance UID.
        assert answer(store_rq(CT_IMAGE, "1.2.99"), whole[: whole.index(b"1.2.3\0") + 2])[0] == 0xC000
        assert kept(archive) == {}
        assert peer.store("1.2.99", whole) == 0
        peer.release()
    archive.wait_for_log("association of RAWPEER@127.0.0.1 with ANGIOVAULT: 9 refused, 1 stored CT Image Storage")
    log = archive.log_text()
    what = r"WARNING refused (\S+|an instance without UID) of class .* in Explicit VR Little Endian 1\.2\.840\S+"
    assert len(re.findall(what + r" from RAWPEER@127\.0\.0\.1: .+ \(status (A900|0122|C000)\)", log)) == 9


def test_a_caller_in_the_scp_role_alone_may_not_store(service: Callable[..., Service]) -> None:
    archive = service(unknown_devices="all")
    only_scp = struct.pack(">H", len(CT_IMAGE)) + CT_IMAGE.encode() + b"\0\1"
    information = b"P\0" + struct.pack(">HBxHL", 12 + len(only_scp), 0x51, 4, 16384)
    information += struct.pack(">BxH", 0x54, len(only_scp)) + only_scp
    with RawPeer(archive.peer) as peer:
        peer.associate([(CT_IMAGE, [EXPLICIT])], information=information)
        assert peer.store("1.2.99", data_set("1.2.99")) == 0x0124
        peer.release()
    assert kept(archive) == {}


def test_a_data_set_whose_last_element_is_short_is_kept_and_marked(archive: Service) -> None:
    whole = data_set("1.2.99", pixels=bytes(1000))
    with RawPeer(archive.peer) as peer:
        peer.associate()
        assert peer.store("1.2.99", whole[:-400]) == 0
        assert peer.store("1.2.98", data_set("1.2.98")) == 0
        peer.release()
    ((copy,), _) = sorted(kept(archive).values(), key=lambda copies: copies[0].sop_instance_uid, reverse=True)
    assert copy.data_set() == whole[:-400]
    assert rows(archive, "uid, complete") == [("1.2.99", 0), ("1.2.98", 1)]
    assert re.search(
        r"WARNING .* from RAWPEER@127\.0\.0\.1 is kept but incomplete: .*7FE0,0010.* 400 bytes short",
        archive.log_text(),
    )


# ---- size


def peak(pid: int) -> int:
    """Return the most resident memory that a process has had, in bytes."""
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(line) * 1024


def send_zeros(peer: RawPeer, uid: str, head: bytes, count: int) -> str:
    """Send an instance whose pixel data are `count` zeros; return the SHA-256 of its data set."""
    context = peer.context(CT_IMAGE)
    peer.send(pdu(DATA, pdv(context, store_rq(CT_IMAGE, uid), command=True)))
    peer.send(pdu(DATA, pdv(context, head, last=False)))
    size = peer.max_pdu - 6
    whole = pdu(DATA, pdv(context, bytes(size), last=False))
    digest = hashlib.sha256(head)
    piece = bytes(size)
    for _ in range(count // size):
        peer.send(whole)
        digest.update(piece)
    peer.send(pdu(DATA, pdv(context, bytes(count % size))))
    digest.update(bytes(count % size))
    assert peer.status() == 0
    return digest.hexdigest()


def test_memory_does_not_grow_with_the_size_of_an_instance(archive: Service) -> None:
    with RawPeer(archive.peer, timeout=120) as peer:
        peer.associate()
        sizes = (1 << 20, 600 << 20)
        peaks = []
        for number, size in enumerate(sizes):
            head = data_set(f"1.2.{number}", pixels=b"")[:-4] + struct.pack("<L", size)
            send_zeros(peer, f"1.2.{number}", head, size)
            peaks.append(peak(archive.pid))
        peer.release()
    files = [copies[0].path for copies in kept(archive).values()]
    assert sorted(path.stat().st_size >> 20 for path in files) == [1, 600]
    assert peaks[1] - peaks[0] < 40 << 20
    for path in files:
        path.unlink()  # pytest keeps the folders of the last runs


@pytest.mark.slow
def test_an_instance_of_more_than_four_gigabytes(archive: Service) -> None:
    # Encapsulated pixel data of two fragments: each is less than 4 GiB, as lengths have 32 bits, both are more.
    fragment = (2 << 30) + (64 << 20)
    head = data_set("1.2.99", pixels=b"")[:-12] + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF)
    head += struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    digest = hashlib.sha256(head)
    with RawPeer(archive.peer, timeout=300) as peer:
        peer.associate([(CT_IMAGE, ["1.2.840.10008.1.2.4.70"])])
        context = peer.context(CT_IMAGE)
        size = peer.max_pdu - 6
        piece = bytes(size)
        whole = pdu(DATA, pdv(context, piece, last=False))
        peer.send(pdu(DATA, pdv(context, store_rq(CT_IMAGE, "1.2.99"), command=True)))
        peer.send(pdu(DATA, pdv(context, head, last=False)))
        for _ in range(2):
            item = struct.pack("<HHL", 0xFFFE, 0xE000, fragment)
            rest = bytes(fragment % size)
            peer.send(pdu(DATA, pdv(context, item, last=False)))
            digest.update(item)
            for _ in range(fragment // size):
                peer.send(whole)
                digest.update(piece)
            peer.send(pdu(DATA, pdv(context, rest, last=False)))
            digest.update(rest)
        end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        digest.update(end)
        peer.send(pdu(DATA, pdv(context, end)))
        assert peer.status() == 0
        peer.release()
    ((copy,),) = kept(archive).values()
    length = len(head) + 2 * (8 + fragment) + 8
    assert length > 1 << 32
    assert copy.path.stat().st_size - copy.offset == length
    assert copy.sha256() == digest.hexdigest()
    assert rows(archive, "digest, size, complete") == [(digest.hexdigest(), length, 1)]
    copy.path.unlink()  # pytest keeps the folders of the last runs
