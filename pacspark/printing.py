"""What the command line prints: lines, tables and figures for people, JSON for machines."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST_LINE = 100_000


def say(text: str) -> None:
    """Print a line for people on standard error."""
    print(_printable(text), file=sys.stderr)


def _printable(text: str) -> str:
    """Replace what is no letter: what others wrote must not steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def show_json(value: object) -> None:
    """Print one JSON value as the last thing on standard output."""
    print(json.dumps(_finite(value), default=str))


def _finite(value: object) -> object:
    """Replace what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with its header: aligned for a person, tab-separated for a pipe."""
    if not rows:
        say("no match")
        return
    cells = [[_cell(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in [columns, *cells]:
            print("\t".join(line))
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column))
    for line in cells:
        table.add_row(*map(Text, line))
    # wider than any terminal, which folds a long line but must not cut a UID
    Console(width=WIDEST_LINE, height=25).print(table, soft_wrap=True)


def _cell(value: object) -> str:
    """Write a value on one line; ``-`` is no value, so that no cell is blank."""
    if isinstance(value, datetime):
        value = value.replace(tzinfo=None, microsecond=0)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "-" if value is None or not text.strip() else _printable(text)


def readable(name: str, value: float) -> str:
    """Write a figure of a plan with the unit that its name ends in."""
    if name.endswith("bytes") or name == "bytes_per_task":
        units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        power = min(len(units) - 1, max(0, (int(value).bit_length() - 1) // 10))
        return f"{value / 1024**power:.{min(power, 1)}f} {units[power]}"
    if name.endswith("seconds"):
        return f"{value:.0f} s" if value < 100 else str(timedelta(seconds=round(value)))
    if isinstance(value, float):
        return f"{value:.2g}" if value < 1 else f"{value:,.2f}"
    return f"{value:,}"
