"""What must be reached, in one table, and whether it was."""

import fnmatch
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.rows import RATE, Row, Samples
from bench.sides import Side


@dataclass(frozen=True)
class Target:
    """One thing that a row must reach.

    Attributes
    ----------
    rows
        The rows' names; * matches anything.
    limit
        At least this many times the rate of the fastest of `against`; without these a limit of the quantity itself.
    against
        Names of other sides.
    quantity
        What of the row's figures is meant.
    at_most
        Whether the limit is one that may not be passed.
    """

    rows: str
    limit: float
    against: tuple[str, ...] = ()
    quantity: str = RATE
    at_most: bool = False

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        if self.against:
            return f"{sign} {self.limit:g} × {' or '.join(self.against)}{', the faster' if self.against[1:] else ''}"
        return f"{sign} {self.limit:,g} {self.quantity}"


PEERS = ("Orthanc", "dcmqrscp")
PSS, GROWTH = "MB PSS", "MB more from 100 MB of each on, until one is whole"
CPU, WRITTEN, TOUCHED = "% of a core", "bytes written", "files written"
READY, ANSWERED, LISTED = "s to “ready”", "s to the first answer", "folders of images listed"
FIRST_ANSWER, AMONG_FEW = "ms to the answer", "× the time at 10,000 studies"
OF_EMPTY = "× the rate into an empty index"

TARGETS = (
    Target("receive-xa", 3, ("Orthanc",)),
    Target("receive-xa", 1, ("dcmqrscp",)),
    Target("receive-xa", 0.85, ("sink",)),
    Target("receive-ct", 2, ("Orthanc",)),
    Target("receive-ct", 0.8, ("sink",)),
    Target("receive-mr", 1.15, ("Orthanc",)),
    Target("receive-mr", 0.7, ("sink",)),
    Target("receive4-*", 2, ("Orthanc",)),
    Target("get-xa", 2, ("Orthanc",)),
    Target("get-*", 0.8, PEERS),
    Target("move-xa", 2, ("Orthanc",)),
    Target("move-*", 0.8, PEERS),
    Target("find", 2, ("Orthanc",)),
    Target("memory", 200, quantity=PSS, at_most=True),
    Target("memory", 1, quantity=GROWTH, at_most=True),
    Target("idle-*", 0.3, quantity=CPU, at_most=True),
    Target("idle-*", 0, quantity=WRITTEN, at_most=True),
    Target("idle-*", 0, quantity=TOUCHED, at_most=True),
    Target("start", 1, quantity=READY, at_most=True),
    Target("recovery", 3, quantity=READY, at_most=True),
    Target("recovery", 3, quantity=ANSWERED, at_most=True),
    Target("recovery", 10, quantity=LISTED, at_most=True),
    Target("import", 2000),
    Target("verify", 0.8, ("sha256sum",)),
    Target("large-find-*", 10, quantity=FIRST_ANSWER, at_most=True),
    Target("large-find-*", 1.3, quantity=AMONG_FEW, at_most=True),
    Target("large-receive-*", 0.9, quantity=OF_EMPTY),
    Target("large-start", 2, quantity=READY, at_most=True),
)


@dataclass(frozen=True)
class Verdict:
    """What one of our sides has reached of a target."""

    target: Target
    row: Row
    side: str
    value: float

    @property
    def reached(self) -> bool:
        return self.value <= self.target.limit if self.target.at_most else self.value >= self.target.limit

    @property
    def score(self) -> float:
        """How much of the target was reached: 1 is all of it, more is better than it."""
        reached, wanted = (self.target.limit, self.value) if self.target.at_most else (self.value, self.target.limit)
        return reached / wanted if wanted else 1.0 if self.reached else 0.0


def median(samples: Samples, side: str, quantity: str = RATE) -> float:
    """Return the median of a quantity over the runs of a side."""
    return statistics.median(sample.values[quantity] for sample in samples[side])


def verdicts(row: Row, samples: Samples, sides: Sequence[Side]) -> Iterator[Verdict]:
    """Judge a row by its targets; one against a side that had no part in the row is passed over."""
    for target in TARGETS:
        against = [peer for peer in target.against if samples.get(peer)]
        if not fnmatch.fnmatchcase(row.name, target.rows) or (target.against and not against):
            continue
        for side in sides:
            if side.ours and samples.get(side.name):
                value = median(samples, side.name, target.quantity)
                yield Verdict(target, row, side.name, value / max((median(samples, p) for p in against), default=1))
