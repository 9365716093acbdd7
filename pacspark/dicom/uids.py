"""UIDs: their syntax, and those that are derived, never drawn, so that content tells its UID.

PS3.5 B.2 permits ``2.25.`` and a 128-bit number in decimal.
"""

import hashlib
import re
from typing import Final

from pacspark.errors import UsageError

_SYNTAX: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_MOST_CHARACTERS: Final = 64


def is_uid(text: str) -> bool:
    """Tell whether a text is a UID (PS3.5 9.1); leading zeros of a component pass, as devices do.

    Examples
    --------
    >>> is_uid("1.2.840"), is_uid("1..2"), is_uid("../1")
    (True, False, False)
    """
    return len(text) <= _MOST_CHARACTERS and _SYNTAX.fullmatch(text) is not None


def require_uid(name: str, value: object) -> str:
    """Return one UID as it is.

    Raises
    ------
    UsageError
        For all else: a list of UIDs, a wildcard or nothing would be a query for several.
    """
    if not isinstance(value, str) or not is_uid(value):
        message = f"{name}: expected a UID, at most 64 digits and dots, found {value!r:.80}"
        raise UsageError(message)
    return value


def derived_uid(*parts: str | bytes) -> str:
    """Return the UID of a sequence of parts.

    Parameters
    ----------
    parts
        What the UID stands for; their order and their boundaries count.

    Examples
    --------
    >>> derived_uid("scan", "1") == derived_uid("scan1")
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return f"2.25.{int.from_bytes(digest.digest()[:16], 'big')}"
