"""Work that takes longer than an answer may: started by one request, asked about by others."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from angiovault.panel.web import Refused, said

log = logging.getLogger(__name__)

_MOST: Final = 16
_ANSWER_WITHIN: Final = 4.0
"""Seconds that a question waits for the end; `ui/index.cgi` gives up on an answer after ten."""


class _Task:
    def __init__(self, work: Callable[[], Mapping[str, Any]]) -> None:
        self.result: Mapping[str, Any] | None = None
        self._work = work
        self.thread = threading.Thread(target=self._run, name="panel-task", daemon=True)

    def _run(self) -> None:
        try:
            self.result = self._work()
        except Exception:
            log.exception("a task of the panel failed")
            self.result = {"failed": said("refused.failed")}


class Tasks:
    """The tasks of this process; of those that have ended the latest are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}

    def start(self, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Start work in the background and return the answer that names it.

        Raises
        ------
        Refused
            When too much is going on already.
        """
        task = _Task(work)
        with self._lock:
            ended = [number for number, known in self._tasks.items() if known.result is not None]
            if len(self._tasks) - len(ended) >= _MOST:
                raise Refused(409, "refused.busy")
            for number in ended[: max(0, len(self._tasks) - _MOST + 1)]:
                del self._tasks[number]
            number = secrets.token_hex(8)
            self._tasks[number] = task
        task.thread.start()
        return {"task": number}

    @property
    def busy(self) -> bool:
        """Whether a task has not ended."""
        with self._lock:
            return any(task.result is None for task in self._tasks.values())

    def look(self, number: str) -> dict[str, Any]:
        """Return the result of a task, or that it has none yet.

        Raises
        ------
        Refused
            When there is no such task.
        """
        with self._lock:
            task = self._tasks.get(number)
        if task is None:
            raise Refused(404, "refused.not-found")
        task.thread.join(_ANSWER_WITHIN)
        return {"done": task.result is not None, "result": task.result}
