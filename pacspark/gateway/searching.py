"""Queries over the index: what matches, and what the answer says of it (PS3.4 C.2.2, C.4.1).

An answer is the same as that of `Catalog.find`, from memory as far as memory goes::

    key conditions ──▶ groups of those patients, studies or series; else all groups
    other conditions on what groups share ──▶ groups that match
    conditions on instances ──▶ held columns, else columns of the tables, else DICOM JSON
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, permutations, product
from typing import Any, Final, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydicom.datadict import dictionary_VR

from pacspark.dicom.attributes import COUNTS, LEVELS, STUDY_LISTS, UNIQUE_KEYS, Level
from pacspark.dicom.conditions import Condition, Query, QueryKey
from pacspark.dicom.paths import find_tag
from pacspark.errors import QueryTooLargeError
from pacspark.gateway.groups import GROUP_ATTRIBUTES, HELD_COLUMNS, PLACE, Group, StoredInstance
from pacspark.gateway.index import Index

_T = TypeVar("_T")
MAX_READ: Final = 20_000
"""Instances whose rows one query may have read for its conditions; others are refused."""
ANSWERS_AT_ONCE: Final = 256
_MOST_WORDS: Final = 3
_OFFSET: Final = "timezone_offset_from_utc"
_DEPTH: Final[Mapping[Level, int]] = {
    level: sum(LEVELS.index(a.level) <= LEVELS.index(level) for a in GROUP_ATTRIBUTES)
    for level in LEVELS
}
_ORDER: Final[Mapping[Level, tuple[str, ...]]] = {
    "patient": ("patient_id",),
    "study": ("study_date", "study_time", "study_instance_uid"),
    "series": ("study_instance_uid", "series_number", "series_instance_uid"),
}
_COUNTED: Final[Mapping[str, tuple[Level, Level]]] = {
    keyword: (level, counted)
    for level, counts in COUNTS.items()
    for keyword, counted in counts.items()
}


@dataclass(frozen=True, slots=True)
class Match:
    """One patient, study, series or instance that a query found.

    Attributes
    ----------
    level
        of the query
    key
        its unique key: PatientID, which may be None, or a UID
    groups
        those that match; the first one's attributes are shown
    instance
        one that matches, where conditions or the level chose it
    """

    level: Level
    key: str | None
    groups: tuple[Group, ...]
    instance: StoredInstance | None = None

    @property
    def group(self) -> Group:
        """The group whose attributes are shown."""
        return self.groups[0]


class _BySeries(Sequence[Match]):
    """All instances of groups: none is made before it is asked for, nor sorted before its series.

    A million instances are some ten thousand series, and an answer shows a page of them.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        by_series: dict[str, list[Group]] = {}
        for group in groups:
            by_series.setdefault(group["series_instance_uid"], []).append(group)
        self._series = [by_series[uid] for uid in sorted(by_series)]
        self._counts = [sum(map(len, of_one)) for of_one in self._series]

    def __len__(self) -> int:
        return sum(self._counts)

    def __iter__(self) -> Iterator[Match]:
        return (match for of_one in self._series for match in _in_series(of_one))

    @overload
    def __getitem__(self, item: int) -> Match: ...
    @overload
    def __getitem__(self, item: slice) -> list[Match]: ...
    def __getitem__(self, item: int | slice) -> Match | list[Match]:
        wanted = range(len(self))[item]
        if isinstance(wanted, int):
            return self[wanted : wanted + 1][0]
        found: list[Match] = []
        ends = sorted((wanted[0], wanted[-1])) if wanted else (0, -1)
        start, stop = ends[0], ends[1] + 1
        for of_one, count in zip(self._series, self._counts, strict=True):
            if start < count and stop > 0:
                found += _in_series(of_one, max(start, 0), min(stop, count))
            start, stop = start - count, stop - count
        return found[:: wanted.step]


