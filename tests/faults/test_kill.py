"""SIGKILL at random moments: what was acknowledged is found afterwards and equal, and nothing is there by halves."""

import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from faults import instances
from harness.dcmtk import findscu, storescu
from harness.service import Service
from harness.waiting import wait_until

_SENDERS = 3


def size_of(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize(
    ("engine", "rounds"),
    [pytest.param("sqlite", 20, marks=pytest.mark.slow), pytest.param("mariadb", 6, marks=pytest.mark.mariadb)],
)
def test_sigkill_at_random_moments(
    engine: str, rounds: int, tmp_path: Path, request: pytest.FixtureRequest, service: Callable[..., Service]
) -> None:
    chance = random.Random(rounds)
    index = request.getfixturevalue("mariadb").database() if engine == "mariadb" else None
    server = service(index=index, unknown_devices="all")
    sent: dict[str, str] = {}
    acked: set[str] = set()
    studies: list[str] = []
    cut_off = 0
    for turn in range(rounds):
        batches = []
        for sender in range(_SENDERS):
            studies.append(generate_uid())
            big = chance.random() < 0.5  # a few large instances, or many small ones
            folder = tmp_path / "sent" / f"{turn}-{sender}"
            sizes = [4_000_000] * 4 if big else [2_000] * 60
            batches.append([instances.make(folder, study=studies[-1], size=size, seed=turn) for size in sizes])
        sent |= instances.digests(path for batch in batches for path in batch)
        with ThreadPoolExecutor(_SENDERS) as pool:
            senders = [pool.submit(storescu, server.peer, batch, "-xe") for batch in batches]
            # The moment of the kill is what is random here; how far a machine has come by a time is not to be known.
            moment = instances.bytes_in(server.storage) + chance.uniform(0, 0.9) * sum(map(size_of, batches))
            wait_until(
                lambda moment=moment, senders=senders: instances.bytes_in(server.storage) >= moment
                or all(one.done() for one in senders),
                "the moment of the kill",
            )
            server.kill()
        now = {uid for one in senders for uid in instances.acknowledged(one.result())}
        acked |= now
        cut_off += len(now) < sum(map(len, batches))
        server.start()
        assert not list((server.storage / ".angiovault" / "incoming").iterdir())
        instances.assert_kept(server.peer, studies[-_SENDERS:], now, sent, tmp_path / f"back{turn}")
    assert acked
    assert cut_off > rounds / 3
    assert acked <= instances.found(server.peer, studies)
    assert server.cli("verify").stdout.endswith("0 damaged, 0 missing\n")


def test_what_was_cut_off_can_be_sent_again(service: Callable[..., Service], tmp_path: Path) -> None:
    """A file that reached its place but not the index is taken for the one that is sent again."""
    server = service(unknown_devices="all")
    path = instances.make(tmp_path / "sent")
    sent = instances.digests([path])
    storescu(server.peer, [path], "-xe").ok()
    server.settled()
    server.kill()
    with closing(sqlite3.connect(server.folder / "archive.index.sqlite3")) as index:
        for table in ("instance", "series", "study"):  # as if the kill had come before the commit
            index.execute(f"DELETE FROM {table}")
        index.commit()
    before = instances.tree(server.storage)
    server.start()
    assert storescu(server.peer, [path], "-xe").statuses == [0]
    study = str(pydicom.dcmread(path).StudyInstanceUID)
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")
    assert instances.tree(server.storage) == before


def test_a_reindex_that_was_killed_is_not_taken_for_complete(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(30)]
    sent = instances.digests(paths)
    storescu(server.peer, paths, "-xe").ok()
    index = server.folder / "archive.index.sqlite3"
    # The command is stopped for good as soon as it has emptied the index.
    script = (
        "import os, signal, sys\n"
        "from angiovault.archive.index import Index\n"
        "clear = Index.clear\n"
        "def then_die(self):\n"
        "    clear(self)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Index.clear = then_die\n"
        "from angiovault import cli\n"
        "cli.main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "reindex", "--storage", server.storage, "--index", f"sqlite:///{index}"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL

    # The service that runs meanwhile notices with the next query, says so, and makes the index anew by itself.
    keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"]
    assert findscu(server.peer, keys).final.status == 0xA700
    assert "the index is being rebuilt" in server.log_text()
    wait_until(lambda: server.cli("status", check=False).returncode == 0, "the index to be complete")
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")
