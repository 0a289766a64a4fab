"""The shared folder that holds the images: which one it is, whether it may be used, and its first archive.

What DSM promises is little: the folder comes after the package was installed, may lie on any volume, may be encrypted
and mounted late, and its access list decides whatever the mode bits say. So: the marker of the archive decides which
folder is ours, a file that is really made tells whether we may write, and nothing is ever made but in a folder that is
there, by whoever knows that there was no archive before.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from angiovault.config import Config
from angiovault.dsm.paths import SHARE, Nas
from angiovault.dsm.texts import Problem

ARCHIVE: Final = "archive"
"""Folder of the archive in the shared folder."""

_MARKER: Final = Path(".angiovault/archive.json")
_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True)
class Place:
    """An archive's storage root and id, and its second folder if it has one."""

    storage: Path
    archive_id: str
    second: Path | None = None


def folders(nas: Nas) -> list[Path]:
    """Return the shared folders named `angiography` that are there: by DSM's link first, then volume by volume."""
    candidates = [nas.share_link, *(volume / SHARE for volume in nas.volumes)]
    return [folder for folder in candidates if _is_folder(folder)]


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:  # not there, or behind a folder that we may not enter
        return False


def is_locked(folder: Path) -> bool:
    """Return whether a folder is the place of an encrypted shared folder that is not mounted.

    DSM keeps the encrypted content beside it, under its name between two `@`.
    """
    real = folder.resolve()
    return _is_folder(real.with_name(f"@{real.name}@")) and not os.path.ismount(real)


def marker_of(storage: Path) -> str:
    """Return the id of the archive whose storage root a folder is, '' when it is none.

    Raises
    ------
    Problem
        When we may not look, or the marker cannot be read.
    """
    said = _said_by_marker(storage)
    return str(said.get("id", "")) if said.get("part", 1) == 1 else ""


def _said_by_marker(storage: Path) -> dict[str, Any]:
    """Return what stands in a folder's marker, see `archive.folder.Marker`; nothing when there is none."""
    try:
        said = json.loads((storage / _MARKER).read_text(encoding="utf-8"))
        return {**said, "id": str(said["id"])}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        raise Problem("share_denied", folder=storage) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem("share_failing", folder=storage, reason=str(error)) from None


def is_there(place: Place) -> bool:
    """Return, at the price of a `stat` for each of its folders, whether an archive's markers can be seen."""
    try:
        for folder in filter(None, (place.storage, place.second)):
            (folder / _MARKER).stat()
    except OSError:
        return False
    return True


def find(nas: Nas, storage: Path | None, archive_id: str) -> Place | None:
    """Find the archive: where the settings say, or, unless they say it without knowing its id, in `angiography`.

    Parameters
    ----------
    nas : Nas
        The NAS.
    storage : Path, optional
        The storage root of the settings, if they have one.
    archive_id : str
        The archive's id, '' when it is not known yet: then the first archive is taken.

    Returns
    -------
    Place, optional
        None when there is no archive, and it is not known that there ever was one.

    Raises
    ------
    Problem
        When it is not to be found or not to be seen.
    """
    denied: Problem | None = None
    present = folders(nas)
    candidates = [storage] if storage else []
    if archive_id or not storage:
        candidates += [folder / ARCHIVE for folder in present]
    for candidate in candidates:
        try:
            found = marker_of(candidate)
        except Problem as problem:
            denied = denied or problem
            continue
        if found and archive_id in ("", found):
            return Place(candidate, found)
    locked = next((folder for folder in [*([storage.parent] if storage else []), *present] if is_locked(folder)), None)
    if locked:
        raise Problem("share_locked", folder=locked)
    if denied:
        raise denied
    if not (_is_folder(storage.parent) if storage else present):
        raise Problem("share_missing")
    if archive_id:
        raise Problem("archive_missing", storage=storage or present[0], archive_id=archive_id)
    return None


