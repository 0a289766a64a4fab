"""The settings in the panel: checked where they stand, tried before they are saved, and never giving away a secret."""

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from angiovault.config import SETTINGS, load
from angiovault.devices import DEVICE_SETTINGS
from angiovault.indexurl import IndexURL
from angiovault.inifile import ConfigError
from angiovault.opening import archive_of
from angiovault.panel import folders, network
from angiovault.panel.place import Place
from angiovault.panel.rules import rules_of
from angiovault.panel.settings_form import FIELDS
from harness.mariadb import MariaDB
from harness.panel import Client
from harness.processes import free_port

SECRET = "Geheim-4711"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings file with a password in it, and devices, and a storage that is there."""
    (tmp_path / "archive").mkdir()
    path = tmp_path / "angiovault.ini"
    path.write_text(
        f"""[dicom]
ae-title = VAULT
port = 11112
[archive]
storage = {tmp_path}/archive
index = mysql://angiovault:{SECRET}@/angiovault?unix_socket={tmp_path}/none.sock
[log]
log-file = {tmp_path}/angiovault.log
[device zeego]
ae-title = ZEEGO
host = 192.168.1.20
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def client(settings: Path) -> Client:
    return Client(Place(settings))


def problems(client: Client, **values: str) -> dict[str, Any]:
    """What is wrong with values, given with underscores in their names: field → key of the reason."""
    named = {name.replace("_", "-"): value for name, value in values.items()}
    reply = client.post("/api/service/check", {"values": named})
    assert reply.status == 200, reply
    return {name: problem["key"] for name, problem in reply.json["problems"].items()}


def saved(client: Client, values: dict[str, str], index: dict[str, str] | None = None) -> Any:
    return client.task("/api/service", {"values": values, **({"index": index} if index else {})})


def test_the_form_shows_the_file_and_no_password(client: Client) -> None:
    shown = client.get("/api/service")
    assert shown["values"]["ae-title"] == "VAULT"
    assert shown["values"]["log-level"] == "info"
    assert shown["index"]["engine"] == "mariadb"
    assert shown["index"]["user"] == "angiovault"
    assert shown["index"]["has_password"] is True
    assert set(shown["values"]) == set(FIELDS)
    assert SECRET not in str(shown)


def test_no_answer_holds_the_password(client: Client) -> None:
    index = {"engine": "mariadb", "where": "/none.sock", "user": "angiovault", "database": "other", "password": ""}
    paths = ["/", "/api/session", "/api/overview", "/api/service", "/api/devices", "/api/log", "/api/folders"]
    texts = [client.ask(path).text for path in paths]
    texts += [client.post("/api/service", {"values": {"port": "x"}, "index": index}).text]
    texts += [str(client.task("/api/service/database", {"index": index_of(client)}))]
    assert SECRET not in "".join(texts)


def test_a_file_that_cannot_be_used_is_still_shown(settings: Path, client: Client) -> None:
    text = settings.read_text()
    settings.write_text(text.replace("port = 11112", "port = many"))
    assert client.get("/api/service")["values"]["port"] == "many"
    assert client.get("/api/overview")["state"] == "configuration"
    assert SECRET not in client.ask("/api/overview").text
    settings.write_text(text + "\nnonsense\n")
    assert "expected 'name = value'" in client.get("/api/service")["unreadable"]
    assert client.get("/api/overview")["state"] == "configuration"
    assert client.ask("/api/devices").error == "refused.settings"
    assert client.post("/api/service", {"values": {"port": "11113"}}).error == "refused.settings"


def test_a_wrong_value_in_the_file_can_be_mended(settings: Path, client: Client) -> None:
    settings.write_text(settings.read_text().replace("port = 11112", "port = many"))
    port = free_port()
    assert saved(client, {"port": str(port)})["outcome"] == "restart"
    assert load(settings).port == port


