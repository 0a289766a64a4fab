"""`ui/index.cgi` behind a web server: who comes in, what is forwarded, what is shown when nobody answers."""

import html
import json
import socket
import time

import pytest

from browser.desktop import SESSIONS, TOKEN, Desktop, Reply
from browser.panel import hanging_panel, running_panel

pytestmark = pytest.mark.root

STATE = "/stub/state.json"


def assert_guarded(reply: Reply) -> None:
    """Check the headers that every answer has."""
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "no-store"


def assert_refused(reply: Reply, words: str) -> None:
    assert reply.status == 403
    assert words in html.unescape(reply.text)
    assert "Last log lines" not in reply.text
    assert_guarded(reply)


# --- Who comes in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["admin", "boss", "王伟"])
def test_administrators_come_in(desktop: Desktop, user: str) -> None:
    """As a member of the group, with it as the primary group, and with a name in Chinese."""
    reply = desktop.request(user=user)
    assert reply.status == 200
    assert "Type this into the modality" in reply.text
    assert_guarded(reply)


def test_nobody_comes_in_without_a_session(desktop: Desktop) -> None:
    desktop.healthy()
    desktop.write("angiovault.log", "a patient's name\n")
    assert_refused(desktop.request(), "not logged in")
    assert_refused(desktop.request(headers={"Cookie": "id=session-of-nobody"}), "not logged in")
    assert_refused(desktop.request(STATE), "not logged in")
    assert "patient" not in desktop.request(STATE).text


def test_users_who_are_no_administrators_stay_out(desktop: Desktop) -> None:
    """The group "backup administrators" is another one."""
    assert_refused(desktop.request(user="visitor"), "visitor is not in the group administrators")


def test_a_program_gets_its_refusal_as_json(desktop: Desktop) -> None:
    reply = desktop.request(STATE, headers={"Accept": "*/*"})
    assert reply.status == 403
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.text)["error"] == "not-logged-in"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("failing", "did not recognise you (exit code 3)"),
        ("silent", "not logged in"),
        ("two-lines", "cannot be understood"),
        ("html", "cannot be understood"),
        ("endless", "cannot be understood"),
    ],
)
def test_a_login_check_that_does_not_name_a_user_lets_nobody_in(desktop: Desktop, mode: str, words: str) -> None:
    desktop.login_check(mode)
    assert_refused(desktop.request(user="admin"), words)


@pytest.mark.parametrize("mode", ["hanging", "lingering"])
def test_a_login_check_that_does_not_end_lets_nobody_in(desktop: Desktop, mode: str) -> None:
    desktop.login_check(mode)
    start = time.monotonic()
    assert_refused(desktop.request(user="admin"), "did not answer in time")
    assert 4.5 < time.monotonic() - start < 8


def test_a_login_check_that_is_missing_lets_nobody_in(desktop: Desktop) -> None:
    desktop.authenticate.chmod(0o600)
    assert_refused(desktop.request(user="admin"), "cannot be run: Permission denied")
    desktop.authenticate.unlink()
    assert_refused(desktop.request(user="admin"), "cannot be run: No such file")


def test_the_login_check_sees_only_what_it_needs(desktop: Desktop) -> None:
    headers = {"X-SYNO-TOKEN": TOKEN, "X-Forwarded-For": "192.0.2.7", "X-Real-IP": "192.0.2.7", "X-Other": "1"}
    body = b"no line for authenticate.cgi\n"
    desktop.request("/?a=b", method="POST", user="admin", headers={**headers, "Content-Type": "text/x"}, body=body)
    seen = desktop.seen_by_login_check()
    assert seen.pop("PWD")  # the shell's own
    assert seen == {
        "HTTP_COOKIE": f"stay=1; id={SESSIONS['admin']}",
        "HTTP_HOST": f"127.0.0.1:{desktop.port}",
        "HTTP_X_FORWARDED_FOR": "192.0.2.7",
        "HTTP_X_REAL_IP": "192.0.2.7",
        "HTTP_X_SYNO_TOKEN": TOKEN,
        "QUERY_STRING": "SynoToken=good.%2FToken",
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": "GET",
        "SERVER_ADDR": "127.0.0.1",
        "SERVER_NAME": "",
        "SERVER_PORT": str(desktop.port),
    }


