"""The status page in headless Chromium, as an administrator sees it in DSM's window."""

from collections.abc import Iterator

import pytest

from angiovault.dsm.texts import TEXTS
from browser.chromium import ENTER, TAB, Chromium
from browser.desktop import PANEL, REPOSITORY, SESSIONS, TOKEN, Desktop
from browser.panel import running_panel
from harness.waiting import wait_until

pytestmark = pytest.mark.root

PICTURES = REPOSITORY / "build/screenshots"
SETCAP = "sudo setcap cap_net_bind_service=+ep /volume1/@appstore/angiovault/python/bin/python3.13"
LOG = "".join(
    f"2026-11-20 08:{minute:02} INFO angiovault.dimse: association from ARTIS@192.0.2.31 accepted, 12 instances\n"
    for minute in range(60)
)
STATES = {
    "running": ("Running and well", "运行正常"),
    "starting": ("Starting", "正在启动"),
    "needs-set-up": ("Needs set-up", "需要完成设置"),
    "share-missing": ("The image folder is not there", "找不到影像文件夹"),
    "share-denied": ("The image folder may not be used", "没有影像文件夹的权限"),
    "configuration": ("The settings cannot be used", "设置无法使用"),
    "port": ("The port cannot be used", "端口无法使用"),
    "failing": ("Cannot run", "无法运行"),
    "stopping": ("Stopping", "正在停止"),
}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chromium, desktop: Desktop) -> Chromium:
    """Chromium at DSM's address, logged in as an administrator."""
    chromium.enter_frame(None)
    chromium.resize(960, 720)
    chromium.open(f"http://127.0.0.1:{desktop.port}/stub-of-nothing.html")
    chromium.forget_cookies()
    chromium.set_cookie("id", SESSIONS["admin"])
    chromium.console()
    return chromium


def page(desktop: Desktop, query: str = "") -> str:
    return f"http://127.0.0.1:{desktop.port}{PANEL}/{query}"


def assert_quiet(browser: Chromium, *expected: str) -> None:
    """Check that the console has no complaint but those, each at most once."""
    said = [line for line in browser.console() if not any(words in line for words in expected)]
    assert not said


def test_the_page_loads_without_a_complaint(desktop: Desktop, browser: Chromium) -> None:
    desktop.healthy()
    desktop.write("angiovault.log", LOG)
    browser.open(page(desktop))
    browser.wait_for("#state h2", "Running and well")
    assert "CATHLAB" in browser.text("#state")
    assert "11112" in browser.text("#state")
    background = browser.run("return getComputedStyle(document.querySelector('section')).backgroundColor")
    assert background == "rgb(255, 255, 255)", "the style sheet is in force"
    assert browser.run("const log = document.querySelector('.log'); return log.scrollTop > 0"), "the log's end is shown"
    assert_quiet(browser)


def test_scripts_in_data_do_not_run(desktop: Desktop, browser: Chromium) -> None:
    evil = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>"
    desktop.healthy(ae_title=evil, problems={"disk": evil, evil: evil})
    desktop.write("angiovault.log", evil)
    browser.open(page(desktop))
    browser.wait_for("#state", evil)
    desktop.write("angiovault.log", f"next {evil}")
    browser.wait_for("#log", f"next {evil}")
    assert browser.run("return document.title") == "AngioVault"
    assert browser.run("return document.querySelectorAll('main img, main script').length") == 0
    assert_quiet(browser)


def test_it_follows_the_state(desktop: Desktop, browser: Chromium) -> None:
    browser.open(page(desktop))
    browser.wait_for("#state h2", "Stopped")
    desktop.supervised("share-missing", message="The shared folder angiography is not there.", message_zh="")
    browser.wait_for("#state h2", "The image folder is not there")
    desktop.healthy(problems={"database": "MariaDB does not answer"})
    browser.wait_for("#state h2", "Running, with problems")
    assert "MariaDB does not answer" in browser.text("#state")
    desktop.healthy()
    desktop.write("angiovault.log", "one more line\n")
    browser.wait_for("#state h2", "Running and well")
    browser.wait_for("#log", "one more line")
    assert_quiet(browser)


def test_the_panel_takes_the_pages_place(desktop: Desktop, browser: Chromium) -> None:
    browser.open(page(desktop))
    browser.wait_for("#state h2", "Stopped")
    with running_panel(desktop.var) as panel:
        panel.answer = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<h1>The panel</h1>"
        browser.wait_for("h1", "The panel")


@pytest.mark.parametrize("place", ["webapi", "login"])
def test_a_nas_that_insists_on_the_token_gets_it(desktop: Desktop, browser: Chromium, place: str) -> None:
    """The page that anonymous people get finds the token and loads itself again, on DSM 7 and on DSM 6."""
    desktop.login_check("insisting")
    desktop.token_from(place)
    desktop.healthy()
    browser.open(page(desktop))
    browser.wait_for("#state h2", "Running and well")
    browser.run("window.stays = true")
    desktop.supervised("failing")
    browser.wait_for("#state h2", "Cannot run")
    assert browser.run("return window.stays"), "it has the token, and need not load itself again"
    browser.click("#other-language")
    browser.wait_for("#state h2", "无法运行")
    assert_quiet(browser, "403 (Forbidden)", "favicon")


