"""The command line: `python -m spk build`, `python -m spk check`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from spk import runtime
from spk.product import GENERATIONS, PROCESSORS, ROOT, Release, package_version


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (OSError, ValueError, LookupError, RuntimeError, subprocess.SubprocessError, runtime.BuildError) as error:
        print(f"spk: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spk", description="Build and check the packages for Synology DSM.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="write the .spk files")
    _add_choices(build)
    build.add_argument("--build", type=int, metavar="NUMBER", help="build number (default: pyproject.toml's)")
    build.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER", help="default: dist")
    build.set_defaults(run=_build)
    check = commands.add_parser("check", help="prove that finished .spk files will install and run")
    _add_choices(check)
    check.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: the built files in dist")
    check.set_defaults(run=_check)
    return parser


def _add_choices(parser: argparse.ArgumentParser) -> None:
    names = [processor.name for processor in PROCESSORS]
    numbers = [generation.number for generation in GENERATIONS]
    parser.add_argument("--arch", action="append", choices=names, help="only this processor; may be repeated")
    parser.add_argument("--generation", action="append", type=int, choices=numbers, help="only this DSM; likewise")


def _releases(options: argparse.Namespace, build: int | None) -> list[Release]:
    return [
        Release(processor, generation, package_version(build))
        for processor in PROCESSORS
        for generation in GENERATIONS
        if processor.name in (options.arch or [processor.name])
        and generation.number in (options.generation or [generation.number])
    ]


def _build(options: argparse.Namespace) -> int:
    from spk.building import build  # checking needs neither runtime nor wheels

    build(_releases(options, options.build), options.out)
    return 0


def _check(options: argparse.Namespace) -> int:
    from spk.checks import check

    return check(options.files or [ROOT / "dist" / release.file_name for release in _releases(options, None)])


if __name__ == "__main__":
    sys.exit(main())
