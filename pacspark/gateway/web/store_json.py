"""STOW-RS of metadata and bulk data apart (PS3.18 10.5.2, F): DICOM JSON to objects.

One part of the request is an array of data sets, the others are what their ``BulkDataURI`` name::

    application/dicom+json                  [{"00080018": ..., "7FE00010": {"BulkDataURI": "a"}}]
    application/octet-stream                Content-Location: a      pixels, not compressed
    image/jls; transfer-syntax=1.2.840...   Content-Location: b      a frame; one part for each

Metadata and bulk data wait together, in files without a name where they are many. Nothing is
fetched: an address is a name of a part. Objects are written in Explicit VR Little Endian, or in the
transfer syntax of their frames; text is UTF-8.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from pacspark.dicom.decode import EXPLICIT_VR_LITTLE_ENDIAN
from pacspark.dicom.uids import is_uid
from pacspark.errors import DicomDecodeError, PacsparkError, QueryError, RequestTooLargeError
from pacspark.gateway.dimse.identifiers import UTF8, element_of, plain_value
from pacspark.gateway.part10 import file_header
from pacspark.gateway.web.media import DICOM_JSON, OCTETS
from pacspark.tables.landing import Landing
from pacspark.tables.spool import Spool

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_METADATA_BYTES: Final = 32 << 20
_MOST_INSTANCES: Final = 10_000
"""Of one request: each takes over a millisecond; those of real images reach 32 MiB first."""
_MOST_LOCATION_CHARACTERS: Final = 1024
_MOST_DS_CHARACTERS: Final = 16
_DEPTH: Final = 32
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_VR: Final = re.compile(r"[A-Z]{2}")
_SYNTAX: Final = re.compile(r'transfer-syntax="?([0-9.]+)')
_CHARACTER_SET, _PIXEL_DATA = 0x00080005, 0x7FE00010
_SYNTAX_OF_MEDIA: Final = {
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/jpeg": "1.2.840.10008.1.2.4.70",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jpx": "1.2.840.10008.1.2.4.92",
    "image/jphc": "1.2.840.10008.1.2.4.201",
}
"""What a part is in that does not say so (PS3.18 table 8.7.3-2)."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part of bulk data lies in the file, and what it is."""

    start: int
    length: int
    media_type: str