ROWS = [row for row in SETTINGS if row.name in FIELDS] + list(DEVICE_SETTINGS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_rules_for_the_browser_are_those_of_the_settings(row: Any) -> None:
    rule = rules_of([row])[row.name]

    def is_taken(text: str) -> bool:
        try:
            row.read(text, "", Path())
        except ConfigError:
            return False
        return True

    assert rule["empty"] == is_taken("")
    if rule["kind"] == "number":
        assert is_taken(str(rule["low"]))
        assert is_taken(str(rule["high"]))
        assert not is_taken(str(rule["low"] - 1))
        assert not is_taken(str(rule["high"] + 1))
    elif rule["kind"] == "choice":
        assert rule["words"]
        assert all(is_taken(word) for word in rule["words"])
        assert not is_taken("nonsense")
    else:
        assert rule["kind"] in ("ae-title", "ip-address", "yes-or-no", "folder", "file", "hosts", "list")


def test_what_is_wrong_in_the_file_already_is_said_too(settings: Path, client: Client) -> None:
    settings.write_text(settings.read_text() + "[tls]\ntls-port = some\n")
    assert problems(client, ae_title="OTHER") == {"tls-port": "wrong.number"}
    assert saved(client, {"ae-title": "OTHER", "tls-port": "0"})["outcome"] == "restart"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"port": "0"}, {"port": "wrong.number"}),
        ({"port": "65536"}, {"port": "wrong.number"}),
        ({"port": "１１１１２"}, {"port": "wrong.number"}),
        ({"tls_port": "-1"}, {"tls-port": "wrong.number"}),
        ({"ae_title": ""}, {"ae-title": "wrong.ae-title"}),
        ({"ae_title": "SEVENTEEN-LETTERS"}, {"ae-title": "wrong.ae-title"}),
        ({"ae_title": "BACK\\SLASH"}, {"ae-title": "wrong.ae-title"}),
        ({"ae_title": "A\r\nport = 1"}, {"ae-title": "wrong.ae-title"}),
        ({"bind": "here"}, {"bind": "wrong.ip-address"}),
        ({"bind": "203.0.113.7"}, {"bind": "wrong.address-not-here"}),
        ({"unknown_devices": "some"}, {"unknown-devices": "wrong.choice"}),
        ({"check_called_ae_title": "perhaps"}, {"check-called-ae-title": "wrong.yes-or-no"}),
        ({"storage": ""}, {"storage": "wrong.folder"}),
        ({"storage": "/nowhere/at/all"}, {"storage": "wrong.folder-missing"}),
        ({"storage": "/etc"}, {"storage": "wrong.folder-system"}),
        ({"storage": "/tmp/../etc/x"}, {"storage": "wrong.folder-system"}),
        ({"storage": "/proc/angiovault"}, {"storage": "wrong.folder-failing"}),
        ({"tls_port": "11112"}, {"tls-port": "wrong.ports-same"}),
        ({"tls_port": "2762"}, {"tls-certificate": "wrong.tls-missing", "tls-key": "wrong.tls-missing"}),
        ({"log_level": "chatty"}, {"log-level": "wrong.choice"}),
        ({"ae_title": "VAULT", "port": "11112"}, {}),
    ],
)
def test_values_are_checked_with_a_reason(client: Client, values: dict[str, str], expected: dict[str, str]) -> None:
    assert problems(client, **values) == expected


