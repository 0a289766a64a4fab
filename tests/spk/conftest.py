"""The packages that `make spk` makes, from what is kept of the last build where nothing has changed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spk.product import ROOT

Build = Callable[..., tuple[Path, str]]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Run the builder of a checkout for one file; return the file and what was said."""

    def run(checkout: Path, arch: str, generation: int, *options: str) -> tuple[Path, str]:
        out = tmp_path_factory.mktemp("dist")
        command = [sys.executable, "-m", "spk", "build", "--arch", arch, "--generation", str(generation), "--out", out]
        done = subprocess.run([*command, *options], cwd=checkout, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (made,) = out.iterdir()
        return made, done.stdout

    return run


@pytest.fixture(scope="session")
def intel_spk(build: Build) -> Path:
    return build(ROOT, "x86_64", 7)[0]


@pytest.fixture(scope="session")
def arm_spk(build: Build) -> Path:
    return build(ROOT, "armv8", 6)[0]
