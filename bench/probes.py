"""What Linux tells of a server's processes: memory, processor time, what they wrote. A server is a session (setsid)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_SESSION = 3
"""Field of /proc/PID/stat behind the command's name: state, parent, group, session (proc(5))."""


def processes(session: int) -> list[Path]:
    """Return the /proc folders of all processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended since it was listed
            stat = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(stat[_SESSION]) == session and stat[0] not in "ZX":
                found.append(path)
    return found


def _fields(session: int, name: str) -> Iterator[tuple[str, int]]:
    """Yield the lines of a /proc file of each process: name of the value, and value."""
    for path in processes(session):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in (path / name).read_text().splitlines():
                key, _, value = line.partition(":")
                if value.split() and value.split()[0].isdigit():
                    yield key, int(value.split()[0])


def pss(session: int) -> int:
    """Return the proportional set size of all processes together, in bytes: shared pages count once."""
    return 1024 * sum(value for key, value in _fields(session, "smaps_rollup") if key == "Pss")


def written(session: int) -> int:
    """Return the bytes that the running processes have caused to be written to disks."""
    return sum(value for key, value in _fields(session, "io") if key == "write_bytes")


def processor_seconds(session: int) -> float:
    """Return the processor time of all running threads."""
    nanoseconds = 0
    for path in processes(session):
        for task in path.glob("task/*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                nanoseconds += int(task.read_text().split()[0])
    return nanoseconds / 1e9


def changed_since(folder: Path, moment: float) -> list[Path]:
    """Return the files and folders below a folder that were written after a moment (time.time)."""
    return [path for path in folder.rglob("*") if path.lstat().st_mtime > moment]
