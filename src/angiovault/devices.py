"""The DICOM devices the archive knows: `[device NAME]` sections of the configuration, and who may do what."""

import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from angiovault.config import (
    DEVICE_SECTION,
    UnknownDevices,
    reference,
    setting,
    settings_of,
    settings_table,
    suggestion,
)
from angiovault.inifile import ConfigError, edit_file, read_file
from angiovault.kinds import AE_TITLE, Kind, choice, integer

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
CHARACTER_SETS = ("auto", "GB18030", "ISO 2022 IR 58", "ISO_IR 100", "ISO_IR 192")

_RESOLVED_SECONDS = 60.0
_NAME = re.compile(r"[^\s\[\]@\-][^\[\]@]{0,63}")
_HOST_NAME = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_-]{1,63}\.)*(?![0-9]+\.?$)[A-Za-z0-9_-]{1,63}\.?")

log = logging.getLogger(__name__)


class Operation(StrEnum):
    """What a caller may ask of the archive."""

    ECHO = "echo"
    STORE = "store"
    FIND = "find"
    GET = "get"
    MOVE = "move"
    COMMIT = "commit"


EVERYTHING = frozenset(Operation)
_UNKNOWN_MAY = {
    UnknownDevices.REFUSE: frozenset[Operation](),
    UnknownDevices.ECHO: frozenset({Operation.ECHO}),
    UnknownDevices.STORE: frozenset({Operation.ECHO, Operation.STORE}),
    UnknownDevices.ALL: EVERYTHING,
}


def _read_hosts(text: str, _base: Path) -> tuple[str, ...]:
    hosts = tuple(part.strip() for part in text.split(","))
    for host in hosts:
        if _network(host) is None and not _HOST_NAME.fullmatch(host):
            raise ValueError(f"{host!r} is no host name, IP address or network")
    return hosts


def _network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network (or single address) a host entry means, None for a host name."""
    try:
        return ipaddress.ip_network(host)
    except ValueError:
        if "/" not in host:
            return None
    try:
        meant = ipaddress.ip_network(host, strict=False)
    except ValueError:
        return None
    raise ValueError(f"{host} has bits set behind the mask; did you mean {meant}?")


_PORT = integer(1, 65535)


def _read_port(text: str, base: Path) -> int | None:
    return _PORT.read(text, base) if text else None


def _read_allow(text: str, _base: Path) -> frozenset[Operation]:
    words = [word.strip().lower() for word in text.split(",")]
    if words == ["all"]:
        return EVERYTHING
    return frozenset() if words == ["none"] else frozenset(Operation(word) for word in words)


_HOSTS = Kind(
    "hosts", "host names, IP addresses or networks like 192.168.1.0/24, with commas between them", _read_hosts
)
_OPTIONAL_PORT = Kind("number", f"{_PORT.allowed}, or empty", _read_port, limits=_PORT.limits)
_ALLOW = Kind("list", f"all, none, or some of: {', '.join(Operation)}", _read_allow)


@dataclass(frozen=True)
class Device:
    """A configured DICOM device."""

    name: str
    ae_title: str = setting("device", AE_TITLE, None, "The device's AE title, as it calls itself.", flag="AET")
    hosts: tuple[str, ...] = setting(
        "device",
        _HOSTS,
        None,
        "Where the device calls from. The first that is not a network is also where it is called.",
        flag="HOSTS",
        name="host",
    )
    port: int | None = setting(
        "device",
        _OPTIONAL_PORT,
        "",
        "Port on which the device takes associations; empty if nothing is to be sent to it.",
        flag="N",
    )
    allow: frozenset[Operation] = setting("device", _ALLOW, "all", "What the device may ask for.", flag="LIST")
    character_set: str = setting(
        "device",
        choice(CHARACTER_SETS),
        "auto",
        "Character set of the answers to its queries where the query's own cannot hold them; auto: the stored one.",
        flag="SET",
    )

    @property
    def destination(self) -> tuple[str, int] | None:
        """Host and port to call the device at; None if it has no port or is known by its network only."""
        hosts = [host for host in self.hosts if "/" not in host]
        return (hosts[0], self.port) if hosts and self.port else None

    @classmethod
    def from_text(cls, name: str, texts: Mapping[str, str], place: str = "device") -> "Device":
        """Make a device of its settings as they stand in the file. Raises ConfigError, naming `place`."""
        if not _NAME.fullmatch(name) or not name.isprintable() or name != name.strip():
            raise ConfigError(
                f"{place}: {name!r} is no name for a device; allowed: 1 to 64 printable characters without "
                "'[', ']' and '@', not beginning with '-' or a blank"
            )
        rows = {row.name: row for row in DEVICE_SETTINGS}
        for key in texts:
            if key not in rows:
                raise ConfigError(f"{place}: there is no setting {key!r} for devices{suggestion(key, rows)}")
        for row in DEVICE_SETTINGS:
            if row.default is None and row.name not in texts:
                raise ConfigError(f"{place}: {row.name} is missing; allowed: {row.kind.allowed}")
        # A device has no file names, so no folder for relative ones.
        values = {rows[key].attribute: rows[key].read(text, f"{place} {key}", Path()) for key, text in texts.items()}
        return cls(name, **values)

    def as_text(self) -> dict[str, str]:
        """Return the settings as they stand in the file."""
        allow = "all" if self.allow == EVERYTHING else ", ".join(each for each in Operation if each in self.allow)
        return {
            "ae-title": self.ae_title,
            "host": ", ".join(self.hosts),
            "port": str(self.port or ""),
            "allow": allow or "none",
            "character-set": self.character_set,
        }


DEVICE_SETTINGS = settings_of(Device)


def allowed(device: Device | None, unknown_devices: UnknownDevices) -> frozenset[Operation]:
    """Return what a caller may ask for: what its device allows, or for None what all unknown ones may."""
    return _UNKNOWN_MAY[unknown_devices] if device is None else device.allow


def resolve(host: str) -> frozenset[Address]:
    """Ask the system for a host name's addresses. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return frozenset(_address(str(entry[4][0])) for entry in found)


