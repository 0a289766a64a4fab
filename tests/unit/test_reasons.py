"""Reasons of refusals: the same in both languages, and readable whatever was kept."""

import re
from string import Formatter

import pytest

from angiovault.devices import Operation
from angiovault.reasons import CHINESE, ENGLISH, TEXTS, Reason, sentences


@pytest.mark.parametrize("code", TEXTS)
def test_every_reason_is_said_in_both_languages(code: str) -> None:
    names = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in TEXTS[code]]
    assert names[ENGLISH] == names[CHINESE]
    reason = Reason.of(code, **dict.fromkeys(names[ENGLISH], "store"))
    english, chinese = sentences(code, reason.encoded())
    assert english == str(reason)
    assert re.search(r"[\u4e00-\u9fff]", chinese)
    assert "{" not in english + chinese


def test_operations_are_said_in_chinese() -> None:
    for operation in Operation:
        reason = Reason.of("unknown-may-not", sop_class="CT", operation=str(operation))
        assert re.search(r"操作：.*[\u4e00-\u9fff]", reason.in_language(CHINESE))


@pytest.mark.parametrize(
    ("code", "kept", "said"),
    [
        ("", "not a configured device", "not a configured device"),
        ("of-a-later-version", "{}", "{}"),
        ("called-ae-title", "{}", "called-ae-title"),
        ("called-ae-title", "no JSON", "called-ae-title"),
        ("called-ae-title", "[]", "called-ae-title"),
    ],
)
def test_what_cannot_be_read_is_shown_as_it_is(code: str, kept: str, said: str) -> None:
    assert sentences(code, kept) == (said, said)


def test_odd_values_are_only_values() -> None:
    reason = Reason.of("called-ae-title", called="{own}\ud800", own="王")
    english, chinese = sentences(reason.code, reason.encoded())
    assert "calls '{own}" in english
    assert "“王”" in chinese
