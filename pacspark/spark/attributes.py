"""Any DICOM attribute as a column of the `instances` DataFrame, promoted or in the DICOM JSON.

What a path gives, by VR (docs/asking.md has examples):

=======================  ===================================================================
VR                       type
=======================  ===================================================================
IS US UL SS SL SV        bigint
UV                       decimal(20,0)
DS FD FL                 double; ``as_type="decimal(38,18)"`` has every digit
OB OD OF OL OV OW UN     binary where the JSON has it; null for bulk data
SQ                       VARIANT: its items as DICOM JSON
not in PS3.6             string: values joined by backslashes
everything else          string
=======================  ===================================================================

Several values, or ``[*]`` anywhere on the way, make an array of it.
"""

import re
from collections.abc import Callable
from typing import Final

from pyspark.sql import Column
from pyspark.sql import functions as sf

from pacspark.dicom.attributes import BY_TAG, kind_of_vr
from pacspark.dicom.paths import NAME_GROUPS, AttributePath, Step, parse_path
from pacspark.errors import QueryError, UsageError

SPARK_TYPES: Final = {"string": "string", "int64": "bigint", "double": "double"}
_BINARY_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_WHOLE: Final = frozenset({"IS", "US", "UL", "SS", "SL", "SV"})
_TYPE: Final = re.compile(
    r"string|bigint|double|date|binary|variant|decimal\(\s*([0-9]{1,2})\s*,\s*([0-9]{1,2})\s*\)"
)
_FEW_VALUES: Final = 64
_NAME: Final = "struct<Alphabetic:string,Ideographic:string,Phonetic:string>"


def attribute(path: str, as_type: str | None = None) -> Column:
    """Give any DICOM attribute as a column of the `instances` DataFrame.

    Parameters
    ----------
    path
        A keyword, a tag of eight hex digits, or a path (`dicom.paths`):
        ``AnatomicRegionSequence[*].CodeMeaning``, ``ImageType[2]``, ``PatientName.FamilyName``.
    as_type
        string, bigint, double, decimal(precision,scale), date, binary or variant; None: by the VR.
        What cannot be read as that is null.

    Raises
    ------
    QueryError
        When PS3.6 knows no such keyword, or the path or type is none.
    UsageError
        When no Spark session has begun yet.
    """
    parsed = parse_path(path)
    wanted = as_type if as_type is None else _require_type(path, as_type)
    try:
        return _column(parsed, wanted).alias(path)
    except AssertionError as error:  # of pyspark
        message = f"{path[:64]}: expected a Spark session; take `archive.instances` first"
        raise UsageError(message) from error


def _require_type(path: str, as_type: str) -> str:
    text = as_type.strip().lower()
    match = _TYPE.fullmatch(text)
    if match is None or (match[1] and not 1 <= int(match[1]) <= 38) or int(match[2] or 0) > 38:
        message = (
            f"{path[:64]}: expected the type string, bigint, double, decimal(precision,scale), "
            f"date, binary or variant, found {as_type[:64]!r}"
        )
        raise QueryError(message)
    return text


def _type_of(step: Step) -> str:
    if step.vr == "SQ":
        return "variant"
    if step.vr in _BINARY_VRS:
        return "binary"
    if step.vr in _WHOLE:
        return "bigint"
    return "decimal(20,0)" if step.vr == "UV" else SPARK_TYPES[kind_of_vr(step.vr)]


def _column(path: AttributePath, as_type: str | None) -> Column:
    last, wanted = path.last, as_type or _type_of(path.last)
    promoted = BY_TAG.get(last.tag) if len(path.steps) == 1 else None
    kind = None if promoted is None else SPARK_TYPES[promoted.kind]
    if promoted is not None and (wanted == kind or (kind, wanted) == ("string", "date")):
        column = sf.col(promoted.column)
        if promoted.multiple and last.index is not None:
            column = sf.get(column, last.index)
        elif last.index:
            column = sf.lit(None).cast("string")  # of a single value there is no second

        def read(text: Column) -> Column:
            if last.vr == "PN":
                text = _part_of_name(path, lambda group: sf.get(sf.split(text, "="), group), text)
            return _as_date(text) if wanted == "date" else text

        is_list = promoted.multiple and last.index is None
        return sf.transform(column, read) if is_list else read(column)
    document = sf.col("dicom_json")
    if len(path.steps) == 1 and _is_plain(last, wanted):
        return _read(path, _value_in_text(document, last), wanted)
    if wanted == "variant" or wanted.startswith("decimal"):
        return _walk(_AsVariant, sf.try_parse_json(document), "$", path, path.steps, wanted)
    return _walk(_AsText, document, "$", path, path.steps, wanted)


def _is_plain(step: Step, wanted: str) -> bool:
    """Tell whether one value of an attribute stands in the JSON as a text or a number."""
    if wanted in {"binary", "variant"} or wanted.startswith("decimal") or step.vr in {"PN", "SQ"}:
        return False
    return step.index is not None or not (step.multiple or step.every)


