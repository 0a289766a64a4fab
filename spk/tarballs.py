"""Tar files that are the same whoever makes them, wherever and whenever: USTAR, root's, one time for all members."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spk.product import EPOCH


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a symbolic link, in an archive."""

    name: str
    data: bytes
    mode: int = 0o644
    link: str = ""
    """Where a symbolic link points to; empty for a file."""


def pack(entries: Iterable[Entry]) -> bytes:
    """Return an uncompressed tar file of entries in their order, each folder before the first file in it.

    Raises
    ------
    ValueError
        If a name is there twice, leads out of the archive, or is too long for USTAR.
    """
    result = io.BytesIO()
    seen: set[str] = set()
    with tarfile.open(fileobj=result, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in entries:
            path = PurePosixPath(entry.name)
            if path.is_absolute() or ".." in path.parts or entry.name in seen:
                raise ValueError(f"{entry.name} cannot be a member, or is one already")
            for folder in reversed(path.parents[:-1]):
                if str(folder) not in seen:
                    tar.addfile(_header(str(folder), tarfile.DIRTYPE, 0o755))
                    seen.add(str(folder))
            header = _header(entry.name, tarfile.SYMTYPE if entry.link else tarfile.REGTYPE, entry.mode)
            header.linkname = entry.link
            header.size = len(entry.data)
            tar.addfile(header, io.BytesIO(entry.data))
            seen.add(entry.name)
    return result.getvalue()


def _header(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.mode, header.mtime = kind, mode, EPOCH
    header.uname = header.gname = "root"
    return header


def read_folder(folder: Path) -> list[Entry]:
    """Return the files and symbolic links below a folder, sorted by name, executable for all or for nobody."""
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found.append(Entry(name, b"", 0o777, str(path.readlink())))
        elif path.is_file():
            found.append(Entry(name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644))
    return sorted(found, key=lambda entry: entry.name)
