"""How associations end: one exception for each way, raised out of every read and write on the connection."""

from __future__ import annotations


class AssociationEnded(Exception):
    """The association is over; the text says how."""


class Released(AssociationEnded):
    """The peer asked for release and got it."""


class Aborted(AssociationEnded):
    """The peer aborted."""


class ConnectionLost(AssociationEnded):
    """The connection broke or was closed without a word."""


class Interrupted(AssociationEnded):
    """Another thread of ours ended the association."""


class TimedOut(AssociationEnded):
    """The peer was silent or too slow for too long."""


class ProtocolError(AssociationEnded):
    """The peer broke the protocol; `reason` is that of the A-ABORT to send (PS3.8 9.3.8)."""

    def __init__(self, text: str, reason: int = 6) -> None:
        super().__init__(text)
        self.reason = reason
