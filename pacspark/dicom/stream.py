"""Random access to the bytes of one object, with nothing trusted and nothing large held.

The walk over an object asks for a few bytes at a position and skips the rest, so that pixel data of
several gigabytes are never read, a length that lies costs nothing, and a deflated data set is
inflated piece by piece.
"""

import os
import zlib
from typing import BinaryIO, Final, Protocol

from pacspark.errors import DicomDecodeError

READ_AHEAD_BYTES: Final = 64 * 1024
"""What one read of a file takes: about one CT header with its private groups."""

INFLATE_LIMIT_BYTES: Final = 1 << 30
"""How much a deflated data set may inflate to in all; only a window of it is ever held."""

_INFLATE_STEP_BYTES: Final = 256 * 1024


class ByteStream(Protocol):
    """The bytes of one object, by position."""

    def take(self, position: int, length: int) -> bytes:
        """Give up to ``length`` bytes from ``position``; fewer at the end of the stream."""

    def peek(self, position: int, length: int) -> bytes:
        """Do the same for a place whose surroundings nobody will ask for."""

    def available(self, position: int, length: int) -> int:
        """Tell how many of ``length`` bytes from ``position`` the stream has."""

    def finish(self) -> None:
        """Check what only the end of the stream can tell."""


class MemoryStream:
    """A stream over bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._size = len(data)

    def take(self, position: int, length: int) -> bytes:
        """Give up to ``length`` bytes from ``position``."""
        return self._data[position : position + length]

    peek = take

    def available(self, position: int, length: int) -> int:
        """Tell how many of ``length`` bytes from ``position`` there are."""
        return min(length, self._size - position)

    def finish(self) -> None:
        """Do nothing: all was there from the start."""


class FileStream:
    """A stream over a seekable binary file, which is read in windows of 64 KiB.

    Raises
    ------
    OSError
        as the file does: a disk that fails says nothing about the object
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._window = b""
        self._start = 0

    def take(self, position: int, length: int) -> bytes:
        """Give up to ``length`` bytes from ``position``, reading ahead."""
        offset = position - self._start
        if offset < 0 or offset + length > len(self._window):
            self._window = self.peek(position, max(length, READ_AHEAD_BYTES))
            self._start = position
            offset = 0
        return self._window[offset : offset + length]

    def peek(self, position: int, length: int) -> bytes:
        """Give up to ``length`` bytes from ``position``, and read no byte more."""
        left = self.available(position, length)
        if left <= 0:
            return b""
        self._file.seek(position)
        data = self._file.read(left)
        while len(data) < left:  # raw files and sockets may give less than asked
            more = self._file.read(left - len(data))
            if not more:
                break
            data += more
        return data

    def available(self, position: int, length: int) -> int:
        """Tell how many of ``length`` bytes from ``position`` there are."""
        return min(length, self._size - position)

    def finish(self) -> None:
        """Do nothing: the size was known from the start."""


class InflatedStream:
    """A stream over the inflated data set of a deflated object, forward only (PS3.5 A.5).

    Positions go on where the deflated bytes begin: position ``start`` is the first inflated byte.

    Raises
    ------
    DicomDecodeError
        where the compressed bytes are broken or end early, or inflate to more than 1 GiB
    """

    def __init__(self, source: ByteStream, start: int) -> None:
        self._source = source
        self._next_input = start
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._window = b""
        self._start = start
        self._limit = start + INFLATE_LIMIT_BYTES

    def take(self, position: int, length: int) -> bytes:
        """Give up to ``length`` bytes from ``position``, and forget what lies before it."""
        offset = position - self._start
        if offset + length > len(self._window):
            self._inflate_to(position, length)
            offset = position - self._start
        return self._window[offset : offset + length]

    peek = take

    def available(self, position: int, length: int) -> int:
        """Tell how many of ``length`` bytes from ``position`` there are, holding none of them."""
        end = position + length
        if end > self._start + len(self._window):
            # one byte stays in the window, so that the position can still be asked for
            self._inflate_to(end - 1, 1)
        return min(length, self._start + len(self._window) - position)

    def finish(self) -> None:
        """Inflate what is left: a stream that stops early is a truncated object."""
        self._inflate_to(self._limit, 1)
        if not self._inflater.eof:
            message = (
                "deflated data set: expected the end of its zlib stream, found the end of the bytes"
            )
            raise DicomDecodeError(message)

    def _inflate_to(self, position: int, length: int) -> None:
        """Move the window to ``position``, over at least ``length`` bytes if there are any."""
        end = self._start + len(self._window)
        pieces = [self._window[max(position - self._start, 0) :]]
        held_from = min(max(position, self._start), end)
        while end < position + length and not self._inflater.eof:
            piece = self._next_piece()
            if not piece and not self._inflater.eof and not self._has_input():
                break
            end += len(piece)
            if end > self._limit:
                message = (
                    f"deflated data set: expected at most {INFLATE_LIMIT_BYTES} bytes "
                    "after inflating, found more"
                )
                raise DicomDecodeError(message)
            pieces.append(piece)
            if end <= position:
                pieces, held_from = [], end
        self._window = b"".join(pieces)
        self._start = held_from

    def _has_input(self) -> bool:
        return bool(self._inflater.unconsumed_tail) or (
            self._source.available(self._next_input, 1) > 0
        )

    def _next_piece(self) -> bytes:
        data = self._inflater.unconsumed_tail
        if not data:
            data = self._source.peek(self._next_input, _INFLATE_STEP_BYTES)
            self._next_input += len(data)
        try:
            return self._inflater.decompress(data, _INFLATE_STEP_BYTES)
        except zlib.error as error:
            message = f"deflated data set: expected a zlib stream, found {error}"
            raise DicomDecodeError(message) from error
