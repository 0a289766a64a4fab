"""How many connections the process may have: each takes several of the files that it may open (getrlimit(2))."""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger(__name__)

_FEWEST_NEWCOMERS: Final = 100
_OWN_FILES: Final = 64
_FILES_PER_ASSOCIATION: Final = 8
"""Its socket, the instance's file and folder, and what a database connection takes."""


def make_room_for(wanted: int) -> tuple[int, int]:
    """Return how many associations, and connections without one, the limit of open files allows.

    The limit is raised as far as needed and permitted.

    Parameters
    ----------
    wanted : int
        Associations that are to be served at the same time.
    """
    newcomers = max(_FEWEST_NEWCOMERS, wanted)
    needed = _OWN_FILES + wanted * _FILES_PER_ASSOCIATION + newcomers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted, newcomers
    most = max(1, min(wanted, (soft - _OWN_FILES) // (_FILES_PER_ASSOCIATION + 1)))
    log.warning("%d associations at a time instead of %d: this process may open only %d files", most, wanted, soft)
    return most, most
