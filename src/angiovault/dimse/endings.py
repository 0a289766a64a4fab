"""How associations end, or fail to begin: one exception for each way."""

from __future__ import annotations

from typing import Final

RELEASED: Final = "released"
ABORTED: Final = "aborted"
LOST: Final = "lost"
INTERRUPTED: Final = "interrupted"
TIMED_OUT: Final = "timed-out"
PROTOCOL: Final = "protocol"
FAILED: Final = "failed"
REJECTED: Final = "rejected"


class CannotAssociate(Exception):
    """No association with the device; the text says why and what to check."""


class AssociationEnded(Exception):
    """The association is over; the text says how, `word` in one word."""

    word = FAILED


class Released(AssociationEnded):
    """The peer asked for release and got it."""

    word = RELEASED


class Aborted(AssociationEnded):
    """The peer aborted."""

    word = ABORTED


class ConnectionLost(AssociationEnded):
    """The connection broke or was closed without a word."""

    word = LOST


class Interrupted(AssociationEnded):
    """Another thread of ours ended the association."""

    word = INTERRUPTED


class TimedOut(AssociationEnded):
    """The peer was silent or too slow for too long."""

    word = TIMED_OUT


class ProtocolError(AssociationEnded):
    """The peer broke the protocol; `reason` is that of the A-ABORT to send (PS3.8 9.3.8)."""

    word = PROTOCOL

    def __init__(self, text: str, reason: int = 6) -> None:
        super().__init__(text)
        self.reason = reason
