"""The rows of the table: each does one piece of work with every side, and says how long it took."""

import mmap
import os
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import REPOSITORY, data
from bench.data import Kind, Study
from bench.sides import MAX_PDU, Listening, Side, SinkServer
from harness.dcmtk import Peer, findscu
from harness.processes import Argument, Server, environment, program
from harness.service import Service
from harness.settling import settled
from harness.waiting import wait_until

_TIMEOUT = 600
_QUERIES = 5
_MEMORY = 512 << 20
"""Bytes that sender and receiver need beside what is kept, and more."""
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

    @property
    def values(self) -> Mapping[str, float]:
        return {RATE: self.count / self.seconds}


@dataclass(frozen=True)
class Reading:
    """What was read in one run of a row that is no rate: quantity with its unit -> value."""

    values: Mapping[str, float]


RATE = "a second"
Samples = Mapping[str, Sequence[Sample | Reading]]
"""Name of the side -> its runs."""


@dataclass(frozen=True)
class Workshop:
    """Where the bench works: `cache` keeps the data, `folder` holds what goes when the bench ends.

    `destination` takes what is moved by C-MOVE; it runs while the rows are measured.
    """

    cache: Path
    folder: Path
    destination: SinkServer

    def fresh(self, name: str, size: int = 0) -> Path:
        """Return a new empty folder into which `size` bytes will come; see `make_ready`.

        Earlier folders of that name are emptied and not removed: for minutes after a file was removed, ext4 without a
        journal makes those pay for it who make new ones.
        """
        for earlier in self.folder.glob(f"{name}.*"):
            for file in earlier.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    os.truncate(file, 0)
        folder = tempfile.mkdtemp(prefix=f"{name}.", dir=self.folder)
        make_ready(size)
        return Path(folder)


class Row(ABC):
    """One piece of work."""

    name: str
    title: str

    @abstractmethod
    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        """Do the work `repeat` times with every side, beginning with another side each time."""

    def left_out(self, side: Side) -> str:
        """Return why a side has no part in this row; '' when it has."""
        return ""


class Receive(Row):
    """storescu sends studies, one association for each, all at once; every run has a new server and empty storage."""

    def __init__(self, kind: Kind, studies: int, instances: int) -> None:
        self.kind, self.studies, self.instances = kind, studies, instances
        self.name = f"receive-{kind.name}" if studies == 1 else f"receive{studies}-{kind.name}"
        how = "one association" if studies == 1 else f"{studies} associations at once"
        self.title = f"receive {kind.title}, {how}"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        studies = data.studies(workshop.cache, self.kind, self.studies, self.instances)
        warm(path for study in studies for path in study.paths)
        size = sum(path.stat().st_size for study in studies for path in study.paths)
        sides = [side for side in sides if not self.left_out(side)]
        samples: dict[str, list[Sample]] = {side.name: [] for side in sides}
        for turn in range(repeat):
            for side in in_turn(sides, turn):
                with side.make(workshop.fresh("side", size)) as server, quoting(server):
                    samples[side.name].append(send(server, *(study.paths for study in studies)))
                    if side.answers_queries:
                        require_found(server.peer, studies)
                say(self.name, turn, repeat, side, samples[side.name][-1])
        return samples

    def left_out(self, side: Side) -> str:
        several = self.studies > 1 and not side.takes_several
        return "its processes overwrite one another's images when several associations send" if several else ""


class _Reading(Row):
    """Work that changes nothing: all servers get the data once and are asked in turn."""

    kind: Kind
    studies: int
    instances: int

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        sides = [side for side in sides if not self.left_out(side)]
        studies = data.studies(workshop.cache, self.kind, self.studies, self.instances)
        samples: dict[str, list[Sample]] = {side.name: [] for side in sides}
        with ExitStack() as stack:
            servers: dict[str, Listening] = {}
            for side in sides:
                servers[side.name] = stack.enter_context(side.make(workshop.fresh(side.name)))
                send(servers[side.name], [path for study in studies for path in study.paths])
            for turn in range(repeat):
                for side in in_turn(sides, turn):
                    os.sync()
                    samples[side.name].append(self.run(servers[side.name].peer, studies, workshop))
                    say(self.name, turn, repeat, side, samples[side.name][-1])
        return samples

    def left_out(self, side: Side) -> str:
        if not side.answers_queries:
            return "it gives nothing back"
        if side.most_studies is not None and side.most_studies < self.studies:
            return f"it keeps {side.most_studies} studies at most"
        return ""

    @abstractmethod
    def run(self, peer: Peer, studies: Sequence[Study], workshop: Workshop) -> Sample:
        """Do the work once."""


