"""The book of contacts: what it keeps, how much, and what it does while the database is away."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from angiovault.archive import contacts, notebook
from angiovault.archive.archive import Archive
from angiovault.archive.contacts import Asked, Book, Ended
from angiovault.archive.index import IndexUnavailable
from angiovault.indexurl import IndexURL
from harness.waiting import wait_until


@pytest.fixture
def archive(tmp_path: Path, index_url: str) -> Iterator[Archive]:
    archive = Archive(tmp_path / "archive", IndexURL.parse(index_url, tmp_path))
    archive.open()
    yield archive
    archive.close()


def ended(calling: str = "ZEEGO", device: str = "zeego", time: str = "2026-11-22T08:00:00Z", **asked: int) -> Ended:
    what = {operation: Asked(time, status) for operation, status in asked.items()}
    return Ended(calling, "192.0.2.1", "VAULT", device, "released", {"stored": 2}, what)


def test_each_operation_has_its_first_and_last_time(archive: Archive) -> None:
    book = Book(archive)
    book.note(ended(time="2026-11-20T08:00:00Z", echo=0, store=0))
    book.flush()
    book.note(ended(time="2026-11-22T08:00:00Z", store=0xA700))
    book.flush()
    found = {item["operation"]: item for item in contacts.listed(archive.index)}
    assert (found["echo"]["first"], found["echo"]["last"]) == ("2026-11-20T08:00:00Z",) * 2
    assert (found["store"]["first"], found["store"]["last"]) == ("2026-11-20T08:00:00Z", "2026-11-22T08:00:00Z")
    assert (found["store"]["status"], found["store"]["times"]) == (0xA700, 2)
    assert len(contacts.last_associations(archive.index, 9)) == 2


def test_a_rejected_device_was_in_contact_too(archive: Archive) -> None:
    book = Book(archive)
    book.note(Ended("ZEEGO", "192.0.2.1", "OTHER", "zeego", contacts.REJECTED))
    book.flush()
    (item,) = contacts.listed(archive.index)
    assert (item["operation"], item["status"]) == ("rejected", contacts.NO_ANSWER)


def test_it_is_written_by_itself_and_then_no_more(archive: Archive) -> None:
    book = Book(archive)
    book.note(ended(echo=0))
    wait_until(lambda: contacts.listed(archive.index), "the note to be written")
    assert book._timer is None
    assert not book._unwritten


def test_only_the_last_ones_are_kept(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who calls by many titles pushes out no configured device."""
    monkeypatch.setattr(contacts, "MOST", 5)
    monkeypatch.setattr(contacts, "MOST_ASSOCIATIONS", 4)
    book = Book(archive)
    book.note(ended(time="2026-11-01T08:00:00Z", echo=0))
    for number in range(20):
        book.note(ended(f"GUESS{number:02}", "", f"2026-11-22T08:00:{number:02}Z", echo=0))
        book.flush()
    assert [item["calling"] for item in contacts.listed(archive.index)] == [
        *("GUESS19", "GUESS18", "GUESS17", "GUESS16"),
        "ZEEGO",
    ]
    assert [item["calling"] for item in contacts.last_associations(archive.index, 9)] == [
        *("GUESS19", "GUESS18", "GUESS17", "GUESS16"),
    ]


def test_notes_wait_for_a_database_that_is_away(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_MOST_UNWRITTEN", 3)
    book = Book(archive)

    def away() -> None:
        raise IndexUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(archive, "open_index", away)
        for number in range(5):
            book.note(ended(f"A{number}", echo=0))
            book.flush()
    book.note(ended("B", echo=0))
    book.flush()
    assert sorted(item["calling"] for item in contacts.listed(archive.index)) == ["A3", "A4", "B"]


def test_a_rebuilt_index_keeps_them(archive: Archive) -> None:
    book = Book(archive)
    book.note(ended(echo=0))
    book.flush()
    archive.index.clear()
    assert len(contacts.listed(archive.index)) == len(contacts.last_associations(archive.index, 9)) == 1
