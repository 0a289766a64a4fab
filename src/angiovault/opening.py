"""The archive of some settings: how the service, the commands, the jobs and the panel get hold of it.

There is nothing of DICOM's network in here, which most of them do not need.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from typing import Final

from angiovault.archive.archive import Archive
from angiovault.archive.store import Store, as_storage_error
from angiovault.archive.trash import finish_interrupted
from angiovault.config import Config

log = logging.getLogger(__name__)

_OTHERS_SECONDS: Final = 10.0


class StartError(Exception):
    """The service cannot start; the text says why and what to do."""


@contextlib.contextmanager
def only_one(archive: Archive) -> Iterator[None]:
    """Hold the storage for this process: a second service on it is refused.

    Raises
    ------
    StartError
        When another process holds it.
    StorageError
        When the storage cannot be written.
    """
    path = archive.store.private / "lock"
    with as_storage_error(f"cannot lock {archive.store.root}"):
        # Open for reading only, so that the volume may be made read-only while the service runs.
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "?"
            raise StartError(
                f"another `angiovault serve` (process {holder}) is using the storage {archive.store.root}: "
                "stop it first, or give this one a storage of its own"
            ) from None
        with contextlib.suppress(OSError):  # a volume that is full or read-only can still be read from
            path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        os.close(descriptor)


def is_running(archive: Archive) -> bool:
    """Return whether a service holds the storage."""
    try:
        descriptor = os.open(archive.store.private / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def store_of(config: Config) -> Store:
    """Return the storage of the settings, opened.

    Raises
    ------
    NotMounted, StorageError
        When it is not there.
    """
    store = Store(config.storage, config.min_free_space << 20, config.archive_id, config.second_storage)
    store.open()
    return store


def archive_of(config: Config) -> Archive:
    """Return the archive of the settings, not opened."""
    min_free = config.min_free_space << 20
    return Archive(config.storage, config.index_url, min_free, config.archive_id, config.second_storage)


def open_archive(config: Config, create: bool = False) -> Archive:
    """Return the archive of the settings, opened if its storage is there.

    Raises
    ------
    NotMounted, StorageError
        When the storage is not there.
    """
    archive = archive_of(config)
    archive.open(create)
    if left := archive.wait_for_others(_OTHERS_SECONDS):
        log.warning("%d instances that another process acknowledged are not in their places yet", left)
    finish_interrupted(archive)
    return archive
