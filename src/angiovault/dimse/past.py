"""An association that has ended, in the words of the book of contacts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from angiovault.archive.contacts import NO_ANSWER, Asked, Ended
from angiovault.devices import Operation
from angiovault.dimse import messages
from angiovault.dimse.association import Association

_OPERATIONS: Final[Mapping[int, Operation]] = {
    messages.C_ECHO_RQ: Operation.ECHO,
    messages.C_STORE_RQ: Operation.STORE,
    messages.C_FIND_RQ: Operation.FIND,
    messages.C_GET_RQ: Operation.GET,
    messages.C_MOVE_RQ: Operation.MOVE,
    messages.N_ACTION_RQ: Operation.COMMIT,
}
_STORED: Final = re.compile(r"(stored|duplicate|conflict) .*")
_INSTANCES: Final = {
    Operation.STORE: ("stored", "duplicate", "conflict"),
    Operation.GET: ("sent",),
    Operation.MOVE: ("sent",),
}


def ended(association: Association, how: str) -> Ended:
    """Return what is to be kept of an association.

    Parameters
    ----------
    association : Association
        The association; where it is rejected nothing was asked.
    how : str
        How it ended, a word of `endings`. An unknown caller that was rejected is the book of refusals' matter.
    """
    tally = _tally(association)
    asked = {}
    for field, (when, status) in association.requests.items():
        operation = _OPERATIONS[field]
        instances = sum(tally.get(word, 0) for word in _INSTANCES.get(operation, ()))
        if status is None or status == messages.PENDING:
            status = NO_ANSWER
        asked[str(operation)] = Asked(_text(when), status, instances)
    device = association.device.name if association.device else ""
    return Ended(association.calling, association.peer, association.called, device, how, tally, asked)


def _text(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tally(association: Association) -> dict[str, int]:
    """Return how many of what; the association has the stored ones by class and transfer syntax."""
    counts: Counter[str] = Counter()
    for what, count in association.tally.items():
        counts[_STORED.sub(r"\1", what).replace(" ", "-")] += count
    return dict(counts)
