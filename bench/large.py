"""Measure the archive with a million studies in its index: `make bench-large`, or `python -m bench.large --help`.

The index is made once and kept: about 10 GB for SQLite and 14 GB for MariaDB, a quarter of an hour or more for each.
"""

import argparse
import os
import random
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench import REPOSITORY, data, large_data, report
from bench.__main__ import INDEXES, add_common, choose, write
from bench.databases import BenchMariaDB
from bench.large_data import day_of, patient_of
from bench.large_index import LargeIndex
from bench.own_rows import seconds_of
from bench.rows import Reading, Row, Samples, Workshop, in_turn, quoting, require_found, say, send, warm
from bench.sides import MARIADB, SQLITE, Side, SinkServer, ours
from bench.targets import AMONG_FEW, FIRST_ANSWER, OF_EMPTY, READY
from harness.dcmtk import Peer
from harness.service import Service
from harness.upper_layer import DATA, IMPLICIT, STUDY_ROOT_FIND, RawPeer, command_set, pdu, pdv

FEW = 10_000
_QUERIES = 40
_WARMING_UP = 5
_RECEIVED = 1000


@dataclass(frozen=True)
class Base:
    """The large index and the small one of an engine, and the servers that they need."""

    large: LargeIndex
    few: LargeIndex
    server: BenchMariaDB | None
    few_server: BenchMariaDB | None

    def service(self, folder: Path, few: bool = False) -> Service:
        """Return the service (not started) with the large index, or with the small one."""
        index, server = (self.few, self.few_server) if few else (self.large, self.server)
        return Service(folder, storage=index.storage, index=index.url(server), unknown_devices="all")

    def forget_received(self, folder: Path) -> None:
        """Take what was received out of the large index, and its files into an empty folder; the service does not run.

        They are not removed: see `Workshop.fresh`.
        """
        for path in self.large.storage.iterdir():
            if path.name != ".angiovault":
                path.rename(folder / path.name)
        statements = [f"DELETE FROM {table} WHERE {self._received(table)}" for table in large_data.TABLES]
        if self.server is None:
            with closing(sqlite3.connect(self.large.folder / "index.sqlite3")) as connection, connection:
                for statement in statements:
                    connection.execute(statement)
        else:
            for statement in statements:
                self.server.execute(statement, database=urlsplit(self.large.url(self.server)).username)

    def _received(self, table: str) -> str:
        """Return the condition for rows that were not made by us; names have gaps between their ids."""
        studies = self.large.studies
        patients, series = studies // large_data.STUDIES_OF_A_PATIENT, studies * large_data.SERIES
        made = {"patient": patients, "series": series, "folder": series, "instance": series * large_data.IMAGES}
        return f"patient_id > {patients}" if table == "patient_name" else f"id > {made.get(table, studies)}"


class LargeRow(Row):
    """A row that needs the large index of each side, by the side's name."""

    def __init__(self, bases: Mapping[str, Base]) -> None:
        self.bases = bases


class FindPatient(LargeRow):
    """C-FIND of the studies of a patient chosen at random, on one association; the time until the first answer."""

    def __init__(self, bases: Mapping[str, Base], name: str, by: str) -> None:
        super().__init__(bases)
        self.by = by
        self.name = f"large-find-{name}"
        self.title = f"C-FIND of one patient’s studies by {by}"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        samples: dict[str, list[Reading]] = {side.name: [] for side in sides}
        with ExitStack() as stack:
            lines: dict[str, tuple[RawPeer, RawPeer]] = {}
            for side in sides:
                base = self.bases[side.name]
                folders = workshop.fresh(f"{side.name} large"), workshop.fresh(f"{side.name} few")
                services = [stack.enter_context(base.service(path, path is folders[1])) for path in folders]
                large, few = (stack.enter_context(_open(service.peer)) for service in services)
                lines[side.name] = large, few
            for turn in range(repeat):
                for side in in_turn(sides, turn):
                    samples[side.name].append(self._ask(self.bases[side.name], *lines[side.name], turn))
                    say(self.name, turn, repeat, side, samples[side.name][-1])
            for large, few in lines.values():
                large.release()
                few.release()
        return samples

    def _ask(self, base: Base, large: RawPeer, few: RawPeer, turn: int) -> Reading:
        source = random.Random(turn)
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(_WARMING_UP + _QUERIES):
            for is_large, line in ((True, large), (False, few))[:: 1 if number % 2 else -1]:
                study = source.randrange(base.large.studies if is_large else base.few.studies)
                seconds = first_answer(line, self._keys(study))
                if number >= _WARMING_UP:
                    times[is_large].append(1000 * seconds)
        median = statistics.median(times[True])
        return Reading({FIRST_ANSWER: median, AMONG_FEW: median / statistics.median(times[False])})

    def _keys(self, study: int) -> dict[int, str]:
        patient = patient_of(study)
        latin = patient.name.partition("=")[0]
        if self.by == "Patient ID":
            return {0x00100010: "", 0x00100020: patient.patient_id}
        if self.by == "name":
            return {0x00100010: latin, 0x00100020: ""}
        return {
            0x00080020: day_of(study).strftime("%Y%m%d"),
            0x00100010: latin.rpartition("^")[0] + "*",
            0x00100020: "",
        }


def _open(peer: Peer) -> RawPeer:
    line = RawPeer(peer)
    line.associate([(STUDY_ROOT_FIND, [IMPLICIT])])
    return line


