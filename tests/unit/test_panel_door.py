"""Who may come in to the panel, and what every answer carries."""

import json
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from angiovault.panel.app import make_app
from angiovault.panel.context import Context
from angiovault.panel.door import LoopbackDoor
from angiovault.panel.pages import PAGES
from angiovault.panel.place import Place
from angiovault.panel.web import LONGEST_BODY
from harness.panel import Client, Reply

GETS = ["/", "/api/session", "/api/texts", "/api/overview", "/api/service", "/api/devices", "/api/log", "/api/folders"]
GETS += ["/api/jobs"]
POSTS = [
    *("/api/service", "/api/service/check", "/api/service/database", "/api/service/create-database"),
    *("/api/devices/add", "/api/devices/change", "/api/devices/remove", "/api/devices/echo"),
    *("/api/jobs", "/api/jobs/<number>/cancel", "/api/jobs/<number>/again", "/api/jobs/<number>/remove"),
    *("/api/commitments/<number>/retry", "/api/commitments/<number>/cancel"),
    *("/api/conflicts/choose", "/api/trash/add", "/api/trash/restore", "/api/trash/empty"),
]
GETS_OF_AN_ARCHIVE = ["/api/studies", "/api/studies/<uid>", "/api/studies/<uid>/zip", "/api/trash"]
"""Here there is none yet; see test_panel_studies."""


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """The panel on its socket, with settings that name a log and a storage in `tmp_path`."""
    settings = tmp_path / "angiovault.ini"
    settings.write_text("[archive]\nstorage = archive\n[log]\nlog-file = angiovault.log\n", encoding="utf-8")
    return Client(Place(settings))


def assert_guarded(reply: Reply) -> None:
    policy = reply.headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "form-action 'none'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


def test_every_route_is_known_to_these_tests(client: Client) -> None:
    routes = [route for page in PAGES for route in page.routes(client.context)]
    gets = [*GETS, *GETS_OF_AN_ARCHIVE, "/api/log/file", "/api/jobs/<number>"]
    known = {("GET", path) for path in gets} | {("POST", path) for path in POSTS}
    assert {(route.method, route.path) for route in routes} <= known


@pytest.mark.parametrize("path", GETS)
def test_pages_answer_administrators_only(client: Client, path: str) -> None:
    reply = client.ask(path)
    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"
    assert_guarded(reply)
    refused = client.ask(path, headers={"X-AngioVault-User": None})
    assert (refused.status, refused.error) == (403, "refused.user")
    assert_guarded(refused)


@pytest.mark.parametrize("path", GETS_OF_AN_ARCHIVE)
def test_an_archive_is_shown_to_administrators_only(client: Client, path: str) -> None:
    path = path.replace("<uid>", "1.2.3")
    refused = client.ask(path, headers={"X-AngioVault-User": None})
    assert (refused.status, refused.error) == (403, "refused.user")
    away = client.ask(path)
    assert (away.status, away.error) == (409, "refused.archive")
    assert_guarded(away)


@pytest.mark.parametrize("path", POSTS)
def test_changes_need_the_token_of_the_page(client: Client, path: str) -> None:
    body = b"{}"
    token = client.get("/api/session")["csrf"]
    assert client.ask(path, method="POST", body=body).error == "refused.csrf"
    assert client.ask(path, method="POST", body=body, headers={"X-Requested-With": "XMLHttpRequest"}).status == 403
    for site in ("cross-site", "same-site", "none"):
        headers = {"X-Requested-With": token, "Sec-Fetch-Site": site}
        assert client.ask(path, method="POST", body=body, headers=headers).error == "refused.cross-site"
    headers = {"X-Requested-With": token, "Origin": "https://evil.example"}
    assert client.ask(path, method="POST", body=body, headers=headers).error == "refused.cross-site"
    headers = {"X-Requested-With": token, "Origin": "https://nas:5001"}
    reply = client.ask(path, method="POST", body=body, headers=headers)
    assert reply.status != 403
    assert client.ask(path).status == (200 if path in GETS else 405)
    assert_guarded(reply)


def test_the_token_of_one_user_is_no_good_to_another(client: Client) -> None:
    token = client.get("/api/session")["csrf"]
    headers = {"X-Requested-With": token, "X-AngioVault-User": "boss"}
    assert client.ask("/api/devices/remove", method="POST", body=b"{}", headers=headers).error == "refused.csrf"


def test_users_with_names_in_any_script_are_known_by_them(client: Client) -> None:
    assert client.ask("/api/session", headers={"X-AngioVault-User": "%E7%8E%8B%E4%BC%9F"}).json["user"] == "王伟"
    for name in ("", "a%0D%0ASet-Cookie:x=1", "%00", "x" * 300):
        assert client.ask("/api/session", headers={"X-AngioVault-User": name}).status == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    reply = client.ask("/api/service", method=method)
    assert (reply.status, reply.error, reply.headers["allow"]) == (405, "refused.method", "GET, HEAD, POST")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Length": None}, b"{}", 411),
        ({"Content-Length": "-1"}, b"{}", 411),
        ({"Content-Length": "9" * 5000}, b"{}", 413),
        ({}, b'"' + b"x" * LONGEST_BODY + b'"', 413),
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"name=x", 415),
        ({}, b"[]", 400),
        ({}, b"{", 400),
        ({}, b"\xff\xfe", 400),
        ({}, b"[" * 60000, 400),
        ({}, json.dumps({"name": 5}).encode(), 400),
        ({}, json.dumps({"name": "x" * 5000}).encode(), 400),
    ],
)
def test_bodies_are_bounded_json(client: Client, headers: dict[str, str | None], body: bytes, status: int) -> None:
    token = client.get("/api/session")["csrf"]
    reply = client.ask("/api/devices/remove", method="POST", body=body, headers={"X-Requested-With": token, **headers})
    assert reply.status == status
    assert reply.error.startswith("refused.")


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/core.js", "/static/%00"),
        *("/api/tasks/..", "/api/tasks/%2e%2e%2f", "/api/nothing", "/../../etc/passwd", "//etc/passwd", "/index.html"),
    ],
)
def test_there_is_nothing_beside_the_routes(client: Client, path: str) -> None:
    reply = client.ask(path)
    assert reply.status == 404
    assert reply.error == "refused.not-found"
    assert_guarded(reply)


