"""Checked access to a TOML file: every key is named in what is said about it."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pacspark.errors import ScanDescriptionError

MAX_TEXT_BYTES = 16 << 20


class TomlTable:
    """One table of a TOML file, read key by key.

    Parameters
    ----------
    path
        The file, for messages.
    name
        Of the table; empty for the whole file.
    values
        Its content.
    keys
        The keys that it may have, and in words what each is used with only, or nothing; None: any.

    Raises
    ------
    ScanDescriptionError
        When it has another key. That comes first: a misspelt key is a missing one too.
    """

    def __init__(
        self, path: Path, name: str, values: Mapping[str, Any], keys: Mapping[str, str] | None
    ) -> None:
        self.path = path
        self.name = name
        self._values = values
        self._keys = keys
        self._asked: set[str] = set()
        for key in values:
            if keys is not None and key not in keys:
                near = get_close_matches(key.lower(), keys, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                known = ", ".join(sorted(keys))
                raise self.error(key, f"one of the keys {known}", f"an unknown key{hint}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def error(self, key: str, expected: str, found: object) -> ScanDescriptionError:
        """Return the one line that tells what is wrong with a key."""
        name = f"{self.name}.{key}" if self.name else key
        return ScanDescriptionError(
            f"{self.path}: {name}: expected {expected}, found {one_line(found)}"
        )

    def table(
        self, key: str, keys: Mapping[str, str] | None = None, *, required: bool = False
    ) -> "TomlTable":
        """Return a table below this one; an empty one where it may be missing."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"a table [{key}]", repr(value))
        if required and not value:
            raise self.error(key, f"a table [{key}]", "none")
        return TomlTable(self.path, f"{self.name}.{key}" if self.name else key, value, keys)

    def tables(self, key: str, keys: Mapping[str, str]) -> list["TomlTable"]:
        """Return the tables of an array of them; none where it is missing."""
        name = f"{self.name}.{key}" if self.name else key
        rows = self._get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self.error(key, f"tables [[{name}]]", _shown(rows))
        return [TomlTable(self.path, f"{name}[{n}]", row, keys) for n, row in enumerate(rows)]

    def flag(self, key: str) -> bool:
        """Return true or false; false where it is missing."""
        value = self._get(key, default=False)
        if not isinstance(value, bool):
            raise self.error(key, "true or false", _shown(value))
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text."""
        value = self._get(key, default)
        if not isinstance(value, str) or not value:
            raise self.error(key, "a text", _shown(value))
        return value

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """Return a text that is one of several."""
        value = self._get(key, default)
        if value not in choices:
            raise self.error(key, f"one of {', '.join(choices)}", _shown(value))
        return str(value)

    def number(self, key: str, default: float | None = None, *, positive: bool = False) -> float:
        """Return a finite number."""
        value = self._get(key, default)
        number = _finite(value)
        if number is None:
            raise self.error(key, "a number", _shown(value))
        if positive and number <= 0:
            raise self.error(key, "a number > 0", value)
        return number

    def optional_number(self, key: str, *, positive: bool = False) -> float | None:
        """Return a finite number, or None where the key is missing."""
        self._asked.add(key)
        return self.number(key, positive=positive) if key in self else None

    def count(self, key: str, default: int | None = None, *, smallest: int = 1) -> int:
        """Return a whole number of at least `smallest`."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
            raise self.error(key, f"a whole number >= {smallest}", _shown(value))
        return value

    def numbers(self, key: str) -> list[float]:
        """Return a list of finite numbers."""
        value = self._get(key, None)
        if not isinstance(value, list) or not value:
            raise self.error(key, "a list of numbers", _shown(value))
        numbers = []
        for place, item in enumerate(value):
            number = _finite(item)
            if number is None:
                raise self.error(f"{key}[{place}]", "a number", _shown(item))
            numbers.append(number)
        return numbers

    def counts(self, key: str, *, smallest: int) -> list[int]:
        """Return a list of whole numbers of at least `smallest`."""
        value = self._get(key, None)
        if not isinstance(value, list) or not value:
            raise self.error(key, "a list of whole numbers", _shown(value))
        for place, item in enumerate(value):
            if isinstance(item, bool) or not isinstance(item, int) or item < smallest:
                expected = f"a whole number >= {smallest}"
                raise self.error(f"{key}[{place}]", expected, _shown(item))
        return list(value)

    def texts(self, key: str) -> list[str]:
        """Return a list of texts."""
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "a list of texts", _shown(value))
        return list(value)

    def plain(self) -> dict[str, str | int | float]:
        """Return all keys of this table; their values must be texts or numbers."""
        for key, value in self._values.items():
            self._asked.add(key)
            if not isinstance(value, str) and _finite(value) is None:
                raise self.error(key, "a text or a number", _shown(value))
        return dict(self._values)

    def require_used(self) -> None:
        """Refuse keys that nobody asked for: the others leave them without a use."""
        for key, value in self._values.items():
            if self._keys and key not in self._asked:
                raise self.error(key, f"it only with {self._keys[key]}", _shown(value))

    def _get(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        return self._values.get(key, default)


def read_toml(path: Path, keys: Mapping[str, str]) -> TomlTable:
    """Read a TOML file.

    Parameters
    ----------
    path
        The file.
    keys
        Of the whole file; see `TomlTable`.

    Raises
    ------
    ScanDescriptionError
        When it is missing, no TOML, or has other keys.
    """
    try:
        values = tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        message = f"{path}: expected a scan description, found no such file"
        raise ScanDescriptionError(message) from error
    except OSError as error:
        message = f"{path}: expected a scan description, found {error.strerror}"
        raise ScanDescriptionError(message) from error
    except (ValueError, RecursionError) as error:
        # besides its own error, tomllib lets those of int() and of deep nesting through
        message = f"{path}: expected TOML, found {one_line(error)}"
        raise ScanDescriptionError(message) from error
    return TomlTable(path, "", values, keys)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises
    ------
    OSError
        When it cannot be read.
    ValueError
        When its name, its length or its bytes cannot be those of a text.
    """
    return read_small_file(path).decode("utf-8")


def read_small_file(path: Path, most_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read a file that people write, or a header that a scanner writes: not one of pixels.

    Raises
    ------
    OSError
        When it cannot be read.
    ValueError
        When it is no regular file, or too long.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        message = "no regular file"
        raise ValueError(message)
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        message = f"more than {most_bytes >> 20} MiB"
        raise ValueError(message)
    return content


def one_line(found: object, longest: int = 300) -> str:
    """Return what was found as part of a message: one line, of bounded length."""
    text = " ".join(str(found).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def _finite(value: object) -> float | None:
    """Return a finite TOML number as a float, and None for whatever else TOML may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    try:
        return repr(value)[:80]
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return f"a {type(value).__name__} beyond all bounds"
