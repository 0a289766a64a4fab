"""The sources of an import on their way into the archive, from being read to what became of them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault.archive.adding import Entry
from angiovault.archive.archive import LOST, SET_ASIDE, Archive, Receipt, Reception
from angiovault.archive.exchange.helpers import Helpers, Task
from angiovault.archive.exchange.import_sources import FAILED, Source
from angiovault.archive.exchange.imported_before import ImportedBefore
from angiovault.archive.exchange.small_files import Written
from angiovault.archive.exchange.taking_over import Removal, State, remove_sources
from angiovault.archive.header import Header

log = logging.getLogger(__name__)

TOGETHER: Final = 64
"""As many as are settled together, see `settling`, so that one batch is settled while the next is read."""
_BYTES_TOGETHER: Final = 32 << 20
_LAG: Final = TOGETHER
"""Instances whose outcome is not asked for yet: they are settled, many together, while the next are read."""
_REMOVED_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one source.

    Attributes
    ----------
    source : str
        The file, or file and member of a ZIP.
    outcome : str
        ``stored``, ``duplicate`` or ``conflict`` as in a `Receipt`; ``done before`` when an earlier import took the
        unchanged file; ``skipped`` for what is no instance; ``failed``.
    reason : str
        Why it was skipped or failed, or why a file to be taken over was left where it was.
    size : int
        Bytes of the data set that was taken in.
    """

    source: str
    outcome: str
    reason: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A source on its way."""

    uid: str
    source: Source
    state: State
    taking_over: bool


@dataclass(frozen=True, slots=True)
class Read:
    """A source that has been read whole, and is not durable yet."""

    taken: Taken
    reception: Reception


class Line:
    """Sources on their way: first read, then made durable many together, then settled while the next are read.

    One after the other would cost a sync and a commit of the index for each.
    """

    def __init__(self, archive: Archive, before: ImportedBefore, helpers: Helpers, watch: Callable[[], None]) -> None:
        self._archive = archive
        self._before = before
        self._helpers = helpers
        self._watch = watch
        self._read: list[Read | Imported] = []
        self._kept: deque[tuple[Taken, Receipt] | Imported] = deque()
        self._settled: deque[tuple[list[tuple[Imported, bool]], Task[Removal, str]]] = deque()

    def add(self, item: Read | Imported) -> None:
        """Join the line."""
        self._read.append(item)
        sizes = [one.reception.size for one in self._read if isinstance(one, Read)]
        if len(self._read) >= TOGETHER or sum(sizes) >= _BYTES_TOGETHER:
            self.keep()

    def take(self, source: Source, taking_over: bool, path: Path, written: Written, folder_is_ready: bool) -> None:
        """Join the line with a small file that is durable already, when all before it is; see `Archive.take_written`.

        Raises
        ------
        StorageError
            When it cannot.
        """
        assert not self._read, "what came before has its turns, and nothing behind it is settled before"
        header = Header(*written.header)
        place = PurePosixPath(written.place)
        entry = Entry(header, written.digest, written.size, place, written.received, "", written.head)
        receipt = self._archive.take_written(path, entry, folder_is_ready)
        self._kept.append((Taken(header.sop_instance_uid, source, written.state, taking_over), receipt))

    def has(self, sop_instance_uid: str) -> bool:
        """Return whether an instance is on its way."""
        kept = (item[0] for item in self._kept if isinstance(item, tuple))
        read = (item.taken for item in self._read if isinstance(item, Read))
        return any(item.uid == sop_instance_uid for item in (*kept, *read))

    def keep(self) -> None:
        """Make durable what has been read.

        Raises
        ------
        StorageError
            When that cannot be done; what came before it in the line is durable.
        """
        try:
            for item in self._read:
                if isinstance(item, Imported):
                    self._kept.append(item)
                else:
                    with item.reception:
                        self._kept.append((item.taken, item.reception.keep()))
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is not durable."""
        for item in self._read:
            if isinstance(item, Read):
                item.reception.close()
        self._read.clear()

    def results(self, all_of_them: bool = False) -> Iterator[Imported]:
        """Yield what became of those who are settled, or of all who are durable.

        The last are left in the line otherwise: they may still be being settled, and the sources of others removed.
        """
        yield from self._finished(all_of_them)
        while len(self._kept) >= (1 if all_of_them else _LAG + TOGETHER):
            self._settle(min(len(self._kept), TOGETHER))
            yield from self._finished(all_of_them)

    def _finished(self, all_of_them: bool) -> Iterator[Imported]:
        """Yield what became of those who are settled and whose sources, if they are to be, are removed."""
        while self._settled:
            results, task = self._settled[0]
            if task.results is None and not all_of_them and len(self._settled) <= _REMOVED_AT_ONCE:
                break
            self._settled.popleft()
            reasons = iter(self._helpers.finish(task, self._watch))
            for result, is_removed in results:
                reason = next(reasons) if is_removed else ""
                if reason:
                    log.warning("%s: in the archive, but not removed: %s", result.source, reason)
                    result = replace(result, reason=f"in the archive, but not removed: {reason}")
                yield result

    def _settle(self, count: int) -> None:
        """Wait until the first are settled, note what became of them, and let their sources be removed.

        Raises
        ------
        StorageError
            When one cannot be settled now; those before it are noted.
        """
        results: list[tuple[Imported, bool]] = []
        removals: list[Removal] = []
        try:
            for _ in range(count):
                item = self._kept[0]
                if isinstance(item, Imported):
                    results.append((item, False))
                else:
                    taken, receipt = item
                    result = self._result(taken, receipt)
                    is_removed = taken.taking_over and result.outcome != FAILED
                    if is_removed:
                        placed = self._archive.store.path(receipt.place)
                        removals.append(Removal(str(taken.source.path), taken.state, str(placed)))
                    results.append((result, is_removed))
                self._kept.popleft()
        finally:
            self._settled.append((results, self._helpers.give(remove_sources, removals)))

    def _result(self, taken: Taken, receipt: Receipt) -> Imported:
        source, outcome = taken.source, receipt.outcome
        if outcome == SET_ASIDE:
            return Imported(source.name, FAILED, f"in the archive, but the index does not take it: {receipt.place}")
        if outcome == LOST:
            return Imported(source.name, FAILED, "somebody else removed it from the archive's incoming folder")
        if not taken.taking_over:
            _, _, size, modified = taken.state
            self._before.add(source.key, size, modified, receipt.place)
        return Imported(source.name, outcome, "", receipt.size)
