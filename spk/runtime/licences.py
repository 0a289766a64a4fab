"""The licences of everything that is inside the bundled Python's program."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from spk.runtime.sources import Source

COMMON_LICENCES: Final = Path("/usr/share/common-licenses")

_LIBGCC: Final = """\
The program contains functions of libgcc, GCC's run-time library: GPL-3.0-or-later with the GCC Runtime Library
Exception, which allows programs that contain them to be passed on under any licence. The file "copyright" is Debian's
for this library.
"""
_ZIG: Final = """\
The program was compiled with zig and contains its start-up code and the part of the GNU C library that every program
contains (everything else is taken from the system when the program runs). LICENSE is zig's, LICENSES the GNU C
library's.
"""


def collect(into: Path, sources: list[Source], unpacked: Path, libgcc: Path, zig: Path) -> None:
    """Copy every licence into a folder of its own below `into`, and list them there.

    Parameters
    ----------
    into
        A new folder.
    sources
        What was built.
    unpacked
        The folder in which each source lies under its name.
    libgcc
        The libgcc.a that was linked, as installed by a Debian package.
    zig
        The folder of the compiler.

    Raises
    ------
    OSError
        If a licence is missing.
    """
    lines = []
    for source in sources:
        for name in source.licence_files:
            _copy(unpacked / source.name / name, into / source.name)
        lines.append(f"{source.name} {source.version}: {source.licence}\n")

    _copy(_copyright(libgcc), into / "libgcc")
    _copy(COMMON_LICENCES / "GPL-3", into / "libgcc")
    (into / "libgcc" / "README").write_text(_LIBGCC, encoding="utf-8")
    lines.append("libgcc: GPL-3.0-or-later WITH GCC-exception-3.1\n")

    _copy(zig / "LICENSE", into / "zig")
    _copy(zig / "lib" / "libc" / "glibc" / "LICENSES", into / "zig")
    (into / "zig" / "README").write_text(_ZIG, encoding="utf-8")
    lines.append("zig: MIT; GNU C library, its start-up code: LGPL-2.1-or-later with its exception for linking\n")
    (into / "python-runtime.txt").write_text("".join(lines), encoding="utf-8")


def _copyright(libgcc: Path) -> Path:
    """Return Debian's copyright file for a libgcc.a in /usr/lib/gcc/… or /usr/lib/gcc-cross/…/VERSION/."""
    suffix = "-arm64-cross" if "gcc-cross" in libgcc.parts else ""
    return Path(f"/usr/share/doc/libgcc-{libgcc.parent.name}-dev{suffix}/copyright")


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)
