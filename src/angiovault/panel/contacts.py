"""Who was in contact lately, as the log says: every association that ended has a line in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from angiovault.panel import loglines

_LOOKED_THROUGH: Final = 1 << 18
_ASSOCIATION: Final = re.compile(
    r"association of (?P<calling>.{1,16}?)@(?P<address>[0-9A-Fa-f.:]+)(?: \((?P<device>.{1,64})\))? "
    r"with (?P<called>.{0,16}): (?P<what>.*); (?P<ending>.*) after (?P<seconds>[0-9.]+) s"
)
_TALLIED: Final = re.compile(
    r"(?:^|, )(?P<count>[0-9]+) (?P<what>stored|duplicate|conflict|bytes|echo|queries|matches|sent|not sent|refused|"
    r"commitment requests)(?= |,|$)"
)
_GOOD: Final = "released"


def associations(records: Iterable[dict[str, str]]) -> list[dict[str, Any]]:
    """Return the associations among the records of a log, in their order."""
    found = []
    for record in records:
        match = _ASSOCIATION.fullmatch(record["text"])
        if match:
            parts = {name: match[name] or "" for name in ("calling", "address", "device", "called", "ending")}
            ok = match["ending"] == _GOOD
            found.append({"time": record["time"], **parts, "ok": ok, "tally": _tally(match["what"])})
    return found


def _tally(text: str) -> dict[str, int]:
    """Return how many of what: the log has the stored ones by class and transfer syntax."""
    counts: Counter[str] = Counter()
    for item in _TALLIED.finditer(text):
        counts[item["what"].replace(" ", "-")] += int(item["count"])
    return dict(counts)


class Recent:
    """The end of the log: the last associations and the last error, read again only when the log has changed."""

    def __init__(self) -> None:
        self._seen: tuple[Path, int, int] | None = None
        self._found: dict[str, Any] = {}

    def look(self, path: Path | None, most: int) -> dict[str, Any]:
        """Return the last associations, the latest first, and the last error; nothing of a log that cannot be read."""
        nothing: dict[str, Any] = {"associations": [], "last_error": None}
        if path is None:
            return nothing
        try:
            status = path.stat()
            seen = (path, status.st_size, status.st_mtime_ns)
            if seen != self._seen:
                records, _ = loglines.last_records(path, "", "", loglines.ALL, _LOOKED_THROUGH)
                errors = [record for record in records if record["level"] in ("ERROR", "CRITICAL")]
                latest = associations(records)[-most:][::-1]
                self._found = {"associations": latest, "last_error": errors[-1] if errors else None}
                self._seen = seen
        except OSError:
            return nothing
        return self._found


def last_of_devices(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the last association of each known device, by its name."""
    if path is None:
        return {}
    try:
        records, _ = loglines.last_records(path, "association of ", "", loglines.ALL)
    except OSError:
        return {}
    return {item["device"]: item for item in associations(records) if item["device"]}
