"""Value fields to DICOM JSON (PS3.18 Annex F) and to the values of columns.

Neither fails on a value: what cannot be read as its VR says is kept as text where JSON permits
text, and is null elsewhere; its column is null. Numbers lose nothing: a DS or IS that is a JSON
number is written digit for digit, an FL or FD as the shortest decimal that gives the same double.
"""

import base64
import json.encoder
import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import Final

from pacspark.dicom.attributes import Attribute
from pacspark.dicom.text import decode_text

Scalar = str | int | float
ColumnValue = Scalar | list[str] | list[int] | list[float] | None

COLUMN_CHARACTERS: Final = 10_240
"""A column holds at most this many characters of a text, the limit of LT."""

COLUMN_VALUES: Final = 1_024
"""A column of a multi-valued attribute holds at most this many values."""

_TEXT_VRS: Final = frozenset({"LO", "SH", "UC", "LT", "ST", "UT", "PN"})
"""The VRs that (0008,0005) governs; all other text is of the default repertoire."""

SINGLE_VALUED_VRS: Final = frozenset({"LT", "ST", "UT", "UR"})
"""The VRs in which a backslash is a character."""
_NUMBER_TEXT_VRS: Final = frozenset({"IS", "DS"})
_STRING_VRS: Final = frozenset({"AE", "AS", "CS", "DA", "DT", "TM", "UI"}) | _TEXT_VRS | {"UR"}
_BINARY_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NUMBER_FORMATS: Final = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "UV": "Q",
    "SV": "q",
    "FL": "f",
    "FD": "d",
}
_WORD_BYTES: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}

_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_PERSON_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_INT64_LIMIT: Final = 1 << 63
# longer text is no number of any VR, and Python's own conversions take quadratic time
_NUMBER_CHARACTERS: Final = 64

_quote: Callable[[str], str] = json.encoder.encode_basestring


def json_of_value(vr: str, value: bytes, encoding: str, *, little_endian: bool) -> str:
    """Write a value field as the JSON object that Annex F gives its attribute.

    Parameters
    ----------
    vr
        any VR but SQ
    value
        the value field, whole
    encoding
        Python codec that text of this data set starts in
    little_endian
        byte order of the data set; JSON's binary values are little endian always
    """
    if not value:
        return f'{{"vr":"{vr}"}}'
    if vr in _NUMBER_FORMATS:
        items = [_json_of_number(number) for number in _unpack(vr, value, little_endian)]
    elif vr in _BINARY_VRS:
        data = value if little_endian else _swap_words(vr, value)
        return f'{{"vr":"{vr}","InlineBinary":"{base64.b64encode(data).decode("ascii")}"}}'
    elif vr == "AT":
        items = [f'"{group:04X}{element:04X}"' for group, element in _pairs(value, little_endian)]
    elif vr in _NUMBER_TEXT_VRS:
        texts = value.decode("ascii", "replace").split("\\")
        items = [_json_of_number_text(text.strip(" \0")) for text in texts]
    elif vr == "PN":
        items = [_json_of_person_name(name) for name in text_values(vr, value, encoding)]
    else:
        items = [_quote(text) if text else "null" for text in text_values(vr, value, encoding)]
    if not items or items == ["null"]:
        return f'{{"vr":"{vr}"}}'
    return f'{{"vr":"{vr}","Value":[{",".join(items)}]}}'


def text_values(vr: str, value: bytes, encoding: str) -> list[str]:
    """Decode a text value field and split it into its values, without their padding.

    Leading spaces go too, except in the VRs of a single value, where they matter (PS3.5 6.2).
    """
    text = (
        decode_text(value, encoding, person_name=vr == "PN")
        if vr in _TEXT_VRS
        else value.decode("latin_1")
    )
    if vr in SINGLE_VALUED_VRS:
        return [text.rstrip(" \0")]
    # a person name may end with empty component groups, which mean nothing (PS3.5 6.2.1.1)
    padding = " \0=" if vr == "PN" else " \0"
    return [part.lstrip(" \0").rstrip(padding) for part in text.split("\\")]


