"""Repair of rows: data files of a table that cannot be read, from the rows of a replica.

The log of the archive says how many rows a file had and between which values they lay. Those of the
replica's rows that lie there, and that no other file of the archive has, are the lost ones if there
are as many; if there are not, nothing is changed. Of several lost files of a table it cannot be
told which row was in which: they are mended together. Data files of `objects` that the rows refer
to and the archive lacks are brought over before the rows take the files' place in one commit.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.spark.replicate import bring
from pacspark.tables.audit import record
from pacspark.tables.compaction import Run
from pacspark.tables.datafile import DataFile
from pacspark.tables.findings import Finding
from pacspark.tables.inventory import Listing
from pacspark.tables.references import NOTE_TABLES, ROW_TABLES
from pacspark.tables.replica import Moves, moved
from pacspark.tables.rowfiles import CLUSTERING
from pacspark.tables.schema import INSTANCES, TABLES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files, replace_files

MENDABLE: Final = frozenset({"file", "unreadable"})
_REPLICATED: Final = (*ROW_TABLES, *NOTE_TABLES)
_OPERATION: Final = "repair"


def is_of_rows(finding: Finding) -> bool:
    """Tell whether a finding is one that `mend_rows` can mend."""
    return finding.kind in MENDABLE and finding.table in _REPLICATED


def mend_rows(
    run: Run, storage: Storage, other: Listing, run_id: str, table: str, names: Sequence[str]
) -> str:
    """Let the replica's rows take the place of the files of a table that cannot be read.

    Parameters
    ----------
    run
        runs tasks
    storage, other
        the archive and its replica
    run_id
        of the repair
    table, names
        the files

    Returns
    -------
    str
        empty, or why they are left as they are
    """
    snapshot = Snapshot(storage, table)
    lost = [file for file in snapshot.files() if file.path in names]
    if not lost:
        return ""  # other files took their place meanwhile
    rows = _lost_rows(snapshot, lost, other.snapshots[table])
    records = snapshot.records()
    expected = sum(records[file.path] or 0 for file in lost)
    if rows.num_rows != expected:
        return f"the replica has {rows.num_rows} rows for the {expected} that are lost"
    origin: dict[str, Any] = {"run_id": run_id, "operation": _OPERATION}
    if table in ROW_TABLES:
        # files that the archive lists are mended where they lie, as all that rows refer to is
        listed = pa.array([file.path for file in Snapshot(storage, "objects").files()], pa.string())
        elsewhere = rows.filter(pc.invert(pc.is_in(rows["object_file"], listed)))
        brought = bring(run, other, storage, run_id, table, elsewhere)
        worse = [one.line for each in brought for one in each.findings]
        if worse:
            return f"the replica is no better: {worse[0]}"
        moves: dict[str, Moves] = {one.file: one.moves for one in brought if one.moves is not None}
        rows = moved(rows, moves)
        added = [one.added for one in brought if one.added is not None]
        if added:
            commit_files(storage, "objects", added, **origin)
    with DataFile(storage, snapshot.spec) as writer:
        writer.append(rows.sort_by(list(CLUSTERING)) if table == INSTANCES.name else rows)
    replace_files(storage, table, lost, [writer.close()], data_change=False, **origin)
    detail = {"table": table, "files": len(lost), "how": "rows", "rows": rows.num_rows}
    record(storage, _OPERATION, "", "", "done", detail | {"from": other.storage.root}, run_id)
    return ""


def _lost_rows(snapshot: Snapshot, lost: Sequence[ActiveFile], replica: Snapshot) -> pa.Table:
    others = [file for file in snapshot.files() if file not in lost]
    within = reduce(operator.or_, (_within(snapshot.bounds(file)) for file in lost))
    key = list(TABLES[snapshot.spec.name].key)
    kept = snapshot.read(key, within, others)
    found = replica.read(snapshot.spec.arrow_schema.names, within)
    return found.filter(pc.invert(pc.is_in(_identities(found, key), _identities(kept, key))))


def _within(bounds: dict[str, tuple[Any, Any]]) -> ds.Expression:
    where = ds.scalar(True)
    for name, (low, high) in bounds.items():
        column = ds.field(name)
        where &= column.is_null() | ((column >= low) & (column <= high))
    return where


def _identities(rows: pa.Table, key: Sequence[str]) -> pa.ChunkedArray:
    texts = [pc.coalesce(pc.cast(rows[name], pa.string()), "") for name in key]
    return pc.binary_join_element_wise(*texts, "\x00")
