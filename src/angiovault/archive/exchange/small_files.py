"""Small files of an import, many together: each is read once, and written whole and sealed into the incoming folder.

That is most of the work on a small file, and none of it needs the archive's index, locks or turns, so that other
processes can do it, see `helpers`. Only what is usual is done here: whatever has anything special about it is given
back, and goes the way of one instance at a time, which also says what is wrong with it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

from angiovault.archive import filemeta, layout
from angiovault.archive.adding import TAGS
from angiovault.archive.durable import fsync_directory
from angiovault.archive.exchange.import_sources import MEDIA_STORAGE_DIRECTORY
from angiovault.archive.exchange.taking_over import State, state_of
from angiovault.archive.header import DatasetScanner
from angiovault.archive.incoming import begin_write_back, remove, sync_and_forget

LARGEST: Final = 1 << 20
"""Bytes of a small file."""

_SOURCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TARGET: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Order(NamedTuple):
    """A file that is to be written into the incoming folder.

    Attributes
    ----------
    source, target : str
        The file to be read, and the one to be made.
    received : str
        The time of receipt that it gets.
    """

    source: str
    target: str
    received: str


class Written(NamedTuple):
    """What an instance is that lies durable and sealed in the incoming folder; of plain values, for it may travel.

    Attributes
    ----------
    state : State
        That of the file that was read.
    header : tuple
        The values of a `header.Header`.
    digest : str
        SHA-256 of the data set.
    size : int
        Bytes of the data set.
    place : str
        Its place in the first folder.
    received : str
        The time of receipt in its head.
    head : bytes
        What the index keeps of the instance, see `adding.Entry`.
    """

    state: State
    header: tuple[str, dict[int, bytes], bool, str, frozenset[int]]
    digest: str
    size: int
    place: str
    received: str
    head: bytes


def write_all(orders: Sequence[Order]) -> list[Written | None]:
    """Carry out orders for one incoming folder; on return all files that were made, and their names, are durable.

    Returns
    -------
    list
        For each what was written; None, and no file, for what is not usual, and for all when the folder does not take
        them.
    """
    made: dict[str, int] = {}
    try:
        written = [_write(order, made) for order in orders]
        for descriptor in made.values():
            sync_and_forget(descriptor)
        for folder in {Path(order.target).parent for order in orders if order.target in made}:
            fsync_directory(folder)
    except OSError:
        remove(Path(order.target) for order in orders)
        return [None] * len(orders)
    finally:
        for descriptor in made.values():
            os.close(descriptor)
    return written


def _write(order: Order, made: dict[str, int]) -> Written | None:
    """Carry out one order, but for the sync.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    try:
        read = _read(order.source)
        if read is None:
            return None
        state, data = read
        meta = filemeta.read(BytesIO(data))
        # A file of another archive of ours keeps its time of receipt, which needs the index.
        if meta.sop_class_uid == MEDIA_STORAGE_DIRECTORY or meta.digest:
            return None
        body = memoryview(data)[meta.offset :]
        scanner = DatasetScanner(meta.transfer_syntax)
        scanner.feed(body)
        header = scanner.finish()
        if (header.sop_class_uid, header.sop_instance_uid) != (meta.sop_class_uid, meta.sop_instance_uid):
            return None
        digest = hashlib.sha256(body).hexdigest()
        place = str(layout.place(header, digest))
        indexed = header.encoded(TAGS["IMAGE"])
    except (OSError, ValueError):
        return None
    uids = meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax
    head = filemeta.Head(*uids, "").encode(order.received, digest)
    made[order.target] = descriptor = os.open(order.target, _TARGET, 0o640)
    # The head last: another process that looks after what is sealed may see the file at any moment.
    if os.pwrite(descriptor, body, len(head)) != len(body) or os.pwrite(descriptor, head, 0) != len(head):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    begin_write_back(descriptor)
    values = header.transfer_syntax, header.elements, header.complete, header.problem, header.unknown_vr
    return Written(state, values, digest, len(body), place, order.received, indexed)


def _read(path: str) -> tuple[State, bytes] | None:
    """Read a small regular file whole; None when it is none."""
    descriptor = os.open(path, _SOURCE)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            return None
        data = os.read(descriptor, found.st_size + 1)
    finally:
        os.close(descriptor)
    if len(data) != found.st_size:  # it is being written
        return None
    return state_of(found), data
