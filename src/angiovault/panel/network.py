"""Addresses and ports of the machine that we run on, for the pages."""

from __future__ import annotations

import errno
import ipaddress
from pathlib import Path
from typing import Final

from angiovault.network import has_capabilities, ipv4_addresses, setcap_command, try_to_listen
from angiovault.panel.web import Message, said

ANY: Final = frozenset(("0.0.0.0", "::"))  # noqa: S104 - compared, not listened on

_GLOBAL_SCOPE: Final = "00"


def addresses() -> list[dict[str, str]]:
    """List the addresses of this machine with their interfaces, loopback's last (netdevice(7), proc_net(5))."""
    found = [{"interface": name, "address": address} for name, address in ipv4_addresses()] + _ipv6()
    return sorted(found, key=lambda item: (item["interface"] == "lo", item["interface"].startswith(("docker", "veth"))))


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


def port_problem(bind: str, port: int) -> Message | None:
    """Try to listen on a port; return why that cannot be, None when it can."""
    try:
        try_to_listen(bind, port)
    except PermissionError:
        # The service begins anew for what this process was started too early for.
        return None if has_capabilities() else said("wrong.port-low", port=port, command=setcap_command())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return said("wrong.port-used", port=port)
        if error.errno == errno.EADDRNOTAVAIL:
            return said("wrong.address-not-here", address=bind)
        return said("wrong.port-other", port=port, reason=error.strerror)
    return None
