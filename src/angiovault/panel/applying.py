"""Putting changed settings into force: written, taken over by the service, watched, and taken back if that fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from angiovault import reloading
from angiovault.config import Config, fingerprint, save
from angiovault.dsm import database, folders, running
from angiovault.dsm.mariadb import Account
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import Problem, Text
from angiovault.indexurl import IndexURL
from angiovault.inifile import ConfigError
from angiovault.network import setcap_command
from angiovault.panel.context import Context
from angiovault.panel.database_trial import bilingual, database_problem
from angiovault.panel.settings_form import LISTENING, Form, index_text
from angiovault.panel.web import Message, said
from angiovault.reloading import Loading, is_news

log = logging.getLogger(__name__)

_WATCHED: Final = 20.0
"""Seconds in which the service has to run with the new settings, counted from the end of the old one."""
_STALE: Final = 5.0
"""Seconds in which the supervisor may still say how things were before."""
_PAUSE: Final = 0.2
_SERVING: Final = frozenset(("running", "needs-set-up"))
_FAILED: Final = frozenset(("configuration", "port", "failing"))
_PLACES: Final = ("storage", "second-storage", "archive-id", "index")


class Change:
    """A change of settings.

    Parameters
    ----------
    context : Context
        The panel's state; `context.applying` is held while the change is applied.
    changed : Mapping
        Settings and their new texts.
    index : IndexURL, optional
        The index that is wanted, None for the embedded one.
    index_changes : bool
        Whether that is another one than now.
    """

    def __init__(
        self, context: Context, changed: Mapping[str, str], index: IndexURL | None, index_changes: bool
    ) -> None:
        self._place = context.place
        self._lock = context.applying
        self._changed = dict(changed)
        self._index = index
        self._index_changes = index_changes
        self._before = Form.of(context.place).texts

    def apply(self) -> dict[str, Any]:
        """Apply the change and return the outcome, in words and as one of: refused, restart, saved, applied, undone."""
        with self._lock:
            service, before = self._service(), self._health()
            problems = self._write()
            if problems:
                self._write_back()
                return {"outcome": "refused", "problems": problems}
            nas = self._place.nas
            if nas is None:
                return self._apply_here(service, before)
            if not running.reload(nas):
                return {"outcome": "saved", "message": said("apply.stopped")}
            taken_up = self._taken_up(nas, before)
            if taken_up:
                return {"outcome": "applied", "message": said(taken_up)}
            why = _why_not(nas)
            if not before:  # it did not run before either: what was changed may well be right
                return {"outcome": "saved", "message": said("apply.not-running"), "reason": why}
            log.warning("panel: the service does not run with the changed settings, they are taken back")
            is_kept, before = running.health(nas).get("pid") == service, self._health()
            self._write_back()
            running.reload(nas)
            done = "apply.kept" if is_kept else "apply.undone"
            key = done if self._taken_up(nas, before) else "apply.undone-not-running"
            return {"outcome": "undone", "message": said(key), "reason": why}

    def _apply_here(self, service: int, before: Mapping[str, Any]) -> dict[str, Any]:
        """Apply what is written outside a NAS, where nobody starts the service but a person or the system."""
        if not reloading.ask(service):
            return {"outcome": "restart", "message": said("apply.restart")}
        now = self._news(before) if before.get("pid") == service else {}
        if not now:
            return {"outcome": "saved", "message": said("apply.told")}
        loading = Loading.of(now)
        if loading.restart:
            return {"outcome": "restart", "message": said("apply.restart")}
        if not loading.problem:
            key = self._how() if loading.fingerprint == self._wanted() else "apply.options"
            return {"outcome": "applied", "message": said(key)}
        self._write_back()
        reloading.ask(service)
        self._news(now)
        return {"outcome": "undone", "message": said("apply.kept"), "reason": _reason(loading)}

    def _news(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until a service has read the settings since, and return what it says; nothing if none does in time."""
        deadline = time.monotonic() + _WATCHED
        while time.monotonic() < deadline:
            now = self._health()
            if is_news(before, now):
                return now
            time.sleep(_PAUSE)
        return {}

    def _config(self) -> Config | None:
        try:
            return self._place.config()
        except ConfigError:
            return None

    def _service(self) -> int:
        return self._place.service(self._config())

    def _health(self) -> dict[str, Any]:
        """Return what the service that runs now says of itself, nothing when none does."""
        return self._place.health(self._config())

    def _wanted(self) -> str:
        return fingerprint(self._place.config())

    def _how(self) -> str:
        """Return the text for settings that the running service has taken up."""
        return "apply.reopened" if LISTENING & set(self._changed) else "apply.at-once"

    def _write(self) -> dict[str, Message]:
        """Write the settings; return what is wrong with the fields that only trying tells."""
        nas, texts = self._place.nas, dict(self._changed)
        if self._index_changes and self._index is not None:
            problem = database_problem(nas, self._index)
            if problem:
                return {"index-where": problem}
        # On a NAS the shared folder and the database have rules of their own, which the package's commands know.
        storage, second = (texts.pop(name, None) if nas is not None else None for name in ("storage", "second-storage"))
        field = "index-where"
        try:
            save(self._place.settings, {name: text for name, text in texts.items()})
            if self._index_changes:
                self._write_index()
            if storage is not None and nas is not None:
                field = "storage"
                folders.use_folder(nas, Path(storage))
            if second is not None and nas is not None:
                field = "second-storage"
                folders.use_second(nas, Path(second) if second else None)
        except Problem as problem_there:
            return {field: bilingual(problem_there.text)}
        except ConfigError as error:
            return {"": said("wrong.settings", reason=str(error))}
        return {}

    def _write_index(self) -> None:
        nas = self._place.nas
        account = Account.of(self._index)
        if nas is not None and self._index is None:
            database.use_embedded(nas)
        elif nas is not None and account is not None:
            database.use_account(nas, account)
        else:
            save(self._place.settings, {"index": index_text(self._index)})

    def _write_back(self) -> None:
        """Make the changed settings what they were; devices that were changed meanwhile stay as they are."""
        names = [*self._changed, *_PLACES]
        try:
            save(self._place.settings, {name: self._before.get(name) for name in names})
        except ConfigError as error:  # they could not be used before either
            log.error("panel: the settings cannot be taken back: %s", error)

    def _taken_up(self, nas: Nas, before: Mapping[str, Any]) -> str:
        """Wait until the service runs with the settings; return the text that says how, '' when it does not in time."""
        began, failed_before = time.monotonic(), True
        while time.monotonic() < began + _WATCHED:
            state = running.state(nas).get("state")
            health = running.health(nas)
            if is_news(before, health):
                is_same = health["pid"] == before.get("pid")
                if Loading.of(health).problem:
                    return ""
                # Where it began anew, the supervisor has the last word: the shared folder may be missing.
                if Loading.of(health).fingerprint == self._wanted() and (is_same or state in _SERVING):
                    return self._how() if is_same else "apply.done"
            if state not in _FAILED:
                failed_before = False
            elif not failed_before or time.monotonic() > began + _STALE:
                return ""
            time.sleep(_PAUSE)
        return ""


