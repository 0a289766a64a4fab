"""The journal: paths of instances that were acknowledged while the index was away, each line synced before its yes."""

from __future__ import annotations

import os
import threading
from pathlib import Path, PurePosixPath

from angiovault.archive.store import as_storage_error, fsync_directory


class Journal:
    """An append-only list of paths relative to the storage root.

    Parameters
    ----------
    path : Path
        The journal file; it is made by the first `append`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, place: PurePosixPath) -> None:
        """Add a path durably.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        with self._lock, as_storage_error("cannot write the journal"):
            new = not self.path.exists()
            # A line cut short by a crash was never acknowledged: begin on a line of our own.
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                os.write(descriptor, (b"\n" if torn else b"") + str(place).encode() + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                fsync_directory(self.path.parent)

    def entries(self) -> list[PurePosixPath]:
        """Return the paths that wait, oldest first."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [PurePosixPath(line) for line in dict.fromkeys(text.splitlines()) if line]

    def remove(self, done: set[PurePosixPath]) -> None:
        """Take out the paths that the index has now; what was appended meanwhile stays."""
        with self._lock, as_storage_error("cannot rewrite the journal"):
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
