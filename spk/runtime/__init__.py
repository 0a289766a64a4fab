"""The Python that the package brings along: CPython for glibc 2.17, in one folder that can lie anywhere.

`archive("x86_64")` returns it from the cache, or builds it (build.sh) from pinned sources (sources.toml).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spk import cache
from spk.product import ROOT
from spk.runtime import licences, sources

ARCHITECTURES: Final = ("x86_64", "aarch64")
VERSION: Final = "3.13.5"
PROGRAMS: Final = (
    *("make", "gcc", "cc-headers", "readelf", "perl", "tclsh", "tar", "xz", "patch"),
    *("autoconf", "automake", "libtoolize", "ltdl-headers", "libgcc-arm64"),
)
"""What the build needs, as tests/install-peers.sh calls it."""

_HERE: Final = Path(__file__).parent
_STEPS: Final = ("tools", "zlib", "bzip2", "xz", "libffi", "sqlite", "openssl", "python", "tree", "check")
_SHOWN: Final = 30  # lines of a failed step's log
_EPOCH: Final = "1749600000"  # the day of CPython 3.13.5's release, for whatever wants to know when it was compiled


class BuildError(Exception):
    """The bundled Python cannot be built; the text says why and what to do."""


def archive(arch: str) -> Path:
    """Return the bundled Python for an architecture, built now if it is not in the cache.

    Parameters
    ----------
    arch
        One of `ARCHITECTURES`.

    Returns
    -------
    Path
        An .tar.xz file with the folders `python` (bin/python3, lib/python3.13) and `licences`.

    Raises
    ------
    BuildError
        If it cannot be built.
    """
    if arch not in ARCHITECTURES:
        raise BuildError(f"the bundled Python is built for {' and '.join(ARCHITECTURES)}, not for {arch}")
    if os.uname().machine != "x86_64":
        raise BuildError("the bundled Python can only be built on a machine with an x86_64 processor")
    _install_programs()
    libgcc = _libgcc(arch)
    result = cache.folder("runtime") / f"python-{VERSION}-{arch}-{_stamp(libgcc)}.tar.xz"
    with _locked(result.with_name(f"{arch}.lock")):
        if not result.is_file():
            _build(arch, libgcc, result)
    return result


def _install_programs() -> None:
    """Install what the build needs; for anybody but root the script names the line to run."""
    command = ["sh", str(ROOT / "tests" / "install-peers.sh"), *PROGRAMS]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        raise BuildError(f"the bundled Python cannot be built without these programs: {' '.join(PROGRAMS)}")


def _libgcc(arch: str) -> Path:
    """Return the libgcc.a of the installed GCC for an architecture."""
    if arch == "aarch64":
        return Path("/usr/lib/gcc-cross/aarch64-linux-gnu/12/libgcc.a")
    done = subprocess.run(["gcc", "-print-libgcc-file-name"], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())


def _stamp(libgcc: Path) -> str:
    """Return a digest of everything that determines the result."""
    total = hashlib.sha256(libgcc.read_bytes())
    for file in sorted(_HERE.iterdir()):
        if file.suffix in {".py", ".sh", ".toml", ".txt"}:
            total.update(f"{file.name} {cache.digest(file)}\n".encode())
    return total.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep others, in this process or in another, from building the same at the same time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(arch: str, libgcc: Path, result: Path) -> None:
    began = time.monotonic()
    work = result.with_name(f"work-{arch}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    _say(arch, began, f"building CPython {VERSION} in {work}")

    table = sources.load()
    try:
        for source in table:
            _say(arch, began, f"unpacking {source.name} {source.version}")
            source.unpack(work / "src" / source.name)
    except sources.SourceError as error:
        raise BuildError(str(error)) from error
    _say(arch, began, "installing the compiler")
    zig = _install_zig(work)

    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(work),
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": _EPOCH,
        "PYTHONHASHSEED": "0",
        "ZIG_GLOBAL_CACHE_DIR": str(work / "zig-cache"),
        "ZIG_LOCAL_CACHE_DIR": str(work / "zig-cache"),
        "ZIG": str(zig / "zig"),
        "LIBGCC": str(libgcc),
        "BUILD_PYTHON": str(_build_python(arch, work)),
        "JOBS": str(os.cpu_count() or 1),
    }
    for step in _STEPS:
        _say(arch, began, step)
        _step(arch, work, step, environment)
    licences.collect(work / "out" / "licences", table, work / "src", libgcc, zig)

    unfinished = work / result.name
    _pack(work / "out", unfinished)
    unfinished.rename(result)
    shutil.rmtree(work)
    _say(arch, began, f"done: {result}")


def _install_zig(work: Path) -> Path:
    """Install the pinned compiler and return its folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--require-hashes", "--only-binary", ":all:", "--no-deps", "--target", str(work / "zig")]
    command += ["--root-user-action", "ignore"]
    if subprocess.run([*command, "-r", str(_HERE / "zig.txt")], check=False, stdout=sys.stderr).returncode:
        raise BuildError("pip could not install the compiler that zig.txt names")
    return work / "zig" / "ziglang"


def _build_python(arch: str, work: Path) -> Path:
    """Return the Python that helps to build: for x86_64 the one that is built, else the finished one for x86_64."""
    if arch == "x86_64":
        return work / "out" / "python" / "bin" / "python3"
    helper = work / "build-python"
    helper.mkdir()
    subprocess.run(["tar", "-x", "--no-same-owner", "-f", str(archive("x86_64")), "-C", str(helper)], check=True)
    return helper / "python" / "bin" / "python3"


def _step(arch: str, work: Path, step: str, environment: dict[str, str]) -> None:
    log = work / f"{step}.log"
    command = ["sh", str(_HERE / "build.sh"), arch, str(work), step]
    with log.open("wb") as file:
        done = subprocess.run(command, check=False, env=environment, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:]
        raise BuildError("\n".join([*end, f"the step {step} failed; all that it said: {log}"]))


def _pack(folder: Path, file: Path) -> None:
    """Write the folder's content in such a way that equal files give equal archives."""
    tar = ["tar", "-c", "-J", "-f", str(file), "-C", str(folder), "--sort=name", "--owner=root:0", "--group=root:0"]
    tar += [f"--mtime=@{_EPOCH}", "--mode=u=rwX,go=rX", "--format=gnu", "python", "licences"]
    subprocess.run(tar, check=True, env={**os.environ, "XZ_OPT": "-9"})


def _say(arch: str, began: float, text: str) -> None:
    print(f"{arch} {time.monotonic() - began:4.0f} s  {text}", file=sys.stderr, flush=True)
