"""Every setting, once: name, section, type, default, what is allowed, help.

The fields of `Config` are the one table. The INI file, the flags of `angiovault serve`, the reference in
`docs/settings.md` and the attributes the program reads (`config.port`) all come from them.
"""
# ruff: noqa: RUF009 - setting() makes a dataclasses.field()

import argparse
import dataclasses
import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from angiovault.indexurl import IndexURL
from angiovault.inifile import ConfigError, edit_file, read_file
from angiovault.kinds import (
    AE_TITLE,
    ARCHIVE_ID,
    FILE,
    FOLDER,
    FOLDER_OR_NONE,
    INDEX,
    IP,
    YES_NO,
    Kind,
    choice,
    integer,
)

CONFIG_VARIABLE = "ANGIOVAULT_CONFIG"
DEFAULT_FILE = "angiovault.ini"
DEVICE_SECTION = "device "

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class UnknownDevices(StrEnum):
    """What callers may do that are not configured as devices."""

    REFUSE = "refuse"
    ECHO = "echo"
    STORE = "store"
    ALL = "all"


# --- The table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    `default` is the text as in the file, None if the setting must be given; `flag` is the placeholder of its
    command-line flag, empty if it has none.
    """

    attribute: str
    name: str
    section: str
    kind: Kind
    default: str | None
    help: str
    flag: str

    def read(self, text: str, place: str, base: Path) -> Any:
        """Turn `text` into the typed value; `place` says where it stands, for messages. Raises ConfigError."""
        if _CONTROL.search(text):
            raise ConfigError(f"{place}: the value holds a control character or goes on over an indented line")
        try:
            return self.kind.read(text.strip(), base)
        except ValueError as error:
            shown = "the value (not shown, it may hold a password)" if self.kind.secret else repr(text)
            reason = f" ({error})" if str(error) else ""
            raise ConfigError(f"{place}: {shown} is not allowed{reason}; allowed: {self.kind.allowed}") from None


def setting(section: str, kind: Kind, default: str | None, help: str, *, flag: str = "", name: str = "") -> Any:
    """Make a dataclass field that is a setting; its name in the file is the attribute's with hyphens, unless given."""
    metadata = {"setting": (name, section, kind, default, help, flag)}
    if default is None:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default_factory=lambda: kind.read(default, Path()), metadata=metadata)


def settings_of(table: type) -> tuple[Setting, ...]:
    """List the settings among a dataclass's fields, in their order."""
    rows = []
    for field in dataclasses.fields(table):
        if "setting" in field.metadata:
            name, *rest = field.metadata["setting"]
            rows.append(Setting(field.name, name or field.name.replace("_", "-"), *rest))
    return tuple(rows)