class Get(_Reading):
    """Our own SCU fetches one study by C-GET and forgets what comes."""

    def __init__(self, kind: Kind, instances: int) -> None:
        self.kind, self.studies, self.instances = kind, 1, instances
        self.name = f"get-{kind.name}"
        self.title = f"C-GET {kind.title}"

    def run(self, peer: Peer, studies: Sequence[Study], workshop: Workshop) -> Sample:
        (study,) = studies
        address = [peer.host, str(peer.port), peer.ae_title]
        command: list[Argument] = [sys.executable, "-m", "bench.getter", *address, self.kind.sop_class, study.uid]
        seconds, (output,) = run_at_once([command])
        count, size = map(int, output.split())
        return require_all(peer, self.kind, study, count, Sample(count, size, seconds))


class Move(_Reading):
    """movescu has one study moved to our own SCP, which forgets what comes."""

    def __init__(self, kind: Kind, instances: int) -> None:
        self.kind, self.studies, self.instances = kind, 1, instances
        self.name = f"move-{kind.name}"
        self.title = f"C-MOVE {kind.title}"

    def run(self, peer: Peer, studies: Sequence[Study], workshop: Workshop) -> Sample:
        (study,) = studies
        destination = workshop.destination
        before = len(destination.taken())
        keys: list[Argument] = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.uid}"]
        seconds = timed([[program("movescu"), "-S", "-aem", destination.peer.ae_title, *keys, *_address(peer)]])
        # Orthanc keeps its association with the destination open for some seconds more.
        wait_until(lambda: len(destination.taken()) > before, f"{peer} to release its association", seconds=30)
        count, size = map(sum, zip(*destination.taken()[before:], strict=True))
        return require_all(peer, self.kind, study, count, Sample(count, size, seconds))


class Find(_Reading):
    """findscu asks for all studies by a name of `*`, several times in one association, and shows nothing."""

    kind = data.TINY
    instances = 1

    def __init__(self, studies: int) -> None:
        self.studies = studies
        self._complete: set[Peer] = set()
        self.name = "find"
        self.title = f"C-FIND, {studies:,} matching studies"

    def run(self, peer: Peer, studies: Sequence[Study], workshop: Workshop) -> Sample:
        if peer not in self._complete and (matches := len(findscu(peer, _QUERY_KEYS).ok().data_sets)) != len(studies):
            raise ProgramFailed(f"{peer} found {matches} of {len(studies)} studies")
        self._complete.add(peer)
        keys = [argument for key in _QUERY_KEYS for argument in ("-k", key)]
        options = ["-S", "--hide-responses", "--repeat", str(_QUERIES), "-pdu", str(MAX_PDU)]
        seconds = timed([[program("findscu"), *options, *keys, *_address(peer)]])
        return Sample(len(studies) * _QUERIES, 0, seconds)


def send(server: Listening, *groups: Sequence[Path]) -> Sample:
    """Send each group of files by an association of its own, all at once.

    The time ends with the last sender, and that of our archive when everything has its place and its row, too.
    """
    command = [program("storescu"), "-R", "-pdu", str(MAX_PDU), *_address(server.peer)]
    seconds = timed([[*command, *group] for group in groups])
    if isinstance(server, Service):
        seconds += seconds_until_settled(server.storage)
    paths = [path for group in groups for path in group]
    return Sample(len(paths), sum(path.stat().st_size for path in paths), seconds)


def seconds_until_settled(storage: Path) -> float:
    """Wait until what was received has its place, looking every millisecond, and return how long it took."""
    began = time.perf_counter()
    settled(storage, every=0.001)
    return time.perf_counter() - began


