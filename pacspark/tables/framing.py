"""Frames of stored objects as arrays: read by ranges, some megabytes at a time, decoded.

The rows that say where frames are may come from anywhere, from a Spark task's input as well: a run
of frames is one instance's row, with the numbers of its first frame and of frames.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.dicom.frames import FrameIndex
from pacspark.dicom.pixels import (
    NATIVE_BITS,
    compressed_pixels,
    native_pixels,
    object_pixels,
)
from pacspark.errors import DicomDecodeError, MissingDependencyError
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import FRAME_COLUMNS, LOCATION_COLUMNS, frame_index

RUN_BYTES: Final = 8 << 20
"""Decoded frames that are held at a time, about."""
RUN_FRAMES: Final = 4096
PIXEL_COLUMNS: Final = (
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "rows",
    "columns",
    "samples_per_pixel",
    "photometric_interpretation",
    "planar_configuration",
    "bits_allocated",
    "bits_stored",
    "high_bit",
    "pixel_representation",
    *LOCATION_COLUMNS,
    *FRAME_COLUMNS,
)
"""Columns of `instances` that decoding asks for."""


@dataclass(frozen=True, slots=True)
class DecodedRun:
    """Consecutive frames of one instance.

    Attributes
    ----------
    first
        number of the first, from 0
    pixels
        ``(count, rows, columns)``, of colours ``(count, rows, columns, samples)``; little endian, C
        order. None where they cannot be decoded
    error
        why, in one line; empty where they can
    """

    first: int
    count: int
    pixels: NDArray[Any] | None
    error: str = ""


def decode_run(
    catalog: Catalog, row: Mapping[str, Any], first: int, count: int
) -> Iterator[DecodedRun]:
    """Decode a run of frames: together where they lie native, else one after the other.

    What is wrong with a frame is told in its place: one broken object among a million ends nothing.

    Parameters
    ----------
    catalog
        of the archive
    row
        of `instances`, with `PIXEL_COLUMNS`. Its fragments may be those of the run alone
    first, count
        which frames, from 0

    Raises
    ------
    StorageError
        where bytes cannot be read
    """
    index = frame_index(row)
    if index.kind == "native" and first + count <= index.count and _is_plain(row):
        yield _decoded(first, count, lambda: _native(catalog, row, index, first, count))
        return
    frame = _reader(catalog, row, index, first, count)
    for number in range(first, first + count):
        yield _decoded(number, 1, partial(frame, number))


def _decoded(first: int, count: int, decode: Callable[[], NDArray[Any]]) -> DecodedRun:
    try:
        return DecodedRun(first, count, decode())
    except (DicomDecodeError, MissingDependencyError) as error:
        return DecodedRun(first, count, None, str(error))


def _is_plain(row: Mapping[str, Any]) -> bool:
    """Tell whether native pixels need no more than to be looked at."""
    grey = (row["samples_per_pixel"] or 1) == 1
    plain_colours = row["photometric_interpretation"] == "RGB" and row["samples_per_pixel"] == 3
    return (grey or plain_colours) and row["bits_allocated"] in NATIVE_BITS


def _native(
    catalog: Catalog, row: Mapping[str, Any], index: FrameIndex, first: int, count: int
) -> NDArray[Any]:
    ((start, length),) = index.ranges(first)
    cells = native_pixels(catalog.read_range(row, start, count * length), row)
    n_rows, n_columns, samples = row["rows"], row["columns"], row["samples_per_pixel"] or 1
    if samples == 1:
        return _little(cells.reshape(count, n_rows, n_columns))
    if row["planar_configuration"] == 1:
        planes = cells.reshape(count, samples, n_rows, n_columns)
        return _little(np.moveaxis(planes, 1, -1))
    return _little(cells.reshape(count, n_rows, n_columns, samples))


def _reader(
    catalog: Catalog, row: Mapping[str, Any], index: FrameIndex, first: int, count: int
) -> Callable[[int], NDArray[Any]]:
    """Give what reads and decodes one frame of a run: an array whose first axis has length 1."""
    if index.kind != "encapsulated" or not index.count:
        data = catalog.read_object(row)
        return lambda number: _little(object_pixels(data, row, number)[np.newaxis])
    # of the run alone, or of all frames of the object
    skipped = first if index.count == count else 0

    def compressed(number: int) -> NDArray[Any]:
        pieces = [catalog.read_range(row, *piece) for piece in index.ranges(number - skipped)]
        return _little(compressed_pixels(b"".join(pieces), row)[np.newaxis])

    return compressed


def _little(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