def find_second(nas: Nas, place: Place, wanted: Sequence[Path]) -> Place:
    """Find the second folder of an archive whose first one is there.

    Parameters
    ----------
    nas : Nas
        The NAS.
    place : Place
        The archive.
    wanted : Sequence of Path
        Where it may be, at least one; it is also found at the same path on another volume.

    Returns
    -------
    Place
        The archive with its second folder, which has yet to be made if there never was one.

    Raises
    ------
    Problem
        When it is not to be found, and not to be made where it is wanted.
    """
    key = remembered_second(place)[0]
    candidates = list(dict.fromkeys(path for folder in wanted for path in _on_each_volume(nas, folder)))
    denied: Problem | None = None
    for candidate in candidates if key else ():
        try:
            said = _said_by_marker(candidate)
        except Problem as problem:
            denied = denied or problem
            continue
        if (said.get("id"), said.get("part"), said.get("key")) == (place.archive_id, 2, key):
            return replace(place, second=candidate)
    if locked := next((folder.parent for folder in candidates if is_locked(folder.parent)), None):
        raise Problem("share_locked", folder=locked)
    if denied:
        raise denied
    if key or not _is_folder(wanted[0].parent):
        raise Problem("second_missing", folder=wanted[0], storage=place.storage)
    return replace(place, second=wanted[0])


def remembered_second(place: Place) -> tuple[str, Path | None]:
    """Return what an archive's first folder says of its second: its key and where it was last; '' when there is none.

    Raises
    ------
    Problem
        When that cannot be read.
    """
    said = _said_by_marker(place.storage)
    key = str(said.get("key", ""))
    return key, Path(str(said["second"])) if key and said.get("second") else None


def _on_each_volume(nas: Nas, folder: Path) -> Iterator[Path]:
    """Yield a folder, and the same path on the other volumes: DSM can move a shared folder to another volume."""
    yield folder
    inside = folder.relative_to(nas.root).parts if folder.is_relative_to(nas.root) else ()
    for volume in nas.volumes if len(inside) > 1 else ():
        yield volume.joinpath(*inside[1:])


def probe(folder: Path) -> None:
    """Make, rename and delete a file: nothing else tells whether Synology's access lists allow it.

    A full volume is no matter of rights, and no problem here.

    Raises
    ------
    Problem
        When it is not allowed, or does not work.
    """
    first = folder / f".angiovault-probe-{os.getpid()}"
    second = first.with_name(f"{first.name}-renamed")
    try:
        for path in (first, second):  # left behind where making is allowed and deleting is not
            path.unlink(missing_ok=True)
        os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        first.rename(second)
        second.unlink()
    except PermissionError:
        raise Problem("share_denied", folder=folder) from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise Problem("share_failing", folder=folder, reason=error.strerror or str(error)) from None
    finally:
        for path in (first, second):
            with contextlib.suppress(OSError):  # said above
                path.unlink()


def create(storage: Path, config: Config, ask_index: bool = True) -> Place:
    """Make the first archive, in a folder of a shared folder that is there and may be written.

    The index of the settings is asked whether it knows of an archive, unless `ask_index` says that this does not
    matter; one that has no database yet knows of none.

    Raises
    ------
    Problem
        When it is not to be made.
    """
    from angiovault.archive.archive import Archive  # needed once in the life of an installation
    from angiovault.archive.index import IndexUnavailable
    from angiovault.archive.store import StorageError

    share = storage.parent
    if is_locked(share):
        raise Problem("share_locked", folder=share)
    probe(share)
    archive = Archive(storage, config.index_url)
    try:
        # Made in the very folder that was looked at: a share that goes away now is not made anew on its mount point.
        descriptor = os.open(share, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(storage.name, 0o750, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        if ask_index and (config.index_url.engine == "sqlite" or config.index_url.password):
            archive.open(create=True)
        else:
            archive.store.create()
        return Place(storage, archive.store.read_marker())
    except (StorageError, IndexUnavailable) as error:
        raise Problem("not_created", folder=storage, reason=str(error)) from None
    except OSError as error:
        raise Problem("share_failing", folder=storage, reason=error.strerror or str(error)) from None
    finally:
        archive.close()
