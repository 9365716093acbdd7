"""One pass over the elements of a data set (PS3.5 clause 7), which trusts no byte of it.

The walk writes the DICOM JSON as it goes and keeps the few value fields that columns need, so that
no tree of elements is ever built. Depth, number of elements and bytes held are all bounded, and a
length is believed only where the stream has those bytes.
"""

from array import array
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, NoReturn

from pacspark.dicom.attributes import BY_TAG
from pacspark.dicom.elements import (
    BIG_HEADER,
    HEADER_BYTES,
    IMPLICIT_LITTLE,
    LITTLE_HEADER,
    UNDEFINED_LENGTH,
    ElementHeader,
    Encoding,
    name_of,
    parse_header,
    read_header,
    vr_of_private_tag,
    vr_of_tag,
)
from pacspark.dicom.frames import Fragments
from pacspark.dicom.stream import ByteStream
from pacspark.dicom.text import DEFAULT_ENCODING, encoding_of
from pacspark.dicom.values import json_of_value
from pacspark.errors import DicomDecodeError

MAX_DEPTH: Final = 64
"""Sequences nested deeper are refused: no real object comes near, and JSON readers recurse."""

MAX_ELEMENTS: Final = 1_000_000
"""Elements and items of one object; an enhanced multi-frame of 10,000 frames has about half."""

MAX_FRAGMENTS: Final = 2_000_000
"""Fragments of one object's encapsulated pixel data."""

