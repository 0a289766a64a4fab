"""The end of files that are taken over: many together, for the disk makes whoever removes a file wait for its syncs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

State = tuple[int, int, int, int]
"""Device, number, size in bytes and time of modification in ns: by what a file is known to be the same, unchanged."""


class Removal(NamedTuple):
    """A source file that is in the archive, and to be removed.

    Attributes
    ----------
    source : str
        The file.
    state : State
        What it was when it was read.
    placed : str
        The file of the archive that holds its data set.
    """

    source: str
    state: State
    placed: str


def state_of(found: os.stat_result) -> State:
    """Return the state of a file."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def remove_sources(removals: Sequence[Removal]) -> list[str]:
    """Remove source files, and return for each why it was left where it was, '' when it is gone."""
    return [_remove(removal) for removal in removals]


def _remove(removal: Removal) -> str:
    try:
        placed = os.stat(removal.placed)
        try:
            found = os.lstat(removal.source)
        except FileNotFoundError:  # as it is to be
            return ""
        if state_of(found) != removal.state:
            return "it was changed meanwhile"
        if os.path.samestat(found, placed):
            return "it is the archive's own file"
        os.unlink(removal.source)  # noqa: PTH108 (thousands a second, and a Path for each takes as long)
    except OSError as error:
        return error.strerror or str(error)
    return ""