@pytest.mark.parametrize("mode", ["normal", "insisting"])
def test_what_changes_something_needs_the_token(desktop: Desktop, mode: str) -> None:
    desktop.login_check(mode)
    with running_panel(desktop.var) as panel:
        assert_refused(desktop.request(method="POST", user="admin"), "no SynoToken")
        assert_refused(desktop.request("/?SynoToken=", method="POST", user="admin"), "no SynoToken")
        assert not panel.asked
        assert desktop.request(method="POST", user="admin", headers={"X-SYNO-TOKEN": TOKEN}).status == 200
        assert desktop.request("/?a=1&SynoToken=good.%2FToken", method="POST", user="admin").status == 200
        assert len(panel.asked) == 2


def test_a_wrong_token_is_dsms_to_refuse(desktop: Desktop) -> None:
    desktop.login_check("insisting")
    headers = {"X-SYNO-TOKEN": "wrong"}
    assert_refused(desktop.request(method="POST", user="admin", headers=headers), "not logged in")
    assert_refused(desktop.request(user="admin"), "not logged in")
    assert desktop.request(f"/?SynoToken={TOKEN}", user="admin").status == 200


def test_another_web_site_cannot_change_anything(desktop: Desktop) -> None:
    """Where DSM's protection is off, any token passes the login check: browsers say where a request comes from."""
    with running_panel(desktop.var) as panel:
        for site in ("cross-site", "same-site", "none"):
            headers = {"Sec-Fetch-Site": site}
            reply = desktop.request("/?SynoToken=x", method="POST", user="admin", headers=headers)
            assert_refused(reply, "another web site")
        assert not panel.asked


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(desktop: Desktop, method: str) -> None:
    reply = desktop.request(method=method, user="admin")
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD, POST"
    assert_guarded(reply)


def test_a_long_body_is_refused_before_it_is_read(desktop: Desktop) -> None:
    with running_panel(desktop.var) as panel:
        reply = desktop.request(
            method="POST", user="admin", headers={"X-SYNO-TOKEN": TOKEN}, body=b"x" * ((1 << 20) + 1)
        )
        assert reply.status == 413
        assert_guarded(reply)
        assert not panel.asked


def test_static_files_need_no_login_and_have_no_secrets(desktop: Desktop) -> None:
    reply = desktop.request("/../stub.js")
    assert reply.status == 200
    assert "SynoToken.find" in reply.text


def test_the_files_of_the_panels_shell_need_no_login_either(desktop: Desktop) -> None:
    """A script or style sheet that a page names cannot carry the token; whatever else is asked for must."""
    assert_refused(desktop.request("/static/panel.js"), "not logged in")  # no panel: nothing is shown instead
    with running_panel(desktop.var) as panel:
        reply = desktop.request("/static/panel.js?v=1", headers={"X-AngioVault-User": "admin"})
        assert (reply.status, reply.text) == (200, "the panel")
        assert panel.asked[-1].line.startswith("GET /static/panel.js?v=1 ")
        assert "x-angiovault-user" not in {name.lower() for name in panel.asked[-1].headers}
        before = len(panel.asked)
        for path in ("/static", "/static/", "/static/a/b", "/static/../api/devices", "/x/static/panel.js"):
            assert desktop.request(path).status in (400, 403, 404), path
        assert desktop.request("/static/panel.js", method="POST", body=b"").status == 403
        assert len(panel.asked) == before


