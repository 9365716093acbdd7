"""The pixels of one frame out of its bytes: stored bits with their sign, native or compressed."""

import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import pixel_array

from pacspark.dicom import codecs
from pacspark.errors import DicomDecodeError, MissingDependencyError

EXPLICIT_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
PARAMETRIC_MAP: Final = "1.2.840.10008.5.1.4.1.1.30"
NATIVE_BITS: Final = frozenset({8, 16, 32, 64})


def holds_floats(row: Mapping[str, Any]) -> bool:
    """Tell whether pixels are floats (PS3.3 A.75): of integers a sign is told, of floats not."""
    return row["sop_class_uid"] == PARAMETRIC_MAP and row["pixel_representation"] is None


def native_pixels(pixels: bytes, row: Mapping[str, Any]) -> NDArray[Any]:
    """Read native pixel cells (PS3.5 8.1.1): the stored bits, with their sign.

    Parameters
    ----------
    pixels
        whole cells
    row
        columns of the image: bits_allocated (8, 16, 32, 64), bits_stored, high_bit,
        pixel_representation, transfer_syntax_uid, sop_class_uid
    """
    allocated = row["bits_allocated"]
    order = ">" if row["transfer_syntax_uid"] == EXPLICIT_BIG_ENDIAN else "<"
    if holds_floats(row):
        floats = np.frombuffer(pixels, f"{order}f{allocated // 8}")
        return floats.astype(floats.dtype.newbyteorder("="))
    stored = row["bits_stored"] or allocated
    high = stored - 1 if row["high_bit"] is None else row["high_bit"]
    kind = "i" if row["pixel_representation"] == 1 else "u"
    cells = np.frombuffer(pixels, f"{order}{kind}{allocated // 8}")
    cells = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    if not 0 < stored <= high + 1 <= allocated:
        message = (
            f"pixels: expected 0 < BitsStored <= HighBit + 1 <= BitsAllocated, "
            f"found {stored}, {high} + 1, {allocated}"
        )
        raise DicomDecodeError(message)
    if stored == allocated:
        return cells
    # what lies beside the stored bits (overlays of old) is pushed out on both sides
    shifted: NDArray[Any] = (cells << (allocated - 1 - high)) >> (allocated - stored)
    return shifted


def compressed_pixels(frame: bytes, row: Mapping[str, Any]) -> NDArray[Any]:
    """Decode one compressed frame with whatever pydicom finds installed.

    Parameters
    ----------
    frame
        its fragments, joined
    row
        columns of the image; colours come as RGB
    """
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = row["transfer_syntax_uid"]
    image.Rows, image.Columns = row["rows"], row["columns"]
    image.SamplesPerPixel = _samples(row)
    if image.SamplesPerPixel > 1:
        image.PlanarConfiguration = row.get("planar_configuration") or 0
    image.PhotometricInterpretation = row["photometric_interpretation"]
    image.BitsAllocated = row["bits_allocated"]
    image.BitsStored = row["bits_stored"] or row["bits_allocated"]
    image.HighBit = image.BitsStored - 1 if row["high_bit"] is None else row["high_bit"]
    image.PixelRepresentation = row["pixel_representation"] or 0
    image.PixelData = encapsulate([frame], has_bot=False)
    image["PixelData"].VR = "OB"
    return _decoded(image, row, 0)


def object_pixels(data: bytes, row: Mapping[str, Any], frame: int = 0) -> NDArray[Any]:
    """Decode a frame of a whole Part 10 stream: where its bytes have no place of their own."""
    return _decoded(pydicom.dcmread(io.BytesIO(data), force=True), row, frame)


def _samples(row: Mapping[str, Any]) -> int:
    return row.get("samples_per_pixel") or 1


def _decoded(image: Dataset, row: Mapping[str, Any], frame: int) -> NDArray[Any]:
    uid, syntax = row["sop_instance_uid"], row["transfer_syntax_uid"]
    _require_decoder(uid, syntax)
    try:
        return np.asarray(pixel_array(image, raw=_samples(row) == 1, index=frame))
    except Exception as error:
        # decoders are many, and each has its own errors
        told = " ".join(str(error).split())
        message = f"{uid}: expected pixels in transfer syntax {syntax}: {told}"
        raise DicomDecodeError(message) from error


def _require_decoder(uid: str, syntax: str) -> None:
    codecs.register()
    try:
        decoder: Decoder = get_decoder(syntax)
    except NotImplementedError as error:
        message = f"{uid}: expected a transfer syntax that can be decoded, found {syntax}"
        raise DicomDecodeError(message) from error
    if not decoder.is_available:
        message = (
            f"{uid}: no decoder for transfer syntax {syntax} is installed: "
            'pip install "pacspark[codecs]"'
        )
        raise MissingDependencyError(message)