def _address(text: str) -> Address:
    """Read an address as sockets give it: without its zone, and IPv4 as such even on an IPv6 socket."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


class _HostNames:
    """Addresses of host names, remembered for a minute; the last ones known stay while the name service is away."""

    def __init__(self, resolver: Callable[[str], frozenset[Address]], clock: Callable[[], float]) -> None:
        self._resolver = resolver
        self._clock = clock
        self._known: dict[str, tuple[float, frozenset[Address]]] = {}

    def addresses(self, host: str) -> frozenset[Address]:
        until, addresses = self._known.get(host, (float("-inf"), frozenset()))
        if self._clock() >= until:
            try:
                addresses = self._resolver(host)
            except OSError as error:
                log.warning("The host name %s of a device cannot be resolved: %s", host, error.strerror or error)
            self._known[host] = (self._clock() + _RESOLVED_SECONDS, addresses)
        return addresses


class DeviceBook:
    """The devices of one configuration file, read again by itself when the file has changed. Thread-safe.

    A file that is broken or gone when it is read again leaves the devices as they were, and is logged once.
    Raises ConfigError if it is broken from the start; no file is no devices.
    """

    def __init__(
        self,
        path: Path | None,
        resolver: Callable[[str], frozenset[Address]] = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._host_names = _HostNames(resolver, clock)
        self._seen = self._signature()
        self._devices = _devices(read_file(path), path) if path and self._seen else ()

    def all(self) -> tuple[Device, ...]:
        """Return the devices in the file's order."""
        if self._path is None:
            return ()
        with self._lock:
            # Taken before reading: a change while reading is then seen the next time.
            signature = self._signature()
            if signature != self._seen:
                self._seen = signature
                try:
                    self._devices = _devices(read_file(self._path), self._path)
                except ConfigError as error:
                    log.error("The devices stay as they were, since the file cannot be used: %s", error)
            return self._devices

    def find_caller(self, ae_title: str, address: str) -> Device | None:
        """Return the device that calls itself `ae_title` and calls from the IP `address`, None if there is none."""
        caller, title = _address(address), ae_title.strip(" ")
        for device in self.all():
            if device.ae_title == title and any(self._is_at(caller, host) for host in device.hosts):
                return device
        return None

    def by_ae_title(self, ae_title: str) -> Device | None:
        """Return the device an AE title means as a destination: of several with that title, the one with a port."""
        devices = [device for device in self.all() if device.ae_title == ae_title.strip(" ")]
        return max(devices, key=lambda device: device.port is not None, default=None)

    def by_name(self, name: str) -> Device | None:
        """Return the device with a name, upper and lower case being the same."""
        return next((device for device in self.all() if device.name.casefold() == name.casefold()), None)

    def add(self, device: Device) -> None:
        """Write a further device into the file. Raises ConfigError if it is not valid or its name is taken."""
        path = self._writable()
        Device.from_text(device.name, device.as_text())
        with edit_file(path) as parser:
            if device.name.casefold() in {known.name.casefold() for known in _devices(parser, path)}:
                raise ConfigError(f"{path}: there is a device {device.name!r} already; remove it first")
            parser[DEVICE_SECTION + device.name] = device.as_text()
            _devices(parser, path)

    def remove(self, name: str) -> None:
        """Take a device out of the file. Raises ConfigError if there is none of that name."""
        path = self._writable()
        with edit_file(path) as parser:
            parser.remove_section(_section(parser, path, name))

    def replace(self, name: str, device: Device) -> None:
        """Write a device in another one's place, at once. Raises ConfigError as `add` and `remove` do."""
        path = self._writable()
        Device.from_text(device.name, device.as_text())
        with edit_file(path) as parser:
            parser.remove_section(_section(parser, path, name))
            if device.name.casefold() in {known.name.casefold() for known in _devices(parser, path)}:
                raise ConfigError(f"{path}: there is a device {device.name!r} already; remove it first")
            parser[DEVICE_SECTION + device.name] = device.as_text()
            _devices(parser, path)

    def _is_at(self, caller: Address, host: str) -> bool:
        network = _network(host)
        return caller in (self._host_names.addresses(host) if network is None else network)

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat() if self._path else None
        except OSError:  # reading the file says what is wrong with it
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None

    def _writable(self) -> Path:
        if self._path is None:
            raise ConfigError("there is no configuration file to keep devices in")
        return self._path


