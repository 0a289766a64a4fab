"""The configuration file as text: read with errors for people, written durably."""

import fcntl
import io
import os
from collections.abc import Iterator
from configparser import (
    ConfigParser,
    DuplicateOptionError,
    DuplicateSectionError,
    MissingSectionHeaderError,
    ParsingError,
)
from contextlib import contextmanager
from pathlib import Path


class ConfigError(Exception):
    """A setting that cannot be used. The message names the place, the value and what is allowed."""


def read_file(path: Path) -> ConfigParser:
    """Parse the INI file without judging its content. Raises ConfigError naming the line, never quoting it."""
    parser = _new_parser()
    try:
        with path.open(encoding="utf-8-sig") as file:
            parser.read_file(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: the configuration file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the configuration file is not UTF-8 text") from None
    except DuplicateSectionError as error:
        raise ConfigError(f"{path}, line {error.lineno}: section [{error.section}] is there twice") from None
    except DuplicateOptionError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.option} is there twice in [{error.section}]") from None
    except MissingSectionHeaderError as error:
        raise ConfigError(f"{path}, line {error.lineno}: a [section] line must come first") from None
    except ParsingError as error:
        raise ConfigError(f"{path}, line {error.errors[0][0]}: expected 'name = value' or '[section]'") from None
    return parser


@contextmanager
def edit_file(path: Path) -> Iterator[ConfigParser]:
    """Change the INI file: yields its content, and writes it when the block ends without an exception.

    Writers exclude one another; the new file (mode 0600, the old one's owner) replaces the old one at once and durably.
    """
    target = Path(os.path.realpath(path))  # through a symbolic link, or the link itself would be replaced
    try:
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            parser = read_file(target) if target.exists() else _new_parser()
            yield parser
            _replace(target, parser)
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"{path}: the configuration file cannot be written: {error.strerror}") from error


def _new_parser() -> ConfigParser:
    # No inline comments: a password may hold '#' or ';'. No default section: its values would leak into all others.
    return ConfigParser(interpolation=None, delimiters=("=",), empty_lines_in_values=False, default_section="")


def _replace(target: Path, parser: ConfigParser) -> None:
    text = io.StringIO()
    parser.write(text)
    try:
        data = text.getvalue().encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{target}: a value holds bytes that are not UTF-8 text") from None
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)  # left behind by a crash: the lock says nobody else is writing it
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            owner = target.stat() if target.exists() else None
            if owner and owner.st_uid != os.geteuid():  # root edits, the service's user must still be able to read
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
