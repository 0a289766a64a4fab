"""Private blocks and private objects as an angiography system's console stores them.

Their layout follows what such consoles are known to write; their contents are invented. What matters is that every
byte of them comes back: odd lengths, nested private sequences, sequences hidden in UN.
"""

import random
import struct
from collections.abc import Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from angiovault.phantom.encoding import VerbatimElement
from angiovault.phantom.identity import Study

SYNGO_NON_IMAGE = "1.3.12.2.1107.5.9.1"
CT_MR_VOLUME = "1.3.12.2.1107.5.99.3.10"
AX_FRAME_SETS = "1.3.12.2.1107.5.99.3.11"

_ACQUISITION = "SIEMENS SMS-AX  ACQ 1.0"
_MEDCOM = "SIEMENS MEDCOM HEADER"
_CSA_IMAGE = "SIEMENS CSA HEADER"
_CSA_NON_IMAGE = "SIEMENS CSA NON-IMAGE"


def add_acquisition_block(dataset: Dataset, frames: int) -> None:
    """Add private attributes of the acquisition, group 0021."""
    block = dataset.private_block(0x0021, _ACQUISITION, create=True)
    block.add_new(0x00, "US", 3)
    block.add_new(0x05, "SL", 1234 * frames)
    block.add_new(0x0D, "SS", [-1000, 0, 985, 0])
    block.add_new(0x12, "OB", b"\x01\x02\x03\x04STPAR\0")
    block.add_new(0x17, "SL", 785)
    block.add_new(0x1E, "US", [0, 1, 2, 3, 4, 5, 6, 7])
    block.add_new(0x25, "LO", "Phantom DSA")


def add_medcom_header(dataset: Dataset, rng: random.Random, kind: str, *, awkward: bool = False) -> None:
    """Add the MedCom header, group 0029, with nested private sequences.

    The awkward one has odd lengths, sequences of undefined length, and a sequence hidden in UN of undefined length:
    what the standard frowns upon or few expect, and what programs that parse and write again do not leave as it was.
    """
    block = dataset.private_block(0x0029, _MEDCOM, create=True)
    odd = 1 if awkward else 0
    block.add_new(0x08, "CS", "MEDCOM 1")
    block.add_new(0x09, "LO", "20150309")
    dataset.add(VerbatimElement(block.get_tag(0x10), "OB", _blob(rng, 1200 + odd)))
    dataset.add(VerbatimElement(block.get_tag(0x20), "OB", _blob(rng, 332 + odd)))
    item = Dataset()
    inner = item.private_block(0x0029, _MEDCOM, create=True)
    inner.add_new(0x41, "CS", kind)
    inner.add_new(0x42, "LO", "PHANTOM APPLICATION")
    inner.add_new(0x43, "LO", "VC14")
    item.add(VerbatimElement(inner.get_tag(0x44), "OB", _blob(rng, 76 + odd)))
    deeper = Dataset()
    deeper.private_block(0x0029, _MEDCOM, create=True).add_new(0x50, "LO", "com")
    inner.add_new(0x40, "SQ", Sequence([deeper]))
    sequence = DataElement(block.get_tag(0x40), "SQ", Sequence([item, deeper]))
    sequence.is_undefined_length = awkward
    dataset.add(sequence)
    if awkward:
        dataset.add(VerbatimElement(block.get_tag(0x48), "UN", _hidden_items(), undefined_length=True))


def private_objects(study: Study, series_number: int, size: int = 300_001) -> Iterator[Dataset]:
    """Yield one instance each of the console's private SOP classes, with about `size` bytes of private data."""
    rng = study.random("private", series_number)
    kinds = (
        (SYNGO_NON_IMAGE, "OT", "Syngo non-image"),
        (CT_MR_VOLUME, "CT", "CT-MR volume"),
        (AX_FRAME_SETS, "XA", "AX frame sets"),
    )
    for number, (sop_class, modality, description) in enumerate(kinds):
        dataset = study.instance(sop_class, modality, series_number + number, 1, description)
        dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER", "CSA RESULT"]
        image = dataset.private_block(0x0029, _CSA_IMAGE, create=True)
        image.add_new(0x08, "CS", "NUM 4")
        image.add_new(0x09, "LO", "20150309")
        image_header = csa_header({"EchoLinePosition": "64", "UsedChannelMask": "1"})
        series_header = csa_header({"Isocentered": "1", "PatientName": "PHANTOM"}) + b"\x01"
        dataset.add(VerbatimElement(image.get_tag(0x10), "OB", image_header))
        dataset.add(VerbatimElement(image.get_tag(0x20), "UN", series_header))
        add_medcom_header(dataset, rng, modality, awkward=True)
        data = dataset.private_block(0x7FE1, _CSA_NON_IMAGE, create=True)
        dataset.add(VerbatimElement(data.get_tag(0x10), "OB", _blob(rng, size)))
        yield dataset


def csa_header(entries: dict[str, str]) -> bytes:
    """Return a CSA header of the second kind: "SV10", then tags of name, VR and items, each padded to four bytes."""
    header = b"SV10\4\3\2\1" + struct.pack("<II", len(entries), 77)
    for name, text in entries.items():
        value = text.encode("ascii") + b"\0"
        header += struct.pack("<64sI4sIII", name.encode("ascii"), 1, b"LO\0\0", 19, 6, 77)
        header += struct.pack("<IIII", len(value), len(value), 77, len(value)) + value + bytes(-len(value) % 4)
        header += struct.pack("<IIII", 0, 0, 77, 0) * 5
    return header


def _hidden_items() -> bytes:
    """Return two items as UN of undefined length holds them: Implicit VR Little Endian throughout (PS3.5 6.2.2)."""
    text = b"HIDDEN IN UN"
    creator = b"SIEMENS MEDCOM HEADER "
    content = struct.pack("<HHI", 0x0029, 0x0010, len(creator)) + creator
    content += struct.pack("<HHI", 0x0029, 0x1043, len(text)) + text
    defined = struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    undefined = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + content + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    return defined + undefined


def _blob(rng: random.Random, size: int) -> bytes:
    return rng.getrandbits(8 * size).to_bytes(size, "little")
