"""Run by the package's own Python, to see whether all works that the service needs.

    python3 -I probe.py TARGET SAMPLES MACHINE PATH-ON-NAS [processes]

Prints a line for each step: its name and what went wrong, empty if nothing did.
"""

import hashlib
import importlib
import io
import json
import marshal
import math
import pkgutil
import platform
import sqlite3
import ssl
import sys
import tempfile
import traceback
from pathlib import Path


def interpreter(target: Path, machine: str) -> None:
    """See that it is ours, finds nothing of this machine, and calculates as glibc does."""
    assert platform.machine() == machine, platform.machine()
    assert Path(sys.executable) == target / "python/bin/python3", sys.executable
    outside = [path for path in (sys.prefix, *sys.path) if not Path(path).is_relative_to(target)]
    assert not outside, outside
    assert math.log2(2.0**-1065) == -1065.0
    assert math.copysign(1.0, math.fma(-1.0, 0.0, -0.0)) == -1.0


def bytecode(on_nas: str) -> None:
    """See that modules come from bytecode that names their place on the NAS."""
    for name in ("json", "pydicom", "angiovault"):
        module = importlib.import_module(name)
        code = marshal.loads(Path(module.__cached__).read_bytes()[16:])  # noqa: S302 (our own file)
        assert code.co_filename.startswith(f"{on_nas}/python/lib/"), code.co_filename


def tls() -> None:
    """See that a handshake can begin."""
    context = ssl.create_default_context()
    assert ssl.RAND_status()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="nas")
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        assert outgoing.read(1) == b"\x16"  # a TLS handshake record was made


def database() -> None:
    """See that an index can be kept."""
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "index.sqlite")
        assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        connection.execute("CREATE TABLE study (name TEXT)")
        connection.execute("INSERT INTO study VALUES ('王^力')")
        assert connection.execute("SELECT name FROM study").fetchall() == [("王^力",)]
        connection.close()


def modules() -> None:
    """See that all of the service's modules find what they import."""
    import angiovault

    for module in pkgutil.walk_packages(angiovault.__path__, "angiovault."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def codecs(samples: Path) -> None:
    """See that every compression is undone to the very pixels."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filereader import read_dataset

    from angiovault.archive.conversion.worker import convert

    for name, sample in json.loads((samples / "samples.json").read_text()).items():
        with tempfile.TemporaryDirectory() as scratch, (samples / sample["file"]).open("rb") as stored:
            result = io.BytesIO()
            convert(stored, result, "1.2.840.10008.1.2.1", Path(scratch))
        pixels = read_dataset(DicomBytesIO(result.getvalue()), False, True).PixelData
        assert hashlib.sha256(pixels).hexdigest() == sample["pixels"], name


def conversion_process(samples: Path) -> None:
    """See that the service's worker process starts and answers."""
    from angiovault.archive.conversion.converter import Converter

    sample = next(iter(json.loads((samples / "samples.json").read_text()).values()))
    with (
        tempfile.TemporaryDirectory() as scratch,
        Converter(Path(scratch)) as converter,
        converter.convert(samples / sample["file"], "1.2.840.10008.1.2.1") as converted,
    ):
        data = converted.file.read()
    assert any(hashlib.sha256(data[-size:]).hexdigest() == sample["pixels"] for size in (64 * 64, 2 * 64 * 64))


def main() -> None:
    """Take the steps one after the other, whatever the one before has found."""
    target, samples, machine, on_nas = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    steps = {
        "interpreter": lambda: interpreter(target, machine),
        "bytecode": lambda: bytecode(on_nas),
        "ssl": tls,
        "sqlite3": database,
        "every module of the service": modules,
        "every codec": lambda: codecs(samples),
    }
    if sys.argv[5:] == ["processes"]:
        steps["a conversion in a process of its own"] = lambda: conversion_process(samples)
    for name, step in steps.items():
        try:
            step()
        except Exception:  # noqa: BLE001 (whatever it is, it is the result)
            print(json.dumps([name, traceback.format_exc()]), flush=True)
        else:
            print(json.dumps([name, ""]), flush=True)


if __name__ == "__main__":
    main()
