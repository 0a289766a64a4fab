"""DIMSE messages (PS3.7 6.3 and annex E): command sets, statuses, and reading a message off the wire.

A command set is a handful of short elements in Implicit VR Little Endian, so it is packed and unpacked here directly;
a data set, which may be gigabytes, stays on the wire until its service takes it piece by piece.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from angiovault.dimse.endings import ProtocolError
from angiovault.dimse.fragments import Fragments
from angiovault.dimse.wire import Wire

C_STORE_RQ: Final = 0x0001
C_GET_RQ: Final = 0x0010
C_FIND_RQ: Final = 0x0020
C_MOVE_RQ: Final = 0x0021
C_ECHO_RQ: Final = 0x0030
N_EVENT_REPORT_RQ: Final = 0x0100
N_ACTION_RQ: Final = 0x0130
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE: Final = 0x8000
"""Bit of the Command Field that tells a response from a request."""

LONGEST_COMMAND: Final = 1 << 16
"""Most bytes of a command set; the longest legal one has a few hundred."""
NO_DATA_SET: Final = 0x0101
"""Command Data Set Type of a message without a data set; every other value means that one follows."""

AFFECTED_SOP_CLASS_UID: Final = 0x00000002
REQUESTED_SOP_CLASS_UID: Final = 0x00000003
COMMAND_FIELD: Final = 0x00000100
MESSAGE_ID: Final = 0x00000110
MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x00000120
MOVE_DESTINATION: Final = 0x00000600
PRIORITY: Final = 0x00000700
COMMAND_DATA_SET_TYPE: Final = 0x00000800
STATUS: Final = 0x00000900
ERROR_COMMENT: Final = 0x00000902
AFFECTED_SOP_INSTANCE_UID: Final = 0x00001000
REQUESTED_SOP_INSTANCE_UID: Final = 0x00001001
EVENT_TYPE_ID: Final = 0x00001002
ACTION_TYPE_ID: Final = 0x00001008
REMAINING_SUBOPERATIONS: Final = 0x00001020
COMPLETED_SUBOPERATIONS: Final = 0x00001021
FAILED_SUBOPERATIONS: Final = 0x00001022
WARNING_SUBOPERATIONS: Final = 0x00001023
MOVE_ORIGINATOR_AE_TITLE: Final = 0x00001030
MOVE_ORIGINATOR_MESSAGE_ID: Final = 0x00001031

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
PENDING_WITH_UNSUPPORTED_KEYS: Final = 0xFF01
CANCELLED: Final = 0xFE00
OUT_OF_RESOURCES: Final = 0xA700
UNABLE_TO_COUNT_MATCHES: Final = 0xA701
UNABLE_TO_PERFORM_SUBOPERATIONS: Final = 0xA702
MOVE_DESTINATION_UNKNOWN: Final = 0xA801
DATA_SET_MISMATCH: Final = 0xA900
SUBOPERATIONS_WITH_FAILURES: Final = 0xB000
CANNOT_UNDERSTAND: Final = 0xC000
UNABLE_TO_PROCESS: Final = 0xC001
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NO_SUCH_ACTION: Final = 0x0123
NOT_AUTHORISED: Final = 0x0124
DUPLICATE_TRANSACTION_UID: Final = 0x0131
INVALID_ARGUMENT: Final = 0x0115
UNRECOGNISED_OPERATION: Final = 0x0211
RESOURCE_LIMITATION: Final = 0x0213

_US: Final = frozenset(
    {
        COMMAND_FIELD, MESSAGE_ID, MESSAGE_ID_BEING_RESPONDED_TO, PRIORITY, COMMAND_DATA_SET_TYPE, STATUS,
        EVENT_TYPE_ID, ACTION_TYPE_ID, REMAINING_SUBOPERATIONS, COMPLETED_SUBOPERATIONS, FAILED_SUBOPERATIONS,
        WARNING_SUBOPERATIONS, MOVE_ORIGINATOR_MESSAGE_ID, 0x00000903, 0x00001005,
    }
)  # fmt: skip
_UI: Final = frozenset(
    {
        AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID,
    }
)  # fmt: skip
_NOT_LO: Final = re.compile(r"[^ -\[\]-~]")
_ELEMENT: Final = struct.Struct("<HHL")
_USHORT: Final = struct.Struct("<H")
_GROUP_LENGTH: Final = struct.Struct("<HHLL")


class CommandError(ValueError):
    """A command set that cannot be understood; the association has to be aborted (PS3.7 annex D.3.3.5)."""


class Command(dict[int, int | str]):
    """A command set: element tag -> value, ``int`` for US and ``str`` for every other VR used."""

    def number(self, tag: int, default: int | None = None) -> int:
        """Return a US element.

        Raises
        ------
        CommandError
            When the element is absent and there is no default.
        """
        value = self.get(tag, default)
        if not isinstance(value, int):
            raise CommandError(f"command element ({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing")
        return value

    def text(self, tag: int) -> str:
        """Return a UI, AE or LO element without padding, empty when absent."""
        value = self.get(tag, "")
        return value if isinstance(value, str) else ""

    @property
    def field(self) -> int:
        """Command Field (0000,0100)."""
        return self.number(COMMAND_FIELD)

    @property
    def message_id(self) -> int:
        """Message ID (0000,0110)."""
        return self.number(MESSAGE_ID)

    @property
    def status(self) -> int:
        """Status (0000,0900) of a response."""
        return self.number(STATUS)

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows; an absent type is read as "none", as a well-known peer leaves it out."""
        return self.number(COMMAND_DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET


def decode(encoded: bytes) -> Command:
    """Decode a command set (PS3.7 6.3.1).

    Raises
    ------
    CommandError
        When lengths do not fit, an element outside group 0000 appears, or one is missing without which the message
        cannot be answered.
    """
    command = Command()
    offset, end = 0, len(encoded)
    while offset < end:
        if end - offset < 8:
            raise CommandError("command set ends within an element")
        group, element, length = _ELEMENT.unpack_from(encoded, offset)
        offset += 8
        if group != 0:
            raise CommandError(f"command set holds element ({group:04X},{element:04X})")
        if length > end - offset:
            raise CommandError(f"command element (0000,{element:04X}) is longer than the command set")
        raw = encoded[offset : offset + length]
        offset += length
        if element in _US:
            if length < 2:
                if length == 0:
                    continue
                raise CommandError(f"command element (0000,{element:04X}) has length {length}")
            command[element] = _USHORT.unpack_from(raw)[0]
        else:
            command[element] = raw.decode("latin-1").strip(" \0")
    if command.field & RESPONSE:
        command.number(MESSAGE_ID_BEING_RESPONDED_TO)
        command.number(STATUS)
    else:
        command.number(MESSAGE_ID_BEING_RESPONDED_TO if command.field == C_CANCEL_RQ else MESSAGE_ID)
    return command


def encode(elements: Mapping[int, int | str | None]) -> bytes:
    """Encode a command set with its group length; elements that are ``None`` are left out."""
    body = b"".join([_encoded(tag, value) for tag, value in sorted(elements.items()) if value is not None])
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


@lru_cache(1024)
def _encoded(tag: int, value: int | str) -> bytes:
    """Return an element; all but two of a C-STORE response's are those of the response before."""
    if isinstance(value, int):
        raw = _USHORT.pack(value)
    else:
        raw = value.encode("latin-1", "replace")
        if len(raw) % 2:
            raw += b"\0" if tag in _UI else b" "
    return _ELEMENT.pack(0, tag, len(raw)) + raw


def response(
    request: Command, status: int, *, data_set: bool = False, comment: str = "", **numbers: int
) -> dict[int, int | str | None]:
    """Return the elements of the response to `request` (PS3.7 9.3 and 10.3).

    Parameters
    ----------
    request : Command
        The request that is answered.
    status : int
        Status (0000,0900).
    data_set : bool
        Whether a data set follows.
    comment : str
        Error Comment (0000,0902), reduced to what an LO may hold (PS3.5 6.2).
    **numbers : int
        ``remaining``, ``completed``, ``failed``, ``warning``: the sub-operation counts of C-MOVE and C-GET.
    """
    sop_class = request.text(AFFECTED_SOP_CLASS_UID) or request.text(REQUESTED_SOP_CLASS_UID)
    sop_instance = request.text(AFFECTED_SOP_INSTANCE_UID) or request.text(REQUESTED_SOP_INSTANCE_UID)
    elements: dict[int, int | str | None] = {
        COMMAND_FIELD: request.field | RESPONSE,
        MESSAGE_ID_BEING_RESPONDED_TO: request.message_id,
        COMMAND_DATA_SET_TYPE: 0x0001 if data_set else NO_DATA_SET,
        STATUS: status,
        AFFECTED_SOP_CLASS_UID: sop_class or None,
        AFFECTED_SOP_INSTANCE_UID: sop_instance or None,
        ERROR_COMMENT: _NOT_LO.sub("?", comment)[:64] if comment else None,
    }
    if ACTION_TYPE_ID in request:
        elements[ACTION_TYPE_ID] = request.number(ACTION_TYPE_ID)
    counts = {
        "remaining": REMAINING_SUBOPERATIONS,
        "completed": COMPLETED_SUBOPERATIONS,
        "failed": FAILED_SUBOPERATIONS,
        "warning": WARNING_SUBOPERATIONS,
    }
    for name, number in numbers.items():
        elements[counts[name]] = number
    return elements


class Message:
    """A DIMSE message whose data set is still on the wire.

    Attributes
    ----------
    context_id : int
        Presentation Context ID.
    command : Command
        The command set.
    """

    def __init__(self, wire: Wire, context_id: int, command: Command) -> None:
        self.context_id = context_id
        self.command = command
        self._fragments = Fragments(wire, False, context_id, ended=not command.has_data_set)

    def fragments(self) -> Iterator[memoryview]:
        """Yield the data set's bytes as they arrive; each view is valid until the next is asked for."""
        return iter(self._fragments)

    def read_into(self, room: Callable[[], memoryview], filled: Callable[[int], None]) -> None:
        """Read the data set, see `Fragments.read_into`."""
        self._fragments.read_into(room, filled)

    def data(self, longest: int) -> bytes:
        """Read a small data set whole.

        Raises
        ------
        ProtocolError
            When it is longer than `longest` bytes.
        """
        body = bytearray()
        for view in self.fragments():
            body += view
            if len(body) > longest:
                raise ProtocolError(f"data set of more than {longest} bytes in a message that needs few")
        return bytes(body)

    def drain(self) -> None:
        """Read what is left of the data set and forget it, so that the next message can be read."""
        for _ in self._fragments:
            pass


def read_message(wire: Wire, timeout: float) -> Message:
    """Wait for the next message and read its command set.

    Raises
    ------
    AssociationEnded
        When something else comes: release, abort, garbage, silence for `timeout` seconds.
    """
    wire.wait(timeout)
    encoded = bytearray()
    fragments = Fragments(wire, True)
    for view in fragments:
        encoded += view
        if len(encoded) > LONGEST_COMMAND:
            raise ProtocolError("command set without end")
    try:
        command = decode(bytes(encoded))
    except CommandError as error:
        raise ProtocolError(str(error)) from error
    return Message(wire, fragments.context_id, command)
