"""The table in Markdown, and what has to be known of the machine to read it."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.rows import RATE, Reading, Row, Sample, Samples
from bench.sides import Side
from bench.targets import Verdict

_SYNCS = 50
_WRITTEN = 256 << 20

Results = Sequence[tuple[Row, Samples]]


def table(results: Results, sides: Sequence[Side]) -> str:
    """Write one line for each row, with the medians of each side; without the sides that did nothing at all."""
    known = [side.name for side in sides]
    others = dict.fromkeys(name for _, samples in results for name in samples if name not in known)
    names = [name for name in (*known, *others) if any(samples.get(name) for _, samples in results)]
    lines = [_line(["work", *names]), _line(["---", *["---:"] * len(names)])]
    for row, samples in results:
        lines.append(_line([row.title, *(_cell(samples.get(name)) for name in names)]))
    return "\n".join(lines) + "\n"


def judged(verdicts: Sequence[Verdict]) -> str:
    """Write one line for each target: what our sides have reached of it, and whether that passes."""
    names = list(dict.fromkeys(verdict.side for verdict in verdicts))
    lines = [_line(["work", "target", *names]), _line(["---"] * (2 + len(names)))]
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for verdict in verdicts:
        word = "pass" if verdict.reached else "**falls short**"
        cells = groups.setdefault((verdict.row.title, str(verdict.target)), {})
        cells[verdict.side] = f"{exact(verdict.value)} {word}"
    for (title, target), cells in groups.items():
        lines.append(_line([title, target, *(cells.get(name, "–") for name in names)]))
    return "\n".join(lines) + "\n"


def left_out(results: Results, sides: Sequence[Side]) -> str:
    """Say which side had no part in which rows, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for row, _ in results:
        for side in sides:
            if reason := row.left_out(side):
                found.setdefault((side.name, reason), []).append(row.name)
    return "".join(f"* {name} has no part in {', '.join(rows)}: {why}\n" for (name, why), rows in found.items())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(samples: Sequence[Sample | Reading] | None) -> str:
    if not samples:
        return "–"
    first = samples[0]
    medians = {name: statistics.median(sample.values[name] for sample in samples) for name in first.values}
    if not isinstance(first, Sample):
        return ", ".join(f"{exact(value)} {name}" for name, value in medians.items())
    per_second = medians[RATE]
    megabytes = per_second * first.size / first.count / 1e6
    return f"{_short(megabytes)} MB/s ({_short(per_second)}/s)" if megabytes else f"{_short(per_second)}/s"


def _short(number: float) -> str:
    return f"{number:,.{0 if number >= 100 else 1}f}"


def exact(number: float) -> str:
    """Return a figure for people, with decimals only where they count."""
    return f"{number:,.{0 if number >= 100 or number == int(number) else 1 if number >= 10 else 2}f}"


def surroundings(sides: Sequence[Side], folder: Path, load_before: float) -> str:
    """Describe versions, machine and disk; `load_before` is the load average at the start of the run."""
    lines = [f"* {side.name}: {side.version}" for side in sides]
    system = f"Python {platform.python_version()}, Linux {platform.release()}"
    lines.append(f"* {system}, {_processor()}, {os.cpu_count()} cores")
    lines.append(f"* Disk: writing 4 KiB and syncing it takes {_sync_milliseconds(folder):.2f} ms (median of {_SYNCS})")
    lines.append(f"* Disk: writing and syncing {_WRITTEN >> 20} MiB goes at {_write_speed(folder):,.0f} MB/s")
    lines.append(f"* Load average before the run {load_before:.1f}, after it {os.getloadavg()[0]:.1f}")
    return "\n".join(lines) + "\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _sync_milliseconds(folder: Path) -> float:
    times = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(_SYNCS):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _write_speed(folder: Path) -> float:
    piece = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began = time.perf_counter()
        for _ in range(_WRITTEN >> 20):
            file.write(piece)
        os.fsync(file.fileno())
        return _WRITTEN / 1e6 / (time.perf_counter() - began)
