"""Frames that say they are larger than their image are refused before they are decoded."""

import io
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from pacspark.dicom import codecs
from pacspark.dicom.codestreams import cells_of

GREY = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
COLOURS = np.zeros((12, 20, 3), np.uint8)


def jpeg_2000(cells: np.ndarray, *, boxes: bool = False) -> bytes:
    kind = "JP2" if boxes else "J2K"
    return bytes(imagecodecs.jpeg2k_encode(cells, codecformat=kind, reversible=True))


def lossless(cells: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(cells, lossless=True))


def progressive(cells: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(cells).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


ENCODERS: dict[str, tuple[UID, Callable[[np.ndarray], bytes]]] = {
    "jpeg": (JPEGBaseline8Bit, lambda cells: bytes(imagecodecs.jpeg8_encode(cells))),
    "spectral selection": (codecs.RETIRED[0], progressive),
    "full progression": (codecs.RETIRED[1], progressive),
    "lossless jpeg": (JPEGLosslessSV1, lossless),
    "jpeg-ls": (JPEGLSLossless, lambda cells: bytes(imagecodecs.jpegls_encode(cells))),
    "jpeg 2000": (JPEG2000Lossless, jpeg_2000),
    "jpeg 2000 in boxes": (JPEG2000Lossless, lambda cells: jpeg_2000(cells, boxes=True)),
}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("cells", [GREY, COLOURS], ids=["grey", "colours"])
def test_size__is_read_without_decoding(kind: str, cells: np.ndarray) -> None:
    assert cells_of(ENCODERS[kind][1](cells)) == cells.size


def grown(frame: bytes) -> bytes:
    """Have a frame say that it has 60,000 rows and columns."""
    data, size = bytearray(frame), 60_000
    for marker in (0xC0, 0xC2, 0xC3, 0xF7):
        place = frame.find(bytes([0xFF, marker, 0, 11]))
        if place >= 0:
            struct.pack_into(">HH", data, place + 5, size, size)
            return bytes(data)
    place = frame.index(b"\xff\x4f\xff\x51")
    for offset in (8, 24):  # of the image, and of its tiles
        struct.pack_into(">II", data, place + offset, size, size)
    return bytes(data)


def image_of(frame: bytes, syntax: UID, rows: int, columns: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.Rows, image.Columns, image.SamplesPerPixel = rows, columns, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    image.PixelData = encapsulate([frame], has_bot=False)
    image["PixelData"].VR = "OB"
    return image


@pytest.mark.parametrize("kind", ENCODERS)
def test_frame__that_says_it_is_huge_is_refused(kind: str) -> None:
    codecs.register()
    syntax, encode = ENCODERS[kind]
    frame = encode(GREY)
    assert pixel_array(image_of(frame, syntax, 12, 20)).shape == (12, 20)
    huge = image_of(grown(frame), syntax, 12, 20)
    with pytest.raises(RuntimeError, match="240 samples, found one that says it has 3600000000"):
        pixel_array(huge)


@given(st.sampled_from(list(ENCODERS)), st.integers(0, 300), st.binary(max_size=8))
def test_any_frame__has_a_size_or_none(kind: str, place: int, spoiled: bytes) -> None:
    frame = ENCODERS[kind][1](GREY)
    frame = frame[:place] + spoiled + frame[place + len(spoiled) :]
    try:
        found = cells_of(frame)
    except ValueError:
        return
    assert found is None or found >= 0


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "]),
)
def test_any_bytes__have_a_size_or_none(data: bytes, start: bytes) -> None:
    try:
        found = cells_of(start + data)
    except ValueError:
        return
    assert found is None or found >= 0
