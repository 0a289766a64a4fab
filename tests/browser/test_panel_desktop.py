"""The panel in DSM's window: behind `ui/index.cgi`, DSM's web server and its login."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.chromium import Chromium
from browser.desktop import PACKAGE_UID, SESSIONS, TOKEN, Desktop
from faults import instances
from harness.processes import Background
from harness.waiting import wait_until

pytestmark = pytest.mark.root

SERVE = "import sys; from pathlib import Path; from angiovault import logs; from angiovault.dsm.paths import Nas; \
from angiovault.panel.place import Place; from angiovault.panel import serving; logs.set_up(); \
nas = Nas(Path(sys.argv[1]), ''); serving.serve_socket(Place(nas.settings, nas), nas.var / 'panel.sock')"


@pytest.fixture
def nas(desktop: Desktop, tmp_path: Path) -> Iterator[Desktop]:
    """DSM with a service that is well, and the panel on its socket."""
    desktop.healthy()
    (desktop.package / "etc/angiovault.ini").write_text(f"[archive]\nstorage = {tmp_path}/archive\nindex =\n")
    desktop.write("angiovault.log", "2026-11-20 08:00:00 INFO CATHLAB listens on 0.0.0.0:11112\n")
    panel = Background([sys.executable, "-c", SERVE, desktop.root], log=tmp_path / "panel.log")
    socket = desktop.var / "panel.sock"
    panel.wait_ready(socket.exists)
    assert socket.stat().st_mode & 0o777 == 0o600
    os.chown(socket, PACKAGE_UID, PACKAGE_UID)
    yield desktop
    assert panel.stop() == 0
    assert not socket.exists()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path) as browser:
        yield browser


def test_an_administrator_uses_the_window(nas: Desktop, browser: Chromium) -> None:
    browser.open(f"http://127.0.0.1:{nas.port}/nothing.html")
    browser.set_cookie("id", SESSIONS["admin"])
    browser.console()
    browser.open(f"http://127.0.0.1:{nas.port}/")
    browser.enter_frame(0)
    browser.wait_for("main", "CATHLAB")
    browser.click('nav a[href="#devices"]')
    browser.wait_for("main", "No device has been added")
    browser.click("main button.primary")
    values = {"name": "zeego", "ae-title": "ZEEGO", "host": "192.168.1.20", "port": "104"}
    for name, value in values.items():
        browser.run("document.getElementById(arguments[0]).value = arguments[1];", f"field-device-{name}", value)
    browser.click("dialog button[type=submit]")
    browser.wait_for("main", "Added zeego")
    assert "[device zeego]" in (nas.package / "etc/angiovault.ini").read_text()
    browser.click('nav a[href="#log"]')
    browser.wait_for(".log", "CATHLAB listens")
    # The first change is refused until the page has got DSM's token; nothing else is complained about.
    assert [line for line in browser.console() if "403" not in line] == []


def test_the_window_opens_where_dsm_wants_its_token_for_everything(nas: Desktop, browser: Chromium) -> None:
    nas.login_check("insisting")
    browser.open(f"http://127.0.0.1:{nas.port}/nothing.html")
    browser.set_cookie("id", SESSIONS["admin"])
    browser.open(f"http://127.0.0.1:{nas.port}/")
    browser.enter_frame(0)
    browser.wait_for("main", "CATHLAB")
    browser.click('nav a[href="#devices"]')
    browser.wait_for("main", "No device has been added")


def test_changes_are_asked_for_by_the_page_and_nobody_else(nas: Desktop) -> None:
    """The token of DSM alone does not do, nor does that of the panel."""
    session = json.loads(nas.request("/api/session", user="admin").text)
    assert session["user"] == "admin"
    body = json.dumps(
        {"name": "zeego", "ae-title": "ZEEGO", "host": "192.0.2.1", "allow": "all", "character-set": "auto"}
    )
    own = {"Content-Type": "application/json", "Accept": "application/json"}

    def status(user: str | None, **headers: str) -> int:
        given = {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return nas.request("/api/devices/add", method="POST", user=user, headers=given, body=body.encode()).status

    both = {"X_SYNO_TOKEN": TOKEN, "X_Requested_With": session["csrf"]}
    assert status("admin", X_SYNO_TOKEN=TOKEN) == 403
    assert status("admin", X_Requested_With=session["csrf"]) == 403
    assert status("boss", **both) == 403
    assert status("visitor", **both) == 403
    assert status(None, **both) == 403
    assert status("admin", **both, Sec_Fetch_Site="cross-site") == 403
    assert status("admin", **both, X_AngioVault_User="boss") == 200
    assert "[device zeego]" in (nas.package / "etc/angiovault.ini").read_text()


def test_a_study_is_saved_where_dsm_wants_its_token_for_everything(
    nas: Desktop, browser: Chromium, tmp_path: Path
) -> None:
    """The browser fetches a ZIP file by its address and can send no header along: the token stands in the address."""
    settings = nas.package / "etc/angiovault.ini"
    sent = instances.make(tmp_path / "sent", study="1.2.3", name="张^三", size=300_000)
    command = [sys.executable, "-m", "angiovault.cli", "import", sent, "--config", settings]
    subprocess.run(command, check=True, capture_output=True)
    nas.login_check("insisting")
    browser.open(f"http://127.0.0.1:{nas.port}/nothing.html")
    browser.set_cookie("id", SESSIONS["admin"])
    browser.open(f"http://127.0.0.1:{nas.port}/")
    browser.enter_frame(0)
    browser.wait_for("main", "CATHLAB")
    browser.click('nav a[href="#studies"]')
    browser.wait_for("main", "张三")
    browser.click("td.actions button")
    browser.wait_for("main", "Study Instance UID")
    browser.run("[...document.querySelectorAll('main button')].find((e) => e.innerText === 'Export as ZIP').click();")
    wait_until(lambda: list(browser.downloads.glob("*.zip")), "the download")
    (saved,) = browser.downloads.iterdir()
    assert saved.name.startswith("2024-03-12_张^三_K-1_")
    with zipfile.ZipFile(saved) as file:
        (member,) = file.namelist()
        (kept,) = (tmp_path / "archive").glob("2024/**/*.dcm")
        assert file.read(member) == kept.read_bytes()
    log = (tmp_path / "panel.log").read_text(encoding="utf-8")
    assert "admin exports the study 1.2.3" in log
    assert "Token" not in log

    # Without the token, or as anybody else, nothing is given.
    path = "/api/studies/1.2.3/zip"
    assert nas.request(path, user="admin").status == 403
    assert nas.request(f"{path}?SynoToken=good.%2FToken", user="visitor").status == 403
    assert nas.request(f"{path}?SynoToken=good.%2FToken", user=None).status == 403
