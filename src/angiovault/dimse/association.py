"""One association: who is on the other side, what was agreed, and how to answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import BinaryIO

from angiovault.devices import Device
from angiovault.dimse import messages
from angiovault.dimse.endings import ProtocolError
from angiovault.dimse.messages import Command, Message, read_message
from angiovault.dimse.negotiation import ACCEPTED, Context
from angiovault.dimse.wire import Wire


class Association:
    """An established association, as acceptor or as requestor.

    Parameters
    ----------
    wire : Wire
        The connection.
    peer : str
        Address of the peer.
    calling, called : str
        AE titles of the requestor and the acceptor.
    contexts : tuple[Context, ...]
        The negotiated presentation contexts.
    device : Device, optional
        The configured device that the peer is.
    extended : Mapping[str, bytes]
        Extended negotiation as it was answered.
    requested_by_us : bool
        Whether we are the requestor.
    """

    def __init__(
        self,
        wire: Wire,
        peer: str,
        calling: str,
        called: str,
        contexts: tuple[Context, ...],
        device: Device | None = None,
        extended: Mapping[str, bytes] | None = None,
        requested_by_us: bool = False,
    ) -> None:
        self.wire = wire
        self.peer = peer
        self.calling = calling
        self.called = called
        self.device = device
        self.extended = extended or {}
        self.requested_by_us = requested_by_us
        self.contexts = {context.context_id: context for context in contexts if context.result == ACCEPTED}
        self.tally: Counter[str] = Counter()
        self.requests: dict[int, tuple[float, int | None]] = {}
        """Command Field -> when the last such request of the peer came (time.time()), and the status of the answer."""
        self.pace: memoryview[float] = memoryview(bytearray(8)).cast("d")
        """Since when it has been idle (time.monotonic()), 0 while it is busy, -1 when it has ended.

        May be memory that processes share.
        """
        self.busy = False
        self.at_end: Callable[[], None] = lambda: None
        """What is to be done when it has ended in any way; the peer does not wait for it."""
        self._lock = threading.Lock()
        self._message_id = 0
        self._answered = threading.Condition()
        self._responses: dict[int, int] = {}
        self._cancelled: set[int] = set()

    def __str__(self) -> str:
        name = f" ({self.device.name})" if self.device else ""
        return f"{self.called if self.requested_by_us else self.calling}@{self.peer}{name}"

    @property
    def busy(self) -> bool:
        """Whether a message is being answered."""
        return self.pace[0] == 0

    @busy.setter
    def busy(self, busy: bool) -> None:
        self.pace[0] = 0 if busy else time.monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is said in it, though what it brought may still be settled."""
        return self.pace[0] < 0

    @property
    def silence(self) -> float:
        """For how many seconds nothing has been asked, 0 while it is busy and when it has ended."""
        since = self.pace[0]
        return time.monotonic() - since if since > 0 else 0.0

    def end(self) -> None:
        """Close the connection, then do what is to be done at the end."""
        self.pace[0] = -1
        self.wire.close()
        self.at_end()

    def context_of(self, message: Message) -> Context:
        """Return the presentation context of a message.

        Raises
        ------
        ProtocolError
            When it was not accepted.
        """
        context = self.contexts.get(message.context_id)
        if context is None:
            raise ProtocolError(f"message in presentation context {message.context_id}, which was not accepted", 2)
        return context

    def find_context(self, abstract_syntax: str, transfer_syntax: str = "") -> Context | None:
        """Return an accepted context of a class, with a certain transfer syntax if one is named."""
        for context in self.contexts.values():
            if context.abstract_syntax == abstract_syntax and transfer_syntax in ("", context.transfer_syntax):
                return context
        return None

    def next_message_id(self) -> int:
        """Return the ID for a request of ours."""
        with self._lock:
            self._message_id = self._message_id % 0xFFFF + 1
            return self._message_id

    def receive(self, timeout: float) -> Message:
        """Wait for the next message; in between the association counts as idle."""
        self.busy = False
        message = read_message(self.wire, timeout)
        self.busy = True
        self._cancelled.discard(message.command.get(messages.MESSAGE_ID, -1))
        return message

    def take_response(self, command: Command) -> None:
        """Note the response to a request of ours that another thread waits for."""
        with self._answered:
            self._responses[command.number(messages.MESSAGE_ID_BEING_RESPONDED_TO, 0)] = command.status
            self._answered.notify_all()

    def wait_for_response(self, message_id: int, timeout: float) -> int | None:
        """Wait for the status that answers a request of ours; another thread reads it (`take_response`).

        Returns
        -------
        int, optional
            The status, None when none came in `timeout` seconds.
        """
        with self._answered:
            self._answered.wait_for(lambda: message_id in self._responses, timeout)
            return self._responses.pop(message_id, None)

    def respond(
        self,
        message: Message,
        status: int,
        data: bytes | None = None,
        comment: str = "",
        hold: bool = False,
        **counts: int,
    ) -> None:
        """Send a response to a request, see `messages.response`; with `hold` it may leave with the next message."""
        if message.command.field in self.requests:
            self.requests[message.command.field] = (self.requests[message.command.field][0], status)
        elements = messages.response(message.command, status, data_set=data is not None, comment=comment, **counts)
        self.wire.send_message(message.context_id, messages.encode(elements), data, hold=hold)

    def pending_responses(self, message: Message, status: int) -> Callable[[bytes], None]:
        """Return what sends one pending response, with a data set, to a request.

        Many leave together: they are held back until the next other message or `wire.flush`.
        """
        command = messages.encode(messages.response(message.command, status, data_set=True))
        return self.wire.repeated(message.context_id, command)

    def request(
        self,
        context: Context,
        elements: Mapping[int, int | str | None],
        data: bytes | BinaryIO | None = None,
        length: int | None = None,
    ) -> int:
        """Send a request and return its Message ID."""
        message_id = self.next_message_id()
        command = messages.encode(
            {
                **elements,
                messages.MESSAGE_ID: message_id,
                messages.COMMAND_DATA_SET_TYPE: messages.NO_DATA_SET if data is None else 0x0001,
            }
        )
        self.wire.send_message(context.context_id, command, data, length)
        return message_id

    def cancelled(self, message: Message) -> bool:
        """Return whether a C-CANCEL for the request has come; does not wait (PS3.7 9.3.2.3).

        Raises
        ------
        AssociationEnded
            When the peer ended the association instead.
        """
        while self.wire.readable():
            command = self._next_command()
            if command.field == messages.C_CANCEL_RQ:
                self.note_cancel(command)
            elif not command.field & messages.RESPONSE:
                raise ProtocolError("a further request while one is being answered", 2)
        return message.command.message_id in self._cancelled

    def note_cancel(self, command: Command) -> None:
        """Remember a C-CANCEL request for the operation that it names."""
        self._cancelled.add(command.number(messages.MESSAGE_ID_BEING_RESPONDED_TO, 0))

    def _next_command(self) -> Command:
        message = read_message(self.wire, self.wire.network_timeout)
        message.drain()
        return message.command