def _in_series(groups: Sequence[Group], start: int = 0, stop: int | None = None) -> Iterator[Match]:
    """Give the instances of one series, or some of them, in order."""
    keys = [group.numbers_and_uids() for group in groups]
    by_both = pc.sort_indices(
        pa.concat_tables(keys),
        sort_keys=[("instance_number", "ascending"), ("sop_instance_uid", "ascending")],
    )
    order = by_both.to_numpy().astype(np.int64)[start:stop]
    ends = np.cumsum([len(table) for table in keys])
    of_group = np.searchsorted(ends, order, side="right")
    made = [
        iter(group.instances(order[of_group == number] - (ends[number] - len(keys[number]))))
        for number, group in enumerate(groups)
    ]
    for number in of_group:
        one = next(made[number])
        yield Match("instance", one.sop_instance_uid, (groups[number],), one)


def search(index: Index, query: Query) -> Sequence[Match]:
    """Find what matches a query, in the order of `Catalog.find`.

    Parameters
    ----------
    index
        where to look
    query
        from :func:`pacspark.dicom.matching.parse_query`

    Raises
    ------
    QueryTooLargeError
        where too many rows of the tables would have to be read for its conditions
    """
    wanted = _wanted_uids(query)
    if wanted is not None:
        located = index.located(wanted)
        candidates = list(dict.fromkeys(group for group, _ in located))
    else:
        candidates = _candidates(index, query)
    groups = _groups_meeting(index, candidates, query)
    if query.level == "instance":
        if not _own(query):
            return _BySeries(groups)
        kept = set(groups)
        pairs = (
            ((group, one) for group in groups for one in group.instances())
            if wanted is None
            else (pair for pair in located if pair[0] in kept)
        )
        found = _meeting(index, query, pairs)
        matches = [Match("instance", one.sop_instance_uid, (group,), one) for group, one in found]
        return sorted(matches, key=_instance_order)
    return sorted(_entities(index, query, groups), key=_entity_order)


def fuzzy_keys(keys: Mapping[str, str]) -> dict[str, str]:
    """Write keys that are person names as patterns for fuzzy matching (PS3.4 C.2.2.2.1.1).

    A name matches that holds every word of the value, in any order, each at the start of a part of
    the name, without regard to case.
    """
    return {name: _fuzzy(name, value) for name, value in keys.items()}


def _fuzzy(name: str, value: str) -> str:
    tag = find_tag(name)
    try:
        is_name = tag is not None and dictionary_VR(tag) == "PN"
    except KeyError:
        is_name = False
    words = re.findall(r"[^\s,^=*\\]+", value)
    if not is_name or not words or len(words) > _MOST_WORDS:
        return value
    # a word begins at the start of the name or behind what separates its parts
    return "\\".join(
        "".join(start + word for start, word in zip(starts, order, strict=True)) + "*"
        for order in permutations(words)
        for starts in product(("", "*^", "* "), repeat=len(order))
        if all(starts[1:])
    )


def answers(
    index: Index, matches: Iterable[Match], keys: Sequence[QueryKey]
) -> Iterator[dict[str, Any]]:
    """Tell of each match what was asked for.

    Parameters
    ----------
    index
        that was searched
    matches
        from :func:`search`
    keys
        the attributes, as :attr:`pacspark.dicom.conditions.Query.requested` has them

    Yields
    ------
    dict
        by keyword: the value of a promoted attribute, a tuple or list of several, or None; the
        number or the list that PS3.4 C.6 computes; of any other attribute its element in the
        DICOM JSON model, with ``vr`` and ``Value``, or None
    """
    computed = [key for key in keys if key.keyword in _COUNTED or key.keyword in STUDY_LISTS]
    others = [key for key in keys if key not in computed]
    shared = [key for key in others if key.column in PLACE]
    own = [key for key in others if key.column is not None and key.column not in PLACE]
    in_json = [key for key in others if key.column is None]
    for some in _runs(matches, ANSWERS_AT_ONCE):
        rows = _rows_of_answers(index, some, own, in_json)
        for match in some:
            depth = _DEPTH[match.level]
            answer: dict[str, Any] = dict.fromkeys(key.keyword for key in keys)
            for key in shared:
                if PLACE[str(key.column)] < depth:
                    answer[key.keyword] = match.group[str(key.column)]
            for key in computed:
                answer[key.keyword] = _computed(index, match, key.keyword)
            row = rows.get(id(match), {})
            if match.level == "instance":
                answer |= {key.keyword: row.get(str(key.column)) for key in own}
            document = json.loads(row.get("dicom_json") or "{}") if in_json else {}
            answer |= {key.keyword: document.get(key.json_tag) for key in in_json}
            yield answer


