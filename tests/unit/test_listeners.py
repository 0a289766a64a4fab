"""Ports change hands: the new one is open before the old one closes, and nothing is lost when it cannot be had."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from angiovault.dimse.listeners import CannotListen, Listeners, Opening
from harness.processes import free_port
from harness.waiting import wait_until


class Door:
    """Listeners whose connections are kept."""

    def __init__(self) -> None:
        self.taken: list[tuple[socket.socket, str]] = []
        self.listeners = Listeners(self._take, lambda: None)
        self.calls = 0

    def _take(self, connection: socket.socket, address: str, _tls: object) -> None:
        self.taken.append((connection, address))

    def _count(self) -> None:
        self.calls += 1

    def listen(self, *places: tuple[str, int]) -> tuple[int, ...]:
        return self.listeners.change([Opening(*place) for place in places], self._count)

    def answers(self, port: int, address: str = "127.0.0.1") -> bool:
        """Return whether a connection is taken there."""
        before = len(self.taken)
        try:
            with closing(socket.create_connection((address, port), 5)):
                wait_until(lambda: len(self.taken) > before, "the connection to be taken", seconds=5)
        except ConnectionRefusedError:
            return False
        return True


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.listeners.close()
    for connection, _ in door.taken:
        connection.close()


def test_the_new_port_takes_the_place_of_the_old_one(door: Door) -> None:
    (old,) = door.listen(("127.0.0.1", 0))
    assert door.answers(old)
    new = free_port()
    assert door.listen(("127.0.0.1", new)) == (new,)
    assert door.answers(new)
    assert not door.answers(old)
    assert door.calls == 2


def test_a_port_that_stays_is_never_closed(door: Door) -> None:
    port, other = free_port(), free_port()
    door.listen(("127.0.0.1", port))
    failures: list[OSError] = []
    done = threading.Event()

    def knock() -> None:
        while not done.is_set():
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
            except OSError as error:
                failures.append(error)

    thread = threading.Thread(target=knock)
    thread.start()
    for _ in range(20):
        door.listen(("127.0.0.1", port), ("127.0.0.1", other))
        door.listen(("127.0.0.1", port))
    done.set()
    thread.join()
    assert failures == []
    assert door.answers(port)
    assert not door.answers(other)


def test_a_port_that_cannot_be_had_leaves_everything_as_it_was(door: Door) -> None:
    port, free = free_port(), free_port()
    door.listen(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(CannotListen) as refused:
            door.listen(("127.0.0.1", free), ("127.0.0.1", taken))
    assert (refused.value.opening.port, door.calls) == (taken, 1)
    assert door.answers(port)
    assert not door.answers(free)


def test_the_same_port_at_all_addresses_and_back(door: Door) -> None:
    """The system gives an address and all addresses to one socket only: the old one has to make room."""
    port = free_port()
    for address in ("127.0.0.1", "0.0.0.0", "127.0.0.1", "::", "0.0.0.0"):
        assert door.listen((address, port)) == (port,)
        assert door.answers(port)
    assert door.answers(port)


def test_an_old_address_comes_back_when_the_new_one_cannot_be_had(door: Door) -> None:
    port = free_port()
    door.listen(("127.0.0.1", port))
    with socket.create_server(("127.0.0.2", port)), pytest.raises(CannotListen):
        door.listen(("0.0.0.0", port))
    assert door.answers(port)
    with pytest.raises(CannotListen):
        door.listen(("192.0.2.1", port))
    assert door.answers(port)


def test_two_ports_go_to_another_address_together_and_come_back(door: Door) -> None:
    """With TLS there are two."""
    ports = free_port(), free_port()
    for address in ("0.0.0.0", "127.0.0.1", "0.0.0.0"):
        assert door.listen(*((address, port) for port in ports)) == ports
        assert all(map(door.answers, ports))
    door.listen(*(("127.0.0.1", port) for port in ports))
    with socket.create_server(("127.0.0.2", ports[1])), pytest.raises(CannotListen):
        door.listen(*(("0.0.0.0", port) for port in ports))
    assert all(map(door.answers, ports))
