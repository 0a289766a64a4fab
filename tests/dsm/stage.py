"""A stage that looks like DSM from inside: its own root folder in memory, its own processes, network and mounts.

All of it lives in namespaces and is gone when their first process ends, which it does when this process closes the pipe
to it, or dies. `stage.sh` makes the root folder; the files that differ between generations are written here.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dsm.generations import Generation
from harness.processes import program
from harness.waiting import wait_until

_HERE = Path(__file__).parent
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_CLONE_NEWNET = 0x40000000

WEB = "/usr/syno/synoman/webman"
"""Where DSM's web server finds its files."""

_PASSWD = """root:x:0:0::/root:/bin/sh
system:x:1:1::/usr/syno/synoman:/usr/bin/nologin
http:x:1023:1023::/var/services/web:/sbin/nologin
admin:x:1024:100:System default user:/var/services/homes/admin:/bin/sh
visitor:x:1026:100::/var/services/homes/visitor:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
_GROUP = """root:x:0:
system:x:1:http
users:x:100:
administrators:x:101:admin
http:x:1023:
nobody:x:65534:
"""
_PACKAGE_ID = 186011


@dataclass(frozen=True)
class Process:
    """A process of the stage, by the numbers it has there."""

    pid: int
    parent: int
    group: int
    user: str
    command: str


class Stage:
    """One NAS.

    Parameters
    ----------
    generation
        The version of DSM to begin with.
    database
        The folder that is /run/mysqld there, in which a server may keep its socket.
    stand_ins
        A folder for /.stage: what stands in for DSM's programs, in `bin` and `lib` what belongs to the stage itself.
    language
        DSM's language, `enu` or `chs`.
    """

    def __init__(self, generation: Generation, database: Path, stand_ins: Path, *, language: str = "enu") -> None:
        self.generation = generation
        self.language = language
        self.old_kernel = False
        self._process = subprocess.Popen(
            [
                *(program("unshare"), "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
                *("--propagation", "private", "bash", str(_HERE / "stage.sh"), str(database), str(stand_ins)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        ready, _, pid = self._process.stdout.readline().partition(" ")
        if ready != "ready":
            self._process.kill()
            self._process.wait()
            raise AssertionError("the stage could not be made; stage.sh says why")
        self.pid = int(pid)
        with self.network(), socket.socket() as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        self._lay_out()

    def _lay_out(self) -> None:
        for name, text in {"passwd": _PASSWD, "group": _GROUP, "hosts": "127.0.0.1 localhost\n::1 localhost\n"}.items():
            self.write(f"/etc/{name}", text)
        self.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
        self.write("/etc/synoinfo.conf", f'language="{self.language}"\nmaillang="enu"\nunique="synology_stage"\n')
        self.be_generation(self.generation)
        self.install("synogetkeyvalue", "/usr/syno/bin/synogetkeyvalue", 0o755)
        self.install("synogetkeyvalue", "/bin/get_key_value", 0o755)
        self.install("synodsmnotify", "/usr/syno/bin/synodsmnotify", 0o755)
        self.install("synoshare", "/usr/syno/sbin/synoshare", 0o700)
        authenticate = f"{WEB}/modules/authenticate.cgi"
        self.install("authenticate.cgi", authenticate, 0o755 if self.generation.at_least_7 else 0o750)
        self.chown(authenticate, "root", group="system")
        self.write("/.stage/notifications", "", mode=0o666)
        for folder in ("/.stage/shares", f"{WEB}/3rdparty", "/usr/syno/etc/packages", "/var/packages"):
            self.host(folder).mkdir(parents=True, exist_ok=True)
        for folder in ("services.d", "logrotate.d"):
            self.host(f"/usr/local/etc/{folder}").mkdir(parents=True)
        self.write("/var/packages/MariaDB10/INFO", 'package="MariaDB10"\nversion="10.11.11-1551"\n')
        self.write("/var/packages/MariaDB10/enabled", "")

    def be_generation(self, generation: Generation) -> None:
        """Be this version of DSM from now on, as after an update of the system."""
        self.generation = generation
        version = (
            f'majorversion="{generation.major}"\nminorversion="{generation.minor}"\nproductversion="{generation.major}.'
            f'{generation.minor}"\nbuildphase="GM"\nbuildnumber="{generation.build}"\nsmallfixnumber="0"\n'
        )
        self.write("/etc.defaults/VERSION", version)
        self.write("/etc/VERSION", version)

    # --- Files -------------------------------------------------------------------------------------------------------

    def host(self, path: str | Path, *, follow: bool = True) -> Path:
        """Return where this machine sees a path of the stage, links followed as they are meant there.

        With `follow=False` a link at the very end is not followed.
        """
        root = f"/proc/{self.pid}/root"
        done: list[str] = []
        todo = [part for part in str(path).split("/") if part]
        for _ in range(200):
            if not todo:
                return Path(root, *done)
            part = todo.pop(0)
            if part == "..":
                del done[-1:]
                continue
            here = Path(root, *done, part)
            if here.is_symlink() and (follow or todo):
                target = str(here.readlink())
                if target.startswith("/"):
                    done = []
                todo = [name for name in target.split("/") if name and name != "."] + todo
            else:
                done.append(part)
        raise AssertionError(f"{path}: links in a circle")

    def exists(self, path: str | Path) -> bool:
        return self.host(path).exists()

    def read(self, path: str | Path) -> str:
        return self.host(path).read_text(encoding="utf-8", errors="replace")

    def write(self, path: str | Path, text: str, *, mode: int = 0o644) -> None:
        """Write a file as root, the folders above it included."""
        file = self.host(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def install(self, name: str, path: str, mode: int) -> None:
        """Put one of the stand-ins where DSM has the program."""
        self.write(path, self.read(f"/.stage/{name}"), mode=mode)

    def link(self, path: str, target: str) -> None:
        """Make a link, in place of one that may be there."""
        place = self.host(path, follow=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        place.symlink_to(target)

    def mount(self, path: str) -> None:
        """Mount an empty volume in memory on a folder."""
        self.run(["/.stage/bin/mount", "-t", "tmpfs", "-o", "mode=755", "volume", path])

    def unmount(self, path: str, *, lazily: bool = False) -> None:
        self.run(["/.stage/bin/umount", *(["-l"] if lazily else []), path])

    def bind(self, source: str, path: str) -> None:
        """Let a folder appear at another place as well."""
        self.run(["/.stage/bin/mount", "--bind", source, path])

    def copy(self, path: str, to: "Stage", place: str) -> None:
        """Copy what is in a folder to another stage, with owners and modes, as a backup would bring it there."""
        subprocess.run(["cp", "-a", f"{self.host(path)}/.", to.host(place)], check=True)

    # --- Users -------------------------------------------------------------------------------------------------------

    def add_user(self, name: str, group: str, more_groups: Iterable[str] = ()) -> None:
        """Add a package's user and group, as DSM does when the package is installed; there already: leave them."""
        if f"\n{name}:" in self.read("/etc/passwd"):
            return
        entry = f"{name}:x:{_PACKAGE_ID}:{_PACKAGE_ID}::/var/packages/{name}/home:/sbin/nologin\n"
        self.write("/etc/passwd", self.read("/etc/passwd") + entry)
        lines = (self.read("/etc/group") + f"{group}:x:{_PACKAGE_ID}:\n").splitlines()
        for number, line in enumerate(lines):
            if line.split(":")[0] in more_groups:
                lines[number] += f"{'' if line.endswith(':') else ','}{name}"
        self.write("/etc/group", "\n".join(lines) + "\n")

    def remove_user(self, name: str, group: str) -> None:
        for file, entry in (("/etc/passwd", name), ("/etc/group", group)):
            lines = [line for line in self.read(file).splitlines() if line.split(":")[0] != entry]
            self.write(file, "\n".join(lines) + "\n")

    def chown(self, path: str, user: str, *, group: str | None = None, recursive: bool = False) -> None:
        self.run(["chown", "-hR" if recursive else "-h", f"{user}:{group or user}", path])

    # --- Programs ----------------------------------------------------------------------------------------------------

    def run(
        self,
        command: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the stage and return what it said; with `check` it must exit with 0.

        The environment holds PATH and what `env` gives, nothing else.
        """
        done = subprocess.run(
            [*self._enter(user), *command],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            env={"PATH": self.generation.path, **(env or {})},
            timeout=timeout,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def _enter(self, user: str) -> list[str]:
        target = [f"--target={self.pid}", "--mount", "--net", "--pid", "--ipc", "--uts"]
        become = ["/.stage/bin/setpriv", f"--reuid={user}", f"--regid={self._group(user)}", "--init-groups", "--"]
        return [program("nsenter"), *target, "--", *(["/.stage/bin/old_kernel"] if self.old_kernel else []), *become]

    def _group(self, user: str) -> str:
        entry = next(line.split(":") for line in self.read("/etc/passwd").splitlines() if line.split(":")[0] == user)
        return entry[3]

    @contextmanager
    def network(self) -> Iterator[None]:
        """Let this thread, and the programs it starts, use the stage's network meanwhile."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open() as ours, Path(f"/proc/{self.pid}/ns/net").open() as theirs:
            for_good = libc.setns(theirs.fileno(), _CLONE_NEWNET)
            assert for_good == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                back = libc.setns(ours.fileno(), _CLONE_NEWNET)
                assert back == 0, os.strerror(ctypes.get_errno())

    # --- Processes ---------------------------------------------------------------------------------------------------

    def processes(self, user: str | None = None) -> list[Process]:
        """List the processes of the stage, or those of one user; zombies and the listing itself left out."""
        listing = self.run(["ps", "-e", "-ww", "-o", "pid=,ppid=,pgid=,stat=,user:32=,args="]).stdout
        found = []
        for line in listing.splitlines():
            pid, parent, group, state, owner, command = [*line.split(None, 5), ""][:6]
            if pid != "1" and not state.startswith("Z") and not command.startswith("ps -e -ww"):
                found.append(Process(int(pid), int(parent), int(group), owner, command))
        return [process for process in found if user in (None, process.user)]

    def signal(self, pid: int, name: str) -> None:
        self.run(["sh", "-c", f"kill -s {name} {pid}"])

    def kill_all(self) -> None:
        """End every process at once, as the end of power does; after it the machine has another boot id."""
        old_kernel, self.old_kernel = self.old_kernel, False
        self.run(["sh", "-c", "kill -s KILL -1"], check=False)
        wait_until(lambda: not self.processes(), "all processes of the stage to be gone")
        self.old_kernel = old_kernel
        self.write("/.stage/boot_id", f"{uuid.uuid4()}\n", mode=0o444)

    def notifications(self) -> list[list[str]]:
        """Return the calls of synodsmnotify: user number and arguments of each."""
        return [call.splitlines() for call in self.read("/.stage/notifications").split("\n\n") if call]

    # --- The end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the stage: its first process, and with it all others, its mounts and all files."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
