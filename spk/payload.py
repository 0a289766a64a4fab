"""python/ and licences/ of one processor: the runtime, the wheels, bytecode. Everything else is in members.py."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from spk import licences, runtime, wheels
from spk.product import SITE_PACKAGES, TARGET, Processor

BUILD_MACHINE: Final = "x86_64"
"""The processor whose runtime does the work."""


def unpack_runtime(processor_runtime: str, folder: Path) -> None:
    """Unpack our own CPython.

    Raises
    ------
    BuildError, subprocess.CalledProcessError
        If it cannot be built or unpacked.
    """
    folder.mkdir()
    archive = runtime.archive(processor_runtime)
    subprocess.run(["tar", "-x", "--no-same-owner", "-f", str(archive), "-C", str(folder)], check=True)


def stage(processor: Processor, folder: Path) -> Path:
    """Return a folder, made in `folder`, with python/ and licences/ as they are to lie in target/.

    Raises
    ------
    FetchError, LicenceError, ValueError, subprocess.CalledProcessError
        If a part cannot be had, may not be shipped, or cannot be used.
    """
    tree, scratch = folder / "tree", folder / "scratch"
    scratch.mkdir()
    unpack_runtime(processor.runtime, tree)
    fetched = wheels.fetch(processor)
    for wheel in [*fetched, wheels.own_wheel(scratch)]:
        wheels.unpack(wheel, tree / SITE_PACKAGES)
    licences.collect(fetched, tree / "licences")
    compile_all(tree, build_python(folder))
    return tree


def build_python(folder: Path) -> Path:
    """Return our own Python for this machine, unpacked: it compiles for every processor, and compresses.

    So the result does not depend on the Python and the zlib of the machine that builds.
    """
    tree = folder / "build-python"
    if not tree.exists():
        unpack_runtime(BUILD_MACHINE, tree)
    return tree / "python" / "bin" / "python3"


def compile_all(tree: Path, python: Path) -> None:
    """Compile the packages, with the path that they will have on the NAS, never to be compared with their source.

    The standard library comes compiled. The folder is not writable for the service: what is not compiled here would be
    compiled at every start.

    Raises
    ------
    subprocess.CalledProcessError
        If a module does not compile.
    """
    command = [str(python), "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(tree), "-p", TARGET, str(tree / SITE_PACKAGES)]
    subprocess.run(command, check=True)


def gzip(data: bytes, python: Path) -> bytes:
    """Return data compressed, without name and time.

    xz would save a third of 25 MB and cost a NAS several times as long to unpack; level 9 would save 1 %.

    Raises
    ------
    subprocess.CalledProcessError
        If that fails.
    """
    program = "import gzip, sys; sys.stdout.buffer.write(gzip.compress(sys.stdin.buffer.read(), 6, mtime=0))"
    return subprocess.run([str(python), "-I", "-c", program], input=data, check=True, capture_output=True).stdout
