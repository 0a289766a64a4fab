"""What `pip install .` installs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import angiovault

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from a copy of the checkout, so that no build folder is left in it."""
    copy = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, copy]
    subprocess.run(command, check=True, timeout=120)
    return next(out.glob("angiovault-*.whl"))


def test_the_wheel_holds_every_module_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"angiovault-{angiovault.__version__}.dist-info/entry_points.txt").decode()
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    static = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/angiovault/panel/static").iterdir()}
    assert modules | static <= names
    assert "angiovault = angiovault.cli:main" in entry_points


def test_the_installed_package_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    script = "import angiovault.cli as cli; print(cli.__file__, flush=True); cli.main(['--version'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert f"AngioVault {angiovault.__version__}" in done.stdout


def test_nothing_under_the_gpl_is_installed_by_default() -> None:
    pinned = (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8")
    names = {line.split("==")[0].lower() for line in pinned.splitlines() if "==" in line and line[0].isalpha()}
    # MIT but for python-gdcm, which is under the BSD licence, and waitress, under the Zope Public Licence.
    assert names == {"bottle", "pydicom", "pynetdicom", "peewee", "pymysql", "python-gdcm", "waitress"}
