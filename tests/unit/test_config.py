"""The table of settings and everything that comes from it."""

import argparse
import os
import stat
import threading
from pathlib import Path

import pytest

from angiovault import config
from angiovault.config import SETTINGS, Config, UnknownDevices
from angiovault.devices import settings_page
from angiovault.indexurl import IndexURL
from angiovault.inifile import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(config.CONFIG_VARIABLE, raising=False)


def write(text: str, name: str = "angiovault.ini") -> Path:
    path = Path(name).absolute()
    path.write_text(text, encoding="utf-8")
    return path


# --- Defaults and sources -------------------------------------------------------------------------------------------


def test_without_a_file_every_setting_has_its_default(tmp_path: Path) -> None:
    got = config.load()
    assert got == Config()
    assert (got.ae_title, got.bind, got.port, got.unknown_devices) == ("ANGIOVAULT", "0.0.0.0", 11112, "store")
    assert got.unknown_devices is UnknownDevices.STORE
    assert got.storage == tmp_path / "archive"
    assert got.index is None
    assert got.index_url == IndexURL("sqlite", path=tmp_path / "archive.index.sqlite3")
    assert got.check_called_ae_title is False
    assert got.tls_certificate is None


def test_a_file_sets_every_kind_of_value(tmp_path: Path) -> None:
    path = write(
        "\ufeff# a comment\n[dicom]\nae-title =  DSA ROOM 1 \nbind = ::1\nPort=104\nunknown-devices = ALL\n"
        "check-called-ae-title = yes\n; another\n[archive]\nstorage = ./血管/a;b#c\n"
        "[tls]\ntls-port = 2762\ntls-certificate = cert.pem\ntls-key = /etc/key.pem\n[device X]\nanything = goes\n",
        "set.ini",
    )
    got = config.load(path)
    assert (got.ae_title, got.bind, got.port) == ("DSA ROOM 1", "::1", 104)
    assert got.unknown_devices is UnknownDevices.ALL
    assert got.check_called_ae_title is True
    assert got.storage == tmp_path / "血管" / "a;b#c"
    assert (got.tls_certificate, got.tls_key) == (tmp_path / "cert.pem", Path("/etc/key.pem"))


def test_relative_paths_start_at_the_file_or_for_flags_at_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = write("[archive]\nstorage = data\nindex = sqlite:///idx.db\n", "etc/av.ini")
    got = config.load(path)
    assert (got.storage, got.index_url.path) == (tmp_path / "etc/data", tmp_path / "etc/idx.db")
    got = config.load(path, {"storage": "data", "index": "sqlite:///idx.db"})
    assert (got.storage, got.index_url.path) == (tmp_path / "data", tmp_path / "idx.db")


def test_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config.load(None, {"storage": "~/images"}).storage == Path("/home/somebody/images")


def test_the_default_file_may_be_missing_but_a_named_one_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="there is no such configuration file"):
        config.load(Path("other.ini"))
    monkeypatch.setenv(config.CONFIG_VARIABLE, "named.ini")
    assert config.config_path() == Path("named.ini")
    with pytest.raises(ConfigError, match="named.ini: there is no such configuration file"):
        config.load()
    write("[dicom]\nport = 1\n", "named.ini")
    assert config.load().port == 1