def test_as_root_it_becomes_the_packages_user() -> None:
    """On DSM 6 the file may belong to root, for the sake of authenticate.cgi's mode."""
    with Desktop(cgi_user="root") as desktop:
        desktop.authenticate.chmod(0o750)
        with running_panel(desktop.var):
            assert desktop.request(user="admin").text == "the panel"
        secret = desktop.var / "angiovault.log"
        secret.write_text("only root may read this\n")
        secret.chmod(0o600)
        assert "angiovault.log: Permission denied" in desktop.request(user="admin").text
        # Who is refused gets a page made without root's rights too: it cannot be made of what only root may read.
        (desktop.root / "volume1/@appstore/angiovault/ui/stub.js").chmod(0o600)
        assert desktop.request().status == 502


# --- What is forwarded ----------------------------------------------------------------------------------------------


def test_a_request_reaches_the_panel_with_the_users_name(desktop: Desktop) -> None:
    headers = {
        "X-AngioVault-User": "root",
        "X-AngioVault-Other": "1",
        "X-SYNO-TOKEN": TOKEN,
        "Content-Type": "application/json",
        "Connection": "keep-alive, X-Other",
        "Proxy": "http://192.0.2.1/",
        "Accept-Language": "de",
    }
    with running_panel(desktop.var) as panel:
        reply = desktop.request(
            "/devices/a%20b?x=1&SynoToken=t&y=%3C", method="POST", user="王伟", headers=headers, body=b"{}"
        )
        assert (reply.status, reply.text) == (200, "the panel")
        assert_guarded(reply)
        (asked,) = panel.asked
    assert asked.line == "POST /devices/a%20b?x=1&y=%3C HTTP/1.0"
    assert asked.body == b"{}"
    names = {name.title(): value for name, value in asked.headers.items()}
    assert names == {
        "Accept": "text/html",
        "Accept-Language": "de",
        "Connection": "close",
        "Content-Length": "2",
        "Content-Type": "application/json",
        "Host": f"127.0.0.1:{desktop.port}",
        "X-Angiovault-User": "%E7%8E%8B%E4%BC%9F",
    }


def test_a_body_of_one_mebibyte_is_passed_on(desktop: Desktop) -> None:
    body = bytes(range(256)) * 4096
    with running_panel(desktop.var) as panel:
        assert desktop.request(method="POST", user="admin", headers={"X-SYNO-TOKEN": "t"}, body=body).status == 200
        assert panel.asked[0].body == body


def test_an_answer_given_before_the_body_is_read_arrives(desktop: Desktop) -> None:
    with running_panel(desktop.var) as panel:
        panel.answer = b"HTTP/1.0 409 Conflict\r\nContent-Length: 2\r\n\r\nno"
        headers = {"X-SYNO-TOKEN": "t"}
        reply = desktop.request("/early", method="POST", user="admin", headers=headers, body=b"x" * (1 << 20))
    assert (reply.status, reply.text) == (409, "no")


def test_the_panels_headers_arrive_without_those_of_its_connection(desktop: Desktop) -> None:
    with running_panel(desktop.var) as panel:
        panel.answer = (
            b"HTTP/1.1 302 Found\r\nLocation: other\r\nConnection: close\r\nKeep-Alive: 5\r\nStatus: 200 OK\r\n"
            b"Cache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n"
        )
        reply = desktop.request(user="admin")
    assert reply.status == 302
    assert reply.headers["location"] == "other"
    assert reply.headers["cache-control"] == "max-age=60"
    assert "keep-alive" not in reply.headers
    assert "frame-ancestors" in reply.headers["content-security-policy"]


def test_a_large_answer_is_streamed(desktop: Desktop) -> None:
    content = "0123456789abcdef" * (1 << 18)
    with running_panel(desktop.var) as panel:
        panel.answer = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + content.encode()
        assert desktop.request(user="admin").text == content


def test_head_has_no_body(desktop: Desktop) -> None:
    reply = desktop.request(method="HEAD", user="admin")
    assert (reply.status, reply.text) == (200, "")
    with running_panel(desktop.var) as panel:
        panel.answer = b"HTTP/1.0 204 No Content\r\n\r\n"
        assert desktop.request(method="HEAD", user="admin").status == 204
        assert panel.asked[0].line == "HEAD / HTTP/1.0"


