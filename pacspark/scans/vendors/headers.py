"""Texts that scanners write: INI-like headers and tables of angles."""

import math
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as IniError
from pathlib import Path

from pacspark.errors import ScanDescriptionError
from pacspark.scans.toml import TomlTable, one_line, read_small_file

MOST_BYTES = 1 << 20
"""Of a header or a list of angles, all of whose words are held in memory at once."""
MOST_HEADINGS = 8
"""Lines above a table that may be numbers too."""

Ini = Mapping[str, Mapping[str, str]]


def read_header(path: Path) -> str:
    """Read a text in UTF-8, or else in Windows-1252.

    Raises
    ------
    ScanDescriptionError
        When it cannot be read.
    """
    try:
        content = read_small_file(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        message = f"{path}: expected a text file, found {one_line(error)}"
        raise ScanDescriptionError(message) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def read_ini(path: Path) -> Ini:
    """Read ``key = value`` in sections; names of sections and keys in lower case.

    Of a section or a key that comes twice, the last one counts.

    Raises
    ------
    ScanDescriptionError
        When it is not so written.
    """
    parser = ConfigParser(
        strict=False,
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=(";", "#"),
        allow_no_value=True,
        default_section="",  # none: no section's name is empty
    )
    # a line that is indented is no continuation here
    lines = "\n".join(line.strip() for line in read_header(path).splitlines())
    try:
        parser.read_string(lines)
    except IniError as error:
        message = f"{path}: expected lines of key=value in [sections], found {one_line(error)}"
        raise ScanDescriptionError(message) from error
    return {
        name.lower(): {key: value for key, value in section.items() if value}
        for name, section in parser.items()
    }


def section(path: Path, ini: Ini, name: str) -> TomlTable:
    """Return a section for reading its numbers and texts, each as what it looks like."""
    values: dict[str, str | int | float] = {}
    for key, text in ini.get(name, {}).items():
        values[key] = _number(text)
    return TomlTable(path, name, values, None)


def text_of(ini: Ini, name: str, key: str) -> str:
    """Return the text of a key; an empty one where it is missing."""
    return ini.get(name, {}).get(key, "")


def read_angle_table(path: Path) -> tuple[list[float], bool]:
    """Read angles from a text: one per line, or the second of several numbers per line.

    Lines that are not all numbers are headings: `.ang` files and `_ctdata.txt` have them.

    Returns
    -------
    tuple
        The angles, and whether the text is plain numbers that `angles.file` can name.

    Raises
    ------
    ScanDescriptionError
        When there are none.
    """
    rows: list[list[float]] = []
    plain = True
    for line in read_header(path).splitlines():
        words = line.split("#")[0].replace(",", " ").replace(":", " ").split()
        numbers = [_number(word) for word in words]
        row = [float(number) for number in numbers if not isinstance(number, str)]
        if len(row) == len(numbers):
            rows += [row] if row else []
        plain = plain and len(row) == len(numbers) and ":" not in line.split("#")[0]
    for first in range(min(len(rows), MOST_HEADINGS)):
        if _is_numbered(rows[first:]):
            return [row[1] for row in rows[first:]], False
    angles = [angle for row in rows for angle in row]
    if not angles or not plain:
        expected = "angles: numbers, or lines of a number that counts and an angle"
        message = f"{path}: expected {expected}, found {'others' if angles else 'none'}"
        raise ScanDescriptionError(message)
    return angles, True


def _is_numbered(rows: list[list[float]]) -> bool:
    """Tell whether rows of one length count from 0 or 1."""
    start, width = rows[0][0], len(rows[0])
    return (
        len(rows) > 1
        and width > 1
        and start in {0.0, 1.0}
        and all(len(row) == width and row[0] == start + at for at, row in enumerate(rows))
    )


def _number(text: str) -> str | int | float:
    """Return a text as the finite number that it is, or as it is."""
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return text
