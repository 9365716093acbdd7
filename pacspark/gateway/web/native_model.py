"""The Native DICOM Model (PS3.19 A.1): DICOM JSON as XML, for clients that ask for it.

Both say the same, so that one is written from the other, element by element.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

_NAMESPACE: Final = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_NAME_PARTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 may have, not even escaped."""


def native_model(document: str) -> str:
    """Write a data set.

    Parameters
    ----------
    document
        in the DICOM JSON model
    """
    told = "".join(_elements(json.loads(document)))
    head = f'<NativeDicomModel xmlns="{_NAMESPACE}" xml:space="preserve">'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{told}</NativeDicomModel>'


def _elements(elements: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for tag, element in elements.items():
        vr = element["vr"]
        yield f'<DicomAttribute tag="{_tag(tag, elements)}" vr="{vr}"{_named(tag, elements)}>'
        if "BulkDataURI" in element:
            yield f"<BulkData uri={quoteattr(element['BulkDataURI'])}/>"
        elif "InlineBinary" in element:
            yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
        for number, value in enumerate(element.get("Value", ()), 1):
            yield from _value(vr, number, value)
        yield "</DicomAttribute>"


def _creator(tag: str, elements: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Give who made a private element, as the element that reserves its block says."""
    block = tag[4:6]
    if int(tag[3], 16) % 2 == 0 or block == "00":
        return None
    values = elements.get(f"{tag[:4]}00{block}", {}).get("Value") or (None,)
    return None if values[0] is None else str(values[0])


def _tag(tag: str, elements: Mapping[str, Mapping[str, Any]]) -> str:
    # which block it lies in is no part of a private element's name
    return tag if _creator(tag, elements) is None else f"{tag[:4]}00{tag[6:]}"


def _named(tag: str, elements: Mapping[str, Mapping[str, Any]]) -> str:
    creator = _creator(tag, elements)
    if creator is not None:
        return f" privateCreator={quoteattr(_NO_XML.sub('', creator))}"
    keyword = keyword_for_tag(int(tag, 16))
    return f' keyword="{keyword}"' if keyword else ""


def _value(vr: str, number: int, value: Any) -> Iterator[str]:
    if vr == "SQ":
        yield f'<Item number="{number}">'
        yield from _elements(value)
        yield "</Item>"
    elif isinstance(value, Mapping):
        yield f'<PersonName number="{number}">'
        for group, text in value.items():
            parts = zip(_NAME_PARTS, text.split("^"), strict=False)
            told = "".join(f"<{name}>{_text(part)}</{name}>" for name, part in parts if part)
            yield f"<{group}>{told}</{group}>"
        yield "</PersonName>"
    else:
        yield f'<Value number="{number}">{"" if value is None else _text(value)}</Value>'


def _text(value: object) -> str:
    return escape(_NO_XML.sub("", str(value)))
