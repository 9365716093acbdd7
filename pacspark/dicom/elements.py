"""Single elements: how their headers are read and what VR they have (PS3.5 clause 7.1, PS3.6)."""

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from pacspark.dicom.stream import ByteStream
from pacspark.errors import DicomDecodeError

UNDEFINED_LENGTH: Final = 0xFFFFFFFF

SHORT_VRS: Final = frozenset(
    {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO"}
    | {"LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"}
)
"""VRs with a length of 16 bits."""
LONG_VRS: Final = frozenset(
    {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
)
"""VRs with two reserved bytes and a length of 32 bits."""
_SHORT_VRS: Final = {vr.encode(): vr for vr in SHORT_VRS}
_LONG_VRS: Final = {vr.encode(): vr for vr in LONG_VRS}

HEADER_BYTES: Final = 12
"""The longest header of an element."""
LITTLE_HEADER: Final = struct.Struct("<HHI")
BIG_HEADER: Final = struct.Struct(">HHI")
_FORMS: Final = tuple(
    (
        struct.Struct(f"{order}HH2sH").unpack_from,
        struct.Struct(f"{order}HHI").unpack_from,
        struct.Struct(f"{order}I").unpack_from,
    )
    for order in (">", "<")
)
"""Of a header with a short length, of one with a long length, and of that; big, little endian."""


class Encoding(NamedTuple):
    """How elements are encoded: the three choices of PS3.5 A.1 to A.3."""

    implicit_vr: bool
    little_endian: bool


IMPLICIT_LITTLE: Final = Encoding(implicit_vr=True, little_endian=True)
EXPLICIT_LITTLE: Final = Encoding(implicit_vr=False, little_endian=True)
EXPLICIT_BIG: Final = Encoding(implicit_vr=False, little_endian=False)


class ElementHeader(NamedTuple):
    """Tag, VR, value length and where the value starts."""

    tag: int
    vr: str
    length: int
    value: int


_new_header: Final = tuple.__new__


def name_of(tag: int) -> str:
    """Write a tag as people do: ``(0010,0010)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def read_header(stream: ByteStream, position: int, encoding: Encoding) -> ElementHeader:
    """Read tag, VR and length of the element at a position, as :func:`parse_header` does."""
    return parse_header(stream.take(position, HEADER_BYTES), position, encoding)


def parse_header(raw: bytes, position: int, encoding: Encoding) -> ElementHeader:
    """Tell tag, VR and length of the element that begins with some bytes.

    The VR is empty where the element does not say it: in implicit VR, in items and delimiters, and
    in an explicit data set at an element without two letters there, which some devices mix in.

    Parameters
    ----------
    raw
        12 bytes from `position` on, fewer at the end of the stream
    position
        where they are
    encoding
        of the data set

    Raises
    ------
    DicomDecodeError
        where the bytes end inside the header
    """
    if len(raw) < 8:
        message = (
            f"data set: expected an element of at least 8 bytes at byte {position}, "
            f"found the last {len(raw)} bytes (truncated)"
        )
        raise DicomDecodeError(message)
    implicit_vr, little_endian = encoding
    short_form, long_form, length_form = _FORMS[little_endian]
    if not implicit_vr:
        group, element, vr_bytes, length = short_form(raw)
        vr = _SHORT_VRS.get(vr_bytes)
        if vr is not None and group != 0xFFFE:
            # without the detour over names, which a hundred elements of each object would pay for
            return _new_header(ElementHeader, (group << 16 | element, vr, length, position + 8))
    group, element, length = long_form(raw)
    tag = group << 16 | element
    if implicit_vr or group == 0xFFFE:
        return ElementHeader(tag, "", length, position + 8)
    vr = _LONG_VRS.get(vr_bytes)
    if vr is None:
        if not (vr_bytes.isalpha() and vr_bytes.isupper()):
            return ElementHeader(tag, "", length, position + 8)
        vr = "UN"  # a VR of a later standard has the long form (PS3.5 6.2.2)
    if len(raw) < HEADER_BYTES:
        message = (
            f"{name_of(tag)} {vr}: expected a header of 12 bytes at byte {position}, "
            f"found the last {len(raw)} bytes (truncated)"
        )
        raise DicomDecodeError(message)
    return ElementHeader(tag, vr, length_form(raw, 8)[0], position + 12)


@lru_cache(maxsize=8192)
def vr_of_tag(tag: int) -> str:
    """Give the VR of a public attribute; ``US or SS`` stays, UN stands for the unknown."""
    if tag & 0xFFFF == 0:
        return "UL"
    try:
        return _one_vr(dictionary_VR(tag))
    except KeyError:
        return "UN"


@lru_cache(maxsize=8192)
def vr_of_private_tag(tag: int, creator: str) -> str:
    """Give the VR of a private attribute whose creator pydicom knows, else UN."""
    try:
        return _one_vr(private_dictionary_VR(tag, creator))
    except KeyError:
        return "UN"


def _one_vr(vr: str) -> str:
    if " or " in vr:
        # look-up tables are words, and so is what may be bytes or words in implicit VR (PS3.5 A.1)
        return vr if vr == "US or SS" else "OW"
    return vr if vr in SHORT_VRS or vr in LONG_VRS else "UN"
