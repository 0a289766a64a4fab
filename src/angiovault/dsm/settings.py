"""The settings on a NAS: as they are now, and their copy without passwords beside the images."""

from __future__ import annotations

from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from angiovault.config import DEVICE_SECTION, SETTINGS, Config, load, save
from angiovault.devices import Device, DeviceBook
from angiovault.dsm import shares
from angiovault.dsm.paths import Nas
from angiovault.dsm.shares import Place
from angiovault.dsm.texts import Problem, Text
from angiovault.inifile import ConfigError, edit_file, read_file

_COPY: Final = Path(".angiovault/settings/angiovault.ini")
_OF_THIS_NAS: Final = frozenset(("storage", "index", "archive-id", "log-file", "health-file"))
"""Settings that are found out anew on every NAS, and never taken from a copy."""
_TLS_FILES: Final = ("tls-certificate", "tls-key", "tls-client-ca")


@dataclass(frozen=True)
class Settings:
    """The settings in force, and the storage folder if they name one: there is no default for it on a NAS."""

    config: Config
    storage: Path | None


def read(nas: Nas) -> Settings:
    """Read and check all settings, devices included.

    Raises
    ------
    ConfigError
        When they cannot be used.
    """
    config = load(nas.settings)
    DeviceBook(nas.settings)
    named = read_file(nas.settings).has_option("archive", "storage")
    return Settings(config, config.storage if named else None)


def find_second(nas: Nas, place: Place, named: Path | None) -> tuple[Place, Text | None]:
    """Find the second folder that the settings name, and keep in them where it is.

    Returns
    -------
    tuple
        The archive with it, and why it cannot be used now: one that is known is no reason not to run, see `Supervisor`.

    Raises
    ------
    ConfigError
        When the settings cannot be written.
    Problem
        When there is none yet, and none can be made now.
    """
    if named is None:
        return place, None
    try:
        found = shares.find_second(nas, place, [named])
    except Problem as problem:
        if not shares.remembered_second(place)[0]:  # nothing may be made in a folder that is not mounted
            raise
        return replace(place, second=named), problem.text
    if found.second != named:
        save(nas.settings, {"second-storage": str(found.second)})
    return found, None


def signature(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file, None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


# ---- the copy


def back_up(nas: Nas, storage: Path) -> Path:
    """Copy the settings, without passwords, beside the images, so that their backup holds all that is needed.

    Nothing is written when the copy is up to date.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    ConfigError, OSError
        When they cannot be read or written.
    """
    wanted = _without_password(read_file(nas.settings))
    copy = storage / _COPY
    if copy.exists() and _content(read_file(copy)) == _content(wanted):
        return copy
    copy.parent.mkdir(mode=0o700, exist_ok=True)  # not its parents: they are the archive's, which is there or not
    with edit_file(copy) as parser:
        parser.clear()
        parser.read_dict(wanted)
    return copy


def take_over(nas: Nas, storage: Path) -> list[Text]:
    """Take from the copy beside an archive that is new to these settings what they do not have.

    The copy is that of an earlier installation, in whose place the next `back_up` puts the settings of this one. A copy
    that cannot be read is kept under another name.

    Raises
    ------
    ConfigError, OSError
        When the settings cannot be read or written.
    """
    copy = storage / _COPY
    if not copy.exists():
        return []
    try:
        read_file(copy)
    except ConfigError as error:
        copy.replace(copy.with_suffix(".unreadable"))
        return [Text("setting_not_restored", name=copy.name, reason=str(error))]
    return list(restore(nas, storage))


def _without_password(parser: ConfigParser) -> ConfigParser:
    url = parser.get("archive", "index", fallback="")
    if url:
        parts = urlsplit(url)
        user, has_user, place = parts.netloc.rpartition("@")
        host = f"{user.partition(':')[0]}@{place}" if has_user else place
        parser.set("archive", "index", urlunsplit(parts._replace(netloc=host)) if has_user else url)
    return parser


def _content(parser: ConfigParser) -> dict[str, dict[str, str]]:
    return {section: dict(parser.items(section)) for section in parser.sections()}


def restore(nas: Nas, storage: Path) -> Iterator[Text]:
    """Take from the copy beside the images what the settings do not have, devices included.

    What is set stays, unless it is what it would be by default.

    Yields
    ------
    Text
        What was taken, and what could not be.

    Raises
    ------
    ConfigError
        When the settings or the copy cannot be read, or the settings not be written.
    """
    copy = storage / _COPY
    if not copy.exists():
        yield Text("no_copy")
        return
    copied, here = read_file(copy), read_file(nas.settings)
    changes: dict[str, str | None] = {}
    for row in SETTINGS:
        if row.name in _OF_THIS_NAS or not copied.has_option(row.section, row.name):
            continue
        text, mine = copied.get(row.section, row.name), here.get(row.section, row.name, fallback=row.default)
        if mine != row.default or text == row.default:
            continue
        try:
            row.read(text, str(copy), nas.etc)
        except ConfigError as error:
            yield Text("setting_not_restored", name=row.name, reason=str(error))
        else:
            changes[row.name] = text
    if missing := [name for name in _TLS_FILES if name in changes and not (nas.etc / str(changes[name])).exists()]:
        # Better a service without TLS than none: the certificates were on the old NAS.
        for name in [name for name in changes if name.startswith("tls-")]:
            del changes[name]
        yield Text("setting_not_restored", name="tls-port", reason=", ".join(str(copied["tls"][n]) for n in missing))
    save(nas.settings, changes)
    if changes:
        yield Text("setting_restored", names=", ".join(changes))
    yield from _restore_devices(nas, copied)


def _restore_devices(nas: Nas, copied: ConfigParser) -> Iterator[Text]:
    book = DeviceBook(nas.settings)
    for section in copied.sections():
        name = section.removeprefix(DEVICE_SECTION).strip()
        if not section.startswith(DEVICE_SECTION) or book.by_name(name):
            continue
        try:
            book.add(Device.from_text(name, dict(copied.items(section)), section))
        except ConfigError as error:
            yield Text("setting_not_restored", name=section, reason=str(error))
        else:
            yield Text("setting_restored", names=section)
