"""The icon of DSM's desktop opens index.cgi: by DSM's rules it runs as its owner and asks who is logged in."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

from dsm.nas import PACKAGE, Nas
from dsm.stage import WEB
from harness.dcmtk import StoreSCP
from harness.waiting import wait_until

_CGI = f"{WEB}/3rdparty/{PACKAGE}/index.cgi"


def _open(nas: Nas, cookie: str, token: str, path: str = "/", **change: str) -> str:
    """Ask as DSM's web server does; a `change` is a JSON `body` with the `csrf` token of the session."""
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
    if change:
        environment |= {
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(change["body"])),
            "HTTP_X_REQUESTED_WITH": change["csrf"],
        }
    owner = nas.stage.run(["ls", "-lL", _CGI]).stdout.split()[2]
    assert owner == PACKAGE
    return nas.stage.run([_CGI], user=owner, env=environment, stdin=change.get("body", "")).stdout


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


def _ask(nas: Nas, path: str, **change: Any) -> Any:
    """Ask as an administrator does, or change something, and return the answer's JSON."""
    who = ("id=session-of-admin", "token-of-admin", path)
    more = {"body": json.dumps(change), "csrf": _ask(nas, "/api/session")["csrf"]} if change else {}
    answer = _open(nas, *who, **more)
    assert answer.startswith("Status: 200"), answer
    return json.loads(re.split(r"\r?\n\r?\n", answer, maxsplit=1)[1])


def test_a_job_ends_with_the_package_and_goes_on_when_it_is_wanted(nas: Nas, tmp_path: Path) -> None:
    """Nothing may hold the volume when the package is stopped, not even a device that does not answer."""
    nas.install_ready()
    study = nas.send(3)
    nas.wait_until_found()
    with StoreSCP(tmp_path / "received", ae_title="CONSOLE") as console:
        nas.add_device("console", "CONSOLE", console.peer.port)
        os.kill(console.pid, signal.SIGSTOP)
        try:
            number = _ask(nas, "/api/jobs", kind="send", device="console", uids=[study])["job"]

            def processes() -> list[str]:
                return [each.command for each in nas.stage.processes(PACKAGE) if "jobs.process" in each.command]

            wait_until(processes, "the job's process")
            assert _ask(nas, "/api/overview")["jobs"][0]["id"] == number
            assert nas.center.stop().ok
            assert nas.stage.processes(PACKAGE) == []
        finally:
            os.kill(console.pid, signal.SIGCONT)
        assert nas.center.start().ok
        nas.wait_until_answers()
        assert _ask(nas, f"/api/jobs/{number}")["state"] == "interrupted"
        _ask(nas, f"/api/jobs/{number}/again", please=True)
        wait_until(lambda: _ask(nas, f"/api/jobs/{number}")["state"] == "done", "the job to be done", seconds=60)
        assert len(console.received()) == 3
