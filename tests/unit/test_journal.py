"""Lists of instances that the index may not have: no acknowledged line is ever lost."""

import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from angiovault.archive import journal as journal_module
from angiovault.archive.journal import Journal, Journals
from angiovault.archive.store import StorageError

ONE, TWO, THREE = (PurePosixPath(f"2024/study/{name}.dcm") for name in ("一", "two", "three"))


def test_entries_come_back_in_order_and_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal.entries() == []
    assert not journal.waiting()
    for place in (ONE, TWO, ONE):
        journal.append(place)
    assert journal.waiting()
    assert Journal(tmp_path / "journal").entries() == [ONE, TWO]
    journal.remove({ONE})
    assert journal.entries() == [TWO]
    journal.remove({TWO})
    assert not journal.waiting()
    journal.remove({TWO})


@pytest.mark.parametrize("torn", [b"2024/stu", b"\xff\xfe\0", b"\n\n", "2024/一".encode()[:-1]])
def test_a_torn_line_spoils_no_other(tmp_path: Path, torn: bytes) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append(ONE)
    with journal.path.open("ab") as file:
        file.write(torn)
    journal.append(TWO)
    entries = journal.entries()
    assert [place for place in entries if place in (ONE, TWO)] == [ONE, TWO]
    journal.remove(set(entries))
    assert not journal.waiting()


def test_several_processes_write_and_remove_at_once(tmp_path: Path) -> None:
    """What one process appends while another one rewrites the list is not lost."""
    script = (
        "import sys\n"
        "from pathlib import Path, PurePosixPath\n"
        "from angiovault.archive.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for number in range(150):\n"
        "    journal.append(PurePosixPath(f'{sys.argv[2]}-{number}'))\n"
    )
    journal = Journal(tmp_path / "journal")
    writers = [subprocess.Popen([sys.executable, "-c", script, journal.path, name]) for name in "ab"]
    taken: list[PurePosixPath] = []
    while any(writer.poll() is None for writer in writers) or journal.waiting():
        some = journal.entries()[:7]
        journal.remove(set(some))
        taken += some
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted(map(str, taken)) == sorted(f"{name}-{number}" for name in "ab" for number in range(150))


def test_a_journal_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "missing" / "journal")
    with pytest.raises(StorageError, match="cannot write the journal: No such file"):
        journal.append(ONE)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot read the journal"):
        Journal(tmp_path / "folder").entries()


def test_what_was_put_aside_waits_once_more(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.waiting.append(ONE)
    journals.aside.append(TWO)
    journals.aside.append(THREE)
    journals.recall_aside()
    assert journals.waiting.entries() == [ONE, TWO, THREE]
    assert not journals.aside.waiting()


def test_recent_instances_are_remembered_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, began = [1000.0], time.time()
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(journal_module.time, "time", lambda: began + clock[0] - 1000)
    journals = Journals(tmp_path)
    journals.note_recent(ONE)
    clock[0] += 700
    journals.note_recent(TWO)
    journals.recall_recent()
    assert journals.waiting.entries() == [ONE, TWO]
    journals.waiting.remove({ONE, TWO})
    journals.recall_recent()
    assert not journals.waiting.waiting()
    journals.note_recent(ONE)
    clock[0] += 700
    journals.note_recent(TWO)
    clock[0] += 700
    journals.note_recent(THREE)  # now the first one was committed long ago
    Journals(tmp_path).recall_recent()
    assert journals.waiting.entries() == [TWO, THREE]


def test_processes_that_turn_the_recent_over_at_once_forget_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: clock[0])
    processes = [Journals(tmp_path) for _ in range(2)]
    processes[0].note_recent(ONE)
    clock[0] += 700
    processes[0].note_recent(TWO)
    processes[1].note_recent(THREE)
    Journals(tmp_path).recall_recent()
    assert processes[0].waiting.entries() == [ONE, TWO, THREE]