def test_files_come_in_order_named_environment_default(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[dicom]\nport = 1\n")
    assert config.load().port == 1
    write("[dicom]\nport = 2\n", "b.ini")
    monkeypatch.setenv(config.CONFIG_VARIABLE, "b.ini")
    assert config.load().port == 2
    assert config.load(write("[dicom]\nport = 3\n", "c.ini")).port == 3


# --- What is refused, and how it is said ----------------------------------------------------------------------------

WRONG = [
    *[("ae-title", text) for text in ("", "A" * 17, "BACK\\SLASH", "血管", "\u00e9")],
    *[("bind", text) for text in ("", "localhost", "1.2.3", "1.2.3.4/24", "1.2.3.4:80")],
    *[("port", text) for text in ("", "-1", "65536", "1_0", "+1", "1.0", "0x10", "١", "9" * 5000)],
    *[("check-called-ae-title", text) for text in ("", "maybe", "2")],
    *[("unknown-devices", text) for text in ("", "none", "echo store")],
    *[("max-associations", text) for text in ("0", "10001")],
    *[("max-pdu", text) for text in ("0", "4095", "1048577")],
    *[(name, "0") for name in ("artim-timeout", "network-timeout", "idle-timeout", "commitment-retry-days")],
    *[("verify-rate", text) for text in ("0", "fast")],
    ("verify-every-days", "3651"),
    ("min-free-space", "-5"),
    ("commitment-delay", "3601"),
    ("storage", ""),
    ("log-file", "~no-such-user/x"),
    ("log-level", "loud"),
    ("tls-port", "70000"),
]


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_a_wrong_value_is_named_with_its_place_and_what_is_allowed(name: str, text: str) -> None:
    row = next(row for row in SETTINGS if row.name == name)
    path = write(f"[{row.section}]\n{name} = {text}\n", "wrong.ini")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, [{row.section}] {name}: {text!r} is not allowed")
    assert message.endswith(f"allowed: {row.kind.allowed}")
    with pytest.raises(ConfigError, match=f"^--{name}: "):
        config.load(None, {name: text})


@pytest.mark.parametrize("sign", ["\x00", "\x1b", "\x7f", "\x85", "\n", "\u2028"])
@pytest.mark.parametrize("name", [row.name for row in SETTINGS])
def test_control_characters_are_refused_in_every_setting(name: str, sign: str) -> None:
    with pytest.raises(ConfigError, match="control character"):
        config.load(None, {name: f"x{sign}y"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dicom]\nprot = 1\n", "[dicom]: there is no setting 'prot'; did you mean port?"),
        ("[dicom]\nae_title = A\n", "there is no setting 'ae_title'; did you mean ae-title?"),
        ("[dicom]\nzzzzzz = A\n", "there is no setting 'zzzzzz'; there are: ae-title, bind,"),
        ("[tls]\nport = 1\n", "[tls] port: this setting belongs in section [dicom]"),
        ("[dicon]\n", "there is no section [dicon]; did you mean dicom?"),
        ("[DEFAULT]\nport = 1\n", "there is no section [DEFAULT]"),
        ("[devices A]\n", "there is no section [devices A]; did you mean device NAME?"),
        ("port = 1\n", "line 1: a [section] line must come first"),
        ("[dicom]\nport = 1\nport = 2\n", "line 3: port is there twice in [dicom]"),
        ("[dicom]\n\n[dicom]\n", "line 3: section [dicom] is there twice"),
        ("[archive]\nindex: secret\n", "line 2: expected 'name = value' or '[section]'"),
        ("[dicom]\nae-title = A\n  port = 5\n", "[dicom] ae-title: the value holds a control character or goes on"),
        ("[tls]\ntls-port = 2762\n", "tls-port is set, so tls-certificate and tls-key must be set too"),
        ("[tls]\ntls-port = 11112\ntls-certificate=c\ntls-key=k", "port and tls-port are both 11112"),
    ],
)
def test_a_broken_file_is_explained(text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_text_or_cannot_be_read_is_explained(tmp_path: Path) -> None:
    path = write("")
    path.write_bytes(b"[dicom]\nae-title = \xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path)


# --- Index URLs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("sqlite:///a.db", IndexURL("sqlite", path=Path("/base/a.db")), "sqlite:////base/a.db"),
        ("sqlite:////abs/b.db", IndexURL("sqlite", path=Path("/abs/b.db")), "sqlite:////abs/b.db"),
        ("sqlite:////%E8%A1%80/50%25%3F", IndexURL("sqlite", path=Path("/血/50%?")), "sqlite:////血/50%25%3F"),
        (
            "mysql://av:p%40ss%2Fw%3A%23@/pacs?unix_socket=/run/mysqld/mysqld10.sock",
            IndexURL("mysql", user="av", password="p@ss/w:#", database="pacs", unix_socket="/run/mysqld/mysqld10.sock"),
            "mysql://av:***@/pacs?unix_socket=/run/mysqld/mysqld10.sock",
        ),
        (
            "mysql://av@db.local/pacs",
            IndexURL("mysql", user="av", database="pacs", host="db.local", port=3306),
            "mysql://av@db.local:3306/pacs",
        ),
        (
            "mysql://a%40b:%E5%AF%86@[::1]:3307/p%2Fx",
            IndexURL("mysql", user="a@b", password="密", database="p/x", host="::1", port=3307),
            "mysql://a%40b:***@[::1]:3307/p%2Fx",
        ),
    ],
)
def test_index_urls_are_read_and_shown_without_the_password(text: str, expected: IndexURL, shown: str) -> None:
    got = IndexURL.parse(text, Path("/base"))
    assert got == expected
    assert got.redacted() == str(got) == f"{got}" == shown
    assert repr(got) == f"IndexURL({shown!r})"
    if not got.password:
        assert IndexURL.parse(shown, Path("/elsewhere")) == got


