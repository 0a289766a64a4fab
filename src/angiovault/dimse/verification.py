"""C-ECHO (PS3.4 annex A): a device asks whether the archive is there."""

from __future__ import annotations

from angiovault.dimse import messages
from angiovault.dimse.association import Association
from angiovault.dimse.messages import Message


def answer(association: Association, message: Message) -> None:
    """Answer a C-ECHO request."""
    message.drain()
    association.respond(message, messages.SUCCESS)
    association.tally["echo"] += 1
