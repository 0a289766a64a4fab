"""A ZIP file that is made while it is being read: no copy of it lies anywhere, and little of it in memory."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath
from types import TracebackType
from typing import Final

from angiovault.archive.archive import Archive
from angiovault.archive.exchange.dicomdir import Directory
from angiovault.archive.exchange.exporting import CannotExport, Zip, copy_out, media_names, readable_names
from angiovault.archive.finding.selection import StoredInstance
from angiovault.archive.store import NotMounted

log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 18
_CHECKED: Final = 256 << 20
"""Bytes of the largest instance that is checked before it is begun: nothing comes until then, and nobody waits long."""
_LEFT_OUT: Final = PurePosixPath("LEFT-OUT.txt")


class ZipStream:
    """A ZIP file of instances as an iterator of its bytes; `close` ends it at any time.

    Members are not compressed: a NAS sends faster than it compresses. An instance that turns out to be damaged is left
    out, and named in `LEFT-OUT.txt`. When something else goes wrong the ZIP file has no end, which every program that
    opens it says.

    Parameters
    ----------
    archive : Archive
        The opened archive.
    wanted : sequence of StoredInstance
        What to put into it, in this order.
    dicomdir : bool
        Whether to make a File-set (PS3.10 8): short names and a DICOMDIR.
    """

    def __init__(self, archive: Archive, wanted: Sequence[StoredInstance], dicomdir: bool) -> None:
        self._archive = archive
        self._plan = list(zip(wanted, media_names(wanted) if dicomdir else readable_names(wanted), strict=True))
        self._directory = Directory() if dicomdir else None
        reader, self._writer = os.pipe()  # the writer waits while nobody reads: that bounds the memory
        self._reader = os.fdopen(reader, "rb", buffering=0)
        self._failed = ""
        self._thread = threading.Thread(target=self._run, name="zip", daemon=True)
        self._thread.start()

    def __iter__(self) -> ZipStream:
        return self

    def __next__(self) -> bytes:
        """Return the next bytes.

        Raises
        ------
        CannotExport
            When the ZIP file cannot be finished.
        """
        data = b"" if self._reader.closed else self._reader.read(_CHUNK)
        if not data:
            self._thread.join()  # it knows the reason only after it has closed its end
            if self._failed:
                raise CannotExport(self._failed)
            raise StopIteration
        return data

    def close(self) -> None:
        """End it; the files that were being read are closed when this returns."""
        self._reader.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            with _Target(self._writer) as target:
                problems = ((path, self._add(target, instance, path)) for instance, path in self._plan)
                left_out = [f"{path}: {problem}" for path, problem in problems if problem]
                if self._directory is not None and len(left_out) < len(self._plan):
                    with target.create(PurePosixPath("DICOMDIR")) as file:
                        file.write(self._directory.encode())
                if left_out:
                    with target.create(_LEFT_OUT) as file:
                        file.write("\n".join(left_out).encode())
        except BrokenPipeError:
            log.info("a ZIP file was not read to its end")
        except (CannotExport, NotMounted, OSError) as error:
            self._failed = str(error)
            log.error("a ZIP file could not be finished: %s", error)

    def _add(self, target: _Target, instance: StoredInstance, path: PurePosixPath) -> str:
        """Add an instance; return why it is left out, '' when it is not."""
        problem = copy_out(self._archive, instance, path, target, self._directory).problem
        if problem:
            log.error("%s is left out of a ZIP file: %s", instance.path, problem)
        return problem


class _Target(Zip):
    """The end of a pipe as a ZIP file to be written."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "wb")
        self._zip = zipfile.ZipFile(self._file, "w")

    def checks(self, instance: StoredInstance) -> bool:
        """Return whether reading an instance beforehand takes a few seconds at most."""
        return instance.size <= _CHECKED

    def __enter__(self) -> _Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._zip.close()
            self._file.close()
            return
        # Without its end, so that nobody takes it for whole.
        self._zip.fp = None
        with contextlib.suppress(OSError):
            self._file.close()
