"""Changed settings put into force beside a real supervisor and service, and taken back when they do not work."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from angiovault.config import load
from angiovault.dsm import running
from angiovault.panel.place import Place
from angiovault.reloading import Loading
from harness.dcmtk import Peer, StoreSCP, echoscu
from harness.mariadb import MariaDB
from harness.panel import Client, SupervisedArchive
from harness.processes import free_port
from harness.upper_layer import RawPeer, data_set
from harness.waiting import wait_until


@pytest.fixture
def nas(tmp_path: Path) -> Iterator[SupervisedArchive]:
    text = f"[dicom]\nport = {free_port()}\nbind = 127.0.0.1\n[archive]\nindex =\n"
    with SupervisedArchive(tmp_path / "nas", f"{text}[device zeego]\nae-title = Z\nhost = ::1\n", panel=False) as nas:
        yield nas


@pytest.fixture
def client(nas: SupervisedArchive) -> Client:
    return Client(Place(nas.nas.settings, nas.nas))


def save(client: Client, index: dict[str, str] | None = None, **values: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in values.items()}
    return client.task("/api/service", {"values": named, **({"index": index} if index else {})})


def answers(nas: SupervisedArchive) -> bool:
    health = nas.health()
    return echoscu(Peer("127.0.0.1", health["port"], health["ae_title"])).returncode == 0


def outcome(client: Client, **values: str) -> tuple[str, str]:
    result = save(client, **values)
    return result["outcome"], result["message"]["key"]


def test_the_service_runs_with_what_was_saved(nas: SupervisedArchive, client: Client) -> None:
    """The same process, and whoever sends goes on sending."""
    before, port = nas.health(), free_port()
    assert client.get("/api/overview")["state"] == "well"
    with RawPeer(Peer("127.0.0.1", before["port"], "ANGIOVAULT")) as sender:
        sender.associate()
        assert outcome(client, port=str(port), ae_title="CATHLAB") == ("applied", "apply.reopened")
        after = nas.health()
        assert (after["port"], after["ae_title"], after["pid"]) == (port, "CATHLAB", before["pid"])
        assert outcome(client, log_level="debug") == ("applied", "apply.at-once")
        uid = generate_uid()
        assert sender.store(uid, data_set(uid)) == 0
        sender.release()
    assert nas.health()["pid"] == before["pid"]
    assert answers(nas)
    assert client.get("/api/overview")["dicom"]["port"] == port


def test_a_port_that_is_taken_meanwhile_is_taken_back(
    nas: SupervisedArchive, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = nas.health()
    with StoreSCP(nas.nas.root / "other") as other:
        monkeypatch.setattr("angiovault.panel.network.port_problem", lambda *_: None)
        result = save(client, port=str(other.peer.port), ae_title="CATHLAB")
    assert (result["outcome"], result["message"]["key"]) == ("undone", "apply.kept")
    assert (result["reason"]["key"], result["reason"]["values"]["port"]) == ("wrong.port-used", other.peer.port)
    assert nas.health()["pid"] == before["pid"]
    assert Loading.of(nas.health()).problem == {}
    config = load(nas.nas.settings)
    assert (config.port, config.ae_title) == (before["port"], before["ae_title"])
    assert "[device zeego]" in nas.settings()
    assert answers(nas)


def test_images_go_to_another_shared_folder(nas: SupervisedArchive, client: Client) -> None:
    (nas.nas.root / "volume2/images").mkdir(parents=True)
    before = nas.health()["pid"]
    assert outcome(client, storage=str(nas.nas.root / "volume2/images")) == ("applied", "apply.done")
    assert nas.health()["pid"] != before
    config = load(nas.nas.settings)
    assert config.storage == nas.nas.root / "volume2/images/archive"
    marker = json.loads((config.storage / ".angiovault/archive.json").read_text())
    assert marker["id"] == config.archive_id
    assert answers(nas)


def test_a_second_folder_is_made_and_let_go(nas: SupervisedArchive, client: Client) -> None:
    images = nas.nas.root / "volume2/images"
    images.mkdir(parents=True)
    (images.parent / "full/archive").mkdir(parents=True)
    (images.parent / "full/archive/holiday.jpg").touch()
    before = nas.settings()
    result = save(client, second_storage=str(images.parent / "full"), ae_title="OTHER")
    assert result["outcome"] == "refused"
    assert "holiday.jpg" in result["problems"]["second-storage"]["en"]
    assert "holiday.jpg" in result["problems"]["second-storage"]["zh"]
    assert nas.settings().split() == before.split()

    assert save(client, second_storage=str(images))["outcome"] == "applied"
    second = load(nas.nas.settings).second_storage
    assert second == images / "archive"
    wait_until(lambda: (second / ".angiovault/archive.json").exists(), "the service to make it")
    assert client.get("/api/service")["values"]["second-storage"] == str(second)
    wait_until(lambda: client.get("/api/overview")["state"] == "well", "the service to be well")
    assert save(client, second_storage="")["outcome"] == "applied"
    assert load(nas.nas.settings).second_storage is None
    assert answers(nas)


def test_a_folder_that_cannot_be_used_changes_nothing(nas: SupervisedArchive, client: Client) -> None:
    before = nas.settings()
    result = save(client, storage=str(nas.nas.root / "volume9/images"), ae_title="OTHER")
    assert result["outcome"] == "refused"
    assert "volume9" in result["problems"]["storage"]["en"]
    assert load(nas.nas.settings).ae_title == "ANGIOVAULT"
    assert nas.settings().split() == before.split()
    assert answers(nas)


def test_the_folders_to_choose_from_are_volumes(nas: SupervisedArchive, client: Client) -> None:
    found = client.get("/api/folders")["folders"]
    assert [item["path"] for item in found] == [str(nas.nas.root / "volume1")]
    inside = client.get(f"/api/folders?path={nas.nas.root}/volume1")["folders"]
    assert [item["name"] for item in inside] == ["angiography"]
    assert client.ask(f"/api/folders?path={nas.nas.root}/volume1/../var").error == "refused.folder"


def test_without_a_supervisor_settings_are_saved_for_later(nas: SupervisedArchive, client: Client) -> None:
    nas.supervisor.stop(seconds=30)
    assert client.get("/api/overview")["state"] == "stopped"
    result = save(client, ae_title="CATHLAB")
    assert (result["outcome"], result["message"]["key"]) == ("saved", "apply.stopped")
    assert load(nas.nas.settings).ae_title == "CATHLAB"


def test_settings_that_were_broken_can_be_mended(nas: SupervisedArchive, client: Client) -> None:
    """The service that runs goes on, and it is said that it does not do so by the file."""
    port, pid = nas.health()["port"], nas.health()["pid"]
    nas.nas.settings.write_text(nas.settings().replace(f"port = {port}", "port = many"))
    running.reload(nas.nas)
    said = client.get("/api/overview")
    assert (said["state"], [item["kind"] for item in said["problems"]]) == ("problems", ["settings"])
    assert "port" in said["problems"][0]["text"]
    assert answers(nas)
    assert save(client, port=str(port))["outcome"] == "applied"
    assert client.get("/api/overview")["state"] == "well"
    assert answers(nas)
    assert nas.health()["pid"] == pid


def test_a_service_that_cannot_start_with_its_settings_is_mended(nas: SupervisedArchive, client: Client) -> None:
    port = nas.health()["port"]
    nas.nas.settings.write_text(nas.settings().replace(f"port = {port}", "port = many"))
    running.restart(nas.nas)
    wait_until(lambda: client.get("/api/overview")["state"] == "configuration", "the settings to be found wrong")
    assert "port" in client.get("/api/overview")["message"]["en"]
    assert save(client, port=str(port))["outcome"] == "applied"
    assert answers(nas)


@pytest.mark.mariadb
def test_the_database_is_made_with_roots_password(
    nas: SupervisedArchive, client: Client, mariadb: MariaDB, request: pytest.FixtureRequest
) -> None:
    """The password reaches the server, and neither settings nor log."""
    mariadb.execute("SET PASSWORD FOR root@localhost = PASSWORD('Root-4711')")

    def take_back() -> None:
        import pymysql

        with pymysql.connect(unix_socket=str(mariadb.socket), user="root", password="Root-4711") as connection:
            connection.cursor().execute("SET PASSWORD FOR root@localhost = PASSWORD('')")

    request.addfinalizer(take_back)
    nas.nas.socket.parent.mkdir(parents=True)
    nas.nas.socket.symlink_to(mariadb.socket)
    nas.nas.mariadb.mkdir(parents=True)
    create: Callable[[str], Any] = lambda password: client.task(  # noqa: E731
        "/api/service/create-database", {"root-password": password}
    )
    assert create("wrong")["ok"] is False
    assert "zh" in create("wrong")["message"]
    done = create("Root-4711")
    assert done["ok"], done
    index = load(nas.nas.settings).index
    assert index is not None
    assert index.password
    wait_until(lambda: nas.health() and answers(nas), "the service to run with its database")
    for text in (nas.settings(), nas.nas.log.read_text(), client.ask("/api/log").text, client.ask("/api/service").text):
        assert "Root-4711" not in text
    assert index.password not in nas.nas.log.read_text() + client.ask("/api/service").text
