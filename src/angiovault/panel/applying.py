"""Putting changed settings into force: written, taken over by the service, watched, and taken back if that fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from angiovault.config import Config, save
from angiovault.dsm import database, folders, running
from angiovault.dsm.mariadb import Account
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import Problem, Text
from angiovault.indexurl import IndexURL
from angiovault.inifile import ConfigError
from angiovault.panel.context import Context
from angiovault.panel.database_trial import bilingual, database_problem
from angiovault.panel.settings_form import Form, index_text
from angiovault.panel.web import Message, said

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
            served = self._service()
            problems = self._write()
            if problems:
                self._write_back()
                return {"outcome": "refused", "problems": problems}
            nas = self._place.nas
            if nas is None:
                return {"outcome": "restart", "message": said("apply.restart")}
            if not running.reload(nas):
                return {"outcome": "saved", "message": said("apply.stopped")}
            if self._is_in_force(nas, served):
                return {"outcome": "applied", "message": said("apply.done")}
            why = _why_not(nas)
            if not served:  # it did not run before either: what was changed may well be right
                return {"outcome": "saved", "message": said("apply.not-running"), "reason": why}
            log.warning("panel: the service does not run with the changed settings, they are taken back")
            self._write_back()
            running.reload(nas)
            again = self._is_in_force(nas, served)
            key = "apply.undone" if again else "apply.undone-not-running"
            return {"outcome": "undone", "message": said(key), "reason": why}

    def _service(self) -> int:
        """Return the process of the service that runs now, 0 when none does."""
        nas = self._place.nas
        return int(running.health(nas).get("pid", 0)) if nas is not None else 0

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

    def _is_in_force(self, nas: Nas, before: int) -> bool:
        """Wait until another process than `before` serves as the settings say; return whether it does so in time."""
        began, is_news = time.monotonic(), False
        while time.monotonic() < began + _WATCHED:
            state = running.state(nas).get("state")
            health = running.health(nas)
            if state in _SERVING and health.get("pid", before) != before:
                return _is_as_set(health, self._place.config())
            if state not in _FAILED:
                is_news = True
            elif is_news or time.monotonic() > began + _STALE:
                return False
            time.sleep(_PAUSE)
        return False


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
        running.reload(nas)
    return {"ok": True, "message": bilingual(told[-1])}


def _is_as_set(health: Mapping[str, Any], config: Config) -> bool:
    names = ("ae_title", "bind", "port", "tls_port")
    return all(health[name] == getattr(config, name) for name in names)


def _why_not(nas: Nas) -> Message:
    state = running.state(nas)
    if state.get("message") and state.get("state") not in _SERVING:
        return {"en": state["message"], "zh": state.get("message_zh", "")}
    return said("apply.no-answer")