def test_long_addresses_are_refused(client: Client) -> None:
    assert client.ask("/api/log?text=" + "x" * 3000).status == 400


def test_the_shell_has_no_script_of_its_own_and_relative_addresses_only(client: Client) -> None:
    text = client.ask("/", headers={"Accept-Language": "zh-CN"}).text
    assert 'lang="zh-Hans"' in text
    assert 'src="/' not in text
    assert 'href="/' not in text
    assert "<script>" not in text
    assert " style=" not in text
    assert " on" not in text.replace(" once", "")
    for name in ("panel.js", "panel.css", "icon.svg"):
        address = text.partition(f"static/{name}?v=")[2].partition('"')[0]
        reply = client.ask(f"/static/{name}?v={address}", headers={"X-AngioVault-User": None})
        assert reply.status == 200
        assert "immutable" in reply.headers["cache-control"]
        assert_guarded(reply)


def test_the_language_is_that_of_the_query_then_of_the_browser(client: Client) -> None:
    assert 'data-lang="zh"' in client.ask("/?lang=chs").text
    assert 'data-lang="en"' in client.ask("/?lang=enu", headers={"Accept-Language": "zh-CN"}).text
    assert 'data-lang="en"' in client.ask('/?lang="><script>', headers={"Accept-Language": "zh"}).text
    assert client.get("/api/texts?lang=zh")["texts"]["page.log"] == "日志"


# --- On loopback ----------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Client:
    """The panel on a port of this machine, nobody having used its URL."""
    client = Client(Place(tmp_path / "angiovault.ini"), LoopbackDoor())
    client.headers = {"Host": "127.0.0.1:8123"}
    return client


def enter(local: Client) -> str:
    assert isinstance(local.door, LoopbackDoor)
    address = local.door.url(8123).removeprefix("http://127.0.0.1:8123")
    reply = local.ask(address)
    assert (reply.status, reply.headers["location"]) == (303, "./")
    cookie = SimpleCookie(reply.headers["set-cookie"])["angiovault-8123"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert local.ask(address).status == 403, "the URL works twice"
    return f"angiovault-8123={cookie.value}"


def test_the_url_lets_in_once(local: Client) -> None:
    cookie = enter(local)
    assert local.ask("/api/session", headers={"Cookie": cookie}).json["user"] == "local"
    assert local.ask("/api/session").error == "refused.session"
    assert local.ask("/api/session", headers={"Cookie": cookie + "x"}).error == "refused.session"
    assert local.ask("/api/session", headers={"Cookie": "angiovault-8123="}).error == "refused.session"


def test_loopback_does_not_believe_headers(local: Client) -> None:
    enter(local)
    assert local.ask("/api/session", headers={"X-AngioVault-User": "admin"}).status == 403


@pytest.mark.parametrize("token", ["", "x", "%00", "é", "undefined"])
def test_other_tokens_do_not_let_in_and_do_not_use_up_the_right_one(local: Client, token: str) -> None:
    assert isinstance(local.door, LoopbackDoor)
    local.door.url(8123)
    assert local.ask(f"/?token={token}").status == 403
    enter(local)


def test_neither_head_nor_post_use_up_the_token(local: Client) -> None:
    assert isinstance(local.door, LoopbackDoor)
    address = local.door.url(8123).removeprefix("http://127.0.0.1:8123")
    assert local.ask(address, method="HEAD").status == 403
    assert local.ask(address, method="POST", body=b"{}").status == 403
    enter(local)


@pytest.mark.parametrize(
    "host", ["evil.example:8123", "127.0.0.1", "127.0.0.1:8124", "127.0.0.1:8123.evil.example", ""]
)
def test_other_hosts_are_refused_whoever_asks(local: Client, host: str) -> None:
    cookie = enter(local)
    assert local.ask("/api/session", headers={"Cookie": cookie, "Host": host}).error == "refused.host"
    assert local.ask("/static/panel.css", headers={"Host": host}).error == "refused.host"
    assert local.ask("/api/session", headers={"Cookie": cookie, "Host": "localhost:8123"}).status == 200


def test_people_get_a_page_in_their_language(local: Client) -> None:
    enter(local)
    reply = local.ask("/", headers={"Accept": "text/html", "Accept-Language": "zh-CN"})
    assert reply.status == 403
    assert "一次性密钥" in reply.text
    assert_guarded(reply)


def test_what_fails_inside_is_a_reason_and_no_traceback(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("angiovault.panel.settings_form.network.addresses", fail)
    reply = client.ask("/api/service")
    assert (reply.status, reply.error) == (500, "refused.failed")
    assert "secret" not in reply.text
    assert_guarded(reply)


def test_the_app_can_be_made_without_any_file(tmp_path: Path) -> None:
    assert make_app(Context(Place(tmp_path / "none.ini")), LoopbackDoor())
