"""The journals of a landing: how records lie in their files, and how they are found again."""

import hashlib
import io
import json
import os
import re
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

JOURNAL_NAME: Final = re.compile(r"(\d{12})\.landing")
LOCK_NAME: Final = "landing.lock"
"""A file that makes a folder a landing: its gateway holds a lock on it."""
_STEP_BYTES: Final = 1 << 20
MAGIC: Final = b"PSLAND01"
HEADER: Final = struct.Struct("<8sIQ32sI")
_MAX_NOTES_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Landed:
    """One object that is durable in the landing.

    Attributes
    ----------
    sha256, size_bytes
        of its bytes
    source
        where it came from, for people and the tables
    received_at
        when, UTC
    journal, offset
        where its bytes are
    """

    sha256: str
    size_bytes: int
    source: str
    received_at: datetime
    journal: int
    offset: int


def record_header(digest: bytes, size_bytes: int, source: str, received_at: datetime) -> bytes:
    """Write what comes before an object in its journal."""
    notes = json.dumps({"source": source, "received_at": received_at.isoformat()}).encode()
    return HEADER.pack(MAGIC, len(notes), size_bytes, digest, zlib.crc32(notes)) + notes


class FilePart(io.RawIOBase):
    """A part of a file, as a seekable file; closing it closes the file."""

    def __init__(self, stream: io.FileIO, start: int, size_bytes: int) -> None:
        super().__init__()
        self._stream, self._start, self._size_bytes = stream, start, size_bytes
        self._at = 0

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read as much as there is and fits, and go on after it."""
        view = memoryview(buffer)[: max(self._size_bytes - self._at, 0)]
        got = os.preadv(self._stream.fileno(), [view], self._start + self._at) if view else 0
        self._at += got
        return got

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place of the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size_bytes}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from anywhere."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()


def open_record(path: Path, offset: int, size_bytes: int) -> BinaryIO:
    """Open an object of a journal as a seekable file."""
    return io.BufferedReader(FilePart(io.FileIO(path), offset, size_bytes), _STEP_BYTES)


def read_journal(path: Path, number: int) -> tuple[list[Landed], int]:
    """Read the whole records of a journal, also those behind bytes that a disk has changed.

    Returns
    -------
    tuple
        the records, and how many bytes were one or several once but are damaged: all that are in
        no whole record, but for a last one that is cut off, which nobody was told is stored
    """
    size_bytes = path.stat().st_size
    landed: list[Landed] = []
    at = end = damaged = 0
    with path.open("rb") as stream:
        while at < size_bytes:
            one = _record_at(stream, at, size_bytes, number)
            if one is not None:
                landed.append(one)
                damaged += at - end
                at = end = one.offset + one.size_bytes
                continue
            found = _next_magic(stream, at + 1)
            if found is None:
                break
            at = found
        if end < size_bytes and not _is_cut_off(stream, end, size_bytes):
            damaged += size_bytes - end
    return landed, damaged


def _record_at(stream: BinaryIO, at: int, size_bytes: int, number: int) -> Landed | None:
    """Read the record at a place; None where it is not whole."""
    stream.seek(at)
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    magic, notes_bytes, object_bytes, digest, checksum = HEADER.unpack(header)
    if magic != MAGIC or notes_bytes > _MAX_NOTES_BYTES:
        return None
    notes = stream.read(notes_bytes)
    offset = stream.tell()
    if zlib.crc32(notes) != checksum or offset + object_bytes > size_bytes:
        return None
    found, left = hashlib.sha256(), object_bytes
    while left and (part := stream.read(min(left, _STEP_BYTES))):
        found.update(part)
        left -= len(part)
    if left or found.digest() != digest:
        return None
    told = json.loads(notes)
    received_at = datetime.fromisoformat(told["received_at"])
    return Landed(digest.hex(), object_bytes, told["source"], received_at, number, offset)


def _next_magic(stream: BinaryIO, at: int) -> int | None:
    """Find where a record may begin, from a place on."""
    kept = b""
    stream.seek(at)
    while part := stream.read(_STEP_BYTES):
        place = (kept + part).find(MAGIC)
        if place >= 0:
            return at - len(kept) + place
        at += len(part)
        kept = (kept + part)[1 - len(MAGIC) :]
    return None


def _is_cut_off(stream: BinaryIO, at: int, size_bytes: int) -> bool:
    """Tell whether a file ends within the record at a place, or before anything was written."""
    stream.seek(at)
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return True
    magic, notes_bytes, object_bytes, _, _ = HEADER.unpack(header)
    if magic == MAGIC:
        return bool(at + HEADER.size + notes_bytes + object_bytes > size_bytes)
    stream.seek(at)
    return not any(map(any, iter(lambda: stream.read(_STEP_BYTES), b"")))
