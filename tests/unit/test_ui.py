"""DSM's desktop files in `ui/`, and the parts of the status page that need no web server."""

import ast
import json
import os
import re
import signal
import socket
import sys
from configparser import ConfigParser
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from angiovault.dsm import running, stub_page, stub_state
from angiovault.dsm.paths import Nas
from angiovault.dsm.stub_texts import CHINESE, ENGLISH, language

REPOSITORY = Path(__file__).parents[2]
UI = REPOSITORY / "ui"
INDEX = UI / "index.cgi"


# --- What DSM's desktop reads ---------------------------------------------------------------------------------------


def strings(lang: str) -> dict[str, str]:
    """Read a file of texts as DSM does: ini, values in double quotes."""
    parser = ConfigParser(interpolation=None)
    parser.read_string((UI / "texts" / lang / "strings").read_text(encoding="utf-8"))
    texts = {f"{section}:{key}": value for section in parser.sections() for key, value in parser.items(section)}
    assert all(re.fullmatch(r'"[^"]+"', value) for value in texts.values())
    return texts


def application() -> dict[str, object]:
    config = json.loads((UI / "config").read_text(encoding="utf-8"))
    assert list(config) == [".url"]
    assert list(config[".url"]) == ["com.angiovault.panel"]
    return dict(config[".url"]["com.angiovault.panel"])


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{[0-9]\}", text))


def test_the_desktops_texts_are_the_same_in_both_languages() -> None:
    english, chinese = strings("enu"), strings("chs")
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert placeholders(text) == placeholders(chinese[key]), key
        assert key == "app:title" or text != chinese[key], key


def test_the_icon_opens_the_panel_for_administrators_only() -> None:
    config = application()
    assert config["type"] == "legacy"
    assert config["url"] == "/webman/3rdparty/angiovault/index.cgi/"
    assert config["allUsers"] is False
    assert config["icon"] == "images/angiovault_{0}.png"
    assert {config["title"], config["desc"]} <= set(strings("enu"))


def test_the_texts_of_notifications_are_loaded_before_the_panel_is_opened() -> None:
    kinds = ("disk", "storage", "database", "commitment")
    keys = [f"notify:{kind}_{part}" for kind in kinds for part in ("title", "text")]
    assert application()["preloadTexts"] == keys
    assert [key for key in strings("enu") if key.startswith("notify:")] == keys


# --- The door -------------------------------------------------------------------------------------------------------


@pytest.fixture
def index() -> ModuleType:
    """`ui/index.cgi` as a module."""
    loader = SourceFileLoader("index_cgi", str(INDEX))
    spec = spec_from_loader("index_cgi", loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_the_door_is_a_program_of_the_packages_own_python() -> None:
    first = INDEX.read_text(encoding="utf-8").partition("\n")[0]
    assert first == "#!/var/packages/angiovault/target/python/bin/python3 -IS"
    assert len(first) < 128, "the longest first line of Linux before 5.1"
    assert os.access(INDEX, os.X_OK)


def test_the_door_imports_nothing_that_is_slow() -> None:
    """Each of these is part of the interpreter's executable, or loaded at its start."""
    imported = {
        alias.name
        for node in ast.parse(INDEX.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"_signal", "_socket", "grp", "os", "pwd", "select", "sys", "time"}


def test_every_refusal_has_words() -> None:
    reasons = set(re.findall(r'(?:Refused\([0-9]+, |else )"([a-z-]+)"', INDEX.read_text(encoding="utf-8")))
    assert len(reasons) >= 10
    assert reasons <= set(ENGLISH)


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({}, ""),
        ({"QUERY_STRING": "a=b&SynoToken=x%2Fy&c"}, "SynoToken=x%2Fy"),
        ({"QUERY_STRING": "SynoToken=&XSynoToken=1"}, ""),
        ({"HTTP_X_SYNO_TOKEN": "x/y&z", "QUERY_STRING": "SynoToken=other"}, "SynoToken=x%2Fy%26z"),
    ],
)
def test_the_token_is_found_in_header_and_query(index: ModuleType, environ: dict[str, str], token: str) -> None:
    assert index.token_of(environ) == token


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "9" * 20, "0x10", " 1"])
def test_a_length_that_is_no_number_is_refused(index: ModuleType, length: str) -> None:
    with pytest.raises(index.Refused) as refused:
        index.check_request({"REQUEST_METHOD": "POST"}, index.Body(length))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "changes", [{"HTTP_ACCEPT": "a\r\nX-AngioVault-User: root"}, {"CONTENT_TYPE": "a\nb"}, {"HTTP_HOST": "a\x00"}]
)
def test_control_characters_are_not_passed_on(index: ModuleType, changes: dict[str, str]) -> None:
    with pytest.raises(index.Refused) as refused:
        index.request_head({"REQUEST_METHOD": "POST", **changes}, "admin", index.Body("0"))
    assert refused.value.status == 400


@pytest.mark.parametrize("query", ["a b", "a\r\nb", "\udcff", "ä"])
def test_a_query_that_no_browser_sends_is_refused(index: ModuleType, query: str) -> None:
    with pytest.raises(index.Refused) as refused:
        index.check_request({"REQUEST_METHOD": "GET", "QUERY_STRING": query}, index.Body("0"))
    assert refused.value.status == 400


def test_paths_are_encoded_again(index: ModuleType) -> None:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a b/%41/\r\n/é\udcff?#", "QUERY_STRING": "SynoToken=t"}
    line = index.request_head(environ, "admin", index.Body("0")).split(b"\r\n")[0]
    assert line == b"GET /a%20b/%2541/%0D%0A/%C3%A9%FF%3F%23 HTTP/1.0"


