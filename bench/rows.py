"""The rows of the table: each does one piece of work with every side, and says how long it took."""

import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import data
from bench.data import Kind, Study
from bench.sides import MAX_PDU, Listening, Side
from harness.dcmtk import Peer, findscu
from harness.processes import Argument, environment, program

PARALLEL = 4
_TIMEOUT = 600
_QUERIES = 5
_QUERY_KEYS = (
    "QueryRetrieveLevel=STUDY",
    "PatientName=*",
    "PatientID",
    "PatientBirthDate",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
)


class ProgramFailed(Exception):
    """A program of the bench failed or did less than it was asked for; the text says which and shows its output."""


@dataclass(frozen=True)
class Sample:
    """What was done in one run: instances (or matches), their bytes (0 for queries) and the seconds it took."""

    count: int
    size: int
    seconds: float


Samples = Mapping[str, Sequence[Sample]]
"""Name of the side -> its runs."""


@dataclass(frozen=True)
class Workshop:
    """Where the bench works: `cache` keeps the data, `folder` holds what goes when the bench ends."""

    cache: Path
    folder: Path

    def fresh(self, name: str) -> Path:
        """Return a new empty folder, without what it held before, when nothing waits to be written to the disk.

        A side that does not sync would else have its writing done while the next one is measured.
        """
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.sync()
        return folder


class Row(ABC):
    """One piece of work."""

    name: str
    title: str

    @abstractmethod
    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        """Do the work `repeat` times with every side, beginning with another side each time."""


class Receive(Row):
    """storescu sends studies, one association for each, all at once; every run has a new server and empty storage."""

    def __init__(self, kind: Kind, studies: int, instances: int) -> None:
        self.kind, self.studies, self.instances = kind, studies, instances
        self.name = f"receive-{kind.name}" if studies == 1 else f"receive{studies}-{kind.name}"
        how = "one association" if studies == 1 else f"{studies} associations at once"
        self.title = f"receive {kind.title}, {how}"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        studies = data.studies(workshop.cache, self.kind, self.studies, self.instances)
        _warm(studies)
        if len(studies) > 1:
            sides = [side for side in sides if side.takes_several]
        samples: dict[str, list[Sample]] = {side.name: [] for side in sides}
        for turn in range(repeat):
            for side in _in_turn(sides, turn):
                with side.make(workshop.fresh("side")) as server:
                    samples[side.name].append(send(server.peer, *(study.paths for study in studies)))
                    if side.answers_queries:
                        require_found(server.peer, studies)
                _report(self.name, turn, repeat, side, samples[side.name][-1])
        return samples


class _Reading(Row):
    """Work that changes nothing: all servers get the data once and are asked in turn."""

    kind: Kind
    studies: int
    instances: int

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        sides = [side for side in sides if side.answers_queries]
        studies = data.studies(workshop.cache, self.kind, self.studies, self.instances)
        samples: dict[str, list[Sample]] = {side.name: [] for side in sides}
        with ExitStack() as stack:
            servers: dict[str, Listening] = {}
            for side in sides:
                servers[side.name] = stack.enter_context(side.make(workshop.fresh(side.name)))
                paths = [path for study in studies[: side.most_studies] for path in study.paths]
                send(servers[side.name].peer, paths)
            for turn in range(repeat):
                for side in _in_turn(sides, turn):
                    held = studies[: side.most_studies]
                    samples[side.name].append(self.run(servers[side.name].peer, held, workshop))
                    _report(self.name, turn, repeat, side, samples[side.name][-1])
        return samples

    @abstractmethod
    def run(self, peer: Peer, studies: Sequence[Study], workshop: Workshop) -> Sample:
        """Do the work once."""


class Get(_Reading):
    """getscu fetches one study and writes the data sets to files as they come, without syncing them."""

    def __init__(self, kind: Kind, instances: int) -> None:
        self.kind, self.studies, self.instances = kind, 1, instances
        self.name = f"get-{kind.name}"
        self.title = f"C-GET {kind.title}"

    def run(self, peer: Peer, studies: Sequence[Study], workshop: Workshop) -> Sample:
        (study,) = studies
        folder = workshop.fresh("got")
        keys: list[Argument] = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.uid}"]
        command = [program("getscu"), "-S", "+B", "-pdu", str(MAX_PDU), "-od", folder, *keys, *_address(peer)]
        seconds = timed([command])
        sizes = [path.stat().st_size for path in folder.iterdir()]
        if len(sizes) != len(study.paths) or min(sizes) < self.kind.pixel_bytes:
            raise ProgramFailed(f"{peer} gave {len(sizes)} of {len(study.paths)} instances")
        return Sample(len(sizes), sum(sizes), seconds)


