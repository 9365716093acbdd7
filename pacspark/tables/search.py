"""Queries over `instances`: which patients, studies, series or instances match, and what they are.

::

    conditions on columns ──▶ filters of the scan ─┐
    all others ──▶ row by row, on what is left ────┴▶ instances that match ──▶ their studies, say
                                                       counts over all instances of those ──▶ rows
"""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.dicom.attributes import (
    BY_KEYWORD,
    COUNTS,
    LEVELS,
    PROMOTED,
    STUDY_LISTS,
    UNIQUE_KEYS,
    Level,
)
from pacspark.dicom.conditions import Condition, Query, QueryKey
from pacspark.dicom.values import person_name
from pacspark.tables.lookup import find_rows
from pacspark.tables.schema import INSTANCES
from pacspark.tables.sifting import files_with
from pacspark.tables.snapshot import ActiveFile, Snapshot

_INSTANCE: Final = "sop_instance_uid"
_FEW: Final = 1000
"""So many UIDs are looked up by Bloom filters; of more, the column is read."""
_OFFSET: Final = "timezone_offset_from_utc"
_ORDER: Final = {
    "patient": ("PatientID",),
    "study": ("StudyDate", "StudyTime", "StudyInstanceUID"),
    "series": ("StudyInstanceUID", "SeriesNumber", "SeriesInstanceUID"),
    "instance": ("SeriesInstanceUID", "InstanceNumber", "SOPInstanceUID"),
}


def search(snapshot: Snapshot, query: Query) -> pa.Table:
    """Answer a query from one version of `instances`.

    An entity above the instances matches if one of its instances does; its attributes are those of
    the matching instance with the lowest UID, its counts are over all of its instances.

    Parameters
    ----------
    snapshot
        of `instances`
    query
        from :func:`pacspark.dicom.matching.parse_query`

    Returns
    -------
    pyarrow.Table
        one row per match; columns named by DICOM keyword
    """
    key = UNIQUE_KEYS[query.level].column
    matching, files = _matching(snapshot, query, key)
    grouped = matching.group_by(key, use_threads=False).aggregate([(_INSTANCE, "min")])
    shown = grouped[f"{_INSTANCE}_min"]
    attributes = [a for a in PROMOTED if LEVELS.index(a.level) <= LEVELS.index(query.level)]
    in_json = [requested for requested in query.requested if requested.in_json]
    names = [a.column for a in attributes] + (["dicom_json"] if in_json else [])
    rows = _shown(snapshot, shown, list(dict.fromkeys([*names, _INSTANCE])), files)
    answer = rows.select([a.column for a in attributes])
    answer = answer.rename_columns([a.keyword for a in attributes])
    answer = _with_computed(answer, snapshot, query.level, key)
    documents = rows["dicom_json"].to_pylist() if in_json else []
    for requested in in_json:
        if requested.keyword not in answer.column_names:
            texts = [_text_of(json.loads(document), requested) for document in documents]
            answer = answer.append_column(requested.keyword, pa.array(texts, pa.string()))
    answer = answer.replace_schema_metadata(None)
    return answer.sort_by([(name, "ascending") for name in _ORDER[query.level]])


SHOWN: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "patient": ("PatientID", "PatientName", "NumberOfPatientRelatedStudies"),
        "study": (
            "PatientID",
            "StudyDate",
            "StudyDescription",
            "ModalitiesInStudy",
            "NumberOfStudyRelatedInstances",
            "StudyInstanceUID",
        ),
        "series": (
            "PatientID",
            "StudyDate",
            "Modality",
            "SeriesNumber",
            "SeriesDescription",
            "NumberOfSeriesRelatedInstances",
            "SeriesInstanceUID",
        ),
        "instance": (
            "Modality",
            "InstanceNumber",
            "Rows",
            "Columns",
            "NumberOfFrames",
            "SOPInstanceUID",
        ),
    }
)
"""What people see of each level in any case, in this order."""


