"""An incremental copy of an archive in another root: tasks copy and check, the driver commits.

Rows of `instances` and `rejects` are brought batch by batch: the data files that they refer to
first, then the rows, through the commits of an ingest. So each batch is exactly once, a killed
replication goes on with what is missing, and a replica may have objects of its own. What was taken
over up to which versions of the source stands in the replica's `runs`.
"""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.errors import PacsparkError, UsageError
from pacspark.progress import SILENT, Progress
from pacspark.spark.verify import runs_of
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import Run
from pacspark.tables.creating import create_tables
from pacspark.tables.datafile import AddedFile
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import LISTED, FileToCheck
from pacspark.tables.holds import without_foreign_releases
from pacspark.tables.intake import conflict_row
from pacspark.tables.inventory import Listing, files_to_check, listed_rows
from pacspark.tables.mirror import remove_gone
from pacspark.tables.references import NOTE_TABLES
from pacspark.tables.replica import Brought, Moves, bring_file, moved
from pacspark.tables.runs import recorded_run
from pacspark.tables.schema import HOLDS, REJECTS, RUNS
from pacspark.tables.scratch import Scratch
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import (
    append_unseen,
    commit_files,
    commit_instances,
    commit_rejects,
)

BATCH_ROWS = 16384
BATCH_BYTES = 64 << 20
"""Rows that the driver holds at once, and their DICOM JSON."""
TASK_BYTES = 256 << 20
_OPERATION = "replicate"


@dataclass(slots=True)
class ReplicateReport:
    """What a replication did.

    Attributes
    ----------
    run_id
        its row in the replica's `runs`
    stored, rejects
        rows that the replica did not have
    conflict
        instances whose UID the replica has with other bytes, kept in its `rejects`
    removed
        rows that the source no longer has, with ``mirror``
    files, bytes_copied
        data files that came over, and what was written
    seconds
        of it all
    findings
        what is wrong with the source: these objects did not come over
    """

    run_id: str
    stored: int = 0
    rejects: int = 0
    conflict: int = 0
    removed: int = 0
    files: int = 0
    bytes_copied: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing stayed behind."""
        return not self.findings

    def summary(self) -> dict[str, Any]:
        """Give the figures."""
        names = ("run_id", "stored", "rejects", "conflict", "removed", "files", "bytes_copied")
        figures = {name: getattr(self, name) for name in names}
        return figures | {"seconds": self.seconds, "left_behind": len(self.findings)}


def replicate(
    run: Run,
    source: Storage,
    target: Storage,
    *,
    mirror: bool = False,
    progress: Progress = SILENT,
) -> ReplicateReport:
    """Bring to another root what it does not have yet.

    Parameters
    ----------
    run
        runs tasks
    source, target
        archives; the target is made where it is missing
    mirror
        also remove from the target what came from the source and is no longer there
    progress
        told of rows

    Raises
    ------
    UsageError
        where both are one
    StorageError
        where a storage fails
    """
    if source.is_same(target):
        message = f"replicate: expected two roots, found {source.root} twice"
        raise UsageError(message)
    create_tables(target)
    started = time.monotonic()
    listing = Listing(source)
    source_id = listing.archive_id
    job = _Job(run, listing, target, ReplicateReport(uuid.uuid4().hex), progress)
    report = job.report
    options = {
        "source": source.root,
        "source_id": source_id,
        "source_versions": listing.versions,
        "mirror": mirror,
    }
    with recorded_run(
        target, report.run_id, _OPERATION, Listing(target).versions, options=options
    ) as row:
        try:
            seen = seen_versions(target, source_id)
            job.rows(seen)
            for table in NOTE_TABLES:
                job.notes(table, seen.get(table))
            if mirror:
                report.removed = remove_gone(listing, target, report.run_id)
            report.seconds = time.monotonic() - started
            row["metrics"] = report.summary() | {"complete": report.complete}
            if report.findings:
                row["message"] = report.findings[0].line
        finally:
            Scratch(target, report.run_id).clear()
    return report


def seen_versions(target: Storage, source_id: str) -> dict[str, int]:
    """Give the versions of a source's tables up to which all was taken over."""
    columns = ["operation", "outcome", "options", "metrics", "finished_at"]
    where = (ds.field("operation") == _OPERATION) & (ds.field("outcome") == "done")
    rows = Snapshot(target, RUNS.name).read(columns, where).sort_by("finished_at").to_pylist()
    seen: dict[str, int] = {}
    for row in rows:
        with suppress(ValueError, KeyError, TypeError):
            options, metrics = json.loads(row["options"]), json.loads(row["metrics"])
            if options["source_id"] == source_id and metrics["complete"]:
                seen = {str(name): int(v) for name, v in options["source_versions"].items()}
    return seen