@pytest.mark.parametrize("path", ["/%0d%0aX-AngioVault-User:%20root/", "/a?x=%0d%0aX-AngioVault-User:%20root"])
def test_no_header_can_be_smuggled_in(desktop: Desktop, path: str) -> None:
    with running_panel(desktop.var) as panel:
        assert desktop.request(path, user="admin").status == 200
        assert panel.asked[0].headers["X-AngioVault-User"] == "admin"
        assert "%0" in panel.asked[0].line


@pytest.mark.parametrize("path", ["/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/angiovault.ini"])
def test_a_path_leads_nowhere_else(desktop: Desktop, path: str) -> None:
    desktop.healthy()
    (desktop.package / "etc/angiovault.ini").write_text("[archive]\nindex = mysql://u:Secret-1@/d?unix_socket=/s\n")
    reply = desktop.request(path, user="admin")
    assert "root:x" not in reply.text
    assert "Secret" not in reply.text


def test_a_panel_that_hangs_is_replaced_by_the_status_page(desktop: Desktop) -> None:
    desktop.healthy()
    with hanging_panel(desktop.var):
        start = time.monotonic()
        reply = desktop.request(user="admin")
        assert 9 < time.monotonic() - start < 15
    assert reply.status == 200
    assert "panel does not answer" in reply.text
    assert "Running and well" in reply.text


def test_nonsense_for_an_answer_is_no_answer(desktop: Desktop) -> None:
    with running_panel(desktop.var) as panel:
        for panel.answer in (b"220 ftp.example\r\n\r\n", b"HTTP/1.0 abc\r\n\r\n", b"", b"x" * 100_000):
            assert "panel does not answer" in desktop.request(user="admin").text


def test_a_socket_that_nobody_listens_on_is_no_panel(desktop: Desktop) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(desktop.var / "panel.sock"))
    reply = desktop.request(user="admin")
    assert reply.status == 200
    assert "panel does not answer" not in reply.text


def test_without_a_panel_its_pages_are_unavailable(desktop: Desktop) -> None:
    assert desktop.request("/devices", user="admin").status == 503
    assert desktop.request(method="POST", user="admin", headers={"X-SYNO-TOKEN": "t"}).status == 503


# --- The status page ------------------------------------------------------------------------------------------------


def test_the_state_comes_as_json_too_and_never_from_the_panel(desktop: Desktop) -> None:
    desktop.healthy()
    answer = json.loads(desktop.request(STATE, user="admin").text)
    assert (answer["state"], answer["panel"]) == ("well", "absent")
    with running_panel(desktop.var) as panel:
        answer = json.loads(desktop.request(STATE, user="admin").text)
        assert answer["panel"] == "there"
        assert not panel.asked
    assert answer["parts"]["state"] in desktop.request(user="admin").text


def test_the_log_is_shown_as_it_is_and_does_nothing(desktop: Desktop) -> None:
    lines = [f"line {number}" for number in range(3000)]
    lines += ['<script>alert("x")</script>', "\x1b[31mred\x00\u202egnp.exe", "mysql://angiovault:Pa55-word@/d failed"]
    desktop.write("angiovault.log", "\n".join(lines) + "\n")
    page = desktop.request(user="admin").text
    assert "line 2903\n" in page
    assert "line 2902\n" not in page
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert" not in page
    assert "\\x1b[31mred\\x00\\x202egnp.exe" in page
    assert "mysql://angiovault:***@/d failed" in page
    assert "Pa55" not in page


def test_the_language_is_that_of_whoever_looks(desktop: Desktop) -> None:
    """The language is the page's choice, then the NAS's, then the browser's."""
    chinese = {"Accept-Language": "zh-CN,zh;q=0.9"}
    assert 'lang="en"' in desktop.request(user="admin").text
    assert 'lang="zh-Hans"' in desktop.request(user="admin", headers=chinese).text
    assert 'lang="en"' in desktop.request("/?lang=enu", user="admin", headers=chinese).text.split("<head>")[0]
    assert "您尚未登录 DSM" in desktop.request("/?lang=chs").text
