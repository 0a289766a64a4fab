"""A person looks for studies, takes them out, deletes them and brings them back, in a browser, with a real archive."""

import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import IncompleteRead
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydicom.uid import generate_uid

from browser.chromium import Chromium
from browser.test_panel_person import FAINT, SETTINGS, SHOTS, UNNAMED, go_to, texts_of, type_into
from faults import instances
from harness import part10
from harness.dcmtk import Peer, storescu
from harness.panel import SupervisedArchive
from harness.processes import free_port
from harness.settling import settled
from harness.waiting import wait_until

STUDY = "1.2.826.0.1.3680043.8.498.2"

# What the page would send to a route, and an answer in its place.
ANSWERING = """
const real = window.fetch;
window.asked = [];
window.fetch = (path, options) => {
  if (!String(path).startsWith(arguments[0])) return real(path, options);
  window.asked.push(JSON.parse(options.body));
  return Promise.resolve(new Response(JSON.stringify(arguments[1]), {status: 200}));
};"""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[SupervisedArchive]:
    with SupervisedArchive(tmp_path / "nas", SETTINGS.format(port=free_port())) as archive:
        yield archive


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path) as browser:
        yield browser


def send(archive: SupervisedArchive, *paths: Path) -> None:
    peer = Peer("127.0.0.1", archive.health()["port"], "ANGIOVAULT")
    assert set(storescu(peer, paths, "-xe").statuses) == {0}


def kept(archive: SupervisedArchive) -> set[bytes]:
    storage = settled(archive.nas.root / "volume1/angiography/archive")
    return {path.read_bytes() for path in storage.glob("20*/**/*.dcm")}


def search(browser: Chromium, name: str, words: str) -> None:
    type_into(browser, "field-studies-name", name)
    browser.click("form[role=search] button[type=submit]")
    browser.wait_for("p[role=status]", words)


def downloaded(browser: Chromium, suffix: str) -> Path:
    def whole() -> list[Path]:
        return [path for path in browser.downloads.glob("*") if path.name.endswith(suffix)]

    wait_until(whole, "the download")
    return whole()[0]


def test_a_study_is_found_exported_deleted_and_restored(
    archive: SupervisedArchive, browser: Chromium, tmp_path: Path
) -> None:
    name, sent = "ZHANG^San=张^三", tmp_path / "sent"
    paths = [instances.make(sent, study=STUDY, name=name, number=number, size=90_000) for number in (1, 2)]
    again = instances.make(sent, study=STUDY, name=name, uid=part10.read(paths[0]).sop_instance_uid, seed=9)
    send(archive, *paths, again, instances.make(tmp_path / "other", name="Müller^Jürgen", patient_id="M"))
    archive.cli("device", "add", "工作站", "--ae-title", "XWP", "--host", "192.168.1.20", "--port", "104")
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")

    # Found by the name as people write it, and opened.
    go_to(browser, "studies", "Studies shown: 2")
    search(browser, "nobody", "No study matches")
    search(browser, "张三", "Studies shown: 1")
    assert texts_of(browser, "tbody th") == ["张三\nZHANG San\nK-1"]
    browser.click('button[aria-label^="Open the study of ZHANG San · 张三"]')
    browser.wait_for("main", "Study Instance UID")
    assert STUDY in browser.text("main")
    assert browser.run("return document.activeElement.tagName;") == "H2"

    # Another version of the instance that came twice becomes the current one.
    browser.wait_for("main", "Conflicts")
    assert browser.text("main").count("Make current") == 1
    browser.click('button[aria-label^="Make the version"]')
    browser.wait_for("main", "Another version is current now")

    # Sent to a device by way of a job.
    browser.run(ANSWERING, "api/jobs", {"job": "7"})
    browser.click("main button.primary")
    browser.wait_for("dialog select", "工作站")
    browser.click("dialog button.primary")
    browser.wait_for("main", "The study is being sent")
    assert browser.run("return window.asked;") == [
        {"kind": "send", "device": "工作站", "uids": [STUDY], "title": "ZHANG San · 张三 to 工作站"}
    ]

    # Saved by the browser, bit for bit.
    browser.run("[...document.querySelectorAll('main button')].find((e) => e.innerText === 'Export as ZIP').click();")
    browser.wait_for("main", "is being downloaded")
    with zipfile.ZipFile(downloaded(browser, ".zip")) as file:
        assert file.testzip() is None
        members = {file.read(name) for name in file.namelist()}
    assert len(members) == 2
    assert members < kept(archive)

    # Deleted, but not by whatever somebody types.
    before = kept(archive)
    delete = "[...document.querySelectorAll('main button')].find((e) => e.innerText === 'Delete…').click();"
    browser.run(delete)
    browser.wait_for("dialog label", "Type K-1 to confirm")
    type_into(browser, "field-confirm", "yes")
    browser.click("dialog button.danger")
    browser.wait_for("#field-confirm-error", "not what is asked for")
    assert kept(archive) == before
    type_into(browser, "field-confirm", "k-1")
    browser.click("dialog button.danger")
    browser.wait_for("main .notice", "The study is in the trash")
    assert len(kept(archive)) == 1
    browser.wait_for("main", "Trash")
    browser.wait_for("main", "by local")
    search(browser, "", "Studies shown: 1")

    # And back.
    browser.click('button[aria-label^="Restore the study of ZHANG San · 张三"]')
    browser.wait_for("main .notice", "The study is back")
    browser.wait_for("p[role=status]", "Studies shown: 2")
    assert kept(archive) == before
    browser.wait_for("main", "The trash is empty")

    # Removed for good, after a word.
    archive.cli("delete", STUDY, "--yes")
    go_to(browser, "devices", "Known devices")
    go_to(browser, "studies", "Remove…")
    browser.click('button[aria-label^="Remove the study"]')
    browser.wait_for("dialog label", "Type remove to confirm")
    type_into(browser, "field-confirm", "remove")
    browser.click("dialog button.danger")
    browser.wait_for("main .notice", "Removed for good")
    browser.wait_for("main", "The trash is empty")
    assert archive.cli("trash", "list") == "0 studies, 0.00 GB\n"
    assert [line for line in browser.console() if "422" not in line] == []


