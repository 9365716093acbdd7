"""Identifiers of queries, requests and answers: bytes to DICOM JSON elements, and back.

Reading is that of :mod:`pacspark.dicom.walk`, which trusts no byte; writing goes through pydicom.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydicom import config as pydicom_config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from pacspark.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from pacspark.dicom.stream import MemoryStream
from pacspark.dicom.values import person_name
from pacspark.dicom.walk import DataSetWalk
from pacspark.errors import DicomDecodeError, QueryError

Elements = dict[str, dict[str, Any]]
"""A data set in the DICOM JSON model: by tag in eight hex digits, ``vr`` and ``Value``."""

UTF8: Final = "ISO_IR 192"
LEVEL_TAG: Final = "00080052"
_NOT_KEYS: Final = frozenset({LEVEL_TAG, "00080005", "00080053", "00080201"})
"""Attributes of an identifier that are no keys: level, character set, view, offset from UTC."""
_MOST_ELEMENTS: Final = 1024


def read_identifier(data: bytes, transfer_syntax_uid: str, depth: int) -> Elements:
    """Read a data set that a peer sent to ask for something.

    Parameters
    ----------
    data
        encoded
    transfer_syntax_uid
        of the presentation context: a plain one
    depth
        that sequences may be nested

    Raises
    ------
    QueryError
        where it is no data set, or passes a bound
    """
    syntax = UID(transfer_syntax_uid)
    encoding = EXPLICIT_LITTLE if syntax.is_little_endian else EXPLICIT_BIG
    try:
        walk = DataSetWalk(MemoryStream(data))
        text = walk.run(0, IMPLICIT_LITTLE if syntax.is_implicit_VR else encoding)
    except DicomDecodeError as error:
        message = f"identifier: {error}"
        raise QueryError(message) from error
    elements: Elements = json.loads(text)
    _require_bounds(elements, depth)
    return elements


def is_key(tag: str) -> bool:
    """Tell whether an attribute of an identifier is a key: no group length, level, and so on."""
    return tag not in _NOT_KEYS and not tag.endswith("0000")


def keys_inside(sequence: str, element: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give what is asked of the items of a sequence: by path, as ``parse_query`` takes it.

    Raises
    ------
    QueryError
        where there are several items (PS3.4 C.2.2.2.6)
    """
    items: Sequence[Elements] = element.get("Value") or [{}]
    if len(items) > 1:
        message = f"{sequence[-8:]}: expected at most one item, found {len(items)}"
        raise QueryError(message)
    for tag, one in items[0].items():
        if one.get("vr") == "SQ":
            yield from keys_inside(f"{sequence}.{tag}", one)
        elif is_key(tag) and (text := text_of(one)):
            yield f"{sequence}.{tag}", text


def shown(asked: Elements, found: Elements) -> Elements:
    """Give what was asked for of a data set, in sequences too; empty where it has nothing."""
    return dict(_shown(asked, found))


def _shown(asked: Elements, found: Elements) -> Iterator[tuple[str, dict[str, Any]]]:
    for tag, element in asked.items():
        if not is_key(tag):
            continue
        known = found.get(tag, {"vr": element["vr"]})
        items = element.get("Value") or ()
        if element["vr"] == "SQ" and items and items[0] and known.get("Value"):
            yield tag, {"vr": "SQ", "Value": [shown(items[0], item) for item in known["Value"]]}
        else:
            yield tag, dict(known)


def _require_bounds(elements: Mapping[str, Mapping[str, Any]], depth: int) -> None:
    if len(elements) > _MOST_ELEMENTS:
        message = f"identifier: expected at most {_MOST_ELEMENTS} attributes, found more"
        raise QueryError(message)
    for tag, element in elements.items():
        if element.get("vr") != "SQ":
            continue
        if depth <= 0:
            message = f"identifier: {tag}: expected sequences nested less deep"
            raise QueryError(message)
        for item in element.get("Value", ()):
            _require_bounds(item, depth - 1)


def text_of(element: Mapping[str, Any] | None) -> str:
    r"""Write the values of an element as DICOM does: a text, values separated by ``\``."""
    values = (element or {}).get("Value") or ()
    return "\\".join(_text(value) for value in values)


def _text(value: object) -> str:
    if value is None:
        return ""
    return person_name(value) if isinstance(value, Mapping) else str(value)


def write_identifier(elements: Iterable[tuple[int, str, Any]], transfer_syntax_uid: str) -> bytes:
    """Write a data set.

    Parameters
    ----------
    elements
        tag, VR and value; a value is None for none, a list or tuple of several, a list of
        :data:`Elements` for a sequence
    transfer_syntax_uid
        of the presentation context
    """
    syntax = UID(transfer_syntax_uid)
    data_set = Dataset()
    for tag, vr, value in elements:
        data_set[tag] = element_of(tag, vr, value)
    if not _is_ascii(data_set):
        data_set[0x00080005] = element_of(0x00080005, "CS", UTF8)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(buffer, data_set, UTF8)
    return buffer.getvalue()


def element_of(tag: int, vr: str, value: Any) -> DataElement:
    """Make an element of a value as :func:`plain_value` gives it; nothing of it is checked."""
    if vr == "SQ":
        value = [_item(item) for item in value or ()]
    elif isinstance(value, list | tuple):
        value = list(value)
    elif value is None:
        value = "" if vr not in _BINARY_VRS else None
    return DataElement(tag, vr, value, validation_mode=pydicom_config.IGNORE)


_BINARY_VRS: Final = frozenset("AT FD FL OB OD OF OL OV OW SL SS SV UL UN US UV".split())


def _item(elements: Elements) -> Dataset:
    item = Dataset()
    for tag, element in elements.items():
        number = int(tag, 16)
        item[number] = element_of(number, element["vr"], plain_value(element))
    return item


def plain_value(element: Mapping[str, Any] | None) -> Any:
    """Give the value of an element of the DICOM JSON model as :func:`write_identifier` takes it."""
    if element is None or "Value" not in element:
        return None
    vr, values = element["vr"], element["Value"]
    if vr == "SQ":
        return values
    if vr == "AT":
        values = [int(value, 16) for value in values]
    elif vr == "PN":
        values = [_text(value) for value in values]
    else:
        values = ["" if value is None else value for value in values]
    return values[0] if len(values) == 1 else values


def _is_ascii(data_set: Dataset) -> bool:
    return all(str(element.value).isascii() for element in data_set)
