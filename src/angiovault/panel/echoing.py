"""Asking a device whether it is there, with the outcome in words for people."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any, Final

from angiovault.dimse import scu
from angiovault.dimse.endings import AssociationEnded, CannotAssociate, TimedOut
from angiovault.dimse.negotiation import Rejected
from angiovault.panel.web import Message, said

_SECONDS: Final = 5.0
_CALLED_NOT_KNOWN: Final = (1, 1, 7)
_CALLING_NOT_KNOWN: Final = (1, 1, 3)
_NO_WAY: Final = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN))


def echo(destination: scu.Destination, ae_title: str) -> dict[str, Any]:
    """Send a C-ECHO; return whether it was answered with success, and the outcome in words."""
    began = time.monotonic()
    try:
        scu.echo(destination, scu.Limits(ae_title, network_timeout=_SECONDS))
    except (CannotAssociate, AssociationEnded) as error:
        return {"ok": False, "message": _in_words(destination, ae_title, error), "detail": str(error)}
    took = round(1000 * (time.monotonic() - began))
    return {"ok": True, "message": said("echo.ok", ae_title=destination.ae_title, ms=took), "detail": ""}


def _in_words(destination: scu.Destination, ae_title: str, error: Exception) -> Message:
    cause = error.__cause__ or error
    values = {"called": destination.ae_title, "calling": ae_title, "host": destination.host, "port": destination.port}
    if isinstance(cause, Rejected):
        key = {_CALLED_NOT_KNOWN: "echo.called", _CALLING_NOT_KNOWN: "echo.calling"}.get(cause.code, "echo.rejected")
    elif isinstance(cause, TimedOut):
        key = "echo.silent"
    elif isinstance(cause, AssociationEnded):
        key = "echo.not-dicom"
    elif isinstance(cause, ConnectionRefusedError):
        key = "echo.refused"
    elif isinstance(cause, TimeoutError):
        key = "echo.timeout"
    elif isinstance(cause, (socket.gaierror, UnicodeError)):
        key = "echo.host-unknown"
    elif isinstance(cause, OSError) and cause.errno in _NO_WAY:
        key = "echo.no-route"
    elif isinstance(cause, OSError):
        key = "echo.unreachable"
    else:
        key = "echo.no-service"
    return said(key, **values)
