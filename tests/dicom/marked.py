"""Objects in which every attribute of Table E.1-1 holds a value that is nowhere else.

Made byte by byte with `hostile`, so that nothing of the code under test helps to make them.
"""

import base64
import csv
import struct
from datetime import date, timedelta
from functools import cache
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_VR

import pacspark.dicom
from tests.dicom.hostile import (
    EXPLICIT,
    IMPLICIT,
    deflate,
    element,
    header,
    item,
    part10,
    sequence,
    uid,
)

TABLE = Path(pacspark.dicom.__file__).parent / "data" / "confidentiality.csv"
NEUTRAL_SEQUENCE = 0x52009229
"""Shared Functional Groups: no row of the table, so what is in it has to be looked into."""
NEUTRAL_DEEPER = 0x00089215
KEPT_TEXT = 0x00080070
"""Manufacturer: kept by the Basic Profile, but not inside what it removes or replaces."""
REFERENCES = frozenset({0x00081140, 0x00082112})
"""X/Z/U*: sequences that stay, their UIDs mapped."""
BYTES = frozenset({"OB", "OW", "UN", "OD", "OF", "OL", "OV"})
SHORT_TEXT = frozenset({"AE", "CS", "SH"})
LONG_TEXT = frozenset({"LO", "LT", "PN", "ST", "UC", "UT"})


@cache
def marked_tags() -> dict[int, str]:
    """Give all single tags of the table that an object can hold, with their VRs."""
    with TABLE.open(encoding="utf-8") as file:
        tags = [row["tag"] for row in csv.DictReader(file)]
    numbers = [int(tag, 16) for tag in tags if "X" not in tag]
    known = {n: dictionary_VR(n) if dictionary_has_tag(n) else "LO" for n in numbers if n >> 16 > 4}
    # and curves and overlays, which the table has by pattern
    return known | {0x50003000: "OW", 0x60003000: "OW", 0x60004000: "LT", 0x60020022: "LO"}


def marker(number: int, vr: str) -> str | bytes | None:
    """Give a value of a VR that only this number has; None where the VR has no room for one."""
    if vr in SHORT_TEXT:
        return f"MK{number:06}"
    if vr in LONG_TEXT:
        return f"MARKER{number:06}X"
    if vr in BYTES:
        return f"MKBYTES{number:07}".encode()
    if vr == "UR":
        return f"http://mark{number:06}.example"
    if vr == "UI":
        return f"1.2.826.0.1.99.{100000 + number}"
    if vr in {"DS", "IS"}:
        return f"7319{number:06}"
    if vr == "AS":
        return f"{871 + number % 100}W"
    day = date(1650, 1, 1) + timedelta(days=number)
    dates = {
        "DA": f"{day:%Y%m%d}",
        "TM": f"131415.{number:06}",
        "DT": f"{day:%Y%m%d}131415.{number:06}",
    }
    return dates.get(vr)


