"""The instance files: in their place in one step or not at all, and never in the wrong folder."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest

from angiovault.archive import durable, filemeta
from angiovault.archive import incoming as incoming_module
from angiovault.archive.store import NoRoom, NotMounted, StorageError, Store
from harness.memory import pages_in_memory, require_forgetting

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT = "1.2.840.10008.1.2.1"
DIGEST = "ab" * 32
PLACE = PurePosixPath("2024/2024-03/study/series/0001.dcm")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "archive")
    store.open(store.create())
    store.incoming.prepare()
    return store


def _receive(store: Store, data: bytes = b"data set", place: PurePosixPath = PLACE) -> bool:
    incoming = store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    try:
        incoming.write(memoryview(data))
        incoming.write_back()
        incoming.vouch(hashlib.sha256(data).hexdigest())
        incoming.sync()
        store.make_folder(place)
        new = store.link(incoming.path, place)
        store.sync([place])
        return new
    finally:
        incoming.discard()
        store.incoming.drop_spares()


def _incoming(store: Store) -> list[Path]:
    return list((store.private / "incoming").iterdir())


# --- The marker -----------------------------------------------------------------------------------------------------


def test_a_new_archive_is_known_by_its_marker(tmp_path: Path) -> None:
    store = Store(tmp_path / "several" / "new" / "folders")
    with pytest.raises(NotMounted, match="is the volume or shared folder mounted"):
        store.read_marker()
    archive_id = store.create()
    assert store.read_marker() == archive_id
    assert store.create() == archive_id  # it is there already
    assert (store.root.stat().st_mode & 0o007, store.private.stat().st_mode & 0o077) == (0, 0)


def test_a_folder_that_holds_anything_else_is_left_alone(tmp_path: Path) -> None:
    for name in ("@eaDir", "#recycle", ".DS_Store", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(StorageError, match=r"is not empty \(photo.jpg"):
        Store(tmp_path).create()
    assert not (tmp_path / ".angiovault").exists()
    (tmp_path / "photo.jpg").unlink()
    Store(tmp_path).create()


def test_of_many_who_make_an_archive_one_does(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def create(_: int) -> str:
        start.wait()
        return Store(tmp_path / "archive").create()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, range(8)))) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"id"', "\x00", '"text"'])
def test_a_marker_that_cannot_be_read_is_no_new_archive(store: Store, text: str) -> None:
    (store.private / "archive.json").write_text(text)
    with pytest.raises(NotMounted, match="cannot be read"):
        store.read_marker()


def test_nothing_is_taken_in_while_the_storage_is_away_or_another(store: Store, tmp_path: Path) -> None:
    store.root.rename(tmp_path / "away")
    with pytest.raises(NotMounted):
        store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    store.root.mkdir()
    with pytest.raises(NotMounted):
        store.make_folder(PLACE)
    (tmp_path / "file").touch()
    with pytest.raises(NotMounted):
        store.link(tmp_path / "file", PLACE)
    assert list(store.root.iterdir()) == []
    store.create()
    with pytest.raises(NotMounted, match="holds another archive"):
        _receive(store)


# --- Taking in ------------------------------------------------------------------------------------------------------


def test_a_file_is_preamble_meta_and_the_data_set_unchanged(store: Store) -> None:
    assert _receive(store, b"data set")
    with (store.root / PLACE).open("rb") as file:
        meta = filemeta.read(file)
        assert file.read() == b"data set"
        file.seek(0)
        assert file.read(132) == bytes(128) + b"DICM"
    assert meta.digest == hashlib.sha256(b"data set").hexdigest()
    assert (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax) == (SECONDARY_CAPTURE, "1.2.3", EXPLICIT)
    assert meta.calling == "SENDER"
    assert meta.received.endswith("Z")
    assert (store.root / PLACE).stat().st_mode & 0o007 == 0
    assert _incoming(store) == []


def test_the_time_of_receipt_is_that_of_the_end(store: Store) -> None:
    first = store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    second = store.begin(SECONDARY_CAPTURE, "1.2.4", EXPLICIT, "SENDER")
    second.vouch(DIGEST)
    second.sync()
    first.vouch(DIGEST)
    first.sync()
    assert second.received < first.received
    with first.path.open("rb") as file:
        assert filemeta.read(file).received == first.received
    given = store.begin(SECONDARY_CAPTURE, "1.2.5", EXPLICIT, "SENDER", "2020-01-02T03:04:05.000006Z")
    given.vouch(DIGEST)
    given.sync()
    assert given.received == "2020-01-02T03:04:05.000006Z"
    for incoming in (first, second, given):
        incoming.discard()
    assert _incoming(store) == []


def test_what_is_not_settled_leaves_nothing(store: Store) -> None:
    incoming = store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    incoming.write(memoryview(b"half of it"))
    incoming.discard()
    incoming.discard()
    assert _incoming(store) == []
    assert list(store.instance_files()) == []


def test_one_sync_of_the_folder_makes_many_names_durable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(incoming_module, "fsync_directory", synced.append)
    begun = [store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER") for _ in range(100)]
    assert len(synced) == 1 + 1 + 1 + 1 + 1 + 3  # of 1, 2, 4, 8, 16, and 32 names
    assert len({one.path for one in begun}) == 100
    for one in begun:
        one.discard()
    assert len(_incoming(store)) == 127 - 100
    store.incoming.drop_spares()
    assert _incoming(store) == []


def _keep_one(store: Store) -> None:
    incoming = store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    incoming.keep()
    incoming.discard()
    incoming.path.unlink()


def test_more_names_are_made_when_nobody_waits_for_them(store: Store) -> None:
    left = []
    for _ in range(8):
        _keep_one(store)
        left.append(len(_incoming(store)))
    # The second instance makes two; from the third on, whoever used the last has made more for the next.
    assert left == [0, 1, 4, 3, 2, 1, 8, 7]
    store.incoming.drop_spares()
    _keep_one(store)
    assert _incoming(store) == [], "a single instance may be all that comes"


def test_names_that_cannot_be_made_ahead_are_made_when_they_are_needed(store: Store) -> None:
    for _ in range(2):
        _keep_one(store)
    third = store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    third.keep()
    third.path.unlink()
    third.folder.path.rmdir()
    third.discard()
    with pytest.raises(StorageError):
        store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    store.incoming.prepare()
    _keep_one(store)


def test_a_folder_that_was_cleared_is_filled_again(store: Store) -> None:
    for _ in range(2):
        _receive(store)
    store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER").discard()
    store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER").discard()
    for path in _incoming(store):
        path.unlink()
    store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER").discard()


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: write(descriptor, data[:7], at))
    incoming = store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    incoming.write(memoryview(bytes(range(100))))
    incoming.write(memoryview(bytes(range(100, 200))))
    incoming.vouch(DIGEST)
    with incoming.path.open("rb") as file:
        assert filemeta.read(file).digest == DIGEST
        assert file.read() == bytes(range(200))
    incoming.discard()


def test_the_head_comes_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who looks at the file while it is written must not take it for a damaged instance."""
    write, seen = os.pwrite, []
    incoming = store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")

    def look(descriptor: int, data: bytes, offset: int) -> int:
        seen.append(incoming_module.sealed(incoming.path))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", look)
    incoming.write(memoryview(b"data "))
    incoming.write(memoryview(b"set"))
    incoming.vouch(DIGEST)
    assert seen == [False, False, False]
    assert incoming_module.sealed(incoming.path)
    incoming.discard()


