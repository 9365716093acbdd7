r"""Matching of queries against the attributes of objects (PS3.4 C.2.2.2).

A query is a mapping of keywords to strings, as C-FIND identifiers, QIDO-RS parameters and the
command line have them. :func:`parse_query` checks it and turns each key into a :class:`Condition`
with enough structure to be pushed down to a table; :meth:`Query.matches` is what a condition means.

Which matching a key gets:

=========================  ======================================================================
value                      matching
=========================  ======================================================================
empty, or ``*`` alone      universal: no condition, the attribute is only asked for
``""`` (two quotes)        empty value: the attribute is absent or has no value
UI                         one of a list, separated by ``\`` or ``,``
DA TM DT                   a single value or a range: ``A-B``, ``A-``, ``-B``
IS DS US and other numbers equality as numbers, also one of a list separated by ``\``
AE CS LO LT PN SH ST UC    text with the wildcards ``*`` and ``?``, also one of a list separated by
UR UT                      ``\``; every other character stands for itself
AS AT                      text without wildcards
SQ and binary VRs          refused with a QueryError
=========================  ======================================================================

Keys inside sequences are paths of keywords or tags, as ``A.B``; all that a query asks of one
sequence has to be met by one of its items (PS3.4 C.2.2.2.6).

* Text is case-sensitive, except person names; ``ignore_case`` extends that to all text, as viewers
  expect. A person name matches if any of its component groups does, unless the query has ``=`` and
  so says which; trailing ``^`` mean nothing.
* A date or time of less than full precision stands for its first moment where it is stored, and for
  all of its time where it is asked for: ``1030`` finds 10:30:59.9, and ``1030-1045`` does not find
  the stored ``10``. Offsets from UTC count in DT where both sides have one; a stored DT without one
  takes that of (0008,0201).
* An attribute of several values matches if one of them does.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag

from pacspark.dicom.attributes import (
    BY_TAG,
    COUNTS,
    LEVELS,
    STUDY_LISTS,
    kind_of_vr,
)
from pacspark.dicom.conditions import NUMBER_VRS, Condition, Query, QueryKey, number_of
from pacspark.dicom.paths import find_tag, parse_path, unknown_name
from pacspark.dicom.times import (
    COMBINED_TIMES,
    first_day,
    first_string,
    last_day,
    last_string,
    moment_of,
    split_range,
)
from pacspark.dicom.uids import is_uid
from pacspark.dicom.values import SINGLE_VALUED_VRS
from pacspark.dicom.wildcards import MAX_PATTERN_CHARACTERS, has_wildcard
from pacspark.errors import QueryError, UsageError

__all__ = ["Condition", "Query", "QueryKey", "parse_query"]

_TIME_VRS: Final = frozenset({"DA", "TM", "DT"})
_WILDCARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_UNMATCHED_VRS: Final = frozenset({"SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_COMPUTED: Final = frozenset(keyword for counts in COUNTS.values() for keyword in counts) | {
    "InstanceAvailability",
    "RetrieveAETitle",
    "RetrieveURL",
}
MAX_DEPTH: Final = 16


def parse_query(
    items: Mapping[str, object],
    level: str,
    *,
    ignore_case: bool = False,
    combined_date_time: bool = False,
) -> Query:
    """Check a query and make its conditions.

    Parameters
    ----------
    items
        query values by keyword, by tag in eight hex digits, or by path; numbers count as their
        text, None as an empty value
    level
        patient, study, series or instance
    ignore_case
        whether text other than person names ignores case too
    combined_date_time
        whether ranges of a date and its time mean one range of moments, instead of days and, on
        each of them, times

    Raises
    ------
    UsageError
        where there is no such level
    QueryError
        naming the key, for what no query can hold
    """
    if level not in LEVELS:
        message = f"level: expected one of {', '.join(LEVELS)}, found {level!r}"
        raise UsageError(message)
    requested: dict[str, QueryKey] = {}
    conditions: dict[str, Condition] = {}
    for name, value in items.items():
        key = _key(name)
        text = "" if value is None else str(value).strip(" \0")
        if key.keyword in requested:
            message = f"{name}: expected each attribute once, found it twice"
            raise QueryError(message)
        requested[key.keyword] = key
        # a person name of empty components and component groups asks for nothing either
        if not text.strip("*^=" if key.vr == "PN" else "*"):
            continue
        conditions[key.keyword] = _condition(key, text, level, ignore_case=ignore_case)
    if combined_date_time:
        _combine(conditions)
    met = _in_items(list(conditions.values()), 0)
    return Query(LEVELS[LEVELS.index(level)], tuple(met), tuple(requested.values()))


def _key(name: str) -> QueryKey:
    if re.match(r"[0-9A-Za-z]+[.\[]", name):
        return _key_in_sequence(name)
    tag = find_tag(name)
    if tag is None:
        raise QueryError(unknown_name(name))
    promoted = BY_TAG.get(tag)
    if promoted is not None:
        return QueryKey(
            promoted.keyword, tag, promoted.vr, promoted.level, promoted.column, promoted.multiple
        )
    try:
        vr, multiple = dictionary_VR(tag).split(" or ")[0], dictionary_VM(tag) != "1"
    except KeyError:
        vr, multiple = "LO", False
    return QueryKey(keyword_for_tag(tag) or f"{tag:08X}", tag, vr, None, None, multiple)


def _key_in_sequence(name: str) -> QueryKey:
    path = parse_path(name)
    for step in path.steps:
        if step.index is not None or step.every:
            message = f"{name[:64]}: expected no [n] in a query: any item can match"
            raise QueryError(message)
    if path.name_group is not None:
        message = f"{name[:64]}: expected the whole name of a person, as in Doe^Jane* or *=Yamada*"
        raise QueryError(message)
    if len(path.steps) > MAX_DEPTH:
        message = f"{name[:64]}...: expected sequences at most {MAX_DEPTH} deep, found more"
        raise QueryError(message)
    *sequences, last = path.steps
    keyword = ".".join(step.name for step in path.steps)
    inside = tuple(step.tag for step in sequences)
    return QueryKey(keyword, last.tag, last.vr or "LO", None, None, last.multiple, inside)


def _in_items(conditions: Sequence[Condition], depth: int) -> list[Condition]:
    """Bring together the conditions on items of each sequence."""
    met, of_sequence = [], defaultdict[int, list[Condition]](list)
    for condition in conditions:
        sequences = condition.key.sequences
        if len(sequences) == depth:
            met.append(condition)
        else:
            of_sequence[sequences[depth]].append(condition)
    for tag, inside in of_sequence.items():
        names = inside[0].key.keyword.split(".")
        outer = inside[0].key.sequences[:depth]
        key = QueryKey(".".join(names[: depth + 1]), tag, "SQ", None, None, True, outer)
        met.append(Condition(key, "item", inside=tuple(_in_items(inside, depth + 1))))
    return met


def _condition(key: QueryKey, text: str, level: str, *, ignore_case: bool) -> Condition:
    if key.keyword in STUDY_LISTS:
        if level == "patient":
            message = (
                f"{key.keyword}: an attribute of studies, which a query at level patient has not"
            )
            raise QueryError(message)
        behind = _key(STUDY_LISTS[key.keyword].keyword)
        condition = _condition(behind, text, "instance", ignore_case=ignore_case)
        return replace(condition, any_of_study=True)
    if key.keyword in _COMPUTED:
        message = f"{key.keyword}: is computed for the answer and cannot be matched; leave it empty"
        raise QueryError(message)
    if key.level is not None and LEVELS.index(key.level) > LEVELS.index(level):
        message = (
            f"{key.keyword}: an attribute of level {key.level}, below the query's level {level}"
        )
        raise QueryError(message)
    if text == '""':
        return Condition(key, "empty")
    if key.vr in _UNMATCHED_VRS:
        message = f"{key.keyword}: values of VR {key.vr} cannot be matched"
        raise QueryError(message)
    if key.vr in _TIME_VRS:
        return _range(key, text)
    if key.vr == "UI":
        return _list(key, _uids(key, text))
    if key.vr in NUMBER_VRS:
        return _list(key, [_query_number(key, part) for part in text.split("\\")])
    return _text(key, text, ignore_case=ignore_case)


def _range(key: QueryKey, text: str) -> Condition:
    ends = split_range(key.vr, text)
    if ends is None or (key.vr == "DT" and any(end and moment_of(end) is None for end in ends)):
        message = f"{key.keyword}: expected a {key.vr} or a range of two, found {text[:64]!r}"
        raise QueryError(message)
    lower, upper = ends
    if key.vr == "DA" and lower == upper and len(lower) == 8:
        return Condition(key, "equals", (lower,))
    if key.vr == "DT":
        return Condition(key, "range", (), lower or None, upper or None)
    return Condition(
        key,
        "range",
        (),
        first_string(key.vr, lower) if lower else None,
        last_string(upper) if upper else None,
    )


def _uids(key: QueryKey, text: str) -> list[str]:
    uids = [part.strip(" \0") for part in re.split(r"[\\,]", text)]
    for uid in uids:
        if not is_uid(uid):
            message = f"{key.keyword}: expected UIDs, separated by \\ or ',', found {uid[:64]!r}"
            raise QueryError(message)
    return uids


def _query_number(key: QueryKey, text: str) -> int | float:
    number = number_of(text.strip(" \0"))
    if number is None:
        message = f"{key.keyword}: expected a number, found {text[:64]!r}"
        raise QueryError(message)
    if kind_of_vr(key.vr) == "int64" and number != int(number):
        message = f"{key.keyword}: expected an integer, found {text[:64]!r}"
        raise QueryError(message)
    return int(number) if number == int(number) else number


def _text(key: QueryKey, text: str, *, ignore_case: bool) -> Condition:
    single = key.vr in SINGLE_VALUED_VRS
    parts = [text] if single else [part.strip(" \0") for part in text.split("\\")]
    if max(map(len, parts)) > MAX_PATTERN_CHARACTERS:
        message = f"{key.keyword}: expected at most {MAX_PATTERN_CHARACTERS} characters, found more"
        raise QueryError(message)
    wildcard = any(map(has_wildcard, parts))
    if wildcard and key.vr not in _WILDCARD_VRS:
        message = f"{key.keyword}: expected no wildcard in VR {key.vr}, found {text[:64]!r}"
        raise QueryError(message)
    if key.vr == "AS" and not all(re.fullmatch("[0-9]{3}[DWMY]", part) for part in parts):
        message = f"{key.keyword}: expected an age like 045Y, found {text[:64]!r}"
        raise QueryError(message)
    person_name = key.vr == "PN"
    if wildcard or person_name or ignore_case:
        return Condition(
            key, "pattern", tuple(dict.fromkeys(parts)), ignore_case=ignore_case or person_name
        )
    return _list(key, parts)


def _list(key: QueryKey, values: Iterable[str | int | float]) -> Condition:
    distinct = tuple(dict.fromkeys(values))
    return Condition(key, "equals" if len(distinct) == 1 else "one_of", distinct)


def _combine(conditions: dict[str, Condition]) -> None:
    for date_keyword, time_keyword in COMBINED_TIMES.items():
        date, time = conditions.get(date_keyword), conditions.get(time_keyword)
        if date is None or time is None or "empty" in {date.operator, time.operator}:
            continue
        lower, upper = date.lower, date.upper
        if date.operator == "equals":
            lower = upper = str(date.values[0])
        lower = first_day(lower) if lower else None
        upper = last_day(upper) if upper else None
        conditions[date_keyword] = Condition(date.key, "range", (), lower, upper, time=time)
        del conditions[time_keyword]
