"""Who may do what, as the answer to a proposal."""

import dataclasses

import pytest

from angiovault.config import Config, UnknownDevices
from angiovault.devices import EVERYTHING, Device, Operation
from angiovault.dimse.acceptance import Verdict, judge
from angiovault.dimse.negotiation import APPLICATION_CONTEXT, Context, Proposal, ProposedContext
from angiovault.reasons import Reason
from harness.upper_layer import (
    COMMITMENT,
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
)

CLASSES = {
    Operation.ECHO: VERIFICATION,
    Operation.STORE: CT_IMAGE,
    Operation.FIND: STUDY_ROOT_FIND,
    Operation.MOVE: STUDY_ROOT_MOVE,
    Operation.GET: STUDY_ROOT_GET,
    Operation.COMMIT: COMMITMENT,
}


def proposal(*classes: str, **changes: object) -> Proposal:
    contexts = tuple(ProposedContext(2 * n + 1, uid, (IMPLICIT,)) for n, uid in enumerate(classes))
    made = Proposal("ANGIOVAULT", "CALLER", APPLICATION_CONTEXT, contexts, 16384)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def config(**changes: object) -> Config:
    return dataclasses.replace(Config(), **changes)  # type: ignore[arg-type]


def results(verdict: Verdict) -> dict[str, int]:
    assert verdict.reject is None
    return {context.abstract_syntax: context.result for context in verdict.contexts}


def allowed(verdict: Verdict) -> set[Operation]:
    found = results(verdict)
    return {operation for operation, uid in CLASSES.items() if found[uid] == 0}


@pytest.mark.parametrize(
    ("policy", "operations"),
    [
        (UnknownDevices.ECHO, {Operation.ECHO}),
        (UnknownDevices.STORE, {Operation.ECHO, Operation.STORE}),
        (UnknownDevices.ALL, set(Operation)),
    ],
)
def test_what_unknown_devices_may_do(policy: UnknownDevices, operations: set[Operation]) -> None:
    verdict = judge(proposal(*CLASSES.values()), None, config(unknown_devices=policy))
    assert allowed(verdict) == operations
    assert {result for result in results(verdict).values() if result} <= {1}
    assert len(verdict.refused) == len(Operation) - len(operations)


def test_unknown_devices_may_be_refused() -> None:
    verdict = judge(proposal(VERIFICATION), None, config(unknown_devices=UnknownDevices.REFUSE))
    assert verdict.reject == (1, 1, 3)
    assert str(verdict.why) == "calling AE title not recognised: not a configured device"


@pytest.mark.parametrize("operation", Operation)
def test_a_device_may_do_what_it_is_allowed_and_nothing_else(operation: Operation) -> None:
    device = Device("room 1", "CALLER", ("127.0.0.1",), None, frozenset({operation}))
    verdict = judge(proposal(*CLASSES.values()), device, config(unknown_devices=UnknownDevices.ALL))
    assert allowed(verdict) == {operation}
    assert len(verdict.refused) == 5
    assert all("the device 'room 1' may not " in str(why) for why in verdict.refused)


def test_a_device_without_operations_is_refused() -> None:
    device = Device("room 1", "CALLER", ("127.0.0.1",), None, frozenset())
    verdict = judge(proposal(VERIFICATION), device, config(unknown_devices=UnknownDevices.ALL))
    assert verdict.reject == (1, 1, 3)
    assert "room 1" in str(verdict.why)


def test_the_called_ae_title_is_checked_when_that_is_wanted() -> None:
    wrong = proposal(VERIFICATION, called="OTHER")
    assert judge(wrong, None, config()).reject is None
    verdict = judge(wrong, None, config(check_called_ae_title=True))
    assert verdict.reject == (1, 1, 7)
    assert verdict.why == Reason.of("called-ae-title", called="OTHER", own="ANGIOVAULT")
    assert judge(proposal(VERIFICATION), None, config(check_called_ae_title=True)).reject is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"application_context": "1.2.3"}, (1, 1, 2)),
        ({"application_context": ""}, (1, 1, 2)),
        ({"protocol_version": 2}, (1, 2, 2)),
        ({"protocol_version": 3}, None),
        ({"max_pdu": 1}, (1, 1, 1)),
        ({"max_pdu": 15}, (1, 1, 1)),
        ({"max_pdu": 16}, None),
        ({"max_pdu": 0}, None),
    ],
)
def test_proposals_that_cannot_work_are_rejected(changes: dict[str, object], code: tuple[int, int, int] | None) -> None:
    assert judge(proposal(VERIFICATION, **changes), None, config()).reject == code


