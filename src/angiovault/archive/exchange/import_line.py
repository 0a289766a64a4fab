"""The sources of an import on their way into the archive, from being read to what became of them."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault.archive.adding import Entry
from angiovault.archive.archive import LOST, SET_ASIDE, Archive, Receipt, Reception
from angiovault.archive.exchange.import_sources import FAILED, Source
from angiovault.archive.exchange.imported_before import ImportedBefore
from angiovault.archive.exchange.small_files import Order, Written
from angiovault.archive.header import Header

log = logging.getLogger(__name__)

TOGETHER: Final = 48
_BYTES_TOGETHER: Final = 32 << 20


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
class State:
    """By what a file is known to be the same and unchanged."""

    device: int
    number: int
    size: int
    modified: int

    @classmethod
    def of(cls, found: os.stat_result) -> State:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


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

    def __init__(self, archive: Archive, before: ImportedBefore) -> None:
        self._archive = archive
        self._before = before
        self._read: list[Read | Imported] = []
        self._kept: deque[tuple[Taken, Receipt] | Imported] = deque()

    def add(self, item: Read | Imported) -> None:
        """Join the line."""
        self._read.append(item)
        sizes = [one.reception.size for one in self._read if isinstance(one, Read)]
        if len(self._read) >= TOGETHER or sum(sizes) >= _BYTES_TOGETHER:
            self.keep()

    def take(self, source: Source, taking_over: bool, order: Order, written: Written) -> None:
        """Join the line with a small file that is durable already.

        Raises
        ------
        StorageError
            When it cannot, or not all that came before it can be made durable.
        """
        if self._read:  # they have their turns, and nothing behind them is settled before
            self.keep()
        header = Header(*written.header)
        entry = Entry(header, written.digest, written.size, PurePosixPath(written.place), order.received, "")
        receipt = self._archive.take_written(Path(order.target), entry)
        taken = Taken(header.sop_instance_uid, source, State(*written.state), taking_over)
        self._kept.append((taken, receipt))

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

    def results(self, but: int = 0) -> Iterator[Imported]:
        """Yield what became of those who are durable, but not of the last few, which may still be being settled."""
        while len(self._kept) > but:
            item = self._kept.popleft()
            yield item if isinstance(item, Imported) else self._result(*item)

    def _result(self, taken: Taken, receipt: Receipt) -> Imported:
        source, outcome, reason = taken.source, receipt.outcome, ""
        if outcome == SET_ASIDE:
            return Imported(source.name, FAILED, f"in the archive, but the index does not take it: {receipt.place}")
        if outcome == LOST:
            return Imported(source.name, FAILED, "somebody else removed it from the archive's incoming folder")
        if taken.taking_over:
            reason = _remove(self._archive, source.path, taken.state, receipt)
        else:
            self._before.add(source.key, taken.state.size, taken.state.modified, receipt.place)
        return Imported(source.name, outcome, reason, receipt.size)


def _remove(archive: Archive, path: Path, state: State, receipt: Receipt) -> str:
    """Remove a source file that is in the archive; return why it was left instead, '' when it is gone."""
    reason = ""
    try:
        found = path.lstat()
        placed = archive.store.path(receipt.place).stat()
        if State.of(found) != state:
            reason = "it was changed meanwhile"
        elif os.path.samestat(found, placed):
            reason = "it is the archive's own file"
        else:
            path.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        reason = f"in the archive, but not removed: {reason}"
        log.warning("%s: %s", path, reason)
    return reason
