"""Command sets: pynetdicom on the other side of encoding and decoding, and what a hostile peer could send."""

import random
import struct
from io import BytesIO

import pydicom
import pytest
from pynetdicom import dimse_messages, dsutils
from pynetdicom import dimse_primitives as primitives

from angiovault.dimse import messages
from angiovault.dimse.messages import CommandError, decode, encode, response
from harness.upper_layer import command_set


def store_request() -> primitives.C_STORE:
    primitive = primitives.C_STORE()
    primitive.MessageID = 17
    primitive.AffectedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    primitive.AffectedSOPInstanceUID = "1.2.3.4"
    primitive.Priority = 2
    primitive.MoveOriginatorApplicationEntityTitle = "MOVER"
    primitive.MoveOriginatorMessageID = 9
    primitive.DataSet = BytesIO(b"\0")
    return primitive


def encoded_by_pynetdicom(message_type: type, primitive: object) -> bytes:
    message = message_type()
    message.primitive_to_message(primitive)
    encoded: bytes = dsutils.encode(message.command_set, True, True)
    return encoded


def test_a_request_of_pynetdicom_is_understood() -> None:
    command = decode(encoded_by_pynetdicom(dimse_messages.C_STORE_RQ, store_request()))
    assert command.field == messages.C_STORE_RQ
    assert command.message_id == 17
    assert command.has_data_set
    assert command.text(messages.AFFECTED_SOP_CLASS_UID) == "1.2.840.10008.5.1.4.1.1.2"
    assert command.text(messages.AFFECTED_SOP_INSTANCE_UID) == "1.2.3.4"
    assert command.text(messages.MOVE_ORIGINATOR_AE_TITLE) == "MOVER"
    assert command.number(messages.MOVE_ORIGINATOR_MESSAGE_ID) == 9


def test_our_request_is_what_pynetdicom_sends() -> None:
    theirs = encoded_by_pynetdicom(dimse_messages.C_STORE_RQ, store_request())
    ours = encode(
        {
            messages.COMMAND_FIELD: messages.C_STORE_RQ,
            messages.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.5.1.4.1.1.2",
            messages.AFFECTED_SOP_INSTANCE_UID: "1.2.3.4",
            messages.MESSAGE_ID: 17,
            messages.PRIORITY: 2,
            messages.COMMAND_DATA_SET_TYPE: 1,
            messages.MOVE_ORIGINATOR_AE_TITLE: "MOVER",
            messages.MOVE_ORIGINATOR_MESSAGE_ID: 9,
            messages.ERROR_COMMENT: None,
        }
    )
    assert ours == theirs


def test_a_response_says_what_it_answers_and_how_far_the_work_is() -> None:
    request = decode(encoded_by_pynetdicom(dimse_messages.C_STORE_RQ, store_request()))
    encoded = encode(response(request, 0xFF00, data_set=True, remaining=3, completed=2, failed=1, warning=0))
    read = pydicom.filereader.read_dataset(BytesIO(encoded), is_implicit_VR=True, is_little_endian=True)
    assert read.CommandGroupLength == len(encoded) - 12
    assert read.CommandField == 0x8001
    assert read.MessageIDBeingRespondedTo == 17
    assert read.AffectedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert read.AffectedSOPInstanceUID == "1.2.3.4"
    assert read.CommandDataSetType != 0x0101
    assert read.Status == 0xFF00
    assert [read.NumberOfRemainingSuboperations, read.NumberOfCompletedSuboperations] == [3, 2]
    assert [read.NumberOfFailedSuboperations, read.NumberOfWarningSuboperations] == [1, 0]
    assert "ErrorComment" not in read


def test_an_error_comment_is_a_legal_value() -> None:
    request = decode(command_set({0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101}))
    comment = response(request, 0xC000, comment="back\\slash\nline\x00 \x1b[31m Ünicode " + "x" * 80)[
        messages.ERROR_COMMENT
    ]
    assert comment == "back?slash?line? ?[31m ?nicode " + "x" * 33
    assert isinstance(comment, str)
    assert len(comment) == 64


ECHO = {0x0002: "1.2.840.10008.1.1", 0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101}


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (b"", r"\(0000,0100\) is missing"),
        (b"\0\0\0", "ends within an element"),
        (command_set({0x0110: 1, 0x0800: 0x0101}), r"\(0000,0100\) is missing"),
        (command_set({0x0100: 0x0030, 0x0800: 0x0101}), r"\(0000,0110\) is missing"),
        (command_set({0x0100: 0x0FFF, 0x0110: 1, 0x0800: 0x0101}), r"\(0000,0120\) is missing"),
        (command_set({0x0100: 0x8030, 0x0120: 1, 0x0800: 0x0101}), r"\(0000,0900\) is missing"),
        (command_set({0x0100: 0x8030, 0x0800: 0x0101, 0x0900: 0}), r"\(0000,0120\) is missing"),
        (command_set({0x0100: b""}), r"\(0000,0100\) is missing"),
        (command_set(ECHO) + struct.pack("<HHL", 8, 0x16, 2) + b"1\0", r"\(0008,0016\)"),
        (command_set(ECHO) + struct.pack("<HHL", 0, 0x1000, 0xFFFFFFFF), r"\(0000,1000\) is longer"),
        (command_set(ECHO) + struct.pack("<HHL", 0, 0x0900, 1) + b"1", r"\(0000,0900\) has length 1"),
    ],
)
def test_a_command_set_that_cannot_be_answered_is_refused(encoded: bytes, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        decode(encoded)


@pytest.mark.parametrize("group_length", [0, 1, 0xFFFFFFFF])
def test_a_wrong_group_length_does_no_harm(group_length: int) -> None:
    assert decode(command_set(ECHO, group_length=group_length)).field == messages.C_ECHO_RQ


def test_an_absent_data_set_type_means_none() -> None:
    assert not decode(command_set({0x0100: 0x0030, 0x0110: 1})).has_data_set


def test_whatever_the_bytes_are_only_command_errors_come_of_them() -> None:
    chance = random.Random(1)
    whole = encoded_by_pynetdicom(dimse_messages.C_STORE_RQ, store_request())
    refused = 0
    for _ in range(5000):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            decode(bytes(broken[: chance.randint(0, len(broken))]))
        except CommandError:
            refused += 1
    assert refused > 1000