def column_value(
    attribute: Attribute, vr: str, value: bytes, encoding: str, *, little_endian: bool
) -> ColumnValue:
    """Give what the column of a promoted attribute holds.

    Parameters
    ----------
    attribute
        whose column it is
    vr
        what the object says the value is; where it contradicts the dictionary, the value counts if
        it can be read as the column's kind
    value
        the value field, or the first part of an overlong text
    encoding
        Python codec that text of this data set starts in
    little_endian
        byte order of the data set

    Returns
    -------
    ColumnValue
        None for an empty value, for numbers of which one is none (half an image position is worse
        than no image position), and for what is not of the column's kind. Several values in an
        attribute of a single value stay joined by backslashes when text; of numbers the first
        counts.
    """
    if attribute.kind == "string":
        return _column_texts(attribute, vr, value, encoding)
    numbers = _numbers(vr, value, little_endian)
    if not numbers or not all(map(math.isfinite, numbers)):
        return None
    del numbers[COLUMN_VALUES if attribute.multiple else 1 :]
    values: list[int] | list[float]
    if attribute.kind == "double":
        values = [float(number) for number in numbers]
    elif all(number == int(number) and abs(number) < _INT64_LIMIT for number in numbers):
        values = [int(number) for number in numbers]
    else:
        return None
    return values if attribute.multiple else values[0]


def _numbers(vr: str, value: bytes, little_endian: bool) -> list[int | float]:
    """Read a value field as numbers; NaN for a text that is none."""
    if vr in _NUMBER_FORMATS:
        return list(_unpack(vr, value, little_endian))
    if vr not in _NUMBER_TEXT_VRS and vr not in _STRING_VRS:
        return []
    text = value.decode("ascii", "replace").strip(" \0")
    return [_number(part.strip(" \0")) for part in text.split("\\")] if text else []


def _column_texts(attribute: Attribute, vr: str, value: bytes, encoding: str) -> ColumnValue:
    if vr not in _STRING_VRS and vr not in _NUMBER_TEXT_VRS:
        return None
    # at most four bytes make a character, and an escape sequence ends soon
    texts = text_values(vr, value[: 8 * COLUMN_CHARACTERS], encoding)
    if not any(texts):
        return None
    if attribute.multiple:
        return [text[:COLUMN_CHARACTERS] for text in texts[:COLUMN_VALUES]]
    return "\\".join(texts)[:COLUMN_CHARACTERS]


def _unpack(vr: str, value: bytes, little_endian: bool) -> tuple[int | float, ...]:
    code = _NUMBER_FORMATS[vr]
    count = len(value) // struct.calcsize("<" + code)
    return struct.unpack_from(f"{'<' if little_endian else '>'}{count}{code}", value)


def _pairs(value: bytes, little_endian: bool) -> list[tuple[int, int]]:
    words = _unpack("US", value[: len(value) // 4 * 4], little_endian)
    return [(int(words[i]), int(words[i + 1])) for i in range(0, len(words), 2)]


def _swap_words(vr: str, value: bytes) -> bytes:
    size = _WORD_BYTES.get(vr, 1)
    whole = len(value) // size * size
    return b"".join(value[i : i + size][::-1] for i in range(0, whole, size))


def _json_of_number(number: int | float) -> str:
    # JSON has no infinity and no NaN
    return repr(number) if math.isfinite(number) else "null"


def _json_of_number_text(text: str) -> str:
    if not text:
        return "null"
    if len(text) <= _NUMBER_CHARACTERS:
        if _JSON_NUMBER.fullmatch(text):
            # a number beyond the doubles would be read as infinity
            return text if abs(float(text)) <= 1.7976931348623157e308 else _quote(text)
        if _DECIMAL.fullmatch(text):
            return _json_of_number_text(_as_json_number(text))
    return _quote(text)


def _as_json_number(text: str) -> str:
    mantissa, exponent_mark, exponent = text.lower().partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("+-").partition(".")
    number = sign + (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")
    return number + exponent_mark + exponent


def _json_of_person_name(name: str) -> str:
    if not name:
        return "null"
    groups = [
        f'"{key}":{_quote(group.strip(" "))}'
        for key, group in zip(_PERSON_NAME_GROUPS, name.split("="), strict=False)
        if group.strip(" ")
    ]
    return f"{{{','.join(groups)}}}" if groups else "null"


def person_name(groups: Mapping[str, object]) -> str:
    """Join the component groups of a person name in DICOM JSON as a value of VR PN does."""
    return "=".join(str(groups.get(key, "")) for key in _PERSON_NAME_GROUPS).rstrip("=")


def person_name_groups(text: str) -> dict[str, str]:
    """Part a value of VR PN into the component groups of DICOM JSON; empty ones are left out."""
    groups = zip(_PERSON_NAME_GROUPS, text.split("="), strict=False)
    return {name: group for name, group in groups if group}


def _number(text: str) -> int | float:
    if len(text) <= _NUMBER_CHARACTERS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text):
            return float(text)
    return math.nan
