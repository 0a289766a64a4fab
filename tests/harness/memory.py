"""What the system has in memory of a file."""

import ctypes
import mmap
import os
from pathlib import Path

import pytest


def pages_in_memory(path: Path) -> int:
    """Return how many pages of a file the system has in memory, see mincore(2)."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        pages = (ctypes.c_ubyte * -(-len(view) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(view)
        try:
            if ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(start), ctypes.c_size_t(len(view)), pages):
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            del start  # the view could not be closed otherwise
    return sum(page & 1 for page in pages)


def require_forgetting(folder: Path) -> None:
    """Leave the test out where files are nowhere but in memory, as with a tmpfs."""
    path = folder / "forgotten"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages_in_memory(path):
        pytest.skip("this file system keeps files in memory")
    path.unlink()
