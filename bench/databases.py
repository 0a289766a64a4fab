"""The MariaDB of the bench: set as small as the package on a NAS is, with its data where they are to be kept."""

import os
import pwd
import shutil
from pathlib import Path
from typing import Self

from harness.mariadb import MariaDB
from harness.processes import Background, program

SMALL = ("--innodb-buffer-pool-size=16M", "--innodb-log-file-size=48M")
"""What DSM gives MariaDB on a small NAS: a buffer pool of tens of megabytes, all else as MariaDB has it."""
FOR_LOADING = (
    *("--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G", "--innodb-flush-log-at-trx-commit=0"),
    *("--innodb-sort-buffer-size=64M", "--innodb-doublewrite=0", "--secure-file-priv="),
)
"""For filling tables from nothing, where a crash would mean to begin anew."""


class BenchMariaDB(MariaDB):
    """A server with commits as durable as MariaDB's default: synced, each of them.

    Parameters
    ----------
    data
        The folder of its data, which stays; without it they go with the server.
    options
        Options of the server.
    """

    def __init__(self, data: Path | None = None, options: tuple[str, ...] = SMALL) -> None:
        super().__init__()
        self._options = options
        if data is not None:
            self.data = data
            # The user `mysql` might not be allowed to enter the folders above.
            self._user = pwd.getpwuid(os.geteuid())
        os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)

    def start(self) -> Self:
        if not self.data.exists():
            self._install()
        places = (f"--socket={self.socket}", f"--datadir={self.data}", f"--tmpdir={self.folder}")
        options = ("--no-defaults", "--skip-networking", f"--user={self._user.pw_name}", *places, *self._options)
        self._background = Background([program("mariadbd"), *options], log=self.folder / "log")
        self.background.wait_ready(self._answers, seconds=120)
        return self

    def _install(self) -> None:
        """Make the data; the script and the server that it runs are one group, so that both end when we are stopped."""
        places = f"--datadir={self.data}", f"--user={self._user.pw_name}"
        self._background = Background(
            [
                *(program("mariadb-install-db"), "--no-defaults", *places),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            ],
            log=self.folder / "install.log",
            env={"TMPDIR": str(self.folder)},
        )
        if self._background.process.wait(timeout=120) != 0:
            raise AssertionError(self._background.report())

    def remove(self) -> None:
        """End the server in order, so that kept data need no repair, and delete its folder."""
        try:
            if self.running:
                self.background.stop(seconds=600)
        finally:
            self.kill()
            shutil.rmtree(self.folder)
