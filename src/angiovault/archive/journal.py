"""Lists of paths of acknowledged instances that the index may not have; each line is synced before its yes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault.archive.durable import append_line, fsync_directory, locked
from angiovault.archive.store import as_storage_error

_REMEMBERED: Final = 600.0


class Journal:
    """A list of paths relative to the storage root; several threads and processes may write to it.

    Parameters
    ----------
    path : Path
        The file; it is there only while something is in the list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(path.name + ".lock")

    def append(self, *places: PurePosixPath) -> None:
        """Add paths durably, all or none.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        with as_storage_error("cannot write the journal"), locked(self._lock):
            append_line(self.path, "\n".join(map(str, places)))

    def waiting(self) -> bool:
        """Return whether there is anything in the list."""
        return self.path.exists()

    def entries(self) -> list[PurePosixPath]:
        """Return the paths, oldest first.

        Raises
        ------
        StorageError
            When they cannot be read.
        """
        with as_storage_error("cannot read the journal"):
            try:
                text = self.path.read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                return []
        return [PurePosixPath(line) for line in dict.fromkeys(text.split("\n")) if line]

    def remove(self, done: set[PurePosixPath]) -> None:
        """Take out paths; what was appended meanwhile stays.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        with as_storage_error("cannot rewrite the journal"), locked(self._lock):
            left = [place for place in self.entries() if place not in done]
            if not left:
                self.path.unlink(missing_ok=True)
            else:
                temporary = self.path.with_suffix(".new")
                with temporary.open("w", encoding="utf-8") as file:
                    file.writelines(f"{place}\n" for place in left)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(self.path)
            fsync_directory(self.path.parent)

    def take(self, other: Journal) -> None:
        """Add the entries of another list, which is empty afterwards.

        Raises
        ------
        StorageError
            When it cannot be done.
        """
        places = other.entries()
        if places:
            self.append(*places)
            other.remove(set(places))

    def replace(self, other: Journal, age: float) -> None:
        """Put this list in the place of another, whose entries are forgotten, unless that is younger than `age`.

        Parameters
        ----------
        other : Journal
            The other list.
        age : float
            Seconds.

        Raises
        ------
        StorageError
            When it cannot be done.
        """
        with as_storage_error("cannot put a journal away"), locked(self._lock):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - other.path.stat().st_ctime < age:  # another process has just done it
                    return
            if self.path.exists():
                self.path.rename(other.path)
                fsync_directory(self.path.parent)


class Journals:
    """The lists of one archive.

    Attributes
    ----------
    waiting : Journal
        Came while the index was away; nobody is answered from the index until it has them.
    aside : Journal
        Waited, but cannot be indexed.
    """

    def __init__(self, folder: Path) -> None:
        self.waiting = Journal(folder / "journal")
        self.aside = Journal(folder / "journal-aside")
        self._recent = Journal(folder / "journal-recent")
        self._earlier = Journal(folder / "journal-earlier")
        self._moved = time.monotonic()

    def note_recent(self, *places: PurePosixPath) -> None:
        """Remember instances for a database that does not sync its commits, and may lose the last ones in a crash.

        They are remembered for ten minutes at least; such a database writes its log every second or so.

        Raises
        ------
        StorageError
            When that cannot be done.
        """
        if time.monotonic() - self._moved > _REMEMBERED:
            self._recent.replace(self._earlier, _REMEMBERED)
            self._moved = time.monotonic()
        self._recent.append(*places)

    def recall_recent(self) -> None:
        """Let what was remembered wait, since the database may have lost it.

        Raises
        ------
        StorageError
            When the lists cannot be written.
        """
        self.waiting.take(self._earlier)
        self.waiting.take(self._recent)

    def recall_aside(self) -> None:
        """Let what was put aside wait once more.

        Raises
        ------
        StorageError
            When the lists cannot be written.
        """
        self.waiting.take(self.aside)

    def forget(self, places: set[PurePosixPath]) -> None:
        """Take paths out of all lists: what lay there was deleted.

        Raises
        ------
        StorageError
            When the lists cannot be written.
        """
        for journal in (self.waiting, self.aside, self._recent, self._earlier):
            if not places.isdisjoint(journal.entries()):
                journal.remove(places)