@dataclass(slots=True)
class _Job:
    """One replication on its way."""

    run: Run
    listing: Listing
    target: Storage
    report: ReplicateReport
    progress: Progress

    def rows(self, seen: dict[str, int]) -> None:
        """Bring the rows of `instances` and `rejects` over, and what they refer to."""
        for table in ("instances", "rejects"):
            snapshot = self.listing.snapshots[table]
            files = _new_files(snapshot, seen.get(table))
            records = snapshot.records()
            total = sum(records[file.path] or 0 for file in files)
            with self.progress.stage(table, total, "rows") as stage:
                for rows in _row_batches(snapshot, files):
                    self._batch(table, rows)
                    stage.advance(rows.num_rows)

    def _batch(self, table: str, rows: pa.Table) -> None:
        rows = self._unknown(table, rows)
        if not rows.num_rows:
            return
        brought = bring(self.run, self.listing, self.target, self.report.run_id, table, rows)
        self.report.files += sum(one.added is not None for one in brought)
        self.report.bytes_copied += sum(one.bytes_copied for one in brought)
        lost = [finding for one in brought for finding in one.findings]
        self.report.findings += lost
        moves: dict[str, Moves] = {one.file: one.moves for one in brought if one.moves is not None}
        names = pa.array({finding.name for finding in lost}, pa.string())
        name = "sop_instance_uid" if table == "instances" else "source"
        rows = moved(rows.filter(pc.invert(pc.is_in(rows[name], names))), moves)
        self._commit(table, rows, [one.added for one in brought if one.added is not None])

    def _commit(self, table: str, rows: pa.Table, files: Sequence[AddedFile]) -> None:
        """Make a batch visible: bytes first, then rows, whose commit is the moment of truth."""
        origin: dict[str, Any] = {"run_id": self.report.run_id, "operation": _OPERATION}
        if files:
            commit_files(self.target, "objects", files, **origin)
        if table == "instances":
            outcome = commit_instances(self.target, rows, **origin)
            conflicts = [conflict_row(row) for row in outcome.conflicts]
            self.report.stored += outcome.stored.num_rows
            self.report.conflict += len(conflicts)
            rows = pa.Table.from_pylist(conflicts, schema=REJECTS.arrow_schema)
        else:
            self.report.rejects += rows.num_rows
        commit_rejects(self.target, rows, **origin)

    def _unknown(self, table: str, rows: pa.Table) -> pa.Table:
        """Give the rows that the target does not have."""
        catalog = Catalog(self.target)
        if table == "instances":
            uids, digests = (rows[name].to_pylist() for name in ("sop_instance_uid", "sha256"))
            known = catalog.known(uids)
            unequal = [uid for uid, one in zip(uids, digests, strict=True) if known.get(uid) != one]
            refused = catalog.refused(uid for uid in unequal if uid in known)
            kept = [
                known.get(uid) != one and (uid, one) not in refused
                for uid, one in zip(uids, digests, strict=True)
            ]
        else:
            keys = [
                (row["sop_instance_uid"] or row["source"], row["sha256"])
                for row in rows.select(["sop_instance_uid", "source", "sha256"]).to_pylist()
            ]
            refused = catalog.refused(name for name, _ in keys)
            kept = [key not in refused for key in keys]
        return rows.filter(pa.array(kept, pa.bool_()))

    def notes(self, table: str, seen: int | None) -> None:
        """Bring the rows of a table over that refers to no bytes."""
        snapshot = self.listing.snapshots[table]
        for batch in _row_batches(snapshot, _new_files(snapshot, seen)):
            rows = batch
            if table == HOLDS.name:
                rows = without_foreign_releases(batch, snapshot, Snapshot(self.target, table))
            append_unseen(self.target, table, rows, run_id=self.report.run_id, operation=_OPERATION)


def bring(
    run: Run, listing: Listing, target: Storage, run_id: str, table: str, rows: pa.Table
) -> list[Brought]:
    """Bring the data files over that rows of a table refer to, or check those that are there."""
    there = {file.path for file in Snapshot(target, "objects").files()}
    listed = {name: some.cast(LISTED) for name, some in listed_rows(table, rows).items()}
    # rows of a batch: that others refer to more pieces of a file is no matter here
    asked = [
        (replace(one, pieces=None), one.file in there) for one in files_to_check(listing, listed)
    ]
    tasks = list(runs_of(asked, lambda one: one[0].size_bytes or 0, TASK_BYTES))
    if not tasks:
        return []
    work = partial(_bring_files, listing.storage, target, run_id)
    return [one for brought in run(tasks, work) for one in brought]


def _bring_files(
    source: Storage, target: Storage, run_id: str, asked: Sequence[tuple[FileToCheck, bool]]
) -> list[Brought]:
    """Body of one task."""
    source.require_seen()
    target.require_seen()
    return [bring_file(source, target, run_id, one, listed) for one, listed in asked]


def _new_files(snapshot: Snapshot, seen: int | None) -> list[ActiveFile]:
    """List the files that a version lists and an earlier one did not; all, if that is gone."""
    files = snapshot.files()
    if seen is None:
        return files
    try:
        before = {
            file.path for file in Snapshot(snapshot.storage, snapshot.spec.name, seen).files()
        }
    except PacsparkError:
        return files
    return [file for file in files if file.path not in before]


def _row_batches(snapshot: Snapshot, files: Sequence[ActiveFile]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    schema = snapshot.spec.arrow_schema
    for file in files:
        for batch in snapshot.batches(schema.names, None, [file]):
            held.append(batch)
            rows, size_bytes = rows + batch.num_rows, size_bytes + batch.nbytes
            if rows >= BATCH_ROWS or size_bytes >= BATCH_BYTES:
                yield pa.Table.from_batches(held).cast(schema)
                held, rows, size_bytes = [], 0, 0
    if rows:
        yield pa.Table.from_batches(held).cast(schema)
