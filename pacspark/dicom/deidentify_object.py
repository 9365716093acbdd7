"""De-identification of one object, from stream to stream.

The data set without its pixel data is held, at most 128 MiB and a million elements, which takes up
to about 1 GiB; pixel data of any size are copied as they are, or go through `blanking` frame by
frame. What stands behind the pixel data (trailing
padding, signatures, private elements) goes.

No message here holds a value of the object: it ends in tables and logs of those who may not know.
"""

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import dcmread
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacspark.dicom.blanking import Blanking, decoded_frames, element_header, native_frames
from pacspark.dicom.decode import (
    EXPLICIT_VR_BIG_ENDIAN,
    InstanceIndex,
    data_set_start,
    index_instance,
)
from pacspark.dicom.deidentify import Deidentifier
from pacspark.dicom.enhanced_xa import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacspark.dicom.frames import is_deflated
from pacspark.dicom.pixel_rules import rectangles_for
from pacspark.dicom.stream import INFLATE_LIMIT_BYTES
from pacspark.dicom.unchecked import unchecked
from pacspark.errors import DeidentificationError, DicomDecodeError

MOST_HEADER_BYTES: Final = 128 << 20
"""Of all of an object but its pixel data."""
_COPY_BYTES: Final = 4 << 20
_SPOOL_BYTES: Final = 64 << 20
_PIXEL_TAGS: Final = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_PIXEL_DATA: Final = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_VOICES: Final = frozenset({"1.2.840.10008.5.1.4.1.1.9.4.1", "1.2.840.10008.5.1.4.1.1.9.4.2"})
_ELSEWHERE: Final = frozenset(
    f"1.2.840.10008.1.2.4.{number}" for number in (94, 95, 204, 205)
)  # JPIP
_BEHIND_HEADER: Final = 12


def deidentify_object(source: BinaryIO, target: BinaryIO, deidentifier: Deidentifier) -> None:
    """Write what identifies nobody of an object.

    Parameters
    ----------
    source
        the object, seekable
    target
        gets a Part 10 file; in the same transfer syntax, unless pixels of it had to be decoded or
        the whole was deflated: those become native, Explicit VR Little Endian
    deidentifier
        what to do

    Raises
    ------
    DeidentificationError
        where the object cannot be de-identified; one line, without any value of it
    OSError
        where a file cannot be read or written
    """
    with unchecked():
        try:
            index = index_instance(source)
            if is_deflated(index.transfer_syntax_uid):
                with _inflated(source) as plain:
                    _deidentify(plain, target, deidentifier, index_instance(plain))
            else:
                _deidentify(source, target, deidentifier, index)
        except (OSError, DeidentificationError):
            raise
        except DicomDecodeError:
            message = "expected an object that can be indexed, found a broken one"
            raise DeidentificationError(message) from None
        except Exception as error:  # noqa: BLE001 -- what pydicom says may hold what it read
            message = f"expected an object that can be read, found {type(error).__name__}"
            raise DeidentificationError(message) from None


def _deidentify(
    source: BinaryIO, target: BinaryIO, deidentifier: Deidentifier, index: InstanceIndex
) -> None:
    start, end = _pixel_element(source, index)
    if start > MOST_HEADER_BYTES:
        message = (
            f"expected at most {MOST_HEADER_BYTES} bytes besides pixel data, found {start}: this "
            "object is not de-identified"
        )
        raise DeidentificationError(message)
    source.seek(0)
    dataset = dcmread(source, stop_before_pixels=True, force=True)
    _require_possible(index)
    rectangles = rectangles_for(deidentifier.profile.pixel_rules, dataset)
    _require_known_pixels(dataset, deidentifier, end > start, ruled=rectangles is not None)
    blanking = Blanking(rectangles or (), _has_embedded_overlays(dataset)) if end > start else None
    implicit = _is_implicit(source, start, end, index, dataset)
    deidentifier.deidentify(dataset, pixels_cleaned=rectangles is not None and end > start)
    if not blanking:
        target.write(_head(dataset, index, implicit=implicit, decoded=False))
        _copy(source, target, start, end, _surplus_bytes(index))
    else:
        _write_blanked(source, target, dataset, index, blanking, implicit=implicit)


def _require_possible(index: InstanceIndex) -> None:
    if index.sop_class_uid in _VOICES:
        message = "expected no voice: a recording identifies who speaks, and is not cleaned"
        raise DeidentificationError(message)
    if index.transfer_syntax_uid in _ELSEWHERE:
        message = "expected pixels in the object, found a JPIP reference to the original"
        raise DeidentificationError(message)


def _require_known_pixels(
    dataset: Dataset, deidentifier: Deidentifier, has_pixels: bool, *, ruled: bool
) -> None:
    burned_in = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    if burned_in and has_pixels and not ruled and deidentifier.profile.burned_in == "refuse":
        message = (
            "BurnedInAnnotation: expected NO or a rule [[pixels]] of the profile, found YES and no "
            "rule that matches"
        )
        raise DeidentificationError(message)


def _has_embedded_overlays(dataset: Dataset) -> bool:
    """Tell whether overlays hide in unused bits of the pixels (retired; PS3.3 C.9.2)."""
    return any(
        tag.group >> 8 == 0x60 and tag.element == 0x0102 and dataset[tag].value
        for tag in dataset.keys()  # noqa: SIM118 -- a data set iterates over its elements
    )


# bytes


