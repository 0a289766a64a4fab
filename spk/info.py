"""INFO, the metadata that Package Center reads, from INFO.template."""

from __future__ import annotations

import hashlib
import re
from string import Template
from typing import Final

from spk.product import Release

LINE: Final = re.compile(r'(\w+)="([^"$`\\]*)"')
"""A line as every reader of INFO takes it: Synology's toolkit lets a shell read the file."""


def parse(text: str) -> dict[str, str]:
    """Return the keys of an INFO file and their values.

    Raises
    ------
    ValueError
        If a line is not key="value", or a key is there twice.
    """
    values: dict[str, str] = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if not match or match[1] in values:
            raise ValueError(f"INFO: this line cannot be read, or its key is there twice: {line}")
        values[match[1]] = match[2]
    return values


def make(template: str, release: Release, package_tgz: bytes) -> bytes:
    """Return INFO for one file.

    Raises
    ------
    KeyError, ValueError
        If the template asks for a value that there is none of, or would not be read back.
    """
    lines = [line for line in template.splitlines() if line and not line.startswith("#")]
    text = Template("\n".join(lines) + "\n").substitute(
        version=release.version,
        # DSM 7 knows the family; DSM 6.1 has platforms that its table of families lacks.
        arch=release.processor.platforms if release.generation.number == 6 else release.processor.name,
        os_min_ver=release.generation.os_min_ver,
        os_max_ver=release.generation.os_max_ver,
        # The last four bytes of a gzip file are the length of what is in it (RFC 1952 2.3.1).
        extractsize=int.from_bytes(package_tgz[-4:], "little") >> 10,
        checksum=hashlib.md5(package_tgz, usedforsecurity=False).hexdigest(),
    )
    parse(text)
    return text.encode()
