"""Headers as nested Parquet columns, typed, for tools that know no DICOM: DuckDB, pandas, Polars.

::

    dicom_json ──▶ pass 1: which attributes there are, which have several values ──▶ one schema
               ──▶ pass 2: rows of that schema, some thousand at a time          ──▶ OUT.parquet

A column is a keyword (of private tags, eight hex digits), a sequence a list of structs of the
attributes that some item has. Both passes hold one batch of rows; what a schema may be is bounded.
"""

import base64
import binascii
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pydicom.datadict import dictionary_VM, keyword_for_tag, tag_for_keyword

from pacspark.dicom.paths import find_tag, unknown_name
from pacspark.dicom.values import person_name
from pacspark.errors import QueryError, StorageError, UsageError
from pacspark.progress import SILENT, Progress
from pacspark.tables.catalog import Catalog
from pacspark.tables.sifting import files_with
from pacspark.tables.snapshot import Snapshot

MAX_COLUMNS: Final = 20_000
"""Of all depths; more is a mistake in the data, or an attack."""
MAX_DEPTH: Final = 16
"""Sequences deeper than this are columns of JSON."""
_INTEGERS: Final = frozenset({"IS", "US", "UL", "SS", "SL", "SV"})
_FLOATS: Final = frozenset({"DS", "FD", "FL"})
_BINARY: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


@dataclass(slots=True)
class _Node:
    """An attribute as it was met: its VRs, whether it had several values, what its items have."""

    vr: str
    multiple: bool
    items: dict[str, "_Node"] = field(default_factory=dict)


def write_headers(
    catalog: Catalog,
    path: str | Path,
    *,
    where: Mapping[str, str] | None = None,
    attributes: Iterable[str] | None = None,
    progress: Progress = SILENT,
) -> pa.Schema:
    """Write the headers of instances into one Parquet file, a row each.

    Parameters
    ----------
    catalog
        of the archive
    path
        of the file, which must not be there
    where
        columns of `instances` -> the value that they have to have; None for all instances
    attributes
        keywords or tags to write; None for all that there are, bulk data aside
    progress
        told of rows

    Returns
    -------
    pyarrow.Schema
        of the file

    Raises
    ------
    QueryError
        where an attribute is none
    UsageError
        where the file is there or in the archive, or there are more columns than `MAX_COLUMNS`
    StorageError
        where it cannot be written
    """
    target = Path(path)
    catalog.storage.require_outside(target, "a file")
    if target.exists():
        message = f"{target}: expected a file that is not there yet, found one"
        raise UsageError(message)
    wanted = None if attributes is None else [_tag(name) for name in attributes]
    snapshot = Snapshot(catalog.storage, "instances", catalog.as_of)
    schema = _Schema(wanted)
    with progress.stage("headers", None, "rows") as stage:
        for batch in _batches(snapshot, where):
            for document in batch["dicom_json"].to_pylist():
                schema.meet(json.loads(document))
        arrow = schema.arrow()
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with pq.ParquetWriter(part, arrow, compression="zstd") as writer:
                for batch in _batches(snapshot, where):
                    documents = [json.loads(text) for text in batch["dicom_json"].to_pylist()]
                    writer.write_table(pa.Table.from_pylist(schema.rows(documents), arrow))
                    stage.advance(batch.num_rows)
            part.replace(target)
        except OSError as error:
            message = f"{target}: cannot write: {error}"
            raise StorageError(message) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return arrow


def _batches(snapshot: Snapshot, where: Mapping[str, str] | None) -> Iterator[pa.RecordBatch]:
    condition = None
    for column, value in (where or {}).items():
        equal = ds.field(column) == value
        condition = equal if condition is None else condition & equal
    files = files_with(snapshot, {column: [value] for column, value in (where or {}).items()})
    return snapshot.batches(["dicom_json"], condition, files)


def _tag(name: str) -> str:
    tag = find_tag(name)
    if tag is None:
        raise QueryError(unknown_name(name))
    return f"{tag:08X}"