def test_nothing_of_a_study_becomes_part_of_the_page(
    archive: SupervisedArchive, browser: Chromium, tmp_path: Path
) -> None:
    script = "<img src><script>alert(1)</script>"
    texts = {"patient_id": script, "StudyDescription": script, "SeriesDescription": script}
    send(archive, instances.make(tmp_path, study=STUDY, name=f"{script}^A", **texts))  # type: ignore[arg-type]
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")
    go_to(browser, "studies", script)
    browser.click("td.actions button")
    browser.wait_for("main", "Series")
    assert script in browser.text("h2")
    archive.cli("delete", STUDY, "--yes")
    go_to(browser, "devices", "Known devices")
    go_to(browser, "studies", script)
    assert browser.run("return document.querySelectorAll('main img, main script').length;") == 0
    assert browser.console() == []


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_screenshots_of_the_studies(
    archive: SupervisedArchive, browser: Chromium, tmp_path: Path, lang: str
) -> None:
    """Each view can be read, has labels, and fits into the window."""
    uid = generate_uid()
    for seed in (1, 2):
        send(archive, instances.make(tmp_path / "sent", study=STUDY, uid=uid, seed=seed, name="ZHUGE^Liang=诸葛^亮"))
    archive.cli("demo")
    archive.cli("device", "add", "工作站", "--ae-title", "XWP", "--host", "192.168.1.20", "--port", "104")
    for study in (generate_uid(), generate_uid()):
        send(archive, instances.make(tmp_path / "deleted", study=study, name="Müller^Jürgen"))
        archive.cli("delete", study, "--yes")
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")
    words = {"en": ("Deleted", "Conflicts", "confirm"), "zh": ("删除时间", "冲突", "确认")}[lang]
    if lang == "zh":
        browser.click("#language")
        browser.wait_for("main", "运行正常")

    def photograph(name: str) -> None:
        for width in (600, 1000):
            browser.resize(width, 800)
            full = int(browser.run("return document.documentElement.scrollHeight;"))
            browser.resize(width, full)
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth;"), f"{name} at {width}"
            browser.screenshot(SHOTS / f"panel-{name}-{lang}-{width}.png")
        assert browser.run(UNNAMED) == []
        assert browser.run(FAINT) == []

    browser.click('nav a[href="#studies"]')
    browser.wait_for("main", words[0])
    photograph("studies")
    type_into(browser, "field-studies-name", "诸葛亮")
    browser.click("form[role=search] button[type=submit]")
    wait_until(lambda: len(texts_of(browser, "main > .card:not([aria-labelledby]) tbody tr")) == 1, "the study")
    browser.click("td.actions button")
    browser.wait_for("main", words[1])
    photograph("study")
    browser.resize(800, 700)
    browser.run("[...document.querySelectorAll('main button')].find((e) => /Delete|删除/.test(e.innerText)).click();")
    browser.wait_for("dialog", words[2])
    assert browser.run(FAINT) == []
    browser.screenshot(SHOTS / f"panel-study-delete-{lang}.png")
    assert browser.console() == []


def test_a_large_study_is_not_held_in_memory_and_can_be_broken_off(archive: SupervisedArchive, tmp_path: Path) -> None:
    paths = [instances.make(tmp_path, study=STUDY, number=number, size=120_000_000) for number in range(2)]
    send(archive, *paths)
    assert archive.panel is not None
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    opener.open(archive.url, timeout=20).close()
    base = "http://" + urlsplit(archive.url).netloc
    zip_url = f"{base}/api/studies/{STUDY}/zip"

    def highest() -> int:
        status = Path(f"/proc/{archive.panel.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    opener.open(f"{base}/api/studies", timeout=20).close()
    before = highest()
    # Two are broken off, the browsers of two others take nothing: everybody else is served all the same.
    for _ in range(2):
        with opener.open(zip_url, timeout=20) as reply:
            assert reply.read(1000)[:4] == b"PK\x03\x04"
    with ExitStack() as stack:

        def both_are_taken() -> bool:
            try:
                replies.append(stack.enter_context(opener.open(zip_url, timeout=20)))
            except urllib.error.HTTPError as refused:
                return bool(json.load(refused)["error"]["key"] == "refused.downloads") and len(replies) == 2
            return False

        replies: list[object] = []
        wait_until(both_are_taken, "two downloads at once")
        with opener.open(f"{base}/api/studies?name=keep", timeout=5) as reply:
            assert json.load(reply)["studies"][0]["uid"] == STUDY

    def served() -> bool:
        try:
            with opener.open(zip_url, timeout=20) as reply, (tmp_path / "out.zip").open("wb") as file:
                while data := reply.read(1 << 20):
                    file.write(data)
        except (urllib.error.HTTPError, IncompleteRead):
            return False
        return True

    wait_until(served, "the slots to be free again")
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        assert {file.read(name) for name in file.namelist()} == kept(archive)
    assert highest() - before < 80 << 20
