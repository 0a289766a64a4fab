"""Where the panel finds what it shows: on a Synology NAS, or on any Linux."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from angiovault import jsonfile
from angiovault.archive.store import PRIVATE_FOLDER
from angiovault.config import Config, load
from angiovault.dsm import running
from angiovault.dsm.paths import Nas


@dataclass(frozen=True)
class Place:
    """The settings file, and the NAS when it is that of the package."""

    settings: Path
    nas: Nas | None = None

    @classmethod
    def of(cls, settings: Path) -> Place:
        """Return the place of a settings file."""
        nas = Nas()
        return cls(settings, nas if settings == nas.settings else None)

    def config(self) -> Config:
        """Return the settings as they stand in the file now; the defaults when there is no file.

        Raises
        ------
        ConfigError
            When they cannot be used.
        """
        return load(self.settings) if self.settings.exists() else Config()

    def health(self, config: Config | None) -> dict[str, Any]:
        """Return what the running service says of itself, an empty dictionary when none does."""
        if self.nas is not None:
            return running.health(self.nas)
        if config is None or config.health_file is None:
            return {}
        return jsonfile.read_of_running(config.health_file)

    def service(self, config: Config | None) -> int:
        """Return the process of the running service, 0 when none runs.

        Its lock on the storage is looked at, not touched: a service that starts in this moment must get it.
        """
        if self.nas is not None:
            return int(running.health(self.nas).get("pid", 0))
        if config is None:
            return 0
        lock = config.storage / PRIVATE_FOLDER / "lock"
        try:
            pid, number = int(lock.read_text(encoding="ascii")), lock.stat().st_ino
            locks = Path("/proc/locks").read_text(encoding="ascii")
        except (OSError, ValueError):
            return 0
        fields = [line.split() for line in locks.splitlines()]
        # `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF` (proc(5))
        held = any(item[1] == "FLOCK" and item[4] == str(pid) and item[5].endswith(f":{number}") for item in fields)
        return pid if held else 0

    def log(self, config: Config | None) -> Path | None:
        """Return the log file, None when the service logs to standard error."""
        if self.nas is not None:
            return self.nas.log
        return config.log_file if config is not None else None
