"""Reading a data file of `objects` from front to back: what it says it holds, and what it holds.

A file says twice where its bytes are: in its Parquet footer, which this reads, and in the rows of
`instances` and `rejects`. Of each row group the footer gives where its three columns lie::

    sha256 | piece | content: page header, length (4 bytes), bytes
                              └ says how long the rest is
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pacspark.tables.footer import (
    COLUMNS,
    COMPRESSED_SIZE,
    DATA_PAGE_OFFSET,
    META_DATA,
    NUM_ROWS,
    ROW_GROUPS,
    Struct,
    parse_footer,
)
from pacspark.tables.forward import ForwardReader

_MAGIC: Final = b"PAR1"
_TAIL_BYTES: Final = 8
_HEAD_BYTES: Final = 64
_DIGEST_CHARS: Final = 64
_LENGTH_BYTES: Final = 4
_PAGE_START: Final = b"\x15\x00\x15"
"""How the header of a data page begins (Thrift, compact): its type, then its length as a varint."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Where a row group lies in its file.

    Attributes
    ----------
    digest_end, piece_end
        where the values of the small columns end
    content_start, content_end
        page header, length and bytes of the content
    """

    start: int
    digest_end: int
    piece_end: int
    content_start: int
    content_end: int


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One object of a file, as it was read.

    Attributes
    ----------
    sha256
        what the column of that name says
    row_group, pieces, offsets, size_bytes
        where its bytes are, as `ObjectLocation` has it
    found
        the SHA-256 of the bytes; empty where they could not be read
    trouble
        why not, or what else is wrong with how they lie
    """

    sha256: str
    row_group: int
    pieces: int
    offsets: tuple[int, ...]
    size_bytes: int
    found: str
    trouble: str = ""


@dataclass(slots=True)
class _Open:
    """An object of which pieces are still to come."""

    sha256: str
    row_group: int
    left: int | None
    digest: "hashlib._Hash"
    offsets: list[int]
    size_bytes: int = 0
    trouble: str = ""
    unread: bool = False

    def close(self) -> FoundObject:
        return FoundObject(
            self.sha256,
            self.row_group,
            len(self.offsets),
            tuple(self.offsets),
            self.size_bytes,
            "" if self.unread else self.digest.hexdigest(),
            self.trouble,
        )


def read_footer(reader: ForwardReader, size_bytes: int) -> list[RowGroup]:
    """Read where the row groups of a file lie.

    Raises
    ------
    OSError
        where the footer is not one: one line, what was expected and what was found
    """
    if size_bytes < len(_MAGIC) + _TAIL_BYTES:
        message = f"expected a Parquet file, found {size_bytes} bytes"
        raise OSError(message)
    reader.plan([(0, len(_MAGIC)), (size_bytes - _TAIL_BYTES, size_bytes)])
    start = reader.read(0, len(_MAGIC))
    tail = reader.read(size_bytes - _TAIL_BYTES, size_bytes)
    length = int.from_bytes(tail[:_LENGTH_BYTES], "little")
    first = size_bytes - _TAIL_BYTES - length
    if start != _MAGIC or tail[_LENGTH_BYTES:] != _MAGIC or first < len(_MAGIC):
        message = f"expected a Parquet file, found {start!r} at its start and {tail!r} at its end"
        raise OSError(message)
    reader.plan([(first, size_bytes)])
    try:
        return list(_row_groups(parse_footer(reader.read(first, size_bytes - _TAIL_BYTES)), first))
    except (ValueError, KeyError, TypeError) as error:
        message = f"expected a Parquet footer, found {error!r:.200}"
        raise OSError(message) from error