@pytest.mark.parametrize(
    ("context", "result", "words"),
    [
        (ProposedContext(1, "1.2.840.10008.3.1.2.3.3", (IMPLICIT,)), 3, "SOP class not supported"),
        (ProposedContext(1, "", (IMPLICIT,)), 3, "(empty UID): SOP class not supported"),
        (ProposedContext(1, CT_IMAGE, ()), 4, "(none)"),
        (ProposedContext(1, CT_IMAGE, ("1.2.840.113619.5.2",)), 4, "(1.2.840.113619.5.2)"),
        (ProposedContext(1, CT_IMAGE, ("1.2.840.10008.1.2.4.94",)), 4, "JPIP Referenced"),
        (ProposedContext(1, VERIFICATION, ("1.2.840.10008.1.2.2",)), 4, "Explicit VR Big Endian"),
    ],
)
def test_a_refused_context_says_class_syntax_and_reason(context: ProposedContext, result: int, words: str) -> None:
    verdict = judge(proposal(contexts=(context,)), None, config())
    assert [answer.result for answer in verdict.contexts] == [result]
    (refused,) = verdict.refused
    assert words in str(refused)


def test_thousands_of_syntaxes_make_no_long_line() -> None:
    unknown = ProposedContext(1, "9" * 60000, (IMPLICIT,))
    (refused,) = judge(proposal(contexts=(unknown,)), None, config()).refused
    assert str(refused) == "9" * 64 + ": SOP class not supported"
    unreadable = ProposedContext(1, CT_IMAGE, tuple("8" * 60000 for _ in range(1000)))
    (refused,) = judge(proposal(contexts=(unreadable,)), None, config()).refused
    assert str(refused).endswith(", 992 more)")
    assert len(str(refused)) < 1000


def test_several_contexts_of_a_class_are_answered_each() -> None:
    contexts = (
        ProposedContext(1, CT_IMAGE, (EXPLICIT,)),
        ProposedContext(3, CT_IMAGE, ("1.2.840.10008.1.2.4.70",)),
        ProposedContext(5, CT_IMAGE, ("1.2.3",)),
    )
    answers = judge(proposal(contexts=contexts), None, config()).contexts
    assert [(answer.context_id, answer.transfer_syntax, answer.result) for answer in answers] == [
        (1, EXPLICIT, 0),
        (3, "1.2.840.10008.1.2.4.70", 0),
        (5, "", 4),
    ]


@pytest.mark.parametrize(
    ("allow", "asked", "result", "granted"),
    [
        (EVERYTHING, (True, True), 0, (True, True)),
        (EVERYTHING, (False, True), 0, (False, True)),
        (EVERYTHING, (True, False), 0, (True, False)),
        ({Operation.STORE}, (True, True), 0, (True, False)),
        ({Operation.GET}, (True, True), 0, (False, True)),
        ({Operation.GET}, (True, False), 1, None),
        ({Operation.STORE}, (False, True), 1, None),
        (EVERYTHING, (False, False), 1, None),
    ],
)
def test_roles_follow_what_the_caller_may_do(
    allow: set[Operation], asked: tuple[bool, bool], result: int, granted: tuple[bool, bool] | None
) -> None:
    device = Device("room 1", "CALLER", ("127.0.0.1",), None, frozenset(allow))
    (answer,) = judge(proposal(CT_IMAGE, roles={CT_IMAGE: asked}), device, config()).contexts
    assert answer.result == result
    if granted is not None:
        assert (answer.requestor_is_scu, answer.requestor_is_scp) == granted


def test_extended_negotiation_is_answered_truthfully() -> None:
    asked = {
        STUDY_ROOT_FIND: bytes([1, 1, 1, 1, 1]),
        STUDY_ROOT_MOVE: bytes([1, 1]),
        STUDY_ROOT_GET: bytes([0]),
        CT_IMAGE: bytes([0, 0, 1]),
        VERIFICATION: b"\1",
        "1.2.3.4": b"\1",
    }
    verdict = judge(proposal(*CLASSES.values(), extended=asked), None, config(unknown_devices=UnknownDevices.ALL))
    assert verdict.extended == {
        STUDY_ROOT_FIND: bytes([1, 1, 0, 0, 0]),
        STUDY_ROOT_MOVE: bytes([1, 0]),
        STUDY_ROOT_GET: bytes([0]),
        CT_IMAGE: bytes([2, 0, 3, 0, 0, 0]),
    }
    refused = judge(proposal(STUDY_ROOT_FIND, extended=asked), None, config(unknown_devices=UnknownDevices.STORE))
    assert refused.extended == {}


def test_a_context_that_is_accepted_names_its_syntax() -> None:
    assert judge(proposal(VERIFICATION), None, config()).contexts == (Context(1, VERIFICATION, IMPLICIT),)