@dataclass(slots=True)
class MetadataParts:
    """The parts of one request; a context for the multipart parser.

    Attributes
    ----------
    landing
        on whose disk bulk data wait
    most_parts
        that are taken
    """

    landing: Landing
    most_parts: int
    _parts: int = 0
    _metadata: Spool = field(init=False)
    _bulk: dict[str, list[_Place]] = field(default_factory=dict)
    _spool: Spool = field(init=False)
    _head: dict[str, str] = field(default_factory=dict)
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _start: int = 0

    def __post_init__(self) -> None:
        self._metadata, self._spool = Spool(self.landing), Spool(self.landing)

    @property
    def metadata_bytes(self) -> int:
        """The length of the metadata that came."""
        return self._metadata.size_bytes

    def close(self) -> None:
        """Let go of what waits."""
        self._metadata.close()
        self._spool.close()

    def callbacks(self) -> "MultipartCallbacks":
        """Give what the parser calls."""
        return {
            "on_part_begin": self._begin,
            # the parser bounds their lengths and their number
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._line_ends,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self.most_parts:
            message = f"expected at most {self.most_parts} parts, found more"
            raise RequestTooLargeError(message)
        self._head, self._start = {}, self._spool.size_bytes

    def _line_ends(self) -> None:
        name = self._name.decode("latin_1").strip().lower()
        self._head[name] = self._value.decode("latin_1").strip()
        self._name.clear()
        self._value.clear()

    @property
    def _is_metadata(self) -> bool:
        return self._head.get("content-type", "").partition(";")[0].strip().lower() == DICOM_JSON

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_metadata:
            self._spool.write(data[start:end])
            return
        self._metadata.write(data[start:end])
        if self._metadata.size_bytes > MOST_METADATA_BYTES:
            message = f"expected at most {MOST_METADATA_BYTES} bytes of metadata, found more"
            raise RequestTooLargeError(message)

    def _end(self) -> None:
        if self._is_metadata:
            return
        location = self._head.get("content-location", "")
        if not 0 < len(location) <= _MOST_LOCATION_CHARACTERS:
            message = (
                f"body: expected a Content-Location of 1 to {_MOST_LOCATION_CHARACTERS} characters "
                f"for each part of bulk data, found {len(location)}"
            )
            raise QueryError(message)
        media_type = self._head.get("content-type", OCTETS)[:256]
        place = _Place(self._start, self._spool.size_bytes - self._start, media_type)
        self._bulk.setdefault(location, []).append(place)

    def instances(self) -> list[Any]:
        """Give the data sets as they came.

        Raises
        ------
        QueryError
            where there is no array of them
        RequestTooLargeError
            where they are too many
        StorageError
            where there was no room for them
        """
        data = self._metadata.data()
        try:
            found = json.loads((data if isinstance(data, bytes) else data.read()) or b"null")
        except (ValueError, RecursionError) as error:
            message = f"body: expected DICOM JSON, found {str(error)[:200]}"
            raise QueryError(message) from error
        if not isinstance(found, list) or not found:
            message = f"body: expected an array of data sets as one part of type {DICOM_JSON}"
            raise QueryError(message)
        most = min(self.most_parts, _MOST_INSTANCES)
        if len(found) > most:
            message = f"body: expected metadata of at most {most} instances, found {len(found)}"
            raise RequestTooLargeError(message)
        return found

    def object_of(self, elements: Any, most_bytes: int) -> bytes:
        """Write the object of a data set.

        Parameters
        ----------
        elements
            one of :meth:`instances`
        most_bytes
            of its bulk data

        Raises
        ------
        DicomDecodeError
            where it is none, or names bulk data that the request does not have
        StorageError
            where there was no room for bulk data
        """
        reader = _Reader(self._read, most_bytes)
        try:
            data_set = reader.data_set(elements, _DEPTH)
            names = [str(data_set.get(name, "")) for name in ("SOPClassUID", "SOPInstanceUID")]
            if not all(map(is_uid, names)):
                message = "expected SOPClassUID and SOPInstanceUID, found none or no UIDs"
                raise DicomDecodeError(message)
            if not str(elements).isascii():
                data_set.SpecificCharacterSet = UTF8
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = True, False
            write_dataset(buffer, data_set, UTF8)
        except PacsparkError:
            raise
        except Exception as error:  # pydicom raises what comes of values that cannot be
            message = f"expected a data set in DICOM JSON, found: {str(error)[:200]}"
            raise DicomDecodeError(message) from error
        return file_header(names[0], names[1], reader.syntax) + buffer.getvalue()

    def _read(self, uri: str, most_bytes: int) -> list[tuple[str, bytes]]:
        places = self._bulk.get(uri)
        if places is None:
            message = f"BulkDataURI: expected the Content-Location of a part, found {uri[:100]!r}"
            raise DicomDecodeError(message)
        if sum(place.length for place in places) > most_bytes:
            message = f"expected at most {most_bytes} bytes of bulk data in an object, found more"
            raise DicomDecodeError(message)
        return [(place.media_type, self._piece(place)) for place in places]

    def _piece(self, place: _Place) -> bytes:
        whole = self._spool.data()
        if isinstance(whole, bytes):
            return whole[place.start : place.start + place.length]
        whole.seek(place.start)
        return whole.read(place.length)


@dataclass(slots=True)
class _Reader:
    """Makes one data set; :attr:`syntax` is that of its pixels afterwards."""

    read: Callable[[str, int], list[tuple[str, bytes]]]
    bytes_left: int
    syntax: str = EXPLICIT_VR_LITTLE_ENDIAN

    def data_set(self, elements: Any, depth: int) -> Dataset:
        if not isinstance(elements, dict) or depth < 0:
            message = "expected a data set in DICOM JSON, found something else or nested too deep"
            raise DicomDecodeError(message)
        data_set = Dataset()
        for text, element in sorted(elements.items()):
            vr = element.get("vr") if isinstance(element, dict) else None
            if not _TAG.fullmatch(text) or not isinstance(vr, str) or not _VR.fullmatch(vr):
                message = f"expected tags of eight hex digits with a vr, found {text[:32]!r}"
                raise DicomDecodeError(message)
            tag = int(text, 16)
            is_nested_set = tag == _CHARACTER_SET and depth < _DEPTH  # all text is UTF-8
            if tag >> 16 > 2 and not is_nested_set:
                self._add(data_set, tag, vr, element, depth)
        return data_set

    def _add(
        self, data_set: Dataset, tag: int, vr: str, element: Mapping[str, Any], depth: int
    ) -> None:
        if "BulkDataURI" in element or "InlineBinary" in element:
            parts = self._parts(element)
            if tag == _PIXEL_DATA and depth == _DEPTH:
                self._add_pixels(data_set, vr, parts)
                return
            if len(parts) != 1 or vr == "SQ":
                message = f"{tag:08X}: expected one part of bulk data, found {len(parts)} of {vr}"
                raise DicomDecodeError(message)
            data_set[tag] = _raw(tag, vr, parts[0][1])
            return
        if vr == "SQ":
            items = [self.data_set(item, depth - 1) for item in element.get("Value") or ()]
            data_set.add_new(tag, vr, items)
            return
        value = plain_value(_with_short_numbers(element) if vr == "DS" else element)
        data_set[tag] = element_of(tag, vr, value)

    def _parts(self, element: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        if "InlineBinary" in element:
            parts = [(OCTETS, base64.b64decode(element["InlineBinary"], validate=True))]
        else:
            parts = self.read(str(element["BulkDataURI"]), self.bytes_left)
        self.bytes_left -= sum(len(data) for _, data in parts)
        return parts

    def _add_pixels(self, data_set: Dataset, vr: str, parts: Sequence[tuple[str, bytes]]) -> None:
        syntax = _syntax_of(parts[0][0])
        frames = [data for _, data in parts]
        if not UID(syntax).is_encapsulated:
            if len(frames) != 1:
                message = f"expected one part of pixels, found {len(frames)}"
                raise DicomDecodeError(message)
            data_set[_PIXEL_DATA] = _raw(_PIXEL_DATA, vr, frames[0])
            return
        wanted = int(data_set.get("NumberOfFrames") or 1)
        if len(frames) != wanted:
            message = f"expected a part for each of {wanted} frames, found {len(frames)}"
            raise DicomDecodeError(message)
        pixels = element_of(_PIXEL_DATA, "OB", encapsulate(frames))
        pixels.is_undefined_length = True
        data_set[_PIXEL_DATA] = pixels
        self.syntax = syntax


def _raw(tag: int, vr: str, data: bytes) -> RawDataElement:
    """Make an element of bytes, which are written as they are."""
    data += b"\0" * (len(data) % 2)
    return RawDataElement(Tag(tag), vr, len(data), data, 0, False, True)


def _syntax_of(content_type: str) -> str:
    """Tell in which transfer syntax pixels of a part are."""
    match = _SYNTAX.search(content_type)
    media_type = content_type.partition(";")[0].strip().lower()
    syntax = match[1] if match else _SYNTAX_OF_MEDIA.get(media_type, EXPLICIT_VR_LITTLE_ENDIAN)
    if syntax in {ExplicitVRLittleEndian, ImplicitVRLittleEndian}:
        return EXPLICIT_VR_LITTLE_ENDIAN
    known = UID(syntax)
    if not (is_uid(syntax) and known.is_transfer_syntax and known.is_encapsulated):
        message = f"expected pixels in little endian or compressed, found {content_type[:100]!r}"
        raise DicomDecodeError(message)
    return syntax


def _with_short_numbers(element: Mapping[str, Any]) -> dict[str, Any]:
    """Write the numbers of a decimal string in at most 16 characters."""
    return {**element, "Value": [_short(value) for value in element.get("Value") or ()]}


def _short(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    text = repr(value)
    return text if len(text) <= _MOST_DS_CHARACTERS else format_number_as_ds(float(value))
