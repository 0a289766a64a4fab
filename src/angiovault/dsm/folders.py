"""Another folder for the images, chosen by the administrator."""

from __future__ import annotations

from pathlib import Path

from angiovault.archive import second
from angiovault.archive.durable import StorageError
from angiovault.archive.folder import StorageFolder
from angiovault.config import load, save
from angiovault.dsm import mariadb, settings, shares
from angiovault.dsm.mariadb import Account
from angiovault.dsm.paths import Nas
from angiovault.dsm.shares import Place
from angiovault.dsm.texts import Problem


def use_folder(nas: Nas, folder: Path) -> Place:
    """Keep the images in a shared folder or a folder of it from now on, and return where they are then.

    The folder holds the archive that is in use, moved there by the administrator. If nothing was ever stored, it may
    as well hold another archive, or none: then one is made.

    Raises
    ------
    ConfigError
        When the settings cannot be read or written.
    Problem, OSError
        When the folder cannot be used.
    """
    if not folder.is_absolute():
        raise Problem("folder_relative", folder=folder)
    known = settings.read(nas)
    storage = folder if shares.marker_of(folder) else folder / shares.ARCHIVE
    found = shares.marker_of(storage)
    if not found and not folder.is_dir():
        raise Problem("folder_missing", folder=folder)
    shares.probe(storage if found else folder)
    expected = known.config.archive_id
    if expected and found != expected and not _is_empty(known):
        raise Problem("folder_other_archive", folder=folder, archive_id=expected, storage=known.storage or "?")
    if found:
        place = Place(storage, found)
        if found != expected:
            settings.take_over(nas, storage)
    else:
        place = shares.create(storage, load(nas.settings, {"storage": str(storage)}), ask_index=not expected)
    account = Account.of(known.config.index)
    if account is not None and expected not in ("", place.archive_id):
        mariadb.change_archive(nas, account, place.archive_id)
    changes: dict[str, str | None] = {"storage": str(place.storage), "archive-id": place.archive_id}
    if expected not in ("", place.archive_id):  # the second folder of the one that was in use is empty as well
        changes["second-storage"] = None
    save(nas.settings, changes)
    return place


def use_second(nas: Nas, folder: Path | None) -> Path | None:
    """Let the archive continue in a folder when its first one is full, and return which that is; None for no second.

    The folder holds the second folder that is in use, moved there by the administrator; or a new one is made in it by
    the service, if none was in use, or nothing is in it.

    Raises
    ------
    ConfigError
        When the settings cannot be read or written.
    Problem, OSError
        When the folder cannot be used.
    """
    known = settings.read(nas)
    place = shares.find(nas, known.storage, known.config.archive_id)
    if place is None:
        raise Problem("no_storage")
    chosen = _second_root(folder) if folder is not None else None
    first = StorageFolder(place.storage)
    try:
        second.check(first, StorageFolder(chosen, 2) if chosen is not None else None)
    except StorageError as error:
        raise Problem("second_refused", reason=str(error)) from None
    save(nas.settings, {"second-storage": str(chosen) if chosen is not None else None})
    return chosen


def _second_root(folder: Path) -> Path:
    """Return the root of the second folder that is in a folder, or is to be made in it."""
    if not folder.is_absolute():
        raise Problem("folder_relative", folder=folder)
    if not folder.is_dir():
        raise Problem("folder_missing", folder=folder)
    if shares.is_locked(folder):
        raise Problem("share_locked", folder=folder)
    if StorageFolder(folder, 2).has_marker:
        shares.probe(folder)
        return folder
    root = folder / shares.ARCHIVE
    shares.probe(root if root.is_dir() else folder)
    return root


def _is_empty(known: settings.Settings) -> bool:
    """Return whether it is certain that the archive in use holds nothing."""
    from angiovault.archive.store import Store

    if known.storage is None:
        return False
    store = Store(known.storage, 0, known.config.archive_id, known.config.second_storage)
    try:
        store.open()
        return all(folder.holds_no_instance() for folder in store.folders)
    except (StorageError, OSError):
        return False
