"""Which version of an instance an administrator chose to be current: kept beside the files, as the index may be lost."""

from __future__ import annotations

import os

from angiovault.archive.store import Store, as_storage_error, fsync_directory


class Choices:
    """An append-only list of lines "SOP Instance UID, content"; the last line about a UID counts."""

    def __init__(self, store: Store) -> None:
        self._path = store.private / "choices"

    def all(self) -> dict[str, str]:
        """Return SOP Instance UID -> content of the chosen version."""
        with as_storage_error("cannot read the choices between versions"):
            try:
                lines = self._path.read_text(encoding="ascii", errors="replace").splitlines()
            except FileNotFoundError:
                return {}
        pairs = (line.split() for line in lines)
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def add(self, uid: str, content: str) -> None:
        """Remember a choice durably."""
        with as_storage_error("cannot keep a choice between versions"):
            with self._path.open("a", encoding="ascii") as file:
                file.write(f"{uid} {content}\n")
                file.flush()
                os.fsync(file.fileno())
            fsync_directory(self._path.parent)
