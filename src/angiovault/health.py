"""What is wrong with the running archive, in a file for other programs: a supervisor, a panel.

Looking is cheap and writes nothing while nothing changes, so that the disks of a NAS may sleep: the storage's marker is
looked at as every reception does, the volume is asked for its room, the database server for an answer. The queue of
Storage Commitment is read only while something waits in it; then it is worked on every hour anyway.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from angiovault import jsonfile
from angiovault.archive import commitments
from angiovault.archive.archive import Archive
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.config import Config
from angiovault.reloading import Loading

log = logging.getLogger(__name__)

STORAGE: Final = "storage"
DISK: Final = "disk"
DATABASE: Final = "database"
COMMITMENT: Final = "commitment"

_VOLUME_EVERY: Final = 4.0
_DATABASE_EVERY: Final = 30.0
_DATABASE_RETRY: Final = 8.0
"""Seconds between two looks at a database that went away; each may be a line in the server's own log."""
_COMMITMENT_EVERY: Final = 3600.0
_LATE: Final = 86400
"""Seconds after which a Storage Commitment result that could not be delivered is a problem."""

LOW_SHARE: Final = 0.05
LOW_BYTES: Final = 50 << 30
"""A volume is nearly full below 5 % of its size, but never while 50 GiB are left.

A busy angiography suite makes some 20 to 40 GB a day, and a NAS has volumes of up to 100 TB: five per cent of those
would be months of work, and 50 GiB are the days in which somebody has to act. On a small volume 5 % is what there is.
"""


class Health:
    """Looks for problems when it is told to, and writes them to the file.

    Parameters
    ----------
    path : Path
        The file.
    archive : Archive
        The archive, open or not.
    commitments_wait : Callable
        Returns whether requests wait in the queue of Storage Commitment.
    clock : Callable
        Seconds that never go back.
    """

    def __init__(
        self,
        path: Path,
        archive: Archive,
        commitments_wait: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._archive = archive
        self._commitments_wait = commitments_wait
        self._clock = clock
        self._facts: dict[str, Any] = {
            "pid": os.getpid(),
            "since": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self._checks: dict[str, tuple[float, Callable[[], str]]] = {
            STORAGE: (_VOLUME_EVERY, self._storage),
            DISK: (_VOLUME_EVERY, self._disk),
            COMMITMENT: (_VOLUME_EVERY, self._commitment),
        }
        if archive.index.engine == "mysql":  # an embedded index has nothing that could go away without the storage
            self._checks[DATABASE] = (_DATABASE_EVERY, self._database)
        self._ask_commitments = float("-inf")
        self._looked: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._written: dict[str, Any] = {}
        self._cannot_write = ""

    def tell(self, config: Config, port: int, loading: Loading) -> None:
        """Say at once with which settings the service runs, and what came of reading them.

        Parameters
        ----------
        config : Config
            The settings in force.
        port : int
            The port that is listened on.
        loading : Loading
            What came of reading them the last time.
        """
        self._facts |= {
            "ae_title": config.ae_title,
            "bind": config.bind,
            "port": port,
            "tls_port": config.tls_port,
            "settings": loading.as_json(),
        }
        if self._written:  # the first time the problems are looked for first
            self._write()

    @property
    def problems(self) -> dict[str, str]:
        """What was wrong at the last look: condition and text."""
        return dict(self._problems)

    def look(self) -> None:
        """Check what is due, and write the file if anything has changed."""
        for name, (every, check) in self._checks.items():
            if name == DATABASE and (name in self._problems or not self._archive.index.ready):
                every = _DATABASE_RETRY
            if self._clock() >= self._looked.get(name, float("-inf")) + every:
                self._looked[name] = self._clock()
                self._note(name, check())
        self._write()

    def _note(self, name: str, problem: str) -> None:
        known = self._problems.pop(name, "")
        if problem:
            self._problems[name] = problem
        if problem and not known:
            log.warning("health: %s: %s", name, problem)
        elif known and not problem:
            log.info("health: %s: well again", name)

    def _write(self) -> None:
        said = {**self._facts, "problems": dict(self._problems)}
        if said == self._written:
            return
        try:
            jsonfile.write(self._path, said)
        except OSError as error:
            if str(error) != self._cannot_write:
                log.warning("the health file cannot be written: %s", error)
            self._cannot_write = str(error)
        else:
            self._written, self._cannot_write = said, ""

    def close(self) -> None:
        """Remove the file: who reads it must not take us for running."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the health file cannot be removed: %s", error)

    def _storage(self) -> str:
        try:
            self._archive.check()
            for folder in self._archive.store.folders:
                if os.statvfs(folder.root).f_flag & os.ST_RDONLY:
                    return f"the volume of {folder.root} is read-only: nothing can be stored"
        except (StorageError, OSError) as error:
            return str(error)
        return ""

    def _disk(self) -> str:
        try:
            self._archive.check()
            free, total = self._archive.store.free_bytes()
            first, *more = self._archive.store.folders
            if more and first.is_short:
                return (
                    f"the volume of {first.root} is full: images go into {more[0].root}, but index and journals "
                    "need room in the first as well: free some"
                )
        except (StorageError, OSError):
            return ""  # that of the storage is the problem then
        if free <= 0:
            return "the storage volume is full: nothing can be stored until there is room"
        if free < min(total * LOW_SHARE, LOW_BYTES):
            # Whole gigabytes: the text, and so the file, changes only as often as they do.
            return f"the storage volume is nearly full: {free / 1e9:.0f} of {total / 1e9:.0f} GB can still be used"
        return ""

    def _database(self) -> str:
        try:
            try:
                index = self._archive.open_index()
            except StorageError:  # away as well, perhaps; the server can be asked all the same
                index = self._archive.index
            with index.session() as database:
                database.execute_sql("SELECT 1").fetchone()
        except IndexUnavailable as error:
            return str(error)
        return ""

    def _commitment(self) -> str:
        if not self._commitments_wait():
            return ""
        if self._clock() < self._ask_commitments:
            return self._problems.get(COMMITMENT, "")
        self._ask_commitments = self._clock() + _COMMITMENT_EVERY
        try:
            late = commitments.late(self._archive.open_index(), _LATE)
        except (IndexUnavailable, StorageError):
            return self._problems.get(COMMITMENT, "")  # cannot be asked now, and has a problem of its own
        if late is None:
            return ""
        number, who, why = late
        return f"{number} storage commitment results are not delivered for more than a day, the oldest to {who}: {why}"