def _is_device(section: str) -> bool:
    return section.startswith(DEVICE_SECTION)


def _name(section: str) -> str:
    return section.removeprefix(DEVICE_SECTION).strip()


def _section(parser: ConfigParser, path: Path, name: str) -> str:
    """Return the section of the device of a name. Raises ConfigError if there is none."""
    names = {_name(section).casefold(): section for section in parser.sections() if _is_device(section)}
    if name.casefold() not in names:
        known = suggestion(name, map(_name, names.values())) if names else ""
        raise ConfigError(f"{path}: there is no device {name!r}{known}")
    return names[name.casefold()]


def _devices(parser: ConfigParser, path: Path) -> tuple[Device, ...]:
    """Read all devices and check that they go together. Raises ConfigError."""
    names: dict[str, str] = {}
    destinations: dict[str, str] = {}
    devices = []
    for section in filter(_is_device, parser.sections()):
        device = Device.from_text(_name(section), dict(parser.items(section)), f"{path}, [{section}]")
        if names.setdefault(device.name.casefold(), section) != section:
            raise ConfigError(f"{path}: there are two devices {device.name!r}")
        # Images moved to an AE title must never have two places to go to.
        if device.port and destinations.setdefault(device.ae_title, device.name) != device.name:
            raise ConfigError(
                f"{path}, [{section}]: the AE title {device.ae_title} is that of the device "
                f"{destinations[device.ae_title]!r} too; only one of them may have a port"
            )
        devices.append(device)
    return tuple(devices)


def settings_page() -> str:
    """Write the whole of `docs/settings.md`: the settings, then those of a device."""
    return f"""{settings_table()}
## [device NAME]

One section for every DICOM device, with a name of your choice; `angiovault device add` writes it. A caller is that
device if its AE title and its address are the device's; any other caller is an unknown device (see `unknown-devices`).
Devices may share an AE title if at most one of them has a port. Changes are in force at once.

{reference(DEVICE_SETTINGS)}"""