def _pixel_element(source: BinaryIO, index: InstanceIndex) -> tuple[int, int]:
    """Give where the element of pixel data starts and ends; both the end of the file without."""
    frames = index.frames
    size = source.seek(0, 2)
    if frames.pixel_data_offset is None or frames.pixel_data_length is None:
        return size, size
    start = frames.pixel_data_offset - 8
    source.seek(max(frames.pixel_data_offset - _BEHIND_HEADER, 0))
    tag = source.read(4)
    order = "big" if index.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "little"
    group, element = int.from_bytes(tag[:2], order), int.from_bytes(tag[2:], order)  # type: ignore[arg-type]
    if group << 16 | element in _PIXEL_TAGS:
        start = frames.pixel_data_offset - _BEHIND_HEADER
    end = frames.pixel_data_offset + frames.pixel_data_length
    return start, end + 8 * (frames.kind == "encapsulated")  # the end of the sequence


def _is_implicit(
    source: BinaryIO, start: int, end: int, index: InstanceIndex, dataset: FileDataset
) -> bool:
    """Tell how the data set is really encoded: devices write explicit VR where they say implicit.

    The element of pixel data is copied as it is, so what is written in front of it follows it.
    """
    if end > start:
        source.seek(start + 4)
        return not source.read(2).isalpha()
    for tag in dataset.keys():  # noqa: SIM118
        item = dataset.get_item(tag)
        if isinstance(item, RawDataElement):
            return bool(item.is_implicit_VR)
    return index.transfer_syntax_uid == ImplicitVRLittleEndian


def _head(dataset: Dataset, index: InstanceIndex, *, implicit: bool, decoded: bool) -> bytes:
    """Give preamble, file meta information and data set: nothing of the source's own is kept."""
    syntax = UID(index.transfer_syntax_uid)
    big = syntax == EXPLICIT_VR_BIG_ENDIAN
    if decoded or (syntax == ImplicitVRLittleEndian and not implicit):
        syntax, big = ExplicitVRLittleEndian, False
    elif implicit and not syntax.is_private:
        syntax = ImplicitVRLittleEndian
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta)
    buffer.is_little_endian, buffer.is_implicit_VR = not big, implicit and not decoded
    if decoded:
        for _ in dataset.iterall():
            pass  # values as they were read would be written so, whatever the encoding is now
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def _surplus_bytes(index: InstanceIndex) -> int:
    """Give how many bytes of native pixel data belong to no frame: they could hold anything."""
    frames = index.frames
    if frames.kind != "native" or not frames.count or not frames.frame_size_bits:
        return 0
    return (frames.pixel_data_length or 0) - -(-frames.count * frames.frame_size_bits // 8)


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int, surplus_bytes: int) -> None:
    source.seek(start)
    end -= surplus_bytes
    while start < end:
        data = source.read(min(_COPY_BYTES, end - start))
        if not data:
            raise DeidentificationError("pixel data: expected more bytes, found the end")
        target.write(data)
        start += len(data)
    while surplus_bytes > 0:
        surplus_bytes -= target.write(bytes(min(_COPY_BYTES, surplus_bytes)))


def _write_blanked(
    source: BinaryIO,
    target: BinaryIO,
    dataset: Dataset,
    index: InstanceIndex,
    blanking: Blanking,
    *,
    implicit: bool,
) -> None:
    source.seek(_pixel_element(source, index)[0])
    if source.read(4) not in _PIXEL_DATA:
        raise DeidentificationError("pixel data: expected whole numbers to blank, found others")
    vr = "OW" if implicit else source.read(2).decode("latin_1")
    native = blanking.keeps_native(dataset, index.frames)
    big = index.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
    order = ">" if big else "<"
    frames = (
        native_frames(source, dataset, index.frames, blanking, order, vr)
        if native
        else decoded_frames(source, dataset, blanking, big_endian=big)
    )
    first = next(frames, None)
    if first is None:
        raise DeidentificationError("pixel data: expected frames to blank, found none")
    count = index.frames.count or int(dataset.get("NumberOfFrames", 1) or 1)
    length = len(first) * count
    target.write(_head(dataset, index, implicit=implicit, decoded=not native))
    if not native:
        vr = "OW" if dataset.BitsAllocated > 8 else "OB"
    target.write(element_header(vr, length + length % 2, implicit=implicit and native, order=order))
    target.write(first)
    written = len(first) + sum(target.write(frame) for frame in frames)
    if written != length:
        raise DeidentificationError("pixel data: expected as many frames as the object says")
    target.write(bytes(length % 2))


@contextmanager
def _inflated(source: BinaryIO) -> Iterator[BinaryIO]:
    """Give a deflated object as a plain one, in a file of its own beyond 64 MiB."""
    source.seek(0)
    data = source.read(MOST_HEADER_BYTES + 1)
    if len(data) > MOST_HEADER_BYTES:
        message = f"expected at most {MOST_HEADER_BYTES} bytes deflated, found more"
        raise DeidentificationError(message)
    start = data_set_start(data)
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as file:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        head = DicomBytesIO()
        head.is_little_endian, head.is_implicit_VR = True, False
        head.write(bytes(128) + b"DICM")
        write_file_meta_info(head, meta, enforce_standard=False)
        file.write(head.getvalue())
        inflater, rest, total = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0
        while rest and not inflater.eof:
            piece = inflater.decompress(rest, _COPY_BYTES)
            total += file.write(piece)
            if total > INFLATE_LIMIT_BYTES:
                message = f"expected at most {INFLATE_LIMIT_BYTES} bytes inflated, found more"
                raise DeidentificationError(message)
            rest = inflater.unconsumed_tail
        file.write(inflater.flush())
        yield file  # type: ignore[misc]
