"""The icon of DSM's desktop opens index.cgi: by DSM's rules it runs as its owner and asks who is logged in."""

import re

from dsm.nas import PACKAGE, Nas
from dsm.stage import WEB

_CGI = f"{WEB}/3rdparty/{PACKAGE}/index.cgi"


def _open(nas: Nas, cookie: str, token: str, path: str = "/") -> str:
    environment = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": f"/webman/3rdparty/{PACKAGE}/index.cgi",
        "PATH_INFO": path,
        "QUERY_STRING": f"SynoToken={token}" if token else "",
        "HTTP_COOKIE": cookie,
        "HTTP_HOST": "nas.example:5001",
        "REMOTE_ADDR": "192.168.1.7",
        "SERVER_ADDR": "192.168.1.2",
        "SERVER_NAME": "nas.example",
        "SERVER_PORT": "5001",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
    owner = nas.stage.run(["ls", "-lL", _CGI]).stdout.split()[2]
    assert owner == PACKAGE
    return nas.stage.run([_CGI], user=owner, env=environment).stdout


def test_the_panel_shows_the_state_to_administrators_only(each_nas: Nas) -> None:
    nas = each_nas
    nas.install_ready(wizard_ae_title="HYBRID-OR", wizard_port="11113")
    page = _open(nas, "id=session-of-admin", "token-of-admin")
    assert re.match(r"Status: 200[^\n]*\n", page), page[:500]
    assert "Content-Type: text/html" in page
    overview = _open(nas, "id=session-of-admin", "token-of-admin", "/api/overview")
    for text in ("HYBRID-OR", "11113"):
        assert text in overview
    for cookie, token in (
        ("", ""),
        ("id=session-of-admin", ""),
        ("id=session-of-admin", "token-of-visitor"),
        ("id=session-of-visitor", "token-of-visitor"),
    ):
        for path in ("/", "/api/overview"):
            answer = _open(nas, cookie, token, path)
            assert answer.startswith("Status: 403")
            assert "HYBRID-OR" not in answer
    assert nas.center.stop().ok
    assert not nas.stage.exists(_CGI)
