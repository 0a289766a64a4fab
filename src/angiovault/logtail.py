"""The end of a log file, for those who look at it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_PASSWORD: Final = re.compile(r"(://[^\s:/@]*):[^\s@]*@")


def last_lines(path: Path, size: int) -> tuple[list[str], bool]:
    """Return the whole lines among the last `size` bytes, without the empty ones, and whether they are all.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - size))
        lines = file.read(size).decode("utf-8", "replace").split("\n")
    if end > size:
        del lines[0]  # its start is cut off
    return [line for line in lines if line], end <= size


def without_passwords(text: str) -> str:
    """Return a text with `***` in place of the passwords of URLs."""
    return _PASSWORD.sub(r"\1:***@", text)
