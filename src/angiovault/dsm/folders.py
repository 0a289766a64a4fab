"""Another folder for the images, chosen by the administrator."""

from __future__ import annotations

from pathlib import Path

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
    save(nas.settings, {"storage": str(place.storage), "archive-id": place.archive_id})
    return place


def _is_empty(known: settings.Settings) -> bool:
    """Return whether it is certain that the archive in use holds nothing."""
    from angiovault.archive.store import StorageError, Store

    if known.storage is None:
        return False
    store = Store(known.storage, expected_id=known.config.archive_id)
    try:
        store.read_marker()
        return next(store.instance_files(), None) is None
    except (StorageError, OSError):
        return False
