"""Progress of long work, on standard error: bars on a terminal, plain lines elsewhere.

The work calls ``with progress.stage("reconstruct", total, "slabs") as stage: stage.advance()`` and
knows nothing of how it is shown. `Progress` itself shows nothing: the silent case.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

SECONDS_BETWEEN_LINES = 5.0


class Stage:
    """One stretch of work with a known or unknown total; shows nothing."""

    def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
        """Count `amount` more as done, of so many bytes where these tell how fast it goes."""

    def update(self, done: int, total: int | None = None) -> None:
        """Set how much is done, and the total where it has become known."""


class Progress:
    """Shows nothing; the base of those that do."""

    def say(self, text: str) -> None:
        """Tell of a wait that has no stages."""

    @contextmanager
    def stage(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Enter one stretch of work."""
        del label, total, unit
        yield Stage()


SILENT = Progress()


class _BarStage(Stage):
    def __init__(self, bars: Bars, label: str, total: int | None, unit: str) -> None:
        self._bars = bars
        self._task = bars.add_task(label, total=total, unit=unit, rate="")
        self._done = self._bytes = 0
        self._started = time.monotonic()

    def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
        self._done += amount
        self._bytes += size_bytes
        rate = _rate(self._done, self._bytes, time.monotonic() - self._started)
        self._bars.update(self._task, advance=amount, rate=rate)

    def update(self, done: int, total: int | None = None) -> None:
        self._bars.update(self._task, completed=done, total=total)


class TerminalProgress(Progress):
    """Bars for a person at a terminal."""

    def say(self, text: str) -> None:
        """Print a line."""
        Console(stderr=True).print(text, markup=False, highlight=False)

    @contextmanager
    def stage(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Enter one stretch of work, drawn as a bar."""
        bars = Bars(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        with bars:
            yield _BarStage(bars, label, total, unit)


def counted_unit(count: int, unit: str) -> str:
    """Give the name of some things, for that many: ``objects`` are an ``object`` where it is one.

    >>> counted_unit(1, "blocks of frames"), counted_unit(2, "slices")
    ('block of frames', 'slices')
    """
    first, *rest = unit.split(" ")
    return " ".join([first.removesuffix("s") if count == 1 else first, *rest])


def _rate(done: int, size_bytes: int, seconds: float) -> str:
    if not size_bytes or not seconds:
        return ""
    return f"{done / seconds:.0f} per s, {size_bytes / seconds / 1e6:.1f} MB/s"


class _LineStage(Stage):
    def __init__(self, stream: TextIO, label: str, total: int | None, unit: str) -> None:
        self._stream, self._label, self._total, self._unit = stream, label, total, unit
        self._done, self._told, self._bytes = 0, -1, 0
        self._started = self._spoken = time.monotonic()

    def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
        self._bytes += size_bytes
        self.update(self._done + amount)

    def update(self, done: int, total: int | None = None) -> None:
        self._done = done
        self._total = self._total if total is None else total
        if time.monotonic() - self._spoken >= SECONDS_BETWEEN_LINES:
            self.speak()

    def speak(self) -> None:
        if self._done == self._told:
            return
        self._spoken, self._told = time.monotonic(), self._done
        of = "" if self._total is None else f" of {self._total}"
        unit = counted_unit(self._done if self._total is None else self._total, self._unit)
        seconds = self._spoken - self._started
        line = f"{self._label}: {self._done}{of} {unit}, {seconds:.1f} s".replace("  ", " ")
        if rate := _rate(self._done, self._bytes, seconds):
            line += f" ({rate}"
            if self._total is not None and self._total > self._done:
                left_s = seconds * (self._total - self._done) / max(1, self._done)
                line += f", {left_s:.0f} s left"
            line += ")"
        print(line, file=self._stream, flush=True)


_LINE: Final = re.compile(r"(?P<label>[^:]+): (?P<done>\d+)(?: of (?P<total>\d+))? .*s\b.*")


def read_line(line: str) -> tuple[str, float | None] | None:
    """Read what `LineProgress` writes: the stage, and which part of it is done where that is known.

    >>> read_line("slabs: 3 of 12 slabs, 6.1 s (0 per s)"), read_line("starting Spark")
    (('slabs', 0.25), None)
    """
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    total = int(match["total"] or 0)
    return match["label"], min(1.0, int(match["done"]) / total) if total else None


class LineProgress(Progress):
    """A line when a stage begins and ends, every few seconds meanwhile: for logs and notebooks."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream or sys.stderr, flush=True)

    @contextmanager
    def stage(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Enter one stretch of work, told in lines."""
        line = _LineStage(self._stream or sys.stderr, label, total, unit)
        if total:
            line.speak()
        yield line
        line.speak()


def progress_for_stderr() -> Progress:
    """Return bars when standard error is a terminal, else lines."""
    return TerminalProgress() if sys.stderr.isatty() else LineProgress()
