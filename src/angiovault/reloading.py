"""Asking a running service to read its settings again, and what it says to that: what both sides have to know.

The service says it in its health file under `settings`: with which settings it runs, and what came of the last reading.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

PORT_TAKEN: Final = "port-taken"
PORT_PRIVILEGED: Final = "port-privileged"
ADDRESS: Final = "address"
PORT: Final = "port"
TLS: Final = "tls"
FILE: Final = "file"

_CAUGHT: Final = "SigCgt:"


@dataclass(frozen=True, slots=True)
class Loading:
    """What came of reading the settings, at the start or later.

    Attributes
    ----------
    serial : int
        How many times the process has read them; 0 when it does not say.
    fingerprint : str
        Which settings are in force (`config.fingerprint`).
    problem : Mapping[str, Any]
        Why nothing was changed: `kind` (one of this module's words), `text` in English, and `address` and `port` where
        they are what cannot be had; empty when there was no problem.
    restart : tuple[str, ...]
        Settings that have changed and need a new start; nothing is changed before it.
    """

    serial: int = 0
    fingerprint: str = ""
    problem: Mapping[str, Any] = field(default_factory=dict)
    restart: tuple[str, ...] = ()

    @classmethod
    def of(cls, health: Mapping[str, Any]) -> Self:
        """Return what a health file's content says."""
        said = health.get("settings")
        if not isinstance(said, dict):
            return cls()
        return cls(
            int(said.get("serial", 0)),
            str(said.get("fingerprint", "")),
            dict(said.get("problem", {})),
            tuple(said.get("restart", ())),
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as the health file has it."""
        return {**asdict(self), "restart": list(self.restart)}


def is_news(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the settings were read since `before`, by the same process or another one.

    Parameters
    ----------
    before, now : Mapping
        The health file's content then and now, empty when no service ran.
    """
    if not now:
        return False
    return now.get("pid") != before.get("pid") or Loading.of(now).serial > Loading.of(before).serial


def ask(pid: int) -> bool:
    """Ask a service to read its settings again; return whether it can be asked.

    A process that does not catch SIGHUP would be ended by it: one that is only starting, or an older version.

    Parameters
    ----------
    pid : int
        The process, 0 when none is known.
    """
    if not pid:
        return False
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        caught = next((int(line.split()[1], 16) for line in lines if line.startswith(_CAUGHT)), 0)
        if not caught & 1 << (signal.SIGHUP - 1):
            return False
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError, IndexError):  # it has ended, or is not ours
        return False
    return True
