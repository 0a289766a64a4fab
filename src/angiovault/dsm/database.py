"""Which database the settings name: changing it so that no index is ever taken for complete that is not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

from angiovault.config import load, save
from angiovault.dsm import mariadb
from angiovault.dsm.mariadb import Account
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import Problem, Text
from angiovault.indexurl import IndexURL
from angiovault.inifile import read_file


def kept_account(nas: Nas) -> Account | None:
    """Return the account of the settings, None when they have none with a password.

    Raises
    ------
    ConfigError
        When the settings cannot be used.
    """
    return Account.of(load(nas.settings).index)


def is_named(nas: Nas) -> bool:
    """Return whether the settings name an index; an empty name means the file beside the images."""
    return nas.settings.exists() and read_file(nas.settings).has_option("archive", "index")


def use_account(nas: Nas, account: Account, rebuild: bool = False) -> None:
    """Write the account into the settings.

    An index that is in its database already is rebuilt if `rebuild` is true, or if it is not the one that was in use:
    it may lack what came meanwhile.

    Raises
    ------
    ConfigError
        When the settings cannot be written.
    Problem
        When the database cannot be used.
    """
    known = load(nas.settings)
    if rebuild or not _same(known.index, account):
        mariadb.change_archive(nas, account, known.archive_id)
    save(nas.settings, {"index": account.url})


def _same(url: IndexURL | None, account: Account) -> bool:
    # Without a password it was never in use.
    return url is not None and bool(url.password) and (url.unix_socket, url.user, url.database) == (
        str(account.socket),
        account.user,
        account.database,
    )


def use_embedded(nas: Nas) -> None:
    """Have the index in a file beside the images, which is rebuilt if there is one from earlier.

    Raises
    ------
    ConfigError
        When the settings cannot be written.
    """
    before = load(nas.settings).index
    save(nas.settings, {"index": ""})
    path = load(nas.settings).index_url.path
    if before is not None and path is not None and path.exists():
        try:
            with closing(sqlite3.connect(path)) as index, index:
                index.execute("UPDATE archive SET value = 'no' WHERE name = 'complete'")
        except sqlite3.Error as error:
            raise Problem("share_failing", folder=path, reason=str(error)) from None


def set_up(nas: Nas, root_password: str, say: Callable[[Text], None], rebuild: bool = False) -> None:
    """Make the database with root's password, or keep the one that works, and write it into the settings.

    Raises
    ------
    ConfigError
        When the settings cannot be read or written.
    Problem
        When there is no database afterwards.
    """
    kept = kept_account(nas)
    account = mariadb.create(nas, root_password, kept)
    if account == kept:
        say(Text("database_kept", database=account.database))
    else:
        use_account(nas, account, rebuild)
        say(Text("database_ready", database=account.database))
