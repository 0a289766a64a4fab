"""A folder that looks like a Synology NAS to `angiovault.dsm`, and the supervisor running on it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from angiovault.dsm.paths import Nas
from harness.dcmtk import Peer
from harness.processes import Argument, Background, Server, free_port
from harness.waiting import wait_until

_SUPERVISE = """
import sys
from pathlib import Path
from angiovault.dsm import commands
from angiovault.dsm.paths import Nas
sys.exit(commands.main(sys.argv[2:], Nas(Path(sys.argv[1]), user="")))
"""


def short_folder() -> Path:
    """Make a temporary folder whose path is short enough for a UNIX socket in it."""
    return Path(tempfile.mkdtemp(prefix="av-nas-"))


def make(root: Path, *, generation: int = 7, language: str = "enu") -> Nas:
    """Lay out a NAS after the package was installed, with one volume and no shared folder."""
    app = root / "volume1/@appstore/angiovault"
    app.mkdir(parents=True)
    nas = Nas(root, user="")
    for folder in (nas.etc, root / "etc.defaults", root / "etc", root / "usr/syno/bin", root / "run/mysqld"):
        folder.mkdir(parents=True)
    (nas.package / "target").symlink_to(app)
    if generation >= 7:
        for name in ("var", "shares"):
            (nas.package / name).mkdir()
    else:
        (app / "var").mkdir()
    (root / "etc.defaults/VERSION").write_text(f'majorversion="{generation}"\nminorversion="2"\n')
    (root / "etc/synoinfo.conf").write_text(f'unique="synology_apollolake_918+"\nlanguage="{language}"\n')
    return nas


def share(nas: Nas, volume: int = 1) -> Path:
    """Make the shared folder, as DSM does when the package is enabled."""
    folder = nas.root / f"volume{volume}/angiography"
    folder.mkdir(parents=True)
    if nas.share_link.parent.is_dir():
        nas.share_link.unlink(missing_ok=True)
        nas.share_link.symlink_to(folder)
    return folder


def notifications(nas: Nas) -> Path:
    """Put a stand-in in the place of `synodsmnotify`; each call appends its arguments as JSON to the file returned."""
    said = nas.root / "notifications"
    nas.notify_program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"with open({str(said)!r}, 'a') as file:\n    file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    nas.notify_program.chmod(0o755)
    return said


class Supervised(Server):
    """`angiovault dsm supervise` on a NAS, with settings that listen on a free port of 127.0.0.1.

    Parameters
    ----------
    nas
        The NAS.
    settings
        Further lines of the settings' section [archive].
    prefix
        A program to run it under, which must keep its pid.
    """

    def __init__(self, nas: Nas, settings: str = "", prefix: Sequence[Argument] = ()) -> None:
        super().__init__()
        self.nas = nas
        self.port = free_port()
        self._prefix = list(prefix)
        if not nas.settings.exists():
            self.write_settings(settings)

    def write_settings(self, archive: str = "", port: int | None = None) -> None:
        text = f"[dicom]\nbind = 127.0.0.1\nport = {port or self.port}\nunknown-devices = all\n[archive]\n{archive}\n"
        self.nas.settings.write_text(text, encoding="utf-8")

    @property
    def peer(self) -> Peer:
        return Peer("127.0.0.1", self.port, "ANGIOVAULT")

    def start(self) -> Self:
        command = [*self._prefix, sys.executable, "-c", _SUPERVISE, self.nas.root, "supervise"]
        self._background = Background(command, log=self.nas.root / "supervisor.stderr")
        self.background.wait_ready(
            lambda: self.nas.pid.exists() and self.nas.pid.read_text().startswith(f"{self.pid} ")
        )
        return self

    def state(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.nas.state.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def wait_for(self, state: str, *, seconds: float = 20) -> dict[str, Any]:
        """Wait until the supervisor says that it is in a state, and return all it says."""
        try:
            wait_until(lambda: self.state().get("state") == state, f"the state {state}", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {self.state()}\n{self.log_text()[-6000:]}") from None
        return self.state()

    def log_text(self) -> str:
        return self.nas.log.read_text(encoding="utf-8", errors="replace") if self.nas.log.exists() else ""

    @property
    def service(self) -> int:
        """The pid of the service, 0 when there is none."""
        return int(self.state().get("service", 0))

    def health(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.nas.health.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def hang_up(self) -> None:
        os.kill(self.pid, signal.SIGHUP)


def command(
    nas: Nas, *arguments: Argument, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `angiovault dsm …` on a NAS."""
    return subprocess.run(
        [sys.executable, "-c", _SUPERVISE, nas.root, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=120,
        check=False,
    )
