"""What the status page shows: read from the files of supervisor and service, and from the kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from angiovault.dsm import running
from angiovault.dsm.paths import Nas
from angiovault.inifile import ConfigError, read_file
from angiovault.logtail import last_lines, without_passwords
from angiovault.network import ipv4_addresses

_STATES: Final = {
    *("starting", "needs-set-up", "share-missing", "share-denied"),
    *("configuration", "port", "failing", "stopping", running.STOPPED),
}

_NOT_FOR_DEVICES: Final = ("lo", "docker", "veth")

_LOG_LINES: Final = 100
_LOG_BYTES: Final = 1 << 17
_LINE_SIGNS: Final = 1000
# Control characters, and those that turn the direction of writing: they could make a line look like another one.
_INVISIBLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


@dataclass(frozen=True)
class State:
    """The state as the page shows it; `name` is a key of `stub_texts`."""

    name: str
    message: str
    message_zh: str
    restarts: int
    ae_title: str
    port: str
    tls_port: str
    addresses: tuple[str, ...]
    since: str
    problems: tuple[tuple[str, str], ...]


def read_state(nas: Nas) -> State:
    """Put together what supervisor and service say of themselves and, where no service runs, the settings."""
    supervisor, health = running.state(nas), running.health(nas)
    name = str(supervisor.get("state"))
    problems = tuple((str(kind), _visible(str(text))) for kind, text in health.get("problems", {}).items())
    if name == "running":
        name = "problems" if problems else "well"
    elif name not in _STATES:
        name = "unknown"
    dicom = {**_dicom_settings(nas), **health}
    return State(
        name=name,
        message=_visible(str(supervisor.get("message", ""))),
        message_zh=_visible(str(supervisor.get("message_zh", ""))),
        restarts=int(supervisor.get("restarts", 0)),
        ae_title=str(dicom["ae_title"]),
        port=str(dicom["port"]),
        tls_port="" if str(dicom["tls_port"]) == "0" else str(dicom["tls_port"]),
        addresses=_reachable(str(dicom["bind"])),
        since=_local_time(str(health.get("since", ""))),
        problems=problems,
    )


def addresses() -> tuple[str, ...]:
    """List the machine's IPv4 addresses with their interfaces, without those no device can reach."""
    return tuple(f"{address} ({name})" for name, address in ipv4_addresses() if not name.startswith(_NOT_FOR_DEVICES))


def last_log_lines(log: Path) -> list[str]:
    """Return the last lines of the log, safe to look at; none when there is no log."""
    try:
        lines, _ = last_lines(log, _LOG_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{log}: {error.strerror}"]
    return [_visible(line)[:_LINE_SIGNS] for line in lines[-_LOG_LINES:]]


def _reachable(bind: str) -> tuple[str, ...]:
    return addresses() if bind in ("0.0.0.0", "::") else (bind,)  # noqa: S104 - compared, not listened on


def _dicom_settings(nas: Nas) -> dict[str, str]:
    """Return AE title, address and ports from the settings file, with the program's defaults for what is missing."""
    values = {"ae_title": "ANGIOVAULT", "bind": "0.0.0.0", "port": "11112", "tls_port": "0"}  # noqa: S104 - as above
    try:
        parser = read_file(nas.settings)
    except ConfigError:  # the supervisor says so, in the state
        return values
    places = {"ae_title": "dicom", "bind": "dicom", "port": "dicom", "tls_port": "tls"}
    for key, section in places.items():
        values[key] = _visible(parser.get(section, key.replace("_", "-"), fallback=values[key]).strip())
    return values


def _local_time(text: str) -> str:
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return ""


def _visible(text: str) -> str:
    """Return text in which nothing is hidden but passwords."""
    shown = _INVISIBLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\t", "    "))
    return without_passwords(shown)
