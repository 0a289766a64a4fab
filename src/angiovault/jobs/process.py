"""The process of one job: does the work at low priority, says how far it is, and stops cleanly when asked.

SIGINT cancels a job; SIGTERM interrupts it, as when the package is stopped. Work that writes to the archive stops
between two pieces; a sending stops at once, since it may be waiting for a device that does not answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault import logs, opening, sending, work
from angiovault.archive.exchange.exporting import NothingFound
from angiovault.archive.finding.selection import StoredInstance
from angiovault.archive.incoming import now
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.config import Config, load
from angiovault.devices import DeviceBook
from angiovault.dimse.endings import CannotAssociate
from angiovault.dimse.scu import Destination
from angiovault.inifile import ConfigError
from angiovault.jobs import book
from angiovault.jobs.book import Book, Job
from angiovault.jobs.line import SIGNALS
from angiovault.processes import die_with, identity

log = logging.getLogger(__name__)

_NICE: Final = 15
"""Receiving goes first. The kernel takes the lowest of the usual priorities for the disk from it (ioprio_set(2))."""
_WRITE_EVERY: Final = 1.0
_LONGEST_PROBLEM: Final = 1000
_REASONS: Final = (ConfigError, StorageError, IndexUnavailable, CannotAssociate, NothingFound)


class Stopped(BaseException):
    """The job was told to stop; like `KeyboardInterrupt` nothing that handles errors may catch it."""


class Stop:
    """Whether the job was told to stop, and how it is called then."""

    def __init__(self) -> None:
        self.state = ""
        self._at_once = False

    def listen(self) -> None:
        """Begin to take notice of the signals, which whoever started us has blocked until now."""
        for number in SIGNALS:
            signal.signal(number, lambda number, _frame: self._note(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def no_more(self) -> None:
        """Take no more notice of the signals: the work is over."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int) -> None:
        self.state = book.CANCELLED if number == signal.SIGINT else self.state or book.INTERRUPTED
        if self._at_once:
            raise Stopped

    def check(self) -> None:
        """Raise `Stopped` when the job was told to stop."""
        if self.state:
            raise Stopped

    @contextlib.contextmanager
    def at_once(self, whether: bool = True) -> Iterator[None]:
        """Let a signal raise wherever the work is, or with `whether` False not even where it did so far."""
        before, self._at_once = self._at_once, whether
        try:
            if whether:
                self.check()
            yield
        finally:
            self._at_once = before
        self.check()


class Tracker:
    """Writes down how far a job is, about once a second and only what is new; the `work.Report` of a job."""

    def __init__(self, job: Job, jobs: Book, stop: Stop) -> None:
        self.counts = work.Counts(job.counts)
        self._job = job
        self._jobs = jobs
        self._stop = stop
        self._began = self._written = time.monotonic()
        self._at_first = (job.items, job.bytes)
        self._is_news = False
        self._warned = False

    def expect(self, items: int | None, bytes: int | None = None) -> None:
        """Take note of how much there is to do."""
        if (items, bytes) != (self._job.total_items, self._job.total_bytes):
            self._job.total_items, self._job.total_bytes = items, bytes
            self._write()  # the first item may take long

    def start_at(self, items: int, bytes: int) -> None:
        """Take note of what was done in an earlier run."""
        self._job.items, self._job.bytes = self._at_first = (items, bytes)

    def advance(self, items: int = 1, bytes: int = 0) -> None:
        """Count what was done, and stop here when that is wanted."""
        self._job.items += items
        self._job.bytes += bytes
        self._is_news = self._is_news or bool(items or bytes)
        self._stop.check()
        if self._is_news and time.monotonic() - self._written >= _WRITE_EVERY:
            self._write()

    def say(self, text: str) -> None:
        """Keep a problem."""
        self._job.problem_count += 1
        self._job.problems = [*self._job.problems, logs.escape(text)[:_LONGEST_PROBLEM]][-book.MOST_PROBLEMS :]
        self._is_news = True

    def _write(self) -> None:
        self.sum_up()
        self._written, self._is_news = time.monotonic(), False
        try:
            with self._stop.at_once(False):
                self._jobs.write(self._job, durably=False)
        except StorageError as error:  # a full disk is no reason not to verify what is on it
            if not self._warned:
                log.warning("job %s: %s", self._job.id, error)
            self._warned = True

    def sum_up(self) -> None:
        """Bring counts and rates of the job up to date."""
        seconds = max(time.monotonic() - self._began, 0.001)
        self._job.item_rate = (self._job.items - self._at_first[0]) / seconds
        self._job.byte_rate = (self._job.bytes - self._at_first[1]) / seconds
        self._job.counts = dict(self.counts)


