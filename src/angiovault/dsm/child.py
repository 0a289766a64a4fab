"""What the supervisor starts: `angiovault` in a process that dies with the supervisor.

It asks for that itself, when its program is already running: the kernel forgets the wish when a program with file
capabilities is executed (prctl(2), PR_SET_PDEATHSIG), and such one is Python on a NAS that serves port 104.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from angiovault.processes import die_with


def main(arguments: Sequence[str]) -> int:
    """Run the command line after the parent's pid."""
    die_with(int(arguments[0]))
    from angiovault.cli import main as angiovault

    return angiovault(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
