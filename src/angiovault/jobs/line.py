"""The line in which jobs wait, and the thread of the settings panel that starts them when there is room.

Jobs end with the panel: on a NAS no process may keep the volumes from being unmounted when the package is stopped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from angiovault.archive.incoming import now
from angiovault.archive.store import StorageError
from angiovault.inifile import ConfigError
from angiovault.jobs import book
from angiovault.jobs.book import Book, Job
from angiovault.processes import identity, pid_of

log = logging.getLogger(__name__)

SIGNALS: Final = frozenset((signal.SIGINT, signal.SIGTERM))
"""What tells a job to stop: the first cancels it, the second interrupts it."""

_ALONE: Final = frozenset((book.IMPORT, book.VERIFY, book.REINDEX))
"""Kinds of which one job runs at a time: each of them keeps the disks busy."""
_MOST_SENDING: Final = 2
_MOST_WAITING: Final = 50
_LOOK_EVERY: Final = 0.3
_WHEN_AWAY: Final = 5.0


class NotNow(Exception):
    """The job is in no state in which that can be done, or too many wait."""


class Line:
    """The jobs that this process starts.

    Parameters
    ----------
    settings : Path
        The settings file.
    find_book : Callable
        Returns the book of the archive of the settings as they are now; may raise `StorageError` and `ConfigError`.
    """

    def __init__(self, settings: Path, find_book: Callable[[], Book]) -> None:
        self._settings = settings.absolute()
        self.book = find_book
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._is_waiting = False

    @property
    def busy(self) -> bool:
        """Whether a job of ours runs or waits."""
        return bool(self._children) or self._is_waiting

    # ---- what people ask for

    def add(self, kind: str, parameters: Mapping[str, Any], title: str, user: str) -> Job:
        """Put a new job at the end of the line.

        Raises
        ------
        NotNow
            When too many wait already.
        StorageError, ConfigError
            When there is no archive to keep it in.
        """
        jobs = self.book()
        with jobs.locked():
            jobs.remove_old()
            if sum(job.state == book.WAITING for job in jobs.all()) >= _MOST_WAITING:
                raise NotNow
            job = jobs.make(kind, parameters, title, user, identity(os.getpid()))
        self._look()
        return job

    def again(self, number: str) -> Job:
        """Put a job that has stopped in the line once more; what is done is passed over.

        Raises
        ------
        NoSuchJob, NotNow, StorageError, ConfigError
            When that cannot be.
        """
        jobs = self.book()
        with jobs.locked():
            job = jobs.read(number)
            if job.state not in book.AGAIN:
                raise NotNow
            if not job.checkpoint:
                job.begin_anew()
            job.ended = job.reason = ""
            job.state, job.process = book.WAITING, identity(os.getpid())
            jobs.write(job)
        self._look()
        return job

    def cancel(self, number: str) -> Job:
        """Take a job out of the line, or tell its process to stop, which takes a moment.

        Raises
        ------
        NoSuchJob, NotNow, StorageError, ConfigError
            When that cannot be.
        """
        jobs = self.book()
        with jobs.locked():
            job = jobs.read(number)
            if job.state == book.WAITING:
                job.state, job.process, job.ended = book.CANCELLED, "", now()
                jobs.write(job)
            elif job.state == book.RUNNING and (pid := pid_of(job.process)):
                with contextlib.suppress(ProcessLookupError):  # it has ended in this moment
                    os.kill(pid, signal.SIGINT)
            else:
                raise NotNow
        return job

    def remove(self, number: str) -> None:
        """Forget a job that does not run.

        Raises
        ------
        NoSuchJob, NotNow, StorageError, ConfigError
            When that cannot be.
        """
        jobs = self.book()
        with jobs.locked():
            if jobs.read(number).state in book.ACTIVE:
                raise NotNow
            jobs.remove(number)

    # ---- starting and ending

    def stop(self) -> None:
        """Start nothing more and tell the jobs that they are interrupted; does not wait for them."""
        with self._lock:
            self._closing.set()
            for child in self._children.values():
                child.terminate()
        self._wake.set()

    def close(self, seconds: float) -> None:
        """Stop, and return when no process is left; those that have not ended after `seconds` are killed."""
        self.stop()
        deadline = time.monotonic() + seconds
        for child in list(self._children.values()):
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        """Have the thread look at the line; it lives as long as the panel, for the jobs end when it ends."""
        with self._lock:
            self._is_waiting = True
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
                self._thread.start()
        self._wake.set()

    def _run(self) -> None:
        # What we start inherits this: a signal that comes before it listens waits for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        while not self._closing.is_set() or self._children:
            pause: float | None = _WHEN_AWAY
            self._wake.clear()
            try:
                self._reap()
                self._start_what_may()
                pause = _LOOK_EVERY if self.busy else None
            except (StorageError, ConfigError) as error:
                log.warning("jobs wait: %s", error)
            except Exception:
                log.exception("the line of jobs failed, next try in %d s", _WHEN_AWAY)
            self._wake.wait(_LOOK_EVERY if self._closing.is_set() else pause)

    def _reap(self) -> None:
        for number, child in list(self._children.items()):
            if child.poll() is not None:
                if child.returncode != 0:
                    log.error("job %s ended with exit code %d", number, child.returncode)
                with self._lock:
                    del self._children[number]

    def _start_what_may(self) -> None:
        own = identity(os.getpid())
        jobs = self.book()
        with jobs.locked():
            # Whoever adds a job sets this after it has written it.
            self._is_waiting = False
            known = jobs.all()
            running = [job for job in known if job.state == book.RUNNING]
            for job in known:
                if job.state == book.WAITING and job.process == own:
                    if has_room(job, running) and self._start(job, jobs):
                        running.append(job)
                    else:
                        self._is_waiting = True

    def _start(self, job: Job, jobs: Book) -> bool:
        """Start a job's process; it begins when it is written down that it does the job. Return whether it was."""
        command = [sys.executable, "-I", "-m", "angiovault.jobs.process", str(os.getpid()), job.id, str(self._settings)]
        with self._lock:
            if self._closing.is_set():
                return False
            child = subprocess.Popen(  # noqa: S603 - our own words
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
            self._children[job.id] = child
        assert child.stdin is not None
        with child.stdin:
            job.state, job.process, job.began = book.RUNNING, identity(child.pid), now()
            jobs.write(job)
        return True


def has_room(job: Job, running: Iterable[Job]) -> bool:
    """Return whether a job may start beside those that run.

    Nothing is sent while the index is rebuilt, and to one device only one job at a time.
    """
    kinds = [other.kind for other in running]
    if job.kind in _ALONE:
        return not _ALONE & set(kinds)
    devices = [other.parameters["device"] for other in running if other.kind == book.SEND]
    return book.REINDEX not in kinds and len(devices) < _MOST_SENDING and job.parameters["device"] not in devices
