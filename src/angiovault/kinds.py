"""Kinds of settings: what is allowed, in words, and how the text is read."""

import ipaddress
import re
from collections.abc import Callable, Iterable
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from angiovault.indexurl import IndexURL


@dataclass(frozen=True)
class Kind:
    """A type of setting. `read` takes the text and the folder relative paths start at; it raises ValueError.

    `limits` are the least and the greatest number of a kind of numbers, `words` those of a choice.
    """

    type: str
    allowed: str
    read: Callable[[str, Path], Any]
    secret: bool = False
    limits: tuple[int, int] | None = None
    words: tuple[str, ...] = ()


def read_ae_title(text: str) -> str:
    """Check an AE title (PS3.5 6.2, VR AE); blanks around it mean nothing. Raises ValueError."""
    title = text.strip(" ")
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", title):
        raise ValueError
    return title


def integer(low: int, high: int) -> Kind:
    """Make the kind of a whole number from `low` to `high`."""

    def read(text: str, _base: Path) -> int:
        # Not int() alone: it also takes signs, underscores and digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Kind("number", f"a whole number from {low} to {high}", read, limits=(low, high))


def choice(values: Iterable[str], make: Callable[[str], Any] = str) -> Kind:
    """Make the kind of one word of a list, written in upper or lower case; `make` turns the word into the value."""
    words = {value.lower(): value for value in values}

    def read(text: str, _base: Path) -> Any:
        if text.lower() not in words:
            raise ValueError
        return make(words[text.lower()])

    return Kind("choice", f"one of: {', '.join(words.values())}", read, words=tuple(words.values()))


def _read_ip(text: str, _base: Path) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError from None  # its message says less than ours


def _path(text: str, base: Path) -> Path:
    try:
        return base.absolute() / Path(text).expanduser()
    except RuntimeError:
        raise ValueError("there is no such home folder") from None


def _read_folder(text: str, base: Path) -> Path:
    if not text:
        raise ValueError
    return _path(text, base)


def _read_path_or_none(text: str, base: Path) -> Path | None:
    return _path(text, base) if text else None


def _read_index(text: str, base: Path) -> IndexURL | None:
    return IndexURL.parse(text, base) if text else None


def _read_archive_id(text: str, _base: Path) -> str:
    if not re.fullmatch(r"([0-9a-f]{32})?", text.lower()):
        raise ValueError
    return text.lower()


def _read_bool(text: str, _base: Path) -> bool:
    if text.lower() not in ConfigParser.BOOLEAN_STATES:
        raise ValueError
    return ConfigParser.BOOLEAN_STATES[text.lower()]


AE_TITLE = Kind(
    "AE title",
    "1 to 16 ASCII characters, not only blanks, without backslash and control characters",
    lambda text, _base: read_ae_title(text),
)
IP = Kind("IP address", "an IPv4 or IPv6 address of this machine", _read_ip)
YES_NO = Kind("yes or no", "yes or no", _read_bool)
FOLDER = Kind("folder", "a folder's path", _read_folder)
FOLDER_OR_NONE = Kind("folder", "a folder's path, or empty", _read_path_or_none)
FILE = Kind("file", "a file's path, or empty", _read_path_or_none)
ARCHIVE_ID = Kind("id", "32 hexadecimal digits, or empty", _read_archive_id)
INDEX = Kind(
    "URL",
    "sqlite:///relative/file, sqlite:////absolute/file, mysql://user:password@/database?unix_socket=/path, "
    "mysql://user:password@host:port/database, or empty",
    _read_index,
    secret=True,
)
