"""A yes is a yes: what was acknowledged survives a power cut (promise: on disk, and findable after a restart)."""

import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from faults import instances
from faults.power_cut import PowerCut
from harness.dcmtk import storescu
from harness.processes import program
from harness.service import Service
from harness.waiting import wait_until

_CALLS = "openat,close,mkdir,link,linkat,unlink,unlinkat,rename,fsync,fdatasync,pwrite64,write,writev,sendto"


@dataclass(frozen=True)
class _Call:
    """A system call: its text, and the lines of the trace where it begins and ends."""

    text: str
    begin: int
    end: int


def _calls(trace: str) -> list[_Call]:
    """Return the system calls of all threads that went well, in the order of their ends."""
    begun: dict[str, tuple[str, int]] = {}
    found = []
    for number, line in enumerate(trace.splitlines()):
        thread, text = line.split(maxsplit=1)
        begin = number
        if text.endswith("<unfinished ...>"):
            begun[thread] = (text.removesuffix(" <unfinished ...>"), number)
            continue
        if (resumed := re.match(r"<\.\.\. \w+ resumed>", text)) and thread in begun:
            start, begin = begun.pop(thread)
            text = start + text[resumed.end() :]
        if re.search(r"= \d", text):
            found.append(_Call(text, begin, number))
    return found


def _calls_of_store(trace: str) -> list[_Call]:
    """Return the system calls from the acceptance of the last association to the end."""
    calls = _calls(trace)
    accepted = [at for at, call in enumerate(calls) if call.text.startswith("sendto(") and '"\\2\\0' in call.text]
    return calls[accepted[-1] + 1 :]


def _check_order(calls: list[_Call], storage: Path, index: Path) -> set[str]:
    """Check the way of one instance; return the folders that were synced for it before its response left."""

    def first(pattern: str, after: int = -1) -> _Call:
        """Return the first call that begins after a line of the trace."""
        return next(call for call in calls if call.begin > after and re.match(pattern, call.text))

    def synced(path: Path | str, after: int = -1) -> _Call:
        return first(rf"f(data)?sync\(\d+<{re.escape(str(path))}>\)\s+= 0", after)

    response = first("sendto")
    linked = first(r"link(at)?\(")
    match = re.match(r'link(?:at)?\((?:AT_FDCWD[^,]*, )?"([^"]+)", (?:AT_FDCWD[^,]*, )?"([^"]+)"', linked.text)
    assert match
    temporary, place = match[1], Path(match[2])

    # The name: durable before the first byte comes. The file: synced before the response, never written to again.
    made = first(rf'openat\(.*"{re.escape(temporary)}", .*O_CREAT')
    named = synced(Path(temporary).parent, made.end)
    writes = [call for call in calls if re.match(r"p?write(64|v)?\(", call.text) and temporary in call.text]
    assert named.end < min(call.begin for call in writes)
    whole = synced(temporary, max(call.end for call in writes))
    assert whole.end < response.begin
    # What follows the sync is not the sender's to wait for.
    assert response.begin < first(rf"close\(\d+<{re.escape(temporary)}>\)", whole.end).begin
    folders = {
        match[1]
        for call in calls
        if call.end < response.begin and (match := re.match(r"fsync\(\d+<([^>]+)>\)\s+= 0", call.text))
    }
    parents = [match[1] for call in calls if (match := re.match(r'mkdir\("([^"]+)", \w+\) = 0', call.text))]
    assert {str(Path(folder).parent) for folder in parents} <= folders
    assert {str(folder.parent) for folder in place.parents if storage in folder.parents} <= folders

    # The place: linked when the file is whole, and durable before the index hears of it.
    assert whole.end < linked.begin
    in_place = synced(place.parent, linked.end)

    # The index: its log is synced before the file loses its name in the incoming folder.
    removed = first(rf'unlink(at)?\(.*"{re.escape(temporary)}"')
    log = re.escape(f"{index}-wal")
    rows = [call for call in calls if re.match(rf"p?write(64)?\(\d+<{log}>", call.text)]
    rows = [call for call in rows if in_place.end < call.begin < removed.begin]
    assert rows
    assert synced(f"{index}-wal", max(call.end for call in rows)).end < removed.begin
    return folders


