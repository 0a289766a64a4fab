"""Headless Chromium, driven by the WebDriver protocol (W3C WebDriver) through chromedriver."""

import base64
import json
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.processes import Background, free_port, program
from harness.waiting import wait_until

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which an element's id stands (W3C WebDriver 12.1)."""
TAB = "\ue004"
ENTER = "\ue007"


class Chromium:
    """A browser without a window on any screen; what its console says is kept."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.downloads = folder / "downloads"
        self.session = ""

    def __enter__(self) -> Self:
        arguments = [program("chromedriver"), f"--port={self.port}", "--allowed-ips=127.0.0.1"]
        self._driver = Background(arguments, log=self.folder / "chromedriver.log")
        self._driver.wait_ready(self._is_ready)
        options = {
            "binary": program("chromium"),
            # Root cannot have the sandbox, and containers have little shared memory.
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en-US"],
            "prefs": {"download.default_directory": str(self.downloads)},
        }
        always = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": always}})["sessionId"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._command("DELETE", "")
        finally:
            self._driver.kill()

    def open(self, address: str) -> None:
        self._command("POST", "/url", {"url": address})

    @property
    def address(self) -> str:
        return str(self._command("GET", "/url"))

    def set_cookie(self, name: str, value: str) -> None:
        self._command("POST", "/cookie", {"cookie": {"name": name, "value": value, "path": "/"}})

    def forget_cookies(self) -> None:
        self._command("DELETE", "/cookie")

    def resize(self, width: int, height: int) -> None:
        """Give the page that much room (Chromium's window has a frame even without a screen)."""
        self._command("POST", "/window/rect", {"width": width, "height": height})
        inner = self.run("return [innerWidth, innerHeight]")
        size = {"width": 2 * width - inner[0], "height": 2 * height - inner[1]}
        self._command("POST", "/window/rect", size)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function's body in the page and return what it returns."""
        return self._command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """Return the text of the first element, empty when there is none."""
        return str(self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : '';", selector))

    def wait_for(self, selector: str, words: str, *, seconds: float = 20) -> None:
        """Wait until the first element's text holds the words."""
        wait_until(lambda: words in self.text(selector), f"{words!r} in {selector}", seconds=seconds)

    def click(self, selector: str) -> None:
        try:
            self._click(selector)
        except AssertionError as error:
            if "stale element" not in str(error):
                raise
            self._click(selector)  # a page that is live has made it anew in between

    def _click(self, selector: str) -> None:
        element = self._command("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._command("POST", f"/element/{element}/click", {})

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def enter_frame(self, number: int | None) -> None:
        """Act inside a frame of the page; None is the page itself."""
        self._command("POST", "/frame", {"id": number})

    def console(self) -> list[str]:
        """Return what the console has said since the last call."""
        return [entry["message"] for entry in self._command("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._command("GET", "/screenshot")))

    def _is_ready(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            return False

    def _command(self, method: str, path: str, content: object = None) -> Any:
        return self._call(method, f"/session/{self.session}{path}", content)

    def _call(self, method: str, path: str, content: object = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, None if content is None else json.dumps(content))
            response = connection.getresponse()
            value = json.loads(response.read())["value"]
        finally:
            connection.close()
        assert response.status == 200, f"{method} {path}: {value}"
        return value
