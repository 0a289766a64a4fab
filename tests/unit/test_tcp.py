"""A TCP connection with time-outs kept by the kernel: they hold, also when they change."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from angiovault.dimse.tcp import TcpConnection

Pair = tuple[TcpConnection, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    with near, far:
        yield TcpConnection(near), far


def seconds_until_time_out(connection: TcpConnection) -> float:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        connection.recv_into(memoryview(bytearray(1)))
    return time.monotonic() - began


@pytest.mark.parametrize("seconds", [(0.05, 0.05), (0.3, 0.02), (0.02, 0.3), (0.1, 0.099)])
def test_a_time_out_holds_also_after_another(pair: Pair, seconds: tuple[float, float]) -> None:
    connection, _ = pair
    for wanted in seconds:
        connection.settimeout(wanted)
        assert wanted * 0.9 < seconds_until_time_out(connection) < wanted * 1.05 + 5


def test_whoever_sends_does_not_change_how_long_another_thread_reads(pair: Pair) -> None:
    connection, far = pair
    real = connection._socket
    calls = 0

    class Waiting:
        """The socket: the kernel's time-out of an earlier read passes, while another thread sends in less time."""

        def setsockopt(self, *arguments: object) -> None:
            real.setsockopt(*arguments)  # type: ignore[call-overload]

        def recv_into(self, *arguments: object) -> int:
            nonlocal calls
            calls += 1
            if calls == 1:
                connection.settimeout(0.001)
                raise BlockingIOError
            return real.recv_into(*arguments)  # type: ignore[arg-type]

    connection.settimeout(0.02)
    seconds_until_time_out(connection)
    connection._socket = Waiting()  # type: ignore[assignment]
    connection.settimeout(60)
    far.sendall(b"x")
    assert connection.recv_into(memoryview(bytearray(1))) == 1
    assert calls == 2
    connection._socket = real


def test_a_time_out_of_no_time_does_not_wait_for_ever(pair: Pair) -> None:
    connection, _ = pair
    connection.settimeout(0)
    assert seconds_until_time_out(connection) < 5


def test_what_is_there_is_read_without_waiting_for_more(pair: Pair) -> None:
    connection, far = pair
    connection.settimeout(60)
    far.sendall(b"abc")
    buffer = memoryview(bytearray(10))
    assert connection.recv_into(buffer) == 3
    assert bytes(buffer[:3]) == b"abc"


def test_the_end_is_no_bytes(pair: Pair) -> None:
    connection, far = pair
    far.close()
    assert connection.recv_into(memoryview(bytearray(1))) == 0


def test_much_is_sent_whole_to_a_slow_reader(pair: Pair) -> None:
    connection, far = pair
    connection.settimeout(30)
    sent, got = bytes(range(256)) * (1 << 14), bytearray()

    def read() -> None:
        while more := far.recv(1 << 16):
            got.extend(more)

    reader = threading.Thread(target=read)
    reader.start()
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    reader.join(30)
    assert bytes(got) == sent


def test_the_time_out_of_sending_counts_while_nothing_is_taken(pair: Pair) -> None:
    connection, _ = pair
    connection.settimeout(0.05)
    with pytest.raises(TimeoutError):
        connection.sendall(bytes(1 << 24))


def test_a_shutdown_wakes_the_thread_that_reads(pair: Pair) -> None:
    connection, _ = pair
    connection.settimeout(600)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.append(connection.recv_into(memoryview(bytearray(1)))))
    reader.start()
    connection.shutdown(socket.SHUT_RDWR)
    reader.join(30)
    assert got == [0]