# which groups


def _wanted_uids(query: Query) -> list[str] | None:
    """Give the SOP Instance UIDs that a query asks for by name."""
    for condition in query.conditions:
        if condition.column == "sop_instance_uid" and _is_key(condition):
            return [str(value) for value in condition.values]
    return None


def _is_key(condition: Condition) -> bool:
    return condition.operator in {"equals", "one_of"} and not condition.any_of_study


def _candidates(index: Index, query: Query) -> list[Group]:
    """Give the groups of the patients, studies or series that a query names, of the fewest."""
    found: list[Group] | None = None
    for level in ("series", "study", "patient"):
        column = UNIQUE_KEYS[level].column
        for condition in query.conditions:
            if condition.column == column and _is_key(condition):
                groups = [
                    group
                    for key in dict.fromkeys(condition.values)
                    for group in index.groups_of(level, str(key))
                ]
                found = groups if found is None or len(groups) < len(found) else found
    return index.groups() if found is None else found


def _groups_meeting(index: Index, groups: Iterable[Group], query: Query) -> list[Group]:
    """Keep the groups that meet the conditions on what their instances share."""
    kept = [group for group in groups if len(group)]
    for condition in query.conditions:
        column = condition.column or ""
        if condition.any_of_study:
            kept = _kept(kept, "study_instance_uid", partial(_study_has, index, condition))
        elif column in PLACE and condition.pushable:
            kept = _kept(kept, column, partial(_matches, condition))
        elif column in PLACE:
            kept = [group for group in kept if _matches(condition, group)]
    return kept


def _kept(groups: Iterable[Group], column: str, meets: Callable[[Group], bool]) -> list[Group]:
    """Keep the groups whose value in a column meets something; the same value is asked once."""
    place = PLACE[column]
    known: dict[Any, bool] = {}
    kept = []
    for group in groups:
        value = group.values[place]
        if (is_met := known.get(value)) is None:
            is_met = known[value] = meets(group)
        if is_met:
            kept.append(group)
    return kept


def _matches(condition: Condition, group: Group) -> bool:
    return condition.matches(group.row)


def _study_has(index: Index, condition: Condition, one: Group) -> bool:
    groups = index.groups_of("study", one["study_instance_uid"])
    if condition.column in PLACE:
        return any(condition.matches(group.row) for group in groups)
    classes = {uid for group in groups for uid in group.sop_class_uids}
    return any(condition.matches({"sop_class_uid": uid}) for uid in classes)


def _entities(index: Index, query: Query, groups: Sequence[Group]) -> Iterator[Match]:
    column, depth = UNIQUE_KEYS[query.level].column, _DEPTH[query.level]
    by_key: dict[str | None, list[Group]] = {}
    for group in groups:
        by_key.setdefault(group[column], []).append(group)
    if any(condition.in_json for condition in query.conditions):
        pairs = ((group, one) for group in groups for one in group.instances())
        best: dict[str | None, tuple[Group, StoredInstance]] = {}
        for group, one in _meeting(index, query, pairs):
            known = best.get(group[column])
            if known is None or one.sop_instance_uid < known[1].sop_instance_uid:
                best[group[column]] = (group, one)
        for key, (group, one) in best.items():
            yield Match(query.level, key, (group,), one)
        return
    for key, of_key in by_key.items():
        if any(group.values[:depth] != of_key[0].values[:depth] for group in of_key):
            of_key.sort(key=Group.least_uid)
        yield Match(query.level, key, tuple(of_key))


# which instances


def _own(query: Query) -> list[Condition]:
    """Give the conditions on what no group has."""
    return [c for c in query.conditions if c.column not in PLACE and not c.any_of_study]


