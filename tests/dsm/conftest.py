"""Fixtures of the scenarios: the package files, the database server, and NASes to play on."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dsm.generations import DSM6, DSM7, Generation
from dsm.mariadb10 import MariaDB10
from dsm.nas import Nas, Packages
from dsm.package_center import Habits, PackageCenter
from dsm.spk_file import Spk
from dsm.stage import Stage
from harness.processes import program

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parent.parent

MakeNas = Callable[..., Nas]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == _HERE:
            item.add_marker("root")
            item.add_marker("mariadb")
            # Building the packages from nothing takes longer than any scenario may.
            item.add_marker(pytest.mark.timeout(300, func_only=True))


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The very files that `make spk` makes, and their predecessors: the same with an older build number."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # to workers, which build one after the other
    own = tmp_path_factory.mktemp("packages")
    with (common / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Packages(now=_build(own, _REPOSITORY / "dist"), before=_build(own, common / "previous", "--build", "0"))


def _build(own: Path, folder: Path, *options: str) -> dict[int, Spk]:
    """Let the builder make the files for DSM 6 and 7, quickly done when nothing has changed, and return copies."""
    command = [sys.executable, "-m", "spk", "build", "--arch", "x86_64", "--out", folder, *options]
    done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {int(found[2]): found[1] for found in re.finditer(r"^(.+-dsm([67])\.spk): ", done.stdout, re.MULTILINE)}
    return {generation: Spk(Path(shutil.copy(path, own))) for generation, path in made.items()}


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /.stage of every stage."""
    folder = tmp_path_factory.mktemp("stand-ins") / "stage"
    shutil.copytree(_HERE / "stand_ins", folder)
    for name in ("bin", "lib"):
        (folder / name).mkdir()
    gcc = [program("gcc"), "-O2", "-Wall", "-Wextra", "-Werror", _HERE / "old_kernel.c"]
    subprocess.run([*gcc, "-o", folder / "bin" / "old_kernel"], check=True)
    subprocess.run([*gcc, "-DLIBRARY", "-shared", "-fPIC", "-o", folder / "lib" / "old_uname.so"], check=True)
    return folder


@pytest.fixture(scope="session")
def mariadb10_server() -> Iterator[MariaDB10]:
    server = MariaDB10()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def mariadb10(mariadb10_server: MariaDB10) -> MariaDB10:
    """The database server of the NAS, running and as new; a test may stop, kill and start it."""
    if not mariadb10_server.running:
        mariadb10_server.start()
    mariadb10_server.reset()
    return mariadb10_server


@pytest.fixture
def make_nas(mariadb10: MariaDB10, stand_ins: Path, packages: Packages, tmp_path: Path) -> Iterator[MakeNas]:
    """Make a NAS, in whose network the test goes on; at the end it is gone with all that ran and lay on it."""
    with ExitStack() as stack:

        def make(generation: Generation = DSM7, habits: Habits | None = None, *, language: str = "enu") -> Nas:
            stage = stack.enter_context(Stage(generation, mariadb10.run, stand_ins, language=language))
            stack.enter_context(stage.network())
            return Nas(stage, PackageCenter(stage, habits), mariadb10, packages, tmp_path)

        yield make


@pytest.fixture
def nas(make_nas: MakeNas) -> Nas:
    """A NAS with DSM 7.2 on which nothing is installed."""
    return make_nas(DSM7)


@pytest.fixture(params=[DSM6, DSM7], ids=str)
def each_nas(make_nas: MakeNas, request: pytest.FixtureRequest) -> Nas:
    """A NAS on which nothing is installed; the test runs once on DSM 6.1 and once on DSM 7.2."""
    return make_nas(request.param)
