"""Seals: by them the log of a table tells any change of a data file, and of what it says of it.

Pages of Parquet have checksums, but the headers of pages, the filters and the footer have none; a
flipped bit there can hide rows from a reader. So a file is sealed as a whole: its XXH3 stands in
the log, among the statistics of its add action, of which readers take the names that they know::

    {"numRecords":2,"minValues":{..},"maxValues":{..},"nullCount":{..},"xxh3":"..","sealed":".."}
                                                         128 bits, of the file  64, of all before

XXH3 tells accidents, at memory speed; against intent objects have their SHA-256.
"""

import re
from typing import Any, Final

import pyarrow as pa
from xxhash import xxh3_64_hexdigest, xxh3_128

_SEAL: Final = re.compile(r',"xxh3":"([0-9a-f]{32})","sealed":"([0-9a-f]{16})"\}\Z')
_NAMES: Final = ('"xxh3":', '"sealed":')  # a flipped bit leaves one of them
_SHOWN: Final = 100
_BUFFER_BYTES: Final = 1 << 16
_STEP_BYTES: Final = 4 << 20


class SealedStream:
    """An output stream that knows the XXH3 of what went through it.

    Parameters
    ----------
    stream
        where the bytes go
    """

    def __init__(self, stream: pa.NativeFile) -> None:
        through = _Through(stream)
        self._digest = through.digest
        # Python is told of blocks, not of each of the small writes that a Parquet file consists of
        self.stream = pa.BufferedOutputStream(pa.PythonFile(through, "w"), _BUFFER_BYTES)

    def close(self) -> str:
        """Close the stream and give the XXH3 of all its bytes, hexadecimal."""
        self.stream.close()
        return self._digest.hexdigest()


class _Through:
    """What pyarrow needs of a Python file to write into it."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self.digest = xxh3_128()
        self._stream = stream

    @property
    def closed(self) -> bool:
        return bool(self._stream.closed)

    def write(self, data: Any) -> None:
        self.digest.update(data)
        self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def xxh3_of(stream: pa.NativeFile) -> str:
    """Read a file whole, and give its XXH3."""
    digest = xxh3_128()
    stream.seek(0)
    while data := stream.read(_STEP_BYTES):
        digest.update(data)
    return digest.hexdigest()


def with_seal(statistics: str, xxh3: str) -> str:
    """Put the XXH3 of a file among its statistics, and seal both.

    Examples
    --------
    >>> with_seal('{"numRecords":0}', 32 * "0")
    '{"numRecords":0,"xxh3":"00000000000000000000000000000000","sealed":"8eb4b6b0cd9bd8f8"}'
    """
    text = f'{statistics[:-1]},"xxh3":"{xxh3}"'
    return f'{text},"sealed":"{_digest(text)}"}}'


def xxh3_in(statistics: str) -> str:
    """Give the XXH3 of a file from its statistics; empty where whoever wrote them does not seal.

    Raises
    ------
    ValueError
        where they are not as they were sealed
    """
    match = _SEAL.search(statistics)
    if match is None and not any(name in statistics for name in _NAMES):
        return ""
    if match is None or _digest(statistics[: match.end(1) + 1]) != match[2]:
        message = f"expected statistics as they were sealed, found {statistics[-_SHOWN:]!r}"
        raise ValueError(message)
    return match[1]


def _digest(text: str) -> str:
    return xxh3_64_hexdigest(text.encode())
