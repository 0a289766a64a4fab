"""What is done when an association has ended."""

import socket

import pytest

from angiovault.config import Config
from angiovault.dimse.association import Association
from angiovault.dimse.conversation import converse
from angiovault.dimse.negotiation import Context
from angiovault.dimse.wire import Wire

_RELEASE_RQ, _RELEASE_RP = b"\5\0\0\0\0\4" + bytes(4), b"\6\0\0\0\0\4" + bytes(4)
_ABORT = b"\7\0\0\0\0\4" + bytes(4)


@pytest.mark.parametrize(
    ("sent", "answered", "ending"),
    [
        (_RELEASE_RQ, _RELEASE_RP, "released"),
        (_ABORT, b"", "aborted by the peer"),
        (b"GET / HTTP/1.1\r\n\r\n", b"\7\0\0\0\0\4", "aborted: "),
        (_RELEASE_RQ[:3], b"", "connection closed by the peer"),
    ],
    ids=["released", "aborted", "garbage", "lost"],
)
def test_the_peer_is_let_go_before_what_is_to_be_done_at_the_end(sent: bytes, answered: bytes, ending: str) -> None:
    near, far = socket.socketpair()
    far.settimeout(20)
    association = Association(Wire(near, 16384, 10), "127.0.0.1", "CALLING", "CALLED", (Context(1, "1.2", "1.2"),))
    seen: list[tuple[bytes, bool, float]] = []

    def at_end() -> None:
        got = b""
        while more := far.recv(1 << 10):  # to the end of the connection
            got += more
        seen.append((got, association.has_ended, association.silence))

    association.at_end = at_end
    with far:
        far.sendall(sent)
        far.shutdown(socket.SHUT_WR)
        assert not association.has_ended
        assert converse(association, {}, Config(), lambda: False).text.startswith(ending)
    ((got, has_ended, silence),) = seen
    assert got[: len(answered)] == answered
    assert bool(got) == bool(answered)
    assert (has_ended, silence) == (True, 0)
