"""Runs what is in the package: unpacked anywhere, with an empty environment; arm64 files under qemu."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from spk.checks import samples, sysroot
from spk.checks.linkage import INTERPRETER
from spk.checks.opening import Package
from spk.product import PACKAGE, ROOT, TARGET

QEMU: Final = "qemu-aarch64-static"
PROBE: Final = Path(__file__).with_name("probe.py")
_LONGEST: Final = 300.0
"""Seconds for the probe; it takes a few, under qemu about ten times as many."""


def check(package: Package) -> Iterator[tuple[str, list[str]]]:
    """Yield what was run, and what went wrong with it.

    Raises
    ------
    FetchError
        If the libraries for qemu cannot be had.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = folder / "any folder" / "target"
        target.mkdir(parents=True)
        unpack = ["tar", "-xz", "--no-same-owner", "-C", str(target)]
        subprocess.run(unpack, input=package.outer["package.tgz"].data, check=True)
        (folder / "samples").mkdir()
        samples.make(folder / "samples")
        python = [*_emulator(package), str(target / INTERPRETER), "-I"]
        arguments = [str(PROBE), str(target), str(folder / "samples"), package.processor.runtime, TARGET]
        if package.processor.runtime == "x86_64":
            arguments.append("processes")  # qemu runs one program, not those that it starts
        yield from _probe([*python, *arguments], folder)
        yield "angiovault --version", _version([*python, "-m", PACKAGE, "--version"], package, folder)


def _emulator(package: Package) -> list[str]:
    if package.processor.runtime == "x86_64":
        return []
    subprocess.run(["sh", str(ROOT / "tests" / "install-peers.sh"), QEMU], check=True)
    return [QEMU, "-L", str(sysroot.path())]


def _probe(command: list[str], folder: Path) -> Iterator[tuple[str, list[str]]]:
    done = _run(command, folder)
    for line in done.stdout.splitlines():
        name, wrong = json.loads(line)
        yield name, [wrong] if wrong else []
    if done.returncode:
        yield "the probe", [f"it ended with code {done.returncode}: {done.stderr}"]


def _version(command: list[str], package: Package, folder: Path) -> list[str]:
    done = _run(command, folder)
    wanted = f"AngioVault {package.info['version'].partition('-')[0]}"
    return [] if done.stdout.strip() == wanted else [f"it says {done.stdout!r}, {done.stderr!r}, not {wanted}"]


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run with an empty environment, so that nothing of this machine's Python is used."""
    return subprocess.run(
        command, env={}, cwd=folder, check=False, capture_output=True, text=True, encoding="utf-8", timeout=_LONGEST
    )