def columns_to_show(answer: pa.Table, query: Query, *, all_telling: bool) -> list[str]:
    """Choose the columns of an answer that people see, and their order.

    Those of `SHOWN`, with what was asked for before the last of them: a UID ends a line.

    Parameters
    ----------
    answer
        from :func:`search`
    query
        that it answers
    all_telling
        whether the others follow, those of its own level first: where some row has a value
    """
    *first, last = SHOWN[query.level]
    named = [key.keyword for key in query.requested if key.keyword in answer.column_names]
    shown = list(dict.fromkeys([*first, *(name for name in named if name != last), last]))
    if not all_telling:
        return shown
    own = [name for name in answer.column_names if _level(name) in {query.level, None}]
    others = (name for name in dict.fromkeys([*own, *answer.column_names]) if name not in shown)
    return [*shown, *(name for name in others if not answer.num_rows or _tells(answer[name]))]


def _tells(column: pa.ChunkedArray) -> bool:
    return any(value not in (None, "", []) for value in column.to_pylist())


def _level(keyword: str) -> Level | None:
    return BY_KEYWORD[keyword].level if keyword in BY_KEYWORD else None


def _matching(snapshot: Snapshot, query: Query, key: str) -> tuple[pa.Table, Sequence[ActiveFile]]:
    """Give key and UID of the instances that meet every condition, and the files that have them."""
    own = [condition for condition in query.conditions if not condition.any_of_study]
    columns = list(dict.fromkeys([key, _INSTANCE, "study_instance_uid"]))
    rows, files = _meeting(snapshot, own, columns)
    for condition in query.conditions:
        if condition.any_of_study:
            studies, _ = _meeting(snapshot, [condition], ["study_instance_uid"])
            wanted = pc.unique(studies["study_instance_uid"])
            rows = rows.filter(pc.is_in(rows["study_instance_uid"], wanted))
    return rows, files


def _meeting(
    snapshot: Snapshot, conditions: Sequence[Condition], columns: Sequence[str]
) -> tuple[pa.Table, Sequence[ActiveFile]]:
    filters: list[ds.Expression] = []
    values: dict[str, Sequence[Any]] = {}
    rest: list[Condition] = []
    for condition in conditions:
        pushed = _expression(condition)
        if pushed is None:
            rest.append(condition)
            continue
        filters.append(pushed)
        if condition.column is not None and condition.operator in {"equals", "one_of"}:
            values[condition.column] = condition.values
    where = None
    for pushed in filters:
        where = pushed if where is None else where & pushed
    needed = [name for condition in rest for name in _columns_of(condition)]
    names = list(dict.fromkeys([*columns, *needed]))
    files = files_with(snapshot, values)
    if not rest:
        return snapshot.read(names, where, files), files
    # batch by batch, so that the DICOM JSON of an archive never is in memory at once
    met: list[pa.RecordBatch] = []
    for batch in snapshot.batches(names, where, files):
        mask = [all(c.matches(row) for c in rest) for row in batch.select(needed).to_pylist()]
        met.append(batch.select(list(columns)).filter(pa.array(mask, pa.bool_())))
    schema = pa.schema([INSTANCES.arrow_schema.field(name) for name in columns])
    return pa.Table.from_batches([b.cast(schema) for b in met], schema=schema), files


def _expression(condition: Condition) -> ds.Expression | None:
    """Give the filter that is all of a condition; None where there is none."""
    if not condition.pushable or condition.column is None:
        return None
    column = ds.field(condition.column)
    arrow_type = INSTANCES.arrow_schema.field(condition.column).type
    if condition.operator in {"equals", "one_of"}:
        try:
            return column.isin(pa.array(condition.values, arrow_type))
        except (pa.ArrowException, OverflowError):
            return None  # a number that no value of the column can be equal to
    if pa.types.is_string(arrow_type):
        return _text_expression(condition, column)
    return column.is_null() if condition.operator == "empty" else None


