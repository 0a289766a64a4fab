"""All rows, in the order of the table."""

from bench import data
from bench.own_rows import Idle, Import, Memory, Recovery, Start, Verify
from bench.rows import Find, Get, Move, Receive, Row

PARALLEL = 4
_AMOUNTS = (36, 456, 1200), (12, 456, 1200), (36, 456, 1200)
"""Instances of an association of XA, CT, MR: alone, beside others, and given back."""


def plan(quick: bool, idle_seconds: float = 60) -> tuple[Row, ...]:
    """List the rows; `quick` is the same with less data.

    The archive needs a second or so for what is received: what is done once for an association, and the start of its
    sender, count as little as in a study of a real device.
    """
    kinds = data.XA, data.CT, data.MR
    alone, beside, fetched = ((4, 40, 100), (1, 10, 25), (12, 160, 400)) if quick else _AMOUNTS
    return (
        *(Receive(kind, 1, amount) for kind, amount in zip(kinds, alone, strict=True)),
        *(Receive(kind, PARALLEL, amount) for kind, amount in zip(kinds, beside, strict=True)),
        *(Get(kind, amount) for kind, amount in zip(kinds, fetched, strict=True)),
        *(Move(kind, amount) for kind, amount in zip(kinds, fetched, strict=True)),
        Find(200 if quick else 3000),
        Memory(8, 200 if quick else 1000),
        Idle(0, 10 if quick else idle_seconds),
        Idle(1, 10 if quick else idle_seconds),
        Start(),
        Recovery(*((20, 25) if quick else (100, 60))),
        Import(*((20, 25) if quick else (100, 60))),
        Verify(*((1, 12) if quick else (8, 12))),
    )
