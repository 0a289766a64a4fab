"""Notifications on DSM's desktop: each problem that lasts is told once, and no kind of problem twice a day."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from angiovault import jsonfile
from angiovault.dsm.paths import PACKAGE, Nas
from angiovault.dsm.texts import Text, language_of

log = logging.getLogger(__name__)

KINDS: Final = ("disk", "storage", "database", "commitment")
"""What is told; the texts' keys in ``ui/texts`` are made of these words."""

_APP: Final = "com.angiovault.panel"
"""The app of ``ui/config`` that the notification opens on DSM 7."""
_WHO: Final = "@administrators"
_LASTS: Final = 60.0
_AGAIN: Final = 86400.0
_RETRY: Final = 600.0
_MOST_SECONDS: Final = 15.0
_LONGEST_REASON: Final = 400


def command(nas: Nas, kind: str, reason: str) -> list[str]:
    """Return the command line that tells of a problem, as this DSM wants it."""
    reason = " ".join(reason.split())[:_LONGEST_REASON]
    if nas.generation >= 7:
        keys = [f"{PACKAGE}:notify:{kind}_{part}" for part in ("title", "text")]
        return [str(nas.notify_program), "-c", _APP, _WHO, *keys, reason]
    language = language_of(nas.language)
    texts = [Text(f"notify_{kind}_title"), Text(f"notify_{kind}_text", reason=reason)]
    return [str(nas.notify_program), _WHO, *(text.in_language(language) for text in texts)]


class Notifier:
    """Tells DSM; never waits for it.

    Parameters
    ----------
    nas : Nas
        The NAS.
    clock, today : Callable
        Seconds that never go back, and seconds since the epoch.
    """

    def __init__(
        self, nas: Nas, clock: Callable[[], float] = time.monotonic, today: Callable[[], float] = time.time
    ) -> None:
        self._nas = nas
        self._clock = clock
        self._today = today
        self._since: dict[str, float] = {}
        self._told: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._running: list[tuple[subprocess.Popen[bytes], float]] = []

    def update(self, problems: Mapping[str, str]) -> None:
        """Take note of the problems there are now, by kind, and tell of those that have lasted."""
        self._clear_up()
        for kind in KINDS:
            if kind not in problems:
                self._since.pop(kind, None)
                self._told.discard(kind)
                continue
            since = self._since.setdefault(kind, self._clock())
            if kind in self._told or self._clock() < max(since + _LASTS, self._not_before.get(kind, since)):
                continue
            if self._tell(kind, problems[kind]):
                self._told.add(kind)
            else:
                self._not_before[kind] = self._clock() + _RETRY

    def _tell(self, kind: str, reason: str) -> bool:
        """Tell of a problem; return whether it was told: not when it was less than a day ago."""
        # Kept in a file: what is started again and again must not tell again and again.
        last = jsonfile.read(self._nas.notified)
        if isinstance(last.get(kind), int | float) and 0 <= self._today() - last[kind] < _AGAIN:
            return False
        try:
            jsonfile.write(self._nas.notified, {**last, kind: self._today()})
            self._start(command(self._nas, kind, reason))
        except OSError as error:
            log.warning("DSM cannot be told of a problem (%s): %s", kind, error)
            return False
        return True

    def _start(self, arguments: Sequence[str]) -> None:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)  # noqa: S603 - DSM's own program, no shell
        self._running.append((process, self._clock()))

    def _clear_up(self) -> None:
        """Look after what was started: say what went wrong, end what hangs."""
        for item in list(self._running):
            process, since = item
            code = process.poll()
            if code is None and self._clock() - since < _MOST_SECONDS:
                continue
            if code is None:
                process.kill()
                code = process.wait()
            if code != 0:
                log.warning("DSM was not told of a problem: %s ended with %d", process.args, code)
            self._running.remove(item)
