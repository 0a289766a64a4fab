"""Deleting while other things happen: SIGKILL at every step, and devices that send the same study."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from angiovault.archive import removing, verifying
from angiovault.archive.archive import Archive
from angiovault.archive.exchange import importing
from angiovault.archive.trash import NoSuchStudy, Trash
from angiovault.indexurl import IndexURL
from faults import instances
from harness.dcmtk import storescu
from harness.mariadb import MariaDB
from harness.service import Service

_SENDERS = 3
_PROGRAM = Path(__file__).with_name("trash_crashes.py")


@pytest.mark.parametrize("operation", ["delete", "restore", "empty"])
def test_killed_before_every_step(operation: str, index_url: str, tmp_path: Path) -> None:
    study = generate_uid()
    for number in range(3):
        series = f"{study[:60]}.{number // 2}"
        instances.make(tmp_path / "sent", study=study, series=series, number=number, name="Zhang^San", patient_id="Z")
    instances.make(tmp_path / "sent", StudyDate="20230101")
    command = [sys.executable, _PROGRAM, operation, tmp_path / "archive", index_url, tmp_path / "sent", study]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15, "the steps are not counted"


def test_a_study_that_is_being_received_is_deleted_again_and_again(
    service: Callable[..., Service], index_url: str, tmp_path: Path
) -> None:
    """What was acknowledged is in the archive or in the trash, and comes back from there; no row is without a file."""
    server = service(index=index_url, unknown_devices="all")
    study = generate_uid()
    batches = [
        [instances.make(tmp_path / f"sent{sender}", study=study, number=number, seed=number) for number in range(300)]
        for sender in range(_SENDERS)
    ]
    sent = instances.digests(path for batch in batches for path in batch)
    archive = Archive(server.storage, IndexURL.parse(index_url, tmp_path))
    archive.open(create=False)
    trash = Trash(archive)
    with ThreadPoolExecutor(_SENDERS) as pool:
        senders = [pool.submit(storescu, server.peer, batch, "-xe") for batch in batches]
        while not all(sender.done() for sender in senders):
            with contextlib.suppress(NoSuchStudy):
                trash.delete(study, "test")
    assert {uid for sender in senders for uid in instances.acknowledged(sender.result())} == set(sent)
    items = trash.items()
    assert len(items) > 2, "nothing was deleted while it was received"
    assert not list(verifying.missing_files(archive.store, archive.ready_index()))
    assert sum(item.files for item in items) + len(instances.found(server.peer, [study])) == len(sent)
    assert not (server.storage / "2024").exists() or instances.found(server.peer, [study])
    for item in items:
        trash.restore(item.id)
    archive.close()
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")
    before = server.cli("status", "--json").stdout
    assert server.cli("verify").stdout.endswith(f"{len(sent)} files are sound, 0 damaged, 0 missing\n")
    server.cli("reindex")
    assert json.loads(server.cli("status", "--json").stdout)["counts"] == json.loads(before)["counts"]


def test_what_is_sent_again_while_a_deletion_was_cut_off_stays(
    service: Callable[..., Service], tmp_path: Path
) -> None:
    """The rows are gone, the files are still in their places: the device is told "stored" about one of them."""
    server = service(unknown_devices="all")
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number) for number in range(4)]
    sent = instances.digests(paths)
    storescu(server.peer, paths, "-xe").ok()
    script = (
        "import os, signal, sys\n"
        "from angiovault.archive import removing\n"
        "remove = removing.remove_study\n"
        "def then_die(index, uid):\n"
        "    remove(index, uid)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "removing.remove_study = then_die\n"
        "from angiovault import cli\n"
        "cli.main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "delete", study, "--yes", "--storage", server.storage]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert instances.found(server.peer, [study]) == set()
    assert storescu(server.peer, paths[:1], "-xe").statuses == [0]
    assert server.cli("trash", "list").stdout == "0 studies, 0.00 GB\n"
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


@pytest.mark.mariadb
def test_a_deletion_outlives_a_crash_of_a_database_that_does_not_sync(tmp_path: Path, servers: ExitStack) -> None:
    class Lazy(MariaDB):
        OPTIONS = ("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-log-at-timeout=60")

    server = Lazy()
    servers.callback(server.remove)
    archive = Archive(tmp_path / "archive", IndexURL.parse(server.start().database(), tmp_path))
    archive.open()
    studies = [generate_uid() for _ in range(2)]
    for study in studies:
        instances.make(tmp_path / "sent", study=study)
    assert [item.outcome for item in importing.import_paths(archive, [tmp_path / "sent"])] == ["stored", "stored"]
    archive.ready_index().sync()
    Trash(archive).delete(studies[0], "test")
    server.kill()
    server.start()
    archive.open_index()
    assert removing.study(archive.ready_index(), studies[0]) is None
    assert removing.study(archive.ready_index(), studies[1]) is not None
    assert archive.journals.aside.entries() == []
