"""What was fetched once and need not be again: in the user's cache folder, checked by SHA-256 whenever it is used."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from spk.product import PACKAGE


class FetchError(RuntimeError):
    """Something the build needs cannot be had, or is not what it was when it was pinned."""


def folder(name: str) -> Path:
    """Return a folder of the cache (XDG Base Directory Specification), made if it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / PACKAGE / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, sha256: str) -> Path:
    """Return a pinned file, from the cache or from its address.

    Raises
    ------
    FetchError
        If it cannot be fetched or is another file than the pinned one.
    """
    if not url.startswith("https://"):
        raise FetchError(f"{url}: only https is fetched")
    path = folder("sources") / url.rpartition("/")[2]
    if path.is_file() and digest(path) == sha256:
        return path
    print(f"fetching {url} ...", flush=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, unfinished.open("wb") as file:  # noqa: S310 (https)
            while piece := answer.read(1 << 20):
                file.write(piece)
        if digest(unfinished) != sha256:
            raise FetchError(f"{url} is not the file that was pinned (SHA-256 {sha256})")
        unfinished.rename(path)
    except OSError as error:
        raise FetchError(f"{url} cannot be fetched: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return path
