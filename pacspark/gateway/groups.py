"""What the query index holds: instances in groups of one file and one set of attributes.

::

    group: one data file, or the landing  x  one set of patient, study and series attributes
           └── instances: UID, class, transfer syntax, number, size, digest; the rest is fetched

A series of one scanner is one group in each data file that has some of it, so a million instances
are some ten thousand groups, and a query looks at those.
"""

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pacspark.dicom.attributes import PROMOTED, Attribute
from pacspark.dicom.decode import InstanceIndex
from pacspark.tables.landing import Landed
from pacspark.tables.snapshot import ActiveFile, Snapshot

GROUP_ATTRIBUTES: Final[tuple[Attribute, ...]] = tuple(
    attribute for attribute in PROMOTED if attribute.level != "instance"
)
"""The attributes that all instances of a group share."""
PLACE: Final[Mapping[str, int]] = {a.column: i for i, a in enumerate(GROUP_ATTRIBUTES)}
"""Where the value of a column is in :attr:`Group.values`."""
_UID: Final = "sop_instance_uid"
HELD_COLUMNS: Final = (
    _UID,
    "sop_class_uid",
    "transfer_syntax_uid",
    "instance_number",
    "rows",
    "columns",
    "number_of_frames",
    "size_bytes",
    "sha256",
)
"""The columns of each instance that are in memory."""
_ORDER: Final = pa.schema({"instance_number": pa.int64(), _UID: pa.string()})
_REPEATED: Final = ("sop_class_uid", "transfer_syntax_uid")
_LISTS: Final = {a.column: a.kind == "string" for a in GROUP_ATTRIBUTES if a.multiple}
_LOADED_BYTES: Final = 64 << 20
"""Data files are read together up to this size; what that takes in memory is let go again."""
_SEPARATOR: Final = "\\"
"""What separates values in DICOM, so that no value of several has it."""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance that can be found and read.

    Attributes
    ----------
    sop_instance_uid ... sha256
        as in the table `instances`
    file
        the data file of `instances` that has its row; None while it is in the landing
    landed
        its place in the landing; None once the tables have it
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    rows: int | None
    columns: int | None
    number_of_frames: int | None
    size_bytes: int
    sha256: str
    study_instance_uid: str
    series_instance_uid: str
    file: ActiveFile | None = None
    landed: Landed | None = None

    def held(self, column: str) -> Any:
        """Give the value of one of :data:`HELD_COLUMNS`."""
        return getattr(self, column)


class _Row(Mapping[str, Any]):
    """Values of a group by column, without a dictionary for each group."""

    __slots__ = ("_values",)

    def __init__(self, values: tuple[Any, ...]) -> None:
        self._values = values

    def __getitem__(self, column: str) -> Any:
        return self._values[PLACE[column]]

    def __iter__(self) -> Iterator[str]:
        return iter(PLACE)

    def __len__(self) -> int:
        return len(PLACE)


class Group:
    """Instances of one data file, or of the landing, that share all attributes above their level.

    Attributes
    ----------
    number
        of this group, never used again
    values
        of :data:`GROUP_ATTRIBUTES`, in their order; several values are a tuple
    file
        None for the landing
    """

    __slots__ = ("_numbers", "_rows", "_table", "file", "number", "sop_class_uids", "values")

    def __init__(
        self,
        number: int,
        values: tuple[Any, ...],
        file: ActiveFile | None,
        table: pa.Table | None = None,
        numbers: NDArray[np.int32] | None = None,
        sop_class_uids: frozenset[str] = frozenset(),
    ) -> None:
        self.number, self.values, self.file = number, values, file
        self._table, self._numbers = table, numbers
        self._rows: dict[str, StoredInstance] = {}
        self.sop_class_uids = sop_class_uids

    def __getitem__(self, column: str) -> Any:
        return self.values[PLACE[column]]

    @property
    def row(self) -> Mapping[str, Any]:
        """The values by column, for conditions."""
        return _Row(self.values)

    def __len__(self) -> int:
        return len(self._rows) if self._numbers is None else len(self._numbers)

    def uids(self) -> list[str]:
        """Give the SOP Instance UIDs, in the order of :meth:`instance`."""
        if self._table is None:
            return list(self._rows)
        uids: list[str] = self._table[_UID].take(self._numbers).to_pylist()
        return uids

    def least_uid(self) -> str:
        """Give the smallest SOP Instance UID."""
        if self._table is None:
            return min(list(self._rows), default="")
        least: str = pc.min(self._table[_UID].take(self._numbers)).as_py()
        return least

    def instance(self, place: int, uid: str) -> StoredInstance | None:
        """Give one instance: by its place in a data file, by its UID in the landing."""
        if self._table is None or self._numbers is None:
            return self._rows.get(uid)
        return next(self._made(self._table.slice(int(self._numbers[place]), 1)))

    def numbers_and_uids(self) -> pa.Table:
        """Give what instances of a series are ordered by, in the order of :meth:`instance`."""
        if self._table is None:
            rows = [(one.instance_number, one.sop_instance_uid) for one in self.instances()]
            columns = zip(*rows, strict=True) if rows else ((), ())
            return pa.table(dict(zip(_ORDER.names, columns, strict=True)), schema=_ORDER)
        return self._table.select(_ORDER.names).take(self._numbers).cast(_ORDER)

    def instances(self, places: NDArray[np.int64] | None = None) -> list[StoredInstance]:
        """Give all instances, or those at some places of :meth:`numbers_and_uids`."""
        if self._table is None or self._numbers is None:
            held = list(self._rows.values())
            return held if places is None else [held[place] for place in places]
        numbers = self._numbers if places is None else self._numbers[places]
        return list(self._made(self._table.take(numbers)))

    def _made(self, rows: pa.Table) -> Iterator[StoredInstance]:
        study, series = self["study_instance_uid"], self["series_instance_uid"]
        columns = [rows[name].to_pylist() for name in HELD_COLUMNS]
        for held in zip(*columns, strict=True):
            yield StoredInstance(*held, study, series, self.file)  # type: ignore[call-arg]

    # the landing's

    def add(self, instance: StoredInstance) -> None:
        """Add an instance that has landed."""
        self._rows[instance.sop_instance_uid] = instance
        self.sop_class_uids |= {instance.sop_class_uid}

    def without(self, uids: Container[str]) -> "Group":
        """Give the same group of the landing, with its number, but for some instances."""
        rest = Group(self.number, self.values, None)
        for uid, instance in list(self._rows.items()):
            if uid not in uids:
                rest.add(instance)
        return rest