def test_certificates_are_opened_before_saving(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    found = problems(client, tls_port="2762", tls_certificate=f"{tmp_path}/a.pem", tls_key=f"{tmp_path}/none.pem")
    assert found == {"tls-certificate": "wrong.tls"}


def test_a_port_in_use_is_found(client: Client) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert problems(client, port=port, bind="127.0.0.1") == {"port": "wrong.port-used"}
        refused = client.post("/api/service", {"values": {"port": port}})
        assert refused.json["problems"]["port"]["key"] == "wrong.port-used"
    assert problems(client, port=port, bind="127.0.0.1") == {}


def test_ports_below_1024_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class NotAllowed(socket.socket):
        def bind(self, _address: Any) -> None:
            raise PermissionError

    monkeypatch.setattr("angiovault.network.socket.socket", NotAllowed)
    problem = network.port_problem("0.0.0.0", 104)
    assert problem is not None
    assert problem["key"] == "wrong.port-low"
    assert problem["values"]["command"].startswith("sudo setcap cap_net_bind_service=+ep /")


def test_settings_that_do_not_exist_are_refused(client: Client) -> None:
    for values in ({"archive-id": "x"}, {"log-file": "/etc/passwd"}, {"index": "sqlite:///x"}, {"port": 5}, [1]):
        assert client.post("/api/service", {"values": values}).status == 400
    assert client.post("/api/service", {"values": {}}).error == "refused.nothing-changed"


def test_saving_keeps_what_is_not_on_the_page(settings: Path, client: Client) -> None:
    port = free_port()
    result = saved(client, {"port": str(port), "ae-title": "CATHLAB", "check-called-ae-title": "yes"})
    assert result["outcome"] == "restart"
    config = load(settings)
    assert (config.port, config.ae_title, config.check_called_ae_title) == (port, "CATHLAB", True)
    assert config.index is not None
    assert config.index.password == SECRET
    assert "[device zeego]" in settings.read_text()
    assert settings.stat().st_mode & 0o777 == 0o600


def test_a_storage_that_cannot_be_written_is_found(client: Client, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    closed = "/sys/kernel" if os.geteuid() == 0 else str(tmp_path / "closed")  # no mode keeps root out
    assert problems(client, storage=closed)["storage"] in ("wrong.folder-denied", "wrong.folder-failing")
    (tmp_path / "open").mkdir()
    assert problems(client, storage=str(tmp_path / "open")) == {}
    assert list((tmp_path / "open").iterdir()) == []


def test_another_archive_is_not_taken_by_mistake(settings: Path, client: Client, tmp_path: Path) -> None:
    (tmp_path / "other/.angiovault").mkdir(parents=True)
    (tmp_path / "other/.angiovault/archive.json").write_text('{"id": "' + "b" * 32 + '"}')
    settings.write_text(settings.read_text().replace("[archive]", "[archive]\narchive-id = " + "a" * 32))
    assert problems(client, storage=str(tmp_path / "other")) == {"storage": "wrong.folder-other"}


def test_a_second_folder_is_checked_before_it_is_saved(settings: Path, client: Client, tmp_path: Path) -> None:
    (tmp_path / "archive").rmdir()
    for name in ("empty", "full", "third"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/holiday.jpg").touch()
    for chosen, problem in (
        ("/etc", "wrong.folder-system"),
        ("/nowhere/at/all", "wrong.folder-missing"),
        (str(tmp_path / "full"), "wrong.second-storage"),
        (str(tmp_path), "wrong.second-storage"),
        (str(tmp_path / "archive"), "wrong.second-storage"),
    ):
        assert problems(client, second_storage=chosen) == {"second-storage": problem}, chosen
        reply = client.post("/api/service", {"values": {"second-storage": chosen}})
        assert reply.status == 422
        assert list(reply.json["problems"]) == ["second-storage"]
    assert load(settings).second_storage is None
    wanted = str(tmp_path / "empty")
    assert saved(client, {"second-storage": wanted})["outcome"] == "restart"
    assert client.get("/api/service")["values"]["second-storage"] == wanted
    assert list((tmp_path / "empty").iterdir()) == []

    # The service makes it with its next start; with an image in it it stays what it is.
    archive = archive_of(dataclasses.replace(load(settings), index=None))
    archive.open()
    archive.close()
    assert client.get("/api/overview")["archive"]["folders"][1]["path"] == wanted
    assert problems(client, second_storage="") == {}
    image = tmp_path / "empty/2024/study/series/1.dcm"
    image.parent.mkdir(parents=True)
    image.touch()
    assert problems(client, second_storage="") == {"second-storage": "wrong.second-storage"}
    assert problems(client, second_storage=str(tmp_path / "third")) == {"second-storage": "wrong.second-storage"}
    image.unlink()
    assert saved(client, {"second-storage": ""})["outcome"] == "restart"
    assert load(settings).second_storage is None


# --- The index ------------------------------------------------------------------------------------------------------


def index_of(client: Client, **changes: str) -> dict[str, str]:
    known = client.get("/api/service")["index"]
    return {**{name: known[name] for name in ("engine", "where", "user", "database")}, "password": "", **changes}


def test_the_password_is_never_used_elsewhere_than_it_belongs(client: Client) -> None:
    """It would be sent to whatever server is named."""
    for changes in ({"where": "192.0.2.1:3306"}, {"where": "/other.sock"}, {"user": "root"}):
        for path in ("/api/service", "/api/service/database"):
            reply = client.post(path, {"values": {}, "index": index_of(client, **changes)})
            assert reply.status == 422
            assert reply.json["problems"]["index-password"]["key"] == "wrong.password-missing"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"where": "not a place"}, "index-where"),
        ({"where": "host:99999"}, "index-where"),
        ({"where": ""}, "index-where"),
        ({"database": " "}, "index-database"),
        ({"user": ""}, "index-user"),
    ],
)
def test_the_fields_of_a_database_are_checked(client: Client, changes: dict[str, str], field: str) -> None:
    reply = client.post("/api/service/database", {"index": index_of(client, password="x", **changes)})
    assert field in reply.json["problems"]


