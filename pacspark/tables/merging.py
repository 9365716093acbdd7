"""Small data files become large ones: what goes together, and the bodies of the tasks.

What a task holds is bounded: rows by their decoded size, objects by one piece and the rows that
refer to them.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO, Final, TypeVar, cast

import pyarrow as pa

from pacspark.errors import StorageError
from pacspark.tables.datafile import (
    PIECE_BYTES,
    AddedFile,
    DataFile,
    ObjectFile,
    open_data_file,
)
from pacspark.tables.rewriting import row_groups
from pacspark.tables.rowfiles import CLUSTERING
from pacspark.tables.schema import OBJECTS, TABLES
from pacspark.tables.snapshot import ActiveFile
from pacspark.tables.storage import Storage

MERGED_BYTES: Final = 128 << 20
"""Rows that are merged at once, decoded."""
MERGED_ROWS: Final = 1 << 16
MERGED_OBJECT_BYTES: Final = 512 << 20
MERGED_PIECES: Final = 1 << 15
FEWEST_FILES: Final = 4
"""Fewer small files are left alone: each merge is a commit, and writes all their rows again."""
ORDER: Final[Mapping[str, Sequence[tuple[str, str]]]] = MappingProxyType(
    {
        "instances": CLUSTERING,
        "runs": (("started_at", "ascending"),),
        "rejects": (("received_at", "ascending"),),
        "audit": (("occurred_at", "ascending"),),
        "holds": (("occurred_at", "ascending"),),
    }
)
"""The tables whose small files are merged, and how their rows are ordered then."""
_OPEN_FILES: Final = 32

T = TypeVar("T")


def group_up(items: Iterable[tuple[T, float]], fewest: int = FEWEST_FILES) -> list[list[T]]:
    """Group neighbours of small weight, so that no group weighs more than 1.

    All groups but the last weigh more than a half, so that what comes of them is not small again;
    those of fewer than `fewest` are left out.

    Parameters
    ----------
    items
        things and their weights; those of a half and more stand for themselves

    Examples
    --------
    >>> group_up([("a", 0.4), ("b", 0.4), ("c", 0.3), ("d", 0.9), ("e", 0.2)], fewest=2)
    [['a', 'b'], ['c', 'e']]
    """
    groups: list[list[T]] = [[]]
    held = 0.0
    for item, weight in items:
        if weight >= 0.5:
            continue
        if held + weight > 1:
            groups.append([])
            held = 0.0
        groups[-1].append(item)
        held += weight
    return [group for group in groups if len(group) >= fewest]


def decoded_weight(storage: Storage, table: str, file: ActiveFile) -> float:
    """Give the share of :data:`MERGED_BYTES` or of :data:`MERGED_ROWS` that a file has."""
    if file.size_bytes >= MERGED_BYTES // 2:
        return 1.0
    with open_data_file(storage, table, file.path) as reader:
        footer = reader.metadata
    size: int = sum(footer.row_group(n).total_byte_size for n in range(footer.num_row_groups))
    return max(size / MERGED_BYTES, int(footer.num_rows) / MERGED_ROWS)


@dataclass(frozen=True, slots=True)
class RowMerge:
    """Files of one table that become one."""

    storage: Storage
    table: str
    files: tuple[ActiveFile, ...]


def merge_rows(task: RowMerge) -> AddedFile | str:
    """Write the rows of some files into one, ordered; durable but not yet visible.

    Returns
    -------
    AddedFile or str
        or the reason why it cannot be
    """
    spec = TABLES[task.table]
    try:
        rows = pa.concat_tables(
            part for file in task.files for part in row_groups(task.storage, spec, file)
        )
        with DataFile(task.storage, spec) as writer:
            writer.append(rows.sort_by(list(ORDER[task.table])))
            return writer.close()
    except StorageError as error:
        return str(error)


@dataclass(frozen=True, slots=True)
class ObjectMerge:
    """Objects that go from some files into one: `rows` say where they are, in their new order."""

    storage: Storage
    files: tuple[ActiveFile, ...]
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class MergedObjects:
    """Where objects are now.

    Attributes
    ----------
    files
        those that became one
    added
        it; None where nothing of them is left
    moves
        old file and row group -> new file, row group, offsets
    """

    files: tuple[ActiveFile, ...]
    added: AddedFile | None
    moves: Mapping[tuple[str, int], tuple[str, int, list[int]]]


def merge_objects(task: ObjectMerge) -> MergedObjects | str:
    """Copy objects into one new file, each checked by its digest; durable but not yet visible.

    Returns
    -------
    MergedObjects or str
        or the reason why it cannot be: bytes that are damaged stay where they are
    """
    moves: dict[tuple[str, int], tuple[str, int, list[int]]] = {}
    try:
        with ObjectFile(task.storage) as writer, _Sources(task.storage) as sources:
            for row in _rows(task.rows):
                key = row["object_file"], row["object_row_group"]
                if key in moves:
                    continue
                place = writer.append(cast(BinaryIO, _Object(sources, row)), sha256=row["sha256"])
                moves[key] = place.object_file, place.object_row_group, [*place.object_offsets]
            if moves:
                return MergedObjects(task.files, writer.close(), moves)
            writer.abort()
    except StorageError as error:
        return str(error)
    return MergedObjects(task.files, None, moves)


def _rows(rows: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(1024):
        yield from batch.to_pylist()


class _Sources(ExitStack):
    """Files of `objects`, of which the last that were read stay open."""

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self._storage = storage
        self._open: OrderedDict[str, Any] = OrderedDict()
        self.callback(self._close_all)

    def read(self, file: str, start: int, length: int) -> bytes:
        """Read a range of a file."""
        with self._storage.errors(f"read {OBJECTS.name}/{file}"):
            if file not in self._open:
                if len(self._open) >= _OPEN_FILES:
                    self._open.popitem(last=False)[1].close()
                path = self._storage.path(OBJECTS.name, file)
                self._open[file] = self._storage.filesystem.open_input_file(path)
            self._open.move_to_end(file)
            data: bytes = self._open[file].read_at(length, start)
        return data

    def _close_all(self) -> None:
        for stream in self._open.values():
            stream.close()


class _Object:
    """One object as a stream of its pieces, each read when it is asked for."""

    def __init__(self, sources: _Sources, row: Mapping[str, Any]) -> None:
        self._sources, self._row = sources, row
        self._position = 0

    def tell(self) -> int:
        """Give the number of bytes that were read."""
        return self._position

    def read(self, size: int) -> bytes:
        """Read on, at most to the end of a piece."""
        number, within = divmod(self._position, PIECE_BYTES)
        length = min(size, PIECE_BYTES - within, self._row["size_bytes"] - self._position)
        if not length:
            return b""
        start = self._row["object_offsets"][number] + within
        data = self._sources.read(self._row["object_file"], start, length)
        self._position += len(data)
        return data
