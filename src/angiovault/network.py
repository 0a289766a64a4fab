"""The machine in the network: its addresses, and whether a port can be listened on."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Final

_SIOCGIFADDR: Final = 0x8915


def ipv4_addresses() -> list[tuple[str, str]]:
    """List the interfaces that have an IPv4 address, each with its first (netdevice(7))."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _index, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", os.fsencode(name)))
            except OSError:  # an interface without an IPv4 address
                continue
            found.append((name, socket.inet_ntoa(answer[20:24])))
    return found


def try_to_listen(bind: str, port: int) -> None:
    """Listen on a port for a moment, as the service does.

    Raises
    ------
    OSError
        When that cannot be; PermissionError below 1024 without the right to it.
    """
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind((bind, port))
        probe.listen(1)


def has_capabilities() -> bool:
    """Return whether our Python was given rights of its own, say to ports below 1024 (capabilities(7)).

    A process has them from its start: one that was started before can only begin anew for them.
    """
    try:
        return bool(os.getxattr(Path(sys.executable).resolve(), "security.capability"))
    except OSError:  # none, or a file system that keeps none
        return False


def setcap_command() -> str:
    """Return the command that lets our Python use ports below 1024; it wants the program itself, not a link to it."""
    return f"sudo setcap cap_net_bind_service=+ep {Path(sys.executable).resolve()}"
