"""One instance on its way into the archive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import TracebackType

from angiovault.archive import layout
from angiovault.archive.adding import Entry
from angiovault.archive.blocks import Blocks
from angiovault.archive.header import DatasetScanner, Header
from angiovault.archive.settling import Sealed, Settler
from angiovault.archive.store import NoRoom, Store


class DatasetMismatch(ValueError):
    """The data set is another instance, or of another class, than its sender says."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A durable instance: what it is, and, when that is known, what became of it."""

    header: Header
    digest: str
    size: int
    find_place: Callable[[], PurePosixPath]
    wait_for_outcome: Callable[[], str]

    @property
    def place(self) -> PurePosixPath:
        """Where it lies, or, until its outcome is known, where it is to lie: the content may be kept elsewhere."""
        return self.find_place()

    @property
    def outcome(self) -> str:
        """`STORED`, `DUPLICATE`, `CONFLICT`, `SET_ASIDE` or `LOST`; waits until it is in its place and indexed.

        Raises
        ------
        StorageError
            When that cannot be done now; the instance is durable all the same.
        """
        return self.wait_for_outcome()


def _nobody(receipt: Receipt, outcome: str) -> None:
    """Whoever does not want to be told of an outcome."""


class Reception:
    """One instance on its way in; a context manager that leaves nothing behind unless `keep` has returned.

    Parameters
    ----------
    store : Store
        Where the file is kept.
    settler : Settler
        Puts it in its place and makes it findable.
    sop_class_uid, sop_instance_uid, transfer_syntax, calling, received : str
        What is said of the instance, see `Archive.receive`.
    """

    def __init__(
        self,
        store: Store,
        settler: Settler,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
        calling: str,
        received: str,
    ) -> None:
        self._store = store
        self._settler = settler
        self._sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self._calling = calling
        self._scanner = DatasetScanner(transfer_syntax)
        self._turn = 0
        self._entry: Entry | None = None
        self._incoming = store.begin(sop_class_uid, sop_instance_uid, transfer_syntax, calling, received)
        self._blocks = Blocks(self._pass_on)

    def __enter__(self) -> Reception:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it; what is not kept is removed."""
        turn, self._turn = self._turn, 0
        if turn:
            self._settler.pass_over(turn)
        self._blocks.close()
        self._incoming.discard()

    @property
    def size(self) -> int:
        """Bytes of the data set that have come."""
        return self._incoming.size

    def room(self) -> memoryview:
        """Return where the next bytes of the data set may be put, at least one; then `filled` is to be called."""
        return self._blocks.room()

    def filled(self, count: int) -> None:
        """Take the next bytes of the data set, which were put into the room.

        Raises
        ------
        NoRoom, StorageError
            When they cannot be kept.
        """
        self._blocks.filled(count)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the data set; raises what `filled` does."""
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                room = self.room()
                count = min(len(room), len(view) - done)
                room[:count] = view[done : done + count]
                self.filled(count)
                done += count

    def _pass_on(self, part: memoryview, begin_write_back: bool) -> None:
        self._incoming.write(part)
        if begin_write_back:
            self._incoming.begin_write_back()
        self._scanner.feed(part)

    def complete(self) -> None:
        """Take note that all bytes have come; several can be complete before the first is kept.

        Raises
        ------
        HeaderError
            When the head of the data set cannot be read.
        DatasetMismatch
            When it is another instance than was said.
        NoRoom, StorageError, NotMounted
            When it cannot be kept.
        """
        self._complete()
        self._incoming.begin_write_back()

    def keep(self, then: Callable[[Receipt, str], None] = _nobody) -> Receipt:
        """Make a complete instance durable; every query from now on finds it.

        Parameters
        ----------
        then : Callable
            Is told, by another thread, what became of it: see `Receipt.outcome`.

        Raises
        ------
        NoRoom, StorageError
            When it cannot be kept.
        """
        entry, incoming = self._entry, self._incoming
        assert entry is not None, "it is complete"
        incoming.sync()
        incoming.keep()
        item = Sealed(incoming.path, entry, lambda outcome: then(receipt, outcome))
        receipt = _receipt(self._settler, item, entry)
        turn, self._turn = self._turn, 0
        self._settler.take(turn, item)
        return receipt

    def finish(self, then: Callable[[Receipt, str], None] = _nobody) -> Receipt:
        """Do what `complete` and `keep` do, for one instance at a time."""
        self._complete()
        return self.keep(then)

    def _complete(self) -> None:
        digest = self._blocks.finish()
        header = self._scanner.finish()
        said = (self._sop_class_uid, self.sop_instance_uid)
        found = (header.sop_class_uid, header.sop_instance_uid)
        if found != said:
            raise DatasetMismatch(
                f"the data set is {found[1]} of class {found[0]}, announced was {said[1]} of {said[0]}"
            )
        incoming = self._incoming
        place = self._store.place_beside(incoming.path, layout.place(header, digest))
        if self._store.elsewhere(place) is None:
            try:
                self._store.make_folder(place)
            except NoRoom:
                incoming.note_no_room()
                raise
        incoming.write_back()
        self._turn = self._settler.turn(incoming)
        incoming.vouch(digest)
        self._entry = Entry(header, digest, incoming.size, place, incoming.received, self._calling)


def take_written(store: Store, settler: Settler, path: Path, entry: Entry, folder_is_ready: bool) -> Receipt:
    """Take in an instance whose file lies durable and sealed in the incoming folder; see `Archive.take_written`."""
    place = store.place_beside(path, entry.place)
    if not folder_is_ready and store.elsewhere(place) is None:
        store.make_folder(place)
    if place != entry.place:
        entry = replace(entry, place=place)
    item = Sealed(path, entry, lambda _: None)
    settler.join(item)
    return _receipt(settler, item, entry)


def _receipt(settler: Settler, item: Sealed, entry: Entry) -> Receipt:
    """Return the receipt for what is settled as `item` and is to have the entry, unless it is kept elsewhere."""
    return Receipt(
        entry.header,
        entry.digest,
        entry.size,
        lambda: item.entry.place if item.entry is not None else entry.place,
        lambda: settler.outcome(item),
    )
