"""The whole path of an administrator in DSM's window: a supervised archive, real devices, and nothing skipped."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from angiovault import jsonfile
from angiovault.dsm import running
from angiovault.dsm.paths import Nas
from browser.chromium import Chromium
from browser.desktop import PACKAGE_UID, SESSIONS, Desktop
from browser.test_panel_desktop import SERVE
from browser.test_panel_person import SETTINGS, go_to, type_into
from faults import instances
from harness import part10
from harness.dcmtk import Peer, StoreSCP, echoscu, storescu
from harness.jobs import files
from harness.panel import SUPERVISE
from harness.processes import Background, free_port
from harness.waiting import wait_until

pytestmark = pytest.mark.root

STUDY = "1.2.826.0.1.3680043.8.498.7"


@pytest.fixture
def nas(desktop: Desktop, tmp_path: Path) -> Iterator[Nas]:
    """A NAS whose supervisor runs the service, with the panel behind DSM's web server."""
    nas = Nas(desktop.root, "")
    share = desktop.root / "volume1/angiography"
    share.mkdir(parents=True, exist_ok=True)
    nas.settings.write_text(SETTINGS.format(port=free_port()), encoding="utf-8")
    with ExitStack() as stack:
        supervisor = Background([sys.executable, "-c", SUPERVISE, desktop.root], log=tmp_path / "supervisor.log")
        stack.callback(lambda: supervisor.stop(seconds=30))
        supervisor.wait_ready(lambda: running.state(nas)["state"] == "running")
        before = nas.panel.stat().st_ino
        panel = Background([sys.executable, "-c", SERVE, desktop.root], log=tmp_path / "panel.log")
        stack.callback(panel.stop)
        panel.wait_ready(lambda: nas.panel.exists() and nas.panel.stat().st_ino != before)
        # On a NAS all of this is the package's user's; here root runs it, and index.cgi is the package's user's.
        os.chown(nas.panel, PACKAGE_UID, PACKAGE_UID)
        yield nas


def test_an_administrator_sets_up_and_uses_the_archive(
    desktop: Desktop, nas: Nas, tmp_path: Path, receiver: Callable[..., StoreSCP]
) -> None:
    console = receiver("CONSOLE")
    with Chromium(tmp_path) as browser:
        # Logged in to DSM, the window shows the overview.
        browser.open(f"http://127.0.0.1:{desktop.port}/nothing.html")
        browser.set_cookie("id", SESSIONS["admin"])
        browser.console()  # of the page that is not there
        browser.open(f"http://127.0.0.1:{desktop.port}/")
        browser.enter_frame(0)
        browser.wait_for("main", "Running and well")
        old, new = jsonfile.read(nas.health)["port"], free_port()
        assert str(old) in browser.text("main")

        # Port and AE title are changed, and a device reaches the new ones.
        go_to(browser, "service", "DICOM port")
        type_into(browser, "field-port", str(new))
        type_into(browser, "field-ae-title", "CATHLAB")
        browser.wait_for(".effects", "the listener is opened anew")
        browser.click("button[type=submit]")
        browser.wait_for(".status", "The service listens as it is set now", seconds=60)
        archive = Peer("127.0.0.1", new, "CATHLAB")
        assert echoscu(archive).returncode == 0

        # A device is added, and answers its echo.
        go_to(browser, "devices", "No device has been added")
        browser.click("main button.primary")
        values = {"name": "console", "ae-title": "CONSOLE", "host": "127.0.0.1", "port": str(console.peer.port)}
        for name, value in values.items():
            type_into(browser, f"field-device-{name}", value)
        browser.click("dialog button[type=submit]")
        browser.wait_for("main", "Added console")
        browser.click('button[aria-label="Echo console"]')
        browser.wait_for("td.actions", "CONSOLE answers")

        # What the device sends is found by a Chinese name, sent back, and arrives as it was.
        sent = [instances.make(tmp_path / "sent", study=STUDY, name="张^三", number=number) for number in (1, 2)]
        assert set(storescu(archive, sent, "-xe", calling="CONSOLE").statuses) == {0}
        go_to(browser, "studies", "Studies shown: 1")
        type_into(browser, "field-studies-name", "张三")
        browser.click("form[role=search] button[type=submit]")
        browser.wait_for("main", "Studies shown: 1")
        browser.click("td.actions button")
        browser.wait_for("main", STUDY)
        browser.click("main button.primary")
        browser.wait_for("dialog select", "console")
        browser.click("dialog button.primary")
        browser.wait_for("main", "The study is being sent")
        go_to(browser, "jobs", "Sending to console")
        browser.wait_for("li.job", "Done: 2 sent", seconds=60)
        back = {uid: file.sha256() for uid, file in console.received().items()}
        assert back == {part10.read(path).sop_instance_uid: part10.read(path).sha256() for path in sent}

        # A folder of the NAS is imported, and is found.
        files(desktop.root / "volume1/old pacs", 3, "1.2.3")
        browser.click('button[data-start="import"]')
        wait_until(lambda: browser.text("dialog"), "the import's form")
        type_into(browser, "field-import-path", str(desktop.root / "volume1/old pacs"))
        browser.click("dialog button[type=submit]")
        browser.wait_for("li.job", "Done: 3 stored", seconds=60)
        go_to(browser, "studies", "Studies shown: 2")
        go_to(browser, "overview", "Running and well")
        browser.wait_for("main", "console")
        expected = ("403", "favicon")  # of the first change, see the desktop; Chromium asks for an icon now and then
        assert [line for line in browser.console() if not any(words in line for words in expected)] == []