def _text_expression(condition: Condition, column: ds.Expression) -> ds.Expression | None:
    if condition.operator == "empty":
        return column.is_null() | (column == "")
    # an empty text is no value, and meets neither a range nor a pattern
    expression = column != ""
    if condition.operator == "pattern":
        if not _is_accepted(condition.regex):
            return None
        return expression & pc.match_substring_regex(column, condition.regex)
    if condition.lower is not None:
        expression &= column >= condition.lower
    if condition.upper is not None:
        expression &= column <= condition.upper
    return expression


def _is_accepted(regex: str) -> bool:
    """Tell whether RE2 takes an expression: it refuses those that need too much memory."""
    try:
        pc.match_substring_regex(pa.array([""]), regex)
    except pa.ArrowException:
        return False
    return True


def _columns_of(condition: Condition) -> list[str]:
    parts = [condition] if condition.time is None else [condition, condition.time]
    names = [part.column or "dicom_json" for part in parts]
    return [*names, _OFFSET] if condition.key.vr == "DT" or condition.inside else names


def _shown(
    snapshot: Snapshot, uids: pa.ChunkedArray, names: Sequence[str], files: Sequence[ActiveFile]
) -> pa.Table:
    """Read the instances that stand for what they belong to, out of files that have them all."""
    if len(uids) > _FEW or len(files) < 2:
        return snapshot.read(names, ds.field(_INSTANCE).isin(pc.unique(uids)), files)
    wanted = uids.to_pylist()
    bounds = {file.path for file in snapshot.files({_INSTANCE: wanted})}
    return find_rows(
        snapshot.storage, [file for file in files if file.path in bounds], wanted, names
    )


def _select(
    snapshot: Snapshot, column: str, values: pa.ChunkedArray | pa.Array, names: Sequence[str]
) -> pa.Table:
    wanted = pc.unique(values)
    known = [value for value in wanted.to_pylist() if value is not None]
    # a null has no bounds: files without statistics for it are kept by all
    files = files_with(snapshot, {column: known} if len(known) == len(wanted) else {})
    return snapshot.read(names, ds.field(column).isin(wanted), files)


def _with_computed(answer: pa.Table, snapshot: Snapshot, level: Level, key: str) -> pa.Table:
    counts = {name: UNIQUE_KEYS[counted].column for name, counted in COUNTS[level].items()}
    if not counts:
        return answer
    behind = STUDY_LISTS if level == "study" else {}
    lists = {name: attribute.column for name, attribute in behind.items()}
    keyword = UNIQUE_KEYS[level].keyword
    columns = list(dict.fromkeys([key, *counts.values(), *lists.values()]))
    rows = _select(snapshot, key, answer[keyword], columns)
    # a column cannot be both key and counted
    grouped = rows.append_column("_key", rows[key]).group_by("_key", use_threads=False)
    found = grouped.aggregate(
        [(column, "count_distinct") for column in counts.values()]
        + [(column, "distinct") for column in lists.values()]
    )
    place = {value: i for i, value in enumerate(found["_key"].to_pylist())}
    order = pa.array([place[value] for value in answer[keyword].to_pylist()], pa.int64())
    found = found.take(order)
    for name, column in counts.items():
        answer = answer.append_column(name, found[f"{column}_count_distinct"])
    for name, column in lists.items():
        values = [
            sorted(value for value in row if value)
            for row in found[f"{column}_distinct"].to_pylist()
        ]
        answer = answer.append_column(name, pa.array(values, pa.list_(pa.string())))
    return answer


def _text_of(document: Mapping[str, Any], key: QueryKey) -> str | None:
    """Give an attribute of a DICOM JSON document as text; its values joined as in DICOM."""
    items: list[Mapping[str, Any]] = [document]
    for tag in key.sequences:
        inner = (item.get(f"{tag:08X}", {}).get("Value", ()) for item in items)
        items = [item for of_sequence in inner for item in of_sequence if item]
    values = [value for item in items for value in item.get(key.json_tag, {}).get("Value", ())]
    if not values:
        return None
    write: Callable[[Any], str] = json.dumps if key.vr == "SQ" else _text
    return "\\".join(write(value) for value in values)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return person_name(value)
    return "" if value is None else str(value)
