"""How large the images are that compressed frames say they hold, before anything decodes them.

Decoders make room for what a frame says of itself: 132 bytes of JPEG 2000 may ask for gigabytes.
The size is in the frame header of JPEG and JPEG-LS (T.81 B.2.2, T.87 C.2.2), and in the SIZ marker
segment of JPEG 2000 (T.800 A.5.1).
"""

import struct
from typing import Final

_JPEG_2000: Final = b"\xff\x4f\xff\x51"
_JP2: Final = b"\0\0\0\x0cjP  "
_JPEG: Final = b"\xff\xd8"
_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN: Final = 0xDA


def cells_of(frame: bytes) -> int | None:
    """Give how many samples the image of a frame has; None where nothing here knows.

    Raises
    ------
    ValueError
        where it is JPEG or JPEG 2000 without a size

    Examples
    --------
    >>> cells_of(bytes.fromhex("ffd8 ffc0 000b 08 0010 0020 01 011100"))
    512
    """
    if frame.startswith(_JP2):
        frame = frame[_codestream_start(frame) :]
    if frame.startswith(_JPEG_2000):
        return _cells_of_jpeg_2000(frame)
    return _cells_of_jpeg(frame) if frame.startswith(_JPEG) else None


def _codestream_start(frame: bytes) -> int:
    """Find the codestream in the boxes around it, which DICOM does not have (T.800 I.4)."""
    position = 0
    while position + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, position)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)
        if length < 8:
            break
        position += length
    message = "JPEG 2000: expected a codestream, found none"
    raise ValueError(message)


def _cells_of_jpeg_2000(frame: bytes) -> int:
    if len(frame) < 42:
        message = f"JPEG 2000: expected a size, found {len(frame)} bytes"
        raise ValueError(message)
    right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
    (components,) = struct.unpack_from(">H", frame, 40)
    return int(max(right - left, 0) * max(bottom - top, 0) * components)


def _cells_of_jpeg(frame: bytes) -> int:
    position = 2
    while position + 4 <= len(frame):
        marker = frame[position + 1]
        if frame[position] != 0xFF:
            break
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME_HEADERS and position + 10 <= len(frame):
            rows, columns, components = struct.unpack_from(">HHB", frame, position + 5)
            if rows and columns:
                return int(rows * columns * components)
            break  # told later, if at all: nobody makes such frames
        if marker == _START_OF_SCAN:
            break
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    message = "JPEG: expected a frame header with rows and columns, found none"
    raise ValueError(message)
