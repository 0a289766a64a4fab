"""Addresses and ports of the machine that we run on."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
import struct
import sys
from pathlib import Path
from typing import Final

from angiovault.panel.web import Message, said

ANY: Final = frozenset(("0.0.0.0", "::"))  # noqa: S104 - compared, not listened on

_SIOCGIFADDR: Final = 0x8915
_GLOBAL_SCOPE: Final = "00"


def addresses() -> list[dict[str, str]]:
    """List the addresses of this machine with their interfaces, loopback's last (netdevice(7), proc_net(5))."""
    found = [*_ipv4(), *_ipv6()]
    return sorted(found, key=lambda item: (item["interface"] == "lo", item["interface"].startswith(("docker", "veth"))))


def _ipv4() -> list[dict[str, str]]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _number, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an IPv4 address
                continue
            found.append({"interface": name, "address": socket.inet_ntoa(answer[20:24])})
    return found


def _ipv6() -> list[dict[str, str]]:
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:  # IPv6 is off
        return []
    fields = [line.split() for line in lines]
    return [
        {"interface": name, "address": str(ipaddress.IPv6Address(int(number, 16)))}
        for number, _index, _prefix, scope, _flags, name in fields
        if scope == _GLOBAL_SCOPE
    ]


def reachable(bind: str) -> list[dict[str, str]]:
    """List the addresses at which devices reach a service that listens on `bind`."""
    if bind not in ANY:
        return [item for item in addresses() if item["address"] == bind] or [{"interface": "", "address": bind}]
    version = ipaddress.ip_address(bind).version
    outside = [item for item in addresses() if item["interface"] != "lo"]
    return [item for item in outside if version == 6 or ":" not in item["address"]]


def setcap_command() -> str:
    """Return the command that lets our Python use ports below 1024."""
    return f"sudo setcap cap_net_bind_service=+ep {Path(sys.executable).resolve()}"


def port_problem(bind: str, port: int) -> Message | None:
    """Try to listen on a port; return why that cannot be, None when it can."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((bind, port))
            probe.listen(1)
    except PermissionError:
        return said("wrong.port-low", port=port, command=setcap_command())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return said("wrong.port-used", port=port)
        if error.errno == errno.EADDRNOTAVAIL:
            return said("wrong.address-not-here", address=bind)
        return said("wrong.port-other", port=port, reason=error.strerror)
    return None
