"""Long work, the same for commands and jobs: taking in, verifying, rebuilding the index. Sending is in `sending`.

Each function counts in `counts` what became of the items, and tells a `Report` how far it is. A report may end the work
by raising: nothing is lost then, and the work can be done again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from angiovault.archive import reindexing, verifying
from angiovault.archive.archive import Archive
from angiovault.archive.finding.selection import StoredInstance
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import as_storage_error

Counts = Counter[str]
"""What became of how many items; `PROBLEMS` are those that somebody should look at."""

FAILED: Final = "failed"
DAMAGED: Final = "damaged"
MISSING: Final = "missing"
PROBLEMS: Final = frozenset((FAILED, DAMAGED, MISSING))


class Report(Protocol):
    """Who is told how far some work is, a `progress.Progress` for example."""

    def expect(self, items: int | None, bytes: int | None = None) -> None:
        """Take note of how much there is to do, as far as that is known."""

    def advance(self, items: int = 1, bytes: int = 0) -> None:
        """Count what was done; nothing at all when the work only goes on."""

    def say(self, text: str) -> None:
        """Tell people about a problem."""


def take_in(archive: Archive, paths: Sequence[Path], move: bool, counts: Counts, report: Report) -> None:
    """Import files and folders, see `importing.import_paths`.

    Raises
    ------
    StorageError
        When the archive can take in nothing more.
    """
    from angiovault.archive.exchange import importing  # `serve` starts faster without what it never does

    def watch() -> None:
        report.advance(0)

    report.expect(importing.count_files(paths, archive.store, watch))
    for item in importing.import_paths(archive, paths, move, watch):
        counts[item.outcome] += 1
        if item.reason and item.outcome not in ("skipped", "done before"):
            report.say(f"{item.outcome}: {item.source}: {item.reason}")
        report.advance(1, item.size)


def reindex(archive: Archive, counts: Counts, report: Report) -> None:
    """Make the index anew, see `reindexing.reindex`.

    Raises
    ------
    IndexUnavailable, StorageError
        When index or storage are away, or somebody else is at it.
    """
    for item in reindexing.reindex(archive, watch=lambda: report.advance(0)):
        counts[FAILED if item.problem else "indexed"] += 1
        if item.problem:
            report.say(f"{item.place}: {item.problem}")
        report.expect(item.total)
        report.advance(1, item.size)


def verify(
    archive: Archive,
    counts: Counts,
    report: Report,
    *,
    rate: float = 0,
    after: str = "",
    passed: Callable[[str], None] = lambda _place: None,
) -> None:
    """Read every stored file and check its digest, then look for files that the index knows and that are not there.

    Parameters
    ----------
    archive : Archive
        The archive; its storage has to be opened, its index need not.
    counts, report
        See the module.
    rate : float
        MB/s to read at most, 0 for as fast as can be.
    after : str
        The place behind which to go on, '' for all.
    passed : Callable
        Is told the place of each file that was read.

    Raises
    ------
    StorageError
        When the storage is away.
    """
    slow_down = verifying.Pace(rate) if rate else None

    def pace(count: int) -> None:
        report.advance(0, count)
        if slow_down is not None:
            slow_down(count)

    problem = _open_index(archive)
    report.expect(*((None, None) if problem else verifying.kept(archive.index)))
    with as_storage_error("cannot list the storage"):
        for finding in verifying.verify(archive.store, pace, after):
            if finding.problem:
                archive.store.check_mounted()  # not when the whole storage has gone away
                report.say(f"damaged: {finding.place}: {finding.problem}")
            counts[DAMAGED if finding.problem else "sound"] += 1
            passed(str(finding.place))
            report.advance(1)
    try:
        places = verifying.missing_files(archive.store, archive.index, lambda: report.advance(0))
        for place in places if not problem else ():
            archive.store.check_mounted()
            counts[MISSING] += 1
            report.say(f"missing: {place}")
    except IndexUnavailable as error:
        problem = str(error)
    if problem:
        report.say(f"what is missing cannot be told: {problem}")


def _open_index(archive: Archive) -> str:
    """Open the index; return why it cannot be asked, '' when it can."""
    try:
        archive.index.open(archive.store.archive_id)
    except IndexUnavailable as error:
        return str(error)
    return ""


def find(archive: Archive, uids: Iterable[str]) -> list[StoredInstance]:
    """Return the current instances that UIDs mean, see `exporting.find`."""
    from angiovault.archive.exchange import exporting  # see take_in

    return exporting.find(archive, uids)
