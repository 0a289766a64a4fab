"""Keeping import and export out of the archive's own folders: nothing is brought in from there, or put there."""

from __future__ import annotations

import json
from pathlib import Path

from angiovault.archive.second import is_in
from angiovault.archive.store import MARKER, PRIVATE_FOLDER, Store


def lies_in(store: Store, path: Path) -> bool:
    """Return whether a path is a folder of the storage, or below one; the path itself need not exist."""
    return any(is_in(path, folder.root) for folder in store.folders)


def objection(store: Store, folder: Path, taking_over: bool) -> str:
    """Say why files may not be imported from a folder, '' when they may.

    Parameters
    ----------
    store : Store
        The opened storage.
    folder : Path
        A folder that may be the root of a storage.
    taking_over : bool
        Whether the files are to be removed afterwards. The storage that is seen through another mount cannot be told
        from a copy of it, so nothing is ever taken over from either.
    """
    marker = folder / PRIVATE_FOLDER / MARKER
    if not marker.exists():
        return ""
    if any(folder.samefile(own.root) for own in store.folders):
        return "this is the storage of the archive itself"
    if taking_over and _marked(marker) == store.archive_id:
        return "this is a copy of this archive, or its storage seen another way: import from it without --move"
    return ""


def _marked(marker: Path) -> str:
    try:
        return str(json.loads(marker.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # no marker of an archive, so none of this one
