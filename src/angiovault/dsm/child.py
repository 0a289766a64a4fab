"""What the supervisor starts: `angiovault` in a process that dies with the supervisor.

It asks for that itself, when its program is already running: the kernel forgets the wish when a program with file
capabilities is executed (prctl(2), PR_SET_PDEATHSIG), and such one is Python on a NAS that serves port 104.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process `parent`, ends; exit if it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)


def main(arguments: Sequence[str]) -> int:
    """Run the command line after the parent's pid."""
    die_with(int(arguments[0]))
    from angiovault.cli import main as angiovault

    return angiovault(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
