"""Repeating in a replica what its source has deleted."""

import pyarrow as pa
import pyarrow.compute as pc

from pacspark.tables.audit import record
from pacspark.tables.catalog import Catalog
from pacspark.tables.holds import require_free
from pacspark.tables.inventory import Listing
from pacspark.tables.lookup import find_rows
from pacspark.tables.rewriting import rewrite
from pacspark.tables.schema import HOLDS, INSTANCES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import replace_files

_UID = "sop_instance_uid"
_COLUMNS = (_UID, "run_id", "study_instance_uid")


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
        where one of them belongs to a study that the replica has on legal hold
    CommitConflictError
        where another writer replaced a file meanwhile: the next replication removes the rest
    """
    runs = pa.array(_runs_of(source), pa.string())
    snapshot = Snapshot(target, INSTANCES.name)
    holds = Snapshot(target, HOLDS.name)
    removed = 0
    for file in snapshot.files():
        gone: list[str] = []
        for batch in snapshot.batches(_COLUMNS, None, [file]):
            theirs = batch.filter(pc.is_in(batch["run_id"], runs))
            lost = _lost(source, theirs[_UID].to_pylist())
            studies = theirs.filter(pc.is_in(theirs[_UID], pa.array(lost, pa.string())))
            require_free(holds, set(studies["study_instance_uid"].to_pylist()))
            gone += lost
        if gone:
            _remove(target, file, gone, run_id)
            detail = {"instances": len(gone), "source": source.storage.root}
            record(target, "mirror", "instance", gone[0], "done", detail, run_id)
            removed += len(gone)
    return removed


def _runs_of(source: Listing) -> set[str]:
    runs = set(source.snapshots["runs"].read(["run_id"])["run_id"].to_pylist())
    commits = Catalog(source.storage).versions(INSTANCES.name)["run_id"].to_pylist()
    return runs | {run for run in commits if run}


def _lost(source: Listing, uids: list[str]) -> list[str]:
    if not uids:
        return []
    files = source.snapshots[INSTANCES.name].files({_UID: uids})
    known = set(find_rows(source.storage, files, uids, [_UID])[_UID].to_pylist())
    return [uid for uid in uids if uid not in known]


def _remove(target: Storage, file: ActiveFile, gone: list[str], run_id: str) -> None:
    wanted = pa.array(gone, pa.string())
    rest = rewrite(
        target,
        INSTANCES,
        file,
        lambda rows: rows.filter(pc.invert(pc.is_in(rows[_UID], wanted))),
    )
    added = [] if rest is None else [rest]
    replace_files(target, INSTANCES.name, [file], added, run_id=run_id, operation="mirror")
