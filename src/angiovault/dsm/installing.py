"""What Package Center's wizards were told, made into settings; and what is removed with the package.

The wizard's values come as environment variables. They were checked in the wizard and by `preinst`; here they are
checked by the settings' own rules, and a bad one is said and left out: a package whose `postinst` fails is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from angiovault.config import SETTINGS, load, save
from angiovault.dsm import database, mariadb
from angiovault.dsm.mariadb import Account
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import Problem, Text
from angiovault.inifile import ConfigError, read_file
from angiovault.network import setcap_command

Say = Callable[[Text], None]

_YES: Final = "true"
_ROWS: Final = {row.name: row for row in SETTINGS}
_WIZARD: Final = {"wizard_ae_title": "ae-title", "wizard_port": "port"}
_LAST_PRIVILEGED: Final = 1023


def install(nas: Nas, values: Mapping[str, str], say: Say) -> int:
    """Write the settings and set up the database; `values` are the environment. Return the exit code.

    It may be called again and again: settings that are there are kept, unless the wizard was told others.
    """
    try:
        new = not database.is_named(nas)
        _write_settings(nas, values, say)
        config = load(nas.settings)
    except ConfigError as error:
        if isinstance(error.__cause__, OSError):
            say(Text("settings_not_written", reason=str(error)))
            return 1
        say(Text("settings_broken", reason=str(error)))
        return 0
    say(Text("installed", ae_title=config.ae_title, port=config.port))
    try:
        _set_up_database(nas, values, say, new)
    except Problem as problem:
        say(problem.text)
    except ConfigError as error:
        say(Text("settings_not_written", reason=str(error)))
        return 1
    return 0


def _write_settings(nas: Nas, values: Mapping[str, str], say: Say) -> None:
    present = read_file(nas.settings) if nas.settings.exists() else None
    changes: dict[str, str | None] = {}
    for key, name in _WIZARD.items():
        row, text = _ROWS[name], values.get(key, "").strip()
        if not text:
            continue
        kept = present.get(row.section, name, fallback=row.default) if present else row.default
        try:
            # Port 0, any free one, is good for tests only.
            if row.read(text, name, nas.etc) == 0:
                raise ConfigError
        except ConfigError:
            say(Text("value_refused", value=repr(text), name=name, kept=kept, allowed=row.kind.allowed))
        else:
            changes[name] = text
    if not database.is_named(nas):
        changes["index"] = mariadb.not_set_up(nas).url
    if changes:
        save(nas.settings, changes)
    if int(changes.get("port") or 0) in range(1, _LAST_PRIVILEGED + 1):
        say(Text("port_privileged", port=changes["port"], command=setcap_command()))


def _set_up_database(nas: Nas, values: Mapping[str, str], say: Say, new: bool) -> None:
    if values.get("wizard_db_create") == _YES:
        database.set_up(nas, values.get("wizard_db_root_password", ""), say, new)
    elif values.get("wizard_db_existing") == _YES:
        account = Account(
            nas.socket,
            values.get("wizard_db_user", ""),
            values.get("wizard_db_password", ""),
            values.get("wizard_db_name", ""),
        )
        if not account.password:
            raise Problem("password_missing")
        mariadb.check(nas, account)
        database.use_account(nas, account, new)
        say(Text("database_ready", database=account.database))
    else:
        index = load(nas.settings).index
        if index is not None and index.engine == "mysql" and not index.password:
            say(Text("database_later"))


def uninstall(nas: Nas, values: Mapping[str, str], say: Say) -> int:
    """Remove what the wizard was told to; never the images, and never with an error. Return the exit code."""
    drop = values.get("wizard_drop_database") == _YES
    delete = values.get("wizard_delete_settings") == _YES
    if values.get("wizard_keep_all") == _YES or not (drop or delete):
        say(Text("settings_kept"))
        return 0
    if drop:
        _drop_database(nas, values.get("wizard_db_root_password", ""), say)
    if delete:
        try:
            nas.settings.unlink(missing_ok=True)
            say(Text("settings_deleted"))
        except OSError as error:
            say(Text("settings_not_deleted", reason=str(error)))
    return 0


def _drop_database(nas: Nas, root_password: str, say: Say) -> None:
    try:
        account = database.kept_account(nas)
        if account is None:
            return
        name = account.database
        mariadb.drop(nas, account)
        say(Text("database_dropped", database=name))
        save(nas.settings, {"index": mariadb.not_set_up(nas).url})
    except Problem as problem:
        say(Text("database_not_dropped", database=name, reason=problem.text))
        return
    except ConfigError as error:
        say(Text("database_not_dropped", database=mariadb.DATABASE, reason=str(error)))
        return
    if account.user != mariadb.USER:
        return  # somebody else has made it
    if not root_password:
        say(Text("user_left", user=account.user))
        return
    try:
        mariadb.drop_user(nas, root_password)
        say(Text("user_dropped", user=account.user))
    except Problem as problem:
        say(Text("user_not_dropped", user=account.user, reason=problem.text))
