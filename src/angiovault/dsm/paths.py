"""Where things are on a Synology NAS, DSM 6 and 7 (FHS of Synology's developer guide)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGE: Final = "angiovault"
"""Package id, and the name of the package's user and group."""
SHARE: Final = "angiography"
"""The shared folder that DSM makes for the package."""

_VOLUME: Final = re.compile(r"volume([0-9]+)")
_KEY_VALUE: Final = re.compile(r'^([A-Za-z_]+)="?([^"\n]*)"?$', re.MULTILINE)


@dataclass(frozen=True)
class Nas:
    """A NAS; the tests make some with another `root`, and without the package's `user`."""

    root: Path = Path("/")
    user: str = PACKAGE
    """Whom root becomes before it touches anything; '' to stay root."""

    @property
    def package(self) -> Path:
        """The package's folder."""
        return self.root / "var/packages" / PACKAGE

    @property
    def etc(self) -> Path:
        """Settings; kept by upgrades, and on DSM 7 by uninstalling."""
        return self.package / "etc"

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.etc / "angiovault.ini"

    @property
    def var(self) -> Path:
        """Log and state: DSM 7 has a folder for them, on DSM 6 it is made in the program's, which upgrades replace."""
        own = self.package / "var"
        return own if own.is_dir() else self.package / "target/var"

    @property
    def log(self) -> Path:
        """The one log, of supervisor and service."""
        return self.var / "angiovault.log"

    @property
    def health(self) -> Path:
        """What the service says is wrong with it, see `angiovault.health`."""
        return self.var / "health.json"

    @property
    def state(self) -> Path:
        """What the supervisor knows, see `running`."""
        return self.var / "supervisor.json"

    @property
    def pid(self) -> Path:
        """Which process is the supervisor, see `running`."""
        return self.var / "supervisor.pid"

    @property
    def lock(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.var / "supervisor.lock"

    @property
    def panel(self) -> Path:
        """The socket of the settings panel, on which `ui/index.cgi` asks for it."""
        return self.var / "panel.sock"

    @property
    def notified(self) -> Path:
        """When DSM was last told of what, see `notifications`."""
        return self.var / "notified.json"

    @property
    def share_link(self) -> Path:
        """The link to the shared folder that DSM 7.0-41201 and later make once it is there."""
        return self.package / "shares" / SHARE

    @property
    def socket(self) -> Path:
        """The socket of the package MariaDB 10, the same on DSM 6 and 7."""
        return self.root / "run/mysqld/mysqld10.sock"

    @property
    def mariadb(self) -> Path:
        """The folder of the package MariaDB 10, there while it is installed."""
        return self.root / "var/packages/MariaDB10"

    @property
    def notify_program(self) -> Path:
        """What puts a notification on DSM's desktop."""
        return self.root / "usr/syno/bin/synodsmnotify"

    @property
    def is_synology(self) -> bool:
        """Whether this is a NAS that the package is installed on."""
        return self.etc.is_dir()

    @property
    def volumes(self) -> tuple[Path, ...]:
        """The NAS's volumes, the one that the package is installed on first."""
        found = {}
        for path in self.root.glob("volume*"):
            match = _VOLUME.fullmatch(path.name)
            if match and path.is_dir():
                found[path] = int(match[1])
        own = (self.package / "target").resolve()
        return tuple(sorted(found, key=lambda path: (not own.is_relative_to(path.resolve()), found[path])))

    @property
    def generation(self) -> int:
        """DSM's major version, 7 when it cannot be told."""
        version = _value(self.root / "etc.defaults/VERSION", "majorversion")
        return int(version) if version.isdigit() else 7

    @property
    def language(self) -> str:
        """The language of DSM's own messages, as DSM names it: `enu`, `chs` …; '' when it cannot be told."""
        return _value(self.root / "etc/synoinfo.conf", "language")


def _value(file: Path, key: str) -> str:
    """Return a value of one of DSM's `key="value"` files, '' when it cannot be had."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next((match[2] for match in _KEY_VALUE.finditer(text) if match[1] == key), "")
