"""What the dynamic linker reads of ELF files (System V ABI, chapters 4 and 5), by pyelftools."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from typing import Final

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

MAGIC: Final = b"\x7fELF"
_ENTRY: Final = struct.Struct("<qQ")
_DT_NEEDED: Final = 1


@dataclass(slots=True)
class Linkage:
    """What one file asks of others."""

    machine: str
    soname: str = ""
    needed: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    """RPATH and RUNPATH, with $ORIGIN as it stands there."""
    versions: list[tuple[str, str]] = field(default_factory=list)
    """(library, version of symbols) that must be there."""
    undefined: set[str] = field(default_factory=set)
    """Symbols that come from elsewhere."""
    defined: set[str] = field(default_factory=set)
    executable_stack: bool = False


def is_elf(data: bytes) -> bool:
    """Return whether a file's content is an ELF file."""
    return data.startswith(MAGIC)


def read(data: bytes) -> Linkage:
    """Return what the dynamic linker will read of a file.

    Raises
    ------
    elftools.common.exceptions.ELFError
        If it is broken.
    """
    file = ELFFile(io.BytesIO(data))
    linkage = Linkage(file["e_machine"])
    has_stack_header = False
    for segment in file.iter_segments():
        if isinstance(segment, DynamicSegment):
            for tag in segment.iter_tags():
                _take(linkage, tag)
        elif segment["p_type"] == "PT_GNU_STACK":
            has_stack_header = True
            linkage.executable_stack = bool(segment["p_flags"] & 1)
    if not has_stack_header:
        linkage.executable_stack = True  # the kernel's default for files that do not say
    for section in file.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            linkage.versions += [(of.name, one.name) for of, ones in section.iter_versions() for one in ones]
        elif isinstance(section, SymbolTableSection) and section["sh_type"] == "SHT_DYNSYM":
            for symbol in section.iter_symbols():
                known = linkage.undefined if symbol["st_shndx"] == "SHN_UNDEF" else linkage.defined
                known.add(symbol.name)
    return linkage


def _take(linkage: Linkage, tag: object) -> None:
    kind = tag.entry.d_tag  # type: ignore[attr-defined]
    if kind == "DT_NEEDED":
        linkage.needed.append(tag.needed)  # type: ignore[attr-defined]
    elif kind == "DT_SONAME":
        linkage.soname = tag.soname  # type: ignore[attr-defined]
    elif kind == "DT_RPATH":
        linkage.search += tag.rpath.split(":")  # type: ignore[attr-defined]
    elif kind == "DT_RUNPATH":
        linkage.search += tag.runpath.split(":")  # type: ignore[attr-defined]


def without_needed(data: bytes, prefix: str) -> bytes:
    """Return an ELF file that no longer names the libraries whose name starts with `prefix` as needed.

    Raises
    ------
    ValueError
        If it names none, or asks for versions of their symbols, so that it does use them.
    """
    linkage = read(data)
    if any(library.startswith(prefix) for library, _ in linkage.versions):
        raise ValueError(f"it uses symbols of {prefix}*")
    file = ELFFile(io.BytesIO(data))
    dynamic = next(segment for segment in file.iter_segments() if isinstance(segment, DynamicSegment))
    start, size = dynamic["p_offset"], dynamic["p_filesz"]
    unwanted = {
        tag.entry.d_val
        for tag in dynamic.iter_tags("DT_NEEDED")
        if tag.needed.startswith(prefix)
    }  # fmt: skip
    if not unwanted:
        raise ValueError(f"it does not name {prefix}* as needed")
    entries = [
        entry for entry in _ENTRY.iter_unpack(data[start : start + size])
        if entry[0] != _DT_NEEDED or entry[1] not in unwanted
    ]  # fmt: skip
    table = b"".join(_ENTRY.pack(*entry) for entry in entries)
    return data[:start] + table.ljust(size, b"\0") + data[start + size :]
