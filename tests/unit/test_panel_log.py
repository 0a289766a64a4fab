"""The log in the panel: bounded, filtered, and without patients' names for support."""

from pathlib import Path

import pytest

from angiovault.panel import loglines
from angiovault.panel.loglines import LastError
from angiovault.panel.place import Place
from harness.panel import Client

STORAGE = "/volume1/angiography/archive"
# As the service writes them.
STUDY = "2026/2026-11/2026-11-22_WANG^LI_P4711_8538aa7e"
UNDATED = "undated/undated/undated_王^伟_A_1_b-2_1f3a5b7c"
STORED = "2 stored X-Ray Angiographic Image Storage in Explicit VR Little Endian, 21402370 bytes"
PYTHON = "/volume1/@appstore/angiovault/python/lib/python3.13/site-packages/angiovault"
LINES = f"""\
2026-11-22 15:29:00 INFO ANGIOVAULT listens on 0.0.0.0:11112, storage {STORAGE}
2026-11-22 15:29:01 WARNING {STUDY}/003_XA_LCA_568251c0/0001_1.2_ef169537e13f46cc.dcm from ZEEGO@192.168.1.20 is cut off
2026-11-22 15:29:02 ERROR {STORAGE}/{UNDATED}/001_XA_9e8d7c6b/0001_1.2.3_01ab.dcm cannot be read: Input/output error
2026-11-22 15:29:03 WARNING /volume2/old pacs/ZHANG SAN/IMG 001: the data set is empty
2026-11-22 15:29:04 INFO association of ZEEGO@192.168.1.20 (zeego) with ANGIOVAULT: {STORED}, 1 duplicate CT \
Image Storage in JPEG Lossless, 1 echo; released after 0.7 s
2026-11-22 15:29:05 WARNING association of OTHER@fe80::1 with VAULT: nothing asked; connection closed after 0.0 s
2026-11-22 15:29:06 ERROR a query of XWP@192.168.1.9 failed
    | Traceback (most recent call last):
    |   File "{PYTHON}/dimse/query.py", line 163, in answer
    | angiovault.dimse.query.EncodingError: ZHANG^SAN cannot be encoded
2026-11-22 15:29:06 WARNING refused a query of XWP@192.168.1.9: Patient's Name = ZHANG^SAN, too long
2026-11-22 15:29:06 WARNING the answer fails: 'gb18030' codec can't encode character '王' in position 0
2026-11-22 15:29:07 WARNING the index (mysql://angiovault:geheim@/angiovault?unix_socket=/run/my.sock) cannot be used
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "angiovault.log"
    path.write_text(LINES, encoding="utf-8")
    return path


def texts(path: Path, text: str = "", level: str = "", most: int = 100) -> list[str]:
    return [record["text"] for record in loglines.last_records(path, text, level, most)[0]]


def test_records_are_split_and_tracebacks_stay_together(log: Path) -> None:
    records, whole = loglines.last_records(log, "", "", 100)
    assert whole
    assert len(records) == 10
    assert records[0]["level"] == "INFO"
    assert records[6]["text"].count("\n") == 3


def test_records_are_filtered_by_text_and_level(log: Path) -> None:
    assert len(texts(log, level="WARNING")) == 8
    assert len(texts(log, level="ERROR")) == 2
    assert len(texts(log, text="zeego@")) == 2
    assert texts(log, text="no such thing") == []
    assert len(texts(log, level="<nonsense>")) == 10
    assert texts(log, most=1)[0].startswith("the index")


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    with path.open("w") as file:
        for number in range(200_000):
            file.write(f"2026-11-22 15:29:00 INFO line {number} of many\n")
    records, whole = loglines.last_records(path, "", "", 5)
    assert records[-1]["text"] == "line 199999 of many"
    assert not whole
    records, _ = loglines.last_records(path, "line 3 of", "", 5)
    assert records == []


def test_lines_that_are_no_text_are_shown_safely(tmp_path: Path) -> None:
    path = tmp_path / "odd.log"
    path.write_bytes(b"\xff\xfe\x1b[31m red\n" + b"x" * 100_000 + b"\n2026-11-22 15:29:00 INFO a\xe2\x80\xaeb\n")
    records, _ = loglines.last_records(path, "", "", 10)
    shown = "".join(record["text"] for record in records)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert len(records[1]["text"]) == 4000


def test_passwords_are_in_neither_copy(log: Path) -> None:
    for with_names in (True, False):
        assert b"geheim" not in b"".join(loglines.download(log, with_names, STORAGE))
    assert "geheim" not in "".join(texts(log))


def test_the_copy_for_support_names_no_patient(log: Path) -> None:
    copy = b"".join(loglines.download(log, False, STORAGE)).decode()
    for name in ("WANG", "王", "伟", "ZHANG", "P4711", "A_1_b", "old pacs"):
        assert name not in copy, name
    # What a fault is searched by stays.
    for kept in (
        *("2026-11-22_***_8538aa7e/003_XA_LCA_568251c0/0001_1.2_ef169537e13f46cc.dcm from ZEEGO@192.168.1.20",),
        *(f"{STORAGE}/undated/undated/undated_***_1f3a5b7c/001_XA_9e8d7c6b/0001_1.2.3_01ab.dcm cannot",),
        *("cannot be read: Input/output error", "/***: the data set is empty", f"storage {STORAGE}"),
        *(
            "    | angiovault.dimse.query.EncodingError: ***",
            "can't encode character ***",
            "Patient's Name = ***, too long",
        ),
        *("site-packages/angiovault/dimse/query.py", "association of ZEEGO@192.168.1.20 (zeego)", "unix_socket=/run"),
    ):
        assert kept in copy, kept


def test_with_names_the_copy_is_the_log(log: Path) -> None:
    copy = b"".join(loglines.download(log, True, STORAGE)).decode()
    assert copy == LINES.replace("geheim", "***")


def test_a_path_of_the_storage_hides_nothing_behind_it() -> None:
    line = f"2026-11-22 15:29:00 INFO {STORAGE}/2024 was compared with /volume2/LI SI/1.dcm"
    assert "LI SI" not in loglines.without_names(line, STORAGE)


def test_the_last_error_is_looked_for_again_when_the_log_changes(log: Path) -> None:
    last = LastError()

    def text() -> str:
        return (last.look(log) or {"text": ""})["text"]

    assert text().startswith("a query of XWP")
    with log.open("a") as file:
        file.write("2026-11-22 15:30:00 ERROR something else\n2026-11-22 15:30:00 INFO well\nno record\n")
    assert text() == "something else"
    log.unlink()
    assert last.look(log) is None
    assert last.look(None) is None


def test_the_page_answers_with_and_without_a_log(tmp_path: Path, log: Path) -> None:
    settings = tmp_path / "angiovault.ini"
    client = Client(Place(settings))
    assert client.get("/api/log") == {"path": None, "records": [], "whole": True}
    assert client.ask("/api/log/file").status == 404
    settings.write_text("[log]\nlog-file = angiovault.log\n")
    assert len(client.get("/api/log?level=ERROR")["records"]) == 2
    reply = client.ask("/api/log/file")
    assert reply.headers["content-disposition"] == 'attachment; filename="angiovault-log.txt"'
    assert "ZHANG" not in reply.text
    assert "ZHANG" in client.ask("/api/log/file?names=yes").text
    log.unlink()
    assert client.get("/api/log")["records"] == []


def test_a_log_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    settings = tmp_path / "angiovault.ini"
    settings.write_text("[log]\nlog-file = folder\n")
    (tmp_path / "folder").mkdir()
    assert Client(Place(settings)).ask("/api/log").error == "refused.log"
