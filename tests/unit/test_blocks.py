"""Blocks: all bytes come through, in order and once, whoever hashes them."""

import hashlib
import os
import threading

import pytest

from angiovault.archive import blocks
from angiovault.archive.blocks import Blocks


@pytest.fixture(params=[-1, 0, 1], ids=["busy", "no core idle", "one core idle"])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many cores have nothing to do."""
    monkeypatch.setattr(blocks, "_idle_cores", lambda: request.param)
    return int(request.param)


def put(target: Blocks, data: bytes, step: int) -> None:
    done = 0
    while done < len(data):
        room = target.room()
        count = min(len(room), step, len(data) - done)
        assert count
        room[:count] = data[done : done + count]
        target.filled(count)
        done += count


@pytest.mark.parametrize("step", [997, 131_066, 1 << 20])
@pytest.mark.parametrize("size", [0, 1, 35_000, 527_000, 720_896, 3_000_000, 17_654_321])
def test_what_is_passed_on_and_hashed_is_what_was_filled_in(cores: int, size: int, step: int) -> None:
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
    if size == 527_000:  # one block of middling size is begun early only if that costs nobody anything
        assert early == [cores > 0]
    if size > 3_000_000:
        assert early[-1]


def test_a_big_data_set_is_hashed_beside_unless_threads_wait(cores: int) -> None:
    names: set[str] = set()
    made = Blocks(lambda _part, _early: names.update(thread.name for thread in threading.enumerate()))
    put(made, bytes(10_000_000), 1 << 20)
    made.finish()
    made.close()
    assert ("hashing" in names) == (cores >= 0)
    assert "hashing" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("at", [1, 5, 12])
def test_an_error_comes_out_and_leaves_no_thread(cores: int, at: int) -> None:
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


def test_no_two_data_sets_share_memory(cores: int) -> None:
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
def test_idle_cores_are_counted_or_none(monkeypatch: pytest.MonkeyPatch, fault: type[OSError] | None) -> None:
    if fault is not None:

        def no_such_file() -> int:
            raise fault

        monkeypatch.setattr(blocks, "_load", no_such_file)
        assert blocks._idle_cores() == 0
    else:
        assert blocks._idle_cores() < len(os.sched_getaffinity(0))
