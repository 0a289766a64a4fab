"""Which process is the supervisor, and what it says of itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from angiovault import jsonfile
from angiovault.dsm.paths import Nas
from angiovault.processes import identity, pid_of
from angiovault.reloading import Loading, is_news

STOPPED: Final = "stopped"
_RELOAD_SECONDS: Final = 30.0


def hold(nas: Nas) -> int | None:
    """Take the place of the one supervisor; return what holds it until this process ends, None when it is taken.

    Raises
    ------
    OSError
        When the lock cannot be made.
    """
    descriptor = os.open(nas.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def write_pid(nas: Nas) -> None:
    """Say that this process is the supervisor: its pid, start time and boot, so that no other is mistaken for it."""
    temporary = nas.pid.with_name(f".{nas.pid.name}.{os.getpid()}")
    temporary.write_text(identity(os.getpid()) + "\n", encoding="ascii")
    temporary.replace(nas.pid)


def forget(nas: Nas) -> None:
    """Take back what this process said of itself.

    The file with its pid stays: the stop script waits until the process has really ended, and removes it then.
    """
    nas.state.unlink(missing_ok=True)


def supervisor(nas: Nas) -> int:
    """Return the pid of the running supervisor, 0 when there is none."""
    try:
        return pid_of(nas.pid.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError):  # no such file, or none of ours
        return 0


def state(nas: Nas) -> dict[str, Any]:
    """Return what the running supervisor says of itself; only ``state`` ("stopped") when none runs."""
    pid = supervisor(nas)
    said = jsonfile.read(nas.state)
    if not pid:
        return {"state": STOPPED}
    return said if said.get("pid") == pid else {"state": "starting", "pid": pid}


def health(nas: Nas) -> dict[str, Any]:
    """Return what the running service says of itself, an empty dictionary when none does."""
    return jsonfile.read_of_running(nas.health) if supervisor(nas) else {}


def reload(nas: Nas) -> bool:
    """Have the settings taken up as they are now, and wait until it is decided how.

    The service that runs takes them up without ending, or refuses them, and says so in its health file; or it is on its
    way to a new start.

    Returns
    -------
    bool
        Whether there is a supervisor.
    """
    before = health(nas)

    def is_decided() -> bool:
        now = health(nas)
        return is_news(before, now) and not Loading.of(now).restart

    return _tell(nas, signal.SIGHUP, is_decided)


def restart(nas: Nas) -> bool:
    """Have the supervisor start the service anew, and wait until the old one is gone.

    Returns
    -------
    bool
        Whether there is a supervisor.
    """
    return _tell(nas, signal.SIGUSR1, lambda: False)


def _tell(nas: Nas, number: signal.Signals, is_decided: Callable[[], bool]) -> bool:
    """Send the supervisor a signal; wait until the service is gone, or what was asked for is decided without that."""
    said = state(nas)
    pid, service = said.get("pid"), said.get("service")
    if not pid:
        return False
    with contextlib.suppress(ProcessLookupError):  # it has ended in this moment
        os.kill(pid, number)
    deadline = time.monotonic() + _RELOAD_SECONDS
    while service and state(nas).get("service") == service and not is_decided() and time.monotonic() < deadline:
        time.sleep(0.1)
    return True
