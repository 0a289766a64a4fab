"""The second folder of a storage, in which the archive continues when the first is full: made once, and remembered.

The first folder's marker says that there is a second, and by which key it is known. It is written last, so that a
second folder whose making was cut off is only a folder that may be taken once more; and from then on a second folder
without that key is one that is not mounted, in which nothing is made.
"""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import replace
from pathlib import Path

from angiovault.archive.durable import NotMounted, StorageError, as_storage_error, fsync_directory, locked
from angiovault.archive.folder import Marker, StorageFolder

log = logging.getLogger(__name__)


def check(first: StorageFolder, second: StorageFolder | None) -> None:
    """See whether settings that name this second folder, or none, can be used; changes nothing.

    Raises
    ------
    NotMounted, StorageError
        When they cannot, as `settle` would.
    """
    with as_storage_error("cannot look at the second folder"):
        marker = first.read_marker() if first.has_marker else Marker("")
        _plan(first, second, marker)


def settle(first: StorageFolder, second: StorageFolder | None) -> None:
    """Make, find again or let go the second folder, as the settings want it; the first is mounted.

    Raises
    ------
    NotMounted, StorageError
        When the one that is known is not there, is to be let go and is not empty, or no other can be made.
    """
    with as_storage_error("cannot settle the second folder"), locked(first.root, folder=True):
        marker = first.read_marker()
        key, lets_go = _plan(first, second, marker)
        if lets_go:
            marker = _let_go(first, marker)
        if second is None:
            return
        if key and not marker.key and not second.holds_nothing():
            log.warning("%s holds images already, which `angiovault reindex` makes findable", second.root)
        key = key or _make(second, marker.id)
        known = replace(marker, key=key, second=str(second.root.absolute()))
        if known != marker:
            first.write_marker(known)
            log.info("the archive %s continues in %s when %s is full", marker.id, second.root, first.root)


def give_up(first: StorageFolder, second: StorageFolder | None) -> None:
    """Forget a second folder that is lost for good, with all images in it.

    Raises
    ------
    NotMounted, StorageError
        When the first is not there, there is no second, or it is not lost.
    """
    with as_storage_error("cannot forget the second folder"), locked(first.root, folder=True):
        marker = first.read_marker()
        if not marker.key:
            raise StorageError("the archive has no second folder")
        for folder in (StorageFolder(Path(marker.second), 2), *([second] if second is not None else [])):
            if folder.has_marker and folder.read_marker().key == marker.key:
                raise StorageError(f"the second folder is there, in {folder.root}: nothing is forgotten")
        first.write_marker(replace(marker, key="", second=""))
        log.warning("the second folder of the archive %s, last in %s, is given up", marker.id, marker.second)


def _plan(first: StorageFolder, second: StorageFolder | None, marker: Marker) -> tuple[str, bool]:
    """Return the key of the second folder, '' if none is made yet, and whether the one before is to be let go."""
    key = ""
    if second is not None and second.has_marker:
        found = second.read_marker()
        if found.id != marker.id:
            raise NotMounted(f"{second.root} holds another archive ({found.id} instead of {marker.id})")
        key = found.key
    elif second is not None:
        if marker.second == str(second.root.absolute()):
            second.read_marker()  # which says that it is not mounted
        _see_it_can_be_made(first, second)
    lets_go = bool(marker.key) and key != marker.key
    if lets_go and not _of_it(marker).holds_nothing():
        raise is_needed(marker.second)
    return key, lets_go


def _see_it_can_be_made(first: StorageFolder, second: StorageFolder) -> None:
    if not second.root.parent.is_dir():
        raise NotMounted(f"{second.root.parent} is not there: is the volume or shared folder mounted?")
    if is_in(first.root, second.root) or is_in(second.root, first.root):
        raise StorageError(f"{second.root} and {first.root} lie in one another: choose a folder of another volume")
    if second.root.exists():
        second.refuse_other_content()


def _make(second: StorageFolder, archive_id: str) -> str:
    """Make a second folder and return its key; only the folder itself is made, not what it lies in."""
    second.root.mkdir(mode=0o750, exist_ok=True)
    fsync_directory(second.root.parent)
    with locked(second.root, folder=True):
        second.refuse_other_content()
        key = secrets.token_hex(8)
        second.write_marker(Marker(archive_id, second.part, key))
        second.incoming.prepare()
    return key


def is_in(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or lies below it; neither needs to exist.

    Raises
    ------
    OSError
        When the folder is there and cannot be looked at.
    """
    resolved = path.resolve()
    if resolved.is_relative_to(folder.resolve()):
        return True
    try:
        known = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    around = (resolved, *resolved.parents)
    return any(each.exists() and os.path.samestat(os.stat(each), known) for each in around)


def is_needed(second: str) -> NotMounted:
    """Return the error of settings that do not name the second folder, which was last at this path."""
    return NotMounted(
        f"the archive continues in a second folder, which was last {second}: name the folder in the setting "
        "second-storage, where it is now. Only an empty one may be taken away."
    )


def _let_go(first: StorageFolder, marker: Marker) -> Marker:
    """Forget a second folder that holds nothing, and return the first's new marker.

    Whoever begins to take in an instance there looks at the first's marker again when its file is made, so that either
    it is seen here, or the new marker there.
    """
    old = _of_it(marker)
    without = replace(marker, key="", second="")
    first.write_marker(without)
    if not old.holds_nothing():
        first.write_marker(marker)
        raise is_needed(marker.second)
    log.info("the archive %s does not continue in %s any more", marker.id, old.root)
    return without


def _of_it(marker: Marker) -> StorageFolder:
    """Return the second folder that a first one's marker names, if it is there."""
    old = StorageFolder(Path(marker.second), 2)
    if not old.has_marker or old.read_marker().key != marker.key:
        raise is_needed(marker.second)
    return old