class Find(_Reading):
    """findscu asks for all studies by a name of `*`, several times in one association, and shows nothing.

    What the side cannot keep is not sent to it; the rate of what it finds among the rest counts.
    """

    kind = data.TINY
    instances = 1

    def __init__(self, studies: int) -> None:
        self.studies = studies
        self.name = "find"
        self.title = f"C-FIND, {studies} matching studies"

    def run(self, peer: Peer, studies: Sequence[Study], workshop: Workshop) -> Sample:
        matches = len(findscu(peer, _QUERY_KEYS).ok().data_sets)
        if matches != len(studies):
            raise ProgramFailed(f"{peer} found {matches} of {len(studies)} studies")
        keys = [argument for key in _QUERY_KEYS for argument in ("-k", key)]
        options = ["-S", "--hide-responses", "--repeat", str(_QUERIES), "-pdu", str(MAX_PDU)]
        seconds = timed([[program("findscu"), *options, *keys, *_address(peer)]])
        return Sample(matches * _QUERIES, 0, seconds)


def plan(quick: bool) -> tuple[Row, ...]:
    """List all rows, in the order of the table; `quick` is the same with less data."""
    xa, ct, mr = (4, 40, 100) if quick else (12, 152, 400)
    amounts = ((data.XA, xa), (data.CT, ct), (data.MR, mr))
    return (
        *(Receive(kind, 1, amount) for kind, amount in amounts),
        *(Receive(kind, PARALLEL, amount // PARALLEL) for kind, amount in amounts),
        Get(data.XA, xa),
        Get(data.CT, 4 * ct),
        Get(data.MR, 4 * mr),
        Find(200 if quick else 1000),
    )


def send(peer: Peer, *groups: Sequence[Path]) -> Sample:
    """Send each group of files by an association of its own, all at once."""
    command = [program("storescu"), "-R", "-pdu", str(MAX_PDU), *_address(peer)]
    seconds = timed([[*command, *group] for group in groups])
    paths = [path for group in groups for path in group]
    return Sample(len(paths), sum(path.stat().st_size for path in paths), seconds)


def require_found(peer: Peer, studies: Sequence[Study]) -> None:
    """Raise `ProgramFailed` unless the peer finds every instance that it has taken: success means findable."""
    for study in studies:
        hierarchy = (f"StudyInstanceUID={study.uid}", f"SeriesInstanceUID={study.series_uid}")
        answers = findscu(peer, ("QueryRetrieveLevel=IMAGE", *hierarchy, "SOPInstanceUID")).ok().data_sets
        found = {answer.SOPInstanceUID for answer in answers}
        if len(found) != len(study.paths):
            raise ProgramFailed(f"{peer} took {len(study.paths)} instances of a study and finds {len(found)}")


def timed(commands: Sequence[Sequence[Argument]]) -> float:
    """Run programs at once and return the seconds until the last has ended; each must succeed."""
    began = time.perf_counter()
    running = [
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
        )
        for command in commands
    ]
    try:
        outputs = [process.communicate(timeout=_TIMEOUT)[0] for process in running]
        seconds = time.perf_counter() - began
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    for process, command, output in zip(running, commands, outputs, strict=True):
        if process.returncode != 0:
            text = output.decode("utf-8", errors="replace")[-2000:]
            raise ProgramFailed(f"{command[0]!s} exited with {process.returncode}:\n{text}")
    return seconds


def _address(peer: Peer) -> list[Argument]:
    return ["-aet", "BENCH", "-aec", peer.ae_title, peer.host, str(peer.port)]


def _in_turn(sides: Sequence[Side], turn: int) -> list[Side]:
    first = turn % len(sides)
    return [*sides[first:], *sides[:first]]


def _warm(studies: Sequence[Study]) -> None:
    """Read the files that will be sent, so that the first side does not wait for the disk."""
    for study in studies:
        for path in study.paths:
            path.read_bytes()


def _report(row: str, turn: int, repeat: int, side: Side, sample: Sample) -> None:
    what = f"{row} {turn + 1}/{repeat} {side.name}"
    print(f"{what}: {sample.count} in {sample.seconds:.3f} s", file=sys.stderr, flush=True)
