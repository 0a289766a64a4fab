"""C-ECHO (PS3.4 annex A): are you there?"""

from __future__ import annotations

from angiovault.dimse import messages
from angiovault.dimse.association import Association
from angiovault.dimse.wire import Message


def answer(association: Association, message: Message) -> None:
    """Answer a C-ECHO request."""
    message.drain()
    association.respond(message, messages.SUCCESS)
    association.tally["echo"] += 1
