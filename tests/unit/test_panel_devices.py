"""The devices in the panel: kept in the settings file, called, and allowed when they were refused."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from angiovault.archive import contacts, refusals
from angiovault.archive.archive import Archive
from angiovault.config import load
from angiovault.devices import Device, DeviceBook
from angiovault.dimse.negotiation import encode_reject
from angiovault.inifile import ConfigError
from angiovault.opening import archive_of
from angiovault.panel.place import Place
from angiovault.reasons import Reason
from harness.panel import Client
from harness.processes import free_port

GOOD = {
    **{"name": "zeego", "ae-title": "ZEEGO", "host": "192.168.1.20", "port": "104"},
    **{"allow": "all", "character-set": "auto"},
}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "angiovault.ini"
    path.write_text(f"[archive]\nstorage = {tmp_path}/archive\n", encoding="utf-8")
    return path


@pytest.fixture
def client(settings: Path) -> Client:
    return Client(Place(settings))


def devices(client: Client) -> list[Any]:
    return list(client.get("/api/devices")["devices"])


def test_devices_are_added_changed_and_removed(client: Client, settings: Path) -> None:
    assert client.post("/api/devices/add", GOOD).status == 200
    [device] = devices(client)
    assert (device["name"], device["ae-title"], device["port"], device["callable"]) == ("zeego", "ZEEGO", "104", True)
    changed = {**GOOD, "name": "zeego 2", "allow": "echo, store", "character-set": "GB18030", "replaces": "zeego"}
    assert client.post("/api/devices/change", changed).status == 200
    [device] = devices(client)
    assert (device["name"], device["operations"], device["character-set"]) == ("zeego 2", ["echo", "store"], "GB18030")
    assert client.post("/api/devices/remove", {"name": "zeego 2"}).status == 200
    assert devices(client) == []
    assert load(settings).storage.name == "archive"


@pytest.mark.parametrize(
    ("changes", "field", "key"),
    [
        ({"name": ""}, "name", "wrong.device-name"),
        ({"name": "a]b"}, "name", "wrong.device-name"),
        ({"name": "x\n[dicom]"}, "name", "wrong.device-name"),
        ({"name": "Other"}, "name", "wrong.device-name-taken"),
        ({"ae-title": ""}, "ae-title", "wrong.ae-title"),
        ({"ae-title": "A\nport = 1"}, "ae-title", "wrong.ae-title"),
        ({"host": "a b"}, "host", "wrong.hosts"),
        ({"host": "192.168.1.20\nport = 5"}, "host", "wrong.hosts"),
        ({"port": "0"}, "port", "wrong.number"),
        ({"allow": "everything"}, "allow", "wrong.list"),
        ({"character-set": "latin"}, "character-set", "wrong.choice"),
        ({"ae-title": "OTHER"}, "port", "wrong.device-port"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(client: Client, changes: dict[str, str], field: str, key: str) -> None:
    client.post("/api/devices/add", {**GOOD, "name": "other", "ae-title": "OTHER"})
    reply = client.post("/api/devices/add", {**GOOD, **changes})
    assert reply.status == 422
    assert reply.json["problems"][field]["key"] == key
    assert len(devices(client)) == 1


def test_devices_that_are_not_there_are_neither_changed_nor_removed(client: Client) -> None:
    assert client.post("/api/devices/remove", {"name": "../zeego"}).error == "refused.settings"
    assert client.post("/api/devices/change", {**GOOD, "replaces": "nobody"}).error == "refused.settings"
    assert client.post("/api/devices/echo", {"name": "nobody"}).status == 404


def test_names_are_data_whatever_they_hold(client: Client) -> None:
    odd = "<script>alert('1')</script>"
    client.post("/api/devices/add", {**GOOD, "name": odd, "ae-title": "<b>\"&'"})
    reply = client.ask("/api/devices")
    assert reply.headers["content-type"] == "application/json"
    assert devices(client)[0]["name"] == odd
    assert devices(client)[0]["ae-title"] == "<b>\"&'"


def test_a_device_takes_anothers_place_at_once(tmp_path: Path) -> None:
    book = DeviceBook(tmp_path / "angiovault.ini")
    book.add(Device("a", "AET", ("192.0.2.1",), 104))
    book.add(Device("b", "BET", ("192.0.2.2",), 104))
    book.replace("A", Device("a", "AET", ("192.0.2.9",), 105))
    assert {device.name: device.port for device in book.all()} == {"a": 105, "b": 104}
    with pytest.raises(ConfigError, match="already"):
        book.replace("a", Device("B", "CET", ("192.0.2.9",)))
    with pytest.raises(ConfigError, match="is that of the device"):
        book.replace("a", Device("a", "BET", ("192.0.2.9",), 105))
    with pytest.raises(ConfigError, match="there is no device 'c'"):
        book.replace("c", Device("c", "CET", ("192.0.2.9",)))
    assert {device.name: device.port for device in book.all()} == {"a": 105, "b": 104}


# --- Who was refused, who was in contact ----------------------------------------------------------------------------


@pytest.fixture
def archive(settings: Path) -> Iterator[Archive]:
    archive = archive_of(load(settings))
    archive.open(create=True)
    yield archive
    archive.close()


def test_who_was_refused_is_listed(client: Client, archive: Archive) -> None:
    book = refusals.Book(archive)
    book.note("192.168.1.9", "<b>XWP</b>", "VAULT", Reason.of("device-may-nothing", device="<i>"))
    book.flush()
    [refused] = client.get("/api/devices")["refusals"]
    assert "device '<i>' may do nothing" in refused["reason"]["en"]
    assert "设备“<i>”不可进行任何操作" in refused["reason"]["zh"]
    assert (refused["calling"], refused["address"], refused["times"]) == ("<b>XWP</b>", "192.168.1.9", 1)


def test_without_an_archive_the_devices_are_there_all_the_same(client: Client) -> None:
    client.post("/api/devices/add", GOOD)
    found = client.get("/api/devices")
    assert len(found["devices"]) == 1
    assert "marker" in found["away"]


def test_the_last_contact_of_a_device_is_told_by_operation(client: Client, archive: Archive) -> None:
    client.post("/api/devices/add", GOOD)
    book = contacts.Book(archive)
    who = ("ZEEGO", "192.168.1.20", "VAULT")
    # Before it was known, as another caller of that title, and under its name.
    book.note(contacts.Ended(*who, "", "released", asked={"echo": contacts.Asked("2026-11-20T08:00:00Z", 0)}))
    book.note(
        contacts.Ended(
            "ZEEGO", "192.168.1.9", "VAULT", "", "released", asked={"find": contacts.Asked("2026-11-21T08:00:00Z", 0)}
        )
    )
    sent = {"store": contacts.Asked("2026-11-22T08:00:00Z", 0xA700, 3)}
    book.note(contacts.Ended(*who, "zeego", "aborted", {"stored": 3, "refused": 1}, sent))
    book.flush()
    found = client.get("/api/devices")["contacts"]["zeego"]
    assert [(item["operation"], item["last"][:10], item["status"], item["instances"]) for item in found] == [
        ("store", "2026-11-22", 0xA700, 3),
        ("echo", "2026-11-20", 0, 0),
    ]
    [last, *_] = contacts.last_associations(archive.index, 5)
    assert (last["device"], last["ending"], last["tally"]) == ("zeego", "aborted", {"stored": 3, "refused": 1})


# --- Echo -----------------------------------------------------------------------------------------------------------


@contextmanager
def answering(answer: bytes, wait: bool = False) -> Iterator[int]:
    """Take one connection, answer what comes with some bytes, and close it, or keep silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)
                if wait:
                    done.wait(30)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        done.set()
        thread.join(10)


