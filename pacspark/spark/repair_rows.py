"""Repair of rows: a data file of a small table that cannot be read, from the rows of a replica.

The log of the archive says how many rows the file had and between which values they lay. Those of
the replica's rows that lie there, and that no other file of the archive has, are the lost ones if
there are as many; if there are not, nothing is changed. Data files that they refer to and the
archive lacks are brought over before they take the file's place in one commit.
"""

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.spark.replicate import bring
from pacspark.spark.verify import Run
from pacspark.tables.audit import record
from pacspark.tables.datafile import DataFile
from pacspark.tables.findings import Finding
from pacspark.tables.inventory import ROW_TABLES, Listing
from pacspark.tables.replica import Moves, moved
from pacspark.tables.rowfiles import CLUSTERING
from pacspark.tables.schema import INSTANCES, TABLES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files, replace_files

MENDABLE: Final = frozenset({"file", "unreadable"})
_REPLICATED: Final = (*ROW_TABLES, "runs", "audit", "holds")
_OPERATION: Final = "repair"


def is_of_rows(finding: Finding) -> bool:
    """Tell whether a finding is one that `mend_rows` can mend."""
    return finding.kind in MENDABLE and finding.table in _REPLICATED


def mend_rows(run: Run, storage: Storage, other: Listing, run_id: str, finding: Finding) -> str:
    """Let the replica's rows take the place of a file that cannot be read.

    Parameters
    ----------
    run
        runs tasks
    storage, other
        the archive and its replica
    run_id
        of the repair
    finding
        what `verify` said of the file

    Returns
    -------
    str
        empty, or why the file is left as it is
    """
    table = finding.table
    snapshot = Snapshot(storage, table)
    files = {file.path: file for file in snapshot.files()}
    if finding.file not in files:
        return ""  # another file took its place meanwhile
    file = files.pop(finding.file)
    rows = _lost_rows(snapshot, file, list(files.values()), other.snapshots[table])
    expected = snapshot.records()[file.path]
    if rows.num_rows != expected:
        return f"{finding.line}; the replica has {rows.num_rows} rows for the {expected} of it"
    origin: dict[str, Any] = {"run_id": run_id, "operation": _OPERATION}
    if table in ROW_TABLES:
        # files that the archive lists are mended where they lie, as all that rows refer to is
        listed = pa.array([file.path for file in Snapshot(storage, "objects").files()], pa.string())
        elsewhere = rows.filter(pc.invert(pc.is_in(rows["object_file"], listed)))
        brought = bring(run, other, storage, run_id, table, elsewhere)
        lost = [one.line for each in brought for one in each.findings]
        if lost:
            return f"{finding.line}; the replica is no better: {lost[0]}"
        moves: dict[str, Moves] = {one.file: one.moves for one in brought if one.moves is not None}
        rows = moved(rows, moves)
        added = [one.added for one in brought if one.added is not None]
        if added:
            commit_files(storage, "objects", added, **origin)
    with DataFile(storage, snapshot.spec) as writer:
        writer.append(rows.sort_by(list(CLUSTERING)) if table == INSTANCES.name else rows)
    replace_files(storage, table, [file], [writer.close()], data_change=False, **origin)
    detail = {"table": table, "file": file.path, "how": "rows", "rows": rows.num_rows}
    record(storage, _OPERATION, "", "", "done", detail | {"from": other.storage.root}, run_id)
    return ""


def _lost_rows(
    snapshot: Snapshot, file: ActiveFile, others: Sequence[ActiveFile], replica: Snapshot
) -> pa.Table:
    within = _within(snapshot.bounds(file))
    key = list(TABLES[snapshot.spec.name].key)
    kept = snapshot.read(key, within, others)
    found = replica.read(snapshot.spec.arrow_schema.names, within)
    return found.filter(pc.invert(pc.is_in(_identities(found, key), _identities(kept, key))))


def _within(bounds: dict[str, tuple[Any, Any]]) -> ds.Expression | None:
    where: ds.Expression | None = None
    for name, (low, high) in bounds.items():
        column = ds.field(name)
        lies = column.is_null() | ((column >= low) & (column <= high))
        where = lies if where is None else where & lies
    return where


def _identities(rows: pa.Table, key: Sequence[str]) -> pa.ChunkedArray:
    texts = [pc.coalesce(pc.cast(rows[name], pa.string()), "") for name in key]
    return pc.binary_join_element_wise(*texts, "\x00")
