"""A service that is battered with bad input, and what has to be true of it after every blow."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import part10
from harness.part10 import Part10
from harness.service import Service
from harness.upper_layer import RawPeer, data_set
from harness.waiting import wait_until

FIRST = "1.2.840.99.1"
"""SOP Instance UID of an instance that is there from the beginning and has to be there at the end."""


class Battered:
    """A running service, and where its log was read to.

    Parameters
    ----------
    service
        The service, running.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._read = 0
        with RawPeer(service.peer) as peer:
            peer.associate()
            assert peer.store(FIRST, data_set(FIRST)) == 0
            peer.release()

    def connect(self, timeout: float = 20) -> RawPeer:
        return RawPeer(self.service.peer, timeout=timeout)

    @contextmanager
    def association(self) -> Iterator[RawPeer]:
        """Give an association for C-ECHO and CT images, however it ends."""
        with self.connect() as peer:
            peer.associate()
            yield peer

    def news(self) -> str:
        """Return what the log has got since it was last asked."""
        with self.service.background.log.open("rb") as log:
            log.seek(self._read)
            return log.read().decode("utf-8", "replace")

    def wait_for_news(self, words: str) -> None:
        """Wait for a line in the log that says why something was refused."""
        wait_until(lambda: words in self.news(), f"{words!r} in the log, which says:\n{self.news()}")

    def is_well(self) -> None:
        """Check that the next association is served, nothing lost, half there or left over, and no mistake logged."""
        with self.association() as peer:
            assert peer.echo() == 0
            peer.release()
        assert "Traceback" not in self.news(), self.news()
        assert "internal error" not in self.news(), self.news()
        self._read = self.service.background.log.stat().st_size
        assert self.service.running
        assert FIRST in self.kept()

    def kept(self) -> dict[str, list[Part10]]:
        """Return what the storage holds when there is nothing unfinished in it."""
        wait_until(lambda: not self.unfinished(), "no unfinished instance in the storage")
        return part10.collect(self.service.storage)

    def unfinished(self) -> list[Path]:
        """Return the files in the incoming folder that hold anything, or are open: others are spare names."""
        found, opened = [], _open_files()
        for path in (self.service.storage / ".angiovault" / "incoming").iterdir():
            with suppress(FileNotFoundError):  # it has just been settled
                if path.stat().st_size or path in opened:
                    found.append(path)
        return found


def _open_files() -> set[Path]:
    """Return the files that any process of ours has open."""
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it is closed, or not ours
            found.add(descriptor.readlink())
    return found
