"""Pixels with rectangles blanked, frame by frame: memory holds one frame, however many there are.

Native frames are changed in place. All others (compressed, subsampled) are decoded and become
native, so nothing is lost that the decoded frame has. Bits beside the stored ones, where retired
objects keep overlays, are cleared.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from pacspark.dicom import codecs
from pacspark.dicom.frames import FrameIndex
from pacspark.dicom.pixel_rules import Rectangle
from pacspark.errors import DeidentificationError

MOST_FRAME_BYTES: Final = 1 << 30
_MOST_ELEMENT_BYTES: Final = 0xFFFFFFFE
_BYTE_BITS: Final = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Blanking:
    """What is done to the pixels of one object.

    Attributes
    ----------
    rectangles
        to blank in every frame
    clear_bits
        whether the bits that no sample stores in are cleared
    """

    rectangles: tuple[Rectangle, ...]
    clear_bits: bool

    def __bool__(self) -> bool:
        return bool(self.rectangles) or self.clear_bits

    def keeps_native(self, dataset: Dataset, index: FrameIndex) -> bool:
        """Tell whether frames can be changed where they are, without decoding."""
        subsampled = "_42" in str(dataset.get("PhotometricInterpretation", ""))
        return (
            index.kind == "native" and dataset.get("BitsAllocated") in _BYTE_BITS and not subsampled
        )


def native_frames(
    source: BinaryIO, dataset: Dataset, index: FrameIndex, blanking: Blanking, order: str, vr: str
) -> Iterator[bytes]:
    """Give the bytes of native pixel data, blanked, frame by frame.

    Parameters
    ----------
    source
        the object
    dataset, index
        its attributes and where its frames are
    blanking
        what to do
    order
        of bytes: ``<`` or ``>``
    vr
        of the pixel data: samples of one byte are swapped in the words of a big endian OW
    """
    size_bytes = (index.frame_size_bits or 0) // 8
    _require_frame(size_bytes)
    shape, planar = _shape(dataset)
    dtype = np.dtype(f"{order}u{dataset.BitsAllocated // 8}")
    swapped = vr == "OW" and order == ">" and dtype.itemsize == 1
    if swapped and size_bytes % 2:
        raise DeidentificationError("pixel data: expected frames of whole words, found odd ones")
    source.seek(index.pixel_data_offset or 0)
    for _ in range(index.count):
        data = bytearray(source.read(size_bytes))
        if len(data) != size_bytes:
            raise DeidentificationError("pixel data: expected whole frames, found an end")
        if swapped:
            np.frombuffer(data, "u2").byteswap(inplace=True)
        cells = np.frombuffer(data, dtype).reshape(shape)
        _change(cells, dataset, blanking, planar=planar)
        if swapped:
            np.frombuffer(data, "u2").byteswap(inplace=True)
        yield bytes(data)


def decoded_frames(
    source: BinaryIO, dataset: Dataset, blanking: Blanking, *, big_endian: bool
) -> Iterator[bytes]:
    """Give the frames of any pixel data, decoded and blanked, as native little endian bytes.

    `dataset` is changed into one that describes them once the first frame is there.
    """
    if dataset.get("BitsAllocated") == 1:
        raise DeidentificationError("pixel data: expected more than one bit to blank, found one")
    if big_endian:
        # what is in other words of it would have to be turned as well
        raise DeidentificationError("pixel data: expected whole bytes per sample in big endian")
    codecs.register()
    source.seek(0)
    described = False
    bits, samples = dataset.get("BitsAllocated"), dataset.get("SamplesPerPixel", 1)
    _require_frame(dataset.Rows * dataset.Columns * samples * (bits or 8) // 8)
    for frame in _decoded(source):
        if not described:
            _describe(dataset, frame)
            described = True
        cells = np.ascontiguousarray(frame)
        _change(cells, dataset, blanking, planar=False)
        yield cells.astype(cells.dtype.newbyteorder("<")).tobytes()


def _decoded(source: BinaryIO) -> Iterator[NDArray[Any]]:
    try:
        yield from iter_pixels(source)
    except (NotImplementedError, RuntimeError):
        message = "pixel data: expected a transfer syntax that can be decoded here, found another"
        raise DeidentificationError(message) from None


def element_header(vr: str, length: int, *, implicit: bool, order: str) -> bytes:
    """Give the header of the element Pixel Data."""
    if length > _MOST_ELEMENT_BYTES:
        raise DeidentificationError(
            f"pixel data: expected at most {_MOST_ELEMENT_BYTES} bytes native, found {length}"
        )
    if implicit:
        return struct.pack("<HHI", 0x7FE0, 0x0010, length)
    return struct.pack(order + "HH2sHI", 0x7FE0, 0x0010, vr.encode(), 0, length)


def _describe(dataset: Dataset, frame: NDArray[Any]) -> None:
    if frame.dtype.itemsize * 8 not in _BYTE_BITS or frame.dtype.kind not in "iu":
        raise DeidentificationError("pixel data: expected whole samples of 8 to 32 bits")
    dataset.BitsAllocated = frame.dtype.itemsize * 8
    if dataset.BitsAllocated < dataset.get("BitsStored", 0):
        raise DeidentificationError("pixel data: expected as many bits as the object says")
    if str(dataset.get("PhotometricInterpretation", "")).startswith("YBR"):
        dataset.PhotometricInterpretation = "RGB"
    if dataset.get("SamplesPerPixel", 1) > 1:
        dataset.PlanarConfiguration = 0
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]


def _shape(dataset: Dataset) -> tuple[tuple[int, ...], bool]:
    samples = dataset.get("SamplesPerPixel", 1) or 1
    planar = samples > 1 and dataset.get("PlanarConfiguration") == 1
    rows, columns = dataset.Rows, dataset.Columns
    return ((samples, rows, columns) if planar else (rows, columns, samples)), planar


def _change(cells: NDArray[Any], dataset: Dataset, blanking: Blanking, *, planar: bool) -> None:
    """Blank and clear one frame in place: (samples, rows, columns), else (rows, columns[, ...])."""
    fills = _fills(dataset)
    for rectangle in blanking.rectangles:
        rows = slice(rectangle.top, rectangle.top + rectangle.height)
        columns = slice(rectangle.left, rectangle.left + rectangle.width)
        if planar:
            cells[:, rows, columns] = np.array(fills, cells.dtype)[:, None, None]
        elif cells.ndim == 3:
            cells[rows, columns] = np.array(fills, cells.dtype)[: cells.shape[2]]
        else:
            cells[rows, columns] = np.array(fills[0], cells.dtype)
    if blanking.clear_bits:
        stored, high = dataset.BitsStored, dataset.HighBit
        mask = ((1 << stored) - 1) << max(high + 1 - stored, 0)
        unsigned = cells.view(cells.dtype.str.replace("i", "u"))
        unsigned &= np.array(mask & ((1 << 8 * cells.dtype.itemsize) - 1), unsigned.dtype)


def _fills(dataset: Dataset) -> tuple[int, ...]:
    """Give what a blank sample is: 0, but the middle of both colour differences."""
    samples = dataset.get("SamplesPerPixel", 1) or 1
    if samples == 3 and str(dataset.get("PhotometricInterpretation", "")).startswith("YBR"):
        middle = 1 << (int(dataset.get("BitsStored", 8)) - 1)
        return (0, middle, middle)
    return (0,) * samples


def _require_frame(size_bytes: int) -> None:
    if not 0 < size_bytes <= MOST_FRAME_BYTES:
        raise DeidentificationError(
            f"pixel data: expected frames of 1 to {MOST_FRAME_BYTES} bytes to blank, found "
            f"{size_bytes}"
        )
