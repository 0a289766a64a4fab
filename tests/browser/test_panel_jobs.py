"""A person uses the page of jobs in a browser: imports a folder, watches it, sends, verifies, reads what went wrong."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from angiovault import jsonfile
from angiovault.archive import commitments
from angiovault.config import load
from angiovault.opening import open_archive
from browser.chromium import ENTER, Chromium
from browser.test_panel_person import FAINT, SETTINGS, SHOTS, UNNAMED, go_to, type_into
from harness.dcmtk import Peer, StoreSCP, findscu
from harness.jobs import files
from harness.panel import SupervisedArchive
from harness.processes import free_port
from harness.waiting import wait_until

MANY = 12_000
_SEND = """request("api/jobs", {kind: "send", device: arguments[0], uids: [arguments[1]], title: arguments[2]});"""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[SupervisedArchive]:
    with SupervisedArchive(tmp_path / "nas", SETTINGS.format(port=free_port())) as archive:
        yield archive


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path) as browser:
        yield browser


def first_job(browser: Chromium) -> str:
    return browser.text("main li.job")


def wait_for_first(browser: Chromium, words: str, *, seconds: float = 60) -> None:
    wait_until(lambda: words in first_job(browser), f"{words!r} in the first job", seconds=seconds)


@contextlib.contextmanager
def held(archive: SupervisedArchive) -> Iterator[None]:
    """Hold the job that runs when it has done some of its work, so that there is time to look at it."""
    folder = archive.nas.root / "volume1/angiography/archive/.angiovault/jobs"

    def process() -> int:
        for job in map(jsonfile.read, folder.glob("*.json")):
            if job.get("state") == "running" and job.get("items"):
                return int(job["process"].split()[0])
        return 0

    number = wait_until(process, "the job to be under way")
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


def is_sound(browser: Chromium) -> None:
    """Check what every page has to be: labelled, of good contrast, and no wider than the window."""
    assert browser.run(UNNAMED) == []
    assert browser.run(FAINT) == []
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth;")


def open_jobs(archive: SupervisedArchive, browser: Chromium) -> None:
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")
    go_to(browser, "jobs", "No job has been started yet.")


def import_folder(browser: Chromium, path: Path) -> None:
    browser.click('button[data-start="import"]')
    wait_until(lambda: browser.text("dialog"), "the import's form")
    type_into(browser, "field-import-path", str(path))
    browser.click("dialog button[type=submit]")
    wait_until(lambda: not browser.text("dialog"), "the import's form to close")


def test_a_folder_is_chosen_imported_and_sent(
    archive: SupervisedArchive, browser: Chromium, receiver: Callable[..., StoreSCP]
) -> None:
    volume = archive.nas.root / "volume1"
    files(volume / "old pacs/disc <img src=x>", MANY)
    open_jobs(archive, browser)

    # The folder is picked, from the volumes down; a wrong one is said where it is typed.
    browser.click('button[data-start="import"]')
    browser.wait_for("dialog", "Import a folder")
    assert browser.run("return document.activeElement.id;") == "field-import-path"
    browser.press(ENTER)
    browser.wait_for("#field-import-path-error", "Please fill this in")
    type_into(browser, "field-import-path", "/etc")
    browser.click("dialog button[type=submit]")
    browser.wait_for("#field-import-path-error", "not one of those")
    assert all("422" in line for line in browser.console())  # the browser tells of every refusal
    browser.click("#field-import-path + button")
    for name in (str(volume), "old pacs", "disc <img src=x>"):
        script = """const found = [...document.querySelectorAll("dialog .folders button")]
            .find((each) => each.innerText === arguments[0]); if (found) found.click(); return Boolean(found);"""
        wait_until(lambda name=name, script=script: browser.run(script, name), f"the folder {name}")
    use = "const use = document.querySelector('dialog:last-of-type .primary'); use.click();"
    wait_until(lambda: "disc <img src=x>" in browser.text("dialog:last-of-type > p"), "the folder to be open")
    browser.run(use)
    chosen = "return document.getElementById('field-import-path').value;"
    assert browser.run(chosen) == str(volume / "old pacs/disc <img src=x>")
    browser.click("#field-import-move")
    browser.wait_for("dialog", "The files disappear from the folder")
    browser.click("#field-import-move")
    browser.click("dialog button[type=submit]")

    # Its progress is seen, also on the overview, and that it is done.
    with held(archive):
        wait_for_first(browser, f"of {MANY:,} files")
        assert "disc <img src=x>" in first_job(browser)
        value = "return document.querySelector('progress').value;"
        wait_until(lambda: 0 < browser.run(value) < 1, "the bar to move")
        go_to(browser, "overview", "In progress: Import of")
        go_to(browser, "jobs", "Import of")
    wait_for_first(browser, f"Done: {MANY:,} stored")
    assert browser.run("return document.querySelector('progress').hidden;")
    assert browser.run("return document.querySelectorAll('main img').length;") == 0

    # A sending to a device that is there, and one to a device that is not.
    console = receiver("CONSOLE")
    port = str(console.peer.port)
    archive.cli("device", "add", "console", "--ae-title", "CONSOLE", "--host", "127.0.0.1", "--port", port)
    away = str(free_port())
    archive.cli("device", "add", "away", "--ae-title", "AWAY", "--host", "127.0.0.1", "--port", away)
    browser.run(_SEND, "console", "1.2.3", "<script>alert(1)</script> 张^三")
    wait_for_first(browser, f"Done: {MANY:,} sent")
    assert "Sending to console: <script>alert(1)</script> 张^三" in first_job(browser)
    assert len(console.received()) == MANY
    browser.run(_SEND, "away", "1.2.3.1", "")
    wait_for_first(browser, f"Failed: {MANY:,} failed")
    browser.click('li.job:first-child button[data-action="problems"]')
    browser.wait_for("dialog", "refuses the connection")
    is_sound(browser)
    browser.click("dialog button")
    browser.click('li.job:first-child button[data-action="remove"]')
    wait_for_first(browser, "Sending to console")
    is_sound(browser)
    assert browser.console() == []


def test_a_sending_that_hangs_is_cancelled_and_continued(
    archive: SupervisedArchive, browser: Chromium, receiver: Callable[..., StoreSCP]
) -> None:
    files(archive.nas.root / "volume1/disc", 3)
    archive.cli("import", str(archive.nas.root / "volume1/disc"))
    console = receiver("CONSOLE")
    port = str(console.peer.port)
    archive.cli("device", "add", "console", "--ae-title", "CONSOLE", "--host", "127.0.0.1", "--port", port)
    open_jobs(archive, browser)
    os.kill(console.pid, signal.SIGSTOP)
    try:
        browser.run(_SEND, "console", "1.2.3", "")
        wait_for_first(browser, "Running")
        browser.click('li.job button[data-action="cancel"]')
        browser.wait_for("dialog", "Stop this job?")
        browser.click("dialog button.danger")
        wait_for_first(browser, "Cancelled", seconds=10)
    finally:
        os.kill(console.pid, signal.SIGCONT)
    browser.click('li.job button[data-action="continue"]')
    wait_for_first(browser, "Done: 3 sent")
    assert len(console.received()) == 3

    # The index is made anew after a clear question; the files are verified.
    browser.click('button[data-start="reindex"]')
    browser.wait_for("dialog", "no device can query")
    browser.click("dialog button:last-child")
    assert "Index made anew" not in browser.text("main")
    for kind, words in (("reindex", "Done: 3 indexed"), ("verify", "Done: 3 sound")):
        browser.click(f'button[data-start="{kind}"]')
        wait_until(lambda: browser.text("dialog"), "the question")
        browser.click("dialog button:first-child")
        wait_for_first(browser, words)
    assert len(findscu_all(archive)) == 1
    assert browser.console() == []


def findscu_all(archive: SupervisedArchive) -> list[object]:
    health = archive.health()
    archive.cli("device", "add", "asker", "--ae-title", "ASKER", "--host", "127.0.0.1")
    peer = Peer("127.0.0.1", health["port"], health["ae_title"])
    keys = ["QueryRetrieveLevel=STUDY", "StudyInstanceUID"]
    return list(wait_until(lambda: findscu(peer, keys, calling="ASKER").data_sets, "the study to be found"))


def ask_for_commitments(archive: SupervisedArchive) -> None:
    """Put requests of devices into the queue: one that waits, one that is delivered, one that is given up."""
    opened = open_archive(load(archive.nas.settings))
    index = opened.ready_index()
    for number, calling in enumerate(("ARTIS", "ALLURA", "<b>INNOVA</b>")):
        commitments.accept(index, f"1.2.{number}", calling, "ANGIOVAULT", "192.168.1.20", [("1.2", "1.2.3")] * 1200)
    waiting = {each["requestor"].partition("@")[0]: each["number"] for each in commitments.listed(index, 9)}
    commitments.cancel(index, waiting["<b>INNOVA</b>"])
    request = commitments.next_due(index)
    assert request is not None
    commitments.postpone(index, request, "ARTIS@192.168.1.20:104 refuses the connection: is the device on?", 7)
    request = commitments.next_due(index)
    assert request is not None
    commitments.delivered(index, request)
    opened.close()


def test_what_waits_for_delivery_is_given_up_after_a_question(archive: SupervisedArchive, browser: Chromium) -> None:
    ask_for_commitments(archive)
    open_jobs(archive, browser)
    browser.wait_for("main", "<b>INNOVA</b>@192.168.1.20")
    assert "refuses the connection" in browser.text("main")
    assert browser.run("return document.querySelectorAll('main b').length;") == 0
    browser.click('button[aria-label="Retry now: ARTIS@192.168.1.20"]')
    browser.click('button[aria-label="Give up: ARTIS@192.168.1.20"]')
    browser.wait_for("dialog", "Try no more to tell ARTIS@192.168.1.20?")
    browser.click("dialog button.danger")
    wait_until(lambda: "Waiting" not in browser.text("tbody"), "nothing to wait")
    assert "cancelled by an administrator" in browser.text("tbody")
    assert browser.console() == []


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_screenshots_of_jobs(archive: SupervisedArchive, browser: Chromium, lang: str) -> None:
    """The page with jobs in every state, for people to look at."""
    volume = archive.nas.root / "volume1"
    files(volume / "disc", 20_000, "1.2.3")
    files(volume / "some", 4, "1.2.4")
    (volume / "some/00001.dcm").write_bytes((volume / "some/00001.dcm").read_bytes()[:300])
    (volume / "some/readme.txt").write_text("hello")
    archive.cli("device", "add", "zeego", "--ae-title", "ZEEGO", "--host", "127.0.0.1", "--port", str(free_port()))
    ask_for_commitments(archive)
    open_jobs(archive, browser)
    if lang == "zh":
        browser.click("#language")
        browser.wait_for("main", "尚未启动任何任务")
    import_folder(browser, volume / "some")
    wait_until(lambda: browser.run("return document.querySelector('[data-action=problems]') !== null;"), "a problem")
    browser.run(_SEND, "zeego", "1.2.4", "王^小明")
    wait_until(lambda: browser.run("return document.querySelectorAll('.job-state.bad').length;"), "the failure")
    import_folder(browser, volume / "disc")
    browser.click('button[data-start="verify"]')
    wait_until(lambda: browser.text("dialog"), "the question")
    browser.screenshot(SHOTS / f"panel-jobs-verify-{lang}.png")
    browser.click("dialog button.primary")
    wait_until(
        lambda: browser.run("return (document.querySelector('progress:not([hidden])') || {}).value > 0.05;"), "some"
    )
    for width in (600, 1200):
        browser.resize(width, 800)
        wait_until(lambda width=width: browser.run("return innerWidth === arguments[0];", width), "the window's width")
        browser.resize(width, int(browser.run("return document.documentElement.scrollHeight;")))
        is_sound(browser)
        browser.screenshot(SHOTS / f"panel-jobs-{lang}-{width}.png")
    browser.resize(800, 760)
    browser.click('button[data-start="import"]')
    wait_until(lambda: browser.text("dialog"), "the import's form")
    browser.click("#field-import-move")
    browser.run("document.querySelector('dialog details').open = true;")
    is_sound(browser)
    browser.screenshot(SHOTS / f"panel-jobs-import-{lang}.png")
    assert browser.console() == []
