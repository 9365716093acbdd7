"""Repeating in a replica what its source has deleted."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pacspark.tables.audit import record
from pacspark.tables.catalog import Catalog
from pacspark.tables.inventory import Listing
from pacspark.tables.lookup import find_rows
from pacspark.tables.removal import REMOVED_COLUMNS, Removal
from pacspark.tables.schema import INSTANCES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

_UID = "sop_instance_uid"


def remove_gone(source: Listing, target: Storage, run_id: str) -> int:
    """Remove from a replica the rows that its source has no more.

    A row came from the source where the source knows its run; others are the replica's own.

    Parameters
    ----------
    source
        one version of the source
    target
        the replica
    run_id
        of the replication

    Returns
    -------
    int
        how many rows went

    Raises
    ------
    HeldError
        where one of them belongs to a study that the replica has on legal hold: none goes then
    CommitConflictError
        where other writers won every attempt
    """
    runs = pa.array(_runs_of(source), pa.string())
    removal = Removal(target, Snapshot.files, lambda now, files: _gone(source, runs, now, files))
    removal.commit(run_id, "mirror")
    gone = removal.rows
    if gone.num_rows:
        detail = {"instances": gone.num_rows, "source": source.storage.root}
        record(target, "mirror", "instance", gone[_UID][0].as_py(), "done", detail, run_id)
    return int(gone.num_rows)


def _runs_of(source: Listing) -> set[str]:
    runs = set(source.snapshots["runs"].read(["run_id"])["run_id"].to_pylist())
    commits = Catalog(source.storage).versions(INSTANCES.name)["run_id"].to_pylist()
    return runs | {run for run in commits if run}


def _gone(
    source: Listing, runs: pa.Array, now: Snapshot, files: Sequence[ActiveFile]
) -> Iterator[tuple[ActiveFile, pa.Table]]:
    for file in files:
        found = []
        for batch in now.batches([*REMOVED_COLUMNS, "run_id"], None, [file]):
            theirs = batch.filter(pc.is_in(batch["run_id"], runs))
            if theirs.num_rows:
                found.append(_unknown(source, theirs.select(REMOVED_COLUMNS)))
        if found:
            yield file, pa.Table.from_batches(found)


def _unknown(source: Listing, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Give the rows that the source does not have."""
    uids = rows[_UID].to_pylist()
    files = source.snapshots[INSTANCES.name].files({_UID: uids})
    known = find_rows(source.storage, files, uids, [_UID])[_UID].combine_chunks()
    return rows.filter(pc.invert(pc.is_in(rows[_UID], known)))