def test_an_old_token_in_the_address_is_replaced(desktop: Desktop, browser: Chromium) -> None:
    desktop.login_check("insisting")
    desktop.healthy()
    browser.open(page(desktop, "?SynoToken=old"))
    browser.wait_for("#state h2", "Running and well")


@pytest.mark.parametrize("user", [None, "visitor"])
def test_who_may_not_come_in_reads_why_and_that_is_the_end(
    desktop: Desktop, browser: Chromium, user: str | None
) -> None:
    browser.forget_cookies()
    if user:
        browser.set_cookie("id", SESSIONS[user])
    browser.open(page(desktop))
    words = "not in the group administrators" if user else "not logged in"
    # With a session it tries once with its token; without one it finds none.
    wait_until(lambda: not user or "SynoToken=" in browser.address, "the try with a token")
    browser.wait_for("main", words)
    before = browser.run("return performance.timeOrigin")
    browser.run("return renew()")
    assert browser.run("return performance.timeOrigin") == before, "it does not load itself again and again"


def test_a_session_that_ends_is_noticed(desktop: Desktop, browser: Chromium) -> None:
    desktop.healthy()
    browser.open(page(desktop))
    browser.wait_for("#state h2", "Running and well")
    browser.forget_cookies()
    browser.wait_for("main", "You are not logged in to DSM.")


def test_in_dsms_window_it_takes_token_and_language(desktop: Desktop, browser: Chromium) -> None:
    desktop.login_check("insisting")
    desktop.token_from("nowhere")
    desktop.healthy()
    browser.open(f"http://127.0.0.1:{desktop.port}/")
    browser.run("Object.assign(document.documentElement.dataset, {token: arguments[0], lang: 'cht'})", TOKEN)
    browser.run("document.getElementById('window').src = arguments[0]", page(desktop))
    browser.enter_frame(0)
    browser.wait_for("#state h2", "运行正常")
    browser.click("#other-language")
    browser.wait_for("#state h2", "Running and well")


def test_the_language_can_be_switched_by_keyboard(desktop: Desktop, browser: Chromium) -> None:
    desktop.supervised("needs-set-up")
    desktop.write("angiovault.log", LOG)
    browser.open(page(desktop))
    browser.wait_for("#state h2", "Needs set-up")
    order = []
    for _ in range(2):
        browser.press(TAB)
        order.append(browser.run("const e = document.activeElement; return e.id || e.className || e.innerText"))
    assert order == ["other-language", "log"]
    outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    browser.run("document.getElementById('other-language').focus()")
    browser.press(ENTER)
    browser.wait_for("#state h2", "需要完成设置")
    assert browser.run("return document.documentElement.lang") == "zh-Hans"
    assert_quiet(browser)


@pytest.mark.parametrize("width", [600, 1200])
@pytest.mark.parametrize(("lang", "column"), [("enu", 0), ("chs", 1)])
@pytest.mark.parametrize("state", STATES)
def test_every_state_fits_into_the_window(
    desktop: Desktop, browser: Chromium, state: str, lang: str, column: int, width: int
) -> None:
    """Nothing is cut off, every text has enough contrast; a picture of each page is kept for people to look at."""
    desktop.write("angiovault.log", LOG)
    if state == "running":
        desktop.healthy()
    else:
        (desktop.package / "etc/angiovault.ini").write_text("[dicom]\nport = 104\n")
        key = {"failing": "crashed", "port": "port_privileged"}.get(state, state.replace("-", "_"))
        values = {"reason": "signal 11", "port": 104, "command": SETCAP}
        english, chinese = (text.format(folder="/volume1/angiography", **values) for text in TEXTS[key])
        desktop.supervised(state, message=english, message_zh=chinese, restarts=2)
    browser.resize(width, 720)
    browser.open(page(desktop, f"?lang={lang}"))
    browser.wait_for("#state h2", STATES[state][column])
    browser.screenshot(PICTURES / f"stub-{state}-{lang}-{width}.png")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(_LOWEST_CONTRAST) >= 4.5, "WCAG 2.1, 1.4.3"


# The lowest contrast between an element's text and the background behind it (WCAG 2.1, relative luminance).
_LOWEST_CONTRAST = """
const parse = (color) => color.match(/[0-9.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c;
} return [255, 255, 255]; };
let lowest = 21;
for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || e.hidden) continue;
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))].sort((x, y) => y - x);
    lowest = Math.min(lowest, (a + 0.05) / (b + 0.05));
}
return lowest;
"""
