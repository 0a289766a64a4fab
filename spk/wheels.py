"""The Python packages in the product: the wheels pinned in requirements/runtime.txt, and the one made of src/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from spk import cache, elf
from spk.product import EPOCH, PACKAGE, ROOT, Processor

REQUIREMENTS: Final = ROOT / "requirements" / "runtime.txt"
PYTHON: Final = "3.13"

LEFT_OUT: Final = (
    "*/tests/*",
    "*.data/scripts/*",
    "*.dist-info/RECORD",  # it would name files that are not there
    "peewee-stubs/*",
    "pwiz.py",
    "pydicom/data/charset_files/*",
    "pydicom/data/test_files/*",
    "pynetdicom/apps/*",
    "pynetdicom/benchmarks/*",
)
"""Files of wheels that the service never reads."""

GDCM: Final = (
    "gdcm.py",
    "_gdcm/__init__.py",
    "_gdcm/gdcm.py",
    "_gdcm/gdcmswig.py",
    "_gdcm/_gdcmswig.so",
    "_gdcm/libgdcm*.so.3.0",
    "_gdcm/libgdcmcharls.so.2",
    "_gdcm/libgdcmexpat.so.2.0",
    "_gdcm/libgdcmopenjp2.so.7",
    "_gdcm/libsocketxx.so.1.2",
    "python_gdcm.libs/libcrypto-*",
    "python_gdcm-*",
)
"""All that is taken of python-gdcm: it brings each library three times, its programs, and Kerberos."""

UNLINKED: Final = {"_gdcm/libgdcmCommon.so.3.0": "libssl-"}
"""Libraries that a file names as needed and uses nothing of; GDCM's libssl would bring Kerberos with it."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A line of requirements/runtime.txt."""

    name: str
    version: str
    hashes: frozenset[str]


def pins(text: str) -> list[Pin]:
    """Return the requirements of a file that `make requirements` wrote.

    Raises
    ------
    ValueError
        If one has no hash.
    """
    found = []
    joined = re.sub(r"\\\n", " ", text)
    for line in joined.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", line):
            hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
            if not hashes:
                raise ValueError(f"{match[1]} is not pinned by hash")
            found.append(Pin(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2], hashes))
    return found


def fetch(processor: Processor) -> list[Path]:
    """Return the pinned wheels for a processor, fetched by pip where the cache lacks them.

    Raises
    ------
    FetchError
        If one cannot be had.
    """
    wanted = pins(REQUIREMENTS.read_text(encoding="utf-8"))
    folder = cache.folder(f"wheels-cp{PYTHON.replace('.', '')}-{processor.runtime}")
    if len(found := _matching(folder, wanted)) < len(wanted):
        print(f"fetching wheels for {processor.name} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            _download(processor, Path(unfinished))
            for wheel in Path(unfinished).glob("*.whl"):
                wheel.replace(folder / wheel.name)
        found = _matching(folder, wanted)
    if missing := [pin.name for pin in wanted if pin.name not in found]:
        raise cache.FetchError(f"no wheel for glibc 2.17, {processor.runtime}, Python {PYTHON}: {', '.join(missing)}")
    return [found[pin.name] for pin in wanted]


def _matching(folder: Path, wanted: list[Pin]) -> dict[str, Path]:
    """Return name -> wheel of those in the folder that are the pinned ones to the byte."""
    found = {}
    for wheel in sorted(folder.glob("*.whl")):
        name = wheel.name.split("-")[0].replace("_", "-").lower()
        if any(pin.name == name and cache.digest(wheel) in pin.hashes for pin in wanted):
            found[name] = wheel
    return found


def _download(processor: Processor, into: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--requirement", str(REQUIREMENTS), "--dest", str(into)]
    command += ["--python-version", PYTHON, "--implementation", "cp"]
    for tag in ("manylinux_2_17", "manylinux2014"):
        command += ["--platform", f"{tag}_{processor.runtime}"]
    for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    if subprocess.run(command, check=False).returncode:
        raise cache.FetchError(f"pip could not fetch the wheels for {processor.runtime}")


def own_wheel(folder: Path) -> Path:
    """Return the wheel of src/, made in `folder` from a copy, so that nothing is left in the checkout.

    Raises
    ------
    subprocess.CalledProcessError
        If it cannot be made.
    """
    copy = folder / PACKAGE
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(copy)]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)})
    return next(folder.glob("*.whl"))


def unpack(wheel: Path, site_packages: Path) -> None:
    """Unpack what the product needs of a wheel.

    Raises
    ------
    ValueError
        If a name in it leads elsewhere, or it installs outside the folder of packages.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in _wanted(wheel.name, archive.namelist()):
            path = site_packages / name
            if not path.resolve().is_relative_to(site_packages.resolve()) or ".data/" in name:
                raise ValueError(f"{wheel.name}: {name} does not lie in the folder of packages")
            data = archive.read(name)
            if unwanted := UNLINKED.get(name):
                data = elf.without_needed(data, unwanted)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o755 if ".so" in path.name else 0o644)


def _wanted(wheel: str, names: list[str]) -> Iterator[str]:
    taken = GDCM if wheel.startswith("python_gdcm-") else ("*",)
    for name in names:
        if name.endswith("/") or any(fnmatchcase(name, pattern) for pattern in LEFT_OUT):
            continue
        if any(fnmatchcase(name, pattern) for pattern in taken):
            yield name
