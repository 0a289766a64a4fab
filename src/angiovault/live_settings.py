"""The settings of a running service: read again when it is told to, and put into force without ending anything."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from angiovault import logs, reloading
from angiovault.config import Config, fingerprint, new_start_for
from angiovault.dimse.listeners import CannotListen
from angiovault.inifile import ConfigError
from angiovault.network import has_capabilities
from angiovault.reloading import Loading
from angiovault.tls_context import CannotUseCertificate

log = logging.getLogger(__name__)


class LiveSettings:
    """The settings in force, and what came of reading them the last time.

    Parameters
    ----------
    config : Config
        The settings that the service was started with.
    load : Callable
        Reads them again, and may raise ConfigError.
    put_in_force : Callable
        Makes the service go on with other settings; raises CannotListen or CannotUseCertificate, and has changed
        nothing then.
    """

    def __init__(
        self, config: Config, load: Callable[[], Config], put_in_force: Callable[[Config], None]
    ) -> None:
        self.config = config
        self.loading = Loading(1, fingerprint(config))
        self._load = load
        self._put_in_force = put_in_force

    def read_again(self) -> None:
        """Read the settings and put them into force if they can be; what came of it is in `loading`."""
        self.loading = replace(self.loading, serial=self.loading.serial + 1, problem={}, restart=())
        try:
            wanted = self._load()
            restart = new_start_for(self.config, wanted)
            if restart:
                log.warning("the settings are not changed before a new start, which %s needs", ", ".join(restart))
                self.loading = replace(self.loading, restart=tuple(restart))
                return
            self._put_in_force(wanted)
        except CannotListen as error:
            self._cannot_listen(error)
            return
        except (ConfigError, CannotUseCertificate) as error:
            kind = reloading.FILE if isinstance(error, ConfigError) else reloading.TLS
            self._refuse({"kind": kind, "text": str(error)})
            return
        logs.set_level(wanted.log_level)
        self.config = wanted
        self.loading = replace(self.loading, fingerprint=fingerprint(wanted))
        log.info("the settings were read again and are in force")

    def _cannot_listen(self, error: CannotListen) -> None:
        if isinstance(error.error, PermissionError) and has_capabilities():
            log.warning("port %d needs a new start", error.opening.port)
            self.loading = replace(self.loading, restart=("port",))
            return
        place = {"address": error.opening.address, "port": error.opening.port}
        self._refuse({"kind": _KINDS.get(error.error.errno or 0, reloading.PORT), "text": str(error), **place})

    def _refuse(self, problem: dict[str, Any]) -> None:
        log.error("the settings stay as they were: %s", problem["text"])
        self.loading = replace(self.loading, problem=problem)


_KINDS: Final = {
    errno.EADDRINUSE: reloading.PORT_TAKEN,
    errno.EACCES: reloading.PORT_PRIVILEGED,
    errno.EADDRNOTAVAIL: reloading.ADDRESS,
}
