"""Conditions of a query: what they ask of an object, and their form for a table.

:func:`pacspark.dicom.matching.parse_query` makes them; its module says what each matching means.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Final, Literal

from pacspark.dicom.attributes import Level
from pacspark.dicom.times import is_within, moment_of
from pacspark.dicom.values import person_name
from pacspark.dicom.wildcards import re2_pattern, text_matches

Operator = Literal["equals", "one_of", "range", "pattern", "empty", "item"]

NUMBER_VRS: Final = frozenset({"IS", "DS", "US", "UL", "SS", "SL", "UV", "SV", "FL", "FD"})
_NUMBER: Final = re.compile(
    r"[+-]?(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,4})?"
)


@dataclass(frozen=True, slots=True)
class QueryKey:
    """An attribute that a query names.

    Attributes
    ----------
    keyword
        as in PS3.6; the tag in eight hex digits where the dictionary has none
    tag
        group and element in one integer
    vr
        of PS3.6; LO for what the dictionary does not know
    level
        the query level of a promoted attribute; None for one that is in the DICOM JSON only
    column
        the column of a promoted attribute, None otherwise
    multiple
        whether the column is a list
    sequences
        tags of the sequences that it lies in, from the outermost; none for the data set itself
    """

    keyword: str
    tag: int
    vr: str
    level: Level | None
    column: str | None
    multiple: bool
    sequences: tuple[int, ...] = ()

    @property
    def in_json(self) -> bool:
        """Whether the DICOM JSON of an object has to be read for it."""
        return self.column is None

    @property
    def json_tag(self) -> str:
        """Its name in the DICOM JSON."""
        return f"{self.tag:08X}"


@dataclass(frozen=True, slots=True)
class Condition:
    """What one key of a query asks of an object.

    Attributes
    ----------
    key
        the attribute; for ModalitiesInStudy and SOPClassesInStudy, that of each object behind it
    operator
        ``equals`` (the one of ``values``), ``one_of``, ``range`` (between ``lower`` and ``upper``),
        ``pattern`` (``values`` may hold wildcards, see ``regex``), ``empty``, or ``item``: of a
        sequence, one item meets all of ``inside``
    values
        strings or numbers, like the column's
    lower, upper
        inclusive, None where open. Stored strings lie between them in plain string order where
        ``pushable``; for DT they are DT values
    ignore_case
        of a pattern
    any_of_study
        whether one object of a study is enough to select all of it
    time
        for a date that combines with a time (PS3.4 C.2.2.2.5): the range of the time, whose ends
        belong to the first and the last day
    inside
        conditions on attributes of an item
    """

    key: QueryKey
    operator: Operator
    values: tuple[str | int | float, ...] = ()
    lower: str | None = None
    upper: str | None = None
    ignore_case: bool = False
    any_of_study: bool = False
    time: "Condition | None" = None
    inside: tuple["Condition", ...] = ()

    @property
    def column(self) -> str | None:
        """The column of its attribute, None for one in the DICOM JSON."""
        return self.key.column

    @property
    def in_json(self) -> bool:
        """Whether it needs the DICOM JSON of the object."""
        return self.key.in_json

    @property
    def pushable(self) -> bool:
        """Whether operator, values and bounds, applied to a scalar column, are all of it."""
        return (
            self.key.column is not None
            and not self.key.multiple
            and self.time is None
            and not (self.key.vr == "DT" and self.operator == "range")
        )

    @property
    def regex(self) -> str:
        """The pattern as one anchored regular expression of RE2, as Arrow takes it.

        Raises
        ------
        ValueError
            where the operator is no pattern
        """
        if self.operator != "pattern":
            message = f"{self.key.keyword}: a condition {self.operator} has no regular expression"
            raise ValueError(message)
        return re2_pattern(
            self._texts(), ignore_case=self.ignore_case, person_name=self.key.vr == "PN"
        )

    def matches(self, row: Mapping[str, object]) -> bool:
        """Tell whether an object meets the condition.

        Parameters
        ----------
        row
            its columns; for an attribute that is none, also ``dicom_json``, as text or parsed
        """
        if self.operator == "item":
            items = _values_in_json(self.key, row)
            return any(
                all(condition.matches({**row, "dicom_json": item}) for condition in self.inside)
                for item in items
                if isinstance(item, Mapping)
            )
        stored = _stored(self.key, row)
        if self.operator == "empty":
            return not stored
        if self.time is not None:
            times = _stored(self.time.key, row)
            return bool(stored) and self._combined(str(stored[0]), str(times[0]) if times else None)
        if self.key.vr == "DT" and self.operator == "range":
            return any(self._holds_moment(str(value), row) for value in stored)
        return any(self._accepts(value) for value in stored)

    def _accepts(self, value: object) -> bool:
        if self.operator in {"equals", "one_of"}:
            if self.key.vr in NUMBER_VRS:
                value = number_of(value)
            return value in self.values
        text = str(value)
        if self.operator == "pattern":
            return text_matches(
                text,
                self._texts(),
                ignore_case=self.ignore_case,
                person_name=self.key.vr == "PN",
            )
        return (self.lower is None or text >= self.lower) and (
            self.upper is None or text <= self.upper
        )

    def _combined(self, date: str, time: str | None) -> bool:
        if self.time is None or not self._accepts(date):
            return False
        # a day without a time meets what its day meets: nothing says that it does not
        if time is None:
            return True
        lower, upper = self.time.lower, self.time.upper
        on_first_day = self.lower is not None and date.startswith(self.lower)
        on_last_day = self.upper is not None and self.upper.startswith(date)
        return not (
            (on_first_day and lower is not None and time < lower)
            or (on_last_day and upper is not None and time > upper)
        )

    def _holds_moment(self, value: str, row: Mapping[str, object]) -> bool:
        offset = row.get("timezone_offset_from_utc")
        stored = moment_of(value, offset if isinstance(offset, str) else None)
        return stored is not None and is_within(
            stored,
            None if self.lower is None else moment_of(self.lower),
            None if self.upper is None else moment_of(self.upper),
        )

    def _texts(self) -> tuple[str, ...]:
        return tuple(str(value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Query:
    """A query that has been checked.

    Attributes
    ----------
    level
        of the objects that it asks for
    conditions
        all of which have to be met
    requested
        every attribute that it names, with a condition or not, in its order
    """

    level: Level
    conditions: tuple[Condition, ...]
    requested: tuple[QueryKey, ...]

    @property
    def needs_json(self) -> bool:
        """Whether a condition is on an attribute that no column has."""
        return any(condition.in_json for condition in self.conditions)

    def matches(self, row: Mapping[str, object]) -> bool:
        """Tell whether an object meets every condition; see :meth:`Condition.matches`.

        Examples
        --------
        >>> from pacspark.dicom.matching import parse_query
        >>> query = parse_query({"PatientName": "doe*", "StudyDate": "2020-"}, "study")
        >>> query.matches({"patient_name": "Doe^Jane", "study_date": "20210314"})
        True
        """
        if self.needs_json and isinstance(row["dicom_json"], str):
            row = {**row, "dicom_json": json.loads(row["dicom_json"])}
        return all(condition.matches(row) for condition in self.conditions)


def _stored(key: QueryKey, row: Mapping[str, object]) -> list[object]:
    """Give the values of an attribute that an object has, without the empty ones."""
    if key.column is not None:
        value = row[key.column]
        values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    else:
        values = _values_in_json(key, row)
    texts = [person_name(value) if isinstance(value, Mapping) else value for value in values]
    return [value for value in texts if value is not None and value != "" and not _is_nan(value)]


def _values_in_json(key: QueryKey, row: Mapping[str, object]) -> Iterable[object]:
    document = row["dicom_json"]
    attributes = json.loads(document) if isinstance(document, str) else document
    element = attributes.get(key.json_tag, {}) if isinstance(attributes, Mapping) else {}
    values: Iterable[object] = element.get("Value", ())
    return values


def _is_nan(value: object) -> bool:
    """Tell whether a value is NaN, which is how pandas writes none."""
    return isinstance(value, float) and math.isnan(value)


def number_of(value: object) -> int | float | None:
    """Read a number of a query or of a row; None where it is none or not finite."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None
        return _finite(float(value)) if set(value) & set(".eE") else int(value)
    if isinstance(value, int):
        return value
    return _finite(float(value)) if isinstance(value, Real) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
