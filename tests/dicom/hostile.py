"""Objects made byte by byte, sound ones and ones that attack a decoder.

Nothing here uses the code under test or pydicom, so that both can be held against it.
"""

import struct
import zlib
from collections.abc import Iterator

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
UNDEFINED = 0xFFFFFFFF
LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})

Elements = dict[int, tuple[str, bytes]]


def element(
    tag: int, vr: str, value: bytes, syntax: str = EXPLICIT, length: int | None = None
) -> bytes:
    """One element; a length of one's own may lie."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    count = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT or tag >> 16 == 0xFFFE:
        return head + struct.pack(order + "I", count) + value
    if vr in LONG_VRS:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", count) + value
    return head + vr.encode() + struct.pack(order + "H", count & 0xFFFF) + value


def text(value: str, encoding: str = "ascii") -> bytes:
    data = value.encode(encoding)
    return data + b" " * (len(data) % 2)


def uid(value: str) -> bytes:
    return value.encode() + b"\0" * (len(value) % 2)


def words(*values: int, syntax: str = EXPLICIT) -> bytes:
    return struct.pack(f"{'>' if syntax == BIG_ENDIAN else '<'}{len(values)}H", *values)


def header(syntax: str = EXPLICIT) -> Elements:
    """The elements of a small CT image without its pixel data."""
    return {
        0x00080016: ("UI", uid(CT_IMAGE_STORAGE)),
        0x00080018: ("UI", uid("1.2.3.4")),
        0x00080060: ("CS", text("CT")),
        0x00100010: ("PN", text("Doe^Jane")),
        0x00100020: ("LO", text("ID-1")),
        0x0020000D: ("UI", uid("1.2.3")),
        0x0020000E: ("UI", uid("1.2.3.1")),
        0x00200013: ("IS", text("7")),
        0x00200032: ("DS", text("-1.50\\+2\\3e1")),
        0x00280002: ("US", words(1, syntax=syntax)),
        0x00280004: ("CS", text("MONOCHROME2")),
        0x00280010: ("US", words(2, syntax=syntax)),
        0x00280011: ("US", words(3, syntax=syntax)),
        0x00280100: ("US", words(16, syntax=syntax)),
        0x00280103: ("US", words(0, syntax=syntax)),
    }


def data_set(elements: Elements, syntax: str = EXPLICIT) -> bytes:
    return b"".join(
        element(tag, vr, value, syntax) for tag, (vr, value) in sorted(elements.items())
    )


def part10(body: bytes, syntax: str = EXPLICIT) -> bytes:
    meta = element(0x00020010, "UI", uid(syntax))
    return (
        bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + body
    )


def ct_object(syntax: str = EXPLICIT, **changes: tuple[str, bytes] | None) -> bytes:
    """A small CT image; ``x00100010=("PN", ...)`` changes an element, None drops it."""
    elements = {**header(syntax), 0x7FE00010: ("OW", bytes(range(12)))}
    for name, change in changes.items():
        tag = int(name[1:], 16)
        elements.pop(tag, None)
        if change is not None:
            elements[tag] = change
    body = data_set(elements, EXPLICIT if syntax == DEFLATED else syntax)
    return part10(deflate(body) if syntax == DEFLATED else body, syntax)


def deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


def item(content: bytes, syntax: str = EXPLICIT, *, undefined: bool = False) -> bytes:
    if undefined:
        end = element(0xFFFEE00D, "", b"", syntax)
        return element(0xFFFEE000, "", content, syntax, UNDEFINED) + end
    return element(0xFFFEE000, "", content, syntax)


def sequence(tag: int, items: list[bytes], syntax: str = EXPLICIT, *, undefined: bool) -> bytes:
    content = b"".join(items)
    if undefined:
        end = element(0xFFFEE0DD, "", b"", syntax)
        return element(tag, "SQ", content, syntax, UNDEFINED) + end
    return element(tag, "SQ", content, syntax)


def nested(depth: int, syntax: str = EXPLICIT, *, undefined: bool = True) -> bytes:
    """Sequences in sequences."""
    content = b""
    for _ in range(depth):
        inner = item(content, syntax, undefined=undefined)
        content = sequence(0x00081140, [inner], syntax, undefined=undefined)
    return content


def encapsulated(
    fragments: list[bytes],
    *,
    frames: int,
    basic_offset_table: list[int] | None = None,
    extended_offset_table: list[int] | None = None,
    syntax: str = JPEG_BASELINE,
) -> bytes:
    """An object whose pixel data are these fragments."""
    elements = {**header(), 0x00280008: ("IS", text(str(frames)))}
    if extended_offset_table is not None:
        count = len(extended_offset_table)
        elements[0x7FE00001] = ("OV", struct.pack(f"<{count}Q", *extended_offset_table))
    offsets = basic_offset_table or []
    items = [struct.pack(f"<{len(offsets)}I", *offsets), *fragments]
    pixel_data = b"".join(element(0xFFFEE000, "", fragment) for fragment in items)
    return part10(
        data_set(elements)
        + element(0x7FE00010, "OB", pixel_data, length=UNDEFINED)
        + element(0xFFFEE0DD, "", b""),
        syntax,
    )


def zlib_bomb(inflated_bytes: int, tag: int = 0x7FE00010, vr: str = "OW") -> bytes:
    """A deflated object of which one value inflates to very much."""
    elements = data_set({t: e for t, e in header().items() if t < tag})
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [compressor.compress(elements + element(tag, vr, b"", length=inflated_bytes))]
    step = bytes(1 << 20)
    pieces.extend(
        compressor.compress(step[: inflated_bytes - start])
        for start in range(0, inflated_bytes, len(step))
    )
    pieces.append(compressor.compress(data_set({t: e for t, e in header().items() if t > tag})))
    return part10(b"".join(pieces) + compressor.flush(), DEFLATED)


def refused_objects() -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes, and a part of the message that the refusal must have."""
    sound = data_set(header())
    yield "empty", b"", "found no bytes"
    yield "text", b"Dear colleague, the images are on the disk.\n" * 20, "expected DICOM"
    yield "zeros", bytes(4096), "expected DICOM"
    yield "ones", b"\xff" * 4096, "expected DICOM"
    yield "jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(400), "expected DICOM"
    yield "preamble alone", bytes(128) + b"DICM", "truncated"
    yield "meta alone", part10(b""), "truncated"
    yield "half an element", part10(sound + b"\x28\0\x06"), "truncated"
    yield (
        "pixel data cut",
        part10(sound + element(0x7FE00010, "OW", bytes(10), length=12)),
        "expected 12 bytes, found 10 (truncated)",
    )
    yield (
        "4 GiB in 1 KB",
        part10(sound + element(0x7FE00010, "OW", bytes(1024), length=0xFFFFFFFE)),
        "expected 4294967294 bytes",
    )
    yield (
        "4 GiB of text",
        part10(element(0x00080016, "UT", b"", length=0xFFFFFFFE) + sound),
        "expected 4294967294 bytes",
    )
    yield "1,100 sequences", part10(sound + nested(1_100)), "at most 64 deep"
    yield (
        "1,100 sequences, implicit",
        part10(data_set(header(IMPLICIT), IMPLICIT) + nested(1_100, IMPLICIT), IMPLICIT),
        "at most 64 deep",
    )
    yield (
        "100,000 openings",
        part10(
            sound
            + (
                element(0x00081140, "SQ", b"", length=UNDEFINED)
                + element(0xFFFEE000, "", b"", length=UNDEFINED)
            )
            * 100_000
        ),
        "at most 64 deep",
    )
    yield (
        "item longer than its sequence",
        part10(element(0x00081140, "SQ", element(0xFFFEE000, "", b"", length=999)) + sound),
        "expected the sequence to end",
    )
    yield (
        "element longer than its item",
        part10(
            element(0x00081140, "SQ", item(element(0x00080060, "CS", b"CT", length=60))) + sound
        ),
        "within its item",
    )
    yield (
        "no item in a sequence",
        part10(element(0x00081140, "SQ", b"\x08\0\x60\0CS\x02\0CT") + sound),
        "expected an item",
    )
    yield "stray delimiter", part10(sound + element(0xFFFEE0DD, "", b"")), "stray delimiter"
    yield (
        "sequence without end",
        part10(sound + element(0x00400275, "SQ", b"", length=UNDEFINED)),
        "truncated",
    )
    yield (
        "fragments without end",
        encapsulated([b"abcd"], frames=1)[:-8],
        "expected a fragment or the end",
    )
    yield (
        "a fragment of undefined length",
        part10(
            sound
            + element(0x7FE00010, "OB", b"", length=UNDEFINED)
            + element(0xFFFEE000, "", b"", length=UNDEFINED),
            JPEG_BASELINE,
        ),
        "expected a fragment",
    )
    yield "not deflated", part10(sound, DEFLATED), "zlib"
    yield "deflate cut", ct_object(DEFLATED)[:-20], "truncated"
    yield "bomb of values", bomb_of_values(200, 40_000), "characters of DICOM JSON"
    for name, changes in {
        "a frame too many": {"x00280008": ("IS", b"2 ")},
        "2147483647 frames": {"x00280008": ("IS", b"2147483647")},
        "65535 rows": {"x00280010": ("US", words(65535))},
        "no pixels": {"x7FE00010": ("OW", b"")},
    }.items():
        for syntax in (IMPLICIT, EXPLICIT, DEFLATED):
            found = len(changes.get("x7FE00010", ("OW", bytes(12)))[1])
            yield f"{name}, {syntax}", ct_object(syntax, **changes), f"), found {found}"
    yield (
        "-5 frames",
        ct_object(x00280008=("IS", b"-5")),
        "NumberOfFrames: expected a number from 1 on, found -5",
    )
    for tag, (vr, content) in (*header().items(), (0x00091001, ("LO", b"x "))):
        twice = element(tag, vr, content)
        yield f"{tag:08X} twice", part10(sound + twice * 2), "expected each tag once"
        inside = element(0x00081140, "SQ", item(twice * 2))
        yield f"{tag:08X} twice in an item", part10(inside + sound), "expected each tag once"
    yield "no SOP instance", ct_object(x00080018=None), "SOPInstanceUID: expected a UID, found none"
    yield "no SOP class", ct_object(x00080016=None), "SOPClassUID: expected a UID, found none"
    yield "no study", ct_object(x0020000D=None), "StudyInstanceUID: expected a UID, found none"
    yield "no series", ct_object(x0020000E=None), "SeriesInstanceUID: expected a UID, found none"
    for name, value in {
        "path": "../../etc/passwd",
        "absolute path": "/1.2.3",
        "65 characters": "1." + "2" * 63,
        "letters": "1.2.x",
        "two": "1.2\\1.3",
        "dots": "1..2",
        "line": "1.2\n1.3",
        "null inside": "1.2\0.3",
        "other digits": "1.٢",
    }.items():
        yield (
            f"UID {name}",
            ct_object(x00080018=("UI", text(value, "utf-8"))),
            "SOPInstanceUID: expected a UID of digits and dots",
        )
    yield "transfer syntax path", part10(sound, "../1.2"), "TransferSyntaxUID: expected a UID"
    yield (
        "DICOMDIR",
        bytes(128) + b"DICM" + element(0x00020002, "UI", uid("1.2.840.10008.1.3.10")) + sound,
        "DICOMDIR",
    )
    yield "endless meta", bytes(128) + b"DICM" + element(0x00020012, "UI", b"") * 10_000, "at most"


def bomb_of_values(length: int, count: int) -> bytes:
    """Texts of control characters, each of which takes six in JSON, deflated to very little."""
    texts = [
        element(
            0x7FD10000 + 0x20000 * (number >> 15) | 0x1000 + (number & 0x7FFF),
            "LO",
            b"\x01" * length,
        )
        for number in range(count)
    ]
    body = data_set(header()) + b"".join(texts)
    return part10(deflate(body), DEFLATED)
