"""The rows about the archive alone: memory, idling, starting, recovery, import and verify."""

import re
import shutil
import subprocess
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

from bench import data, probes
from bench.data import Kind, Study
from bench.rows import ProgramFailed, Reading, Row, Sample, Samples, Workshop, in_turn, make_ready, run_at_once, say
from bench.sides import Listening, Side
from bench.stream import Stream
from bench.targets import ANSWERED, CPU, GROWTH, LISTED, PSS, READY, TOUCHED, WRITTEN
from harness.dcmtk import findscu
from harness.processes import Server, environment, program
from harness.service import Service
from harness.upper_layer import RawPeer
from harness.waiting import wait_until

Runs = dict[str, list[Sample | Reading]]
_SETTLED = 100_000_000
"""Bytes of each association after which memory may no longer grow."""
_SAMPLE_SECONDS = 0.1
_QUIET_SECONDS = 5.0


def _service(server: Listening) -> Service:
    assert isinstance(server, Service)
    return server


def _only_ours(sides: Sequence[Side]) -> list[Side]:
    return [side for side in sides if side.ours]


class Memory(Row):
    """Associations that send one large instance each, all at once; once, since 8 GB are written."""

    name = "memory"

    def __init__(self, associations: int, megabytes: int) -> None:
        self.associations, self.megabytes = associations, megabytes
        self.title = f"{associations} associations, one instance of {megabytes:,} MB each"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        samples: Runs = {}
        for side in _only_ours(sides):
            folder = workshop.fresh("side")
            try:
                with side.make(folder) as server:
                    samples[side.name] = [self._watch(_service(server))]
            finally:
                shutil.rmtree(folder)
            say(self.name, 0, 1, side, samples[side.name][0])
        return samples

    def _watch(self, service: Service) -> Reading:
        size = self.megabytes * 1_000_000
        streams = [Stream(service.peer, 1000 + number, size) for number in range(self.associations)]
        begun, going_on, ended = [], [], []
        with ThreadPoolExecutor(self.associations) as pool:
            sending = [pool.submit(stream.send) for stream in streams]
            while wait(sending, _SAMPLE_SECONDS).not_done:
                found = probes.pss(service.pid)
                if any(stream.sent >= size for stream in streams):
                    ended.append(found)  # the first instance to be indexed costs each process some memory once
                elif all(stream.sent > _SETTLED for stream in streams):
                    going_on.append(found)
                else:
                    begun.append(found)
            for sent in sending:
                sent.result()
        growth = max(0, max(going_on) - max(begun))
        return Reading({PSS: max(begun + going_on + ended) / 1e6, GROWTH: growth / 1e6})


class Idle(Row):
    """Servers to which nothing is said: one has no association, or one that stays open. All idle at the same time."""

    def __init__(self, associations: int, seconds: float) -> None:
        self.associations, self.seconds = associations, seconds
        self.name = f"idle-{associations}"
        self.title = f"idle for {seconds:g} s, {'one open association' if associations else 'no association'}"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        sides = [side for side in sides if side.answers_queries]
        servers: dict[str, Server] = {}
        folders = {side.name: workshop.fresh(f"idle-{side.name}") for side in sides}
        with ExitStack() as stack:
            for side in sides:
                listening = stack.enter_context(side.make(folders[side.name]))
                assert isinstance(listening, Server)
                servers[side.name] = listening
                for _ in range(self.associations):
                    line = stack.enter_context(RawPeer(listening.peer))
                    line.associate(called=listening.peer.ae_title.encode())
            for name, quiet in servers.items():
                _wait_until_quiet(name, quiet)
            moment = time.time()
            before = {name: _used(server) for name, server in servers.items()}
            time.sleep(self.seconds)
            samples: Runs = {}
            for side in sides:
                cpu, size = (now - then for now, then in zip(_used(servers[side.name]), before[side.name], strict=True))
                touched = len(probes.changed_since(folders[side.name], moment))
                values = {CPU: 100 * cpu / self.seconds, WRITTEN: size, TOUCHED: float(touched)}
                samples[side.name] = [Reading(values)]
                say(self.name, 0, 1, side, samples[side.name][0])
        return samples


def _used(server: Server) -> tuple[float, float]:
    return probes.processor_seconds(server.pid), probes.written(server.pid)


def _wait_until_quiet(name: str, server: Server) -> None:
    """Wait until a server has finished what it does after its start: nothing written for some seconds."""
    last, since = -1, time.monotonic()

    def quiet() -> bool:
        nonlocal last, since
        if (now := probes.written(server.pid)) != last:
            last, since = now, time.monotonic()
        return time.monotonic() > since + _QUIET_SECONDS

    wait_until(quiet, f"{name} to write nothing", seconds=60)


