"""The one place that commits rows: what is new is told from the version that a commit follows.

:mod:`pacspark.tables.log` commits by compare-and-set; where another writer was faster, what came
between is read and the rows are sorted out again. So two writers that both saw "not there yet"
cannot both store a SOP instance, nor both keep one refusal, on a disk, on HDFS and on S3 alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.errors import CommitConflictError
from pacspark.tables.datafile import AddedFile, DataFile, remove_file
from pacspark.tables.log import NOTHING, Change, compare_and_set
from pacspark.tables.lookup import refused_in
from pacspark.tables.rowfiles import Admission, InstanceFiles, RowFile
from pacspark.tables.schema import INSTANCES, REJECTS, TABLES, TableSpec
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """What became of the rows of one :func:`commit_instances`, in the order of their files.

    Attributes
    ----------
    stored
        UID, digest and size of those that are in the archive now
    duplicates
        the same of those that were there before, or earlier in the batch, with the same bytes
    conflicts
        have the SOP Instance UID of an object with other bytes, which stays: what `rejects` takes
        over of each
    version
        of `instances` that shows all this
    """

    stored: pa.Table
    duplicates: pa.Table
    conflicts: list[dict[str, Any]]
    version: int

    @property
    def duplicate(self) -> int:
        """The number of duplicates."""
        return int(self.duplicates.num_rows)


def commit_files(
    storage: Storage,
    table_name: str,
    added: Sequence[AddedFile],
    *,
    app_transaction: tuple[str, int] | None = None,
    run_id: str,
    operation: str,
) -> int:
    """Make finished data files visible, all in one step.

    Parameters
    ----------
    storage
        the archive
    table_name
        the table that the files were written for
    added
        from :meth:`DataFile.close` and :meth:`ObjectFile.close`
    app_transaction
        name and number of what is committed: where the table has seen this number of this name, or
        a later one, nothing is done, and the files go. Numbers of a name have to grow
    run_id, operation
        for the history

    Returns
    -------
    int
        a version of the table that shows the files

    Raises
    ------
    CommitConflictError
        where other writers won every attempt
    StorageError
        where the storage fails
    """
    snapshot = Snapshot(storage, table_name)

    def is_done(now: Snapshot) -> bool:
        seen = None if app_transaction is None else now.transaction_version(app_transaction[0])
        return seen is not None and app_transaction is not None and seen >= app_transaction[1]

    def change(now: Snapshot) -> Change:
        return NOTHING if is_done(now) else Change(added)

    if is_done(snapshot):
        # before an attempt of ours, so by another job: after one it could be ours, its answer lost
        listed = {file.path for file in snapshot.files()}
        for file in added:
            if file.path not in listed:
                remove_file(storage, table_name, file.path)
    return compare_and_set(snapshot, change, run_id, operation, app_transaction)


def replace_files(
    storage: Storage,
    table_name: str,
    removed: Sequence[ActiveFile],
    added: Sequence[AddedFile],
    *,
    data_change: bool = True,
    run_id: str,
    operation: str,
) -> int:
    """Let files take the place of others, all in one step.

    Parameters
    ----------
    storage
        the archive
    table_name
        the table
    removed
        what no longer counts; it stays on the storage for those who read older versions
    added
        what counts instead
    data_change
        whether rows differ; False where the same rows only lie elsewhere
    run_id, operation
        for the history

    Returns
    -------
    int
        the version that shows it

    Raises
    ------
    CommitConflictError
        where another writer removed one of them first, or won every attempt; the added files go
    StorageError
        where the storage fails
    """
    wanted = Change(added, removed, data_change=data_change)

    def change(now: Snapshot) -> Change:
        listed = {file.path for file in now.files()}
        gone = [file.path for file in removed if file.path not in listed]
        if gone:
            message = f"{storage.root}: {table_name}: another writer replaced {gone[0]} first"
            raise CommitConflictError(message)
        return wanted

    try:
        return compare_and_set(Snapshot(storage, table_name), change, run_id, operation)
    except CommitConflictError:
        for file in added:
            remove_file(storage, table_name, file.path)
        raise


def append_rows(
    storage: Storage,
    table_name: str,
    rows: pa.Table,
    *,
    app_transaction: tuple[str, int] | None = None,
    run_id: str,
    operation: str,
) -> int:
    """Write rows into one data file and commit it; for the small tables.

    Parameters and errors are those of :func:`commit_files`.
    """
    spec = TABLES[table_name]
    with DataFile(storage, spec) as file:
        file.append(rows.select(spec.arrow_schema.names).cast(spec.arrow_schema))
    return commit_files(
        storage,
        table_name,
        [file.close()],
        app_transaction=app_transaction,
        run_id=run_id,
        operation=operation,
    )


def commit_instances(
    storage: Storage, rows: pa.Table, *, run_id: str, operation: str = "ingest"
) -> CommitOutcome:
    """Make instances part of the archive: at most one row per SOP Instance UID, ever.

    Parameters
    ----------
    storage
        the archive
    rows
        of `instances`, whose bytes are committed to `objects` already; of several with one UID the
        first counts
    run_id, operation
        for the history

    Raises
    ------
    CommitConflictError
        where other writers won every attempt; none of the rows is stored then
    StorageError
        where the storage fails
    """
    rows = rows.select(INSTANCES.arrow_schema.names).cast(INSTANCES.arrow_schema)
    first: dict[str, int] = {}
    later = []
    for number, uid in enumerate(rows["sop_instance_uid"].to_pylist()):
        if first.setdefault(uid, number) != number:
            later.append(number)
    files: list[RowFile] = []
    # apart, or the order in which rows are written could decide which of them counts
    for numbers in (list(first.values()), later):
        writer = InstanceFiles(storage)
        writer.append(_take(rows, numbers))
        files += writer.close()
    return commit_row_files(storage, files, run_id=run_id, operation=operation)


def commit_row_files(
    storage: Storage, files: Sequence[RowFile], *, run_id: str, operation: str
) -> CommitOutcome:
    """Make the rows of finished files part of the archive: at most one row per UID, ever.

    A file whose rows are all new becomes visible as it is; of others the new rows are written anew.

    Parameters
    ----------
    storage
        the archive
    files
        from `InstanceFiles`; the bytes of their rows are committed to `objects` already
    run_id, operation
        for the history

    Raises
    ------
    CommitConflictError
        where other writers won every attempt; none of the rows is stored then, and the files go
    StorageError
        where the storage fails
    """
    snapshot, admission = Snapshot(storage, INSTANCES.name), Admission(storage, files)
    try:
        version = compare_and_set(
            snapshot, lambda now: Change(admission.files(now)), run_id, operation
        )
    except CommitConflictError:
        admission.discard()
        raise
    outcome = CommitOutcome(
        admission.stored(),
        admission.duplicates(),
        admission.conflicts(_CONFLICT_COLUMNS).to_pylist(),
        version,
    )
    admission.discard_unused()
    return outcome


_CONFLICT_COLUMNS: Final = [
    name for name in REJECTS.arrow_schema.names if name in INSTANCES.arrow_schema.names
]


def commit_rejects(storage: Storage, rows: pa.Table, *, run_id: str, operation: str) -> int:
    """Make refused inputs visible: at most one row per name and bytes, ever.

    Parameters
    ----------
    storage
        the archive
    rows
        of `rejects`, whose bytes are committed to `objects` already
    run_id, operation
        for the history

    Returns
    -------
    int
        a version of `rejects` that shows them

    Raises
    ------
    CommitConflictError
        where other writers won every attempt
    StorageError
        where the storage fails
    """
    keys = [(row["sop_instance_uid"] or row["source"], row["sha256"]) for row in rows.to_pylist()]
    first: dict[tuple[str, str | None], int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)

    def new(now: Snapshot) -> list[int]:
        known = refused_in(now, (name for name, _ in keys))
        return sorted(number for key, number in first.items() if key not in known)

    return _Attempt(storage, REJECTS, rows).commit(new, run_id, operation)


def append_unseen(
    storage: Storage, table_name: str, rows: pa.Table, *, run_id: str, operation: str
) -> int:
    """Append those rows that the table does not have yet, whole as they are; each at most once.

    For tables of records, whose rows never change. The rows come from another archive.

    Returns
    -------
    int
        a version of the table that shows them all
    """
    spec = TABLES[table_name]
    rows = rows.select(spec.arrow_schema.names).cast(spec.arrow_schema)
    given = [tuple(row.values()) for row in rows.to_pylist()]
    alike = ds.field(spec.key[0]).isin(pc.unique(rows[spec.key[0]].combine_chunks()))

    def new(now: Snapshot) -> list[int]:
        there = now.read(spec.arrow_schema.names, alike).to_pylist() if given else []
        known = {tuple(row.values()) for row in there}
        return [number for number, row in enumerate(given) if row not in known]

    return _Attempt(storage, spec, rows).commit(new, run_id, operation)


class _Attempt:
    """The commit of those rows that are new, in one file; written anew where fewer still are."""

    def __init__(self, storage: Storage, spec: TableSpec, rows: pa.Table) -> None:
        self._storage = storage
        self._spec = spec
        self._rows = rows
        self._numbers: list[int] = []
        self._file: AddedFile | None = None

    def commit(self, new: Callable[[Snapshot], list[int]], run_id: str, operation: str) -> int:
        """Commit the rows whose numbers `new` gives for the newest version."""
        snapshot = Snapshot(self._storage, self._spec.name)
        try:
            return compare_and_set(
                snapshot, lambda now: Change(self._files(new(now))), run_id, operation
            )
        except CommitConflictError:
            self._discard()
            raise

    def _files(self, numbers: list[int]) -> Sequence[AddedFile]:
        if self._file is not None and self._numbers == numbers:
            return (self._file,)
        self._discard()
        if not numbers:
            return ()
        with DataFile(self._storage, self._spec) as file:
            file.append(_take(self._rows, numbers))
        self._numbers, self._file = numbers, file.close()
        return (self._file,)

    def _discard(self) -> None:
        """Remove the file of an attempt that failed: its version belongs to somebody else now."""
        if self._file is not None:
            remove_file(self._storage, self._spec.name, self._file.path)
            self._file = None


def _take(rows: pa.Table, numbers: Sequence[int]) -> pa.Table:
    return rows.take(pa.array(numbers, pa.int64()))
