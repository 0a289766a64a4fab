"""One instance on its way into the archive."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType

from angiovault.archive import filemeta, layout
from angiovault.archive.header import DatasetScanner, Header
from angiovault.archive.index import Entry
from angiovault.archive.store import Store
from angiovault.archive.verifying import digest_of

log = logging.getLogger(__name__)


class DatasetMismatch(ValueError):
    """The data set is another instance, or of another class, than its sender says."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an instance: `STORED`, `DUPLICATE` or `CONFLICT`, and what it is."""

    outcome: str
    header: Header
    digest: str
    size: int
    place: PurePosixPath


class Reception:
    """One instance on its way in; a context manager that leaves nothing behind unless `finish` has returned.

    Parameters
    ----------
    store : Store
        Where the file is kept.
    add : Callable
        Makes the file findable, durably, and returns what became of it, see `Archive.add`.
    turn : Callable
        Holds the lock of a study, see `Archive.turn`.
    sop_class_uid, sop_instance_uid, transfer_syntax, calling, received : str
        What is said of the instance, see `Archive.receive`.
    """

    def __init__(
        self,
        store: Store,
        add: Callable[[Entry], str],
        turn: Callable[[str], AbstractContextManager[None]],
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
        calling: str,
        received: str,
    ) -> None:
        self._store = store
        self._add = add
        self._turn = turn
        self._sop_class_uid = sop_class_uid
        self._sop_instance_uid = sop_instance_uid
        self._calling = calling
        self._scanner = DatasetScanner(transfer_syntax)
        self._incoming = store.begin(sop_class_uid, sop_instance_uid, transfer_syntax, calling, received)

    def __enter__(self) -> Reception:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._incoming.discard()

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the data set.

        Raises
        ------
        NoRoom, StorageError
            When they cannot be kept.
        """
        self._incoming.write(data)
        self._scanner.feed(data)

    def finish(self) -> Receipt:
        """Make the instance durable and findable.

        Raises
        ------
        HeaderError
            When the head of the data set cannot be read.
        DatasetMismatch
            When it is another instance than was said.
        NoRoom, StorageError, NotMounted
            When it cannot be kept.
        """
        header = self._scanner.finish()
        said = (self._sop_class_uid, self._sop_instance_uid)
        found = (header.sop_class_uid, header.sop_instance_uid)
        if found != said:
            raise DatasetMismatch(
                f"the data set is {found[1]} of class {found[0]}, announced was {said[1]} of {said[0]}"
            )
        incoming = self._incoming
        incoming.write_back()
        with self._turn(header.study_instance_uid):
            digest = incoming.seal()
            place = layout.place(header, digest)
            received, calling = incoming.received, self._calling
            if not incoming.settle(place):
                received, calling = self._twin(place, digest) or (received, calling)
            entry = Entry(header, digest, incoming.size, place, received, calling)
            return Receipt(self._add(entry), header, digest, incoming.size, place)

    def _twin(self, place: PurePosixPath, digest: str) -> tuple[str, str] | None:
        """Return time of receipt and sender of the file which is there already and stands for this one.

        It is read again: a device sends once more what could not be committed, and is told "stored" on its strength.
        If that file is damaged it is put aside, this one takes its place, and None is returned.
        """
        try:
            with (self._store.root / place).open("rb") as file:
                meta = filemeta.read(file)
                if meta.digest == digest and digest_of(file) == digest:
                    return meta.received, meta.calling
        except (OSError, filemeta.NotDicom) as error:
            log.error("%s cannot be read: %s", place, error)
        log.error("%s is damaged and was replaced by what was received again", place)
        self._store.replace_damaged(self._incoming.path, place)
        return None
