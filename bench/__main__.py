"""Measure the archive beside its peers: `make bench`, or `.venv/bin/python -m bench --help`."""

import argparse
import fnmatch
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import REPOSITORY, report
from bench.rows import ProgramFailed, Row, Workshop, plan
from bench.sides import sides
from harness.mariadb import MariaDB


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench: the table goes to standard output, progress to standard error."""
    parser = _parser()
    args = parser.parse_args(arguments)
    repeat = args.repeat if args.repeat is not None else 1 if args.quick else 3
    if repeat < 1:
        parser.error("--repeat must be 1 or more")
    try:
        rows = choose(plan(args.quick), args.rows)
    except ValueError as error:
        parser.error(str(error))
    cache: Path = args.folder
    cache.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=cache)))
        mariadb = _mariadb(stack) if args.index == "mariadb" else None
        competitors = sides(mariadb)
        try:
            results = [(row, row.measure(competitors, repeat, Workshop(cache, folder))) for row in rows]
        except (ProgramFailed, AssertionError) as error:  # the harness says by an AssertionError what went wrong
            print(f"bench: {error}", file=sys.stderr)
            return 1
        print(report.table(results, competitors))
        print(f"Medians of {repeat} run{'s' if repeat > 1 else ''}.\n")
        print(report.surroundings(competitors, folder, load), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(row.name for row in plan(quick=False))
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the archive beside Orthanc, dcmqrscp and a plain sink.",
        epilog=f"Rows: {names}.",
    )
    parser.add_argument("--quick", action="store_true", help="less data and one run, for a first look")
    parser.add_argument("--repeat", type=int, metavar="N", help="runs of each row and side (default: 3; quick: 1)")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="NAME", help="only these rows; * matches anything")
    parser.add_argument("--index", choices=("sqlite", "mariadb"), default="sqlite", help="the archive's index")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / "build" / "bench", help="where data and storages go (%(default)s)"
    )
    return parser


def choose(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """Return the rows whose names match a pattern, in their order; ValueError for a pattern that matches none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(row.name, pattern) for row in rows):
            raise ValueError(f"no row is called {pattern}; there are: {', '.join(row.name for row in rows)}")
    return [row for row in rows if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)]


def _mariadb(stack: ExitStack) -> MariaDB:
    server = MariaDB()
    stack.callback(server.remove)
    return server.start()


if __name__ == "__main__":
    sys.exit(main())