@pytest.mark.parametrize(
    "text",
    [
        "sqlite://hunter2.db",
        "sqlite:///",
        "sqlite:///a.db?mode=hunter2",
        "sqlite:///a#hunter2",
        "sqlite:///%ff",
        "postgres://u:hunter2@h/d",
        "hunter2",
        "mysql://u:hunter2@/d",
        "mysql://u:hunter2@h/",
        "mysql://:hunter2@h/d",
        "mysql://u:hunter2/d",
        "mysql://u:hun/ter2@h/d",
        "mysql://u:hun?ter2@h/d",
        "mysql://u:hun#ter2@h/d",
        "mysql://u:hun[ter2@h/d",
        "mysql://u:hunter2@h:99999/d",
        "mysql://u:hunter2@h/d/e",
        "mysql://u:%ff@h/d",
        "mysql://u:hunter2\u2100@h/d",
        "mysql://u:hunter2@h/d?unix_socket=/run/s",
        "mysql://u:hunter2@/d?unix_socket=run/s",
        "mysql://u:hunter2@/d?unix_socket=",
        "mysql://u@h/d?password=hunter2",
    ],
)
def test_a_wrong_index_url_is_refused_without_showing_its_password(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(f"[archive]\nindex = {text}\n"))
    message = str(caught.value)
    assert "[archive] index: the value (not shown, it may hold a password) is not allowed" in message
    assert not any(part in message for part in ("hunter2", "hun", "ter2"))
    assert caught.value.__cause__ is None


def test_the_password_is_not_in_the_printed_settings() -> None:
    got = config.load(None, {"index": "mysql://av:hunter2@db/pacs"})
    assert got.index_url.password == "hunter2"
    assert "hunter2" not in f"{got} {got!r}"


# --- Flags and reference --------------------------------------------------------------------------------------------


def test_flags_come_from_the_table_and_win_over_the_file() -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    words = "--ae-title NAS --bind 127.0.0.1 --port 0 --unknown-devices all --storage s --index sqlite:///i.db"
    given = config.flag_values(parser.parse_args([*words.split(), "--log-level", "debug", "--health-file", "h"]))
    assert set(given) == {row.name for row in SETTINGS if row.flag}
    got = config.load(write("[dicom]\nport = 104\nmax-pdu = 4096\nae-title = FILE\n"), given)
    assert (got.port, got.ae_title, got.max_pdu, got.log_level) == (0, "NAS", 4096, "debug")
    assert config.flag_values(parser.parse_args([])) == {}


