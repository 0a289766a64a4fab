"""The sides of the comparison: the archive, its peers and the sink, each started on an empty folder."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import angiovault
from bench import sink
from harness.dcmtk import Peer, echoscu
from harness.mariadb import MariaDB
from harness.orthanc import Orthanc
from harness.processes import Background, Server, environment, free_port, program
from harness.service import Service

MAX_PDU = 131072
"""The longest PDU that every side may receive: the default of the archive, the most that DCMTK can do."""


class Listening(Protocol):
    """A server of the harness that can be reached as a DICOM application while its `with` block lasts."""

    @property
    def peer(self) -> Peer: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Side:
    """One competitor: what it is, and how it is made (not yet started) on an empty folder."""

    name: str
    version: str
    make: Callable[[Path], Listening]
    ours: bool = False
    answers_queries: bool = True
    takes_several: bool = True
    """Whether it can receive by several associations at once."""
    most_studies: int | None = None
    """The most studies it can keep, if it has a limit."""


class QuietOrthanc(Orthanc):
    """Orthanc as its package ships it: it logs warnings only.

    What else its configuration offers for speed is at its best by default: four DICOM threads, a cache of 128 MB in
    front of its storage, no compression, associations of C-MOVE kept open. The keys of the bench's queries are all in
    its database.
    """

    def start(self) -> Self:
        (self.folder / "storage").mkdir(parents=True)
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(self.configuration), encoding="utf-8")
        self._background = Background([program("Orthanc"), str(file)], log=self.folder / "orthanc.log")
        self.background.wait_ready(self._answers)
        return self

    def stop(self) -> None:
        """End it at once: its orderly end takes more than three seconds, and its storage is thrown away."""
        self.kill()


class Dcmqrscp(Server):
    """DCMTK's archive, with a process for every association, as is its default.

    Processes that receive at the same time choose the same names for their files and overwrite one another's images
    (seen with 3.6.7), so it is sent one association at a time.
    """

    clean_exits = (-signal.SIGTERM,)  # it does not handle the signal

    def __init__(self, folder: Path, destination: Peer) -> None:
        super().__init__()
        self.folder = folder
        self.destination = destination
        self.peer = Peer("127.0.0.1", free_port(), "DCMQRSCP")

    def start(self) -> Self:
        storage = self.folder / "storage"
        storage.mkdir()
        file = self.folder / "dcmqrscp.cfg"
        file.write_text(dcmqrscp_configuration(self.peer, storage, self.destination), encoding="utf-8")
        self._background = Background([program("dcmqrscp"), "-c", file], log=self.folder / "dcmqrscp.log")
        self.background.wait_ready(lambda: echoscu(self.peer).returncode == 0)
        return self


def dcmqrscp_configuration(peer: Peer, storage: Path, destination: Peer) -> str:
    """Write dcmqrscp's configuration: one storage area in `storage`, as many studies as it can keep."""
    return f"""\
NetworkTCPPort  = {peer.port}
MaxPDUSize      = {MAX_PDU}
MaxAssociations = 16
HostTable BEGIN
destination = ({destination.ae_title}, {destination.host}, {destination.port})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{peer.ae_title} {storage} RW ({DCMQRSCP_STUDIES}, 1024mb) ANY
AETable END
"""


DCMQRSCP_STUDIES = 500
"""The most studies that dcmqrscp keeps in one storage area, whatever its configuration says."""


class SinkServer(Server):
    """`bench/sink.py` in a process of its own; what it takes is kept in `folder`, or forgotten if not `keeping`.

    It is kept with its digest if `hashing`.
    """

    clean_exits = (-signal.SIGTERM,)

    def __init__(self, folder: Path, keeping: bool = True, hashing: bool = False) -> None:
        super().__init__()
        self.folder = folder
        self.keeping = keeping
        self.hashing = hashing
        self.peer = Peer("127.0.0.1", 0, "SINK")

    def start(self) -> Self:
        storage = self.folder / "storage"
        storage.mkdir()
        self._background = Background(
            [sys.executable, sink.__file__, *([storage] if self.keeping else []), *["--sha256"] * self.hashing],
            log=self.folder / "sink.log",
            stdout=self.folder / "sink.stdout",
        )
        self.background.wait_ready(lambda: self._said().endswith("\n"))
        self.peer = Peer("127.0.0.1", int(self._said()), "SINK")
        return self

    def taken(self) -> list[tuple[int, int]]:
        """Return instances and bytes of each association that has ended; for one that is not `keeping`."""
        lines = [line.split() for line in self._said().splitlines()[1:]]
        return [(int(count), int(size)) for count, size in lines]

    def _said(self) -> str:
        return (self.folder / "sink.stdout").read_text(encoding="ascii")


SQLITE, MARIADB = "AngioVault (SQLite)", "AngioVault (MariaDB)"


def ours(mariadb: MariaDB | None, destination: Peer, indexes: Sequence[str]) -> list[Side]:
    """List the archive with each of the `indexes`, 'sqlite' or 'mariadb', for which there must be a server."""
    config = (
        "[dicom]\nidle-timeout = 3600\n\n"  # by default an association would be ended in the row that idles for so long
        f"[device destination]\nae-title = {destination.ae_title}\n"
        f"host = {destination.host}\nport = {destination.port}\n"
    )
    found = []
    if "sqlite" in indexes:
        version = f"{angiovault.__version__}, index in SQLite {sqlite3.sqlite_version}"
        make = partial(Service, config=config, unknown_devices="all")
        found.append(Side(SQLITE, version, make, ours=True))
    if mariadb is not None and "mariadb" in indexes:
        version = f"{angiovault.__version__}, index in MariaDB {_mariadb_version(mariadb)} with a buffer pool of 16 MB"

        def make_with_mariadb(folder: Path) -> Service:
            return Service(folder, config=config, index=mariadb.database(), unknown_devices="all")

        found.append(Side(MARIADB, version, make_with_mariadb, ours=True))
    return found


def peers(destination: Peer) -> list[Side]:
    """List the other archives and the two sinks; `destination` is where they may move instances to."""
    settings: Mapping[str, object] = {"MaximumPduLength": MAX_PDU, "SyncStorageArea": True}
    orthanc = _version("Orthanc", r"Orthanc (\S+)")
    dcmtk = _version("storescu", r"v(\d\S+)")
    return [
        Side(
            "Orthanc",
            f"{orthanc}, index in SQLite",
            lambda folder: QuietOrthanc(folder, modalities={"destination": destination}, settings=settings),
        ),
        Side(
            "dcmqrscp",
            f"DCMTK {dcmtk}, which keeps {DCMQRSCP_STUDIES} studies at most",
            lambda folder: Dcmqrscp(folder, destination),
            takes_several=False,
            most_studies=DCMQRSCP_STUDIES,
        ),
        Side("sink", "bench/sink.py, no index", SinkServer, answers_queries=False),
        Side("sink, SHA-256", "the sink, with digests", partial(SinkServer, hashing=True), answers_queries=False),
    ]


def _version(name: str, pattern: str) -> str:
    done = subprocess.run(
        [program(name), "--version"], capture_output=True, text=True, env=environment(), timeout=20, check=True
    )
    match = re.search(pattern, done.stdout)
    if match is None:
        raise RuntimeError(f"{name} --version shows no version:\n{done.stdout}")
    return match[1]


def _mariadb_version(server: MariaDB) -> str:
    ((version,),) = server.execute("SELECT VERSION()")
    return str(version)
