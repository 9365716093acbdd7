"""Another transfer syntax, for peers that do not take the stored one (PS3.5 A).

Only the plain ones are made: what is compressed is inflated or decoded, and nothing is compressed.
An object that is sent like this is the same instance; what is stored stays as it is.
"""

import io
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacspark.dicom import codecs
from pacspark.dicom.decode import data_set_start
from pacspark.errors import TranscodingError
from pacspark.gateway.limits import DECODING

TARGETS: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
"""What is offered to peers that do not take the stored transfer syntax, the better one first."""
_COPIES: Final = 4
"""Of what is decoded, in memory at once."""
MOST_BYTES: Final = 1 << 30
"""Objects whose pixels are larger than this are not decoded for a peer."""


def transcoded(data: bytes, transfer_syntax_uid: str) -> bytes:
    """Give the data set of an object in a plain transfer syntax, without file meta information.

    Parameters
    ----------
    data
        the whole object
    transfer_syntax_uid
        one of :data:`TARGETS`

    Raises
    ------
    TranscodingError
        where it cannot be decoded here
    """
    is_deflated = DeflatedExplicitVRLittleEndian.encode() in data[: data_set_start(data)]
    with DECODING.hold(None) if is_deflated else nullcontext():
        return _transcoded(data, UID(transfer_syntax_uid))


def _transcoded(data: bytes, target: UID) -> bytes:
    codecs.register()
    try:
        data_set = pydicom.dcmread(io.BytesIO(data), force=True)
        source = data_set.file_meta.TransferSyntaxUID
        size_bytes = _require_size(data_set) if source.is_encapsulated else len(data)
        with DECODING.hold(_COPIES * size_bytes):
            return _written(data_set, source, target)
    except TranscodingError:
        raise
    except Exception as error:  # pydicom and its decoders raise what comes
        message = f"expected an object that can be decoded into {target.name}, found: {error}"
        raise TranscodingError(message) from error


def _written(data_set: Any, source: UID, target: UID) -> bytes:
    if source.is_encapsulated:
        cells = data_set.pixel_array if data_set.get("BitsAllocated") == 1 else None
        data_set.decompress(generate_instance_uid=False)
        if cells is not None:  # which pydicom leaves in a byte each
            data_set.PixelData = packed(cells)
    elif not source.is_little_endian:
        data_set.walk(_swap_words)
    buffer = io.BytesIO()
    data_set.file_meta.TransferSyntaxUID = target
    pydicom.dcmwrite(
        buffer,
        data_set,
        implicit_vr=target.is_implicit_VR,
        little_endian=True,
        force_encoding=True,
    )
    written = buffer.getvalue()
    return written[data_set_start(written) :]


def packed(cells: NDArray[Any]) -> bytes:
    """Write pixels of one bit, eight to a byte, the first one lowest (PS3.5 8.1.1)."""
    return np.packbits(cells != 0, axis=None, bitorder="little").tobytes()


def _require_size(data_set: Any) -> int:
    size_bytes = (
        int(data_set.get("Rows") or 0)
        * int(data_set.get("Columns") or 0)
        * int(data_set.get("SamplesPerPixel") or 1)
        * (int(data_set.get("BitsAllocated") or 8) // 8 or 1)
        * int(data_set.get("NumberOfFrames") or 1)
    )
    if size_bytes > MOST_BYTES:
        message = f"expected at most {MOST_BYTES} bytes of decoded pixels, found {size_bytes}"
        raise TranscodingError(message)
    return size_bytes


def _swap_words(_data_set: Any, element: Any) -> None:
    """Turn the words of an element round; pydicom does so for all that are no bulk data."""
    width = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}.get(element.VR)
    if width and isinstance(element.value, bytes):
        words = np.frombuffer(element.value, f"u{width}")
        element.value = words.byteswap().tobytes()
