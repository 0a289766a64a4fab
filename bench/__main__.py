"""Measure the archive beside its peers: `make bench`, or `.venv/bin/python -m bench --help`."""

import argparse
import fnmatch
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import REPOSITORY, chart, report
from bench.databases import BenchMariaDB
from bench.plan import plan
from bench.rows import ProgramFailed, Row, Samples, Workshop, spread
from bench.sides import Side, SinkServer, ours, peers
from bench.targets import verdicts

INDEXES = ("sqlite", "mariadb")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench: the tables go to standard output and into the folder, progress to standard error."""
    parser = _parser()
    args = parser.parse_args(arguments)
    repeat = args.repeat if args.repeat is not None else 1 if args.quick else 5
    if repeat < 1:
        parser.error("--repeat must be 1 or more")
    try:
        rows = choose(plan(args.quick, 600 if args.long else 60), args.rows)
    except ValueError as error:
        parser.error(str(error))
    cache: Path = args.folder
    cache.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all servers are ended
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=cache)))
        spread(folder)
        workshop, sides = open_workshop(stack, cache, folder, args.index)
        failed = False
        results: list[tuple[Row, Samples]] = []
        for row in rows:
            try:
                results.append((row, row.measure(sides, repeat, workshop)))
            except (ProgramFailed, AssertionError) as error:  # the harness says by an AssertionError what went wrong
                print(f"bench: {row.name}: {error}", file=sys.stderr)
                failed = True
        write(cache, "bench", results, sides, f"Medians of {repeat}.\n\n" + report.surroundings(sides, folder, load))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(row.name for row in plan(quick=False))
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the archive beside Orthanc, dcmqrscp and a plain sink.",
        epilog=f"Rows: {names}.",
    )
    parser.add_argument("--quick", action="store_true", help="less data and one run, for a first look")
    parser.add_argument("--repeat", type=int, metavar="N", help="runs of each row and side (default: 5; quick: 1)")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="NAME", help="only these rows; * matches anything")
    parser.add_argument("--long", action="store_true", help="be idle for ten minutes, not for one")
    add_common(parser, "bench")
    return parser


def add_common(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the options that every yardstick has."""
    parser.add_argument(
        "--index", nargs="+", choices=INDEXES, default=list(INDEXES), help="the archive's index (default: both in turn)"
    )
    parser.add_argument(
        "--folder",
        type=lambda text: Path(text).resolve(),
        default=REPOSITORY / "build" / folder,
        metavar="DIR",
        help="where data and results go (%(default)s)",
    )


def open_workshop(
    stack: ExitStack, cache: Path, folder: Path, indexes: Sequence[str]
) -> tuple[Workshop, Sequence[Side]]:
    """Start what all rows share: the receiver of C-MOVE, and MariaDB if it is wanted; they end with the stack."""
    (folder / "destination").mkdir()
    destination = stack.enter_context(SinkServer(folder / "destination", keeping=False))
    mariadb = None
    if "mariadb" in indexes:
        mariadb = BenchMariaDB()
        stack.callback(mariadb.remove)
        mariadb.start()
    sides = [*ours(mariadb, destination.peer, indexes), *peers(destination.peer)]
    return Workshop(cache, folder, destination), sides


def write(folder: Path, name: str, results: report.Results, sides: Sequence[Side], about: str) -> None:
    """Print the tables, and write them and the chart to files."""
    judged = [verdict for row, samples in results for verdict in verdicts(row, samples, sides)]
    reached = sum(verdict.reached for verdict in judged)
    text = (
        f"{report.table(results, sides)}\n{report.left_out(results, sides)}\n{report.judged(judged)}\n"
        f"{reached} of {len(judged)} pass. {about}"
    )
    print(text, end="")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / f"{name}.svg").write_text(chart.chart(judged), encoding="utf-8")
    print(f"written: {folder / name}.md, {folder / name}.svg", file=sys.stderr)


def choose(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """Return the rows whose names match a pattern, in their order; ValueError for a pattern that matches none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(row.name, pattern) for row in rows):
            raise ValueError(f"no row is called {pattern}; there are: {', '.join(row.name for row in rows)}")
    return [row for row in rows if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)]


if __name__ == "__main__":
    sys.exit(main())
