"""Frames of stored objects as they are and as plain pixels, and objects in other transfer syntaxes.

What is done here is done on the way out only, for clients that ask for it.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from pacspark.dicom import codecs
from pacspark.dicom.decode import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    data_set_start,
)
from pacspark.dicom.frames import is_deflated
from pacspark.dicom.stream import InflatedStream, MemoryStream
from pacspark.errors import (
    PacsparkError,
    QueryError,
    RequestTooLargeError,
    TranscodingError,
)
from pacspark.gateway.groups import StoredInstance
from pacspark.gateway.limits import DECODING
from pacspark.gateway.part10 import file_header, with_header
from pacspark.gateway.storing import Store
from pacspark.gateway.transcoding import TARGETS, packed, transcoded
from pacspark.gateway.web.call import Call
from pacspark.tables.schema import frame_index

ENCODED_TARGETS: Final = frozenset(
    {
        "1.2.840.10008.1.2.5",  # RLE
        "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
        "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    }
)
_PIXEL_KEYWORDS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PIXEL_TAGS: Final = {
    "PixelData": 0x7FE00010,
    "FloatPixelData": 0x7FE00008,
    "DoubleFloatPixelData": 0x7FE00009,
}
_DECODED_BYTES: Final = 16
"""Of memory, for a sample of a frame that is decoded and drawn, with what is between."""
_MOST_HEADER_BYTES: Final = 256 << 20


def can_transcode_to(transfer_syntax_uid: str) -> bool:
    """Tell whether objects can be given in a transfer syntax that they do not have; losslessly."""
    return transfer_syntax_uid in ENCODED_TARGETS.union(TARGETS)


class FrameSource:
    """The frames of one instance.

    Parameters
    ----------
    store
        the archive
    instance
        from it
    row
        of :meth:`Store.locate`
    most_pixels
        that a frame may have where it is decoded
    """

    def __init__(
        self, store: Store, instance: StoredInstance, row: dict[str, Any], most_pixels: int
    ) -> None:
        self._store, self.instance, self._row = store, instance, row
        self._most_pixels = most_pixels
        self._index = frame_index(row)

    @property
    def is_deflated(self) -> bool:
        """Whether the pixel data have no bytes of their own in the object."""
        return self._index.kind == "deflated"

    @property
    def count(self) -> int:
        """The number of frames that can be given."""
        if self.is_deflated and self.instance.rows:
            return max(self.instance.number_of_frames or 1, 1)
        return self._index.count

    @property
    def syntax(self) -> str:
        """The transfer syntax of :meth:`stored`: frames that are not compressed are plain."""
        if self._index.kind == "encapsulated":
            return self.instance.transfer_syntax_uid
        return EXPLICIT_VR_LITTLE_ENDIAN

    def stored(self, number: int) -> bytes:
        """Read a frame as it is stored: one range read for each of its pieces.

        Raises
        ------
        QueryError
            where there is no such frame
        """
        if self.is_deflated:
            return native_frame(self, number)
        try:
            ranges = self._index.ranges(number)
        except IndexError as error:
            message = f"frames: expected numbers from 1 to {self.count}, found {number + 1}"
            raise QueryError(message) from error
        data = b"".join(self._read(*one) for one in ranges)
        if self._index.kind != "native":
            return data
        bits = self._index.frame_size_bits or 0
        if bits % 8:
            return _aligned(data, self._index.first_bit(number), bits)
        if self.instance.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
            return _swapped(data, self._number("BitsAllocated", 8))
        return data

    def _read(self, start: int, length: int) -> bytes:
        return self._store.read_range(self.instance, start, length, self._row)

    def inflated(self, start: int, length: int) -> bytes:
        """Read a part of a deflated object, by its place as if it were inflated."""
        data = self._store.read(self.instance)
        begin = data_set_start(data)
        if start < begin:
            return data[start : start + length]
        found = InflatedStream(MemoryStream(data), begin).take(start, length)
        if len(found) != length:
            message = "bulk data: expected a place within the object"
            raise QueryError(message)
        return found

    @cached_property
    def header(self) -> Dataset:
        """The data set before the pixel data."""
        if self.is_deflated:
            return pydicom.dcmread(io.BytesIO(self._store.read(self.instance)), force=True)
        end = self._index.pixel_data_offset or self.instance.size_bytes
        if end > _MOST_HEADER_BYTES:
            message = f"expected a data set of at most {_MOST_HEADER_BYTES} bytes, found {end}"
            raise RequestTooLargeError(message)
        data = self._read(0, end)
        image = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        if "TransferSyntaxUID" not in image.file_meta:
            image.file_meta.TransferSyntaxUID = UID(self.instance.transfer_syntax_uid)
        return image

    def pixels(self, number: int) -> NDArray[Any]:
        """Decode a frame: rows, columns and, in colour, samples; YBR becomes RGB.

        Raises
        ------
        TranscodingError
            where nothing here decodes it
        RequestTooLargeError
            where it has more pixels than one request may ask for
        """
        n_pixels = (self.instance.rows or 0) * (self.instance.columns or 0)
        if not n_pixels:
            message = f"{self.instance.sop_instance_uid}: expected an image, found none"
            raise TranscodingError(message)
        with self.decoding():
            if n_pixels * self._number("SamplesPerPixel", 1) > self._most_pixels:
                message = f"expected frames of at most {self._most_pixels} pixels, found {n_pixels}"
                raise RequestTooLargeError(message)
            return self._decoded(number)

    def _decoded(self, number: int) -> NDArray[Any]:
        codecs.register()
        try:
            if self.is_deflated:
                return np.asarray(pixel_array(self.header, index=number))
            return np.asarray(pixel_array(self._single(number), index=0))
        except PacsparkError:
            raise
        except Exception as error:
            # decoders are many, and each has its own errors
            told = " ".join(str(error).split())[:200]
            message = f"{self.instance.sop_instance_uid}: its pixels cannot be decoded: {told}"
            raise TranscodingError(message) from error

    @contextmanager
    def decoding(self, drawn_pixels: int = 0) -> Iterator[None]:
        """Have room for a frame while it is decoded, and for a picture of it that may be larger."""
        size_bytes = None  # all of an object is inflated, however much that is
        if not self.is_deflated:
            n_pixels = (self.instance.rows or 0) * (self.instance.columns or 0)
            n_samples = n_pixels * self._number("SamplesPerPixel", 1)
            size_bytes = _DECODED_BYTES * max(n_samples, drawn_pixels)
        with DECODING.hold(size_bytes):
            yield

    def _number(self, keyword: str, otherwise: int) -> int:
        """Read a number of the header, in which anything may stand."""
        try:
            value = self.header.get(keyword)
        except PacsparkError:
            raise
        except Exception:  # noqa: BLE001 -- of a VR that its bytes are none of: decoding says so
            return otherwise
        return value if isinstance(value, int) and value > 0 else otherwise

    def _single(self, number: int) -> Dataset:
        """Make an image of one frame alone."""
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = UID(self.syntax)
        for keyword in (
            "SOPClassUID", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
            "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
        ):  # fmt: skip
            if keyword in self.header:
                setattr(image, keyword, self.header[keyword].value)
        image.NumberOfFrames = 1
        data = self.stored(number)
        if self._index.kind == "encapsulated":
            image.PixelData = encapsulate([data], has_bot=False)
            image["PixelData"].VR = "OB"
            return image
        bits = int(image.get("BitsAllocated", 8))
        name = _PIXEL_KEYWORDS[0]
        if "PixelRepresentation" not in image and bits in {32, 64}:
            name = _PIXEL_KEYWORDS[1 if bits == 32 else 2]
        image.add_new(_PIXEL_TAGS[name], "OW" if name == "PixelData" else
                      ("OF" if bits == 32 else "OD"), data + b"\0" * (len(data) % 2))  # fmt: skip
        return image


def native_frame(source: FrameSource, number: int) -> bytes:
    """Give a frame as plain pixels, little endian; those of one bit eight to a byte."""
    cells = source.pixels(number)
    if source.header.get("BitsAllocated") == 1:
        return packed(cells)
    return cells.astype(cells.dtype.newbyteorder("<"), copy=False).tobytes()


def _aligned(data: bytes, first_bit: int, bits: int) -> bytes:
    """Move a frame of one-bit pixels to the start of its first byte."""
    cells = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return np.packbits(cells[first_bit : first_bit + bits], bitorder="little").tobytes()


def _swapped(data: bytes, bits_allocated: int) -> bytes:
    if bits_allocated not in {16, 32, 64}:
        return data
    return (
        np.frombuffer(data, f">u{bits_allocated // 8}").astype(f"<u{bits_allocated // 8}").tobytes()
    )


def transcoded_object(call: Call, instance: StoredInstance, transfer_syntax_uid: str) -> bytes:
    """Give an object in another transfer syntax; it stays the same SOP instance.

    Raises
    ------
    TranscodingError
        where nothing here decodes or encodes it
    RequestTooLargeError
        where it would take too much memory
    """
    most = call.door.config.web.limits.transcoded_bytes
    cells = (instance.rows or 0) * (instance.columns or 0) * (instance.number_of_frames or 1)
    if max(instance.size_bytes, 2 * cells) > most:
        message = f"expected objects of at most {most} bytes to transcode, found a larger one"
        raise RequestTooLargeError(message)
    is_known = not is_deflated(instance.transfer_syntax_uid)
    with DECODING.hold(_DECODED_BYTES * max(instance.size_bytes, cells) if is_known else None):
        return _transcoded(call, instance, transfer_syntax_uid, has_pixels=cells > 0)


def _transcoded(
    call: Call, instance: StoredInstance, transfer_syntax_uid: str, *, has_pixels: bool
) -> bytes:
    names = (instance.sop_class_uid, instance.sop_instance_uid)
    data = with_header(call.store.read(instance), *names, instance.transfer_syntax_uid)
    encodes = transfer_syntax_uid in ENCODED_TARGETS and has_pixels
    plain = transfer_syntax_uid if transfer_syntax_uid in TARGETS else EXPLICIT_VR_LITTLE_ENDIAN
    whole = file_header(*names, plain) + transcoded(data, plain)
    return _encoded(whole, UID(transfer_syntax_uid)) if encodes else whole


def _encoded(data: bytes, wanted: UID) -> bytes:
    try:
        image = pydicom.dcmread(io.BytesIO(data))
        image.compress(wanted, generate_instance_uid=False)
        buffer = io.BytesIO()
        image.save_as(buffer, enforce_file_format=True)
    except Exception as error:
        # encoders are several, and each has its own errors
        told = " ".join(str(error).split())[:200]
        message = f"expected an object that can be encoded as {wanted.name}: {told}"
        raise TranscodingError(message) from error
    return buffer.getvalue()
