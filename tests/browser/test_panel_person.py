"""A person uses the panel in a browser, with a real archive behind it and real devices around it."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from browser.chromium import ENTER, TAB, Chromium
from harness.dcmtk import Peer, StoreSCP, echoscu, findscu
from harness.panel import SupervisedArchive
from harness.processes import free_port
from harness.waiting import wait_until

ESCAPE = "\ue00c"
SHOTS = Path(__file__).parents[2] / "build/screenshots"
SETTINGS = """\
[dicom]
port = {port}
bind = 127.0.0.1
[archive]
index =
"""

UNNAMED = """return [...document.querySelectorAll("input, select, button, a")].filter((e) =>
    !(e.labels && e.labels.length)
    && !e.getAttribute("aria-label") && !e.innerText.trim()).map((e) => e.outerHTML);"""
SHOWN = """return [...document.querySelectorAll("main, main input")].some((e) =>
    (e.value || e.innerText).includes(arguments[0]));"""

# Texts whose contrast with what lies behind them is below 4.5 to 1 (WCAG 2.1, 1.4.3).
FAINT = """
const channel = (value) => value <= 10 ? value / 255 / 12.92 : Math.pow((value / 255 + 0.055) / 1.055, 2.4);
const colour = (text) => text.match(/[0-9.]+/g).map(Number);
const luminance = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const [red, green, blue, alpha = 1] = colour(getComputedStyle(each).backgroundColor);
    if (alpha > 0.99) return [red, green, blue];
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility() && !element.disabled
  && [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())).map((element) => {
  const one = luminance(colour(getComputedStyle(element).color)), two = luminance(behind(element));
  return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), element.className, element.textContent];
}).filter(([ratio]) => ratio < 4.5);"""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[SupervisedArchive]:
    with SupervisedArchive(tmp_path / "nas", SETTINGS.format(port=free_port())) as archive:
        yield archive


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path) as browser:
        yield browser


def go_to(browser: Chromium, page: str, words: str) -> None:
    browser.click(f'nav a[href="#{page}"]')
    browser.wait_for("main", words)


def type_into(browser: Chromium, field: str, text: str) -> None:
    """Replace a field's text as a person does: the page hears of it."""
    script = """const field = document.getElementById(arguments[0]); field.focus(); field.value = arguments[1];
    for (const name of ["input", "change"]) field.dispatchEvent(new Event(name, {bubbles: true}));"""
    browser.run(script, field, text)


def texts_of(browser: Chromium, selector: str) -> list[str]:
    found = browser.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText);", selector)
    return [str(text) for text in found]


def test_from_the_overview_to_a_device_that_answers(
    archive: SupervisedArchive, browser: Chromium, receiver: Callable[..., StoreSCP]
) -> None:
    # The overview says what to type into the modality.
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")
    assert "token=" not in browser.address
    old, new, service = archive.health()["port"], free_port(), archive.health()["pid"]
    assert str(old) in browser.text("main")

    # AE title and port are changed; what is wrong is said where it is typed.
    go_to(browser, "service", "DICOM port")
    type_into(browser, "field-port", "70000")
    browser.wait_for("#field-port-error", "from 1 to 65535")
    type_into(browser, "field-port", str(new))
    browser.wait_for(".effects", "DICOM port: the listener is opened anew")
    type_into(browser, "field-ae-title", "CATHLAB")
    browser.wait_for(".effects", "AE title: in force at once")
    storage = browser.run("return document.getElementById('field-storage').value;")
    type_into(browser, "field-storage", "/volume9")
    browser.wait_for(".effects", "Folder, DICOM port, AE title: the service is restarted")
    type_into(browser, "field-storage", storage)
    wait_until(lambda: "restarted" not in browser.text(".effects"), "the restart to be off")
    browser.click("button[type=submit]")
    browser.wait_for(".status", "The service listens as it is set now", seconds=60)
    assert archive.health()["pid"] == service

    # A real device reaches the new port, and the old one is free.
    assert echoscu(Peer("127.0.0.1", new, "CATHLAB")).returncode == 0
    assert echoscu(Peer("127.0.0.1", old, "CATHLAB")).returncode != 0
    go_to(browser, "overview", "CATHLAB")
    assert str(new) in browser.text("main")
    browser.wait_for("main", "ECHOSCU")

    # A device that was refused is allowed, and its echo is answered.
    store = receiver("CONSOLE")
    findscu(Peer("127.0.0.1", new, "CATHLAB"), ["QueryRetrieveLevel=STUDY"], calling="CONSOLE")

    def refused_is_shown() -> bool:
        go_to(browser, "overview", "CATHLAB")
        go_to(browser, "devices", "Refused lately")
        browser.wait_for("main", "Allow" if "CONSOLE" in browser.text("main") else "Known")
        return "Allow" in browser.text("main")

    wait_until(refused_is_shown, "the refused device to be listed")
    browser.click('button[aria-label="Allow CONSOLE"]')
    browser.wait_for("dialog", "Add a device")
    assert browser.run("return document.getElementById('field-device-ae-title').value;") == "CONSOLE"
    type_into(browser, "field-device-name", "Console 工作站")
    type_into(browser, "field-device-port", str(store.peer.port))
    browser.click("dialog button[type=submit]")
    browser.wait_for("main", "Added Console 工作站")
    browser.click('button[aria-label="Echo Console 工作站"]')
    browser.wait_for("td.actions", "CONSOLE answers")
    assert findscu(Peer("127.0.0.1", new, "CATHLAB"), ["QueryRetrieveLevel=STUDY"], calling="CONSOLE").statuses == [0]

    # When it is away, the reason is said in words, in Chinese too.
    store.stop()
    browser.click('button[aria-label="Echo Console 工作站"]')
    browser.wait_for("td.actions", "nothing listens on port")
    browser.click("#language")
    browser.wait_for("main", "已知设备")
    browser.click('button[aria-label="对 Console 工作站 进行回显测试"]')
    browser.wait_for("td.actions", "没有程序监听")

    # The log tells what was done and by whom.
    go_to(browser, "log", "技术支持")
    browser.wait_for(".log", "association of CONSOLE@127.0.0.1")
    type_into(browser, "log-text", "the settings were read again")
    browser.wait_for("main", "1 条消息")
    assert browser.console() == []


