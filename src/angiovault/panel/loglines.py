"""The log for people: its last lines, filtered, and a copy for support without patients' names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from angiovault.logs import escape
from angiovault.logtail import last_lines, without_passwords

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LOOKED_THROUGH: Final = 4 << 20
_LATELY: Final = 1 << 18
"""Bytes at the end of a log, and so more than there are records in them."""
_HANDED_OUT: Final = 32 << 20
_LONGEST_LINE: Final = 4000

_RECORD: Final = re.compile(r"(?P<time>\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}) (?P<level>[A-Z]+) (?P<text>.*)")
# The folder of a study, DATE_NAME_ID_HASH, whose parts are `layout.clean`: no slash or blank is in them.
_STUDY_FOLDER: Final = re.compile(r"(\d{4}-\d{2}-\d{2}|undated)_[\w^.\-]*_([0-9a-f]{8})(?![\w^\-])")
# A file that was imported from, blanks and all, up to what is said of it.
_FOREIGN_PATH: Final = r"(?<![\w.:/])/(?:volume|mnt|media|home|srv|tmp|root)[^:'\"]*"
# What DSM keeps beside the shared folders, the program itself among it.
_APPLICATION: Final = r"/volume\d+/@[^\s:'\"]*"
# What an exception says may quote what it could not handle; where it happened is enough to find the fault.
_EXCEPTION: Final = re.compile(r"(    \| [A-Za-z_][\w.]*): .*")
_CODEC: Final = re.compile(r"(can't (?:en|de)code (?:character|byte)s?) .*")
_NAME_ELEMENT: Final = re.compile(r"(Patient'?s?[ ]?Name|\(0010,0010\))(\W{1,4})[^,;)]+", re.IGNORECASE)


def last_records(
    path: Path, text: str, level: str, most: int, size: int = _LOOKED_THROUGH
) -> tuple[list[dict[str, str]], bool]:
    """Return the last records that hold `text` and are of `level` or above, and whether the log begins before them.

    Of the log its last `size` bytes are looked through. A line that begins no record belongs to the one before (a
    traceback).

    Raises
    ------
    OSError
        When the log cannot be read.
    """
    lines, whole = last_lines(path, size)
    wanted, threshold = text.casefold(), LEVELS.index(level) if level in LEVELS else 0
    kept = [record for record in _records(map(_safe, lines)) if _is_wanted(record, wanted, threshold)]
    return kept[-most:], whole and len(kept) <= most


def _is_wanted(record: dict[str, str], text: str, threshold: int) -> bool:
    level = record["level"]
    high = level not in LEVELS or LEVELS.index(level) >= threshold
    return high and (not text or text in f"{record['time']} {level} {record['text']}".casefold())


def _records(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    record: dict[str, str] | None = None
    for line in lines:
        match = _RECORD.fullmatch(line)
        if match is None and record is not None and line.startswith("    | "):
            record["text"] = f"{record['text']}\n{line}"[: 5 * _LONGEST_LINE]
            continue
        if record is not None:
            yield record
        record = match.groupdict() if match else {"time": "", "level": "", "text": line}
    if record is not None:
        yield record


def _safe(line: str) -> str:
    return without_passwords(escape(line.replace("\t", "    "))[:_LONGEST_LINE])


def download(path: Path, with_names: bool, storage: str) -> Iterator[bytes]:
    """Yield the log as text, its end if it is very long.

    Parameters
    ----------
    path : Path
        The log.
    with_names : bool
        Whether patients' names and IDs stay in it.
    storage : str
        The storage root: paths below it are kept but for the names, since they say which file is meant.

    Raises
    ------
    OSError
        When the log cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _HANDED_OUT))
        if end > _HANDED_OUT:
            file.readline()
        for line in file:
            text = _safe(line.decode("utf-8", "replace").rstrip("\n"))
            yield f"{text if with_names else without_names(text, storage)}\n".encode()


def without_names(line: str, storage: str) -> str:
    """Return a line of the log without what names a patient: study folders, imported files, quoted name elements.

    A study keeps its date and the hash of its UID, by which its folder is found again.
    """
    line = _STUDY_FOLDER.sub(r"\1_***_\2", line)
    line = _EXCEPTION.sub(r"\1: ***", _CODEC.sub(r"\1 ***", line))
    line = _NAME_ELEMENT.sub(r"\1\2***", line)
    own = [_APPLICATION, *([re.escape(storage) + r"[^\s:'\"]*"] if storage else [])]
    return re.sub(f"({'|'.join(own)})|{_FOREIGN_PATH}", lambda match: match[1] or "/***", line)


class LastError:
    """The last error of the log, looked for again only when the log has changed."""

    def __init__(self) -> None:
        self._seen: tuple[Path, int, int] | None = None
        self._found: dict[str, str] | None = None

    def look(self, path: Path | None) -> dict[str, str] | None:
        """Return it, None when the end of the log has none or cannot be read."""
        if path is None:
            return None
        try:
            status = path.stat()
            seen = (path, status.st_size, status.st_mtime_ns)
            if seen != self._seen:
                records, _ = last_records(path, "", "ERROR", _LATELY, _LATELY)
                errors = [record for record in records if record["level"]]
                self._found = errors[-1] if errors else None
                self._seen = seen
        except OSError:
            return None
        return self._found
