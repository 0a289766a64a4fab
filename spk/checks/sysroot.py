"""The arm64 libraries with which qemu-aarch64-static runs our files: Debian's, unpacked into the cache."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Final

from spk import cache

PACKAGES: Final = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g")
"""What DSM has of its own, see `linkage.SYSTEM`."""


def path() -> Path:
    """Return the folder that stands for / on arm64, fetched by apt (which checks its signatures) if it is missing.

    apt gets lists of its own: nothing is installed, and the machine's list of architectures stays as it is.

    Raises
    ------
    FetchError
        If it cannot be had.
    """
    finished = cache.folder("sysroot") / "arm64"
    if finished.is_dir():
        return finished
    print("fetching the arm64 libraries for qemu ...", flush=True)
    with tempfile.TemporaryDirectory(dir=finished.parent) as name:
        folder = Path(name)
        try:
            _download(folder)
            for package in sorted(folder.glob("*.deb")):
                subprocess.run(["dpkg-deb", "--extract", str(package), str(folder / "tree")], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise cache.FetchError(f"the arm64 libraries for qemu cannot be had: {error}") from error
        if not finished.is_dir():  # another check may have been quicker
            (folder / "tree").rename(finished)
    return finished


def _download(folder: Path) -> None:
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": folder / "status",
        "Dir::Cache": folder / "cache",
    }
    command = ["apt-get", "-qq", *(f"--option={key}={value}" for key, value in options.items())]
    subprocess.run([*command, "update"], check=True)
    subprocess.run([*command, "download", *PACKAGES], check=True, cwd=folder)
