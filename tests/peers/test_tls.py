"""DICOM over TLS on its own port; DCMTK and OpenSSL are the counterparts."""

import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from harness import part10
from harness.dcmtk import Peer, Result, echoscu, findscu, storescu
from harness.processes import free_port, program
from harness.service import Service
from harness.upper_layer import RQ, RawPeer, data_set, pdu

ServiceFactory = Callable[..., Service]

CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))
CT_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", self.pair.key, "-out", self.pair.certificate,
        )  # fmt: skip

    def issue(self, name: str, *, days: int = 2) -> Pair:
        """Return a certificate that this authority has signed."""
        pair, request = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key"), self.folder / f"{name}.csr"
        _openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request,
            "-addext", "subjectAltName=IP:127.0.0.1",
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.pair.certificate, "-CAkey", self.pair.key, "-CAcreateserial",
            "-days", str(days), "-copy_extensions", "copy", "-out", pair.certificate,
        )  # fmt: skip
        return pair


def _openssl(*arguments: str | Path) -> None:
    subprocess.run([program("openssl"), *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "hospital")


@pytest.fixture(scope="module")
def archive_pair(authority: Authority) -> Pair:
    return authority.issue("archive")


@pytest.fixture(scope="module")
def device_pair(authority: Authority) -> Pair:
    return authority.issue("device")


@pytest.fixture
def secured(service: ServiceFactory, archive_pair: Pair) -> Callable[..., tuple[Service, Peer]]:
    """Start a service with a TLS port; return it and where that port is."""

    def start(client_ca: Path | None = None, dicom: str = "", **parameters: Any) -> tuple[Service, Peer]:
        port = free_port()
        text = f"[dicom]\n{dicom}\n[tls]\ntls-port = {port}\ntls-certificate = {archive_pair.certificate}\n"
        text += f"tls-key = {archive_pair.key}\ntls-client-ca = {client_ca or ''}\n"
        running = service(config=text, **parameters)
        return running, Peer("127.0.0.1", port, "ANGIOVAULT")

    return start


def anonymous(authority: Authority) -> list[str | Path]:
    """Options of DCMTK's SCUs: TLS without a certificate of their own, checking the archive's."""
    return ["+tla", "+cf", authority.pair.certificate]


def identified(authority: Authority, pair: Pair) -> list[str | Path]:
    return ["+tls", pair.key, pair.certificate, "+cf", authority.pair.certificate]


def without_mistakes(service: Service) -> str:
    log = service.log_text()
    assert "Traceback" not in log
    return log


def test_dcmtk_stores_and_queries_over_tls(secured: Callable[..., tuple[Service, Peer]], authority: Authority) -> None:
    archive, tls = secured(unknown_devices="all")
    options = anonymous(authority)
    echoscu(tls, *options).ok()
    assert storescu(tls, [CT], *options).ok().statuses == [0]
    found = findscu(tls, ["QueryRetrieveLevel=IMAGE", "PatientName=Comp*", "SOPInstanceUID"], *options).ok()
    assert [each.SOPInstanceUID for each in found.data_sets] == [CT_UID]
    echoscu(archive.peer).ok()  # the plain port goes on beside it
    without_mistakes(archive)


def test_a_large_instance_goes_through_tls_to_the_byte(
    secured: Callable[..., tuple[Service, Peer]], authority: Authority
) -> None:
    archive, tls = secured()
    data = data_set("1.2.99", pixels=bytes(range(256)) * 100_000)
    with over_tls(tls, authority) as peer:
        peer.associate()
        assert peer.store("1.2.99", data) == 0
        peer.release()
    assert part10.collect(archive.settled())["1.2.99"][0].data_set() == data
    without_mistakes(archive)


def over_tls(tls: Peer, authority: Authority, pair: Pair | None = None) -> RawPeer:
    context = ssl.create_default_context(cafile=authority.pair.certificate)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    plain = socket.create_connection((tls.host, tls.port), 20)
    return RawPeer(tls, connection=context.wrap_socket(plain, server_hostname="127.0.0.1"))


def failed(result: Result) -> None:
    assert result.returncode != 0
    assert result.rejected is None  # it never came to an association


def test_client_certificates_are_demanded_when_an_authority_for_them_is_set(
    secured: Callable[..., tuple[Service, Peer]], authority: Authority, device_pair: Pair, tmp_path: Path
) -> None:
    archive, tls = secured(client_ca=authority.pair.certificate)
    echoscu(tls, *identified(authority, device_pair)).ok()
    stranger = Authority(tmp_path, "stranger").issue("intruder")
    failed(echoscu(tls, *anonymous(authority)))
    failed(echoscu(tls, *identified(authority, stranger)))
    archive.wait_for_log("refused TLS with 127.0.0.1: [SSL: PEER_DID_NOT_RETURN_A_CERTIFICATE]")
    archive.wait_for_log("refused TLS with 127.0.0.1: [SSL: CERTIFICATE_VERIFY_FAILED]")
    echoscu(tls, *identified(authority, device_pair)).ok()
    without_mistakes(archive)
    archive.stop()
    # Who was refused is seen by an administrator, without a title as there was none.
    assert "refused: @127.0.0.1 to , " in archive.cli("device", "list").stdout


def s_client(tls: Peer, *options: str) -> str:
    done = subprocess.run(
        [program("openssl"), "s_client", "-connect", f"{tls.host}:{tls.port}", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_only_what_bcp_195_recommends_is_spoken(secured: Callable[..., tuple[Service, Peer]]) -> None:
    archive, tls = secured()
    assert "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384" in s_client(tls, "-tls1_3")
    assert "New, TLSv1.2, Cipher is ECDHE-RSA-AES256-GCM-SHA384" in s_client(tls, "-tls1_2")
    for version in ("-tls1", "-tls1_1"):
        assert "Cipher is (NONE)" in s_client(tls, version, "-cipher", "ALL:@SECLEVEL=0")
    for weak in ("AES128-SHA256", "ECDHE-RSA-AES128-SHA", "NULL"):
        assert "Cipher is (NONE)" in s_client(tls, "-tls1_2", "-cipher", f"{weak}:@SECLEVEL=0")
    archive.wait_for_log("refused TLS with 127.0.0.1: [SSL: UNSUPPORTED_PROTOCOL]")
    archive.wait_for_log("refused TLS with 127.0.0.1: [SSL: NO_SHARED_CIPHER]")
    without_mistakes(archive)


def test_plain_dicom_on_the_tls_port_and_tls_on_the_plain_port_are_refused_in_words(
    secured: Callable[..., tuple[Service, Peer]], authority: Authority
) -> None:
    archive, tls = secured()
    failed(echoscu(tls))
    archive.wait_for_log("refused TLS with 127.0.0.1: [SSL: ")
    failed(echoscu(archive.peer, *anonymous(authority)))
    archive.wait_for_log("aborted: this is TLS, not a DICOM PDU: use the archive's TLS port, or no TLS")
    echoscu(tls, *anonymous(authority)).ok()
    echoscu(archive.peer).ok()
    without_mistakes(archive)


def test_health_checks_of_the_tls_port_are_no_errors(
    secured: Callable[..., tuple[Service, Peer]], authority: Authority
) -> None:
    archive, tls = secured()
    socket.create_connection((tls.host, tls.port)).close()
    over_tls(tls, authority).socket.close()  # one that even shakes hands
    echoscu(tls, *anonymous(authority)).ok()
    assert "WARNING" not in without_mistakes(archive)


def test_a_handshake_that_trickles_or_stops_ends_in_time_and_keeps_nobody_waiting(
    secured: Callable[..., tuple[Service, Peer]], authority: Authority
) -> None:
    archive, tls = secured(dicom="artim-timeout = 1")
    silent = socket.create_connection((tls.host, tls.port), 20)
    half = socket.create_connection((tls.host, tls.port), 20)
    half.sendall(b"\x16\x03\x01\x02\x00\x01")
    echoscu(tls, *anonymous(authority)).ok()
    assert half.recv(1) == b""
    assert silent.recv(1) == b""
    archive.wait_for_log("refused TLS with 127.0.0.1: _ssl.c:")
    archive.wait_for_log("connected and asked for nothing in 1 s")
    without_mistakes(archive)


def test_what_is_wrong_within_tls_is_aborted_as_it_is_without(
    secured: Callable[..., tuple[Service, Peer]], authority: Authority
) -> None:
    archive, tls = secured(dicom="artim-timeout = 2")
    with over_tls(tls, authority) as peer:
        peer.send(pdu(RQ, b"", length=0xFFFFFFFF))
        assert peer.ending() == 7
    with over_tls(tls, authority) as peer:
        peer.send(b"GET / HTTP/1.1\r\n\r\n")
        assert peer.ending() == 7
    with over_tls(tls, authority) as peer:
        peer.associate()
        plain = socket.socket(fileno=peer.socket.detach())
        plain.sendall(b"no TLS record at all")  # in the middle of the TLS stream
        plain.close()
    archive.wait_for_log("association of RAWPEER@127.0.0.1 with ANGIOVAULT: nothing asked; connection lost")
    echoscu(tls, *anonymous(authority)).ok()
    without_mistakes(archive)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("tls-port = 2762", "tls-certificate and tls-key must be set too"),
        ("tls-port = 2762\ntls-certificate = missing.pem\ntls-key = missing.key", "cannot be used"),
    ],
)
def test_tls_that_cannot_work_is_said_at_the_start(service: ServiceFactory, lines: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        service(config=f"[tls]\n{lines}\n")
