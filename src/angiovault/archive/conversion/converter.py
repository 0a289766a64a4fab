"""Lossless conversion on the way out: a stored object in another transfer syntax, for a peer that refuses its own.

Whatever reads untrusted pixel data runs in a process of its own (`codec_worker`), because decoders are C++ and may
crash, hang or eat memory on a hostile file. Here are only the door to it and its guard.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import angiovault

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
ENCAPSULATED_UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"
DEFLATED_IMAGE_FRAME: Final = "1.2.840.10008.1.2.8.1"

TARGETS: Final = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN})
"""What can be converted to: every conformant peer takes the first (PS3.5 10.1), nearly every one the second."""
NATIVE: Final = TARGETS | {DEFLATED, EXPLICIT_VR_BIG_ENDIAN}
"""Syntaxes whose pixel data is not encapsulated (PS3.5 A.1 to A.3, A.5)."""
JPEG: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 57, 70))
JPEG_LS: Final = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
JPEG_2000: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93))
ENCAPSULATED: Final = JPEG | JPEG_LS | JPEG_2000 | {RLE_LOSSLESS, ENCAPSULATED_UNCOMPRESSED, DEFLATED_IMAGE_FRAME}

MINIMUM_TIME: Final = 60.0
"""Seconds a conversion may take at least, however small the object."""
SLOWEST: Final = 200_000
"""Bytes of the stored file per second: a conversion slower than this is taken for a hanging decoder."""
_LONGEST_REPLY: Final = 1 << 16
_TIME_TO_DIE: Final = 5.0
"""Seconds between the end of a worker's socket and the end of the worker: a core dump, an exit handler."""


class ConversionError(Exception):
    """An object cannot be converted; the text says what is wrong with it."""


class _WorkerEndedIdle(Exception):
    """The worker went home before it saw the request: nothing is wrong, a new one does the work."""


def convertible(transfer_syntax: str) -> bool:
    """Return whether objects stored in this syntax can be converted to Explicit and Implicit VR Little Endian.

    Video (MPEG2, MPEG-4, HEVC), High-Throughput JPEG 2000 and JPEG XL cannot: there is no decoder for them here.
    """
    return transfer_syntax in NATIVE or transfer_syntax in ENCAPSULATED


@dataclass(slots=True)
class ConvertedFile:
    """The data set of a converted object in a temporary file that has no name and vanishes when it is closed."""

    file: BinaryIO
    """Positioned at the start of the data set."""
    offset: int
    length: int
    """Bytes of the data set from `offset` on."""
    transfer_syntax: str

    def close(self) -> None:
        """Give the temporary file up."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Converter:
    """Converts stored objects, one after the other, in a worker process that is started when it is first needed.

    A worker that crashed, hung or was killed is replaced at the next conversion; an idle one ends by itself.
    Safe to use from several threads.

    Parameters
    ----------
    scratch
        An existing folder for the temporary files, on a file system with room for the largest uncompressed object.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker that runs or ran last, None if there was none yet."""
        with self._guard:
            return self._worker.process.pid if self._worker else None

    def convert(self, source: Path, target_syntax: str) -> ConvertedFile:
        """Convert a stored object.

        Parameters
        ----------
        source
            A DICOM Part 10 file.
        target_syntax
            One of `TARGETS`.

        Raises
        ------
        ConversionError
            If the object cannot be converted: no decoder for its syntax, a data set that is cut short or lies, pixel
            data that does not decode, no room, or a decoder that crashed or took too long.
        """
        if target_syntax not in TARGETS:
            raise ConversionError(
                f"nothing is converted to {target_syntax}, only to Explicit and Implicit VR Little Endian"
            )
        try:
            with source.open("rb") as stored:
                result = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 (the caller gets it)
                try:
                    with self._turn:
                        self._convert(stored, result, target_syntax)
                except BaseException:
                    result.close()
                    raise
        except OSError as error:
            raise ConversionError(f"{source.name} cannot be converted: {error}") from error
        length = result.seek(0, os.SEEK_END)
        result.seek(0)
        return ConvertedFile(result, 0, length, target_syntax)

    def close(self) -> None:
        """End the worker; a conversion that is running fails."""
        with self._guard:
            self._closed = True
            if self._worker:
                self._worker.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _convert(self, stored: BinaryIO, result: BinaryIO, target_syntax: str) -> None:
        seconds = MINIMUM_TIME + os.fstat(stored.fileno()).st_size / SLOWEST
        request = {"target": target_syntax, "scratch": str(self._scratch), "seconds": seconds}
        descriptors = [stored.fileno(), result.fileno()]
        try:
            reply = self._ready_worker().ask(request, descriptors, seconds)
        except _WorkerEndedIdle:
            reply = self._ready_worker().ask(request, descriptors, seconds)
        if "error" in reply:
            raise ConversionError(reply["error"])

    def _ready_worker(self) -> _Worker:
        with self._guard:
            if self._closed:
                raise ConversionError("the conversion service is closed")
            if self._worker is None or self._worker.process.poll() is not None:
                if self._worker:
                    self._worker.end()
                self._worker = _Worker()
            return self._worker


class _Worker:
    """A running worker process and the socket to it, which carries one packet a message."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The worker must run the very package this process runs, wherever either was started.
        package = str(Path(angiovault.__file__).parents[1])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "angiovault.archive.conversion.worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # a Ctrl-C meant for the server lets it finish
            )
        except OSError:
            self.socket.close()
            raise
        finally:
            theirs.close()

    def ask(self, request: dict[str, object], descriptors: list[int], seconds: float) -> dict[str, str]:
        """Send a request with its open files and return the reply."""
        self.socket.settimeout(seconds)
        packet = b""
        try:
            socket.send_fds(self.socket, [json.dumps(request).encode()], descriptors)
            packet = self.socket.recv(_LONGEST_REPLY)
        except TimeoutError:
            self.end()
            raise ConversionError(f"the decoder did not finish within {seconds:.0f} s and was stopped") from None
        except (BrokenPipeError, ConnectionResetError):
            pass  # the worker is gone: told apart below by how it ended
        if packet:
            reply: dict[str, str] = json.loads(packet)
            return reply
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_TIME_TO_DIE)
        self.end()
        if self.process.returncode == 0:
            raise _WorkerEndedIdle
        raise ConversionError(f"the decoder crashed on this object ({_ending(self.process.returncode)})")

    def end(self) -> None:
        """Kill the process if it still runs, and clean up after it. May be called again, from any thread."""
        self.process.kill()
        self.process.wait()
        self.socket.close()


def _ending(return_code: int) -> str:
    return signal.Signals(-return_code).name if return_code < 0 else f"exit code {return_code}"
