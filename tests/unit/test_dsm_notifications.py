"""When DSM is told of a problem, and with which words."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from angiovault.dsm import notifications
from angiovault.dsm.notifications import Notifier
from angiovault.dsm.paths import Nas
from harness import synology
from harness.waiting import wait_until

AWAY = {"database": "the index cannot be used:\n  (2003, 'x')"}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Told:
    """A notifier, and what the stand-in of DSM's program was called with."""

    def __init__(self, nas: Nas) -> None:
        self.nas = nas
        self.clock = Clock()
        self.file = synology.notifications(nas)
        self.notifier = Notifier(nas, self.clock, self.clock)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(synology.make(tmp_path))


def _wait(told: Told, problems: Mapping[str, str]) -> None:
    told.notifier.update(problems)
    wait_until(lambda: all(item[0].poll() is not None for item in told.notifier._running), "DSM's program to end")
    told.notifier.update(problems)


def test_a_problem_that_lasts_is_told_once(told: Told) -> None:
    for seconds in (0, 30, 29):
        told.clock.now += seconds
        _wait(told, AWAY)
        assert told.calls() == []
    for seconds in (1, 1, 3600, 100_000):
        told.clock.now += seconds
        _wait(told, AWAY)
        assert len(told.calls()) == 1
    assert not told.notifier._running


def test_a_problem_that_comes_and_goes_is_told_once_a_day(told: Told) -> None:
    for _ in range(5):
        _wait(told, AWAY)
        told.clock.now += 61
        _wait(told, AWAY)
        _wait(told, {})
    assert len(told.calls()) == 1
    told.notifier = Notifier(told.nas, told.clock, told.clock)  # started anew
    _wait(told, {**AWAY, "disk": "full"})
    told.clock.now += 61
    _wait(told, {**AWAY, "disk": "full"})
    assert [call[-1] for call in told.calls()] == ["the index cannot be used: (2003, 'x')", "full"]
    _wait(told, {})
    told.clock.now += 86400
    _wait(told, AWAY)
    told.clock.now += 61
    _wait(told, AWAY)
    assert len(told.calls()) == 3


def test_a_second_problem_of_a_day_is_told_when_it_outlasts_the_day(told: Told) -> None:
    """Ten minutes away on Monday, then away for a week: the week is not hidden by the ten minutes."""
    for hours in (0, 4):
        told.clock.now += hours * 3600
        _wait(told, AWAY)
        told.clock.now += 61
        _wait(told, AWAY)
        assert len(told.calls()) == 1
        if not hours:
            _wait(told, {})
    for _ in range(6):
        told.clock.now += 4 * 3600
        _wait(told, AWAY)
    assert len(told.calls()) == 2


def test_a_short_problem_is_not_told(told: Told) -> None:
    for _ in range(5):
        _wait(told, AWAY)
        told.clock.now += 59
        _wait(told, {})
    assert told.calls() == []


def test_dsm7_wants_names_of_texts(told: Told) -> None:
    assert notifications.command(told.nas, "disk", "a\nb") == [
        str(told.nas.notify_program),
        "-c",
        "com.angiovault.panel",
        "@administrators",
        "angiovault:notify:disk_title",
        "angiovault:notify:disk_text",
        "a b",
    ]


@pytest.mark.parametrize(("language", "title"), [("enu", "the disk is nearly full"), ("chs", "磁盘空间即将用尽")])
def test_dsm6_wants_the_texts(tmp_path: Path, language: str, title: str) -> None:
    nas = synology.make(tmp_path, generation=6, language=language)
    program, receiver, first, second = notifications.command(nas, "disk", "3 GB are left")
    assert (program, receiver) == (str(nas.notify_program), "@administrators")
    assert title in first
    assert "3 GB are left" in second


def test_a_program_that_is_missing_or_fails_is_only_logged(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    told.nas.notify_program.write_text("#!/bin/sh\nexit 7\n")
    _wait(told, AWAY)
    told.clock.now += 61
    _wait(told, AWAY)
    assert "ended with 7" in caplog.text
    told.nas.notify_program.unlink()
    told.nas.notified.unlink()
    _wait(told, {})
    _wait(told, AWAY)
    told.clock.now += 61
    _wait(told, AWAY)
    assert "cannot be told" in caplog.text


def test_a_program_that_hangs_is_not_waited_for(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    told.nas.notify_program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(600)\n")
    told.notifier.update(AWAY)
    told.clock.now += 61
    told.notifier.update(AWAY)
    ((process, _),) = told.notifier._running
    told.clock.now += 16
    told.notifier.update(AWAY)
    assert process.returncode == -9
    assert not told.notifier._running
    assert "ended with -9" in caplog.text


def test_the_words_for_ui_texts_are_those_of_dsm6() -> None:
    from angiovault.dsm.texts import TEXTS

    folder = Path(__file__).parents[2] / "ui" / "texts"
    for language, name in enumerate(("enu", "chs")):
        section = (folder / name / "strings").read_text(encoding="utf-8").partition("[notify]")[2]
        for kind in notifications.KINDS:
            assert f'{kind}_title="{TEXTS[f"notify_{kind}_title"][language]}"' in section
            text = TEXTS[f"notify_{kind}_text"][language].replace("{reason}", "{0}")
            assert f'{kind}_text="{text}"' in section
