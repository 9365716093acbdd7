"""File meta information (PS3.10 7.1) before a data set that came without it."""

from functools import lru_cache
from typing import Final

from pacspark.dicom.decode import data_set_start
from pacspark.dicom.enhanced_xa import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

PREAMBLE: Final = bytes(128) + b"DICM"


@lru_cache(maxsize=256)
def _after_instance(transfer_syntax_uid: str) -> bytes:
    return (
        _element(0x10, b"UI", transfer_syntax_uid.encode("ascii"))
        + _element(0x12, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii"))
        + _element(0x13, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"))
    )


def file_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Give preamble and file meta information.

    It says nothing of who sent the object, so that the same data set from two senders is the same
    object.
    """
    elements = (
        b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
        + _element(0x02, b"UI", sop_class_uid.encode("ascii"))
        + _element(0x03, b"UI", sop_instance_uid.encode("ascii"))
        + _after_instance(transfer_syntax_uid)
    )
    length = b"\x02\x00\x00\x00UL\x04\x00" + len(elements).to_bytes(4, "little")
    return PREAMBLE + length + elements


def with_header(
    data: bytes, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> bytes:
    """Give a stored object with file meta information that says how it is encoded.

    Some came as a bare data set, or with a header that does not name their transfer syntax; the
    archive knows it.
    """
    header = file_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
    return header + data[data_set_start(data) :]


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return (
        b"\x02\x00" + number.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value
    )
