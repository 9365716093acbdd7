"""A ``SCAN.toml`` in the making: each value with a comment that tells where it came from."""

import json
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pacspark.errors import ScanDescriptionError, StorageError, UsageError
from pacspark.scans.toml import one_line

Value = str | float | int | list[float]
Writer = Callable[[Path], None]

_TABLES = ("projections", "geometry", "angles")
_HEAD = (
    "made by pacspark describe from {source}. Everything may be edited. CHECK marks what that file "
    "does not say for certain, FILL IN what it does not say at all. After import-scan, pacspark "
    "check tells a wrong offset and a wrong sense of rotation."
)


@dataclass(frozen=True, slots=True)
class DescribedScan:
    """What describing a scan has made.

    Attributes
    ----------
    path
        The ``SCAN.toml``.
    beside
        Arrays that it names and that were written with it.
    to_check
        Keys with what was guessed about them.
    to_fill_in
        Keys that are missing, with what they are.
    """

    path: Path
    beside: tuple[Path, ...]
    to_check: tuple[str, ...]
    to_fill_in: tuple[str, ...]


class Draft:
    """Collects the keys of a description and writes them.

    Parameters
    ----------
    source
        The file that is described.
    path
        The ``SCAN.toml`` to be.
    """

    def __init__(self, source: Path, path: Path) -> None:
        self.source = source
        self.path = path
        self._lines: dict[str, list[str]] = {table: [] for table in _TABLES}
        self._beside: dict[Path, Writer] = {}
        self._to_check: list[str] = []
        self._to_fill_in: list[str] = []

    @property
    def folder(self) -> Path:
        """The folder that paths in the description start from."""
        return self.path.resolve().parent

    def error(self, expected: str, found: object) -> ScanDescriptionError:
        """Return the one line that tells what is wrong with the file that is described."""
        return ScanDescriptionError(f"{self.source}: expected {expected}, found {one_line(found)}")

    def add(self, key: str, value: Value, why: str, *, check: bool = False) -> None:
        """Add a key, named ``table.key``, and where its value comes from.

        Parameters
        ----------
        key, value
            The key, and what it is.
        why
            Where the value comes from.
        check
            That is a guess.
        """
        table, name = key.split(".")
        self._remark(key, why, check=check)
        self._lines[table].append(f"{name} = {_toml(value)}")

    def fill_in(self, key: str, why: str) -> None:
        """Tell of a key that has to be there and that the file does not say."""
        table, name = key.split(".")
        self._lines[table] += _comment(f"FILL IN {name}: {why}")
        self._to_fill_in.append(f"{key}: {why}")

    def check(self, key: str, what: str) -> None:
        """Tell of something about a key, or about a whole table, that people should look at."""
        self._remark(key, what, check=True)

    def beside(self, ending: str, write: Writer) -> str:
        """Have a file written beside the description; return its name.

        Parameters
        ----------
        ending
            What its name has after the description's.
        write
            Writes it at a path where there is nothing yet.
        """
        path = self.path.with_name(f"{self.path.stem}.{ending}")
        self._beside[path] = write
        return path.name

    def relative(self, path: Path) -> str:
        """Return a path as the description has to name it."""
        return Path(os.path.relpath(path.resolve(), self.folder)).as_posix()

    def write(self) -> DescribedScan:
        """Write the files that stand beside, then the description.

        Raises
        ------
        UsageError
            When one of them is there already.
        StorageError
            When one of them cannot be written; none is left then.
        """
        try:
            text = self._text().encode("utf-8")
        except UnicodeEncodeError as error:  # names of files can be any bytes
            raise self.error("names in UTF-8", error) from error
        done: list[Path] = []
        path = self.path
        try:
            for path in (self.path, *self._beside):
                if path.exists():
                    found = "expected no such file yet, found one; name another by --output"
                    message = f"{path}: {found}"
                    raise UsageError(message)
            for path, write in self._beside.items():
                done.append(path)
                write(path)
            path = self.path
            done.append(path)
            path.write_bytes(text)
        except BaseException as error:
            for one in done:
                one.unlink(missing_ok=True)
            if isinstance(error, OSError):
                message = f"{path}: expected to write it, found {error.strerror or error}"
                raise StorageError(message) from error
            raise
        return DescribedScan(
            self.path, tuple(self._beside), tuple(self._to_check), tuple(self._to_fill_in)
        )

    def _remark(self, key: str, text: str, *, check: bool) -> None:
        table = key.split(".", maxsplit=1)[0]
        self._lines[table] += _comment(f"CHECK: {text}" if check else text)
        if check:
            self._to_check.append(f"{key}: {text}")

    def _text(self) -> str:
        lines = [*_comment(_HEAD.format(source=self.source.name)), "format_version = 1"]
        for table, content in self._lines.items():
            if content:
                lines += ["", f"[{table}]", *content]
        return "\n".join(lines) + "\n"


def _toml(value: Value) -> str:
    if isinstance(value, str):
        # TOML writes texts as JSON does, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        rows = textwrap.wrap(", ".join(map(repr, value)), 96)
        return "\n  ".join(["[", *rows]) + "\n]"
    return repr(value)


def _comment(text: str) -> list[str]:
    # what others wrote must not end a comment
    plain = "".join(letter if letter.isprintable() else "?" for letter in one_line(text, 1000))
    return textwrap.wrap(plain, 96, initial_indent="# ", subsequent_indent="# ")