def _meeting(
    index: Index, query: Query, pairs: Iterable[tuple[Group, StoredInstance]]
) -> Iterator[tuple[Group, StoredInstance]]:
    """Keep the instances that meet the conditions on what no group has."""
    own = _own(query)
    columns = {_column(part) for c in own for part in (c, c.time) if part is not None}
    held = {column for column in columns if column in HELD_COLUMNS}
    read = 0
    for some in _runs(pairs, ANSWERS_AT_ONCE):
        rows: Mapping[str, Mapping[str, Any]] = {}
        if columns - held:
            read += len(some)
            if read > MAX_READ:
                message = (
                    f"query: expected conditions that {MAX_READ} instances can be held against, "
                    "found more instances; name a patient, a study or a series too"
                )
                raise QueryTooLargeError(message)
            rows = index.rows([one for _, one in some], sorted(columns - held))
        for group, one in some:
            row = {_OFFSET: group[_OFFSET], **rows.get(one.sop_instance_uid, {})}
            if columns - held and one.sop_instance_uid not in rows:
                continue  # it went in between
            row |= {column: one.held(column) for column in held}
            if isinstance(row.get("dicom_json"), str):
                row["dicom_json"] = json.loads(row["dicom_json"])
            if all(condition.matches(row) for condition in own):
                yield group, one


def _column(condition: Condition) -> str:
    return condition.column or "dicom_json"


# what is said of them


def _rows_of_answers(
    index: Index, matches: Sequence[Match], own: Sequence[QueryKey], in_json: Sequence[QueryKey]
) -> dict[int, dict[str, Any]]:
    """Give, by the match, the row of the instance that is shown for it, as far as it is needed."""
    columns = [str(key.column) for key in own if matches[0].level == "instance"]
    missing = [column for column in columns if column not in HELD_COLUMNS]
    if in_json:
        missing.append("dicom_json")
    if not columns and not missing:
        return {}
    shown = {id(match): _shown_instance(index, match) for match in matches}
    read = {}
    if missing:
        instances = [instance for instance in shown.values() if instance is not None]
        read = index.rows(instances, missing)
    return {
        number: {column: one.held(column) for column in columns if column in HELD_COLUMNS}
        | read.get(one.sop_instance_uid, {})
        for number, one in shown.items()
        if one is not None
    }


def _shown_instance(index: Index, match: Match) -> StoredInstance | None:
    if match.instance is not None:
        return match.instance
    depth = _DEPTH[match.level]
    alike = [g for g in match.groups if g.values[:depth] == match.group.values[:depth]]
    return index.lookup(min(group.least_uid() for group in alike))


def _computed(index: Index, match: Match, keyword: str) -> int | list[str] | None:
    level, counted = _COUNTED.get(keyword, ("study", "instance"))
    if LEVELS.index(level) > LEVELS.index(match.level):
        return None
    groups = index.groups_of(level, match.group[UNIQUE_KEYS[level].column])
    if keyword in STUDY_LISTS:
        attribute = STUDY_LISTS[keyword]
        values = (
            {group[attribute.column] for group in groups}
            if attribute.column in PLACE
            else {uid for group in groups for uid in group.sop_class_uids}
        )
        return sorted(value for value in values if value)
    if counted == "instance":
        return sum(map(len, groups))
    column = UNIQUE_KEYS[counted].column
    return len({group[column] for group in groups} - {None})


def _entity_order(match: Match) -> tuple[Any, ...]:
    values = [match.group[column] for column in _ORDER[match.level]]
    return tuple(
        part for value in values for part in (value is None, 0 if value is None else value)
    )


def _instance_order(match: Match) -> tuple[Any, ...]:
    number = None if match.instance is None else match.instance.instance_number
    return (match.group["series_instance_uid"], number is None, number or 0, match.key)


def _runs(items: Iterable[_T], length: int) -> Iterator[tuple[_T, ...]]:
    left = iter(items)
    return iter(lambda: tuple(islice(left, length)), ())
