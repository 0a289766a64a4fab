"""Logging: one line a record, to standard error or to a file that may be rotated, safe against injected text.

AE titles, names and UIDs come from the network. Nothing they hold may begin a line of its own or steer a terminal.
"""

import logging
import os
import re
import sys
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path

from angiovault.inifile import ConfigError

# Control characters (C0, C1, line and paragraph separators), marks that turn the direction of the text, and
# surrogates, which no encoding can write.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LIBRARIES = ("pynetdicom", "pydicom", "peewee")


def escape(text: str) -> str:
    r"""Replace what could break a line or steer a terminal by `\xNN` or `\uNNNN`."""
    return _UNSAFE.sub(lambda match: _code(ord(match[0])), text)


def _code(number: int) -> str:
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class EscapingFormatter(logging.Formatter):
    """`2026-11-22 11:29:37 INFO message`, escaped; the lines of a traceback follow, each indented behind a bar."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Format a record. The traceback cached in it by another formatter is not used: it may not be escaped."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        parts = [escape(self.formatMessage(record))]
        if record.exc_info:
            parts.append(_indented(self.formatException(record.exc_info)))
        if record.stack_info:
            parts.append(_indented(record.stack_info))
        return "\n".join(parts)


def _indented(text: str) -> str:
    return "\n".join(f"    | {escape(line)}" for line in text.split("\n"))


class _LogFile(WatchedFileHandler):
    """A log file that no other user reads (it names patients' studies) and whose loss never stops the archive."""

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags, 0o640)

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # reopening fails outside logging's own guard when, say, the share is not mounted
            self.handleError(record)


def set_up(level: str = "info", file: Path | None = None) -> None:
    """Log from `level` (debug, info, warning, error) on to `file`, or to standard error; may be called again.

    The libraries' own messages are shown from WARNING on, unless `level` is debug. Raises ConfigError if the file
    cannot be opened.
    """
    try:
        handler: logging.Handler = _LogFile(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    except OSError as error:
        raise ConfigError(f"log-file: {file} cannot be written: {error.strerror}") from error
    handler.setFormatter(EscapingFormatter())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each.formatter, EscapingFormatter)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    set_level(level)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Log from `level` (debug, info, warning, error) on; the libraries' messages as `set_up` says."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in _LIBRARIES:
        # Never debug for peewee: it would log every query with its values.
        quiet = level != "debug" or name == "peewee"
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING) if quiet else logging.NOTSET)