def _import(job: Job, config: Config, tracker: Tracker) -> None:
    path = Path(job.parameters["path"])
    if path.resolve() != path:  # it was looked at when the job was asked for, and others can write where it lies
        raise StorageError(f"{path} is not the folder any more that was chosen: there is a link on the way to it")
    archive = opening.open_archive(config)
    work.take_in(archive, [path], job.parameters["move"], tracker.counts, tracker)


def _reindex(_job: Job, config: Config, tracker: Tracker) -> None:
    work.reindex(opening.open_archive(config), tracker.counts, tracker)


def _verify(job: Job, config: Config, tracker: Tracker) -> None:
    archive = opening.archive_of(config)
    archive.store.open()
    if job.checkpoint and not archive.store.path(PurePosixPath(job.checkpoint)).exists():
        job.begin_anew()
        job.began, job.checkpoint = now(), ""
        tracker.counts.clear()
        tracker.start_at(0, 0)
    tracker.counts.pop(work.MISSING, None)

    def passed(place: str) -> None:
        job.checkpoint = place

    work.verify(archive, tracker.counts, tracker, after=job.checkpoint, passed=passed)
    job.checkpoint = ""


def _send(job: Job, config: Config, tracker: Tracker, settings: Path, sent_file: Path, stop: Stop) -> None:
    devices = DeviceBook(settings)
    device = devices.by_name(job.parameters["device"])
    if device is None:
        raise ConfigError(f"there is no device {job.parameters['device']!r} any more")
    archive = opening.open_archive(config)
    wanted = work.find(archive, job.parameters["uids"])
    with sent_file.open("a+", encoding="ascii") as file:
        file.seek(0)
        there = set(file.read().split())
        left = [instance for instance in wanted if instance.digest not in there]
        tracker.start_at(len(wanted) - len(left), sum(instance.size for instance in wanted if instance.digest in there))
        if len(left) < len(wanted):
            tracker.counts["sent"] = len(wanted) - len(left)
        tracker.expect(len(wanted), sum(instance.size for instance in wanted))

        def sent(instance: StoredInstance) -> None:
            with stop.at_once(False):
                file.write(f"{instance.digest}\n")
                file.flush()

        with stop.at_once():
            sending.send(archive, devices, config, Destination.of(device), left, tracker.counts, tracker, sent)


def outcome(job: Job) -> str:
    """Return the state of a job that has come to its end, by its counts."""
    problems = sum(number for name, number in job.counts.items() if name in work.PROBLEMS)
    if not problems:
        return book.DONE
    is_partly = job.kind == book.VERIFY or sum(job.counts.values()) > problems
    return book.PARTLY if is_partly else book.FAILED


def run(job: Job, jobs: Book, config: Config, settings: Path, stop: Stop) -> None:
    """Do a job and write down how it ended.

    Raises
    ------
    StorageError
        When that cannot be written.
    """
    tracker = Tracker(job, jobs, stop)
    kinds: dict[str, Callable[[], None]] = {
        book.IMPORT: lambda: _import(job, config, tracker),
        book.REINDEX: lambda: _reindex(job, config, tracker),
        book.VERIFY: lambda: _verify(job, config, tracker),
        book.SEND: lambda: _send(job, config, tracker, settings, jobs.sent_file(job.id), stop),
    }
    state = book.FAILED
    try:
        stop.check()
        kinds[job.kind]()
        state = book.DONE
    except Stopped:
        state = stop.state
    except _REASONS as error:
        job.reason = logs.escape(str(error))
    except Exception as error:
        log.exception("job %s failed", job.id)
        job.reason = logs.escape(f"internal error: {error}")
    stop.no_more()
    tracker.sum_up()
    job.state = outcome(job) if state == book.DONE else state
    job.process, job.ended = "", now()
    jobs.write(job)
    log.info("job %s (%s): %s; %s", job.id, job.kind, job.state, job.reason or job.counts)


def main(arguments: Sequence[str]) -> int:
    """Do the job whose parent's pid, id and settings file are given, once the parent has written down that we do it."""
    parent, number, settings = int(arguments[0]), arguments[1], Path(arguments[2])
    logs.set_up()
    die_with(parent)
    os.nice(_NICE)
    sys.stdin.buffer.read()  # the parent closes it
    stop = Stop()
    stop.listen()
    try:
        config = load(settings) if settings.exists() else Config()
        jobs = Book(opening.store_of(config))
        job = jobs.read(number)
        if job.state != book.RUNNING or job.process != identity(os.getpid()):
            log.error("job %s is not for this process to do", number)
            return 1
        run(job, jobs, config, settings, stop)
    except (ConfigError, StorageError, book.NoSuchJob) as error:
        log.error("job %s: %s", number, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
