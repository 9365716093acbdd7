"""UIDs that are derived, never drawn: the same content always has the same UID.

PS3.5 B.2 permits ``2.25.`` and a 128-bit number in decimal.
"""

import hashlib


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
