"""Which process is which, and processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def is_running(pid: str) -> bool:
    """Return whether there is a process of this number, written out, that has not ended."""
    try:
        _fields(pid)
    except OSError:
        return False
    return True


def _fields(pid: str) -> list[str]:
    """Return what /proc/PID/stat says behind the command's name (proc(5)).

    Raises
    ------
    OSError
        When there is no such process.
    """
    # The command's name, in parentheses, may itself hold blanks and parentheses.
    fields = Path("/proc", pid, "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    if fields[0] in "ZX":  # it has ended, and waits for its parent to notice
        raise ProcessLookupError(pid)
    return fields


def identity(pid: int) -> str:
    """Return a line that names a process as no other will ever be named: its pid, start time and boot (proc(5)).

    Raises
    ------
    OSError
        When there is no such process.
    """
    start_time = _fields(str(pid))[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{pid} {start_time} {boot}"


def pid_of(line: str) -> int:
    """Return the pid of the process that a line of `identity` names, 0 when it does not run any more."""
    try:
        pid = int(line.split()[0])
        return pid if identity(pid) == line else 0
    except (OSError, ValueError, IndexError):  # no such process, or no line of ours
        return 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; exit if the parent, the process `parent`, has ended.

    "Its parent" is the very thread that started it (prctl(2), PR_SET_PDEATHSIG).

    Raises
    ------
    OSError
        When the kernel does not do that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)
