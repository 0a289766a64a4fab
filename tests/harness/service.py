"""The archive itself as its users run it: `angiovault serve` in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from harness.dcmtk import Peer
from harness.processes import Argument, Background, Server
from harness.settling import settled
from harness.waiting import wait_until

_COMMAND = (sys.executable, "-m", "angiovault.cli")
_READY = re.compile(r"^ready: (\S+)@(\S+):(\d+)$", re.MULTILINE)


class Service(Server):
    """`angiovault serve` and the other commands on the same storage and index.

    Parameters
    ----------
    folder
        Where log and configuration file go, and the storage unless `storage` says otherwise.
    storage, index
        The storage folder and the index URL; without a URL the service chooses its own index.
    config
        The text of a configuration file.
    ae_title, unknown_devices, port
        Settings of the same names; port 0 is a free one, chosen anew at every start.
    options
        Further arguments of `serve`.
    flags
        Whether address, port and storage are given as flags, which win over the file; if not the file has to name them.
    prefix
        A program to run `serve` under, which must keep its pid: `strace -D`, `prlimit`.
    env
        Further environment variables.
    """

    def __init__(
        self,
        folder: Path,
        *,
        storage: Path | None = None,
        index: str | None = None,
        config: str | None = None,
        ae_title: str | None = None,
        unknown_devices: str | None = None,
        port: int = 0,
        options: Sequence[Argument] = (),
        prefix: Sequence[Argument] = (),
        flags: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.storage = storage or folder / "archive"
        self.index = index
        self.config_file = folder / "angiovault.ini" if config is not None else None
        if self.config_file is not None and config is not None:
            self.config_file.write_text(config, encoding="utf-8")
        self.env = dict(env or {})
        self._place: list[Argument] = ["--storage", self.storage] if flags else []
        if index is not None:
            self._place += ["--index", index]
        if self.config_file is not None:
            self._place += ["--config", self.config_file]
        self._serve: list[Argument] = [*prefix, *_COMMAND, "serve", *self._place]
        self._serve += ["--bind", "127.0.0.1", "--port", str(port)] if flags else []
        if ae_title is not None:
            self._serve += ["--ae-title", ae_title]
        if unknown_devices is not None:
            self._serve += ["--unknown-devices", unknown_devices]
        self._serve += options
        self._stdout = folder / "serve.stdout"
        self._peer: Peer | None = None

    @property
    def peer(self) -> Peer:
        """Where it listens, as its last `ready:` line said."""
        assert self._peer is not None, "the service has not been started"
        return self._peer

    def start(self) -> Self:
        self._stdout.unlink(missing_ok=True)
        self._background = Background(self._serve, log=self.folder / "serve.log", stdout=self._stdout, env=self.env)
        self.background.wait_ready(lambda: _READY.search(self.stdout_text()) is not None)
        match = _READY.search(self.stdout_text())
        assert match
        self._peer = Peer(match[2], int(match[3]), match[1])
        return self

    def stdout_text(self) -> str:
        return self._stdout.read_text(encoding="utf-8")

    def settled(self) -> Path:
        """Return the storage folder when what was acknowledged has its place in it, see `harness.settling`."""
        return settled(self.storage)

    def stop(self) -> None:
        """End it with SIGTERM: it must exit with 0 and leave no process behind."""
        super().stop()
        if self._background is not None:
            wait_until(self._background.group_is_gone, "the processes that serve started to be gone", seconds=5)

    def cli(self, *arguments: Argument, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run another command of `angiovault` on the same configuration, storage and index.

        With `check` an exit code other than 0 fails the test and shows what the command said.
        """
        done = subprocess.run(
            [*_COMMAND, *arguments, *self._place],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **self.env},
            timeout=timeout,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{arguments} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done