def test_a_database_that_is_away_is_said(client: Client) -> None:
    result = client.task("/api/service/database", {"index": index_of(client)})
    assert (result["ok"], result["message"]["key"]) == (False, "wrong.database-away")


def test_a_database_that_cannot_be_used_is_not_saved(settings: Path, client: Client) -> None:
    before = settings.read_text()
    result = saved(client, {"ae-title": "NEW"}, index_of(client, where="/nowhere.sock", password="x"))
    assert result["outcome"] == "refused"
    assert result["problems"]["index-where"]["key"] == "wrong.database-away"
    assert load(settings).ae_title == "VAULT"
    assert SECRET in before


def test_the_embedded_index_can_be_chosen(settings: Path, client: Client) -> None:
    assert saved(client, {}, {"engine": "embedded"})["outcome"] == "restart"
    assert load(settings).index is None
    again = client.post("/api/service", {"values": {}, "index": {"engine": "embedded"}})
    assert again.error == "refused.nothing-changed"


@pytest.mark.mariadb
def test_a_real_database_is_tried_and_saved(settings: Path, client: Client, mariadb: MariaDB) -> None:
    url = IndexURL.parse(mariadb.database(), Path())
    mariadb.execute("CREATE USER IF NOT EXISTS 'panel'@'localhost' IDENTIFIED BY 'good/:@ 密'")
    mariadb.execute(f"GRANT ALL ON {url.database}.* TO 'panel'@'localhost'")
    index = {"engine": "mariadb", "where": str(url.unix_socket), "user": "panel", "database": url.database}

    def key(**changes: str) -> str:
        tried = client.task("/api/service/database", {"index": {**index, "password": "good/:@ 密", **changes}})
        return str(tried["message"]["key"])

    assert key() == "database.ok"
    assert key(password="wrong") == "wrong.database-account"
    assert key(database="none") == "wrong.database-rights"
    assert key(where="/none.sock") == "wrong.database-away"
    assert saved(client, {}, {**index, "password": "good/:@ 密"})["outcome"] == "restart"
    kept = load(settings).index
    assert kept is not None
    assert (kept.user, kept.password, kept.database) == ("panel", "good/:@ 密", url.database)
    # From now on an empty password is this one.
    assert key(password="") == "database.ok"


# --- Folders --------------------------------------------------------------------------------------------------------


def test_folders_are_listed_below_the_roots_only(tmp_path: Path) -> None:
    for name in ("share/a", "share/b/c", "share/.hidden", "share/@eaDir", "share/#recycle", "outside/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "share/file").write_text("x")
    (tmp_path / "share/link").symlink_to(tmp_path / "outside")
    roots = [tmp_path / "share"]
    assert [item["name"] for item in folders.listing(str(tmp_path / "share"), roots)["folders"]] == ["a", "b", "link"]
    assert folders.listing(str(tmp_path / "share/b"), roots)["parent"] == str(tmp_path / "share")
    for path in (
        *(f"{tmp_path}/share/../outside", f"{tmp_path}/share/link", f"{tmp_path}/shared", f"{tmp_path}/outside"),
        *("/", "/etc", "share/a", "..", f"{tmp_path}/share/a\0", f"{tmp_path}/share/link/x", f"//{tmp_path}/outside"),
    ):
        with pytest.raises(folders.Refused) as refused:
            folders.listing(path, roots)
        assert refused.value.status == 403


def test_long_listings_are_cut(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / f"{number:03}").mkdir()
    found = folders.listing(str(tmp_path), [tmp_path])
    assert (len(found["folders"]), found["more"]) == (300, True)


@pytest.mark.parametrize("path", ["/etc", "../..", "/proc/self", "%2e%2e", "/tmp/../etc", "%E2%80%A8"])
def test_the_page_lists_no_other_folder(client: Client, path: str) -> None:
    assert client.ask(f"/api/folders?path={path}").status in (403, 404)


def test_folders_that_are_away_are_refused_with_a_reason(client: Client, tmp_path: Path) -> None:
    assert client.ask(f"/api/folders?path={tmp_path}/none").error == "refused.folder-unreadable"
    assert client.get("/api/folders")["folders"][0]["path"] == f"/{tmp_path.parts[1]}"
