"""Keeping import and export out of the archive's own folders: nothing is brought in from there, or put there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from angiovault.archive.store import MARKER, PRIVATE_FOLDER, Store


def lies_in(store: Store, path: Path) -> bool:
    """Return whether a path is the storage root, or below it; the path itself need not exist."""
    resolved = path.resolve()
    root = os.stat(store.root)
    return any(folder.exists() and os.path.samestat(os.stat(folder), root) for folder in (resolved, *resolved.parents))


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
    if folder.samefile(store.root):
        return "this is the storage of the archive itself"
    if taking_over and _marked(marker) == store.archive_id:
        return "this is a copy of this archive, or its storage seen another way: import from it without --move"
    return ""


def _marked(marker: Path) -> str:
    try:
        return str(json.loads(marker.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # no marker of an archive, so none of this one
