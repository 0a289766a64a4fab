"""How large the package is, and what takes the room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from spk.checks.opening import Package
from spk.product import PYTHON_LIB, SITE_PACKAGES

MB: Final = 1_000_000
PACKED, UNPACKED = 40 * MB, 120 * MB
"""Targets for a file, and for what it becomes on the NAS."""


def check(package: Package) -> Iterator[str]:
    """Yield which target is missed."""
    packed, unpacked = package.path.stat().st_size, sum(by_component(package).values())
    if packed >= PACKED:
        yield f"the file has {packed / MB:.1f} MB, {PACKED // MB} at most were wanted"
    if unpacked >= UNPACKED:
        yield f"unpacked it has {unpacked / MB:.1f} MB, {UNPACKED // MB} at most were wanted"


def by_component(package: Package) -> Counter[str]:
    """Return the bytes of each part of the payload."""
    sizes: Counter[str] = Counter()
    for name, member in package.target.items():
        sizes[component(name)] += len(member.data)
    return sizes


def component(name: str) -> str:
    """Return which part of the payload a file belongs to."""
    if name.startswith(f"{SITE_PACKAGES}/"):
        part = name.removeprefix(f"{SITE_PACKAGES}/").split("/")[0]
        if "gdcm" in part:
            return "python-gdcm"
        if part.startswith(("peewee", "playhouse")):
            return "peewee"
        return part.split(".")[0].split("-")[0] if part != "__pycache__" else "single modules' bytecode"
    if name.startswith(f"{PYTHON_LIB}/"):
        return "standard library, bytecode" if name.endswith(".pyc") else "standard library"
    if name.startswith("python/bin/"):
        return "interpreter"
    return name.split("/")[0]


def report(package: Package) -> None:
    """Say what takes the room."""
    sizes = by_component(package)
    packed, unpacked = package.path.stat().st_size, sum(sizes.values())
    print(f"         {packed / MB:.1f} MB, unpacked {unpacked / MB:.1f} MB in {len(package.target)} files and folders:")
    for name, size in sizes.most_common(9):
        print(f"         {size / MB:7.1f} MB {name}", flush=True)
