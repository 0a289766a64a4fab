"""DSM's notifications: what synodsmnotify is called with on DSM 6 and on DSM 7."""

import json
from collections.abc import Callable

import pytest

from dsm.generations import DSM6, DSM7
from dsm.nas import LATER, PACKAGE, SHARE, Nas
from harness.waiting import wait_until


@pytest.mark.slow
def test_storage_that_stays_away_is_notified_once(make_nas: Callable[..., Nas]) -> None:
    """Both NASes at once, as nothing is notified that does not last for a minute."""
    both = [make_nas(DSM6, language="chs"), make_nas(DSM7)]
    for nas in both:
        outcome = nas.center.install(nas.spk, LATER)
        assert outcome.ok, nas.explain(outcome)
    for nas in both:
        nas.wait_for("needs-set-up", answering=False)
        nas.stage.run(["mv", SHARE, f"{SHARE}-away"])
    for nas in both:
        calls = wait_until(lambda nas=nas: _about(nas, "storage"), "a notification", seconds=100)  # type: ignore[misc]
        assert len(calls) == 1
        _check(nas, calls[0])


def _about(nas: Nas, kind: str) -> list[list[str]]:
    """Return the calls about a kind of problem: the key says it on DSM 7, the title on DSM 6."""
    return [call for call in nas.stage.notifications() if f"notify:{kind}_title" in " ".join(call) or "存储" in call[2]]


def _check(nas: Nas, call: list[str]) -> None:
    user, *arguments = call
    assert user == nas.stage.run(["id", "-u", PACKAGE]).stdout.strip()
    if not nas.generation.at_least_7:
        receiver, title, text = arguments
        assert receiver == "@administrators"
        assert "AngioVault" in title
        assert text
        return
    option, application, receiver, title, text, reason = arguments
    assert (option, application, receiver) == ("-c", nas.spk.info["dsmappname"], "@administrators")
    assert reason
    ui = f"/var/packages/{PACKAGE}/target/ui"
    app = json.loads(nas.stage.read(f"{ui}/config"))[".url"][application]
    for key in (title, text):
        package, section, name = key.split(":")
        assert package == PACKAGE
        assert f"{section}:{name}" in app["preloadTexts"]
        for language in ("enu", "chs"):
            strings = nas.stage.read(f"{ui}/texts/{language}/strings").partition(f"[{section}]")[2]
            (line,) = [line for line in strings.splitlines() if line.startswith(f"{name}=")]
            assert ("{0}" in line) == (key == text)
