"""Processes that receive, seen from the one that listens: only death counts as death; nothing is answered before."""

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from angiovault.archive.store import StorageError
from angiovault.config import Config
from angiovault.dimse import receivers
from angiovault.dimse.association import Association
from angiovault.dimse.conversation import Handler
from angiovault.dimse.negotiation import Context
from angiovault.dimse.receivers import Receivers
from angiovault.dimse.receiving import Receiving
from angiovault.dimse.wire import Wire
from harness.upper_layer import CT_IMAGE, EXPLICIT


class _Receiving(Receiving):
    """It has no archive, and fails as it is told."""

    def __init__(self, on_handlers: Exception | None = None, on_settle: Exception | None = None) -> None:
        self._on_handlers, self._on_settle = on_handlers, on_settle

    def handlers(self) -> Mapping[int, Handler]:
        if self._on_handlers is not None:
            raise self._on_handlers
        return {}

    def use(self, config: Config) -> None:
        raise AssertionError(f"nobody has changed settings to {config}")

    def settle(self) -> None:
        if self._on_settle is not None:
            raise self._on_settle

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    """Closes at the end of a test what it has opened."""
    with ExitStack() as stack:
        yield stack


def association(ends: ExitStack, syntax: str = CT_IMAGE) -> Association:
    ours, _ = (ends.enter_context(end) for end in socket.socketpair())
    return Association(Wire(ours, 16384, 5), "127.0.0.1", "DEVICE", "ARCHIVE", (Context(1, syntax, EXPLICIT),))


def hand_over(processes: Receivers, ends: ExitStack) -> None:
    """Hand an association over, which the process leaves untouched."""
    assert processes.serve(association(ends), Config(), 2) is None


@pytest.mark.parametrize("error", [ValueError("a mistake"), StorageError("not mounted")])
def test_a_failure_costs_one_association_and_no_process(error: Exception, ends: ExitStack) -> None:
    lost: list[None] = []
    processes = ends.enter_context(Receivers(1, lambda: _Receiving(on_handlers=error)))
    processes.on_loss = lambda: lost.append(None)
    processes.prepare()
    for _ in range(3):
        hand_over(processes, ends)
        processes.settle()
    processes.look()
    assert not lost


def test_only_what_can_be_handed_over_is(ends: ExitStack) -> None:
    processes = ends.enter_context(Receivers(1, lambda: _Receiving(on_settle=StorageError("asked"))))
    assert processes.serve(association(ends), Config(), 1) is None  # the process that listens has nothing else to do
    assert processes.serve(association(ends, "1.2.840.10008.1.1"), Config(), 9) is None
    assert processes.serve(association(ends, "1.2.840.10008.5.1.4.1.2.2.1"), Config(), 9) is None
    processes.settle()  # so nobody is asked


def test_what_keeps_a_process_from_settling_is_said(ends: ExitStack) -> None:
    failing = _Receiving(on_handlers=StorageError("not mounted"), on_settle=StorageError("the index is away"))
    processes = ends.enter_context(Receivers(2, lambda: failing))
    hand_over(processes, ends)
    for _ in range(2):
        with pytest.raises(StorageError, match="the index is away"):
            processes.settle()


def test_what_a_lost_process_left_is_tried_until_it_is_looked_after(ends: ExitStack) -> None:
    processes = ends.enter_context(Receivers(1, lambda: _Receiving(on_handlers=StorageError("not mounted"))))
    problems = [StorageError("the storage is away")] * 5
    done: list[None] = []

    def look_after() -> None:
        if problems:
            raise problems.pop()
        done.append(None)

    processes.on_loss = look_after
    hand_over(processes, ends)
    os.kill(processes._living[0].pid, signal.SIGKILL)
    while problems:
        with pytest.raises(StorageError, match="the storage is away"):
            processes.settle()
    processes.settle()
    processes.settle()
    assert done == [None]
    hand_over(processes, ends)


def test_nothing_is_answered_while_a_loss_is_looked_after(ends: ExitStack) -> None:
    processes = ends.enter_context(Receivers(1, lambda: _Receiving(on_handlers=StorageError("not mounted"))))
    begun, go_on = threading.Event(), threading.Event()

    def look_after() -> None:
        begun.set()
        assert go_on.wait(20)

    processes.on_loss = look_after
    hand_over(processes, ends)
    os.kill(processes._living[0].pid, signal.SIGKILL)
    first, second = threading.Thread(target=processes.settle), threading.Thread(target=processes.settle)
    first.start()
    assert begun.wait(20)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(20)
        assert not thread.is_alive()


def test_one_that_does_not_answer_is_not_waited_for_for_ever(
    ends: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "_SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(receivers, "_DEATH_SECONDS", 0.1)
    processes = ends.enter_context(Receivers(1, lambda: _Receiving(on_handlers=StorageError("not mounted"))))
    hand_over(processes, ends)
    os.kill(processes._living[0].pid, signal.SIGSTOP)
    with pytest.raises(StorageError, match="in time"):
        processes.settle()
    os.kill(processes._living[0].pid, signal.SIGCONT)
    monkeypatch.setattr(receivers, "_SETTLE_SECONDS", 20)
    processes.settle()


def test_one_that_does_not_end_is_killed(ends: ExitStack) -> None:
    processes = ends.enter_context(Receivers(2, _Receiving))
    pids = [process.pid for process in processes._living]
    os.kill(pids[0], signal.SIGSTOP)
    processes.close(0.2)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_one_core_is_served_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert receivers.useful_count() == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert receivers.useful_count() == 3
