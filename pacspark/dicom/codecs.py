"""Decoding of JPEG beyond 8 bits, which pydicom leaves to plugins: by libjpeg-turbo in imagecodecs.

The usual plugin for these transfer syntaxes is under the GPL. `register` adds ours to pydicom's
decoders: 12-bit JPEG (process 2 and 4), lossless JPEG (process 14, any selection value), and
spectral selection and full progression (process 6 and 10), which are retired and still in archives.
It also has all of them refuse frames that say they are larger than the image they are of.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS, Decoder, get_decoder
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from pacspark.dicom.codestreams import cells_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.pixels.decoders.base import DecodeRunner

    Decode = Callable[[bytes, "DecodeRunner"], bytes | bytearray]

NAME = "pacspark"
RETIRED = (UID("1.2.840.10008.1.2.4.53"), UID("1.2.840.10008.1.2.4.55"))
DECODER_DEPENDENCIES = {
    JPEGExtended12Bit: ("imagecodecs",),
    JPEGLossless: ("imagecodecs",),
    JPEGLosslessSV1: ("imagecodecs",),
    **dict.fromkeys(RETIRED, ("imagecodecs",)),
}
BOUNDED = (*RETIRED, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)
_LOCK = Lock()


def is_available(uid: str) -> bool:
    """Tell pydicom whether this plugin can decode a transfer syntax here."""
    try:
        import imagecodecs
    except ImportError:
        return False
    return UID(uid) in DECODER_DEPENDENCIES and bool(imagecodecs.JPEG8.available)


def decode_frame(frame: bytes, runner: "DecodeRunner") -> bytearray:
    """Decode one frame for pydicom: little endian cells of the size that JPEG gives."""
    import imagecodecs

    cells = imagecodecs.jpeg8_decode(frame)
    runner.set_option("bits_allocated", 8 * cells.dtype.itemsize)
    return bytearray(cells.astype(cells.dtype.newbyteorder("<")).tobytes())


@dataclass(frozen=True, slots=True)
class _Bounded:
    """A decoder that makes room for no more than the image has."""

    decode: "Decode"

    def __call__(self, frame: bytes, runner: "DecodeRunner") -> bytes | bytearray:
        found = cells_of(frame)
        most = runner.rows * runner.columns * runner.samples_per_pixel
        if found is not None and found > most:
            message = f"expected a frame of {most} samples, found one that says it has {found}"
            raise ValueError(message)
        return self.decode(frame, runner)


def register() -> None:
    """Add this plugin to pydicom's decoders, and bound them all; again changes nothing."""
    with _LOCK:
        _register()


@cache
def _register() -> None:
    for uid in RETIRED:  # pydicom has no decoders for them, and no public way to add one
        _PIXEL_DATA_DECODERS.setdefault(uid, (Decoder(uid), "3.0"))
    for uid in DECODER_DEPENDENCIES:
        get_decoder(uid).add_plugin(NAME, (__name__, "decode_frame"))
    for uid in BOUNDED:
        with suppress(NotImplementedError):  # pydicom knows no decoder
            plugins = get_decoder(uid)._available  # noqa: SLF001 -- no public way leads there
            plugins.update({name: _Bounded(decode) for name, decode in plugins.items()})