def _row_groups(footer: Struct, end: int) -> Iterator[RowGroup]:
    position = len(_MAGIC)
    for number, group in enumerate(footer[ROW_GROUPS]):
        columns = [column[META_DATA] for column in group[COLUMNS]]
        if len(columns) != 3 or group[NUM_ROWS] != 1:
            message = f"row group {number} of {group[NUM_ROWS]} rows, {len(columns)} columns"
            raise ValueError(message)
        bounds = []
        for column in columns:
            start = column[DATA_PAGE_OFFSET]
            bounds += [start, start + column[COMPRESSED_SIZE]]
        if [position, *bounds, end] != sorted([position, *bounds, end]):
            message = f"row group {number} out of its place"
            raise ValueError(message)
        yield RowGroup(bounds[0], bounds[1], bounds[3], bounds[4], bounds[5])
        position = bounds[5]


def scan_objects(
    reader: ForwardReader,
    groups: Sequence[RowGroup],
    listed: Mapping[int, int],
    only_listed: bool = False,
) -> Iterator[FoundObject]:
    """Read objects from front to back, each byte once.

    Parameters
    ----------
    reader
        of the file
    groups
        from :func:`read_footer`
    listed
        first row group -> number of pieces, of the objects that rows refer to
    only_listed
        read those alone
    """
    if only_listed:
        numbers = sorted(
            {n for start, count in listed.items() for n in range(start, start + count)}
        )
        numbers = [number for number in numbers if number < len(groups)]
    else:
        numbers = list(range(len(groups)))
    reader.plan((groups[number].start, groups[number].content_end) for number in numbers)
    current: _Open | None = None
    for number in numbers:
        group = groups[number]
        sha256, piece, trouble = _small_columns(reader, group)
        if current is not None and _is_over(current, number, piece, sha256, listed):
            yield current.close()
            current = None
        if current is None:
            left = listed.get(number)
            if piece and not trouble:
                trouble = f"row group {number}: expected piece 0, found piece {piece}"
            current = _Open(sha256, number, left, hashlib.sha256(), [], 0, trouble)
        elif sha256 != current.sha256 or piece != len(current.offsets):
            current.trouble = trouble or (
                f"row group {number}: expected piece {len(current.offsets)} of {current.sha256}, "
                f"found piece {piece} of {sha256}"
            )
        _add_content(reader, group, current)
        if current.left is not None:
            current.left -= 1
    if current is not None:
        yield current.close()


def _is_over(
    current: _Open, number: int, piece: int, sha256: str, listed: Mapping[int, int]
) -> bool:
    if current.left is not None:
        return current.left <= 0
    return number in listed or piece == 0 or sha256 != current.sha256


def _small_columns(reader: ForwardReader, group: RowGroup) -> tuple[str, int, str]:
    try:
        digest = reader.read(group.digest_end - _DIGEST_CHARS, group.digest_end)
        piece = reader.read(group.piece_end - _LENGTH_BYTES, group.piece_end)
    except OSError as error:
        return "", -1, str(error)
    return digest.decode("latin-1"), int.from_bytes(piece, "little", signed=True), ""


def _add_content(reader: ForwardReader, group: RowGroup, current: _Open) -> None:
    start = group.content_start
    try:
        start = _content_bytes(reader, group)
        for view in reader.views(start, group.content_end):
            current.digest.update(view)
    except OSError as error:
        current.unread, current.trouble = True, str(error)
    current.offsets.append(start)
    current.size_bytes += group.content_end - start


def _content_bytes(reader: ForwardReader, group: RowGroup) -> int:
    """Find where the bytes of a page begin, from its header."""
    size = group.content_end - group.content_start
    head = reader.read(group.content_start, group.content_start + min(size, _HEAD_BYTES))
    length, shift, position = 0, 0, len(_PAGE_START)
    for byte in head[position : position + 5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    length >>= 1  # numbers are written zigzag
    start = size - length
    said = int.from_bytes(head[start : start + _LENGTH_BYTES], "little")
    if (
        not head.startswith(_PAGE_START)
        or not len(_PAGE_START) < start <= len(head) - _LENGTH_BYTES
        or said != length - _LENGTH_BYTES
    ):
        message = f"expected the header of a page at {group.content_start}, found {head[:16]!r}"
        raise OSError(message)
    return group.content_start + start + _LENGTH_BYTES
