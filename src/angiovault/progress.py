"""Progress of long work: one line redrawn on a terminal, plain lines now and then anywhere else."""

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from angiovault.logs import escape

_REDRAW_SECONDS = 0.2
_LINE_SECONDS = 10.0


class Progress:
    """Shows how far some work is, how fast it goes and how long it will still take. Safe to use from many threads.

    `total_items` and `total_bytes` are None while unknown. A stream that can no longer be written (a closed terminal)
    ends the display, never the work.
    """

    def __init__(
        self,
        label: str,
        total_items: int | None = None,
        total_bytes: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.items = 0
        self.bytes = 0
        self._label = escape(label)
        self._total_items = total_items
        self._total_bytes = total_bytes
        self._stream: TextIO | None = stream or sys.stderr
        self._terminal = self._stream is not None and self._stream.isatty()
        self._clock = clock
        self._lock = threading.Lock()
        self._start = self._shown = clock()
        self._on_line = 0  # characters of the line last drawn on the terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            end = "done" if error is None else "stopped"
            self._print_line(f"{self._label} {end}: {self._amount()} in {_duration(self._elapsed())}, {self._rates()}")

    def expect(self, items: int | None, bytes: int | None = None) -> None:
        """Say how much there is to do."""
        with self._lock:
            self._total_items, self._total_bytes = items, bytes

    def advance(self, items: int = 1, bytes: int = 0) -> None:
        """Count finished items and bytes, and show them when it is time to."""
        with self._lock:
            self.items += items
            self.bytes += bytes
            now = self._clock()
            if now - self._shown < (_REDRAW_SECONDS if self._terminal else _LINE_SECONDS):
                return
            self._shown = now
            if self._terminal:
                self._redraw(self._state())
            else:
                self._print_line(self._state())

    def say(self, text: str) -> None:
        """Print a line for good, say about a file left out; on a terminal it lands above the progress line."""
        with self._lock:
            self._print_line(escape(text))
            self._shown = float("-inf") if self._terminal else self._shown  # the progress line is to come back at once

    def _state(self) -> str:
        parts = [f"{self._label}: {self._amount()}", self._rates()]
        fraction = self._fraction()
        if fraction:
            parts[0] += f" ({int(fraction * 100)} %)"
            parts.append(f"{_duration(self._elapsed() * (1 - fraction) / fraction)} left")
        return ", ".join(parts)

    def _fraction(self) -> float | None:
        # Bytes tell the time better than items: a run of 20 MB takes longer than a report.
        for done, total in ((self.bytes, self._total_bytes), (self.items, self._total_items)):
            if total:
                return min(done / total, 1.0)
        return None

    def _amount(self) -> str:
        total = "" if self._total_items is None else f"/{self._total_items:,}"
        return f"{self.items:,}{total}" + (f" ({_megabytes(self.bytes)})" if self.bytes else "")

    def _rates(self) -> str:
        seconds = max(self._elapsed(), 0.001)
        rate = self.items / seconds
        text = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        return text + (f", {_megabytes(self.bytes / seconds)}/s" if self.bytes else "")

    def _elapsed(self) -> float:
        return self._clock() - self._start

    def _redraw(self, text: str) -> None:
        text = text[: self._width() - 1]
        self._write("\r" + text.ljust(self._on_line))
        self._on_line = len(text)

    def _print_line(self, text: str) -> None:
        if self._on_line:
            self._write("\r" + " " * self._on_line + "\r")
            self._on_line = 0
        self._write(text + "\n")

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80 if self._stream else 80
        except OSError:  # a terminal without a size, or none behind the stream
            return 80

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._stream = None


def _megabytes(count: float) -> str:
    megabytes = count / 1e6
    return f"{megabytes:,.0f} MB" if megabytes >= 100 else f"{megabytes:.1f} MB"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
