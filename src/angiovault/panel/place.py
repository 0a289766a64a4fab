"""Where the panel finds what it shows: on a Synology NAS, or on any Linux."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from angiovault import jsonfile
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

    def log(self, config: Config | None) -> Path | None:
        """Return the log file, None when the service logs to standard error."""
        if self.nas is not None:
            return self.nas.log
        return config.log_file if config is not None else None
