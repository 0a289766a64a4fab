"""What is built: the names, versions and families of processors that DSM's Package Center knows (facts, no code)."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = "angiovault"
TARGET: Final = f"/var/packages/{PACKAGE}/target"
"""Where package.tgz lies on the NAS, by a path that is the same on every volume."""
PYTHON_LIB: Final = "python/lib/python3.13"
SITE_PACKAGES: Final = f"{PYTHON_LIB}/site-packages"
BUILD_FOLDER: Final = ROOT / "build" / "spk"

EPOCH: Final = int(os.environ.get("SOURCE_DATE_EPOCH", "1795305600"))
"""The time of every file in the package, in seconds since 1970: two builds are to be the same to the byte."""

_INT32: Final = 2**31 - 1
_INTEL: Final = "apollolake avoton braswell broadwell broadwellnk bromolow cedarview denverton geminilake grantley"


@dataclass(frozen=True, slots=True)
class Processor:
    """A family of processors that gets a file of its own."""

    name: str
    """As DSM and the file's name call it."""
    runtime: str
    """As compilers and wheels call it."""
    platforms: str
    """The names of its members: DSM 6.1 may know a new one by neither family nor name alone."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation of DSM: one does not take the other's file."""

    number: int
    os_min_ver: str
    os_max_ver: str
    icon: int
    """Pixels of the small icon."""


PROCESSORS: Final = (
    Processor("x86_64", "x86_64", f"x86_64 {_INTEL} purley v1000 x86 kvmx64"),
    Processor("armv8", "aarch64", "armv8 rtd1296 armada37xx rtd1619b"),
)
GENERATIONS: Final = (
    Generation(6, "6.1-15047", "7.0-40000", 72),
    Generation(7, "7.0-40000", "", 64),
)


@dataclass(frozen=True, slots=True)
class Release:
    """One file to be built."""

    processor: Processor
    generation: Generation
    version: str
    """As Package Center compares it: numbers only, rising."""

    @property
    def file_name(self) -> str:
        """Name in the folder of finished files."""
        return f"{PACKAGE}-{self.version}-{self.processor.name}-dsm{self.generation.number}.spk"


def package_version(build: int | None = None) -> str:
    """Return the version of pyproject.toml with a build number behind it, by default the one that stands there.

    Raises
    ------
    ValueError
        If Package Center could not compare it: a letter in it, or a number beyond 32 bits.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = settings["project"]["version"]
    number = settings["tool"][PACKAGE]["spk"]["build"] if build is None else build
    parts = [*version.split("."), str(number)]
    if not all(part.isdecimal() and int(part) <= _INT32 for part in parts):
        raise ValueError(f"Package Center cannot compare version {version}, build {number}: numbers only")
    return f"{version}-{number:04d}"
