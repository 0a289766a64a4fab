"""A program: deletes, restores or empties a study again and again, and is killed before each step in turn.

After each kill the storage must hold every file, in the archive or in the trash, and the next run must bring it into
order: all of the study there, or all of it in the trash. What is wrong ends the program with a traceback.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from angiovault.archive import reindexing, verifying
from angiovault.archive.archive import Archive
from angiovault.archive.exchange import importing
from angiovault.archive.finding.selection import Selection, instances
from angiovault.archive.models import ALL, Folder, Instance, Patient, PatientName, Series, Study, StudyPerson
from angiovault.archive.trash import Trash
from angiovault.indexurl import IndexURL

STEPS = ("rename", "fsync", "unlink", "rmdir", "mkdir")


def opened(storage: Path, index: str) -> Archive:
    archive = Archive(storage, IndexURL.parse(index, storage))
    archive.open()
    return archive


def in_child(work: Callable[[], None]) -> int:
    """Do something in a process of its own; return its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it was, the parent hears of it by the exit code
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_before_step(number: int) -> None:
    """Kill this process before it takes its step of this number, counted from now."""
    left = [number]

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*values: object, **more: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*values, **more)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    for database in {model._meta.database for model in ALL}:
        database.commit = counted(database.commit)
        database.execute_sql = counted(database.execute_sql)
    shutil._use_fd_functions = False  # rmtree by the functions that are counted


def files_below(folder: Path) -> set[tuple[str, bytes]]:
    return {(path.name, path.read_bytes()) for path in folder.rglob("*.dcm")} if folder.exists() else set()


def check_everything(storage: Path, index: str, study: str, all_files: set[tuple[str, bytes]], emptied: bool) -> None:
    """Find the archive after a crash, and bring it into order."""
    held = {(path.name, path.read_bytes()) for path in storage.rglob("*.dcm")}
    assert emptied or held == all_files, "a file is gone"
    archive = opened(storage, index)
    trash = Trash(archive)
    trash.finish_interrupted()
    assert not [entry for entry in (storage / ".angiovault/incoming").iterdir()]
    for rebuilt in (False, True):
        if rebuilt:
            assert not [item.problem for item in reindexing.reindex(archive) if item.problem]
        known = archive.ready_index()
        there = instances(known, Selection(study_uids=[study]))
        items = trash.items()
        assert len(items) <= emptied or len(items) == (not there), (items, there)
        of_study = {(item.path.name, (storage / item.path).read_bytes()) for item in there}
        kept = {entry for entry in files_below(storage / ".angiovault/trash")}
        others = {entry for entry in files_below(storage) if entry not in of_study | kept}
        assert not (of_study and kept)
        assert emptied or of_study | kept | others == all_files
        assert len(others) == 1, "the other study"
        assert not list(verifying.missing_files(archive.store, known))
        with known.session():
            rows = [model.select().count() for model in (Study, Series, Instance, Patient, StudyPerson, Folder)]
            assert rows == ([2, 3, 4, 2, 2, 3] if there else [1, 1, 1, 1, 1, 1]), rows
            assert PatientName.select().count() == (2 if there else 1)
        assert archive.journals.aside.entries() == []
    top = sorted(entry.name for entry in storage.iterdir() if entry.name[0] != ".")
    assert top == (["2023", "2024"] if there else ["2023"]), "empty folders stay"
    archive.close()


def as_before(storage: Path, index: str, sent: Path, study: str, in_trash: bool) -> None:
    """Bring the study back into the archive, or into the trash, for the next round."""
    archive = opened(storage, index)
    trash = Trash(archive)
    for item in trash.items():
        trash.restore(item.id)
    assert all(item.outcome != "failed" for item in importing.import_paths(archive, [sent]))
    if in_trash:
        trash.delete(study, "test", files=3)
    archive.close()


def main(operation: str, storage: Path, index: str, sent: Path, study: str) -> None:
    in_trash = operation != "delete"

    def act(step: int) -> None:
        archive = opened(storage, index)
        archive.ready_index()
        trash = Trash(archive)
        number = trash.items()[0].id if in_trash else study
        kill_before_step(step)
        if operation == "delete":
            trash.delete(number, "test")
        else:
            getattr(trash, operation)(number)

    emptied = operation == "empty"
    for step in range(1, 1000):
        assert in_child(lambda: as_before(storage, index, sent, study, in_trash)) == 0
        all_files = {(path.name, path.read_bytes()) for path in storage.rglob("*.dcm")}
        code = in_child(lambda step=step: act(step))  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL), f"step {step}: {code}"
        done = in_child(lambda files=all_files: check_everything(storage, index, study, files, emptied))  # type: ignore[misc]
        assert done == 0, f"{operation}, killed before step {step}"
        if code == 0:
            sys.stdout.write(f"{step - 1}\n")
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5])
