"""Values that stand where one was: of the same VR, and of nobody; and dates that move."""

import re
from datetime import date, timedelta
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

_TEXTS: Final = {
    "AE": "REMOVED",
    "AS": "000Y",
    "CS": "REMOVED",
    "DA": "19000101",
    "DS": "0",
    "DT": "19000101000000",
    "IS": "0",
    "LO": "Removed",
    "LT": "Removed",
    "PN": "Removed",
    "SH": "Removed",
    "ST": "Removed",
    "TM": "000000",
    "UC": "Removed",
    "UR": "urn:removed",
    "UT": "Removed",
}
_WHOLE: Final = frozenset({"AT", "SL", "SS", "SV", "UL", "US", "UV", "US or SS"})
_REAL: Final = frozenset({"FD", "FL"})
_BYTES: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_EMPTY_PDF: Final = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj\n"
    b"trailer<</Root 1 0 R>>\n%%EOF\n"
)
_DATE: Final = re.compile(r"(\d{4})([.-]?)(\d{2})?(?:\2(\d{2}))?")
_DATE_TIME: Final = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d[\d.]*)?([+-]\d{4})?")


def dummy_value(element: DataElement, dataset: Dataset) -> Any:
    """Give a dummy for the value of an element; None where its VR has none.

    As many values as there were, so that what counts them stays true.
    """
    vr = element.VR
    if element.keyword == "EncapsulatedDocument":
        document = _document(str(dataset.get("MIMETypeOfEncapsulatedDocument", "")))
        if "EncapsulatedDocumentLength" in dataset:
            dataset.EncapsulatedDocumentLength = len(document)
        return document
    if vr in _TEXTS:
        one: Any = _TEXTS[vr]
    elif vr in _WHOLE:
        one = 0
    elif vr in _REAL:
        one = 0.0
    elif vr in _BYTES:
        size = {"OD": 8, "OF": 4, "OL": 4, "OV": 8}.get(vr, 2)
        return bytes(size)
    else:
        return None
    return [one] * element.VM if element.VM > 1 else one


def _document(mime_type: str) -> bytes:
    if mime_type.strip().lower() == "application/pdf":
        return _EMPTY_PDF
    return bytes(2)


def shifted(vr: str, value: Any, by: timedelta) -> Any:
    """Move dates by whole days; None where there is a value that is no date.

    A date without day or month moves as its first day, and stays as vague as it was.

    Examples
    --------
    >>> shifted("DA", "20240301", timedelta(days=-1)), shifted("DT", "2024", timedelta(days=-366))
    ('20240229', '2022')
    """
    if vr not in {"DA", "DT"} or value is None or value == "":
        return None
    if not isinstance(value, str):
        moved = [shifted(vr, str(one), by) for one in value]
        return None if None in moved else moved
    text = value.strip(" \0")
    if vr == "DA":
        # a range can stand in a query only, but objects have them
        parts = [_shift_date(part, by) if part else "" for part in text.split("-")]
        if "-" in text and _DATE.fullmatch(text):
            return _shift_date(text, by)
        return None if None in parts else "-".join(part or "" for part in parts)
    return _shift_date_time(text, by) if vr == "DT" else None


def _shift_date(text: str, by: timedelta) -> str | None:
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    year, separator, month, day = found.groups()
    moved = _move(year, month, day, by)
    if moved is None:
        return None
    parts = moved[: 1 + (month is not None) + (day is not None)]
    return (separator or "").join(parts)


def _shift_date_time(text: str, by: timedelta) -> str | None:
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        return None
    year, month, day, time, zone = found.groups()
    if time and not day:
        return None
    moved = _move(year, month, day, by)
    if moved is None:
        return None
    known = moved[: 1 + (month is not None) + (day is not None)]
    return "".join([*known, time or "", zone or ""])


def _move(
    year: str, month: str | None, day: str | None, by: timedelta
) -> tuple[str, str, str] | None:
    try:
        moved = date(int(year), int(month or "1"), int(day or "1")) + by
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04}", f"{moved.month:02}", f"{moved.day:02}"
