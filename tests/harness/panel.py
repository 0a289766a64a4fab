"""The settings panel: asked within this process, or running beside a NAS's supervisor as on a NAS."""

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from angiovault import jsonfile
from angiovault.dsm import running
from angiovault.dsm.paths import Nas
from angiovault.panel.app import make_app
from angiovault.panel.context import Context
from angiovault.panel.door import Door, SocketDoor
from angiovault.panel.place import Place
from harness.processes import Background
from harness.waiting import wait_until

SUPERVISE = "import sys; from pathlib import Path; from angiovault.dsm.paths import Nas; \
from angiovault.dsm.supervisor import supervise; sys.exit(supervise(Nas(Path(sys.argv[1]), '')))"
_PANEL = "import sys; from pathlib import Path; from angiovault import logs; from angiovault.dsm.paths import Nas; \
from angiovault.panel.place import Place; from angiovault.panel import serving; logs.set_up(); \
nas = Nas(Path(sys.argv[1]), ''); serving.serve_loopback(Place(nas.settings, nas), 0)"


@dataclass(frozen=True)
class Reply:
    """An answer of the panel."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The key of the reason for a refusal."""
        return str(self.json["error"]["key"])


class Client:
    """Asks a panel in this process, as `user` through the socket unless a door is given."""

    def __init__(self, place: Place, door: Door | None = None, user: str = "admin") -> None:
        self.context = Context(place)
        self.door = door or SocketDoor()
        self.app = make_app(self.context, self.door)
        self.headers = {"X-AngioVault-User": user, "Host": "nas:5001"}

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Reply:
        """Send a request as it is."""
        route, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            # WSGI's way of handing on bytes (PEP 3333).
            "PATH_INFO": route.encode().decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": "nas",
            "SERVER_PORT": "5001",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body or b""),
            "wsgi.errors": sys.stderr,
        }
        given: dict[str, str | None] = {**self.headers, **(headers or {})}
        if body is not None:
            environ["CONTENT_LENGTH"] = str(len(body))
            environ["CONTENT_TYPE"] = "application/json"
        for name, value in given.items():
            key = name.upper().replace("-", "_")
            key = key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"
            if value is None:
                environ.pop(key, None)
            else:
                environ[key] = value
        seen: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], _error: object = None) -> None:
            seen["status"], seen["headers"] = int(status.split()[0]), {name.lower(): value for name, value in headers}

        parts = self.app(environ, start)
        try:
            body = b"".join(parts)
        finally:
            getattr(parts, "close", lambda: None)()  # as every server does (PEP 3333)
        return Reply(seen["status"], seen["headers"], body)

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        reply = self.ask(path)
        assert reply.status == 200, reply
        return reply.json

    def post(self, path: str, content: object, **headers: str) -> Reply:
        """Send a change as the panel's own page does."""
        own = {"X-Requested-With": self.get("/api/session")["csrf"], "Sec-Fetch-Site": "same-origin"}
        return self.ask(path, method="POST", body=json.dumps(content).encode(), headers={**own, **headers})

    def task(self, path: str, content: object) -> Any:
        """Start work and return its result."""
        reply = self.post(path, content)
        assert reply.status == 200, reply
        number = reply.json["task"]
        answer = wait_until(
            lambda: (found := self.get(f"/api/tasks/{number}"))["done"] and found, f"the task {path}", seconds=90
        )
        return answer["result"]


class SupervisedArchive:
    """A NAS in a folder: its supervisor, which runs the service, and the panel on a port of loopback.

    The shared folder is there from the start. Without `panel` there is the supervisor only.
    """

    def __init__(self, root: Path, settings: str, *, panel: bool = True) -> None:
        self.nas = Nas(root, "")
        self.panel: Background | None = None
        self._with_panel = panel
        self.url = ""
        package = self.nas.package
        for folder in (self.nas.etc, package / "var", package / "target", root / "volume1/angiography"):
            folder.mkdir(parents=True)
        self.nas.settings.write_text(settings, encoding="utf-8")
        self.nas.settings.chmod(0o600)

    def __enter__(self) -> Self:
        log = self.nas.root / "supervisor.log"
        self.supervisor = Background([sys.executable, "-c", SUPERVISE, self.nas.root], log=log)
        self.supervisor.wait_ready(lambda: running.state(self.nas)["state"] == "running")
        if self._with_panel:
            self.start_panel()
        return self

    def start_panel(self) -> None:
        """Start the panel, and so get a new URL."""
        printed = self.nas.root / "panel.stdout"
        printed.unlink(missing_ok=True)
        log = self.nas.root / "panel.log"
        self.panel = Background([sys.executable, "-c", _PANEL, self.nas.root], log=log, stdout=printed)
        self.panel.wait_ready(lambda: "http://" in printed.read_text(encoding="utf-8"))
        self.url = printed.read_text(encoding="utf-8").split()[-1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        codes = [each.stop(seconds=30) for each in (self.panel, self.supervisor) if each is not None]
        assert kind is not None or not any(codes), codes

    def settings(self) -> str:
        return self.nas.settings.read_text(encoding="utf-8")

    def health(self) -> dict[str, Any]:
        return jsonfile.read(self.nas.health)

    def cli(self, *arguments: str) -> str:
        """Run another command of `angiovault` on the same settings."""
        command = [sys.executable, "-m", "angiovault.cli", *arguments, "--config", str(self.nas.settings)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