def _value_in_text(document: Column, step: Step) -> Column:
    """Find one value of an attribute in the text of DICOM JSON, as our decoder writes it.

    To parse all of a document takes five times as long. A tag in quotes is no part of a text, where
    quotes are escaped; but of items of a sequence that comes before, it may be. Documents for which
    that cannot be excluded are parsed, and those whose value has an escape.
    """
    # a pattern that begins with letters as they are is looked for much faster
    tag, index = f'"{step.json_tag}":', step.index or 0
    number, text = r"-?[0-9][-+.0-9eE]*+", r'"[^"\\]*+"'
    before = rf"(?:(?:null|{number}|{text}),){{{index}}}" if index else ""
    pattern = rf'{tag}\{{"vr":"..","Value":\[{before}({number}|{text})[,\]]'
    found = sf.regexp_extract(document, pattern, 1)
    in_items = document.rlike(rf'"vr":"SQ"[\s\S]*{tag}')
    parsed = sf.from_json(document, f"`{step.json_tag}` struct<Value:array<string>>")
    value = sf.get(parsed[step.json_tag]["Value"], sf.lit(index))
    if index > _FEW_VALUES:
        return value
    simple = (found != "") & ~in_items
    return sf.when(simple, sf.btrim(found, sf.lit('"'))).when(document.rlike(tag), value)


class _AsText:
    """Reads DICOM JSON in one pass and builds no tree; numbers beyond double precision are cut."""

    @staticmethod
    def value(document: Column, path: str) -> Column:
        return sf.get_json_object(document, path)

    @staticmethod
    def values(document: Column, path: str) -> Column:
        return sf.from_json(sf.get_json_object(document, path), "array<string>")

    items = values


class _AsVariant:
    """Reads DICOM JSON that was parsed: slower, and every digit of a number is there."""

    @staticmethod
    def value(document: Column, path: str) -> Column:
        return sf.try_variant_get(document, path, "string")

    @staticmethod
    def values(document: Column, path: str) -> Column:
        return sf.try_variant_get(document, path, "array<string>")

    @staticmethod
    def items(document: Column, path: str) -> Column:
        return sf.try_variant_get(document, path, "array<variant>")


_Reader = type[_AsText] | type[_AsVariant]


def _walk(
    reader: _Reader,
    document: Column,
    place: str,
    path: AttributePath,
    steps: tuple[Step, ...],
    wanted: str,
) -> Column:
    step, rest = steps[0], steps[1:]
    here = f"{place}['{step.json_tag}']"
    if not rest:
        return _leaf(reader, document, here, path, wanted)
    if not step.every:
        return _walk(reader, document, f"{here}.Value[{step.index or 0}]", path, rest, wanted)
    items = reader.items(document, f"{here}.Value")

    def inside(item: Column) -> Column:
        return _walk(reader, item, "$", path, rest, wanted)

    if not _is_list(rest, wanted):
        return sf.transform(items, inside)
    return sf.flatten(sf.transform(items, lambda item: sf.coalesce(inside(item), sf.array())))


def _is_list(steps: tuple[Step, ...], wanted: str) -> bool:
    if any(step.every for step in steps):
        return True
    last = steps[-1]
    return last.multiple and last.vr not in {"SQ", ""} and last.index is None and wanted != "binary"


def _leaf(reader: _Reader, document: Column, here: str, path: AttributePath, wanted: str) -> Column:
    last = path.last
    place = f"{here}.Value" if last.index is None else f"{here}.Value[{last.index}]"
    if wanted == "binary":
        return sf.try_to_binary(reader.value(document, f"{here}.InlineBinary"), sf.lit("base64"))
    if wanted == "variant":
        kind = "array<variant>" if last.every else "variant"
        return sf.try_variant_get(document, place, kind)
    if last.index is None and (last.multiple or last.every):
        values = sf.transform(
            reader.values(document, place), lambda text: _read(path, text, wanted)
        )
        if _is_list((last,), wanted):
            return values
        return sf.array_join(values, "\\")
    first = place if last.index is not None else f"{place}[0]"
    return _read(path, reader.value(document, first), wanted)


def _read(path: AttributePath, text: Column, wanted: str) -> Column:
    """Read the text of one JSON value as a type."""
    vr = path.last.vr
    if vr == "PN":
        names = sf.from_json(text, _NAME)
        groups = [names.getField(group) for group in NAME_GROUPS]
        joined = sf.concat_ws("=", *(sf.coalesce(group, sf.lit("")) for group in groups))
        whole = sf.when(names.isNotNull(), sf.regexp_replace(joined, "=+$", ""))
        text = _part_of_name(path, lambda group: groups[group], whole)
    if wanted == "string":
        return text
    if wanted == "date":
        return _as_date(text)
    if wanted == "bigint":  # an integer string may be written 4.0
        return sf.regexp_replace(text, r"\.0*$", "").try_cast("bigint")
    return text.try_cast(wanted)


def _as_date(text: Column) -> Column:
    return sf.try_to_timestamp(text, sf.lit("yyyyMMdd")).cast("date")


def _part_of_name(path: AttributePath, group_of: Callable[[int], Column], whole: Column) -> Column:
    if path.name_group is None:
        return whole
    group = group_of(path.name_group)
    if path.name_component is None:
        return sf.nullif(group, sf.lit(""))
    return sf.nullif(sf.get(sf.split(group, r"\^"), path.name_component), sf.lit(""))
