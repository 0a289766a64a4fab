"""What a small NAS would do: one core at a quarter of this machine's speed, a disk that takes 15 ms for each sync.

`make bench-nas`, or `python -m bench.nas --help`; needs root, for the control group by which Linux limits a processor.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import data, probes, report
from bench.__main__ import add_common, choose
from bench.databases import BenchMariaDB
from bench.rows import Receive, Row, Samples, Workshop
from bench.sides import Listening, Side, SinkServer, ours, peers
from bench.targets import median
from harness.dcmtk import Peer
from harness.processes import Server, program
from harness.waiting import wait_until

SHARE = 0.25
SYNC_MS = 15
ASSOCIATIONS = 4
GIGABIT = 118.0
"""MB/s of payload that gigabit Ethernet carries."""
_PERIOD = 4000
"""Microseconds: within each the servers run for `SHARE` of it."""
_GROUPS = Path("/sys/fs/cgroup")
_BUSY = """
import time
input()
began, used = time.monotonic(), time.process_time()
sum(range(20_000_000))
print((time.process_time() - used) / (time.monotonic() - began))
"""


class Slow:
    """A control group with a share of one core, and a library that slows syncs down.

    The clients and the bench have the other cores, as a device of its own would.
    """

    def __init__(self, folder: Path) -> None:
        self._library = folder / "slow_sync.so"
        source = Path(__file__).with_name("slow_sync.c")
        subprocess.run([program("cc"), "-shared", "-fPIC", "-O2", "-o", self._library, source, "-ldl"], check=True)
        first = _GROUPS / "cpu" if (_GROUPS / "cpu" / "cpu.cfs_quota_us").exists() else _GROUPS
        self._group = first / f"angiovault-bench-{os.getpid()}"
        self._cores = os.sched_getaffinity(0)
        self._core = min(self._cores)

    def __enter__(self) -> Self:
        if self._group.parent == _GROUPS:  # version 2 of control groups
            (_GROUPS / "cgroup.subtree_control").write_text("+cpu")
        self._group.mkdir()
        if self._group.parent == _GROUPS:
            (self._group / "cpu.max").write_text(f"{_PERIOD * SHARE:.0f} {_PERIOD}")
        else:
            (self._group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (self._group / "cpu.cfs_quota_us").write_text(f"{_PERIOD * SHARE:.0f}")
        os.sched_setaffinity(0, self._cores - {self._core} or self._cores)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.sched_setaffinity(0, self._cores)
        wait_until(self._removed, "the processes of the control group to be gone")

    def _removed(self) -> bool:
        with contextlib.suppress(OSError):  # as long as a process is in it
            self._group.rmdir()
        return not self._group.exists()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Let the programs that are started in the block sync slowly and run on the servers' core."""
        before = os.sched_getaffinity(0)
        os.environ.update(LD_PRELOAD=str(self._library), SLOW_SYNC_MS=str(SYNC_MS))
        os.sched_setaffinity(0, {self._core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)
            del os.environ["LD_PRELOAD"], os.environ["SLOW_SYNC_MS"]

    def take(self, session: int) -> None:
        """Limit the processes of a session, and those that they will start."""
        for path in probes.processes(session):
            self.take_process(int(path.name))

    def take_process(self, pid: int) -> None:
        """Limit one process, and those that it will start."""
        (self._group / "cgroup.procs").write_text(str(pid))

    def speed(self) -> float:
        """Return the share of its time in which a busy program in the group is let run."""
        with self.starting():
            work = subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.take_process(work.pid)
        output, _ = work.communicate(b"\n")
        return float(output)

    def side(self, side: Side) -> Side:
        """Return the side as it would be on the NAS."""
        return replace(side, make=lambda folder: SlowServer(side.make(folder), self))


class SlowServer:
    """A server that is started at full speed, and then limited."""

    def __init__(self, server: Listening, slow: Slow) -> None:
        self._server, self._slow = server, slow

    @property
    def peer(self) -> Peer:
        return self._server.peer

    def __enter__(self) -> Self:
        with self._slow.starting():
            self._server.__enter__()
        assert isinstance(self._server, Server)
        self._slow.take(self._server.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)


def plan() -> tuple[Receive, ...]:
    """List the rows: each kind by several associations at once, about 20 s of work for a NAS."""
    amounts = ((data.XA, 6), (data.CT, 40), (data.MR, 60))
    return tuple(Receive(kind, ASSOCIATIONS, amount) for kind, amount in amounts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench: the table goes to standard output and into the folder, progress to standard error."""
    parser = argparse.ArgumentParser(prog="python -m bench.nas", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="runs of each row and side (%(default)s)")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="NAME", help="only these rows; * matches anything")
    add_common(parser, "bench")
    args = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("a processor can be limited by root only")
    try:
        rows = choose(plan(), args.rows)
    except ValueError as error:
        parser.error(str(error))
    cache: Path = args.folder
    cache.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all servers are ended
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nas-", dir=cache)))
        slow = stack.enter_context(Slow(folder))
        (folder / "destination").mkdir()
        destination = stack.enter_context(SinkServer(folder / "destination", keeping=False))
        mariadb = None
        if "mariadb" in args.index:
            mariadb = BenchMariaDB()
            stack.callback(mariadb.remove)
            with slow.starting():
                mariadb.start()
            slow.take(mariadb.pid)
        plain = [*ours(mariadb, destination.peer, args.index), *peers(destination.peer)]
        sides = [slow.side(side) for side in plain]
        workshop = Workshop(cache, folder, destination)
        results: list[tuple[Row, Samples]] = [(row, row.measure(sides, args.repeat, workshop)) for row in rows]
        about = (
            f"Medians of {args.repeat}. One core, measured at {slow.speed():.2f} of its speed; "
            f"every sync takes {SYNC_MS} ms or more.\n\n{report.surroundings(sides, folder, load)}"
        )
        text = f"{report.table(results, sides)}\n{shares(results, sides)}\n{about}"
        print(text, end="")
        (cache / "bench-nas.md").write_text(text, encoding="utf-8")
    return 0


def shares(results: report.Results, sides: Sequence[Side]) -> str:
    """Say how much of gigabit Ethernet each of our sides would fill."""
    lines = []
    for row, samples in results:
        for side in sides:
            if side.ours:
                first = samples[side.name][0]
                megabytes = median(samples, side.name) * first.size / first.count / 1e6  # type: ignore[union-attr]
                lines.append(
                    f"* {row.title}: {side.name} takes {megabytes:.1f} MB/s, "
                    f"{100 * megabytes / GIGABIT:.0f} % of what gigabit Ethernet carries ({GIGABIT:g} MB/s)\n"
                )
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