def test_a_port_that_is_taken_is_found_before_saving(archive: SupervisedArchive, browser: Chromium) -> None:
    before = archive.settings()
    with StoreSCP(archive.nas.root / "other") as other:
        browser.open(archive.url)
        browser.wait_for("main", "Running and well")
        go_to(browser, "service", "DICOM port")
        type_into(browser, "field-port", str(other.peer.port))
        browser.wait_for("#field-port-error", "used by another program")
        browser.click("button[type=submit]")
        browser.wait_for(".status", "Not saved")
    assert archive.settings() == before


def test_settings_that_the_service_cannot_run_with_are_taken_back(
    archive: SupervisedArchive, browser: Chromium
) -> None:
    """Another program takes the port after it was looked at."""
    before = archive.health()
    settings = archive.settings()
    port = free_port()
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")
    go_to(browser, "service", "DICOM port")
    type_into(browser, "field-port", str(port))
    # The old service takes its ten seconds to end: time for the other program, but too late for a check.
    os.kill(before["pid"], signal.SIGSTOP)
    browser.click("button[type=submit]")
    wait_until(lambda: archive.settings() != settings, "the settings to be written", seconds=10)
    with StoreSCP(archive.nas.root / "other", port=port):
        browser.wait_for(".status", "Not applied", seconds=90)
        assert "Port" in browser.text(".status")
        wait_until(lambda: archive.health().get("port") == before["port"], "the service at its former port")
    assert f"port = {before['port']}" in archive.settings()
    assert echoscu(Peer("127.0.0.1", before["port"], before["ae_title"])).returncode == 0


def test_nothing_that_devices_send_becomes_part_of_the_page(archive: SupervisedArchive, browser: Chromium) -> None:
    port = archive.health()["port"]
    title = "<img src=x>"
    findscu(Peer("127.0.0.1", port, "<b>CALLED</b>"), ["QueryRetrieveLevel=STUDY"], calling=title)
    archive.cli("device", "add", '<script>alert("1")</script>', "--ae-title", "<i>AE</i>", "--host", "127.0.0.1")
    browser.open(archive.url)
    browser.wait_for("main", title)
    go_to(browser, "devices", '<script>alert("1")</script>')
    browser.wait_for("main", "<i>AE</i>")
    go_to(browser, "log", title)
    inside = "return document.querySelectorAll('main img, main script, main i, main b:not(.figure b)').length;"
    assert browser.run(inside) == 0
    assert browser.console() == []