class Start(Row):
    """From the command to the line that says "ready", with an archive that is there already."""

    name, title = "start", "start"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        ours = _only_ours(sides)
        samples: Runs = {side.name: [] for side in ours}
        with ExitStack() as stack:
            services = {side.name: _service(stack.enter_context(side.make(workshop.fresh(side.name)))) for side in ours}
            for turn in range(repeat):
                for side in in_turn(ours, turn):
                    service = services[side.name]
                    service.stop()
                    samples[side.name].append(Reading({READY: seconds_of(service.start)}))
                    say(self.name, turn, repeat, side, samples[side.name][-1])
        return samples


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something takes. What waits for a server looks every 20 ms, which counts against the server."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def take_over(service: Service, studies: Sequence[Study], workshop: Workshop) -> Sample:
    """Import copies of the studies' files that lie on the storage's volume, with `--move`; all must be taken."""
    source = workshop.fresh("source")
    for path in (path for study in studies for path in study.paths):
        (source / path.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(path, source / path.parent.name / path.name)
    files = list(source.rglob("*.dcm"))
    size = sum(path.stat().st_size for path in files)
    make_ready(size)
    seconds = seconds_of(lambda: service.cli("import", source, "--move", timeout=1200))
    left, taken = len(list(source.rglob("*.dcm"))), len(list(service.storage.rglob("*.dcm")))
    if left or taken != len(files):
        raise ProgramFailed(f"import took {taken} of {len(files)} files and left {left}")
    return Sample(taken, size, seconds)


def _new(side: Side, folder: Path) -> Service:
    """Make an archive: its service runs for a moment."""
    with side.make(folder) as server:
        return _service(server)


class Import(Row):
    """`angiovault import --move` takes over files that lie on the storage's volume, each time into a new archive."""

    name = "import"

    def __init__(self, studies: int, instances: int) -> None:
        self.studies, self.instances = studies, instances
        self.title = f"import of {studies * instances:,} files of 35 kB, taken over"

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        ours = _only_ours(sides)
        samples: Runs = {side.name: [] for side in ours}
        studies = data.studies(workshop.cache, data.MR, self.studies, self.instances)
        for turn in range(repeat):
            for side in in_turn(ours, turn):
                samples[side.name].append(take_over(_new(side, workshop.fresh("side")), studies, workshop))
                say(self.name, turn, repeat, side, samples[side.name][-1])
        return samples


class _OnKept(Row):
    """Work on an archive that keeps studies, taken in by `import`; the service does not run."""

    kind: Kind
    studies: int
    instances: int

    def measure(self, sides: Sequence[Side], repeat: int, workshop: Workshop) -> Samples:
        ours = _only_ours(sides)
        samples: Runs = {side.name: [] for side in ours}
        services: dict[str, Service] = {}
        studies = data.studies(workshop.cache, self.kind, self.studies, self.instances)
        with ExitStack() as stack:
            for side in ours:
                services[side.name] = _new(side, workshop.fresh(side.name))
                stack.callback(services[side.name].kill)
                take_over(services[side.name], studies, workshop)
            for turn in range(repeat):
                for side in in_turn(ours, turn):
                    self.work(samples, side, services[side.name], workshop)
                    say(self.name, turn, repeat, side, samples[side.name][-1])
        return samples

    @abstractmethod
    def work(self, samples: Runs, side: Side, service: Service, workshop: Workshop) -> None:
        """Do the work once and add what was measured to the samples of the side."""


class Verify(_OnKept):
    """`angiovault verify` and sha256sum read the same files in turn, all of them in the page cache."""

    name, kind = "verify", data.XA

    def __init__(self, studies: int, instances: int) -> None:
        self.studies, self.instances = studies, instances
        self.title = f"verify, {studies * instances} XA runs"

    def work(self, samples: Runs, side: Side, service: Service, workshop: Workshop) -> None:
        files = sorted(service.storage.rglob("*.dcm"))
        size = sum(len(path.read_bytes()) for path in files)
        commands = (
            ("sha256sum", lambda: run_at_once([[program("sha256sum"), *files]])),
            (side.name, lambda: service.cli("verify")),
        )
        for name, command in commands if len(samples[side.name]) % 2 else reversed(commands):
            samples.setdefault(name, []).append(Sample(len(files), size, seconds_of(command)))


class Recovery(_OnKept):
    """The service is killed while it receives, and started again: how soon it is ready, and answers a query.

    A further start is watched by strace: it must not list the folders in which the images lie.
    """

    name, kind = "recovery", data.MR

    def __init__(self, studies: int, instances: int) -> None:
        self.studies, self.instances = studies, instances
        self.title = f"start after SIGKILL, {studies * instances:,} instances kept"

    def work(self, samples: Runs, side: Side, service: Service, workshop: Workshop) -> None:
        sent = data.studies(workshop.cache, data.XA, 1, 4)[0].paths
        self._kill_receiving(service, sent)
        began = time.perf_counter()
        service.start()
        ready = time.perf_counter() - began
        answers = findscu(service.peer, ("QueryRetrieveLevel=STUDY", "PatientID=MR000000", "StudyInstanceUID")).ok()
        answered = time.perf_counter() - began
        if len(answers.data_sets) != 1:
            raise ProgramFailed(f"{len(answers.data_sets)} studies were found after the start, one was expected")
        self._kill_receiving(service, sent)
        listed = self._listed(service)
        samples[side.name].append(Reading({READY: ready, ANSWERED: answered, LISTED: float(listed)}))

    def _kill_receiving(self, service: Service, sent: Sequence[Path]) -> None:
        """Kill the service in the middle of an instance."""
        if not service.running:
            service.start()
        peer = service.peer
        address = ["-aec", peer.ae_title, peer.host, str(peer.port)]
        sender = subprocess.Popen(
            [program("storescu"), "-R", *address, *sent],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            incoming = service.storage / ".angiovault" / "incoming"
            wait_until(lambda: any(incoming.iterdir()), "an instance to be on its way")
            service.kill()
            sender.wait(timeout=60)
        finally:
            sender.kill()
            sender.wait()

    def _listed(self, service: Service) -> int:
        """Start the service under strace and return how many folders of images it lists."""
        trace = service.folder / "strace"
        traced = Service(
            service.folder,
            storage=service.storage,
            index=service.index,
            prefix=[program("strace"), "-D", "-f", "-y", "-e", "trace=getdents64", "-o", trace],
        )
        with traced:
            pass
        inner = re.escape(str(service.storage))
        folders = set(re.findall(rf"getdents64\(\d+<({inner}/[^>]*)>", trace.read_text(errors="replace")))
        return sum(1 for folder in folders if not folder.startswith(f"{service.storage}/.angiovault"))
