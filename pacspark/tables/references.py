"""Which pieces of `objects` rows refer to. Memory is one byte for each piece, whatever the rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pacspark.tables.datafile import open_data_file
from pacspark.tables.schema import INSTANCES, REJECTS
from pacspark.tables.snapshot import ActiveFile
from pacspark.tables.storage import Storage

ROW_TABLES: Final = (INSTANCES.name, REJECTS.name)
"""The tables whose rows refer to objects."""
NOTE_TABLES: Final = ("runs", "audit", "holds")
"""The tables of what was done and what is kept, which refer to none."""
PLACE: Final = ("object_file", "object_row_group", "object_pieces")
_BATCH_ROWS: Final = 1 << 16


@dataclass(slots=True)
class Pieces:
    """Pieces of data files of `objects`: for each file, which of its row groups are meant."""

    marks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __contains__(self, file: object) -> bool:
        return file in self.marks

    def count(self, file: str) -> int:
        """Count the pieces of a file."""
        return int(self.marks[file].sum()) if file in self.marks else 0

    def add_rows(self, storage: Storage, table: str, files: Iterable[ActiveFile]) -> None:
        """Add what the rows of some files of a table refer to."""
        for file in files:
            with open_data_file(storage, table, file.path) as reader:
                for batch in reader.iter_batches(_BATCH_ROWS, columns=list(PLACE)):
                    self.add(batch)

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add what some rows refer to."""
        kept = pa.table([rows[name] for name in PLACE], PLACE)
        kept = kept.filter(pc.is_valid(kept["object_file"]))
        if not kept.num_rows:
            return
        names = kept["object_file"].combine_chunks().dictionary_encode()
        codes = names.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(names.dictionary) + 1))
        groups = kept["object_row_group"].to_numpy()[order].astype(np.int64)
        pieces = kept["object_pieces"].to_numpy()[order].astype(np.int64)
        for number, name in enumerate(names.dictionary.to_pylist()):
            part = slice(starts[number], starts[number + 1])
            self._mark(name, groups[part], pieces[part])

    def _mark(self, name: str, groups: NDArray[np.int64], pieces: NDArray[np.int64]) -> None:
        marks = self.marks.get(name)
        size = int((groups + pieces).max())
        if marks is None or len(marks) < size:
            grown = np.zeros(max(size, 0 if marks is None else 2 * len(marks)), np.bool_)
            if marks is not None:
                grown[: len(marks)] = marks
            marks = self.marks[name] = grown
        marks[groups] = True
        for group, count in zip(groups[pieces > 1], pieces[pieces > 1], strict=True):
            marks[group : group + count] = True


def refers_to(objects: Sequence[str]) -> ds.Expression:
    """Give the filter of the rows that refer to some files of `objects`."""
    return ds.field("object_file").isin(pa.array(objects, pa.string()))


def uids_in(
    storage: Storage,
    table: str,
    column: str,
    files: Iterable[ActiveFile],
    among: Iterable[str] | None = None,
) -> set[str]:
    """Give the UIDs, all or those among some, that rows of some files of a table have."""
    wanted = None if among is None else pa.array(sorted(among), pa.string())
    found: set[str] = set()
    for file in files:
        with open_data_file(storage, table, file.path) as reader:
            for batch in reader.iter_batches(_BATCH_ROWS, columns=[column]):
                uids = pc.unique(batch[column].drop_null())
                kept = uids if wanted is None else uids.filter(pc.is_in(uids, wanted))
                found.update(kept.to_pylist())
    return found
