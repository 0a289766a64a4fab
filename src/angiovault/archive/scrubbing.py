"""The scheduled check: every stored file is read again within some days, gently, to find rot before it is needed."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final, TypedDict

from angiovault.archive.archive import Archive
from angiovault.archive.store import StorageError, as_storage_error
from angiovault.archive.verifying import Pace, check_file, is_there

log = logging.getLogger(__name__)

_DAY: Final = 86400
_LOOK_EVERY: Final = 3600.0
_RETRY_WHEN_AWAY: Final = 60.0
_SAVE_EVERY: Final = 60.0
_MOST_DAMAGED: Final = 100
_LOOK_FOR_QUIET: Final = 1.0
_LONGEST_WAIT: Final = 60.0
"""Seconds for which a file waits for quiet: a round has to end even where devices never pause."""


class _State(TypedDict, total=False):
    """How far a round is: times in seconds since the epoch (`finished` 0 when it is not), paths as text."""

    began: float
    after: str
    files: int
    damaged: list[str]
    finished: float


class Scrubber:
    """Checks all files once in `every_days` days, at most `rate` MB/s; goes on after a restart where it was.

    It lets devices go first: what it reads is taken from them in processor, disk and memory.

    Parameters
    ----------
    archive : Archive
        The archive.
    every_days : int
        Days from the beginning of one round to that of the next; 0 switches it off.
    rate : float
        MB/s.
    is_busy : Callable
        Whether devices are being served at this moment.
    """

    def __init__(self, archive: Archive, every_days: int, rate: float, is_busy: Callable[[], bool]) -> None:
        self._archive = archive
        self._is_busy = is_busy
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduled check", daemon=True)
        self.change(every_days, rate)

    def start(self) -> None:
        """Begin; while it is switched off it only waits."""
        self._woken.clear()
        self._thread.start()

    def change(self, every_days: int, rate: float) -> None:
        """Go on with another schedule and rate, from the next file on."""
        self._every, self._pace = every_days * _DAY, Pace(rate)
        self._woken.set()

    def stop(self) -> None:
        """Stop at the next file."""
        self._stop.set()
        self._woken.set()

    def _run(self) -> None:
        pause = 1.0
        while True:
            self._woken.wait(pause if self._every else None)
            self._woken.clear()
            if self._stop.is_set():
                return
            pause = _LOOK_EVERY
            try:
                self._archive.check()
                if self._is_due():
                    self._round()
            except StorageError as error:
                log.debug("the scheduled check waits: %s", error)
                pause = _RETRY_WHEN_AWAY
            except Exception:
                log.exception("the scheduled check failed, next try in an hour")

    def _is_due(self) -> bool:
        if not self._every:
            return False
        state = self.read_state(self._archive)
        return not state.get("finished") or time.time() - state["began"] >= self._every

    def _round(self) -> None:
        """Check the files after the one that was checked last; what was found damaged stays so until it is sound."""
        state = self.read_state(self._archive)
        if not state or state["finished"]:
            state = _State(began=time.time(), after="", files=0, damaged=state.get("damaged", []), finished=0)
        saved = time.monotonic()
        after, passed = state["after"], not state["after"]
        store = self._archive.store
        for place in store.instance_files():
            if passed:
                self._wait_for_quiet()
            if self._stop.is_set() or not self._every:
                break
            if not passed:
                passed = str(place) == after
                continue
            self._check(place, state)
            if time.monotonic() - saved > _SAVE_EVERY:
                self._save(state)
                saved = time.monotonic()
        else:
            # A file that was checked last and is gone since means that the round has to begin anew.
            state["finished"], state["after"] = (time.time(), state["after"]) if passed else (0, "")
            state["damaged"] = [text for text in state["damaged"] if store.path(PurePosixPath(text)).exists()]
            log.info("scheduled check: %d files read, %d damaged", state["files"], len(state["damaged"]))
        self._save(state)

    def _wait_for_quiet(self) -> None:
        until = time.monotonic() + _LONGEST_WAIT
        while self._is_busy() and time.monotonic() < until and not self._stop.wait(_LOOK_FOR_QUIET):
            pass

    def _check(self, place: PurePosixPath, state: _State) -> None:
        finding = check_file(self._archive.store, place, self._pace)
        state["damaged"] = [text for text in state["damaged"] if text != str(place)]
        if finding.problem:
            self._archive.check()  # not when the whole storage has gone away
        if finding.problem and is_there(self._archive.store, place):
            log.error("scheduled check: %s is damaged: %s", place, finding.problem)
            state["damaged"] = [*state["damaged"], str(place)][:_MOST_DAMAGED]
        state["after"] = str(place)
        state["files"] += 1

    @staticmethod
    def read_state(archive: Archive) -> _State:
        """Return how far the check is, an empty dictionary when there was none yet.

        Raises
        ------
        StorageError
            When it cannot be read.
        """
        with as_storage_error("cannot read the state of the scheduled check"):
            try:
                text = (archive.store.private / "check.json").read_text(encoding="utf-8")
            except FileNotFoundError:
                return _State()
        try:
            found = json.loads(text)
            damaged = [PurePosixPath(str(place)) for place in found["damaged"]]
            return _State(
                began=float(found["began"]),
                after=str(found["after"]),
                files=int(found["files"]),
                damaged=[str(place) for place in damaged if archive.store.path(place).exists()],
                finished=float(found["finished"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            log.warning("the state of the scheduled check cannot be read, it begins anew: %s", error)
            return _State()

    def _save(self, state: _State) -> None:
        with as_storage_error("cannot save the state of the scheduled check"):
            temporary = self._archive.store.private / "check.json.new"
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.rename(self._archive.store.private / "check.json")
