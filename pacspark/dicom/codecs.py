"""Decoding of JPEG beyond 8 bits, which pydicom leaves to plugins: by libjpeg-turbo in imagecodecs.

The usual plugin for these transfer syntaxes is under the GPL. `register` adds ours to pydicom's
decoders: 12-bit JPEG (process 2 and 4) and lossless JPEG (process 14, any selection value).
"""

from typing import TYPE_CHECKING

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

NAME = "pacspark"
DECODER_DEPENDENCIES = {
    JPEGExtended12Bit: ("imagecodecs",),
    JPEGLossless: ("imagecodecs",),
    JPEGLosslessSV1: ("imagecodecs",),
}


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


def register() -> None:
    """Add this plugin to pydicom's decoders; again changes nothing."""
    for uid in DECODER_DEPENDENCIES:
        decoder = get_decoder(uid)
        if NAME not in decoder._available and NAME not in decoder._unavailable:  # noqa: SLF001
            decoder.add_plugin(NAME, (__name__, "decode_frame"))
