"""Folders that the images may be kept in: which there are to choose from, and whether one can be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from angiovault.archive import second
from angiovault.archive.folder import StorageFolder
from angiovault.archive.store import StorageError
from angiovault.dsm import shares
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import Problem
from angiovault.panel.web import Message, Refused, said

_MOST: Final = 300
_HIDDEN: Final = (".", "@", "#")
_NEVER: Final = frozenset(
    ("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")
)


def roots(nas: Nas | None, *storage: Path) -> list[Path]:
    """Return the folders below which one may be chosen: shared folders and volumes, else where the storage lies.

    Parameters
    ----------
    nas : Nas, optional
        The NAS.
    storage : Path
        The folders of the storage, one or two.
    """
    if nas is not None:
        links = nas.package / "shares"
        return [path for path in (links, *nas.volumes) if path.is_dir()]
    around = [folder.parent.absolute() for folder in storage]
    tops = [(Path(*folder.parts[:2]), folder) for folder in around]
    return list(dict.fromkeys(top if str(top) not in _NEVER else folder for top, folder in tops))


def listing(path_text: str, allowed: list[Path]) -> dict[str, Any]:
    """Return the folders in a folder, or the roots when none is named.

    Raises
    ------
    Refused
        When the folder is none of ours to look at, or cannot be read.
    """
    if not path_text:
        return {"path": "", "parent": None, "folders": [_entry(path, str(path)) for path in allowed], "more": False}
    path = Path(path_text)
    if not is_below(path, allowed):
        raise Refused(403, "refused.folder")
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(_HIDDEN) and entry.is_dir())
    except OSError as error:
        raise Refused(404, "refused.folder-unreadable", path=path_text, reason=error.strerror) from None
    parent = "" if path in allowed else str(path.parent)
    folders = [_entry(path / name, name) for name in names[:_MOST]]
    return {"path": str(path), "parent": parent, "folders": folders, "more": len(names) > _MOST}


def is_below(path: Path, allowed: list[Path]) -> bool:
    """Return whether a path as it is written, and what it leads to, lie in one of the folders."""
    if not path.is_absolute() or ".." in path.parts or "\0" in str(path):
        return False
    if not any(path.is_relative_to(root) for root in allowed):
        return False
    real = path.resolve()
    # The links to shared folders lead to volumes, which are among the roots as well.
    return any(real.is_relative_to(root.resolve()) for root in allowed)


def _entry(path: Path, name: str) -> dict[str, Any]:
    return {"name": name, "path": str(path), "writable": os.access(path, os.W_OK | os.X_OK)}


def storage_problem(storage: Path, archive_id: str) -> Message | None:
    """Return why a folder cannot be the storage, None when it can.

    Parameters
    ----------
    storage : Path
        The folder; it need not be there if the one around it is.
    archive_id : str
        The archive that it must hold, '' for any or none.
    """
    problem = _not_usable(storage)
    if problem:
        return problem
    try:
        found = shares.marker_of(storage)
    except Problem:
        return said("wrong.folder-failing", path=str(storage))
    if archive_id and found != archive_id:
        return said("wrong.folder-other", path=str(storage))
    return None


def second_problem(storage: Path, chosen: Path | None) -> Message | None:
    """Return why the archive cannot continue in a folder, None when it can.

    Parameters
    ----------
    storage : Path
        The first folder.
    chosen : Path, optional
        The second; None to have no second.
    """
    problem = _not_usable(chosen) if chosen is not None else None
    if problem:
        return problem
    try:
        second.check(StorageFolder(storage), StorageFolder(chosen, 2) if chosen is not None else None)
    except StorageError as error:
        return said("wrong.second-storage", reason=str(error))
    return None


def _not_usable(storage: Path) -> Message | None:
    """Return why a folder, or the one around it, cannot be written by us; None when it can."""
    if str(storage) in _NEVER or ".." in storage.parts:
        return said("wrong.folder-system", path=str(storage))
    folder = storage if storage.is_dir() else storage.parent
    if not folder.is_dir():
        return said("wrong.folder-missing", path=str(folder))
    try:
        shares.probe(folder)
    except Problem as problem:
        key = "wrong.folder-denied" if problem.text.key == "share_denied" else "wrong.folder-failing"
        return said(key, path=str(folder))
    return None
