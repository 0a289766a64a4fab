"""Opens a finished .spk file, with nothing but what stands in it."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spk.info import parse
from spk.product import GENERATIONS, PROCESSORS, Generation, Processor

_BLOCK: Final = 512


class Refused(Exception):
    """The file is none that Package Center would open."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive: what its header says, and its content."""

    header: tarfile.TarInfo
    data: bytes


@dataclass(frozen=True, slots=True)
class Package:
    """An opened .spk file."""

    path: Path
    processor: Processor
    generation: Generation
    info: dict[str, str]
    outer: dict[str, Member]
    target: dict[str, Member]
    """package.tgz: what will lie in target/ on the NAS."""
    kinds: list[tuple[str, str]]
    """(name, type) of all headers in both archives, those included that Python's tarfile swallows."""


def open_package(path: Path) -> Package:
    """Open an .spk file.

    Raises
    ------
    Refused
        If that is not possible; the text says why.
    OSError
        If it cannot be read.
    """
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        raise Refused("the outer tar file is compressed: Package Center refuses it (error 263)")
    try:
        outer = _members(raw)
        package_tgz = outer["package.tgz"].data
        inner = gzip.decompress(package_tgz)
        info = parse(outer["INFO"].data.decode())
        processor = next(known for known in PROCESSORS if known.name in info["arch"].split())
        generation = next(known for known in GENERATIONS if known.os_min_ver == info["os_min_ver"])
        kinds = [*headers(raw), *headers(inner)]
        return Package(path, processor, generation, info, outer, _members(inner), kinds)
    except KeyError as error:
        raise Refused(f"{error} is missing") from error
    except StopIteration as error:
        raise Refused("INFO names no processor or no os_min_ver that is known here") from error
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise Refused(str(error)) from error


def _members(data: bytes) -> dict[str, Member]:
    found: dict[str, Member] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for header in tar:
            if header.name in found:
                raise ValueError(f"{header.name} is there twice")
            file = tar.extractfile(header) if header.isreg() else None
            found[header.name] = Member(header, file.read() if file else b"")
    return found


def headers(tar: bytes) -> Iterator[tuple[str, str]]:
    """Go through the headers of a tar file: name and type flag (POSIX.1-2017 pax, ustar Interchange Format)."""
    position = 0
    while position + _BLOCK <= len(tar):
        block = tar[position : position + _BLOCK]
        if not block.strip(b"\0"):
            return
        size = int(block[124:136].strip(b"\0 ") or b"0", 8)
        yield block[:100].rstrip(b"\0").decode("utf-8", "replace"), chr(block[156])
        position += _BLOCK + (size + _BLOCK - 1) // _BLOCK * _BLOCK