def landed_instance(landed: Landed, index: InstanceIndex) -> StoredInstance:
    """Make the instance of an object that has landed."""
    row = {**index.row, "size_bytes": landed.size_bytes, "sha256": landed.sha256}
    held: list[Any] = [row[name] for name in HELD_COLUMNS]
    study, series = str(row["study_instance_uid"]), str(row["series_instance_uid"])
    return StoredInstance(*held, study, series, None, landed)  # type: ignore[call-arg]


def group_values(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Give the values of a group from a row of `instances`."""
    values = ((attribute.multiple, row[attribute.column]) for attribute in GROUP_ATTRIBUTES)
    return tuple(
        tuple(part or "" for part in value) if multiple and value is not None else value
        for multiple, value in values
    )


def read_groups(
    snapshot: Snapshot, files: Sequence[ActiveFile], numbers: Callable[[], int]
) -> Iterator[Group]:
    """Read the groups of some data files of `instances`; a bounded part of them at a time.

    Parameters
    ----------
    snapshot
        of `instances`
    files
        active in it
    numbers
        gives the number of the next group
    """
    batch: list[ActiveFile] = []
    for file in files:
        if batch and sum(one.size_bytes for one in batch) + file.size_bytes > _LOADED_BYTES:
            yield from _read_batch(snapshot, batch, numbers)
            batch = []
        batch.append(file)
    if batch:
        yield from _read_batch(snapshot, batch, numbers)


def _read_batch(
    snapshot: Snapshot, files: Sequence[ActiveFile], numbers: Callable[[], int]
) -> Iterator[Group]:
    names = list(dict.fromkeys([*PLACE, *HELD_COLUMNS]))
    rows = snapshot.read([*names, "__fragment_index"], None, files)
    held = rows.select(HELD_COLUMNS).combine_chunks()
    for name in _REPEATED:
        place = held.column_names.index(name)
        held = held.set_column(place, name, held[name].dictionary_encode())
    keys = rows.select([*PLACE, "__fragment_index"])
    for name in _LISTS:
        place = keys.column_names.index(name)
        keys = keys.set_column(place, name, _joined(keys[name]))
    keys = keys.append_column("_number", pa.array(np.arange(rows.num_rows, dtype=np.int32)))
    keys = keys.append_column("_class", rows["sop_class_uid"])
    grouped = keys.group_by([*PLACE, "__fragment_index"], use_threads=False).aggregate(
        [("_number", "list"), ("_class", "distinct")]
    )
    values = [
        [_parted(text, is_text=_LISTS[name]) for text in grouped[name].to_pylist()]
        if name in _LISTS
        else grouped[name].to_pylist()
        for name in PLACE
    ]
    shared: dict[Any, Any] = {}
    members = grouped["_number_list"].combine_chunks()
    offsets = members.offsets.to_numpy()
    flat = members.flatten().to_numpy().astype(np.int32)
    classes = grouped["_class_distinct"].to_pylist()
    for place, fragment in enumerate(grouped["__fragment_index"].to_pylist()):
        own = tuple(_shared(shared, column[place]) for column in values)
        group_classes = frozenset(classes[place])
        yield Group(
            numbers(),
            shared.setdefault(own, own),
            files[fragment],
            held,
            flat[offsets[place] : offsets[place + 1]].copy(),
            shared.setdefault(group_classes, group_classes),
        )


def _shared(known: dict[Any, Any], value: Any) -> Any:
    return known.setdefault(value, value) if isinstance(value, str | tuple) else value


def _joined(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write several values as one text, since lists cannot be grouped by; texts as DICOM does."""
    is_text = pa.types.is_string(column.type.value_type)
    write: Callable[[list[Any]], str] = _separated if is_text else json.dumps
    chunks = [
        pc.binary_join(chunk, _SEPARATOR)
        if is_text and not chunk.flatten().null_count
        else pa.array(
            [None if values is None else write(values) for values in chunk.to_pylist()],
            pa.string(),
        )
        for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, pa.string())


def _separated(texts: Sequence[str | None]) -> str:
    return _SEPARATOR.join(text or "" for text in texts)


def _parted(text: str | None, *, is_text: bool) -> tuple[Any, ...] | None:
    if text is None:
        return None
    return tuple(text.split(_SEPARATOR)) if is_text else tuple(json.loads(text))