def first_answer(line: RawPeer, keys: Mapping[int, str]) -> float:
    """Send a C-FIND at study level and return the seconds until its first match is there; one must match."""
    asked = {0x00080020: "", 0x00080052: "STUDY", 0x00081030: "", 0x0020000D: "", **keys}
    identifier = b""
    for tag, value in sorted(asked.items()):
        raw = value.encode() + b" " * (len(value.encode()) % 2)
        identifier += (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
        identifier += len(raw).to_bytes(4, "little") + raw
    context = line.context(STUDY_ROOT_FIND)
    command = command_set({0x0002: STUDY_ROOT_FIND, 0x0100: 0x0020, 0x0110: 1, 0x0700: 0, 0x0800: 1})
    request = pdu(DATA, pdv(context, command, command=True)) + pdu(DATA, pdv(context, identifier))
    began = time.perf_counter()
    line.send(request)
    status = line.status()
    seconds = time.perf_counter() - began
    if status != 0xFF00:
        raise AssertionError(f"status {status:04X} instead of a match for {keys}")
    while status == 0xFF00:
        status = line.status()
    return seconds


class ReceiveIntoLarge(LargeRow):
    """storescu sends a study of small images into the large index, and into an empty one."""

    name, title = "large-receive-mr", "receive MR slices 128², one association"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        (study,) = studies = data.studies(workshop.cache, data.MR, 1, _RECEIVED)
        warm(study.paths)
        samples: dict[str, list[Reading]] = {side.name: [] for side in sides}
        for turn in range(repeat):
            for side in in_turn(sides, turn):
                base = self.bases[side.name]
                seconds = {}
                for is_large in (True, False)[:: 1 if turn % 2 else -1]:
                    folder = workshop.fresh("side")
                    server = base.service(folder) if is_large else side.make(folder)
                    try:
                        with server, quoting(server):
                            seconds[is_large] = send(server, study.paths).seconds
                            require_found(server.peer, studies)
                    finally:
                        if is_large:
                            base.forget_received(workshop.fresh("received"))
                rates = {is_large: len(study.paths) / taken for is_large, taken in seconds.items()}
                samples[side.name].append(Reading({"a second": rates[True], OF_EMPTY: rates[True] / rates[False]}))
                say(self.name, turn, repeat, side, samples[side.name][-1])
        return samples


class StartWithLarge(LargeRow):
    """From the command to the line that says "ready"."""

    name, title = "large-start", "start"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        samples: dict[str, list[Reading]] = {side.name: [] for side in sides}
        for turn in range(repeat):
            for side in in_turn(sides, turn):
                service = self.bases[side.name].service(workshop.fresh("side"))
                try:
                    samples[side.name].append(Reading({READY: seconds_of(service.start)}))
                    service.stop()
                finally:
                    service.kill()
                say(self.name, turn, repeat, side, samples[side.name][-1])
        return samples


def plan(bases: Mapping[str, Base]) -> tuple[LargeRow, ...]:
    """List all rows."""
    return (
        FindPatient(bases, "id", "Patient ID"),
        FindPatient(bases, "name", "name"),
        FindPatient(bases, "date", "date and the beginning of the name"),
        ReceiveIntoLarge(bases),
        StartWithLarge(bases),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench: the tables go to standard output and into the folder, progress to standard error."""
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    parser.add_argument(
        "--studies", type=int, default=1_000_000, metavar="N", help="studies in the index (%(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="runs of each row (%(default)s)")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="NAME", help="only these rows; * matches anything")
    parser.add_argument("--only-make", action="store_true", help="make the index and measure nothing")
    add_common(parser, "bench-large")
    args = parser.parse_args(arguments)
    try:
        choose(plan({}), args.rows)
    except ValueError as error:
        parser.error(str(error))
    cache: Path = args.folder
    cache.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all servers are ended
    engines = [engine for engine in INDEXES if engine in args.index]
    for engine in engines:
        for count in (FEW, args.studies):
            _index(cache, engine, count).make()
    if args.only_make:
        return 0
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=cache)))
        sides, bases, destination = _open_bases(stack, cache, folder, engines, args.studies)
        workshop = Workshop(REPOSITORY / "build" / "bench", folder, destination)
        workshop.cache.mkdir(parents=True, exist_ok=True)
        for base in bases.values():  # what a run that was cut off has left
            base.forget_received(workshop.fresh("received"))
        rows = choose(plan(bases), args.rows)
        results = [(row, row.measure(sides, args.repeat, workshop)) for row in rows]
        what = f"{args.studies:,} studies, {args.studies * large_data.SERIES * large_data.IMAGES:,} instances"
        about = f"Medians of {args.repeat} with {what} in the index.\n\n{report.surroundings(sides, folder, load)}"
        write(cache, "bench-large", results, sides, about)
    return 0


def _index(cache: Path, engine: str, studies: int) -> LargeIndex:
    kind = "sqlite" if engine == "sqlite" else "mysql"
    return LargeIndex(cache / f"{studies}-{kind}", kind, studies)


def _open_bases(
    stack: ExitStack, cache: Path, folder: Path, engines: Sequence[str], studies: int
) -> tuple[list[Side], dict[str, Base], SinkServer]:
    """Start what the rows need; all ends with the stack."""
    (folder / "destination").mkdir()
    destination = stack.enter_context(SinkServer(folder / "destination", keeping=False))
    bases: dict[str, Base] = {}
    empty: BenchMariaDB | None = None
    for engine in engines:
        large, few = _index(cache, engine, studies), _index(cache, engine, FEW)
        servers: list[BenchMariaDB | None] = [None, None]
        if engine == "mariadb":
            for number, index in enumerate((large, few)):
                server = servers[number] = BenchMariaDB(index.data)
                stack.callback(server.remove)
                server.start()
            empty = BenchMariaDB()
            stack.callback(empty.remove)
            empty.start()
        bases[SQLITE if engine == "sqlite" else MARIADB] = Base(large, few, *servers)
    return ours(empty, destination.peer, engines), bases, destination


if __name__ == "__main__":
    sys.exit(main())
