"""Blocks: all bytes come through, in order and once, whoever hashes them."""

import hashlib
import os
import threading

import pytest

from angiovault.archive import blocks
from angiovault.archive.blocks import Blocks


@pytest.fixture(params=[False, True], ids=["a core for each", "threads wait"])
def busy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether threads wait for a core."""
    monkeypatch.setattr(blocks, "_threads_wait", lambda: request.param)
    return bool(request.param)


def put(target: Blocks, data: bytes, step: int) -> None:
    done = 0
    while done < len(data):
        room = target.room()
        count = min(len(room), step, len(data) - done)
        assert count
        room[:count] = data[done : done + count]
        target.filled(count)
        done += count


@pytest.mark.parametrize("step", [997, 131_066, 200_000, 1 << 20])
@pytest.mark.parametrize("size", [0, 1, 35_000, 98_304, 300_000, 527_000, 720_896, 3_000_000, 17_654_321])
def test_what_is_passed_on_and_hashed_is_what_was_filled_in(busy: bool, size: int, step: int) -> None:
    data = os.urandom(size)
    got = bytearray()
    early: list[bool] = []

    def pass_on(part: memoryview, begin_write_back: bool) -> None:
        got.extend(part)
        early.append(begin_write_back)

    made = Blocks(pass_on)
    put(made, data, step)
    assert made.finish() == hashlib.sha256(data).hexdigest()
    made.close()
    assert got == data
    if size < 256 << 10:  # the sync follows at once
        assert not any(early)
    else:
        assert all(early)


def test_a_big_data_set_is_hashed_beside_unless_threads_wait(busy: bool) -> None:
    names: set[str] = set()
    made = Blocks(lambda _part, _early: names.update(thread.name for thread in threading.enumerate()))
    put(made, bytes(10_000_000), 1 << 20)
    made.finish()
    made.close()
    assert ("hashing" in names) == (not busy)
    assert "hashing" not in {thread.name for thread in threading.enumerate()}


def test_the_beginning_is_hashed_while_more_comes(busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        def __init__(self) -> None:
            self.size = 0

        def update(self, data: memoryview) -> None:
            self.size += len(data)

        def hexdigest(self) -> str:
            return str(self.size)

    counting = Counting()
    monkeypatch.setattr(hashlib, "sha256", lambda: counting)
    passed: list[int] = []
    made = Blocks(lambda part, _early: passed.append(len(part)))
    hashed = []
    for _ in range(4):
        put(made, bytes(131_060), 131_060)
        hashed.append(counting.size)
    assert passed == []
    assert hashed == [131_060, 262_120, 262_120, 262_120]  # what comes behind is read first
    assert made.finish() == str(4 * 131_060)
    assert passed == [4 * 131_060]


@pytest.mark.parametrize("at", [1, 5, 12])
def test_an_error_comes_out_and_leaves_no_thread(busy: bool, at: int) -> None:
    passed = 0

    def pass_on(_part: memoryview, _early: bool) -> None:
        nonlocal passed
        passed += 1
        if passed == at:
            raise OSError("full")

    made = Blocks(pass_on)
    with pytest.raises(OSError, match="full"):
        put(made, bytes(20_000_000), 1 << 20)
    made.close()
    assert "hashing" not in {thread.name for thread in threading.enumerate()}


def test_no_two_data_sets_share_memory(busy: bool) -> None:
    """Blocks are used again: many at once, and given up at any time, must not see each other's bytes."""

    def one(number: int, wrong: list[int]) -> None:
        data = bytes([number]) * (1_000_000 + 300_000 * number)
        for _ in range(10):
            given_up = Blocks(lambda _part, _early: None)
            put(given_up, data[:700_000], 100_000)
            given_up.close()
            given_up.close()
            made = Blocks(lambda part, _early: wrong.extend([number] * (bytes(part) != data[: len(part)])))
            put(made, data, 131_066)
            if made.finish() != hashlib.sha256(data).hexdigest():
                wrong.append(number)
            made.close()

    wrong: list[int] = []
    threads = [threading.Thread(target=one, args=(number, wrong)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("fault", [OSError, None])
def test_threads_are_counted_or_none(monkeypatch: pytest.MonkeyPatch, fault: type[OSError] | None) -> None:
    if fault is not None:

        def no_such_file() -> int:
            raise fault

        monkeypatch.setattr(blocks, "_load", no_such_file)
        assert not blocks._threads_wait()
    else:
        monkeypatch.setattr(blocks, "_CORES", 0)  # the one that asks runs
        assert blocks._threads_wait()
