"""What is said in an established association: each message goes to its service, until one side ends it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from angiovault.config import Config
from angiovault.dimse import endings, messages, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.endings import AssociationEnded, Interrupted, ProtocolError, Released, TimedOut
from angiovault.dimse.messages import Message

log = logging.getLogger(__name__)

Handler = Callable[[Association, Message], None]

STOPPED: Final = "stopped"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an association ended.

    Attributes
    ----------
    text : str
        For the log.
    word : str
        One of the words of `endings`.
    """

    text: str
    word: str

    @property
    def in_order(self) -> bool:
        """Whether nothing went wrong."""
        return self.text in ("released", STOPPED)


FAILURE: Final = Ending("aborted by an internal error", endings.FAILED)


def converse(
    association: Association, handlers: Mapping[int, Handler], config: Config, is_stopped: Callable[[], bool]
) -> Ending:
    """Serve an association to its end, and close its connection.

    Parameters
    ----------
    association : Association
        The association.
    handlers : Mapping[int, Handler]
        Command Field -> service that answers such a request.
    config : Config
        The settings: how long it may be idle.
    is_stopped : Callable
        Whether to end it after the message that is being answered.
    """
    wire = association.wire
    try:
        while not is_stopped():
            message = association.receive(config.idle_timeout)
            try:
                _dispatch(handlers, association, message)
            finally:
                association.busy = False
        wire.abort()
        return Ending(STOPPED, endings.INTERRUPTED)
    except (Released, Interrupted) as end:
        return Ending(str(end), end.word)
    except TimedOut as end:
        wire.abort()
        return Ending(f"ended: {end}", end.word)
    except ProtocolError as end:
        wire.abort(end.reason)
        return Ending(f"aborted: {end}", end.word)
    except AssociationEnded as end:
        return Ending(str(end), end.word)
    except Exception:
        wire.abort()
        raise
    finally:
        association.end()


def _dispatch(handlers: Mapping[int, Handler], association: Association, message: Message) -> None:
    association.context_of(message)
    field = message.command.field
    if field == messages.C_CANCEL_RQ or field & messages.RESPONSE:
        message.drain()  # too late, or the answer to a notification of ours
        if field & messages.RESPONSE:
            association.take_response(message.command)
        return
    handler = handlers.get(field)
    if handler is None or not _fits(field, association.context_of(message).abstract_syntax):
        message.drain()
        log.warning("%s asked for operation %04X in a context that has none such", association, field)
        association.respond(message, messages.UNRECOGNISED_OPERATION)
        return
    association.requests[field] = (time.time(), None)
    handler(association, message)
    message.drain()


_CLASSES: Final[Mapping[int, Callable[[str], bool]]] = {
    messages.C_ECHO_RQ: lambda uid: uid == sop_classes.VERIFICATION,
    messages.C_STORE_RQ: sop_classes.is_storage,
    messages.C_FIND_RQ: sop_classes.FIND.__contains__,
    messages.C_MOVE_RQ: sop_classes.MOVE.__contains__,
    messages.C_GET_RQ: sop_classes.GET.__contains__,
    messages.N_ACTION_RQ: lambda uid: uid == sop_classes.STORAGE_COMMITMENT_PUSH,
}


def _fits(field: int, abstract_syntax: str) -> bool:
    """Return whether a request belongs into a presentation context of this class."""
    return field in _CLASSES and _CLASSES[field](abstract_syntax)