def create_database(context: Context, root_password: str) -> dict[str, Any]:
    """Make the index's database with the password of MariaDB's root, which is kept nowhere; return what came of it."""
    nas = context.place.nas
    assert nas is not None, "only a NAS has the package MariaDB 10"
    told: list[Text] = []
    with context.applying:
        try:
            database.set_up(nas, root_password, told.append)
        except Problem as problem:
            return {"ok": False, "message": bilingual(problem.text)}
        except ConfigError as error:
            return {"ok": False, "message": said("wrong.settings", reason=str(error))}
        running.restart(nas)
    return {"ok": True, "message": bilingual(told[-1])}


def _why_not(nas: Nas) -> Message:
    loading = Loading.of(running.health(nas))
    if loading.problem:
        return _reason(loading)
    state = running.state(nas)
    if state.get("message") and state.get("state") not in _SERVING:
        return {"en": state["message"], "zh": state.get("message_zh", "")}
    return said("apply.no-answer")


def _reason(loading: Loading) -> Message:
    """Return in words why the running service stays with the settings that it has."""
    problem = loading.problem
    kind, text, port = problem["kind"], problem["text"], problem.get("port", 0)
    if kind == reloading.PORT_TAKEN:
        return said("wrong.port-used", port=port)
    if kind == reloading.PORT_PRIVILEGED:
        return said("wrong.port-low", port=port, command=setcap_command())
    if kind == reloading.ADDRESS:
        return said("wrong.address-not-here", address=problem["address"])
    if kind == reloading.TLS:
        return said("wrong.tls", reason=text)
    return said("wrong.settings", reason=text)