def require_found(peer: Peer, studies: Sequence[Study]) -> None:
    """Raise `ProgramFailed` unless the peer finds every instance that it has taken: success means findable."""
    for study in studies:
        hierarchy = (f"StudyInstanceUID={study.uid}", f"SeriesInstanceUID={study.series_uid}")
        answers = findscu(peer, ("QueryRetrieveLevel=IMAGE", *hierarchy, "SOPInstanceUID")).ok().data_sets
        found = {answer.SOPInstanceUID for answer in answers}
        if len(found) != len(study.paths):
            raise ProgramFailed(f"{peer} took {len(study.paths)} instances of a study and finds {len(found)}")


def require_all(peer: Peer, kind: Kind, study: Study, count: int, sample: Sample) -> Sample:
    """Return the sample; `ProgramFailed` unless every instance of the study has come, with its pixels."""
    if count != len(study.paths) or sample.size < count * kind.pixel_bytes:
        raise ProgramFailed(f"{peer} gave {count} of {len(study.paths)} instances, {sample.size} bytes")
    return sample


def timed(commands: Sequence[Sequence[Argument]]) -> float:
    """Run programs at once and return the seconds until the last has ended; each must succeed."""
    return run_at_once(commands)[0]


def run_at_once(commands: Sequence[Sequence[Argument]]) -> tuple[float, list[str]]:
    """Run programs at once; return the seconds until the last has ended, and what each said. Each must succeed."""
    began = time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    try:
        running += [_start(command) for command in commands]
        outputs = [process.communicate(timeout=_TIMEOUT)[0].decode("utf-8", errors="replace") for process in running]
        seconds = time.perf_counter() - began
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    for process, command, output in zip(running, commands, outputs, strict=True):
        if process.returncode != 0:
            raise ProgramFailed(f"{command[0]!s} exited with {process.returncode}:\n{output[-2000:]}")
    return seconds, outputs


def _start(command: Sequence[Argument]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the bench, which ends them itself
    )


def _address(peer: Peer) -> list[Argument]:
    return ["-aet", "BENCH", "-aec", peer.ae_title, peer.host, str(peer.port)]


@contextmanager
def quoting(server: Listening) -> Iterator[None]:
    """Add what a server has said to a failure of a program that worked with it."""
    try:
        yield
    except ProgramFailed as error:
        said = server.background.report() if isinstance(server, Server) else ""
        raise ProgramFailed(f"{error}\n{said}") from None


def in_turn(sides: Sequence[Side], turn: int) -> list[Side]:
    """Return the sides, beginning with another one at every turn."""
    first = turn % len(sides)
    return [*sides[first:], *sides[:first]]


def spread(folder: Path) -> None:
    """Let the folders in a folder be made far from one another on the disk, as ext4 does with those at its top.

    So each has room around it, like a shared folder of a NAS, whatever lies beside the folder. File systems that do not
    know of this refuse it, and make folders wherever they do.
    """
    with suppress(FileNotFoundError):  # the tools of ext4 are not there
        subprocess.run(["chattr", "+T", folder], stderr=subprocess.DEVNULL, check=False)


def make_ready(size: int) -> None:
    """Bring everything to the disk that waits to be written, and use the memory once that `size` bytes will need.

    A side that does not sync would else have its writing done while the next one is measured. And what a virtual
    machine has not used for some seconds it gets from its host, page by page, which takes longer than all else.
    """
    os.sync()
    if size:
        mmap.mmap(-1, 2 * size + _MEMORY, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def warm(paths: Iterable[Path]) -> None:
    """Read the files that will be sent, so that the first side does not wait for the disk."""
    for path in paths:
        path.read_bytes()


def say(row: str, turn: int, repeat: int, side: Side, sample: Sample | Reading) -> None:
    """Say on standard error how a run went."""
    what = f"{row} {turn + 1}/{repeat} {side.name}"
    if isinstance(sample, Sample):
        print(f"{what}: {sample.count} in {sample.seconds:.3f} s", file=sys.stderr, flush=True)
    else:
        values = ", ".join(f"{quantity}: {value:.4g}" for quantity, value in sample.values.items())
        print(f"{what}: {values}", file=sys.stderr, flush=True)
