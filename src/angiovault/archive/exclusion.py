"""Keeping those who add to the archive and those who take from it apart, across threads and processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from angiovault.archive.store import as_storage_error

_FLAGS: Final = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC


class Exclusion:
    """A lock that many may share or one may hold alone; it ends with the process that holds it.

    Every acquisition opens the files anew, so that it holds between threads as well (flock(2)). Whoever wants to be
    alone first closes a turnstile: those who come later wait until he has had his turn, so that a stream of receptions
    does not keep him out for ever. He opens it again as soon as he is alone, and those who waited go in before the
    next one who wants to be.

    A thread that holds it may not ask for it again.

    Parameters
    ----------
    path : Path
        The lock's file, made when it is missing; the turnstile lies beside it.
    after_others : Callable
        Is called by whoever shares the lock when somebody, in any process, was alone since he held it last: what he
        remembers of the folders may not be true any more.
    """

    def __init__(self, path: Path, after_others: Callable[[], None]) -> None:
        self._path = path
        self._turnstile = path.with_name(path.name + ".turnstile")
        self._after_others = after_others
        self._seen = -1

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it together with others who share it: while a file gets its place and its row.

        Raises
        ------
        StorageError
            When the lock's files cannot be opened.
        """
        with _locked(self._path, self._turnstile, fcntl.LOCK_SH) as descriptor:
            last = os.fstat(descriptor).st_mtime_ns  # when somebody was alone
            if last != self._seen:
                self._after_others()
                self._seen = last
            yield

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold it alone: while files and their rows go.

        Raises
        ------
        StorageError
            When the lock's files cannot be opened.
        """
        with _locked(self._path, self._turnstile, fcntl.LOCK_EX) as descriptor:
            with as_storage_error("cannot lock the archive"):
                os.utime(descriptor, ns=(time.time_ns(), time.time_ns()))
            yield


@contextlib.contextmanager
def _locked(path: Path, turnstile: Path, how: int) -> Iterator[int]:
    with as_storage_error("cannot lock the archive"):
        descriptor = os.open(path, _FLAGS, 0o600)
    try:
        with as_storage_error("cannot lock the archive"):
            gate = os.open(turnstile, _FLAGS, 0o600)
            try:
                fcntl.flock(gate, how)
                fcntl.flock(descriptor, how)
            finally:
                os.close(gate)
        yield descriptor
    finally:
        os.close(descriptor)

