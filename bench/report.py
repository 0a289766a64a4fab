"""The table in Markdown, and what has to be known of the machine to read it."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.rows import Row, Sample, Samples
from bench.sides import Side

OURS = "AngioVault"
_SYNCS = 50


def rate(samples: Sequence[Sample]) -> float:
    """Return the median rate of some runs: instances or matches a second."""
    return statistics.median(sample.count / sample.seconds for sample in samples)


def ratio(samples: Samples, peer: str) -> float | None:
    """Return how many times as fast as the peer we are; None when it has no part in the row."""
    return rate(samples[OURS]) / rate(samples[peer]) if peer in samples else None


def table(results: Sequence[tuple[Row, Samples]], sides: Sequence[Side]) -> str:
    """Write one line for each row: the rate of each side, and the ratio of ours to each other's."""
    peers = [side.name for side in sides if side.name != OURS]
    columns = ["work", *(side.name for side in sides), *(f"ours / {peer}" for peer in peers)]
    lines = [_line(columns), _line(["---", *["---:"] * (len(columns) - 1)])]
    for row, samples in results:
        rates = [_rate(samples.get(side.name)) for side in sides]
        ratios = [_ratio(ratio(samples, peer)) for peer in peers]
        lines.append(_line([row.title, *rates, *ratios]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rate(samples: Sequence[Sample] | None) -> str:
    if samples is None:
        return "–"
    per_second = rate(samples)
    megabytes = per_second * samples[0].size / samples[0].count / 1e6
    return f"{_short(megabytes)} MB/s ({_short(per_second)}/s)" if megabytes else f"{_short(per_second)}/s"


def _short(number: float) -> str:
    return f"{number:,.{0 if number >= 100 else 1}f}"


def _ratio(number: float | None) -> str:
    return "–" if number is None else f"{number:.2f}"


def surroundings(sides: Sequence[Side], folder: Path, load_before: float) -> str:
    """Describe versions, machine and disk; `load_before` is the load average at the start of the run."""
    lines = [f"* {side.name}: {side.version}" for side in sides]
    system = f"Python {platform.python_version()}, Linux {platform.release()}"
    lines.append(f"* {system}, {_processor()}, {os.cpu_count()} cores")
    lines.append(f"* Disk: writing 4 KiB and syncing it takes {_sync_milliseconds(folder):.2f} ms (median of {_SYNCS})")
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
