"""Deleting and restoring as a person does it on the command line, beside a running service and its devices."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from angiovault.archive import commitments
from angiovault.archive.archive import Archive
from angiovault.indexurl import IndexURL
from faults import instances
from harness.dcmtk import storescu
from harness.service import Service


def typed(server: Service, answer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command and answer what it asks."""
    command = [sys.executable, "-m", "angiovault.cli", *arguments, "--storage", str(server.storage)]
    return subprocess.run(command, input=answer, capture_output=True, text=True, timeout=60, check=False)


def test_a_study_is_deleted_by_a_typed_word_and_comes_back(service: Callable[..., Service], tmp_path: Path) -> None:
    server = service(unknown_devices="all")
    study = generate_uid()
    paths = [instances.make(tmp_path / "sent", study=study, number=number, name="张^三") for number in range(3)]
    sent = instances.digests(paths)
    storescu(server.peer, paths, "-xe").ok()
    kept = instances.tree(server.settled())

    refused = typed(server, "yes\n", "delete", study)
    assert (refused.returncode, refused.stderr) == (1, "angiovault: nothing was done\n")
    assert f"{study}: 张^三, ID K-1, 20240312" in refused.stdout
    assert typed(server, "", "delete", study).returncode == 1
    assert typed(server, "delete\n", "delete", generate_uid()).returncode == 1
    assert instances.found(server.peer, [study]) == set(sent)

    done = typed(server, "delete\n", "delete", study)
    assert done.returncode == 0, done.stderr
    assert instances.found(server.peer, [study]) == set()
    listed = server.cli("trash", "list").stdout
    number = listed.split(":")[0]
    assert f"angiovault trash restore {number}" in done.stdout
    assert "3 files" in listed
    assert instances.tree(server.storage) == {}

    # A device that asks now is told that it is not kept.
    archive = Archive(server.storage, IndexURL.parse(f"sqlite:///{server.folder}/archive.index.sqlite3", tmp_path))
    archive.open(create=False)
    judged = commitments.judge(archive, [(SecondaryCaptureImageStorage, uid) for uid in sent])
    assert {reason for _, _, reason in judged} == {0x0112}  # No such object instance (PS3.3 C.14.1.1)
    archive.close()

    server.cli("trash", "restore", number)
    assert instances.tree(server.storage) == kept
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")
    assert server.cli("trash", "restore", number, check=False).returncode == 1

    server.cli("delete", study, "--yes")
    assert typed(server, "delete\n", "trash", "empty").returncode == 1
    emptied = typed(server, "remove\n", "trash", "empty")
    assert emptied.returncode == 0, emptied.stderr
    assert "1 studies removed" in emptied.stdout
    assert not list(server.storage.rglob("*.dcm"))
    storescu(server.peer, paths, "-xe").ok()
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "again")
