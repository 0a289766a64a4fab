"""All rows, in the order of the table."""

from bench import data
from bench.own_rows import Idle, Import, Memory, Recovery, Start, Verify
from bench.rows import Find, Get, Move, Receive, Row

PARALLEL = 4


def plan(quick: bool, idle_seconds: float = 60) -> tuple[Row, ...]:
    """List the rows; `quick` is the same with less data."""
    xa, ct, mr = (4, 40, 100) if quick else (12, 152, 400)
    amounts = ((data.XA, xa), (data.CT, ct), (data.MR, mr))
    to_fetch = ((data.XA, 3 * xa), (data.CT, 4 * ct), (data.MR, 4 * mr))
    return (
        *(Receive(kind, 1, amount) for kind, amount in amounts),
        *(Receive(kind, PARALLEL, amount // PARALLEL if quick else amount) for kind, amount in amounts),
        *(Get(kind, amount) for kind, amount in to_fetch),
        *(Move(kind, amount) for kind, amount in to_fetch),
        Find(200 if quick else 3000),
        Memory(8, 200 if quick else 1000),
        Idle(0, 10 if quick else idle_seconds),
        Idle(1, 10 if quick else idle_seconds),
        Start(),
        Recovery(*((20, 25) if quick else (100, 60))),
        Import(*((20, 25) if quick else (100, 60))),
        Verify(*((1, 12) if quick else (8, 12))),
    )
