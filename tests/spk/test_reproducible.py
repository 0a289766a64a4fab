"""Two builds from two folders give the same bytes."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spk.product import ROOT, package_version

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Build = Callable[..., tuple[Path, str]]


def checkout(folder: Path) -> Path:
    """Copy what git would give to somebody else, and files not committed yet, with the time of the copying."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_two_builds_from_two_folders_are_identical(build: Build, tmp_path: Path) -> None:
    first = checkout(tmp_path / "one")
    second = checkout(tmp_path / "another one" / "deeper")
    one, _ = build(first, "x86_64", 7)
    other, said = build(second, "x86_64", 7)
    assert "making the payload" in said
    assert one.name == other.name == f"angiovault-{package_version()}-x86_64-dsm7.spk"
    assert one.read_bytes() == other.read_bytes()
    # Nothing is left in the checkout but the folder that git does not see.
    assert {path.name for path in first.iterdir()} - {path.name for path in ROOT.iterdir()} <= {"build"}
    # Another build number needs no new payload.
    older, said = build(first, "x86_64", 7, "--build", "0")
    assert "making the payload" not in said
    assert older.name == f"angiovault-{package_version(0)}-x86_64-dsm7.spk"
    assert older.read_bytes() != one.read_bytes()