def test_the_response_leaves_when_file_folders_and_index_are_synced(
    service: Callable[..., Service], tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    strace = [program("strace"), "-f", "-D", "-yy", "-s", "64", "-o", trace, "-e", f"trace={_CALLS}"]
    index = tmp_path / "index.sqlite"
    study = generate_uid()
    first, second = (instances.make(tmp_path / "sent", study=study, number=number) for number in (1, 2))
    server = service(index=f"sqlite:///{index}", prefix=strace)
    assert storescu(server.peer, [first], "-xe").statuses == [0]
    server.stop()
    text = trace.read_text()
    calls = _calls_of_store(text)
    assert len([call for call in calls if call.text.startswith("mkdir(")]) == 4
    _check_order(calls, server.storage, index)

    # The making of archive and index was durable before: the root in its parent, marker, folders, the index file.
    opening = text[: text.index("sendto(")]
    for folder in (tmp_path, server.storage, server.storage / ".angiovault"):  # the last one holds "incoming"
        assert re.search(rf"fsync\(\d+<{re.escape(str(folder))}>\)\s+= 0", opening)
    assert re.search(rf'rename\("[^"]+", "{re.escape(str(server.storage / ".angiovault/archive.json"))}"\)', opening)

    # After a restart nothing is known to be durable: the folders are there, and are synced once more.
    server.start()
    assert storescu(server.peer, [second], "-xe").statuses == [0]
    server.stop()
    calls = _calls_of_store(trace.read_text())
    assert not [call for call in calls if call.text.startswith("mkdir(")]
    _check_order(calls, server.storage, index)


def test_the_layer_drops_what_was_not_synced(tmp_path: Path) -> None:
    """The proof of the power cut layer itself, on a program that syncs some of what it does and not the rest."""
    script = """
import os, sys
from pathlib import Path
def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
root = Path(sys.argv[1])
for name in ("whole", "half", "content only", "name only"):
    (root / name).write_text("one ")
for name in ("whole", "half", "content only"):
    sync(root / name)
(root / "content only").rename(root / "new name")     # synced under its old name, which no folder has on disk
(root / "folder").mkdir()
(root / "folder" / "lost").write_text("in a folder that was not synced")
sync(root / "folder" / "lost")
sync(root)
with open(root / "half", "a") as file:
    file.write("two")
(root / "unsynced").write_text("x")
(root / "whole").rename(root / "renamed")
(root / "inode used again").write_text("a")
sync(root / "inode used again")
sync(root)
(root / "inode used again").unlink()
sync(root)
(root / "used").write_text("b")
print("done", flush=True)
os.kill(os.getpid(), 9)
"""
    cut = PowerCut(tmp_path / "layer")
    root = tmp_path / "root"
    root.mkdir()
    cut.sync_all(root)
    command = [sys.executable, "-c", script, root]
    done = subprocess.run(command, env={**os.environ, **cut.env}, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
    cut.leave(root, tmp_path / "left")
    left = {str(path.relative_to(tmp_path / "left")): path for path in (tmp_path / "left").rglob("*")}
    contents = {name: path.read_text() for name, path in left.items() if path.is_file()}
    assert left.keys() - contents.keys() == {"folder"}
    # The second sync of the folder made the renaming and the new file durable, but not the content of either.
    assert contents == {"renamed": "one ", "half": "one ", "new name": "one ", "name only": "", "unsynced": ""}
    lucky = tmp_path / "lucky"
    cut.leave(root, lucky, random.Random(1))
    assert (lucky / "half").read_text() in ("one ", "one two")


def _send_until_the_cut(server: Service, paths: list[Path]) -> set[str]:
    return instances.acknowledged(storescu(server.peer, paths, "-xe"))


@pytest.mark.parametrize(("index_lost", "turns"), [(False, 4), (True, 2)], ids=["index on the same disk", "index lost"])
def test_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path, index_lost: bool, turns: int) -> None:
    chance = random.Random(20 + index_lost)
    cut = PowerCut(tmp_path / "layer")
    place = tmp_path / "0"
    place.mkdir()
    sent: dict[str, str] = {}
    acked: set[str] = set()
    studies: list[str] = []
    for turn in range(1, turns + 1):
        cut.sync_all(place)
        server = Service(place, unknown_devices="all", env=cut.env).start()
        batches = []
        for sender in range(3):
            study = generate_uid()
            studies.append(study)
            sizes = [chance.choice((2_000, 2_000, 50_000, 4_000_000)) for _ in range(25)]
            folder = tmp_path / "sent" / f"{turn}-{sender}"
            batches.append([instances.make(folder, study=study, size=size) for size in sizes])
        sent |= instances.digests(path for batch in batches for path in batch)
        with ThreadPoolExecutor(len(batches)) as pool:
            senders = [pool.submit(_send_until_the_cut, server, batch) for batch in batches]
            threading.Event().wait(chance.uniform(0.05, 1.2))  # the moment of the cut is what is random here
            server.kill()
        acked_now = {uid for one in senders for uid in one.result()}
        acked |= acked_now
        place = tmp_path / str(turn)
        cut.leave(tmp_path / str(turn - 1), place, chance if turn % 2 else None)
        if index_lost:
            for path in place.glob("archive.index.sqlite3*"):
                path.unlink()
        with Service(place, unknown_devices="all") as server:
            wait_until(lambda: _answers(server), "the index to be complete")  # noqa: B023
            instances.assert_kept(server.peer, studies[-3:], acked_now, sent, tmp_path / f"back{turn}")
            if turn == turns:
                instances.assert_kept(server.peer, studies, acked, sent, tmp_path / "back")
            assert not list((server.storage / ".angiovault" / "incoming").iterdir())
            assert server.cli("verify").stdout.endswith("0 damaged, 0 missing\n")
    assert len(acked) > 20


def _answers(server: Service) -> bool:
    return server.cli("status", check=False).returncode == 0
