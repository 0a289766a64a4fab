"""Fixtures for all tests; the servers behind them are in `harness`."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.dcmtk import StoreSCP
from harness.mariadb import MariaDB
from harness.orthanc import Orthanc
from harness.service import Service


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """What a test sets as level of the log is not that of the next: its lines may hold what no report of a test can."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDB]:
    server = MariaDB()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def mariadb(mariadb_server: MariaDB) -> MariaDB:
    """The session's MariaDB server, running; a test may stop, kill and start it."""
    return mariadb_server if mariadb_server.running else mariadb_server.start()


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def index_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty index; the test runs once on SQLite and once on MariaDB."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'index.sqlite'}"
    server: MariaDB = request.getfixturevalue("mariadb")
    return server.database()


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Ends the servers that a test has started, in reverse order; for those made by hand: `enter_context`."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def service(tmp_path: Path, servers: ExitStack) -> Callable[..., Service]:
    """Start `angiovault serve` with the parameters of `Service`, in `tmp_path` unless a folder is given."""

    def start(folder: Path = tmp_path, **parameters: object) -> Service:
        return servers.enter_context(Service(folder, **parameters))  # type: ignore[arg-type]

    return start


@pytest.fixture
def receiver(tmp_path: Path, servers: ExitStack) -> Callable[..., StoreSCP]:
    """Start DCMTK's `storescp` with the parameters of `StoreSCP`."""

    def start(ae_title: str = "STORESCP", **parameters: object) -> StoreSCP:
        return servers.enter_context(
            StoreSCP(tmp_path / f"received-{ae_title}", ae_title=ae_title, **parameters)  # type: ignore[arg-type]
        )

    return start


@pytest.fixture
def orthanc(tmp_path: Path, servers: ExitStack) -> Callable[..., Orthanc]:
    """Start Orthanc with the parameters of `Orthanc`."""

    def start(ae_title: str = "ORTHANC", **parameters: object) -> Orthanc:
        return servers.enter_context(
            Orthanc(tmp_path / f"orthanc-{ae_title}", ae_title=ae_title, **parameters)  # type: ignore[arg-type]
        )

    return start


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real images, which are not part of the repository."""
    folder = os.environ.get("ANGIOVAULT_SAMPLES")
    if not folder:
        pytest.skip("ANGIOVAULT_SAMPLES names no folder of real images")
    return Path(folder)
