"""How much came on which day, for the chart on the first page."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from peewee import SQL, fn

from angiovault.archive.index import Index
from angiovault.archive.models import Study

DAYS: Final = 30
_TO_THE_MINUTE: Final = len("2026-11-22T11:29")


def arrivals(index: Index, today: date | None = None) -> dict[str, Any]:
    """Return the studies of the latest days and of this month, by the local day on which each began to arrive.

    Studies are few and their time of receipt is indexed; instances are many. Grouped by minutes, since every time zone
    begins its days at whole ones.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    today = today or datetime.now().astimezone().date()
    first = min(today - timedelta(days=DAYS - 1), today.replace(day=1))
    since = datetime(first.year, first.month, first.day).astimezone().astimezone(UTC)
    with index.session():
        rows = (
            Study.select(
                fn.SUBSTR(Study.received, 1, _TO_THE_MINUTE),
                fn.COUNT(Study.id),
                fn.SUM(Study.instance_count),
                fn.SUM(Study.byte_count),
            )
            .where(Study.received >= since.strftime("%Y-%m-%dT%H:%M"))
            .group_by(SQL("1"))
            .tuples()
        )
        by_day: dict[date, list[int]] = {}
        for minute, *numbers in rows:
            day = datetime.fromisoformat(f"{minute}:00+00:00").astimezone().date()
            sums = by_day.setdefault(day, [0, 0, 0])
            sums[:] = [total + int(number) for total, number in zip(sums, numbers, strict=True)]
    days = [today - timedelta(days=back) for back in range(DAYS - 1, -1, -1)]
    month = [sums for day, sums in by_day.items() if (day.year, day.month) == (today.year, today.month)]
    return {
        "days": [_counts(by_day.get(day, [0, 0, 0])) | {"day": day.isoformat()} for day in days],
        "today": _counts(by_day.get(today, [0, 0, 0])),
        "month": _counts([sum(column) for column in zip(*month, strict=True)] if month else [0, 0, 0]),
    }


def _counts(sums: list[int]) -> dict[str, Any]:
    return dict(zip(("studies", "instances", "bytes"), sums, strict=True))
