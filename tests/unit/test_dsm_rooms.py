"""The arrows between the rooms: the archive runs on any Linux, and the supervisor stays small."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "angiovault"


def _loaded(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("room", ["archive", "dimse", "phantom"])
def test_the_archive_knows_nothing_of_synology(room: str) -> None:
    for path in (SOURCES / room).rglob("*.py"):
        assert not re.search(r"angiovault\.dsm|from angiovault import .*\bdsm\b", path.read_text(encoding="utf-8")), (
            path
        )


def test_serving_loads_nothing_of_synology() -> None:
    assert not [name for name in _loaded("import angiovault.cli") if name.startswith("angiovault.dsm")]


@pytest.mark.parametrize("module", ["cli", "panel.context"])
def test_a_command_loads_nothing_of_the_network(module: str) -> None:
    loaded = _loaded(f"import angiovault.{module}")
    for name in ("pynetdicom", "angiovault.service", "angiovault.dimse.wire"):
        assert name not in loaded


def test_the_supervisor_loads_nothing_of_the_archive() -> None:
    loaded = _loaded("import angiovault.__main__, angiovault.dsm.commands")
    assert "angiovault.dsm.supervisor" in loaded
    for name in ("peewee", "pydicom", "pynetdicom", "pymysql", "angiovault.archive", "angiovault.service"):
        assert name not in loaded
