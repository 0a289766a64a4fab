"""After a loss of the database, or of the whole NAS: all is made again from what lies in the shared folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from angiovault.config import save
from angiovault.dsm import database, mariadb, running, settings, shares
from angiovault.dsm.paths import Nas
from angiovault.dsm.shares import Place
from angiovault.dsm.texts import Problem, Text
from angiovault.opening import open_archive

Say = Callable[[Text], None]


def restore(nas: Nas, ask_root_password: Callable[[], str], say: Say) -> bool:
    """Restore settings, database and index; may be called again. Return whether every file could be indexed.

    Parameters
    ----------
    nas : Nas
        The NAS; its settings may be gone.
    ask_root_password : Callable
        Returns the password of MariaDB's root, '' if there is none to be had; called only when it is needed.
    say : Callable
        Is told of every step.

    Raises
    ------
    ConfigError, StorageError, IndexUnavailable
        When settings, storage or index cannot be used.
    Problem
        When something has to be done first.
    """
    if not database.is_named(nas):
        save(nas.settings, {"index": mariadb.not_set_up(nas).url})
    known = settings.read(nas)
    place = _find(nas, known)
    say(Text("archive_found", archive_id=place.archive_id, storage=place.storage))
    for text in settings.restore(nas, place.storage):
        say(text)
    save(nas.settings, {"storage": str(place.storage), "archive-id": place.archive_id})
    _find_second(nas, place, say)
    try:
        _restore_database(nas, place, ask_root_password, say)
    finally:
        # The old service ends before the new index is filled: what it takes in meanwhile would not be in it.
        running.restart(nas)
    return _rebuild(nas, say)


def _find(nas: Nas, known: settings.Settings) -> Place:
    """Return the archive that the settings know, else any: the shared folder may be that of another NAS."""
    try:
        place = shares.find(nas, known.storage, known.config.archive_id)
    except Problem as problem:
        if problem.text.key != "archive_missing":
            raise
        place = shares.find(nas, None, "") or _own(known.storage)
    if place is None:
        raise Problem("no_archive")
    return place


def _find_second(nas: Nas, place: Place, say: Say) -> None:
    """Find the second folder, where the settings or their copy name it, else where it was last.

    An index made without the images in it would not hold them.
    """
    named, (_, last) = settings.read(nas).config.second_storage, shares.remembered_second(place)
    wanted = list(filter(None, (named, last)))
    if wanted:
        found = shares.find_second(nas, place, wanted).second
        save(nas.settings, {"second-storage": str(found)})
        say(Text("second_found", storage=found))


def _own(storage: Path | None) -> Place | None:
    found = shares.marker_of(storage) if storage else ""
    return Place(storage, found) if storage and found else None


def _restore_database(nas: Nas, place: Place, ask_root_password: Callable[[], str], say: Say) -> None:
    if settings.read(nas).config.index_url.engine == "sqlite":
        return
    account = database.kept_account(nas)
    if account is None or not mariadb.works(nas, account):
        password = ask_root_password()
        if not password:
            raise Problem("database_needed")
        database.set_up(nas, password, say)
        account = database.kept_account(nas)
        assert account is not None
    else:
        say(Text("database_kept", database=account.database))
    mariadb.change_archive(nas, account, place.archive_id)


def _rebuild(nas: Nas, say: Say) -> bool:
    """Make the index anew, or wait until the running service has done it."""
    from angiovault.archive.reindexing import BeingRebuilt, reindex
    from angiovault.progress import Progress

    config = settings.read(nas).config
    archive = open_archive(config)
    by_us, failed = 0, 0
    waited = False
    try:
        with Progress("reindex") as progress:
            while True:
                try:
                    for item in reindex(archive, if_incomplete=config.index_url.engine == "mysql" or waited):
                        by_us += 1
                        if item.problem:
                            failed += 1
                            progress.say(f"{item.place}: {item.problem}")
                        progress.advance(1, item.size)
                    break
                except BeingRebuilt:
                    if not waited:
                        say(Text("rebuilding"))
                    waited = True
                    time.sleep(1)
    finally:
        archive.close()
    if waited and not by_us:
        say(Text("rebuilt_by_service"))
    else:
        say(Text("rebuilt", count=by_us - failed, failed=failed))
    return not failed
