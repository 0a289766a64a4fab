"""The process that converts for `conversion.Converter`: one request at a time, in a cage of limits.

Its standard input is a socket. A request is one packet: JSON with two open files, the stored object and the result;
the reply is one packet, empty on success, with the reason under "error" otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import tempfile
import time
import zlib
from pathlib import Path
from typing import BinaryIO, Final

from angiovault.archive import filemeta
from angiovault.archive.conversion import reencoding
from angiovault.archive.conversion.converter import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    ConversionError,
    convertible,
)
from angiovault.archive.data_set_walk import BIG_ENDIAN, EXPLICIT, IMPLICIT

_MEMORY: Final = 4 << 30
"""Bytes of address space: several times what a frame of the largest detectors needs."""
_IDLE: Final = 120.0
"""Seconds without a request after which the process ends."""
KEPT_FREE: Final = 256 << 20
"""Bytes that a conversion leaves free on the scratch file system: it may be the one that instances are received on."""
_PIECE: Final = 1 << 20
_LONGEST_REQUEST: Final = 1 << 16


def convert(stored: BinaryIO, result: BinaryIO, target_syntax: str, scratch: Path) -> None:
    """Write the data set of a Part 10 file in another transfer syntax.

    Raises
    ------
    ConversionError
        If that cannot be done without loss; what `result` then holds is of no use.
    """
    size = stored.seek(0, os.SEEK_END)
    stored.seek(0)
    try:
        meta = filemeta.read(stored)
    except filemeta.NotDicom as error:
        raise ConversionError(str(error)) from error
    syntax, start = meta.transfer_syntax, meta.offset
    if not convertible(syntax):
        raise ConversionError(f"there is no decoder for transfer syntax {reencoding.syntax_name(syntax)}")
    target = EXPLICIT if target_syntax == EXPLICIT_VR_LITTLE_ENDIAN else IMPLICIT
    with contextlib.ExitStack() as stack:
        if syntax == DEFLATED:
            inflated = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
            inflate(stored, start, inflated, scratch)
            stored, start, size = inflated, 0, inflated.tell()
        source = {EXPLICIT_VR_BIG_ENDIAN: BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN: IMPLICIT}.get(syntax, EXPLICIT)
        data_set = reencoding.DataSet(stored, start, size, source, syntax)
        images = reencoding.survey(data_set)
        _check_room(size - start + sum(image.length for image in images.values()), scratch)
        reencoding.write(data_set, images, target, result)
        result.flush()


def inflate(stored: BinaryIO, start: int, inflated: BinaryIO, scratch: Path) -> None:
    """Undo the compression of a deflated data set (PS3.5 A.5) from byte `start` on.

    Raises
    ------
    ConversionError
        If it is cut short or broken, or there is no room for it.
    """
    stored.seek(start)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    room = shutil.disk_usage(scratch).free - KEPT_FREE
    while not inflater.eof:
        data = inflater.unconsumed_tail or stored.read(_PIECE)
        try:
            piece = inflater.decompress(data, _PIECE)
        except zlib.error as error:
            raise ConversionError(f"the deflated data set is broken: {error}") from error
        if not data and not piece:
            raise ConversionError("the deflated data set is cut short")
        room -= len(piece)
        if room < 0:
            raise ConversionError("no room to inflate the deflated data set: it may be made to fill the disk")
        inflated.write(piece)


def _check_room(needed: int, scratch: Path) -> None:
    free = shutil.disk_usage(scratch).free - KEPT_FREE
    if needed > free:
        raise ConversionError(f"no room for the converted object: {needed} bytes, {max(free, 0)} may be used")


def _limit_process() -> None:
    """Keep what a hostile object can do small; what the system does not let be limited stays as it is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold a patient's images
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # if memory runs out, this process goes, not the archive


def _limit_time(seconds: float) -> None:
    """Make the system end the process when it burns more time than this: nobody else does if the server is gone."""
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _answer(request: bytes, descriptors: list[int]) -> dict[str, str]:
    wanted = json.loads(request)
    _limit_time(wanted["seconds"])
    try:
        with open(descriptors[0], "rb") as stored, open(descriptors[1], "r+b") as result:  # noqa: PTH123 (descriptors)
            convert(stored, result, wanted["target"], Path(wanted["scratch"]))
    except ConversionError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "the object needs more memory than a conversion may use"}
    except OSError as error:
        return {"error": f"reading or writing failed: {error}"}
    return {}


def main() -> None:
    """Serve requests until the other side hangs up or nothing is asked for a while."""
    _limit_process()
    with socket.socket(fileno=os.dup(0)) as connection:
        connection.settimeout(_IDLE)
        while True:
            try:
                request, descriptors, _, _ = socket.recv_fds(connection, _LONGEST_REQUEST, 2)
            except TimeoutError:
                return
            if not request:
                return
            connection.send(json.dumps(_answer(request, descriptors)).encode())


if __name__ == "__main__":
    main()
