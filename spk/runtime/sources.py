"""The sources of the bundled Python: fetched, checked, unpacked and patched as sources.toml says."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spk import cache

TABLE: Final = Path(__file__).with_name("sources.toml")


class SourceError(Exception):
    """A source cannot be had, is not the pinned one, or does not take its patches."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to be fetched."""

    sha256: str
    urls: tuple[str, ...]
    """Where it lies; the first one that has it serves."""

    def fetch(self) -> Path:
        """Return the file, from the cache or from the first address that has it, with the pinned sum.

        Raises
        ------
        SourceError
            If no address has it.
        """
        reasons = []
        for url in self.urls:
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    return cache.fetch(url, self.sha256)
            except cache.FetchError as error:
                reasons.append(str(error))
        raise SourceError("\n".join(reasons))


@dataclass(frozen=True, slots=True)
class Source:
    """A program or library."""

    name: str
    version: str
    licence: str
    licence_files: tuple[str, ...]
    archive: File
    series: File | None
    """Debian's patches, in its format: debian/patches/series names them in their order."""
    left_out: frozenset[str]
    """Patches of the series that are not applied."""

    def unpack(self, folder: Path) -> None:
        """Unpack the source into a new folder and patch it there.

        Raises
        ------
        SourceError
            If a file cannot be fetched or unpacked, a patch does not apply, or `left_out` names one that is not there.
        """
        _unpack(self.archive.fetch(), folder, "--strip-components=1")
        if not self.series:
            return
        debian = folder.with_name(f"{folder.name}.debian")
        _unpack(self.series.fetch(), debian)
        patches = debian / "debian" / "patches"
        names = series((patches / "series").read_text(encoding="utf-8"))
        if unknown := self.left_out - set(names):
            raise SourceError(f"{self.name}: not in the series and so not to be left out: {', '.join(sorted(unknown))}")
        for name in names:
            if name not in self.left_out:
                # Without fuzz: a security fix that lands in the wrong place is worse than a build that fails.
                _run("patch", "-p1", "--batch", "--forward", "--fuzz=0", "-d", str(folder), "-i", str(patches / name))


def series(text: str) -> list[str]:
    """Return the names of patches in a Debian series file, in their order."""
    return [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]


def load(table: Path = TABLE) -> list[Source]:
    """Return the sources of the table, in its order."""
    content = tomllib.loads(table.read_text(encoding="utf-8"))
    archives = content.pop("archives")
    return [_source(name, entry, archives) for name, entry in content.items()]


def _source(name: str, entry: dict[str, Any], archives: list[str]) -> Source:
    def file(part: dict[str, Any]) -> File:
        first, *others = (f"{archive}{entry['pool']}{part['file']}" for archive in archives)
        upstream = [part["upstream"]] if "upstream" in part else []
        return File(part["sha256"], (first, *upstream, *others))

    patches = entry.get("series")
    return Source(
        name=name,
        version=entry["version"],
        licence=entry["licence"],
        licence_files=tuple(entry["licence-files"]),
        archive=file(entry),
        series=file(patches) if patches else None,
        left_out=frozenset(patches["left-out"]) if patches else frozenset(),
    )


def _unpack(archive: Path, folder: Path, *options: str) -> None:
    folder.mkdir(parents=True)
    _run("tar", "-x", "--no-same-owner", "-f", str(archive), "-C", str(folder), *options)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SourceError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
