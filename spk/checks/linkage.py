"""What the ELF files ask of the NAS: DSM 6.1 has glibc 2.20 and GCC 4.9's libraries, we stay at glibc 2.17."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Final

from elftools.common.exceptions import ELFError

from spk import elf
from spk.checks.opening import Package

NEWEST: Final = {
    "GLIBC": (2, 17),
    "GLIBCXX": (3, 4, 20),
    "CXXABI": (1, 3, 8),
    "GCC": (4, 8, 0),
    "ZLIB": (1, 2, 8),
}
"""The newest version of symbols of the system's libraries that may be asked for."""
GLIBC: Final = frozenset(
    {
        *("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libresolv.so.2"),
        *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    }
)
SYSTEM: Final = GLIBC | {"libgcc_s.so.1", "libstdc++.so.6", "libz.so.1"}
"""What DSM has everywhere; all else the package must bring."""
INTERPRETER: Final = "python/bin/python3"
FROM_GLIBC: Final = {
    "x86_64": frozenset({"memcpy", "memmove", "memset", "log2", "exp", "log", "pow", "sin", "fma"}),
    "armv8": frozenset({"memcpy", "memmove", "memset", "log2", "exp", "log", "pow", "sin"}),  # fma is an instruction
}
"""What the interpreter must take from glibc: the compiler's own replacements compute log2 and fma wrong."""
_MACHINES: Final = {"x86_64": "EM_X86_64", "armv8": "EM_AARCH64"}


def check(package: Package) -> Iterator[str]:
    """Yield what the dynamic linker of the oldest DSM would choke on."""
    files: dict[str, elf.Linkage] = {}
    for name, member in package.target.items():
        if elf.is_elf(member.data):
            try:
                files[name] = elf.read(member.data)
            except ELFError as error:
                yield f"{name}: a broken ELF file: {error}"
    for name, linkage in files.items():
        for problem in (
            *_machine(linkage, package.processor.name),
            *_versions(linkage),
            *_libraries(name, linkage, files),
        ):
            yield f"{name}: {problem}"
    interpreter = files.get(INTERPRETER)
    if interpreter is None:
        yield f"{INTERPRETER} is no ELF file"
    elif missing := FROM_GLIBC[package.processor.name] - interpreter.undefined:
        yield f"{INTERPRETER}: {', '.join(sorted(missing))} do not come from glibc"


def _machine(linkage: elf.Linkage, processor: str) -> Iterator[str]:
    if linkage.machine != _MACHINES[processor]:
        yield f"it is made for {linkage.machine}"
    if linkage.executable_stack:
        yield "its stack would be executable"


def _versions(linkage: elf.Linkage) -> Iterator[str]:
    for library, version in linkage.versions:
        if library not in SYSTEM:
            continue  # a library of ours: it brings the versions that it was linked with
        family, _, number = version.partition("_")
        parts = number.split(".")
        if family not in NEWEST or not all(part.isdecimal() for part in parts):
            yield f"it needs {version} of {library}, which an old system may not have"
        elif tuple(map(int, parts)) > NEWEST[family]:
            yield f"it needs {version} of {library}, {family}_{'.'.join(map(str, NEWEST[family]))} at most is there"


def _libraries(name: str, linkage: elf.Linkage, files: Mapping[str, elf.Linkage]) -> Iterator[str]:
    folders = []
    for entry in linkage.search:
        folder = posixpath.normpath(
            entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", posixpath.dirname(name), 1)
        )
        if not entry.startswith(("$ORIGIN", "${ORIGIN}")) or folder.startswith(".."):
            yield f"it searches libraries outside the package: {entry or 'an empty path'}"
        folders.append(folder)
    for library in linkage.needed:
        if library not in SYSTEM and not any(posixpath.join(folder, library) in files for folder in folders):
            yield f"it needs {library}, which it does not find in the package"
