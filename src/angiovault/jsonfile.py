"""Small files in which one program tells others how it is: JSON, replaced in one step, for the same user only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(path: Path, value: Mapping[str, Any], synced: bool = False) -> None:
    """Replace a file's content; whoever reads meanwhile gets the old or the new one, whole.

    It is `synced` only on request: what a process says of itself is out of date after a power cut anyway.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        # Names of files may be no text at all; `json.loads` reads them from bytes in the same way.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
            json.dump(value, file, ensure_ascii=False)
            file.write("\n")
            if synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read(path: Path) -> dict[str, Any]:
    """Return a file's content, an empty dictionary when there is none or it is not an object of JSON."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_of_running(path: Path) -> dict[str, Any]:
    """Return what a process says of itself, its ``pid`` among it; an empty dictionary when that process has ended."""
    said = read(path)
    pid = said.get("pid")
    return said if isinstance(pid, int) and Path(f"/proc/{pid}").exists() else {}
