"""While the database is away storing goes on, queries say why they cannot be answered, and the index catches up."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydicom.uid import generate_uid

from faults import instances
from harness.dcmtk import findscu, getscu, movescu, storescu
from harness.mariadb import MariaDB
from harness.service import Service
from harness.waiting import wait_until

pytestmark = pytest.mark.mariadb


@pytest.fixture
def index(mariadb: MariaDB) -> str:
    return mariadb.database()


@pytest.fixture
def server(service: Callable[..., Service], index: str) -> Service:
    return service(index=index, unknown_devices="all")


def _database(index: str) -> str:
    """Return the name of the index's database, which is also that of its user."""
    return str(urlsplit(index).username)


def _store(server: Service, folder: Path, study: str, count: int = 3) -> dict[str, str]:
    """Store some instances, all of which must be acknowledged and settled, and return UID -> digest."""
    paths = [instances.make(folder, study=study, number=number) for number in range(count)]
    assert storescu(server.peer, paths, "-xe").statuses == [0] * count
    server.settled()
    return instances.digests(paths)


def _waiting(server: Service) -> list[str]:
    journal = server.storage / ".angiovault" / "journal"
    return journal.read_text(errors="replace").splitlines() if journal.exists() else []


def _refused(server: Service, study: str, folder: Path, reason: str) -> None:
    """Check that query and retrievals are answered A700, and that the log says why."""
    keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"]
    assert findscu(server.peer, keys).statuses == [0xA700]
    # Out of resources, unable to calculate the number of matches (PS3.4 C.4.2.1.5, C.4.3.1.4).
    assert getscu(server.peer, keys, folder).final.status in (0xA700, 0xA701)
    assert movescu(server.peer, "ANYBODY", keys).final.status in (0xA700, 0xA701, 0xA801)
    assert re.search(f"cannot answer a query of FINDSCU.*{reason}", server.log_text())


def test_storing_goes_on_and_the_index_catches_up_by_itself(server: Service, mariadb: MariaDB, tmp_path: Path) -> None:
    study = generate_uid()
    sent = _store(server, tmp_path / "before", study)
    mariadb.stop()
    sent |= _store(server, tmp_path / "meanwhile", study, 5)
    assert len(_waiting(server)) == 5
    _refused(server, study, tmp_path / "nothing", "cannot be used.*Can't connect")
    status = server.cli("status", check=False)
    assert status.returncode == 1
    assert re.search("PROBLEM .*Can't connect", status.stdout)
    assert "5 instances wait for the index" in status.stdout

    mariadb.start()
    wait_until(lambda: not _waiting(server), "the index to catch up without being asked")
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def test_the_service_may_be_killed_and_started_while_the_database_is_away(
    server: Service, mariadb: MariaDB, tmp_path: Path
) -> None:
    study = generate_uid()
    sent = _store(server, tmp_path / "before", study)
    mariadb.kill()
    sent |= _store(server, tmp_path / "meanwhile", study)
    server.kill()
    server.start()
    sent |= _store(server, tmp_path / "after the start", study)
    _refused(server, study, tmp_path / "nothing", "Can't connect")
    server.stop()
    mariadb.start()
    server.start()
    wait_until(lambda: not _waiting(server), "the index to catch up")
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def test_a_damaged_journal_holds_up_nothing(server: Service, mariadb: MariaDB, tmp_path: Path) -> None:
    study = generate_uid()
    mariadb.stop()
    sent = _store(server, tmp_path / "sent", study, 3)
    rotten, *_ = _waiting(server)
    uid = next(uid for uid in sent if uid in rotten)
    path = server.storage / rotten
    content = path.read_bytes()
    path.write_bytes(content[:200])
    (tmp_path / "secret.dcm").write_bytes(content)
    with (server.storage / ".angiovault" / "journal").open("ab") as journal:
        journal.write(b"../secret.dcm\n/etc/passwd\n\0\xff\xfe\n\n2024/gone.dcm\n2024/2024-03/cut sho")
    # What comes next stands on a line of its own.
    sent |= _store(server, tmp_path / "next", study, 1)
    mariadb.start()
    wait_until(lambda: not _waiting(server), "the journal to be empty")
    del sent[uid]
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")
    status = server.cli("status", check=False)
    assert "2 acknowledged instances cannot be indexed" in status.stdout
    assert f"{rotten} was acknowledged but cannot be indexed" in server.log_text()
    assert "secret.dcm' is no path of an instance" in server.log_text()

    # When the file has been put back from a backup a restart takes it in.
    path.write_bytes(content)
    server.stop()
    server.start()
    wait_until(lambda: not _waiting(server), "the journal to be empty")
    assert uid in instances.found(server.peer, [study])


def test_a_changed_password(server: Service, mariadb: MariaDB, index: str, tmp_path: Path) -> None:
    study = generate_uid()
    sent = _store(server, tmp_path / "before", study)
    user = f"{_database(index)}@localhost"
    mariadb.execute(f"ALTER USER {user} IDENTIFIED BY 'another'")
    mariadb.stop()  # which ends the connections that were made with the old password
    mariadb.start()
    sent |= _store(server, tmp_path / "meanwhile", study)
    _refused(server, study, tmp_path / "nothing", "Access denied")
    password = str(urlsplit(index).password)
    assert password not in server.log_text()
    mariadb.execute(f"ALTER USER {user} IDENTIFIED BY '{password}'")
    wait_until(lambda: not _waiting(server), "the index to catch up")
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def test_connections_that_went_stale_are_not_noticed(server: Service, mariadb: MariaDB, tmp_path: Path) -> None:
    study = generate_uid()
    sent = _store(server, tmp_path / "before", study)
    mariadb.stop()  # ends the service's pooled connections behind its back
    mariadb.start()
    assert instances.found(server.peer, [study]) == set(sent)
    mariadb.stop()
    mariadb.start()
    sent |= _store(server, tmp_path / "after", study)
    assert "waits in the journal" not in server.log_text()
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def test_a_database_that_does_not_sync_its_commits(
    server: Service, mariadb: MariaDB, index: str, tmp_path: Path
) -> None:
    """With innodb_flush_log_at_trx_commit=2 the last commits are lost in a power cut: a journal brings them back."""
    study = generate_uid()
    mariadb.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    server.stop()
    server.start()
    sent = _store(server, tmp_path / "before", study, 5)
    assert instances.found(server.peer, [study]) == set(sent)
    mariadb.execute("DELETE FROM instance WHERE instance_number > 1", database=_database(index))
    mariadb.kill()
    mariadb.start()
    wait_until(lambda: _all_found(server, study, set(sent)), "what the database lost to be found again")
    instances.assert_kept(server.peer, [study], set(sent), sent, tmp_path / "back")


def _all_found(server: Service, study: str, wanted: set[str]) -> bool:
    keys = ["QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study}", "SOPInstanceUID"]
    result = findscu(server.peer, keys)
    # Either all of it, or the answer that it cannot be told yet.
    assert result.final.status == 0xA700 or {str(found.SOPInstanceUID) for found in result.data_sets} == wanted
    return result.final.status == 0