def encoded(vr: str, value: str | bytes | None, syntax: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None:  # numbers
        order = ">" if syntax.endswith(".2.2") else "<"
        return struct.pack(order + {"FD": "d", "FL": "f", "UL": "I"}.get(vr, "H"), 7319 % 251)
    return uid(value) if vr == "UI" else value.encode() + b" " * (len(value) % 2)


class Marks:
    """Hands out markers, and looks for them afterwards."""

    def __init__(self, syntax: str = EXPLICIT) -> None:
        self.syntax = syntax
        self.values: dict[str | bytes, str] = {}
        self._number = 0

    def next(self, tag: int, vr: str, where: str) -> bytes:
        self._number += 1
        value = marker(self._number, vr)
        if value is not None:
            self.values[value] = f"{tag:08X} {where}"
        return encoded(vr, value, self.syntax)

    def one(self, tag: int, vr: str, where: str, stated: str | None = None) -> bytes:
        """Encode one element with its marker; `stated` is a VR that hides what it is."""
        if vr != "SQ":
            return element(tag, stated or vr, self.next(tag, vr, where), self.syntax)
        inner = self._inner(tag, where)
        if stated is None:
            return sequence(tag, [item(inner, self.syntax)], self.syntax, undefined=False)
        return element(tag, stated, item(inner, self.syntax), self.syntax)

    def _inner(self, tag: int, where: str) -> bytes:
        if tag in REFERENCES:
            return self.one(0x00081155, "UI", where)
        texts = [(0x00080070, "LO"), (0x00080104, "LO"), (0x00081155, "UI"), (0x0040A160, "UT")]
        return b"".join(self.one(inside, vr, f"{where} in {tag:08X}") for inside, vr in texts)

    def all(self, where: str, stated: str | None = None) -> bytes:
        """Encode every attribute of the table, in the order of their tags."""
        return b"".join(
            self.one(tag, vr, where, stated) for tag, vr in sorted(marked_tags().items())
        )

    def survivors(self, data: bytes) -> list[str]:
        """Tell which markers are still in some bytes, in any of several encodings."""
        found = []
        for value, where in self.values.items():
            plain = value if isinstance(value, bytes) else value.encode()
            text = plain.decode()
            forms = [
                plain,
                text.encode("utf-16-le"),
                text.encode("utf-16-be"),
                plain.hex().encode(),
                base64.b64encode(plain)[: len(plain) * 4 // 3],
                plain[::-1],
            ]
            if any(form in data for form in forms):
                found.append(f"{text} of {where}")
        return found


def own_header(syntax: str) -> dict[int, tuple[str, bytes]]:
    """Give the elements of a CT image that no row of the table names."""
    return {tag: value for tag, value in header(syntax).items() if tag not in marked_tags()} | {
        0x7FE00010: ("OW", bytes(range(12)))
    }


def marked_object(syntax: str = EXPLICIT, *, stated: str | None = None) -> tuple[bytes, Marks]:
    """Give an object with every attribute of the table at top level, one and two deep, and hidden.

    The attributes at top level have the VR `stated`, where it is given.
    """
    inside = EXPLICIT if syntax.endswith(".1.99") else syntax
    marks = Marks(inside)
    elements: dict[int, bytes] = {
        tag: element(tag, vr, value, inside) for tag, (vr, value) in own_header(inside).items()
    }
    for tag, vr in marked_tags().items():
        elements[tag] = marks.one(tag, vr, "at top", stated)
    deeper = sequence(NEUTRAL_DEEPER, [item(marks.all("two deep"), inside)], inside, undefined=True)
    shared = [item(_around(deeper, marks), inside, undefined=True)]
    elements[NEUTRAL_SEQUENCE] = sequence(NEUTRAL_SEQUENCE, shared, inside, undefined=True)
    elements |= _private(marks, inside)
    body = b"".join(data for _, data in sorted(elements.items()))
    return part10(deflate(body) if syntax != inside else body, syntax), marks


def _around(deeper: bytes, marks: Marks) -> bytes:
    """Encode the table around the deeper sequence: tags of an item ascend."""
    table = sorted(marked_tags().items())
    parts = [(tag, marks.one(tag, vr, "one deep")) for tag, vr in table]
    low = b"".join(part for tag, part in parts if tag < NEUTRAL_DEEPER)
    return low + deeper + b"".join(part for tag, part in parts if tag > NEUTRAL_DEEPER)


def _private(marks: Marks, syntax: str) -> dict[int, bytes]:
    """Give private text, a private sequence with the whole table, and the table as a blob."""
    blob = Marks(IMPLICIT)
    blob._number = 500_000
    hidden = blob.all("in a private blob")
    marks.values |= blob.values
    creator = marks.next(0x00290010, "LO", "as a creator")
    return {
        0x00290010: element(0x00290010, "LO", creator, syntax),
        0x00291001: element(0x00291001, "LO", marks.next(0x00291001, "LO", "private"), syntax),
        0x00291002: sequence(
            0x00291002, [item(marks.all("in a private sequence"), syntax)], syntax, undefined=True
        ),
        0x00291003: element(0x00291003, "UN", hidden, syntax),
    }