def test_what_is_durable_takes_no_memory(store: Store, tmp_path: Path) -> None:
    require_forgetting(tmp_path)
    assert _receive(store, os.urandom(100_000))
    assert pages_in_memory(store.path(PLACE)) == 0


def test_a_file_system_that_knows_no_advice_is_none_the_worse(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    assert _receive(store, b"data set")
    assert store.path(PLACE).read_bytes().endswith(b"data set")


def test_a_place_that_is_taken_stays_as_it_is(store: Store) -> None:
    assert _receive(store, b"first")
    kept = (store.root / PLACE).read_bytes()
    assert not _receive(store, b"second")
    assert (store.root / PLACE).read_bytes() == kept
    assert _incoming(store) == []


def test_a_damaged_file_is_kept_beside_the_one_in_its_place(store: Store) -> None:
    _receive(store, b"first")
    incoming = store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")
    incoming.write(memoryview(b"second"))
    incoming.vouch(DIGEST)
    incoming.sync()
    store.replace_damaged(incoming.path, PLACE)
    incoming.discard()
    assert (store.root / PLACE).read_bytes().endswith(b"second")
    assert (store.root / PLACE).with_suffix(".damaged").read_bytes().endswith(b"first")
    assert [str(place) for place in store.instance_files()] == [str(PLACE)]


def test_a_folder_that_was_removed_is_made_again(store: Store) -> None:
    _receive(store)
    (store.root / PLACE).unlink()
    for folder in (store.root / PLACE).parents[:4]:
        folder.rmdir()
    assert _receive(store)
    assert (store.root / PLACE).exists()


def test_the_reserve_is_at_most_one_per_cent_of_the_volume(tmp_path: Path) -> None:
    volume = os.statvfs(tmp_path)
    total = volume.f_blocks * volume.f_frsize
    store = Store(tmp_path, min_free=total)
    free, size = store.free_bytes()
    assert size == total
    assert abs(volume.f_bavail * volume.f_frsize - total // 100 - free) < total // 1000
    with pytest.MonkeyPatch.context() as patch:
        store.open(Store(tmp_path).create())
        patch.setattr(store.folders[0], "free_bytes", lambda: (0, total))
        with pytest.raises(NoRoom, match="full"):
            store.begin(SECONDARY_CAPTURE, "1.2.3", EXPLICIT, "SENDER")


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(store: Store) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    incoming = store.private / "incoming"
    for name in (f"{ended.pid}-dead", f"{os.getppid()}-living", f"{os.getpid()}-mine", "stranger"):
        (incoming / name).touch()
    store.incoming.remove_unfinished()
    assert [path.name for path in _incoming(store)] == [f"{os.getppid()}-living"]


# --- Listing --------------------------------------------------------------------------------------------------------


def test_files_are_listed_in_order_without_strangers_and_symbolic_links(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.dcm").touch()
    names = ["2025/b/2.dcm", "2024/b/1.dcm", "2024/a/2.dcm", "2024/a/1.dcm", "2024/a/x.damaged", "2024/@eaDir/1.dcm"]
    for name in names:
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (store.root / "loose.dcm").touch()
    (store.root / "2024" / "link").symlink_to(outside)
    (store.root / "2024" / "a" / "link.dcm").symlink_to(outside / "1.dcm")
    (store.root / "2024" / "a" / os.fsdecode(b"\xff.dcm")).touch()
    (store.private / "hidden.dcm").touch()
    assert [str(place) for place in store.instance_files()] == [
        "2024/a/1.dcm",
        "2024/a/2.dcm",
        "2024/b/1.dcm",
        "2025/b/2.dcm",
    ]


# --- Lines that survive a power cut ---------------------------------------------------------------------------------


def test_a_line_stands_alone_after_one_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "list"
    durable.append_line(path, "one")
    with path.open("a") as file:
        file.write("cut sho")
    durable.append_line(path, "two")
    assert path.read_text() == "one\ncut sho\ntwo\n"


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list"
    durable.append_line(path, "one")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:2]))
    with pytest.raises(OSError, match="No space left"):
        durable.append_line(path, "two")
    assert path.read_text() == "one\n"


def test_the_marker_says_what_made_it(store: Store) -> None:
    marker = json.loads((store.private / "archive.json").read_text())
    assert marker["program"] == "angiovault"