HEADER_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Value fields that are read, all together."""

JSON_LIMIT_CHARACTERS: Final = 32 * 1024 * 1024
"""Values of the DICOM JSON, all together: a control character takes six."""

INLINE_LIMIT_BYTES: Final = 64 * 1024
"""A longer value field is bulk data: JSON refers to its place, and no column holds its numbers."""

SPARING_FROM_CHARACTERS: Final = 16 * 1024 * 1024
SPARING_LIMIT_BYTES: Final = 256
"""Where the JSON has become that long, as of contours of many structures, more of it is bulk."""

_INLINE_LIMITS_BYTES: Final = {
    "OB": 4 * 1024,
    "OW": 4 * 1024,
    "UN": 4 * 1024,
    "UT": 1024 * 1024,
    "UC": 1024 * 1024,
}
# of the other VRs Annex F.2.2 knows no bulk data: their overlong values are left out
_BULK_DATA_VRS: Final = frozenset(
    {"DS", "FD", "FL", "IS", "LT", "OB", "OD", "OF", "OL", "OV", "OW"}
    | {"SL", "SS", "ST", "SV", "UC", "UL", "UN", "US", "UT", "UV"}
)

PIXEL_DATA: Final = 0x7FE00010
PIXEL_DATA_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})
EXTENDED_OFFSET_TABLE: Final = 0x7FE00001
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_PIXEL_REPRESENTATION: Final = 0x00280103
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD

_TELLING_TAGS: Final = frozenset(
    {_SPECIFIC_CHARACTER_SET, _PIXEL_REPRESENTATION, EXTENDED_OFFSET_TABLE}
)
_PROMOTED_TAGS: Final = frozenset(BY_TAG)
_CACHED_BYTES: Final = 64

_FRAGMENT_VRS: Final = frozenset({"OB", "OW", "OD", "OF", "OL", "OV"})

_UNBOUNDED: Final = 1 << 63


class ValueField(NamedTuple):
    """A value field as it was read; only its start where it is overlong."""

    vr: str
    value: bytes
    whole: bool


@dataclass(slots=True)
class PixelData:
    """Where the pixel data are: fragments are None where they are native."""

    tag: int
    offset: int
    length: int
    fragments: Fragments | None


@dataclass(slots=True)
class _Scope:
    """What elements of one data set or item tell about those that follow; its members of JSON."""

    encoding: Encoding
    text_encoding: str = DEFAULT_ENCODING
    signed_pixels: bool = False
    creators: dict[int, str] = field(default_factory=dict)
    json: dict[int, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return f"{{{','.join([self.json[tag] for tag in sorted(self.json)])}}}"


class DataSetWalk:
    """One walk over one data set.

    Attributes
    ----------
    columns
        value fields of the promoted attributes that were met on the top level, by tag
    text_encoding
        Python codec that text of the top level starts in
    pixel_data
        where the pixel data are, None where there are none
    extended_offset_table
        the value field of (7FE0,0001)
    """

    def __init__(self, stream: ByteStream) -> None:
        self.columns: dict[int, ValueField] = {}
        self.text_encoding = DEFAULT_ENCODING
        self.pixel_data: PixelData | None = None
        self.extended_offset_table = b""
        self._stream = stream
        self._elements = 0
        self._held_bytes = 0
        self._json_characters = 0

    def run(self, position: int, encoding: Encoding) -> str:
        """Walk from a position to the end of the stream and give the data set's DICOM JSON.

        Raises
        ------
        DicomDecodeError
            where the structure is broken or passes a limit of this module
        """
        scope = _Scope(encoding)
        self._walk(position, _UNBOUNDED, scope, 0)
        self.text_encoding = scope.text_encoding
        return scope.to_json()

    def _walk(self, position: int, end: int, scope: _Scope, depth: int) -> int:
        take = self._stream.take
        while position < end:
            raw = take(position, HEADER_BYTES)
            if not raw and depth == 0:
                return position
            header = parse_header(raw, position, scope.encoding)
            self._count(header.tag, position)
            if header.tag >> 16 == 0xFFFE:
                if header.tag != _ITEM_END or depth == 0:
                    self._fail(header.tag, position, "expected an element, found a stray delimiter")
                position = header.value
                if end == _UNBOUNDED:
                    return position
                continue
            next_position = self._element(header, scope, depth)
            if next_position > end:
                self._fail(
                    header.tag,
                    position,
                    f"expected its end within its item, by byte {end}, found it at {next_position}",
                )
            position = next_position
        return position

    def _element(self, header: ElementHeader, scope: _Scope, depth: int) -> int:
        tag, stated_vr, length, value = header
        if tag in scope.json:
            self._fail(tag, value, "expected each tag once (PS3.5 7.1), found it again")
        if length == UNDEFINED_LENGTH:
            return self._undefined_length(header, scope, depth)
        vr = stated_vr
        if vr in {"", "UN"}:
            known_vr = self._known_vr(tag, scope)
            if known_vr != "SQ" or self._holds_items(header):
                vr = known_vr
        if vr == "SQ":
            json, position = self._sequence(header, scope.encoding, scope, depth)
            scope.json[tag] = f'"{tag:08X}":{json}'
            return position
        if depth == 0 and tag in PIXEL_DATA_TAGS:
            self._require(header, vr)
            self.pixel_data = PixelData(tag, value, length, None)
            scope.json[tag] = _bulk_data(tag, vr, value, length)
        elif length > _INLINE_LIMITS_BYTES.get(vr, INLINE_LIMIT_BYTES) or (
            length > SPARING_LIMIT_BYTES and self._json_characters > SPARING_FROM_CHARACTERS
        ):
            self._skip(header, vr, scope, depth)
        else:
            self._read(header, vr, scope, depth)
        return value + length

    def _read(self, header: ElementHeader, vr: str, scope: _Scope, depth: int) -> None:
        tag, _, length, position = header
        value = self._stream.take(position, length)
        if len(value) < length:
            self._require(header, vr)
        self._hold(tag, position, length)
        if depth == 0 and tag in _PROMOTED_TAGS:
            self.columns[tag] = ValueField(vr, value, whole=True)
        if tag in _TELLING_TAGS or (tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF):
            self._note(tag, value, scope, depth)
        if tag == _SPECIFIC_CHARACTER_SET:
            # JSON is UTF-8, whatever the object was; the column keeps what the object says
            if depth == 0:
                scope.json[tag] = '"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'
        elif tag >> 16 > 2 and tag & 0xFFFF:
            member = _known_member if length <= _CACHED_BYTES else _member
            json = member(tag, vr, value, scope.text_encoding, scope.encoding.little_endian)
            scope.json[tag] = json
            self._json_characters += len(json)
            if self._json_characters > JSON_LIMIT_CHARACTERS:
                limit = f"expected at most {JSON_LIMIT_CHARACTERS} characters of DICOM JSON"
                self._fail(tag, position, f"{limit}, found more")

    def _note(self, tag: int, value: bytes, scope: _Scope, depth: int) -> None:
        """Note what an element tells about those that follow."""
        if tag == _SPECIFIC_CHARACTER_SET:
            scope.text_encoding = encoding_of(value)
        elif tag == _PIXEL_REPRESENTATION:
            scope.signed_pixels = value.startswith((b"\1\0", b"\0\1"))
        elif tag == EXTENDED_OFFSET_TABLE:
            if depth == 0:
                self.extended_offset_table = value
        elif len(value) <= 64:
            creator = value.decode("latin_1").strip(" \0")
            scope.creators[tag & 0xFFFF0000 | (tag & 0xFF) << 8] = creator

    def _skip(self, header: ElementHeader, vr: str, scope: _Scope, depth: int) -> None:
        tag, _, length, position = header
        if depth == 0 and tag in BY_TAG:
            start = self._stream.take(position, min(length, INLINE_LIMIT_BYTES))
            self._hold(tag, position, len(start))
            self.columns[tag] = ValueField(vr, start, whole=False)
        elif depth == 0 and tag == EXTENDED_OFFSET_TABLE and length <= 8 * MAX_FRAGMENTS:
            self._hold(tag, position, length)
            self.extended_offset_table = self._stream.take(position, length)
        self._require(header, vr)
        scope.json[tag] = _bulk_data(tag, vr, position, length)

    def _undefined_length(self, header: ElementHeader, scope: _Scope, depth: int) -> int:
        tag, vr, _, value = header
        encapsulated = vr in _FRAGMENT_VRS or (tag == PIXEL_DATA and vr in {"", "UN"})
        if not encapsulated:
            # UN of undefined length is a sequence in implicit VR (PS3.5 6.2.2 note 4)
            encoding = IMPLICIT_LITTLE if vr == "UN" else scope.encoding
            json, position = self._sequence(header, encoding, scope, depth)
            scope.json[tag] = f'"{tag:08X}":{json}'
            return position
        fragments, position = self._fragments(header, scope.encoding)
        if depth == 0 and tag == PIXEL_DATA:
            self.pixel_data = PixelData(tag, value, fragments.end - value, fragments)
        scope.json[tag] = _bulk_data(tag, vr or "OB", value, fragments.end - value)
        return position

    def _sequence(
        self, header: ElementHeader, encoding: Encoding, scope: _Scope, depth: int
    ) -> tuple[str, int]:
        tag, _, length, position = header
        if depth == MAX_DEPTH:
            self._fail(tag, position, f"expected sequences at most {MAX_DEPTH} deep, found more")
        if length != UNDEFINED_LENGTH:
            self._require(header, "SQ")
        end = _UNBOUNDED if length == UNDEFINED_LENGTH else position + length
        items = []
        while position < end:
            item = read_header(self._stream, position, encoding)
            self._count(tag, position)
            position = item.value
            if item.tag == _SEQUENCE_END:
                if end == _UNBOUNDED:
                    break
                continue
            if item.tag != _ITEM:
                found = f"found {name_of(item.tag)}"
                self._fail(tag, position - 8, f"expected an item of the sequence, {found}")
            item_end = _UNBOUNDED if item.length == UNDEFINED_LENGTH else position + item.length
            if _UNBOUNDED > item_end > end:
                found = f"found an item that ends at {item_end}"
                self._fail(
                    tag, position - 8, f"expected the sequence to end at byte {end}, {found}"
                )
            inner = _Scope(encoding, scope.text_encoding, scope.signed_pixels)
            position = self._walk(position, item_end, inner, depth + 1)
            items.append(inner.to_json())
        if position > end:
            self._fail(tag, position, f"expected the sequence to end at byte {end}, found more")
        members = f',"Value":[{",".join(items)}]' if items else ""
        return f'{{"vr":"SQ"{members}}}', position

    def _fragments(self, header: ElementHeader, encoding: Encoding) -> tuple[Fragments, int]:
        tag, _, _, position = header
        offsets, lengths = array("Q"), array("Q")
        table: bytes | None = None
        while True:
            raw = self._stream.peek(position, 8)
            if len(raw) < 8:
                found = f"found the last {len(raw)} bytes (truncated)"
                self._fail(
                    tag, position, f"expected a fragment or the end of the sequence, {found}"
                )
            structure = LITTLE_HEADER if encoding.little_endian else BIG_HEADER
            group, element, length = structure.unpack(raw)
            item = group << 16 | element
            if item == _SEQUENCE_END:
                return Fragments(offsets, lengths, position, table or b""), position + 8
            if item != _ITEM or length == UNDEFINED_LENGTH:
                self._fail(tag, position, f"expected a fragment, found {raw.hex(' ')}")
            fragment = ElementHeader(tag, "", length, position + 8)
            if table is None:
                keep = min(length, 4 * MAX_FRAGMENTS)
                self._hold(tag, position, keep)
                table = self._stream.peek(position + 8, keep)
            elif len(offsets) < MAX_FRAGMENTS:
                offsets.append(position + 8)
                lengths.append(length)
            else:
                self._fail(tag, position, f"expected at most {MAX_FRAGMENTS} fragments, found more")
            self._require(fragment, "fragment")
            position += 8 + length

    def _known_vr(self, tag: int, scope: _Scope) -> str:
        if tag >> 16 & 1:
            if 0x10 <= tag & 0xFFFF <= 0xFF:
                return "LO"
            creator = scope.creators.get(tag & 0xFFFFFF00)
            vr = vr_of_private_tag(tag, creator) if creator else "UN"
        else:
            vr = vr_of_tag(tag)
        if vr == "US or SS":
            return "SS" if scope.signed_pixels else "US"
        return vr

    def _holds_items(self, header: ElementHeader) -> bool:
        """Tell whether an element that a dictionary calls a sequence really is one.

        Public dictionaries are right about implicit VR; for private ones and for UN only the
        bytes can tell.
        """
        public = header.vr == "" and not header.tag >> 16 & 1
        return public or (
            header.vr == "" and self._stream.take(header.value, 4) in {b"", b"\xfe\xff\x00\xe0"}
        )

    def _require(self, header: ElementHeader, what: str) -> None:
        available = self._stream.available(header.value, header.length)
        if available < header.length:
            self._fail(
                header.tag,
                header.value,
                f"{what} expected {header.length} bytes, found {max(available, 0)} (truncated)",
            )

    def _count(self, tag: int, position: int) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            self._fail(tag, position, f"expected at most {MAX_ELEMENTS} elements, found more")

    def _hold(self, tag: int, position: int, length: int) -> None:
        self._held_bytes += length
        if self._held_bytes > HEADER_LIMIT_BYTES:
            limit = f"expected at most {HEADER_LIMIT_BYTES} bytes of values besides bulk data"
            self._fail(tag, position, f"{limit}, found more")

    def _fail(self, tag: int, position: int, what: str) -> NoReturn:
        message = f"{name_of(tag)} at byte {position}: {what}"
        raise DicomDecodeError(message)


def _bulk_data(tag: int, vr: str, offset: int, length: int) -> str:
    if vr not in _BULK_DATA_VRS or not length:
        return f'"{tag:08X}":{{"vr":"{vr}"}}'
    return f'"{tag:08X}":{{"vr":"{vr}","BulkDataURI":"#{offset},{length}"}}'


def _member(tag: int, vr: str, value: bytes, text_encoding: str, little_endian: bool) -> str:
    json = json_of_value(vr, value, text_encoding, little_endian=little_endian)
    return f'"{tag:08X}":{json}'


_known_member = lru_cache(maxsize=8192)(_member)
"""Objects of a series have most of their short values in common."""
