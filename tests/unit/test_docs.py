"""The tables of the documentation are the program's own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_check_notices_a_stale_table(tmp_path: Path) -> None:
    for name in ("tables.py", "conformance.md", "settings.md"):
        (tmp_path / name).write_bytes((ROOT / "docs" / name).read_bytes())
    page = tmp_path / "conformance.md"
    page.write_text(page.read_text(encoding="utf-8").replace("Verification |", "Verification|").replace("RLE", "REL"))
    done = subprocess.run(
        [sys.executable, tmp_path / "tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "conformance.md is not up to date" in done.stderr
