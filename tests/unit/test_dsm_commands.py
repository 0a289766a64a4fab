"""`angiovault dsm …` as typed, on a folder that looks like a NAS."""

import os
from pathlib import Path

import pytest

from angiovault.config import load
from angiovault.dsm import commands
from angiovault.dsm.paths import Nas
from harness import synology


@pytest.fixture
def nas(tmp_path: Path) -> Nas:
    made = synology.make(tmp_path)
    made.settings.write_text("[dicom]\nae-title = BEFORE\n", encoding="utf-8")
    return made


def test_ae_title_and_port_are_changed(nas: Nas) -> None:
    assert commands.main(["set", "--ae-title", "CATHLAB 2", "--port", "11113"], nas) == 0
    config = load(nas.settings)
    assert (config.ae_title, config.port) == ("CATHLAB 2", 11113)
    assert commands.main(["set", "--port", "104"], nas) == 0
    assert (load(nas.settings).ae_title, load(nas.settings).port) == ("CATHLAB 2", 104)


@pytest.mark.parametrize("wrong", [["--port", "65536"], ["--ae-title", "\\"], ["--ae-title", "A" * 17]])
def test_what_is_not_allowed_is_said_and_changes_nothing(
    nas: Nas, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = nas.settings.read_bytes()
    assert commands.main(["set", *wrong], nas) == 1
    assert "allowed" in capsys.readouterr().err
    assert nas.settings.read_bytes() == before
    assert commands.main(["set"], nas) == 2


def test_elsewhere_they_say_that_it_is_no_nas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["state"], Nas(tmp_path, user="")) == 1
    assert "Synology" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_general_commands_do_not_run_as_root_without_the_packages_user(capsys: pytest.CaptureFixture[str]) -> None:
    """This machine has no user angiovault: nothing is done rather than done as root."""
    assert commands.general(["status"]) == 1
    assert "angiovault" in capsys.readouterr().err
