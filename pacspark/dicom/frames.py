"""Where each frame of an object lies in its bytes, so that a frame is one range read.

Native pixel data (PS3.5 8.1.1) need arithmetic only. Encapsulated pixel data (PS3.5 A.4) are a
chain of fragments; which of them make a frame is told by the extended offset table, else by the
basic offset table, else by counting, else by the end marks of the JPEG family.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydicom.uid import AllTransferSyntaxes

from pacspark.errors import DicomDecodeError

FrameKind = Literal["none", "native", "encapsulated", "deflated"]

_VIDEO: Final = re.compile(r"1\.2\.840\.10008\.1\.2\.(4\.10[0-8](\.1)?|7\.[0-9]+)")
_DEFLATED: Final = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
)
_ENCAPSULATED: Final = frozenset(str(uid) for uid in AllTransferSyntaxes if uid.is_encapsulated)
# JPEG, JPEG-LS and JPEG 2000 all end with this mark; padding may follow it
END_OF_IMAGE: Final = b"\xff\xd9"
END_OF_IMAGE_REACH_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """The place of every frame inside a Part 10 stream, in plain values that fit a table's row.

    Attributes
    ----------
    kind
        ``none`` without pixel data, ``deflated`` where the pixel data have no bytes of their own in
        the stream
    count
        frames that have a place here; 0 where none can be told, as in video or in pixel data
        without rows and columns
    pixel_data_offset, pixel_data_length
        the value field of the pixel data; of encapsulated ones from the item of the basic offset
        table up to the end of the last fragment
    frame_size_bits
        native only; bits, because frames of one-bit pixels may begin inside a byte
    fragment_offsets, fragment_lengths
        encapsulated only; the content of each fragment, without its item header
    fragments_of_frame
        encapsulated only; how many fragments each frame has, empty where each has one
    """

    kind: FrameKind = "none"
    count: int = 0
    pixel_data_offset: int | None = None
    pixel_data_length: int | None = None
    frame_size_bits: int | None = None
    fragment_offsets: Sequence[int] = ()
    fragment_lengths: Sequence[int] = ()
    fragments_of_frame: Sequence[int] = ()

    def ranges(self, frame: int) -> tuple[tuple[int, int], ...]:
        """Give offset and length of the pieces whose bytes, joined, are one frame.

        Parameters
        ----------
        frame
            0 is the first

        Raises
        ------
        IndexError
            where the frame has no place in this index

        Examples
        --------
        >>> FrameIndex("native", count=2, pixel_data_offset=1000, frame_size_bits=4096).ranges(1)
        ((1512, 512),)
        """
        if not 0 <= frame < self.count:
            message = f"frame {frame}: the index has {self.count} frames, counted from 0"
            raise IndexError(message)
        if self.kind == "native" and self.pixel_data_offset is not None and self.frame_size_bits:
            first_bit = frame * self.frame_size_bits
            start, end = first_bit // 8, -(-(first_bit + self.frame_size_bits) // 8)
            return ((self.pixel_data_offset + start, end - start),)
        first, number = frame, 1
        if self.fragments_of_frame:
            first = sum(self.fragments_of_frame[:frame])
            number = self.fragments_of_frame[frame]
        return tuple(
            (self.fragment_offsets[i], self.fragment_lengths[i])
            for i in range(first, first + number)
        )

    def first_bit(self, frame: int) -> int:
        """Give the bits to skip in the first byte of a frame: 0, but for one-bit pixels."""
        return frame * (self.frame_size_bits or 0) % 8


@dataclass(frozen=True, slots=True)
class Fragments:
    """The fragments of encapsulated pixel data, as found by walking over them.

    Attributes
    ----------
    offsets, lengths
        the content of each fragment
    end
        where the last fragment ends
    basic_offset_table
        the content of the first item
    """

    offsets: Sequence[int]
    lengths: Sequence[int]
    end: int
    basic_offset_table: bytes


def native_frames(
    row: Mapping[str, object], transfer_syntax_uid: str, offset: int, length: int, sample_bits: int
) -> FrameIndex:
    """Place the frames of native pixel data (PS3.5 8.1.1; PS3.3 C.7.6.3.1.2 for 4:2:2).

    Parameters
    ----------
    row
        columns of the object
    transfer_syntax_uid
        compressed pixel data of defined length contradict it, and have no frames here
    offset, length
        the value field, in bytes
    sample_bits
        1, or a multiple of 8; 32 and 64 for float and double float pixel data

    Raises
    ------
    DicomDecodeError
        where the frames are longer than the value field
    """
    frame_size_bits = (
        _positive(row, "rows")
        * _positive(row, "columns")
        * max(_positive(row, "samples_per_pixel"), 1)
        * sample_bits
    )
    if row["photometric_interpretation"] in {"YBR_FULL_422", "YBR_PARTIAL_422"}:
        frame_size_bits = frame_size_bits * 2 // 3
    count = frame_count(row)
    if transfer_syntax_uid in _ENCAPSULATED or not frame_size_bits:
        return FrameIndex("native", 0, offset, length)
    expected_bytes = -(-count * frame_size_bits // 8)
    if expected_bytes > length:
        message = (
            f"pixel data at byte {offset}: expected {expected_bytes} bytes (Rows {row['rows']}, "
            f"Columns {row['columns']}, frames {count}), found {length}"
        )
        raise DicomDecodeError(message)
    return FrameIndex("native", count, offset, length, frame_size_bits)


def encapsulated_frames(
    row: Mapping[str, object],
    transfer_syntax_uid: str,
    offset: int,
    fragments: Fragments,
    extended_offset_table: bytes,
    tail_of: Callable[[int], bytes],
) -> FrameIndex:
    """Place the frames of encapsulated pixel data (PS3.5 A.4; PS3.3 C.7.6.3.1.8).

    Parameters
    ----------
    row
        columns of the object
    transfer_syntax_uid
        of the object: the frames of a video have no places of their own
    offset
        of the item of the basic offset table
    fragments
        the result of walking over them
    extended_offset_table
        the value field of (7FE0,0001), empty where there is none
    tail_of
        reads the last bytes before a position; asked only where nothing else tells the frames
    """
    count = frame_count(row)
    grouping: Sequence[int] | None = None
    if not _VIDEO.fullmatch(transfer_syntax_uid):
        grouping = _grouping(count, fragments, extended_offset_table, tail_of)
    if grouping is None:
        count = 0
    return FrameIndex(
        "encapsulated",
        count,
        offset,
        fragments.end - offset,
        None,
        tuple(fragments.offsets),
        tuple(fragments.lengths),
        () if grouping is None or all(number == 1 for number in grouping) else tuple(grouping),
    )


def frame_count(row: Mapping[str, object]) -> int:
    """Give the number of frames: an image without NumberOfFrames has one."""
    return max(_positive(row, "number_of_frames"), 1)


def is_deflated(transfer_syntax_uid: str) -> bool:
    """Tell whether a transfer syntax deflates the whole data set."""
    return transfer_syntax_uid in _DEFLATED


def _grouping(
    count: int,
    fragments: Fragments,
    extended_offset_table: bytes,
    tail_of: Callable[[int], bytes],
) -> Sequence[int] | None:
    """Give the number of fragments of each frame, or None where nothing tells."""
    total = len(fragments.offsets)
    if total < count:
        return None
    for table, item_bytes in ((extended_offset_table, 8), (fragments.basic_offset_table, 4)):
        if len(table) == count * item_bytes:
            starts = [
                int.from_bytes(table[i : i + item_bytes], "little")
                for i in range(0, len(table), item_bytes)
            ]
            numbers = _fragments_between(starts, fragments)
            if numbers is not None:
                return numbers
    if count == 1:
        return (total,)
    if count == total:
        return (1,) * total
    ends = [
        i
        for i, (offset, length) in enumerate(zip(fragments.offsets, fragments.lengths, strict=True))
        if length and END_OF_IMAGE in tail_of(offset + length)[-length:]
    ]
    if len(ends) == count and ends[-1] == total - 1:
        return [end - start for start, end in zip([-1, *ends], ends, strict=False)]
    return None


def _fragments_between(starts: Sequence[int], fragments: Fragments) -> list[int] | None:
    """Give the fragments from each offset of a table to the next; None for a table that lies."""
    first_item = fragments.offsets[0] - 8
    by_start = {offset - 8 - first_item: i for i, offset in enumerate(fragments.offsets)}
    firsts = [by_start.get(start, -1) for start in starts]
    if firsts[0] != 0:
        return None
    numbers = [
        stop - start
        for start, stop in zip(firsts, [*firsts[1:], len(fragments.offsets)], strict=True)
    ]
    return numbers if min(numbers) > 0 else None


def _positive(row: Mapping[str, object], column: str) -> int:
    value = row[column]
    return value if isinstance(value, int) and value > 0 else 0
