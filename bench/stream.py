"""A C-STORE SCU for instances that are larger than memory: the head of a data set, and then zeros from one buffer."""

import random
import struct
from dataclasses import dataclass

from pynetdicom.dsutils import encode

from bench import data
from bench.sides import MAX_PDU
from harness.dcmtk import Peer
from harness.upper_layer import DATA, EXPLICIT, RawPeer, pdu, pdv, store_rq, user_information

_PDV_HEADS = 12
"""Bytes of the heads of a PDU and of a PDV."""


@dataclass
class Stream:
    """One association that sends one instance; `sent`, in bytes, grows while `send` runs in a thread."""

    peer: Peer
    number: int
    pixel_bytes: int
    sent: int = 0

    def send(self) -> None:
        """Send the instance; the answer must be success."""
        head = data.head(data.XA, self.number, random.Random(self.number))
        uid = head.SOPInstanceUID = data.uid(data.XA, self.number, "large image")
        start = (encode(head, False, True) or b"") + struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OW", self.pixel_bytes)
        with RawPeer(self.peer, timeout=600) as line:
            line.associate([(data.XA.sop_class, [EXPLICIT])], information=user_information(MAX_PDU))
            context = line.context(data.XA.sop_class)
            line.send(pdu(DATA, pdv(context, store_rq(data.XA.sop_class, uid), command=True)))
            line.send(pdu(DATA, pdv(context, start, last=False)))
            longest = min(line.max_pdu, MAX_PDU) - _PDV_HEADS // 2
            full = pdu(DATA, pdv(context, bytes(longest), last=False))
            left = self.pixel_bytes
            while left > longest:
                line.send(full)
                left -= longest
                self.sent += longest
            line.send(pdu(DATA, pdv(context, bytes(left))))
            self.sent += left
            if status := line.status():
                raise RuntimeError(f"{self.peer} answered a large instance with status {status:04X}")
            line.release()
