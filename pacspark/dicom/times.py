"""Dates and times of queries: what DA, TM and DT mean as ranges (PS3.4 C.2.2.2.5, PS3.5 6.2).

DA and TM become bounds between which the stored strings lie in plain string order, so that a table
can use them as they are. DT cannot, because of its offset from UTC, and is compared as moments.
"""

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

AFTER_DIGITS: Final = "~"
"""Sorts after digits and point: the end of all strings that begin alike."""

COMBINED_TIMES: Final = MappingProxyType(
    {
        "StudyDate": "StudyTime",
        "SeriesDate": "SeriesTime",
        "ContentDate": "ContentTime",
        "AcquisitionDate": "AcquisitionTime",
        "InstanceCreationDate": "InstanceCreationTime",
        "PatientBirthDate": "PatientBirthTime",
        "PerformedProcedureStepStartDate": "PerformedProcedureStepStartTime",
        "ScheduledProcedureStepStartDate": "ScheduledProcedureStepStartTime",
    }
)
"""The date attributes that PS3.4 C.2.2.2.5 lets combine with a time."""

_MONTH: Final = "(?:0[1-9]|1[0-2])"
_DAY: Final = "(?:0[1-9]|[12][0-9]|3[01])"
_TIME: Final = r"(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?)?)?"
_DA: Final = re.compile(rf"[0-9]{{4}}(?:{_MONTH}{_DAY}?)?")
_TM: Final = re.compile(_TIME)
_OFFSET: Final = r"[+-](?:0[0-9]|1[0-4])[0-5][0-9]"
_DT: Final = re.compile(rf"((?!0000)[0-9]{{4}}(?:{_MONTH}(?:{_DAY}(?:{_TIME})?)?)?)({_OFFSET})?")
_SYNTAX: Final = MappingProxyType({"DA": _DA, "TM": _TM, "DT": _DT})


@dataclass(frozen=True, slots=True)
class Moment:
    """What a DT value stands for: from its first to its last microsecond, in its own time zone."""

    first: datetime
    last: datetime
    offset: timedelta | None


def split_range(vr: str, text: str) -> tuple[str, str] | None:
    """Split a query value into the ends of its range; a single value is both, an open end is empty.

    Returns
    -------
    tuple[str, str] | None
        None where the text is neither a value of the VR nor a range of two

    Examples
    --------
    >>> split_range("DA", "20200101-"), split_range("TM", "1030"), split_range("DA", "yesterday")
    (('20200101', ''), ('1030', '1030'), None)
    """
    syntax = _SYNTAX[vr]
    # a DT that ends like an offset has one, rather than being a range
    if syntax.fullmatch(text):
        return text, text
    for separator in re.finditer("-", text):
        ends = text[: separator.start()].strip(), text[separator.end() :].strip()
        if any(ends) and all(not end or syntax.fullmatch(end) for end in ends):
            return ends
    return None


def first_string(vr: str, text: str) -> str:
    """Give the least string that is stored at or after the start of a DA or TM value.

    Zeros at the end of a time go, because ``10`` is stored for the same moment as ``100000.00``.
    """
    if vr == "DA":
        return text
    whole, _, fraction = text.partition(".")
    if fraction.strip("0"):
        return f"{whole}.{fraction.rstrip('0')}"
    return re.sub(r"(?:00)+\Z", "", whole) if len(whole) % 2 == 0 else whole


def last_string(text: str) -> str:
    """Give a string after all that lie within a DA or TM value, and before all later ones."""
    return text + AFTER_DIGITS


def first_day(lower: str) -> str:
    """Give the first day that a lower bound of a DA lets pass."""
    return lower + "0101"[len(lower) - 4 :]


def last_day(upper: str) -> str:
    """Give the last day that an upper bound of a DA, as :func:`last_string` makes it, lets pass."""
    digits = upper.rstrip(AFTER_DIGITS)
    return digits + "1231"[len(digits) - 4 :]


def moment_of(text: str, default_offset: str | None = None) -> Moment | None:
    """Read a DT value; None where it is none.

    Parameters
    ----------
    text
        ``YYYYMMDDHHMMSS.FFFFFF&ZZXX``, of any precision
    default_offset
        ``&ZZXX`` of (0008,0201), for values without their own
    """
    match = _DT.fullmatch(text)
    if match is None:
        return None
    digits, offset_text = match.groups()
    digits, _, fraction = digits.partition(".")
    parts = [int(digits[:4]), *(int(digits[i : i + 2]) for i in range(4, len(digits), 2))]
    year, month, day = (*parts, 12, 1)[:3] if len(parts) < 2 else (*parts, 1)[:3]
    days = calendar.monthrange(year, month)[1]
    if day > days:
        return None
    return Moment(
        _instant([*parts, *(1, 1, 0, 0, 0)[len(parts) - 1 :]], fraction.ljust(6, "0")),
        _instant([*parts, *(12, days, 23, 59, 59)[len(parts) - 1 :]], fraction.ljust(6, "9")),
        _offset(offset_text or (default_offset or "").strip()),
    )


def is_within(stored: Moment, lower: Moment | None, upper: Moment | None) -> bool:
    """Tell whether the start of a stored value lies within a range; None is an open end."""
    if lower is not None:
        shift = _shift(stored, lower)
        if stored.first - lower.first < shift:
            return False
    return upper is None or stored.first - upper.last <= _shift(stored, upper)


def _instant(parts: Sequence[int], microseconds: str) -> datetime:
    year, month, day, hour, minute, second = parts
    # a leap second counts as the one before; the zone is the value's own, whatever its name here
    return datetime(year, month, day, hour, minute, min(second, 59), int(microseconds), tzinfo=UTC)


def _shift(stored: Moment, bound: Moment) -> timedelta:
    if stored.offset is None or bound.offset is None:
        return timedelta(0)
    return stored.offset - bound.offset


def _offset(text: str) -> timedelta | None:
    if not re.fullmatch(_OFFSET, text):
        return None
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    return timedelta(minutes=-minutes if text[0] == "-" else minutes)
