"""Which version of an instance is current by choice rather than by order of receipt; kept with the files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from angiovault.archive.durable import append_line, locked
from angiovault.archive.store import Store, as_storage_error

_NONE: Final = "none"


class Choices:
    """An append-only list of lines "SOP Instance UID, content"; the last line about a UID counts."""

    def __init__(self, store: Store) -> None:
        self._path = store.private / "choices"
        self._lock = store.private / "choices.lock"

    def all(self) -> dict[str, str]:
        """Return SOP Instance UID -> content of the chosen version.

        Raises
        ------
        StorageError
            When they cannot be read.
        """
        with as_storage_error("cannot read the choices between versions"):
            try:
                lines = self._path.read_text(encoding="ascii", errors="replace").splitlines()
            except FileNotFoundError:
                return {}
        pairs = (line.split() for line in lines)
        chosen = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        return {uid: content for uid, content in chosen.items() if content != _NONE}

    def add(self, uid: str, content: str) -> None:
        """Remember a choice durably.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        with as_storage_error("cannot keep a choice between versions"), locked(self._lock):
            append_line(self._path, f"{uid} {content}")

    def forget(self, uids: Iterable[str]) -> None:
        """Forget the choices about instances durably: the order of receipt counts again.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        lines = [f"{uid} {_NONE}" for uid in uids]
        if lines:
            with as_storage_error("cannot forget a choice between versions"), locked(self._lock):
                append_line(self._path, "\n".join(lines))
