"""The acceptor alone: who is let in when it is full, and what becomes of a service that fails."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from angiovault.config import Config
from angiovault.devices import DeviceBook
from angiovault.dimse import messages, server, verification
from angiovault.dimse.association import Association
from angiovault.dimse.listeners import Opening
from angiovault.dimse.messages import Message
from angiovault.dimse.server import Server, Terms
from angiovault.reasons import Reason
from harness.dcmtk import Peer
from harness.upper_layer import ABORT, CT_IMAGE, RJ, RawPeer, associate_rq, data_set
from harness.waiting import wait_until

Refusal = tuple[str, str, str, Reason]


def fail(association: Association, message: Message) -> None:
    raise RuntimeError("on purpose")


class Running:
    """A server whose C-STORE service fails."""

    def __init__(self, stack: ExitStack, **settings: object) -> None:
        self._stack = stack
        self.refusals: list[Refusal] = []
        config = dataclasses.replace(Config(), **settings)  # type: ignore[arg-type]
        handlers = {messages.C_ECHO_RQ: verification.answer, messages.C_STORE_RQ: fail}
        self.ended: list[str] = []
        self.server = Server(
            DeviceBook(None),
            lambda *refusal: self.refusals.append(refusal),
            lambda _, how: self.ended.append(how),
        )
        (port,) = self.server.serve(Terms(config, handlers), [Opening("127.0.0.1", 0)])
        self.peer = Peer("127.0.0.1", port, "ANGIOVAULT")
        stack.callback(self.server.stop, 10)

    def connect(self) -> RawPeer:
        return self._stack.enter_context(RawPeer(self.peer))

    def associate(self) -> RawPeer:
        peer = self.connect()
        peer.associate()
        return peer

    def rejected(self) -> bool:
        peer = self.connect()
        peer.send(associate_rq([(1, CT_IMAGE, ["1.2.840.10008.1.2.1"])]))
        return peer.receive() == (RJ, b"\0\2\3\2")


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:
        yield lambda **settings: Running(stack, **settings)


def test_the_association_idle_the_longest_makes_room(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = running(max_associations=3)
    first, second, third = (full.associate() for _ in range(3))
    assert full.rejected()
    assert first.echo() == 0  # so it is the second that has been idle the longest
    monkeypatch.setattr(server, "_MAY_BE_EVICTED_AFTER", 0.0)
    fourth = full.associate()
    assert second.ending() == ABORT
    assert [peer.echo() for peer in (first, third, fourth)] == [0, 0, 0]
    wait_until(lambda: "to make room for another association" in caplog.text, "a line in the log")
    assert [len(refusal) for refusal in full.refusals] == [4]
    assert str(full.refusals[0][3]) == "local limit exceeded: 3 associations are open already"


def test_a_busy_association_never_makes_room(running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MAY_BE_EVICTED_AFTER", 0.0)
    full = running(max_associations=1)
    full.associate()
    (association,) = wait_until(full.server.associations, "the association")
    wait_until(lambda: not association.busy, "the association to wait for its first message")
    association.busy = True
    assert full.rejected()
    association.busy = False
    assert not full.rejected()


def test_an_association_that_a_failing_service_ends_is_aborted_and_logged(
    running: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    failing = running()
    peer = failing.associate()
    with pytest.raises(AssertionError, match="PDU of type 7"):
        peer.store("1.2.3", data_set("1.2.3"))
    assert failing.associate().echo() == 0
    wait_until(lambda: "serving 127.0.0.1 failed" in caplog.text, "a line in the log")
    assert "RuntimeError: on purpose" in caplog.text
    assert "aborted by an internal error" in caplog.text
    wait_until(lambda: failing.ended == ["failed"], "the end to be told")


def test_a_report_goes_to_an_association_only_after_it_was_accepted(running: Callable[..., Running]) -> None:
    started = running()
    peer = started.associate()
    (association,) = started.server.associations()
    assert (association.calling, association.peer) == ("RAWPEER", "127.0.0.1")
    peer.release()
    wait_until(lambda: started.server.associations() == [], "the association to be forgotten")


@pytest.mark.parametrize(
    ("as_sockets_give_it", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_ipv4_address_is_one_on_an_ipv6_socket_too(as_sockets_give_it: str, plain: str) -> None:
    assert server._plain_address(as_sockets_give_it) == plain
