"""The queue of storage commitments: what waits, when it is tried again, and when it is given up."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from angiovault.archive import commitments
from angiovault.archive.commitments import DuplicateTransaction, Request
from angiovault.archive.index import Index
from angiovault.indexurl import IndexURL

ITEMS = [("1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}") for number in range(3)]
START = 1_700_000_000
DAY = 86_400


class Clock:
    """The clock of the queue, set by the test."""

    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(commitments, "time", SimpleNamespace(time=clock.time))
    return clock


@pytest.fixture
def index(index_url: str, clock: Clock) -> Iterator[Index]:
    index = Index(IndexURL.parse(index_url, Path("/")))
    index.open("the archive", complete=True)
    yield index
    index.close()


def ask(index: Index, transaction: str, calling: str = "ARTIS") -> None:
    commitments.accept(index, transaction, calling, "ANGIOVAULT", "10.0.0.1", ITEMS)


def due(index: Index) -> Request:
    request = commitments.next_due(index)
    assert request is not None
    return request


def test_a_request_is_kept_as_it_came(index: Index) -> None:
    ask(index, "1.2")
    request = due(index)
    assert (request.transaction_uid, request.calling, request.called) == ("1.2", "ARTIS", "ANGIOVAULT")
    assert (request.address, request.items, request.result) == ("10.0.0.1", tuple(ITEMS), None)
    assert commitments.counts(index) == {"waiting": 1}
    commitments.delivered(index, request)
    assert commitments.next_due(index) is None
    assert commitments.seconds_to_next(index) is None
    assert commitments.counts(index) == {"delivered": 1}
    with pytest.raises(DuplicateTransaction):
        commitments.accept(index, "1.2", "ARTIS", "ANGIOVAULT", "10.0.0.1", ITEMS[:2])
    ask(index, "1.2")
    assert due(index).items == tuple(ITEMS)


def test_pauses_grow_to_an_hour_until_it_is_given_up(index: Index, clock: Clock) -> None:
    ask(index, "1.2")
    pauses = []
    while commitments.postpone(index, due(index), "nobody there", retry_days=1):
        pause = commitments.seconds_to_next(index)
        assert pause is not None
        pauses.append(pause)
        assert commitments.next_due(index) is None
        (listed,) = commitments.waiting(index)
        assert (listed["attempts"], listed["problem"]) == (len(pauses), "nobody there")
        clock.now += int(pause)
    assert pauses[:7] == [60, 120, 240, 480, 960, 1920, 3600]
    assert set(pauses[7:]) == {3600}
    assert START + DAY < clock.now < START + DAY + 3601
    assert commitments.counts(index) == {"given up": 1}
    assert commitments.next_due(index) is None


def test_new_requests_do_not_wait_behind_those_that_failed(index: Index, clock: Clock) -> None:
    ask(index, "1.2", "AWAY")
    commitments.postpone(index, due(index), "nobody there", retry_days=1)
    clock.now += 60
    ask(index, "1.3", "HERE")
    assert due(index).transaction_uid == "1.3"
    commitments.delivered(index, due(index))
    assert due(index).transaction_uid == "1.2"


def test_who_asks_again_gets_what_waits_for_it_at_once(index: Index) -> None:
    for calling in ("ARTIS", "OTHER"):
        ask(index, "1.2", calling)
        commitments.postpone(index, due(index), "nobody there", retry_days=1)
    assert commitments.next_due(index) is None
    ask(index, "1.3", "ARTIS")
    commitments.delivered(index, due(index))
    assert (due(index).transaction_uid, due(index).calling) == ("1.2", "ARTIS")
    commitments.delivered(index, due(index))
    assert commitments.next_due(index) is None
    commitments.retry_all(index)
    assert (due(index).transaction_uid, due(index).calling) == ("1.2", "OTHER")


def test_a_result_holds_for_a_day(index: Index, clock: Clock) -> None:
    ask(index, "1.2")
    result = tuple((sop_class, uid, 0x0112) for sop_class, uid in ITEMS)
    commitments.keep_result(index, due(index), result)
    assert due(index).result == result
    clock.now += DAY
    assert due(index).result == result
    clock.now += 1
    assert due(index).result is None
    commitments.keep_result(index, due(index), result)
    ask(index, "1.2")  # who asks again may have sent what was missing
    assert due(index).result is None


def test_the_same_request_on_many_associations_at_once_is_one(index: Index) -> None:
    with ThreadPoolExecutor(8) as pool:
        for asked in [pool.submit(ask, index, "1.2") for _ in range(24)]:
            asked.result()
    assert commitments.counts(index) == {"waiting": 1}


def number_of(index: Index, transaction: str) -> int:
    (number,) = [each["number"] for each in commitments.listed(index, 9) if each["transaction_uid"] == transaction]
    return int(number)


def test_what_waits_is_tried_at_once_when_somebody_wants_that(index: Index, clock: Clock) -> None:
    ask(index, "1.2")
    assert not due(index).urgent
    commitments.postpone(index, due(index), "nobody there", retry_days=1)
    assert commitments.next_due(index) is None
    assert commitments.retry(index, number_of(index, "1.2"))
    assert commitments.retry(index, number_of(index, "1.2"))
    assert due(index).urgent
    assert commitments.seconds_to_next(index) == 0
    commitments.postpone(index, due(index), "nobody there", retry_days=1)
    assert commitments.next_due(index) is None
    clock.now += 120
    assert (due(index).attempts, due(index).urgent) == (2, False)
    commitments.delivered(index, due(index))
    assert not commitments.retry(index, number_of(index, "1.2"))
    assert not commitments.retry(index, 999)


def test_what_is_cancelled_is_not_tried_any_more_whatever_the_worker_does_meanwhile(index: Index) -> None:
    ask(index, "1.2")
    ask(index, "1.3")
    request = due(index)
    assert commitments.keep_result(index, request, ())
    assert commitments.cancel(index, request.number)
    assert not commitments.cancel(index, request.number)
    assert not commitments.keep_result(index, request, ())
    assert commitments.postpone(index, request, "nobody there", retry_days=1)
    assert due(index).transaction_uid == "1.3"
    assert commitments.counts(index) == {"waiting": 1, "given up": 1}
    waiting, cancelled = commitments.listed(index, 9)
    assert (waiting["transaction_uid"], waiting["instances"]) == ("1.3", len(ITEMS))
    assert (cancelled["state"], cancelled["problem"]) == ("given up", commitments.CANCELLED)
    assert cancelled["instances"] is None
    # What the device was told all the same is the truth.
    commitments.delivered(index, request)
    assert commitments.counts(index) == {"waiting": 1, "delivered": 1}
