"""The head of a stored file: read by other programs as well, and read safely whatever a file holds."""

import io
import random
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from angiovault import IMPLEMENTATION_CLASS_UID
from angiovault.archive import filemeta
from angiovault.archive.filemeta import FileMeta, NotDicom

STAMP = "2026-11-22T12:15:07.123456Z"
DIGEST = "0123456789abcdef" * 4


def _head(calling: str = "SENDER", sop_instance_uid: str = "1.2.3") -> bytes:
    uids = "1.2.840.10008.5.1.4.1.1.7", sop_instance_uid, "1.2.840.10008.1.2.1"
    return filemeta.Head(*uids, calling).encode(STAMP, DIGEST)


@pytest.mark.parametrize("calling", ["SENDER", "", "A", "SIXTEEN CHARS OK", "from=x sha256=", "Grün"])
@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])
def test_what_is_written_is_read(calling: str, uid: str) -> None:
    head = _head(calling, uid)
    file = io.BytesIO(head + b"data set")
    meta = filemeta.read(file)
    assert meta == FileMeta(
        "1.2.840.10008.5.1.4.1.1.7", uid, "1.2.840.10008.1.2.1", len(head), DIGEST, STAMP, calling
    )
    assert file.read() == b"data set"


@pytest.mark.parametrize("calling", ["SENDER", "", "ODD", "Grün"])
@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])
@pytest.mark.parametrize("received", [STAMP, f"{STAMP}+"])
def test_its_length_is_known_before_what_is_open(calling: str, uid: str, received: str) -> None:
    head = filemeta.Head("1.2.840.10008.5.1.4.1.1.7", uid, "1.2.840.10008.1.2.1", calling)
    assert head.length(received) == len(head.encode(received, DIGEST))


def test_pydicom_reads_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(_head() + b"\x08\x00\x60\x00CS\x02\x00XA")
    read = pydicom.dcmread(tmp_path / "file")
    assert read.preamble == bytes(128)
    assert read.Modality == "XA"
    meta = read.file_meta
    assert meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert meta.SourceApplicationEntityTitle == "SENDER"
    assert meta.ImplementationClassUID == UID(IMPLEMENTATION_CLASS_UID)
    assert meta.PrivateInformationCreatorUID == filemeta.PRIVATE_INFORMATION_CREATOR
    assert meta.PrivateInformation.rstrip(b"\0") == f"sha256={DIGEST} received={STAMP} from=SENDER".encode()
    pydicom.dataset.validate_file_meta(meta)


def test_a_foreign_file_has_no_digest() -> None:
    with Path(str(get_testdata_file("CT_small.dcm", download=False))).open("rb") as file:
        meta = filemeta.read(file)
        assert file.read(8) == b"\x08\x00\x05\x00CS\x0a\x00"
    assert (meta.digest, meta.received, meta.calling) == ("", "", "")


def test_another_creator_s_private_information_is_not_ours() -> None:
    creator = filemeta.PRIVATE_INFORMATION_CREATOR.encode()
    head = _head().replace(creator, b"1" * len(creator))
    assert filemeta.read(io.BytesIO(head)).digest == ""


def test_a_file_without_group_length() -> None:
    head = _head()
    without = head[:132] + head[144:] + b"\x08\x00\x60\x00CS\x02\x00XA"
    file = io.BytesIO(without)
    assert filemeta.read(file).digest == DIGEST
    assert file.read(4) == b"\x08\x00\x60\x00"


def test_whatever_a_file_holds_it_is_read_or_refused() -> None:
    head = _head()
    chance = random.Random(1)
    for _ in range(3000):
        damaged = bytearray(head[: chance.randrange(len(head) + 1)])
        for _ in range(chance.randrange(4)):
            if len(damaged) > 132:
                damaged[chance.randrange(132, len(damaged))] = chance.randrange(256)
        file = io.BytesIO(bytes(damaged))
        try:
            meta = filemeta.read(file)
        except NotDicom:
            continue
        assert meta.offset == file.tell() <= len(damaged)


def test_a_length_that_lies_costs_no_memory() -> None:
    class Counting(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            Counting.most = max(Counting.most, size or 0)
            return super().read(size)

    lie = bytes(128) + b"DICM" + struct.pack("<HH2s2xL", 2, 1, b"OB", 0xFFFFFFF0)
    with pytest.raises(NotDicom, match="too long"):
        filemeta.read(Counting(lie + bytes(1000)))
    assert Counting.most <= filemeta.LONGEST_META