def test_every_page_can_be_used_by_keyboard_and_has_labels(archive: SupervisedArchive, browser: Chromium) -> None:
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")
    archive.cli("device", "add", "zeego", "--ae-title", "ZEEGO", "--host", "192.168.1.20", "--port", "104")
    # Tab leads from the way around the tabs through all of them; Enter opens one.
    reached = []
    for _ in range(8):
        browser.press(TAB)
        reached.append(browser.run("return document.activeElement.innerText;"))
    assert reached == ["Go to the content", "中文", "Overview", "Service", "Devices", "Studies", "Jobs", "Log"]
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle;") == "solid"
    browser.press(ENTER)
    browser.wait_for("h1", "Log")
    pages = {"service": "DICOM port", "devices": "zeego", "studies": "Trash", "log": "For support"}
    pages["overview"] = "modality"
    for page, words in pages.items():
        go_to(browser, page, words)
        assert browser.run("return document.activeElement === document.querySelector('h1');"), page
        assert browser.run(UNNAMED) == [], page
        assert browser.run(FAINT) == [], page
        wide = browser.run("return document.documentElement.scrollWidth <= innerWidth;")
        assert wide, f"{page} is wider than the window"


def photograph_dialogs(browser: Chromium, lang: str) -> None:
    browser.resize(800, 760)
    browser.click('nav a[href="#devices"]')
    wait_until(lambda: browser.text("tbody"), "the devices")
    browser.click("td.actions button:not(:disabled) + button")
    wait_until(lambda: browser.text("dialog"), "the device's form")
    type_into(browser, "field-device-port", "0")
    browser.run("document.querySelector('dialog details').open = true;")
    assert browser.run(FAINT) == []
    browser.screenshot(SHOTS / f"panel-device-{lang}.png")
    browser.press(ESCAPE)
    browser.click('nav a[href="#service"]')
    wait_until(lambda: browser.text("form"), "the settings")
    type_into(browser, "field-port", "many")
    browser.resize(800, 1500)
    browser.click("#engine-mariadb")
    browser.run("document.querySelectorAll('.inset details').forEach((each) => { each.open = true; });")
    browser.click("form button[type=submit]")
    wait_until(lambda: browser.text(".status"), "what is wrong")
    assert browser.run(FAINT) == []
    browser.screenshot(SHOTS / f"panel-service-wrong-{lang}.png")
    browser.click("#field-storage + button")
    wait_until(lambda: browser.text("dialog .folders"), "the folders")
    browser.resize(800, 760)
    browser.screenshot(SHOTS / f"panel-folder-{lang}.png")


def test_a_second_folder_is_picked_and_shown(archive: SupervisedArchive, browser: Chromium) -> None:
    images = archive.nas.root / "volume2/images"
    images.mkdir(parents=True)
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")
    go_to(browser, "service", "Second folder")
    browser.resize(800, 1500)
    browser.click("#field-second-storage + button")
    for name in ("volume2", "images"):
        wait_until(lambda name=name: any(name in text for text in texts_of(browser, ".folders button")), name)
        line = "[...document.querySelectorAll('.folders button')].find((e) => e.innerText.includes(arguments[0]))"
        browser.run(f"{line}.click();", name)
    wait_until(lambda: browser.text("dialog .breakable") == str(images), "the folder to be open")
    browser.click("dialog button.primary")
    browser.click("main button[type=submit]")
    browser.wait_for(".status", "The service was restarted", seconds=60)
    go_to(browser, "overview", f"{images}/archive")
    texts = [text for text in texts_of(browser, "dd .note") if "free of" in text]
    assert [text.split()[0] for text in texts] == [
        f"{archive.nas.root}/volume1/angiography/archive",
        f"{images}/archive",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_screenshots(archive: SupervisedArchive, browser: Chromium, lang: str) -> None:
    """Every page in a DSM window's widths, for people to look at; none may be wider than the window."""
    archive.cli("demo")
    archive.cli("device", "add", "zeego", "--ae-title", "ZEEGO", "--host", "192.168.1.20", "--port", "104")
    archive.cli("device", "add", "工作站", "--ae-title", "XWP", "--host", "192.168.1.0/24", "--allow", "echo,store")
    findscu(Peer("127.0.0.1", archive.health()["port"], "ANGIOVAULT"), ["QueryRetrieveLevel=STUDY"], calling="ALLURA")
    browser.open(archive.url)
    browser.wait_for("main", "Running and well")
    if lang == "zh":
        browser.click("#language")
        browser.wait_for("main", "运行正常")
    words = {"overview": "ALLURA", "service": "archive", "devices": "zeego", "log": "ALLURA"}
    for page, text in words.items():
        browser.click(f'nav a[href="#{page}"]')
        wait_until(partial(browser.run, SHOWN, text), f"{text} on {page}")
        for width in (600, 1200):
            browser.resize(width, 800)
            wait_until(partial(browser.run, "return innerWidth === arguments[0];", width), "the window's width")
            full = int(browser.run("return document.documentElement.scrollHeight;"))
            browser.resize(width, full)
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth;"), f"{page} at {width}"
            browser.screenshot(SHOTS / f"panel-{page}-{lang}-{width}.png")
    photograph_dialogs(browser, lang)
    assert browser.console() == []
