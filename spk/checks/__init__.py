"""Proves that finished .spk files will install and run: `python -m spk check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from spk.checks import layout, linkage, running, sizes
from spk.checks.opening import Package, Refused, open_package

CHECKS: tuple[tuple[str, Callable[[Package], Iterator[str]]], ...] = (
    ("the outer archive is a plain tar file of root's, without extensions", layout.archives),
    ("INFO is complete and true", layout.info),
    ("scripts, conf, wizard and icons are as Package Center takes them", layout.members),
    ("every module is compiled, never to be compared with its source", layout.bytecode),
    ("every ELF file runs on glibc 2.17 and finds its libraries", linkage.check),
    ("the sizes are under their targets", sizes.check),
)


def check(files: Sequence[Path]) -> int:
    """Check .spk files, saying what was looked at, and return the exit code.

    Raises
    ------
    OSError
        If one cannot be read.
    FetchError
        If something that the checks need cannot be had.
    """
    problems, packages = 0, []
    for file in files:
        print(f"{file}", flush=True)
        try:
            package = open_package(file)
        except Refused as refusal:
            problems += _say("it can be opened", [str(refusal)])
            continue
        packages.append(package)
        for name, function in CHECKS:
            problems += _say(name, list(function(package)))
        sizes.report(package)
    problems += _say("both generations have the same payload", list(layout.same_payload(packages)))
    for package in _one_of_each_processor(packages):
        print(f"{package.path}: runs", flush=True)
        for name, found in running.check(package):
            problems += _say(name, found)
    print(f"{problems} problems" if problems else "everything is as it must be", flush=True)
    return 1 if problems else 0


def _one_of_each_processor(packages: list[Package]) -> list[Package]:
    return list({package.processor.name: package for package in packages}.values())


def _say(name: str, problems: list[str]) -> int:
    print(f"  {'NOT OK' if problems else 'ok    '} {name}", flush=True)
    for problem in problems:
        print(f"         {problem}", flush=True)
    return len(problems)
