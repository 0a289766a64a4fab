"""What is known of the jobs: one file each in the archive's private folder.

A job's file is written by one process at a time: by the job itself while it runs, else by whoever has the book locked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from angiovault import jsonfile
from angiovault.archive.durable import fsync_directory, locked
from angiovault.archive.incoming import now
from angiovault.archive.store import Store, as_storage_error
from angiovault.processes import pid_of

IMPORT: Final = "import"
VERIFY: Final = "verify"
REINDEX: Final = "reindex"
SEND: Final = "send"
KINDS: Final = (IMPORT, VERIFY, REINDEX, SEND)

WAITING: Final = "waiting"
RUNNING: Final = "running"
DONE: Final = "done"
PARTLY: Final = "partly"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
INTERRUPTED: Final = "interrupted"
ACTIVE: Final = frozenset((WAITING, RUNNING))
AGAIN: Final = frozenset((PARTLY, FAILED, CANCELLED, INTERRUPTED))
"""States in which a job can be begun again: what is done already is passed over."""

_FOLDER: Final = "jobs"
_ID: Final = re.compile(r"[0-9]{8}T[0-9]{12}-[0-9a-f]{12}", re.ASCII)
_KEPT: Final = 100
MOST_PROBLEMS: Final = 100


class NoSuchJob(LookupError):
    """There is no job of that id."""


@dataclass
class Job:
    """One job.

    Attributes
    ----------
    id : str
        Time and chance; ids in alphabetical order are jobs in the order of their making.
    kind : str
        One of `KINDS`.
    parameters : Mapping
        What to do: `path` and `move` of an import, `device` and `uids` of a sending.
    title, user : str
        What people call it, and who asked for it.
    state : str
        See above.
    process : str
        Which process answers for it (`processes.identity`): the one whose line it waits in, or its own.
    created, began, ended : str
        Times, '' for not yet.
    items, total_items, bytes, total_bytes : int
        How far it is; totals are None while they are not known.
    item_rate, byte_rate : float
        How many a second, since it began this time.
    counts : Mapping
        What became of the items, see `work`.
    problems, problem_count
        What went wrong, at most `MOST_PROBLEMS` of them, the latest ones; and how many there were.
    reason : str
        Why it failed as a whole.
    checkpoint : str
        Where it goes on when it is begun again.
    """

    id: str
    kind: str
    parameters: Mapping[str, Any]
    title: str
    user: str
    state: str = WAITING
    process: str = ""
    created: str = ""
    began: str = ""
    ended: str = ""
    items: int = 0
    total_items: int | None = None
    bytes: int = 0
    total_bytes: int | None = None
    item_rate: float = 0.0
    byte_rate: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    reason: str = ""
    checkpoint: str = ""

    def begin_anew(self) -> None:
        """Forget how far it was, for another run."""
        self.began = self.ended = self.reason = ""
        self.items = self.bytes = self.problem_count = 0
        self.total_items = self.total_bytes = None
        self.item_rate = self.byte_rate = 0.0
        self.counts, self.problems = {}, []


class Book:
    """The jobs of an archive.

    Parameters
    ----------
    store : Store
        The archive's opened storage.

    Raises
    ------
    StorageError
        When the storage cannot be used.
    """

    def __init__(self, store: Store) -> None:
        store.check_mounted()
        self._folder = store.private / _FOLDER
        with as_storage_error("cannot keep jobs"):
            self._folder.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes and threads from changing jobs that do not run."""
        with contextlib.ExitStack() as stack:
            with as_storage_error("cannot lock the jobs"):
                stack.enter_context(locked(self._folder / "lock"))
            yield

    def make(self, kind: str, parameters: Mapping[str, Any], title: str, user: str, process: str) -> Job:
        """Write down a new job that waits, durably.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        job = Job(
            f"{stamp}-{secrets.token_hex(6)}", kind, dict(parameters), title, user, process=process, created=now()
        )
        self.write(job)
        return job

    def write(self, job: Job, durably: bool = True) -> None:
        """Write down how a job is now.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        with as_storage_error("cannot write down a job"):
            jsonfile.write(self._path(job.id), dataclasses.asdict(job), synced=durably)
            if durably:
                fsync_directory(self._folder)

    def read(self, number: str) -> Job:
        """Return a job; one whose process has ended without a word is interrupted.

        Raises
        ------
        NoSuchJob
            When there is none.
        """
        job = self._read(number)
        if job.state in ACTIVE and not pid_of(job.process):
            job = self._read(number)  # its last word may have come between the two looks
            if job.state in ACTIVE and not pid_of(job.process):
                job.state = INTERRUPTED
        return job

    def _read(self, number: str) -> Job:
        try:
            job = Job(**jsonfile.read(self._path(number)))
        except TypeError:  # no file, or none of this version
            raise NoSuchJob(number) from None
        if job.id != number or job.kind not in KINDS:
            raise NoSuchJob(number)
        return job

    def all(self) -> list[Job]:
        """Return all jobs, the oldest first.

        Raises
        ------
        StorageError
            When they cannot be listed.
        """
        with as_storage_error("cannot list the jobs"):
            numbers = sorted(name[: -len(".json")] for name in os.listdir(self._folder) if name.endswith(".json"))
        jobs = []
        for number in numbers:
            with contextlib.suppress(NoSuchJob):  # removed meanwhile, or no file of ours
                jobs.append(self.read(number))
        return jobs

    def remove(self, number: str) -> None:
        """Forget a job that does not run.

        Raises
        ------
        NoSuchJob
            When there is none.
        StorageError
            When it cannot be removed.
        """
        with as_storage_error("cannot remove a job"):
            for path in (self.sent_file(number), self._path(number)):
                path.unlink(missing_ok=True)

    def remove_old(self) -> None:
        """Forget all but the latest jobs that have ended."""
        ended = [job.id for job in self.all() if job.state not in ACTIVE]
        for number in ended[:-_KEPT]:
            self.remove(number)

    def sent_file(self, number: str) -> Path:
        """Return where a job that sends notes, line by line, what has arrived."""
        return self._path(number).with_suffix(".sent")

    def _path(self, number: str) -> Path:
        if not _ID.fullmatch(number):
            raise NoSuchJob(number)
        return self._folder / f"{number}.json"
