"""A-ASSOCIATE PDUs: pynetdicom on the other side, and what a hostile peer could send."""

import contextlib
import random
import struct

import pytest
from pynetdicom import pdu as pdus
from pynetdicom import pdu_primitives as primitives
from pynetdicom.presentation import PresentationContext

from angiovault import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from angiovault.dimse.endings import ProtocolError
from angiovault.dimse.negotiation import (
    APPLICATION_CONTEXT,
    REJECTIONS,
    Context,
    ProposedContext,
    Rejected,
    decode_answer,
    decode_request,
    encode_accept,
    encode_reject,
    encode_request,
)
from harness.upper_layer import (
    COMMITMENT,
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    associate_rq,
    item,
    user_information,
)

PROPOSED = (
    ProposedContext(1, VERIFICATION, (IMPLICIT,)),
    ProposedContext(3, CT_IMAGE, (EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.4.70")),
    ProposedContext(255, COMMITMENT, (EXPLICIT,)),
)


def role(uid: str, scu: bool, scp: bool) -> primitives.SCP_SCU_RoleSelectionNegotiation:
    made = primitives.SCP_SCU_RoleSelectionNegotiation()
    made.sop_class_uid, made.scu_role, made.scp_role = uid, scu, scp
    return made


def primitive(*more: object) -> primitives.A_ASSOCIATE:
    made = primitives.A_ASSOCIATE()
    made.application_context_name = APPLICATION_CONTEXT
    made.calling_ae_title, made.called_ae_title = "CALLING", "CALLED"
    maximum = primitives.MaximumLengthNotification()
    maximum.maximum_length_received = 28672
    implementation = primitives.ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.3.12.2.1107.5.1.4"
    version = primitives.ImplementationVersionNameNotification()
    version.implementation_version_name = "SIEMENS"
    made.user_information = [maximum, implementation, version, *more]
    contexts = []
    for proposed in PROPOSED:
        context = PresentationContext()
        context.context_id, context.abstract_syntax = proposed.context_id, proposed.abstract_syntax
        context.transfer_syntax = list(proposed.transfer_syntaxes)
        contexts.append(context)
    made.presentation_context_definition_list = contexts
    return made


def full_request() -> bytes:
    """A request of pynetdicom with every kind of sub-item that there is."""
    extended = primitives.SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CT_IMAGE, b"\1\2\3"
    common = primitives.SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = CT_IMAGE, "1.2.840.10008.4.2"
    common.related_general_sop_class_identification = ["1.2.840.10008.5.1.4.1.1.7"]
    window = primitives.AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked, window.maximum_number_operations_performed = 5, 5
    identity = primitives.UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, b"user", b"secret"
    identity.positive_response_requested = True
    more = (role(CT_IMAGE, False, True), role(COMMITMENT, True, True), extended, common, window, identity)
    return bytes(pdus.A_ASSOCIATE_RQ(primitive(*more)).encode())


def test_a_request_of_pynetdicom_is_understood() -> None:
    proposal = decode_request(full_request())
    assert (proposal.called, proposal.calling) == ("CALLED", "CALLING")
    assert proposal.application_context == APPLICATION_CONTEXT
    assert proposal.protocol_version == 1
    assert proposal.contexts == PROPOSED
    assert proposal.max_pdu == 28672
    assert proposal.roles == {CT_IMAGE: (False, True), COMMITMENT: (True, True)}
    assert proposal.extended == {CT_IMAGE: b"\1\2\3"}
    assert proposal.implementation == "1.3.12.2.1107.5.1.4 SIEMENS"


def test_items_of_unknown_types_are_passed_over() -> None:
    information = user_information(more=item(0x59, b"new") + item(0x00, b"") + item(0xFF, bytes(300)))
    contexts = [(1, VERIFICATION, [IMPLICIT])]
    encoded = associate_rq(contexts, more=item(0x22, b"unknown") + item(0x60, b""), information=information)
    proposal = decode_request(encoded)
    assert proposal.contexts == PROPOSED[:1]
    assert proposal.max_pdu == 16384
    within_context = item(0x20, bytes([1, 0, 0, 0]) + item(0x41, b"?") + item(0x30, VERIFICATION.encode()))
    assert decode_request(associate_rq([], more=within_context)).contexts == (ProposedContext(1, VERIFICATION, ()),)


@pytest.mark.parametrize(
    ("encoded", "title"),
    [
        (b"SIXTEEN_LETTERS_", "SIXTEEN_LETTERS_"),
        (b"  BLANKS        ", "BLANKS"),
        (b"NULS\0\0\0\0\0\0\0\0\0\0\0\0", "NULS"),
        (b"NUL\0left over   ", "NUL"),
        (b"                ", ""),
        (bytes(16), ""),
        ("AUFNAHME-MÜLLER".encode(), "AUFNAHME-M??LLER"),
        (b"LINE\nBREAK\x1b[31m ", "LINE?BREAK?[31m"),
    ],
)
def test_ae_titles_of_any_bytes_are_readable_text(encoded: bytes, title: str) -> None:
    proposal = decode_request(associate_rq([], calling=encoded, called=encoded))
    assert (proposal.calling, proposal.called) == (title, title)


def test_the_answer_repeats_the_titles_to_the_byte() -> None:
    request = associate_rq([(1, VERIFICATION, [IMPLICIT])], calling=b"M\xdcLLER\0\xff", called=b"\0" * 16)
    accepted = encode_accept(decode_request(request), [Context(1, VERIFICATION, IMPLICIT)], {}, 131072)
    assert accepted[10:74] == request[10:74]


def test_uids_are_read_without_their_padding() -> None:
    proposal = decode_request(associate_rq([(1, VERIFICATION + "\0", [IMPLICIT + "\0", "", EXPLICIT + " "])]))
    assert proposal.contexts == (ProposedContext(1, VERIFICATION, (IMPLICIT, EXPLICIT)),)


def test_no_maximum_length_is_no_limit() -> None:
    assert decode_request(associate_rq([], information=user_information(None))).max_pdu == 0
    assert decode_request(associate_rq([], information=b"")).max_pdu == 0


HEAD = 74
BROKEN = {
    "nothing": (b"\1\0\0\0\0\0", "too short"),
    "half the fixed part": (associate_rq([])[: HEAD - 1], "too short"),
    "half an item's head": (associate_rq([], more=b"\x20\0\0"), "longer than the A-ASSOCIATE-RQ"),
    "an item longer than the PDU": (associate_rq([], more=item(0x20, b"", length=0xFFFF)), "20H is longer"),
    "a context without ID": (associate_rq([], more=item(0x20, b"\1")), "presentation context item of 1 bytes"),
    "an even context ID": (associate_rq([(2, VERIFICATION, [IMPLICIT])]), "even ID"),
    "context ID 0": (associate_rq([(0, VERIFICATION, [IMPLICIT])]), "even ID"),
    "the same ID twice": (associate_rq([(1, VERIFICATION, [IMPLICIT])] * 2), "same ID"),
    "129 contexts": (associate_rq([(2 * n % 256 + 1, VERIFICATION, [IMPLICIT]) for n in range(129)]), "same ID"),
    "a syntax longer than its context": (
        associate_rq([], more=item(0x20, bytes([1, 0, 0, 0]) + item(0x30, b"1.2", length=4))),
        "30H is longer",
    ),
    "a maximum length of two bytes": (
        associate_rq([], information=item(0x50, item(0x51, b"\0\0"))),
        "maximum length item of 2",
    ),
    "a role without flags": (
        associate_rq([], information=user_information(more=item(0x54, struct.pack(">H", 3) + b"1.2"))),
        "role selection item of 0",
    ),
    "a role whose UID is longer than it": (
        associate_rq([], information=user_information(more=item(0x54, struct.pack(">H", 60) + b"1.2\0\1"))),
        "role selection item of 7",
    ),
    "an extended negotiation of one byte": (
        associate_rq([], information=user_information(more=item(0x56, b"\0"))),
        "extended negotiation item of 1",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_request_is_refused_in_words(name: str) -> None:
    encoded, words = BROKEN[name]
    with pytest.raises(ProtocolError, match=words):
        decode_request(encoded)


def test_a_request_cut_anywhere_is_read_or_refused() -> None:
    whole = full_request()
    for cut in range(6, len(whole)):
        with contextlib.suppress(ProtocolError):
            assert set(decode_request(whole[:cut]).contexts) <= set(PROPOSED)


def test_whatever_the_bytes_are_only_protocol_errors_come_of_them() -> None:
    chance = random.Random(2)
    whole = full_request()
    answered = 0
    for _ in range(5000):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            proposal = decode_request(bytes(broken))
        except ProtocolError:
            continue
        contexts = [Context(each.context_id, each.abstract_syntax, "", 3) for each in proposal.contexts]
        decoded = pdus.A_ASSOCIATE_AC()
        decoded.decode(encode_accept(proposal, contexts, {}, 131072))
        answered += 1
    assert answered > 1000


def test_a_megabyte_of_empty_items_is_read_in_passing() -> None:
    assert decode_request(associate_rq([], more=item(0x99, b"") * 200_000)).contexts == ()


# ---- our answers, read by pynetdicom


def test_an_acceptance_is_understood_by_pynetdicom() -> None:
    contexts = [
        Context(1, VERIFICATION, IMPLICIT),
        Context(3, CT_IMAGE, EXPLICIT, 0, False, True),
        Context(255, COMMITMENT, "", 4),
    ]
    accepted = pdus.A_ASSOCIATE_AC()
    accepted.decode(encode_accept(decode_request(full_request()), contexts, {CT_IMAGE: b"\2\0\3\0"}, 131072))
    assert accepted.application_context_name == APPLICATION_CONTEXT
    answers = [(each.context_id, each.result, each.transfer_syntax) for each in accepted.presentation_context]
    assert answers == [(1, 0, IMPLICIT), (3, 0, EXPLICIT), (255, 4, answers[2][2])]
    information = accepted.user_information
    assert information.maximum_length == 131072
    assert information.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert information.implementation_version_name == IMPLEMENTATION_VERSION_NAME
    # Only for classes that are accepted, and whose role was proposed.
    assert [(uid, each.scu_role, each.scp_role) for uid, each in information.role_selection.items()] == [
        (CT_IMAGE, False, True)
    ]
    assert [(each.uid, each.app_info) for each in information.ext_neg] == [(CT_IMAGE, b"\2\0\3\0")]
    assert information.async_ops_window is None
    assert information.user_identity is None


@pytest.mark.parametrize("code", REJECTIONS)
def test_a_rejection_is_understood_by_pynetdicom_and_by_us(code: tuple[int, int, int]) -> None:
    encoded = encode_reject(*code)
    rejected = pdus.A_ASSOCIATE_RJ()
    rejected.decode(encoded)
    assert (rejected.result, rejected.source, rejected.reason_diagnostic) == code
    assert rejected.encode() == encoded
    with pytest.raises(Rejected, match=f"{REJECTIONS[code]} .{code[0]}/{code[1]}/{code[2]}") as caught:
        decode_answer(encoded, PROPOSED)
    assert caught.value.code == code


# ---- our requests


def test_our_request_is_understood_by_pynetdicom() -> None:
    request = pdus.A_ASSOCIATE_RQ()
    request.decode(encode_request("ANGIOVAULT", "A_TITLE_16_LONG_", PROPOSED, 131072, [COMMITMENT]))
    assert (request.calling_ae_title.strip(), request.called_ae_title.strip()) == ("ANGIOVAULT", "A_TITLE_16_LONG_")
    assert [
        ProposedContext(each.context_id, each.abstract_syntax, tuple(each.transfer_syntax))
        for each in request.presentation_context
    ] == list(PROPOSED)
    information = request.user_information
    assert information.maximum_length == 131072
    assert [(uid, each.scu_role, each.scp_role) for uid, each in information.role_selection.items()] == [
        (COMMITMENT, False, True)
    ]


def accepted_by_pynetdicom(syntax: str = EXPLICIT) -> bytes:
    made = primitive(role(COMMITMENT, False, True))
    made.result = 0
    results = []
    for proposed, result, chosen in zip(PROPOSED, (0, 0, 3), (IMPLICIT, syntax, EXPLICIT), strict=True):
        context = PresentationContext()
        context.context_id, context.result, context.transfer_syntax = proposed.context_id, result, [chosen]
        results.append(context)
    made.presentation_context_definition_results_list = results
    return bytes(pdus.A_ASSOCIATE_AC(made).encode())


def test_an_acceptance_of_pynetdicom_is_understood() -> None:
    acceptance = decode_answer(accepted_by_pynetdicom(), PROPOSED)
    assert acceptance.contexts == (
        Context(1, VERIFICATION, IMPLICIT),
        Context(3, CT_IMAGE, EXPLICIT),
        Context(255, COMMITMENT, "", 3, False, True),
    )
    assert acceptance.max_pdu == 28672
    assert acceptance.implementation == "1.3.12.2.1107.5.1.4 SIEMENS"


def test_a_syntax_that_was_not_proposed_is_not_used() -> None:
    acceptance = decode_answer(accepted_by_pynetdicom("1.2.840.10008.1.2.2"), PROPOSED)
    assert [context.result for context in acceptance.contexts] == [0, 4, 3]


def test_a_context_that_was_not_answered_is_not_used() -> None:
    more = (*PROPOSED, ProposedContext(5, "1.2.3", (IMPLICIT,)))
    assert [context.result for context in decode_answer(accepted_by_pynetdicom(), more).contexts] == [0, 0, 3, 1]


def test_an_answer_cut_anywhere_is_read_or_refused() -> None:
    whole = accepted_by_pynetdicom()
    for cut in range(6, len(whole)):
        with contextlib.suppress(ProtocolError):
            assert len(decode_answer(whole[:cut], PROPOSED).contexts) == 3