def test_the_login_checks_exit_code_is_seen_where_the_web_server_ignores_children(
    index: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "authenticate.cgi"
    program.write_text('#!/bin/sh\necho "$HTTP_COOKIE"\nexit 7\n')
    program.chmod(0o755)
    monkeypatch.setattr(index, "AUTHENTICATE", str(program))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert index.run_login_check({"HTTP_COOKIE": "id=1"}) == (7, b"id=1\n")
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("place", ["var", "target/var"])
def test_the_panels_socket_is_found_on_both_generations(
    index: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(index, "PACKAGE", str(tmp_path))
    (tmp_path / place).mkdir(parents=True)
    assert index.look_for_panel() == "absent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / place / "panel.sock"))
        listener.listen()
        assert index.look_for_panel() == "there"


# --- The status page ------------------------------------------------------------------------------------------------


@pytest.fixture
def nas(tmp_path: Path) -> Nas:
    """A NAS with DSM 7 and the package, which does not run."""
    nas = Nas(tmp_path)
    for folder in (nas.etc, nas.package / "var"):
        folder.mkdir(parents=True)
    (nas.package / "target").mkdir()
    (nas.package / "target/ui").symlink_to(UI)
    return nas


def test_both_languages_have_the_same_texts() -> None:
    assert list(ENGLISH) == list(CHINESE)
    for key, text in ENGLISH.items():
        assert placeholders(text) == placeholders(CHINESE[key]), key
        assert key == "title" or text != CHINESE[key], key


def test_every_state_has_a_name_and_those_without_a_message_have_advice() -> None:
    silent = {"well", "problems", "unknown", "stopped"}
    assert {*stub_state._STATES, *silent} <= set(ENGLISH)
    assert {key for key in ENGLISH if key.endswith("-do")} == {f"{name}-do" for name in {*silent, "refused"}}


def test_the_supervisors_commands_can_be_told_from_its_words(nas: Nas, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"state": "port", "message": "<b> `sudo <x>`, then", "message_zh": "请运行 `sudo`"}
    monkeypatch.setattr(running, "state", lambda _: said)
    english = stub_page.answer({}, "absent", nas)[2].decode()
    assert "<p>&lt;b&gt; <code>sudo &lt;x&gt;</code>, then</p>" in english
    chinese = stub_page.answer({"QUERY_STRING": "lang=chs"}, "absent", nas)[2].decode()
    assert "<p>请运行 <code>sudo</code></p>" in chinese


@pytest.mark.parametrize(
    ("chosen", "nas_language", "accepted", "result"),
    [
        ("chs", "enu", "en", "chs"),
        ("cht", "enu", "en", "chs"),
        ("enu", "chs", "zh", "enu"),
        ("ger", "chs", "zh", "enu"),
        ("", "chs", "en", "chs"),
        ("", "fre", "zh", "enu"),
        ("", "def", "zh-TW,en", "chs"),
        ("", "", "fr,zh", "enu"),
        ("", "", "", "enu"),
    ],
)
def test_the_language(chosen: str, nas_language: str, accepted: str, result: str) -> None:
    assert language(chosen, nas_language, accepted) == result


def test_the_addresses_are_this_machines() -> None:
    for entry in stub_state.addresses():
        address, name = re.fullmatch(r"([0-9.]+) \((.+)\)", entry).groups()  # type: ignore[union-attr]
        assert name in [name for _, name in socket.if_nameindex()]
        assert not address.startswith("127.")
        with socket.socket() as probe:
            probe.bind((address, 0))


def test_a_machine_with_a_network_has_an_address() -> None:
    """The kernel's table of local addresses names the same ones (proc(5): not documented, but there since 2.6.39)."""
    table = Path("/proc/net/fib_trie").read_text(encoding="ascii")
    local = set(re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", table))
    assert {entry.split()[0] for entry in stub_state.addresses()} <= local
    if any(not address.startswith(("127.", "172.")) for address in local):
        assert stub_state.addresses()


def test_what_is_not_running_shows_the_settings(nas: Nas) -> None:
    nas.settings.write_text(
        "[dicom]\nae-title = CATHLAB\nport = 104\nbind = 192.0.2.9\n[tls]\ntls-port = 2762\n"
        "[archive]\nindex = mysql://angiovault:Secret-12345@/angiovault?unix_socket=/s\n"
    )
    state = stub_state.read_state(nas)
    assert (state.name, state.ae_title, state.port, state.tls_port) == ("stopped", "CATHLAB", "104", "2762")
    assert state.addresses == ("192.0.2.9",)
    assert b"Secret" not in stub_page.answer({"REQUEST_METHOD": "GET"}, "absent", nas)[2]


@pytest.mark.parametrize("content", ["", "nonsense\n", "[dicom]\nport"])
def test_settings_that_cannot_be_read_leave_the_defaults(nas: Nas, content: str) -> None:
    nas.settings.write_text(content)
    state = stub_state.read_state(nas)
    assert (state.ae_title, state.port, state.tls_port) == ("ANGIOVAULT", "11112", "")


def test_the_end_of_a_long_log_is_read_and_no_more(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert stub_state.last_log_lines(log) == []
    log.write_bytes(b"x" * (3 << 20) + b"\nlast \xff line\n\n" + b"y" * 5000 + b"\n")
    assert stub_state.last_log_lines(log) == ["last \ufffd line", "y" * 1000]


def test_the_address_of_a_static_file_changes_with_its_content(nas: Nas) -> None:
    folder = nas.package / "target/ui"
    folder.unlink()
    folder.mkdir()
    addresses = []
    for content in ("one", "two", "one"):
        (folder / "stub.js").write_text(content)
        addresses.append(stub_page._asset(nas, "stub.js"))
    assert addresses[0] == addresses[2] != addresses[1]
