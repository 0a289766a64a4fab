"""TLS below the wire: read and written by two threads at the same time, interrupted, and closed at any moment."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from angiovault.dimse.endings import Interrupted
from angiovault.dimse.tls import TlsConnection
from angiovault.dimse.wire import Wire
from harness.processes import program


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's side."""
    folder: Path = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=archive", "-keyout", key, "-out", certificate]
    subprocess.run([program("openssl"), *arguments, *named], check=True, capture_output=True, timeout=60)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    return server, client


@pytest.fixture
def ends(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[tuple[TlsConnection, ssl.SSLSocket]]:
    """Both ends of a connection, after the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = socket.create_connection(listener.getsockname(), 20)
        accepted, _ = listener.accept()
    near = TlsConnection(accepted, contexts[0])
    shaking = threading.Thread(target=near.handshake, args=(20,))
    shaking.start()
    far = contexts[1].wrap_socket(plain)
    shaking.join()
    far.settimeout(20)
    yield near, far
    near.close()
    far.close()


def test_both_directions_at_once_keep_every_byte(ends: tuple[TlsConnection, ssl.SSLSocket]) -> None:
    near, far = ends
    near.settimeout(20)
    size = 4_000_000
    out, back = bytes(range(256)) * (size // 256), bytes(range(255, -1, -1)) * (size // 256)
    received = bytearray()

    def read() -> None:
        buffer = memoryview(bytearray(1 << 16))
        while len(received) < len(back):
            received.extend(buffer[: near.recv_into(buffer)])

    def write() -> None:
        for start in range(0, len(out), 100_000):
            near.sendall(out[start : start + 100_000])

    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    sent, got = 0, b""
    while sent < len(back) or len(got) < len(out):
        if sent < len(back):
            far.sendall(back[sent : sent + 50_000])
            sent += 50_000
        if len(got) < len(out):
            got += far.recv(100_000)
    for thread in threads:
        thread.join(20)
    assert got == out
    assert received == back


def test_a_report_goes_out_while_the_next_message_is_awaited(ends: tuple[TlsConnection, ssl.SSLSocket]) -> None:
    near, far = ends
    wire = Wire(near, 16384, 10)
    read: list[tuple[int, bytes]] = []
    reading = threading.Thread(target=lambda: read.append(wire.read_pdu()))
    reading.start()
    wire.send(b"report")
    assert far.recv(100) == b"report"
    far.sendall(b"\5\0\0\0\0\4\0\0\0\0")
    reading.join(20)
    assert read == [(5, b"\5\0\0\0\0\4\0\0\0\0")]


def test_decrypted_bytes_are_seen_to_wait(ends: tuple[TlsConnection, ssl.SSLSocket]) -> None:
    near, far = ends
    wire = Wire(near, 16384, 10)
    assert not wire.readable()
    far.sendall(b"\4\0\0\0\0\6" + bytes(6))
    assert wire.read_pdu()[0] == 4
    far.sendall(bytes(10_000))  # one record, of which the wire's first buffer takes a part
    wire.wait(10)
    wire._start = wire._end
    assert wire.readable()


def test_nothing_comes_in_time(ends: tuple[TlsConnection, ssl.SSLSocket]) -> None:
    near, _ = ends
    near.settimeout(0.05)
    with pytest.raises(TimeoutError):
        near.recv_into(memoryview(bytearray(10)))
    with pytest.raises(TimeoutError):
        near.sendall(bytes(1 << 26))


def test_another_thread_may_end_it(ends: tuple[TlsConnection, ssl.SSLSocket]) -> None:
    near, far = ends
    wire = Wire(near, 16384, 60)
    caught: list[Exception] = []

    def serve() -> None:
        try:
            wire.wait(60)
        except Interrupted as end:
            caught.append(end)
            wire.close()

    serving = threading.Thread(target=serve)
    serving.start()
    wire.interrupt("because")
    assert far.recv(100) == bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 0])
    serving.join(20)
    assert [str(end) for end in caught] == ["because"]


def test_a_handshake_is_ended_as_a_whole(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    near, far = socket.socketpair()
    with far:
        connection = TlsConnection(near, contexts[0])
        over = threading.Event()

        def trickle() -> None:
            for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500):
                if over.wait(0.02):
                    return
                far.send(bytes([byte]))

        sending = threading.Thread(target=trickle)
        sending.start()
        try:
            with pytest.raises(TimeoutError):
                connection.handshake(0.3)
        finally:
            over.set()
            sending.join()
            connection.close()
