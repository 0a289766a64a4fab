"""Programs: finding them, running them, and servers in the background that are ended by their own pid."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from harness.waiting import wait_until

Argument = str | bytes | Path


def program(name: str) -> str:
    """Return the path of an installed program; Debian keeps servers in /usr/sbin, outside most users' PATH."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        raise RuntimeError(f"{name} is not installed: run `sh tests/install-peers.sh`")
    return path


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment with TCP_NODELAY for DCMTK, which else waits 40 ms for every small message."""
    return {**os.environ, "TCP_NODELAY": "1", **(extra or {})}


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Background:
    """A program running in the background, leader of a process group of its own, with its output in files."""

    def __init__(
        self,
        arguments: Sequence[Argument],
        *,
        log: Path,
        stdout: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = Path(os.fsdecode(arguments[0])).name
        self.log = log
        self.ended_by_us = False
        with log.open("ab") as errors, (stdout or log).open("ab") as output:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment(env),
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def report(self) -> str:
        """Return the end of the program's log, for messages of failing tests."""
        return f"{self.name} said:\n" + self.log.read_text(encoding="utf-8", errors="replace")[-8000:]

    def wait_ready(self, ready: Callable[[], bool], *, seconds: float = 30) -> None:
        """Wait until `ready()`; a program that ends or takes too long is killed and fails the test with its log."""
        try:
            wait_until(lambda: ready() or not self.running, f"{self.name} to be ready", seconds=seconds)
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.report()}") from None
        if not self.running:
            raise AssertionError(f"{self.name} ended at once with {self.process.returncode}\n{self.report()}")

    def stop(self, *, seconds: float = 15) -> int:
        """Send SIGTERM and return the exit code; a program that does not end is killed and fails the test."""
        self.ended_by_us = True
        if self.running:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} went on {seconds:g} s after SIGTERM\n{self.report()}") from None

    def kill(self) -> None:
        """Send SIGKILL to the program and to the processes it started, as the end of power would."""
        self.ended_by_us = True
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        wait_until(self.group_is_gone, f"{self.name} and its processes to be gone after SIGKILL", seconds=10)

    def group_is_gone(self) -> bool:
        """Say whether neither the program nor any process in its group runs; zombies do not count."""
        return all(group != self.process.pid or state in "ZX" for state, group in _processes())


def _processes() -> Iterator[tuple[str, int]]:
    """Yield state and process group of every process (proc(5), /proc/pid/stat)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended since it was listed
            # The command's name, in parentheses, may itself hold blanks and parentheses.
            state, _parent, group = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            yield state, int(group)


class Server(ABC):
    """What all servers of the harness have in common: they start, stop, may be killed, and start again."""

    clean_exits: ClassVar[tuple[int, ...]] = (0,)
    """The exit codes that mean an orderly end after SIGTERM."""

    def __init__(self) -> None:
        self._background: Background | None = None

    @property
    def background(self) -> Background:
        if self._background is None:
            raise AssertionError(f"{type(self).__name__} has not been started")
        return self._background

    @property
    def running(self) -> bool:
        return self._background is not None and self._background.running

    @property
    def pid(self) -> int:
        return self.background.process.pid

    @abstractmethod
    def start(self) -> Self:
        """Start the server and return when it takes connections."""

    def stop(self) -> None:
        """End the server with SIGTERM: it must exit in order, and must not have ended by itself before.

        Does nothing when the server was never started, or when it was stopped or killed already.
        """
        if self._background is None or self._background.ended_by_us:
            return
        code = self._background.stop()
        assert code in self.clean_exits, f"exit code {code}\n{self._background.report()}"

    def kill(self) -> None:
        """End the server with SIGKILL; does nothing when it was never started."""
        if self._background is not None:
            self._background.kill()

    def log_text(self) -> str:
        return self.background.log.read_text(encoding="utf-8", errors="replace")

    def wait_for_log(self, text: str, *, seconds: float = 20) -> None:
        """Wait until the log holds `text`."""
        wait_until(lambda: text in self.log_text(), f"{text!r} in the log of {type(self).__name__}", seconds=seconds)

    def __enter__(self) -> Self:
        try:
            return self if self.running else self.start()
        except BaseException:  # interrupted while it starts: nobody else would end it
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A test that has failed keeps its own message; the server must end all the same.
        if kind is None:
            self.stop()
        else:
            self.kill()