def echo(client: Client, port: int, host: str = "127.0.0.1") -> str:
    result = client.task("/api/devices/echo", {"ae-title": "ZEEGO", "host": host, "port": str(port)})
    assert not result["ok"]
    assert result["detail"]
    return str(result["message"]["key"])


@pytest.mark.parametrize(
    ("code", "key"),
    [
        *[((1, 1, 7), "echo.called"), ((1, 1, 3), "echo.calling")],
        *[((1, 1, 1), "echo.rejected"), ((2, 3, 2), "echo.rejected")],
    ],
)
def test_rejections_are_told_apart(client: Client, code: tuple[int, int, int], key: str) -> None:
    with answering(encode_reject(*code)) as port:
        assert echo(client, port) == key


def test_what_is_no_dicom_is_told(client: Client) -> None:
    with answering(b"HTTP/1.0 400 Bad Request\r\n\r\n") as port:
        assert echo(client, port) == "echo.not-dicom"
    with answering(b"") as port:
        assert echo(client, port) == "echo.not-dicom"


def test_who_is_silent_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("angiovault.panel.echoing._SECONDS", 0.3)
    with answering(b"", wait=True) as port:
        assert echo(client, port) == "echo.silent"


def test_nobody_there_is_told(client: Client) -> None:
    assert echo(client, free_port()) == "echo.refused"
    assert echo(client, 104, "no-such-host.invalid") == "echo.host-unknown"


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (TimeoutError(), "echo.timeout"),
        (OSError(113, "No route to host"), "echo.no-route"),
        (OSError(101, "Network is unreachable"), "echo.no-route"),
        (OSError(13, "Permission denied"), "echo.unreachable"),
    ],
)
def test_what_the_network_says_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: OSError, key: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("angiovault.dimse.scu.socket.create_connection", fail)
    assert echo(client, 104) == key


def test_a_network_cannot_be_called(client: Client) -> None:
    reply = client.post("/api/devices/echo", {"ae-title": "ZEEGO", "host": "192.168.1.0/24", "port": "104"})
    assert reply.json["problems"]["port"]["key"] == "wrong.device-not-callable"
    reply = client.post("/api/devices/echo", {"ae-title": "", "host": "::1 ", "port": "x"})
    assert set(reply.json["problems"]) == {"ae-title", "port"}
