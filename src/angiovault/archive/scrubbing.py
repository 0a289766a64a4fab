"""The scheduled check: every stored file is read again within some days, gently, to find rot before it is needed."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any, Final

from angiovault.archive.archive import Archive
from angiovault.archive.store import StorageError, as_storage_error
from angiovault.archive.verifying import Pace, check_file

log = logging.getLogger(__name__)

_DAY: Final = 86400
_LOOK_EVERY: Final = 3600.0
_SAVE_EVERY: Final = 60.0


class Scrubber:
    """Checks all files once in `every_days` days, at most `rate` MB/s; goes on after a restart where it was.

    Parameters
    ----------
    archive : Archive
        The archive.
    every_days : int
        Days from the beginning of one round to that of the next; 0 switches it off.
    rate : float
        MB/s.
    """

    def __init__(self, archive: Archive, every_days: int, rate: float) -> None:
        self._archive = archive
        self._every = every_days * _DAY
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduled check", daemon=True)

    def start(self) -> None:
        """Begin, unless it is switched off."""
        if self._every:
            self._thread.start()

    def stop(self) -> None:
        """Stop at the next file."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY if self._is_done() else 1.0):
            try:
                self._archive.check()
                self._round()
            except StorageError as error:
                log.debug("the scheduled check waits: %s", error)
                self._stop.wait(_LOOK_EVERY)
            except Exception:
                log.exception("the scheduled check failed, next try in an hour")
                self._stop.wait(_LOOK_EVERY)

    def _is_done(self) -> bool:
        try:
            state = self.read_state(self._archive)
        except StorageError:
            return False
        return bool(state.get("finished")) and time.time() - state["began"] < self._every

    def _round(self) -> None:
        """Check the files after the one that was checked last."""
        if self._is_done():
            return
        state = self.read_state(self._archive)
        if not state or state.get("finished"):
            state = {"began": time.time(), "after": "", "files": 0, "damaged": [], "finished": 0}
        pace = Pace(self._rate)
        saved = time.monotonic()
        after, passed = state["after"], not state["after"]
        for place in self._archive.store.instance_files():
            if self._stop.is_set():
                break
            if not passed:
                passed = str(place) == after
                continue
            finding = check_file(self._archive.store, place, pace)
            if finding.problem:
                log.error("scheduled check: %s is damaged: %s", place, finding.problem)
                state["damaged"] = [*state["damaged"], str(place)][:100]
            state.update(after=str(place), files=state["files"] + 1)
            if time.monotonic() - saved > _SAVE_EVERY:
                self._save(state)
                saved = time.monotonic()
        else:
            # A file that was checked last and is gone since means that the round has to begin anew.
            state.update({"finished": time.time()} if passed else {"after": ""})
            log.info("scheduled check: %d files read, %d damaged", state["files"], len(state["damaged"]))
        self._save(state)

    @staticmethod
    def read_state(archive: Archive) -> dict[str, Any]:
        """Return the state of the round: began, finished (seconds since the epoch, 0 when not), files, damaged."""
        with as_storage_error("cannot read the state of the scheduled check"):
            try:
                text = (archive.store.private / "check.json").read_text(encoding="utf-8")
            except FileNotFoundError:
                return {}
        try:
            state = json.loads(text)
        except ValueError:
            return {}
        return state if isinstance(state, dict) else {}

    def _save(self, state: dict[str, Any]) -> None:
        with as_storage_error("cannot save the state of the scheduled check"):
            temporary = self._archive.store.private / "check.json.new"
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.rename(self._archive.store.private / "check.json")