@dataclass(frozen=True)
class Config:
    """The settings in force. `Config()` has every default. Raises ConfigError if they do not fit together."""

    ae_title: str = setting("dicom", AE_TITLE, "ANGIOVAULT", "The archive's own AE title.", flag="AET")
    bind: str = setting(
        "dicom",
        IP,
        "0.0.0.0",  # noqa: S104 - an archive is there for the other machines; what they may do is set below
        "Address to listen on. 127.0.0.1 is this machine only, 0.0.0.0 every IPv4 address, :: every address.",
        flag="IP",
    )
    port: int = setting("dicom", integer(0, 65535), "11112", "TCP port for DICOM; 0 takes any free port.", flag="N")
    check_called_ae_title: bool = setting(
        "dicom",
        YES_NO,
        "no",
        "Refuse associations that call another AE title than the archive's. Off by default: many devices are set up "
        "with a wrong title and work elsewhere, and the title is no secret that protects anything.",
    )
    unknown_devices: UnknownDevices = setting(
        "dicom",
        choice(UnknownDevices, UnknownDevices),
        "store",
        "What callers may do that are not configured as devices. refuse: nothing, the association is rejected; "
        "echo: C-ECHO; store: C-ECHO and C-STORE; all: also query and retrieve, move to configured devices and ask "
        "for Storage Commitment.",
        flag="|".join(UnknownDevices),
    )
    max_associations: int = setting("dicom", integer(1, 10000), "512", "Associations served at the same time.")
    max_pdu: int = setting("dicom", integer(4096, 1048576), "131072", "Largest PDU accepted, in bytes.")
    artim_timeout: int = setting(
        "dicom", integer(1, 3600), "30", "Seconds a connection may take until its association is requested."
    )
    network_timeout: int = setting(
        "dicom", integer(1, 3600), "60", "Seconds to wait for the rest of a message, for sending, and to connect."
    )
    idle_timeout: int = setting(
        "dicom", integer(1, 86400), "600", "Seconds an association may stay open without a message."
    )
    storage: Path = setting(
        "archive",
        FOLDER,
        "./archive",
        "Folder that holds the instances. A relative path starts at the configuration file's folder; given as a flag "
        "or left at its default, at the current folder.",
        flag="DIR",
    )
    second_storage: Path | None = setting(
        "archive",
        FOLDER_OR_NONE,
        "",
        "Folder, on another volume, in which the archive continues when the first is full; when there is room in the "
        "first again, that is used. It is made empty once. From then on it belongs to the archive, which is away when "
        "one of both is; only an empty one can be taken away again. Empty is none.",
    )
    index: IndexURL | None = setting(
        "archive",
        INDEX,
        "",
        "Database of the index; empty is an SQLite file beside the storage folder, named after it with "
        ".index.sqlite3 added. Write special characters in user, password and paths as %XX. A password belongs in the "
        "file: other users of the machine can see flags. A MariaDB URL without one means that the database is not set "
        "up yet: images are stored and indexed later.",
        flag="URL",
    )
    archive_id: str = setting(
        "archive",
        ARCHIVE_ID,
        "",
        "Id of the archive that the storage must hold, as in its .angiovault/archive.json. If set, a folder without it "
        "counts as not mounted, also while the index is away, and no new archive is ever made; empty asks the index.",
    )
    min_free_space: int = setting(
        "archive",
        integer(0, 1000000000),
        "512",
        "MiB to keep free on each volume; with less the archive continues "
        "in the second folder, and without one storing is refused with status A700.",
    )
    verify_every_days: int = setting(
        "archive", integer(0, 3650), "30", "Days in which every stored file is read again and checked; 0 is never."
    )
    verify_rate: int = setting(
        "archive",
        integer(1, 100000),
        "20",
        "MB/s at which the scheduled check reads at most; while devices are served it waits, "
        "at most a minute for a file.",
    )
    commitment_delay: int = setting(
        "commitment",
        integer(0, 3600),
        "5",
        "Seconds to try to send a Storage Commitment result on the association that asked, before a new one is opened.",
    )
    commitment_retry_days: int = setting(
        "commitment", integer(1, 365), "7", "Days to keep trying to deliver a Storage Commitment result."
    )
    tls_port: int = setting("tls", integer(0, 65535), "0", "TCP port for DICOM over TLS; 0 is off.")
    tls_certificate: Path | None = setting(
        "tls", FILE, "", "PEM file with the archive's certificate and the chain above it."
    )
    tls_key: Path | None = setting("tls", FILE, "", "PEM file with the certificate's private key, not encrypted.")
    tls_client_ca: Path | None = setting(
        "tls", FILE, "", "PEM file with certificate authorities. If set, callers must show a certificate of theirs."
    )
    log_level: str = setting(
        "log", choice(("debug", "info", "warning", "error")), "info", "Least important message to log.", flag="LEVEL"
    )
    log_file: Path | None = setting(
        "log", FILE, "", "File to log to; empty is standard error. It may be rotated while the archive runs."
    )
    health_file: Path | None = setting(
        "log",
        FILE,
        "",
        "File in which the running service tells other programs what is wrong, as JSON: storage, disk, database, "
        "commitment; and what came of loading the settings. Written only when that changes; empty is none.",
        flag="FILE",
    )

    def __post_init__(self) -> None:
        if self.tls_port and not (self.tls_certificate and self.tls_key):
            raise ConfigError("tls-port is set, so tls-certificate and tls-key must be set too (or tls-port to 0)")
        if self.tls_port and self.tls_port == self.port:
            raise ConfigError(f"port and tls-port are both {self.port}; they must differ")

    @property
    def index_url(self) -> IndexURL:
        """The index in use: the configured one, or the SQLite file beside the storage."""
        return self.index or IndexURL("sqlite", path=Path(f"{self.storage}.index.sqlite3"))


SETTINGS = settings_of(Config)
_BY_NAME = {row.name: row for row in SETTINGS}
NEEDS_START = ("storage", "second-storage", "index", "archive-id", "log-file", "health-file")
"""Settings that a running service cannot change; all others it can."""


def new_start_for(before: Config, after: Config) -> list[str]:
    """Name the settings that differ and that a running service cannot change."""
    rows = [_BY_NAME[name] for name in NEEDS_START]
    return [row.name for row in rows if getattr(before, row.attribute) != getattr(after, row.attribute)]


def fingerprint(config: Config) -> str:
    """Return a digest of all settings that a running service can change; none of them is secret."""
    rows = [row for row in SETTINGS if row.name not in NEEDS_START]
    values = [getattr(config, row.attribute) for row in rows]
    texts = [str(value.absolute() if isinstance(value, Path) else value) for value in values]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


# --- The file -------------------------------------------------------------------------------------------------------


def config_path(named: Path | None = None) -> Path:
    """Return the named file, else `$ANGIOVAULT_CONFIG`, else `angiovault.ini` here. It need not exist."""
    return named or Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)


