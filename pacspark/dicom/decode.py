"""Index one DICOM object: its columns, its DICOM JSON and the place of its frames.

Takes Part 10 files (PS3.10 clause 7) and, as devices and archives hand them around, bare data sets
without preamble or file meta information, in every transfer syntax. Whatever else the bytes are
ends in one :class:`~pacspark.errors.DicomDecodeError`, within bounded time and memory.

What is lenient and what is not:

* values never refuse an object: a text that is no number gives a null column, unknown character
  sets and broken characters give U+FFFD, overlong texts are cut in their column;
* structure does: every byte that a length promises has to be there, those of rows, columns and
  frames of native pixel data included, and each tag once in a data set or item, or nobody could
  tell which of two patients is meant;
* so do the four UIDs that make an object findable: trailing spaces and NULs and leading zeros of a
  component pass, everything else outside PS3.5 clause 9 does not.

The DICOM JSON (PS3.18 Annex F) holds every element of the data set, private ones and sequences
included, except group lengths. Text is UTF-8, so Specific Character Set reads ISO_IR 192 there.
Pixel data, OB, OW and UN above 4 KiB, UT and UC above 1 MiB and all other values above 64 KiB are
bulk data, and where the JSON has passed 16 MiB, all above 256 bytes:
``"BulkDataURI": "#offset,length"`` is their place in the object's bytes (in a deflated
object: as if the data set were inflated in place). Of encapsulated pixel data the place spans all
items. VRs that Annex F permits no bulk data for stand without their overlong value.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Final

from pacspark.dicom.attributes import BY_TAG, PROMOTED
from pacspark.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    LONG_VRS,
    SHORT_VRS,
    UNDEFINED_LENGTH,
    Encoding,
    name_of,
    read_header,
)
from pacspark.dicom.frames import (
    END_OF_IMAGE_REACH_BYTES,
    FrameIndex,
    encapsulated_frames,
    is_deflated,
    native_frames,
)
from pacspark.dicom.stream import ByteStream, FileStream, InflatedStream, MemoryStream
from pacspark.dicom.uids import is_uid
from pacspark.dicom.values import ColumnValue, column_value
from pacspark.dicom.walk import PIXEL_DATA, DataSetWalk, ValueField
from pacspark.errors import DicomDecodeError, NotDicomError

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

_ENCODINGS: Final = {
    IMPLICIT_VR_LITTLE_ENDIAN: IMPLICIT_LITTLE,
    EXPLICIT_VR_BIG_ENDIAN: EXPLICIT_BIG,
}
_GUESSES: Final = {
    IMPLICIT_LITTLE: IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_LITTLE: EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_BIG: EXPLICIT_VR_BIG_ENDIAN,
}
_COLUMNS: Final = tuple(attribute.column for attribute in PROMOTED)
_CACHED_BYTES: Final = 64
_DIRECTORY_STORAGE: Final = "1.2.840.10008.1.3.10"
_DIRECTORY_RECORD_SEQUENCE: Final = 0x00041220
_REFERENCED_FILE_ID: Final = 0x00041500
_MEDIA_STORAGE_SOP_CLASS_UID: Final = 0x00020002
_TRANSFER_SYNTAX_UID: Final = 0x00020010
_MAX_META_ELEMENTS: Final = 64
_MAX_UID_BYTES: Final = 256
ZIP_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_NOT_DICOM: Final = "expected DICOM (PS3.10)"


@dataclass(frozen=True, slots=True)
class InstanceIndex:
    """What the archive keeps of one object besides its bytes.

    Attributes
    ----------
    row
        a value for the column of every promoted attribute, None where the object has none
    dicom_json
        the data set as DICOM JSON, as the docstring of this module says
    transfer_syntax_uid
        of the file meta information, or as found where there is none
    sop_class_uid, sop_instance_uid
        the same as in ``row``
    frames
        where the frames lie in the object's bytes
    """

    row: dict[str, ColumnValue]
    dicom_json: str
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    frames: FrameIndex


def index_instance(data: bytes | BinaryIO) -> InstanceIndex:
    """Index one DICOM object.

    Parameters
    ----------
    data
        the whole object, or a seekable binary file of which the object is all; pixel data in a file
        are never read

    Raises
    ------
    DicomDecodeError
        one line: what was expected, what was found, and at which byte where that is known
    OSError
        where the file cannot be read
    """
    stream, position, encoding, transfer_syntax_uid = _opened(data)
    walk = DataSetWalk(stream)
    dicom_json = walk.run(position, encoding)
    stream.finish()
    transfer_syntax_uid = transfer_syntax_uid or _GUESSES[encoding]
    row = _row(walk, encoding)
    row["transfer_syntax_uid"] = transfer_syntax_uid
    if row["sop_class_uid"] == _DIRECTORY_STORAGE:
        _refuse_directory()
    for keyword, column in _REQUIRED_UIDS.items():
        _check_uid(keyword, row[column])
    n_frames = row["number_of_frames"]
    if isinstance(n_frames, int) and n_frames < 0:
        message = f"NumberOfFrames: expected a number from 1 on, found {n_frames}"
        raise DicomDecodeError(message)
    return InstanceIndex(
        row,
        dicom_json,
        transfer_syntax_uid,
        str(row["sop_class_uid"]),
        str(row["sop_instance_uid"]),
        _frames(walk, stream, row, transfer_syntax_uid),
    )


def listed_files(data: bytes | BinaryIO) -> list[list[str]] | None:
    """Give the Referenced File IDs of a DICOMDIR (PS3.3 F.3.2.2), each as its components.

    Returns
    -------
    list of list of str or None
        None for an object without directory records

    Raises
    ------
    DicomDecodeError
        as `index_instance`, and for a file ID that is no text
    """
    stream, position, encoding, _ = _opened(data, of_directory=True)
    records = json.loads(DataSetWalk(stream).run(position, encoding)).get(
        f"{_DIRECTORY_RECORD_SEQUENCE:08X}", {}
    )
    if records.get("vr") != "SQ":
        return None
    listed = []
    for record in records.get("Value", []):
        names = record.get(f"{_REFERENCED_FILE_ID:08X}", {}).get("Value", [])
        if not all(name is None or isinstance(name, str) for name in names):
            message = f"ReferencedFileID: expected texts, found {str(names)[:80]}"
            raise DicomDecodeError(message)
        if names:
            listed.append([name or "" for name in names])
    return listed


def _opened(
    data: bytes | BinaryIO, *, of_directory: bool = False
) -> tuple[ByteStream, int, Encoding, str | None]:
    """Give the stream of a data set, its start, its encoding and its stated syntax."""
    stream: ByteStream = MemoryStream(data) if isinstance(data, bytes) else FileStream(data)
    transfer_syntax_uid, position = _file_meta(stream, of_directory=of_directory)
    if transfer_syntax_uid and is_deflated(transfer_syntax_uid):
        stream = InflatedStream(stream, position)
    return stream, position, _encoding(stream, position, transfer_syntax_uid), transfer_syntax_uid


def data_set_start(data: bytes | BinaryIO) -> int:
    """Tell where the data set of an object begins: after preamble and file meta information.

    Parameters
    ----------
    data
        the object, or enough of its start

    Raises
    ------
    DicomDecodeError
        where the file meta information is none
    """
    return _file_meta(MemoryStream(data) if isinstance(data, bytes) else FileStream(data))[1]


_REQUIRED_UIDS: Final = {
    "SOPClassUID": "sop_class_uid",
    "SOPInstanceUID": "sop_instance_uid",
    "StudyInstanceUID": "study_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
}


def _file_meta(stream: ByteStream, *, of_directory: bool = False) -> tuple[str | None, int]:
    """Read the file meta information; give the transfer syntax and where the data set starts."""
    start = stream.take(0, 132)
    if not start:
        message = f"{_NOT_DICOM}, found no bytes"
        raise NotDicomError(message)
    position = 0
    for prefix_at in (128, 0):
        if start[prefix_at : prefix_at + 4] == b"DICM":
            position = prefix_at + 4
            break
    transfer_syntax_uid: str | None = None
    for _ in range(_MAX_META_ELEMENTS):
        if stream.take(position, 2) != b"\x02\x00":
            return transfer_syntax_uid, position
        header = read_header(stream, position, EXPLICIT_LITTLE)
        if stream.available(header.value, header.length) < header.length:
            message = (
                f"{name_of(header.tag)} at byte {position}: expected {header.length} bytes of file "
                "meta information, found fewer (truncated)"
            )
            raise DicomDecodeError(message)
        if header.tag in {_TRANSFER_SYNTAX_UID, _MEDIA_STORAGE_SOP_CLASS_UID}:
            value = stream.take(header.value, min(header.length, _MAX_UID_BYTES))
            text = value.decode("latin_1").strip(" \0")
            if text == _DIRECTORY_STORAGE and not of_directory:
                _refuse_directory()
            if header.tag == _TRANSFER_SYNTAX_UID and text:
                _check_uid("TransferSyntaxUID", text)
                transfer_syntax_uid = text
        position = header.value + header.length
    message = (
        f"file meta information: expected at most {_MAX_META_ELEMENTS} elements, found more "
        f"at byte {position}"
    )
    raise DicomDecodeError(message)


def _encoding(stream: ByteStream, position: int, transfer_syntax_uid: str | None) -> Encoding:
    """Tell how the data set is encoded, from its first element rather than from what was promised.

    Devices write explicit VR under an implicit transfer syntax and the other way round.
    """
    start = stream.take(position, 8)
    if len(start) < 8:
        if not position:
            message = f"{_NOT_DICOM}, found {len(start)} bytes alone"
            raise NotDicomError(message)
        where = f"at byte {position}, {len(start)} bytes"
        message = f"{_NOT_DICOM}: a data set, found the end of the bytes {where} (truncated)"
        raise DicomDecodeError(message)
    vr = start[4:6].decode("latin_1")
    explicit = vr in SHORT_VRS or vr in LONG_VRS
    if transfer_syntax_uid is not None:
        promised = _ENCODINGS.get(transfer_syntax_uid, EXPLICIT_LITTLE)
        if not promised.little_endian:
            return promised
        return EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE
    little_group = int.from_bytes(start[:2], "little")
    big_group = int.from_bytes(start[:2], "big")
    if explicit and big_group == 8:
        return EXPLICIT_BIG
    length = int.from_bytes(start[4:8], "little")
    if little_group == 8 and explicit:
        return EXPLICIT_LITTLE
    if little_group == 8 and (
        length == UNDEFINED_LENGTH or stream.available(position + 8, length) == length
    ):
        return IMPLICIT_LITTLE
    if not position and start.startswith(ZIP_STARTS):
        found = "a zip that is damaged, in another one, or at a URL without .zip; unpack it first"
        message = f"{_NOT_DICOM}, found {found}"
        raise DicomDecodeError(message)
    text = start.decode("latin_1")
    found = repr(text) if text.isascii() and text.isprintable() else start.hex(" ")
    message = f"{_NOT_DICOM}, found {found} at byte {position}"
    raise (DicomDecodeError if position else NotDicomError)(message)


def _row(walk: DataSetWalk, encoding: Encoding) -> dict[str, ColumnValue]:
    row = dict.fromkeys(_COLUMNS)
    for tag, field in walk.columns.items():
        column = _known_column if len(field.value) <= _CACHED_BYTES else _column
        row[BY_TAG[tag].column] = column(tag, field, walk.text_encoding, encoding)
    return row


def _column(tag: int, field: ValueField, text_encoding: str, encoding: Encoding) -> ColumnValue:
    attribute = BY_TAG[tag]
    if not field.whole and attribute.kind != "string":
        return None
    return column_value(
        attribute, field.vr, field.value, text_encoding, little_endian=encoding.little_endian
    )


_known_column = lru_cache(maxsize=8192)(_column)
"""Objects of a series have most of their short values in common."""


def _frames(
    walk: DataSetWalk, stream: ByteStream, row: dict[str, ColumnValue], transfer_syntax_uid: str
) -> FrameIndex:
    pixel_data = walk.pixel_data
    deflated = isinstance(stream, InflatedStream)
    if pixel_data is None:
        return FrameIndex()
    if pixel_data.fragments is not None:
        if deflated:
            return FrameIndex("deflated")
        return encapsulated_frames(
            row,
            transfer_syntax_uid,
            pixel_data.offset,
            pixel_data.fragments,
            walk.extended_offset_table,
            lambda end: stream.peek(end - END_OF_IMAGE_REACH_BYTES, END_OF_IMAGE_REACH_BYTES),
        )
    bits = row["bits_allocated"] if pixel_data.tag == PIXEL_DATA else _FLOAT_BITS[pixel_data.tag]
    index = native_frames(
        row,
        transfer_syntax_uid,
        pixel_data.offset,
        pixel_data.length,
        bits if isinstance(bits, int) and bits > 0 else 0,
    )
    return FrameIndex("deflated") if deflated else index


_FLOAT_BITS: Final = {0x7FE00008: 32, 0x7FE00009: 64}


def _check_uid(keyword: str, value: ColumnValue) -> None:
    if value is None:
        message = f"{keyword}: expected a UID, found none"
        raise DicomDecodeError(message)
    if not isinstance(value, str) or not is_uid(value):
        found = repr(value)
        message = (
            f"{keyword}: expected a UID of digits and dots, at most 64 characters, found "
            f"{found if len(found) <= 80 else found[:77] + '...'}"
        )
        raise DicomDecodeError(message)


def _refuse_directory() -> None:
    message = (
        "expected a SOP instance of a study, found a DICOMDIR: ingest the files it lists instead"
    )
    raise DicomDecodeError(message)
