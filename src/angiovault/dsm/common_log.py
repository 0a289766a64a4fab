"""The one log of supervisor and service: the standard output and error of both."""

from __future__ import annotations

import os
import sys
from typing import Final

from angiovault import logs
from angiovault.dsm.paths import Nas

_TAIL: Final = 8192


def write_to(nas: Nas) -> None:
    """Make the log our standard output and error: appended to, it may be truncated."""
    log_file = os.open(nas.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for descriptor, standard in ((null, 0), (log_file, 1), (log_file, 2)):
        os.dup2(descriptor, standard)
    os.close(log_file)
    os.close(null)
    logs.set_up()


def is_in_place(nas: Nas) -> bool:
    """Return whether the log still is the file that we write to, and the service too."""
    try:
        return os.path.samestat(nas.log.stat(), os.fstat(sys.stdout.fileno()))
    except OSError:
        return False


def size() -> int:
    """Return the bytes in the log."""
    return os.fstat(sys.stdout.fileno()).st_size


def last_words(nas: Nas, since: int) -> str:
    """Return why the service has ended, as its last line in the log says; '' when it does not.

    Parameters
    ----------
    nas : Nas
        The NAS.
    since : int
        The `size` of the log when the service was started.
    """
    try:
        with nas.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = since if since <= end else 0  # truncated by the rotation
            file.seek(max(begin, end - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:  # somebody has removed it
        return ""
    said = [line.removeprefix("angiovault: ") for line in lines if line.startswith("angiovault: ")]
    return logs.escape(said[-1]) if said else ""