class _Schema:
    """The attributes that documents have, as columns."""

    def __init__(self, wanted: Sequence[str] | None) -> None:
        self._wanted = None if wanted is None else frozenset(wanted)
        self._nodes: dict[str, _Node] = {}
        self._columns = 0

    def meet(self, document: Mapping[str, Any]) -> None:
        """Take in what a document has."""
        if self._wanted is not None:
            document = {tag: document[tag] for tag in self._wanted & document.keys()}
        self._meet(document, self._nodes, 0)

    def _meet(self, document: Mapping[str, Any], nodes: dict[str, _Node], depth: int) -> None:
        for tag, element in document.items():
            values = element.get("Value", ())
            if not values and "InlineBinary" not in element:
                continue
            node = nodes.get(tag)
            if node is None:
                self._columns += 1
                if self._columns > MAX_COLUMNS:
                    message = (
                        f"headers: expected at most {MAX_COLUMNS} different attributes, found "
                        "more; name those that are wanted"
                    )
                    raise UsageError(message)
                node = nodes[tag] = _Node(element["vr"], _is_multiple(tag))
            elif node.vr != element["vr"]:
                node.vr = _common(node.vr, element["vr"])
            node.multiple |= len(values) > 1
            if node.vr == "SQ" and depth < MAX_DEPTH:
                for item in values:
                    self._meet(item or {}, node.items, depth + 1)

    def arrow(self) -> pa.Schema:
        """Give the schema of all that was met; wanted attributes that no document has are null."""
        for tag in sorted(self._wanted or ()):
            self._nodes.setdefault(tag, _Node("LO", multiple=False))
        if not self._nodes:
            message = "headers: expected instances to write, found none"
            raise UsageError(message)
        return pa.schema(_fields(self._nodes))

    def rows(self, documents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Give documents as rows of the schema."""
        return [_row(document, self._nodes) for document in documents]


def _is_multiple(tag: str) -> bool:
    try:
        return dictionary_VM(int(tag, 16)) != "1"
    except KeyError:
        return False


def _common(vr: str, other: str) -> str:
    """Give a VR whose type holds values of two: bytes and numbers of the same kind, else text."""
    for kind in (_INTEGERS, _BINARY):
        if {vr, other} <= kind:
            return vr
    return "FD" if {vr, other} <= _INTEGERS | _FLOATS else "UT"


def _name(tag: str) -> str:
    keyword = keyword_for_tag(int(tag, 16))
    # overlays of several groups share their keywords
    return keyword if keyword and tag_for_keyword(keyword) == int(tag, 16) else tag


def _fields(nodes: Mapping[str, _Node]) -> list[pa.Field]:
    return [
        pa.field(_name(tag), _type(nodes[tag]), metadata={"tag": tag, "vr": nodes[tag].vr})
        for tag in sorted(nodes)
    ]


def _type(node: _Node) -> pa.DataType:
    if node.vr == "SQ" and node.items:
        return pa.list_(pa.struct(_fields(node.items)))
    one = _scalar(node.vr)
    return pa.list_(one) if node.multiple and node.vr not in _BINARY else one


def _scalar(vr: str) -> pa.DataType:
    if vr in _INTEGERS:
        return pa.int64()
    if vr == "UV":
        return pa.uint64()
    if vr in _BINARY:
        return pa.binary()
    return pa.float64() if vr in _FLOATS else pa.string()


def _row(document: Mapping[str, Any], nodes: Mapping[str, _Node]) -> dict[str, Any]:
    return {
        _name(tag): _value(document[tag], node) for tag, node in nodes.items() if tag in document
    }


def _value(element: Mapping[str, Any], node: _Node) -> Any:
    if node.vr in _BINARY:
        return _bytes(element.get("InlineBinary"))
    values = element.get("Value", ())
    if node.vr == "SQ" and node.items:
        return [_row(item or {}, node.items) for item in values]
    read = _reader(node.vr)
    if node.multiple:
        return [read(value) for value in values] if values else None
    return read(values[0]) if values else None


def _reader(vr: str) -> Callable[[Any], Any]:
    if vr in _INTEGERS:
        return lambda value: _number(value, int, -(1 << 63), (1 << 63) - 1)
    if vr == "UV":
        return lambda value: _number(value, int, 0, (1 << 64) - 1)
    return _float if vr in _FLOATS else _text


def _number(value: Any, kind: Callable[[Any], Any], low: int, high: int) -> Any:
    """Give a number; null for what is none, or is beyond the type."""
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == value and low <= number <= high else None


def _float(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        is_name = value.keys() <= {"Alphabetic", "Ideographic", "Phonetic"}
        return person_name(value) if is_name else json.dumps(value)
    return None if value is None else str(value)


def _bytes(text: Any) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None