def test_some_flags_only_can_be_added() -> None:
    parser = argparse.ArgumentParser()
    some = [row for row in SETTINGS if row.name in {"storage", "max-pdu"}]
    config.add_flags(parser, some)
    assert config.flag_values(parser.parse_args(["--storage", "x"]), some) == {"storage": "x"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--port", "1"])


def test_help_of_the_flags_is_printable_and_complete() -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    text = " ".join(parser.format_help().split())
    assert "--unknown-devices refuse|echo|store|all" in text
    assert "Write special characters in user, password and paths as %XX." in text
    assert "Default: ANGIOVAULT." in text


def test_the_reference_in_the_documentation_is_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "write it anew from angiovault.devices.settings_page()"
    assert settings_page().startswith(config.settings_table())


def test_every_setting_has_a_row_of_five_columns_and_a_default_that_is_allowed() -> None:
    lines = config.settings_table().splitlines()
    for row in SETTINGS:
        [line] = [line for line in lines if line.startswith(f"| `{row.name}` |")]
        assert line.count("|") == 6
        assert row.default is not None
        assert row.read(row.default, row.name, Path()) == getattr(Config(), row.attribute)
    assert len({row.name for row in SETTINGS}) == len(SETTINGS)


# --- Writing --------------------------------------------------------------------------------------------------------


def test_changes_are_saved_and_the_rest_is_kept() -> None:
    path = write("[dicom]\nport = 104\n[archive]\nstorage = 数据\n[device CT]\nae-title = CT1\nhost = ct\n")
    config.save(path, {"port": "105", "log-level": "debug", "index": "mysql://u:50%25;%23@h/d"})
    got = config.load(path)
    assert (got.port, got.log_level, got.storage.name) == (105, "debug", "数据")
    assert got.index_url.password == "50%;#"
    assert dict(config.read_file(path)["device CT"]) == {"ae-title": "CT1", "host": "ct"}
    config.save(path, {"port": None})
    assert config.load(path).port == 11112


def test_a_saved_file_is_private_even_if_it_was_not_and_new_ones_are_made(tmp_path: Path) -> None:
    path = write("")
    path.chmod(0o644)
    config.save(path, {"port": "1"})
    config.save(tmp_path / "new.ini", {"port": "2"})
    for each, port in ((path, 1), (tmp_path / "new.ini", 2)):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
        assert config.load(each).port == port
    assert sorted(os.listdir()) == ["angiovault.ini", "new.ini"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": "70000"}, "'70000' is not allowed"),
        ({"port": "1\n[device EVIL]\nae-title = X"}, "control character"),
        ({"prot": "1"}, "did you mean port?"),
        ({"tls-port": "2762"}, "tls-certificate"),
        ({"storage": "\udcff"}, "not UTF-8"),
    ],
)
def test_what_is_not_valid_is_not_saved(changes: dict[str, str], message: str) -> None:
    path = write("[dicom]\nport = 104\n")
    before = (path.read_bytes(), path.stat().st_ino)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        config.save(path, changes)
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert os.listdir() == ["angiovault.ini"]


def test_a_broken_value_can_be_repaired_by_saving() -> None:
    path = write("[dicom]\nport = x\n")
    config.save(path, {"port": "4"})
    assert config.load(path).port == 4


def test_a_symbolic_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = write("", "real/av.ini")
    Path("angiovault.ini").symlink_to(target)
    config.save(Path("angiovault.ini"), {"port": "7"})
    assert Path("angiovault.ini").is_symlink()
    assert config.load(target).port == 7


def test_a_folder_that_is_missing_is_explained() -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        config.save(Path("nowhere/av.ini"), {"port": "1"})


def test_what_a_crash_left_behind_does_not_stop_saving() -> None:
    path = write("")
    write("half", ".angiovault.ini.new")
    config.save(path, {"port": "8"})
    assert config.load(path).port == 8
    assert os.listdir() == ["angiovault.ini"]


def test_writing_is_durable_file_first_then_rename_then_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = write(""), []
    sync, replace = os.fsync, Path.replace

    def fsync(fd: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        sync(fd)

    def rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    config.save(path, {"port": "9"})
    assert steps == ["file", "rename", "folder"]


def test_writers_at_the_same_time_lose_nothing() -> None:
    path = write("")
    names = ["port", "max-pdu", "idle-timeout", "artim-timeout", "network-timeout", "verify-rate", "max-associations"]
    threads = [
        threading.Thread(target=config.save, args=(path, {name: "5000" if name == "max-pdu" else "3000"}))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = config.load(path)
    assert [getattr(got, name.replace("-", "_")) for name in names] == [3000, 5000, 3000, 3000, 3000, 3000, 3000]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root edits another user's file")
def test_root_leaves_the_file_to_its_owner() -> None:
    path = write("")
    os.chown(path, 65534, 65534)
    config.save(path, {"port": "9"})
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)