def load(path: Path | None = None, overrides: Mapping[str, str] | None = None) -> Config:
    """Read the settings: defaults, then the file (see `config_path`), then `overrides` (setting name to text).

    A file named here or in the environment must exist, the default one need not. Raises ConfigError.
    """
    file = config_path(path)
    must_exist = path is not None or bool(os.environ.get(CONFIG_VARIABLE))
    values = _values(read_file(file), file) if must_exist or file.exists() else {}
    for name, text in (overrides or {}).items():
        row = _known(name, f"--{name}")
        values[row.attribute] = row.read(text, f"--{name}", Path())
    return Config(**values)


def save(path: Path, changes: Mapping[str, str | None]) -> None:
    """Write changed settings (None: back to the default) into the file, durably; other content but comments is kept.

    The whole file must be valid afterwards, else ConfigError is raised and it stays as it was.
    """
    with edit_file(path) as parser:
        for name, text in changes.items():
            section = _known(name, f"{path}").section
            if not parser.has_section(section):
                parser.add_section(section)
            if text is None:
                parser.remove_option(section, name)
            else:
                parser.set(section, name, text)
        Config(**_values(parser, path))


def _known(name: str, place: str) -> Setting:
    if name not in _BY_NAME:
        raise ConfigError(f"{place}: there is no setting {name!r}{suggestion(name, _BY_NAME)}")
    return _BY_NAME[name]


def suggestion(name: str, known: Iterable[str]) -> str:
    """End a message about an unknown name: with the nearest known one, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(names)}"


def _values(parser: ConfigParser, path: Path) -> dict[str, Any]:
    sections = dict.fromkeys(row.section for row in SETTINGS)
    values = {}
    for section in parser.sections():
        if section.startswith(DEVICE_SECTION):
            continue  # read by devices.py
        if section not in sections:
            hint = suggestion(section, [*sections, "device NAME"])
            raise ConfigError(f"{path}: there is no section [{section}]{hint}")
        for name, text in parser.items(section):
            place = f"{path}, [{section}] {name}"
            row = _known(name, f"{path}, [{section}]")
            if row.section != section:
                raise ConfigError(f"{place}: this setting belongs in section [{row.section}]")
            values[row.attribute] = row.read(text, place, path.parent)
    return values


# --- Flags and reference --------------------------------------------------------------------------------------------


def add_flags(parser: argparse.ArgumentParser, settings: Iterable[Setting] = SETTINGS) -> None:
    """Add the command-line flags of those settings that have one."""
    for row in settings:
        if row.flag:
            default = f" Default: {row.default}." if row.default else ""
            parser.add_argument(f"--{row.name}", metavar=row.flag, help=f"{row.help}{default}".replace("%", "%%"))


def flag_values(args: argparse.Namespace, settings: Iterable[Setting] = SETTINGS) -> dict[str, str]:
    """Collect what was given on the command line: setting name to text, as `load` takes it."""
    given = {row.name: getattr(args, row.name.replace("-", "_"), None) for row in settings}
    return {name: text for name, text in given.items() if text is not None}


def reference(settings: Iterable[Setting]) -> str:
    """Write settings as a Markdown table."""
    lines = ["| setting | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for row in settings:
        default = "(must be given)" if row.default is None else f"`{row.default}`" if row.default else "(empty)"
        lines.append(f"| `{row.name}` | {row.kind.type} | {default} | {row.kind.allowed} | {row.help} |")
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """Write the reference of all settings in Markdown, one table a section; `docs/settings.md` begins with it."""
    flags = ", ".join(f"`--{row.name}`" for row in SETTINGS if row.flag)
    needs_start = ", ".join(f"`{name}`" for name in NEEDS_START)
    text = f"""# Settings

AngioVault reads one INI file in UTF-8: the one named by `--config`, else by the environment variable
`{CONFIG_VARIABLE}`, else `{DEFAULT_FILE}` in the current folder if it is there. A line is `name = value` under its
`[section]`; a line that begins with `#` or `;` is a comment. What is missing has its default, an unknown name is an
error, and so is a value that goes on over a second, indented line.
These can also be given as flags of `angiovault serve`, which then win over the file: {flags}.

A running `angiovault serve` reads the file again at SIGHUP (`kill -HUP PID`; `systemctl reload` where a unit has
`ExecReload=kill -HUP $MAINPID`). What has changed is in force for all associations that begin from then on; those that
run go on to their end as they began. New ports are opened before the old ones are closed. If something cannot be had (a
port that is taken, a certificate that cannot be used, a mistake in the file), nothing changes, and the log and the
health file say why. Only these settings need a new start: {needs_start}; if one of them has changed, nothing changes
before it.
"""
    for section in dict.fromkeys(row.section for row in SETTINGS):
        text += f"\n## [{section}]\n\n{reference(row for row in SETTINGS if row.section == section)}"
    return text
