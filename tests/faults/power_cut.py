"""A power cut, as bad as it may be: what was not synced is gone. See `power_cut.c`."""

import ctypes
import os
import random
import shutil
import subprocess
from pathlib import Path

from harness.processes import program

_SOURCE = Path(__file__).with_name("power_cut.c")


class PowerCut:
    """A layer under which a program is run, and which then tells what a power cut would have left.

    Parameters
    ----------
    folder
        Where the library and the shadow copies go.
    """

    def __init__(self, folder: Path) -> None:
        self.shadow = folder / "shadow"
        self.shadow.mkdir(parents=True)
        self._library = folder / "power_cut.so"
        options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([program("gcc"), *options, "-o", self._library, _SOURCE, "-ldl", "-pthread"], check=True)
        self._loaded = ctypes.CDLL(str(self._library))
        self.env = {"LD_PRELOAD": str(self._library), "POWER_CUT_SHADOW": str(self.shadow)}

    def sync_all(self, folder: Path) -> None:
        """Let all that is in a folder now be as if it had been synced long ago, the folder's own entries included."""
        os.environ["POWER_CUT_SHADOW"] = str(self.shadow)
        try:
            for path in (folder, *folder.rglob("*")):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    assert self._loaded.fsync(descriptor) == 0, f"{path} has no time of birth on this file system"
                finally:
                    os.close(descriptor)
        finally:
            del os.environ["POWER_CUT_SHADOW"]

    def leave(self, folder: Path, to: Path, luck: random.Random | None = None) -> None:
        """Make `to` what a power cut now would leave of a folder whose program was killed.

        With `luck` some unsynced files and entries are on the disk all the same, as the system writes in any order.
        """
        key = ctypes.create_string_buffer(128)
        assert self._loaded.power_cut_key(os.fsencode(folder), key, len(key)) == 0
        self._folder(key.value.decode(), folder, to, luck)

    def _folder(self, key: str, now: Path | None, to: Path, luck: random.Random | None) -> None:
        to.mkdir(parents=True)
        remembered = self.shadow / key
        entries = remembered.read_bytes().split(b"\0")[:-1] if remembered.exists() else []
        names = set()
        for entry in entries:
            kind, child, name = entry.decode().split(" ", 2)
            names.add(name)
            current = self._same(now / name, child) if now else None
            if kind == "d":
                self._folder(child, current, to / name, luck)
            elif current and luck and luck.random() < 0.5:
                shutil.copyfile(current, to / name)
            elif (self.shadow / child).exists():
                shutil.copyfile(self.shadow / child, to / name)
            else:
                (to / name).touch()
        for path in sorted(now.iterdir()) if now and luck else ():
            if path.name not in names and path.is_file() and luck and luck.random() < 0.5:
                shutil.copyfile(path, to / path.name)

    def _same(self, path: Path, key: str) -> Path | None:
        found = ctypes.create_string_buffer(128)
        if self._loaded.power_cut_key(os.fsencode(path), found, len(found)) == 0 and found.value.decode() == key:
            return path
        return None
