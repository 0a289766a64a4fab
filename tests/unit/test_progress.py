"""What people see while the archive works: progress on a terminal or in lines, and the log."""

import io
import logging
import os
import pty
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

import pytest

from angiovault import logs
from angiovault.inifile import ConfigError
from angiovault.progress import Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    """A terminal that shows what is left after carriage returns."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        shown = []
        for line in self.getvalue().split("\n"):
            row = ""
            for part in line.split("\r"):
                row = part + row[len(part) :]
            shown.append(row.rstrip())
        return shown


# --- Progress -------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_one_line_with_rate_and_remaining_time() -> None:
    clock, screen = Clock(), Screen()
    with Progress("import", 1000, 4_000_000_000, screen, clock) as progress:
        clock.now += 10
        progress.advance(items=250, bytes=1_000_000_000)
        assert screen.lines() == ["import: 250/1,000 (1,000 MB) (25 %), 25/s, 100 MB/s, 30 s left"]
        clock.now += 3600
        progress.advance(items=250, bytes=1_000_000_000)
        assert screen.lines() == ["import: 500/1,000 (2,000 MB) (50 %), 0.1/s, 0.6 MB/s, 1 h 00 min left"]
        clock.now += 1
    assert screen.lines() == ["import done: 500/1,000 (2,000 MB) in 1 h 00 min, 0.1/s, 0.6 MB/s", ""]


def test_nothing_is_promised_while_the_total_is_unknown() -> None:
    clock, screen = Clock(), Screen()
    with Progress("verify", stream=screen, clock=clock) as progress:
        clock.now += 2
        progress.advance(items=30)
        assert screen.lines() == ["verify: 30, 15/s"]


def test_the_total_may_become_known_later() -> None:
    clock, screen = Clock(), Screen()
    with Progress("import", stream=screen, clock=clock) as progress:
        clock.now += 1
        progress.advance(0)
        assert screen.lines() == ["import: 0, 0.0/s"]
        progress.expect(4)
        clock.now += 1
        progress.advance()
        assert screen.lines() == ["import: 1/4 (25 %), 0.5/s, 6 s left"]


def test_items_tell_the_time_when_there_are_no_bytes_and_never_over_100_percent() -> None:
    clock, screen = Clock(), Screen()
    with Progress("reindex", total_items=4, stream=screen, clock=clock) as progress:
        clock.now += 90
        progress.advance(items=1)
        assert screen.lines() == ["reindex: 1/4 (25 %), 0.0/s, 4 min 30 s left"]
        clock.now += 1
        progress.advance(items=7)
        assert screen.lines() == ["reindex: 8/4 (100 %), 0.1/s, 0 s left"]


def test_the_terminal_is_redrawn_a_few_times_a_second_only() -> None:
    clock, screen = Clock(), Screen()
    with Progress("send", stream=screen, clock=clock) as progress:
        for _ in range(1000):
            clock.now += 0.001
            progress.advance()
    assert 4 <= screen.getvalue().count("\rsend: ") <= 5
    assert screen.lines() == ["send done: 1,000 in 1 s, 1,000/s", ""]


def test_elsewhere_there_is_a_plain_line_every_ten_seconds_and_one_at_the_end() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("verify", 100, stream=stream, clock=clock) as progress:
        for _ in range(25):
            clock.now += 1
            progress.advance()
    assert stream.getvalue().splitlines() == [
        "verify: 10/100 (10 %), 1.0/s, 1 min 30 s left",
        "verify: 20/100 (20 %), 1.0/s, 1 min 20 s left",
        "verify done: 25/100 in 25 s, 1.0/s",
    ]


def interrupt(progress: Progress) -> None:
    progress.advance(3)
    raise KeyboardInterrupt


def test_work_that_fails_is_said_to_have_stopped() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress("import", stream=stream, clock=Clock()) as progress:
        interrupt(progress)
    assert stream.getvalue() == "import stopped: 3 in 0 s, 3,000/s\n"


def test_a_remark_stands_above_the_progress_line() -> None:
    clock, screen = Clock(), Screen()
    with Progress("import", stream=screen, clock=clock) as progress:
        clock.now += 1
        progress.advance()
        progress.say("left out: a\x1b[2Jb\nc")
        assert screen.lines() == ["left out: a\\x1b[2Jb\\x0ac", ""]
        progress.advance()
        assert screen.lines() == ["left out: a\\x1b[2Jb\\x0ac", "import: 2, 2.0/s"]


def test_a_remark_in_a_log_brings_no_further_line() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("import", stream=stream, clock=clock) as progress:
        progress.say("left out: a")
        clock.now += 1
        progress.advance()
    assert stream.getvalue() == "left out: a\nimport done: 1 in 1 s, 1.0/s\n"


def test_on_a_real_terminal_the_line_fits_its_width() -> None:
    master, slave = pty.openpty()
    ioctl(slave, TIOCSWINSZ, pack("HHHH", 24, 30, 0, 0))
    clock = Clock()
    with os.fdopen(master, "rb", 0) as reader, os.fdopen(slave, "w") as terminal:
        progress = Progress("a rather long label for a narrow window", 10, None, terminal, clock)
        clock.now += 1
        progress.advance()
        assert reader.read(1000) == b"\ra rather long label for a nar"


def test_a_terminal_that_is_closed_does_not_stop_the_work() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    clock = Clock()
    stream = os.fdopen(writer, "w")
    with Progress("import", stream=stream, clock=clock) as progress:
        clock.now += 60
        progress.advance()
        clock.now += 60
        progress.advance()
    assert progress.items == 2
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_without_standard_error_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("import") as progress:
        progress.advance()
    assert progress.items == 1


def test_many_threads_count_right() -> None:
    with Progress("import", stream=io.StringIO()) as progress:

        def work() -> None:
            for _ in range(2000):
                progress.advance(1, 10)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (progress.items, progress.bytes) == (16000, 160000)


# --- The log --------------------------------------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger of ours; the root logger is given back as it was."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield logging.getLogger("angiovault.test")
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("pynetdicom", "pydicom", "peewee"):
        logging.getLogger(name).setLevel(logging.NOTSET)


STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def test_lines_go_to_standard_error_with_time_and_level(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("info")
    log.debug("hidden")
    log.info("association from %s", "ARTIS")
    log.error("名 refused")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(STAMP + "INFO association from ARTIS", first)
    assert re.fullmatch(STAMP + "ERROR 名 refused", second)


def test_a_surrogate_which_no_encoding_can_write_is_escaped() -> None:
    assert logs.escape("a\udcff") == r"a\udcff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n2026-11-22 11:29:37 INFO all is well", r"a\x0a2026-11-22 11:29:37 INFO all is well"),
        ("\x1b]0;title\x07\x1b[31m", r"\x1b]0;title\x07\x1b[31m"),
        ("\x9b31m\x7f\x00\r\t", r"\x9b31m\x7f\x00\x0d\x09"),
        ("a\u2028b\u2029c\u202ed\u2066e\u200f", r"a\u2028b\u2029c\u202ed\u2066e\u200f"),
        ("Wang^XiaoDong=王^小东=왕 é \\ 😀", "Wang^XiaoDong=王^小东=왕 é \\ 😀"),
    ],
)
def test_text_from_the_network_cannot_break_a_line_or_steer_a_terminal(
    log: logging.Logger, tmp_path: Path, text: str, shown: str
) -> None:
    logs.set_up("info", tmp_path / "av.log")
    log.info("from %s", text)
    log.info(text)
    content = (tmp_path / "av.log").read_text(encoding="utf-8")
    first, second, rest = content.split("\n")
    assert re.fullmatch(STAMP + re.escape(f"INFO from {shown}"), first)
    assert re.fullmatch(STAMP + re.escape(f"INFO {shown}"), second)
    assert rest == ""


def test_tracebacks_are_indented_and_escaped(log: logging.Logger, tmp_path: Path) -> None:
    logs.set_up("info", tmp_path / "av.log")
    try:
        raise ValueError("bad\n2026-11-22 11:29:37 INFO forged\x1b[2J")
    except ValueError as error:
        record = log.makeRecord("n", logging.ERROR, "f", 1, "failed", (), (type(error), error, error.__traceback__))
    logging.Formatter().format(record)  # another handler's formatter leaves its own text of the traceback behind
    record.stack_info = "Stack:\n  x"
    log.handle(record)
    first, *rest = (tmp_path / "av.log").read_text().splitlines()
    assert re.fullmatch(STAMP + "ERROR failed", first)
    assert len(rest) >= 5
    assert all(line.startswith("    | ") for line in rest)
    assert "    | 2026-11-22 11:29:37 INFO forged\\x1b[2J" in rest
    assert rest[-2:] == ["    | Stack:", "    |   x"]


def test_the_log_file_is_private_and_may_be_rotated(log: logging.Logger, tmp_path: Path) -> None:
    file = tmp_path / "av.log"
    logs.set_up("info", file)
    log.info("one")
    assert stat.S_IMODE(file.stat().st_mode) & 0o137 == 0
    file.rename(tmp_path / "av.log.1")
    log.info("two")
    assert file.read_text().endswith("INFO two\n")
    assert (tmp_path / "av.log.1").read_text().endswith("INFO one\n")


def test_a_log_file_that_is_lost_does_not_stop_the_work_and_comes_back(
    log: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    logs.set_up("info", folder / "av.log")
    log.info("one")
    folder.rename(tmp_path / "away")
    log.info("two")
    log.info("three")
    assert "No such file or directory" in capsys.readouterr().err
    folder.mkdir()
    log.info("four")
    assert (folder / "av.log").read_text().endswith("INFO four\n")


def test_a_log_file_that_cannot_be_opened_is_explained(log: logging.Logger, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log-file: .*/no/av.log cannot be written: No such file or directory"):
        logs.set_up("info", tmp_path / "no" / "av.log")


def test_setting_up_again_replaces_what_was_set_up(log: logging.Logger, tmp_path: Path) -> None:
    before = len(logging.getLogger().handlers)
    for number in range(3):
        logs.set_up("info", tmp_path / f"{number}.log")
    assert len(logging.getLogger().handlers) == before + 1
    log.info("once")
    assert [len((tmp_path / f"{number}.log").read_text().splitlines()) for number in range(3)] == [0, 0, 1]
    logs.set_up("warning", tmp_path / "2.log")
    log.info("not this")
    assert len((tmp_path / "2.log").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("info", ["pynetdicom 30", "pydicom 30", "peewee 30"]),
        (
            "debug",
            [f"{name} {number}" for name in ("pynetdicom", "pydicom") for number in (10, 20, 30)] + ["peewee 30"],
        ),
        ("error", []),
    ],
)
def test_libraries_are_quiet_unless_debugging(
    log: logging.Logger, tmp_path: Path, level: str, shown: list[str]
) -> None:
    logs.set_up(level, tmp_path / "av.log")
    for name in ("pynetdicom", "pydicom", "peewee"):
        for number in (10, 20, 30):
            logging.getLogger(name).log(number, "%s %d", name, number)
    lines = [" ".join(line.split()[-2:]) for line in (tmp_path / "av.log").read_text().splitlines()]
    assert lines == shown


def test_python_warnings_are_log_lines(log: logging.Logger, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.set_up("info", tmp_path / "av.log")
        warnings.warn("odd value", stacklevel=1)
    [line] = (tmp_path / "av.log").read_text().splitlines()
    assert re.fullmatch(STAMP + r"WARNING .*UserWarning: odd value.*", line)
