"""Deleting rows of `instances`, and bringing them back. Bytes stay until their retention ends."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.errors import HeldError, NotInArchiveError, StorageError
from pacspark.tables.audit import record
from pacspark.tables.catalog import Catalog
from pacspark.tables.log import entries
from pacspark.tables.lookup import find_rows, find_rows_by_file
from pacspark.tables.moving import list_again
from pacspark.tables.removal import REMOVED_COLUMNS, Removal
from pacspark.tables.schema import INSTANCES, OBJECTS
from pacspark.tables.sifting import files_with
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_instances

Level = Literal["study", "series", "instance"]
COLUMN_OF_LEVEL: Final = MappingProxyType(
    {
        "study": "study_instance_uid",
        "series": "series_instance_uid",
        "instance": "sop_instance_uid",
    }
)


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was deleted; ``version`` of `instances` is the first without it."""

    level: str
    uid: str
    instances: int
    bytes_deleted: int
    studies: tuple[str, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Restoration:
    """What came back.

    Attributes
    ----------
    level, uid
        what was asked for
    restored
        instances that are there again
    present
        that were there already
    conflict
        whose UID has other bytes by now, which stay
    version
        of `instances` that shows it
    """

    level: str
    uid: str
    restored: int
    present: int
    conflict: int
    version: int


def delete(
    storage: Storage, level: Level, uid: str, *, reason: str = "", study_uid: str | None = None
) -> Deletion:
    """Delete a study, a series or an instance, in one commit.

    Parameters
    ----------
    storage
        the archive
    level, uid
        what
    reason
        why, for the table `audit`
    study_uid
        None: wherever it lies; else what other studies have under the same UID stays

    Raises
    ------
    NotInArchiveError
        where there is no such thing
    HeldError
        where it belongs to a study on legal hold
    CommitConflictError
        where other writers won every attempt; nothing is deleted then
    StorageError
        where the storage fails
    """
    run_id, column = uuid.uuid4().hex, COLUMN_OF_LEVEL[level]
    removal = Removal(
        storage,
        lambda now: files_with(now, {column: [uid]}),
        lambda now, files: _of_study(
            study_uid, _rows_by_file(now, files, column, uid, REMOVED_COLUMNS)
        ),
    )
    try:
        version = removal.commit(run_id, "delete")
    except HeldError as error:
        record(storage, "delete", level, uid, "refused", {"why": str(error)}, run_id)
        raise
    rows = removal.rows
    if not rows.num_rows:
        message = f"{storage.root}: no {level} {uid} to delete"
        raise NotInArchiveError(message)
    deletion = Deletion(
        level,
        uid,
        rows.num_rows,
        pc.sum(rows["size_bytes"]).as_py() or 0,
        tuple(sorted(set(rows["study_instance_uid"].to_pylist()))),
        version,
    )
    detail = {"instances": deletion.instances, "version": version, "reason": reason}
    record(storage, "delete", level, uid, "done", detail, run_id)
    return deletion


def _rows_by_file(
    snapshot: Snapshot,
    files: Sequence[ActiveFile],
    column: str,
    uid: str,
    columns: Sequence[str],
) -> Iterator[tuple[ActiveFile, pa.Table]]:
    """Read some columns of the rows of files of `instances` that have a UID, file by file."""
    if column == "sop_instance_uid":
        yield from find_rows_by_file(snapshot.storage, files, [uid], columns)
        return
    for file in files:
        yield file, snapshot.read(columns, ds.field(column) == uid, [file])


def _of_study(
    study_uid: str | None, found: Iterator[tuple[ActiveFile, pa.Table]]
) -> Iterator[tuple[ActiveFile, pa.Table]]:
    for file, rows in found:
        yield (
            file,
            rows if study_uid is None else rows.filter(pc.field("study_instance_uid") == study_uid),
        )


def _rows(
    snapshot: Snapshot, files: Sequence[ActiveFile], column: str, uid: str, columns: Sequence[str]
) -> pa.Table:
    schema = pa.schema([INSTANCES.arrow_schema.field(name) for name in columns])
    found = _rows_by_file(snapshot, files, column, uid, columns)
    return pa.concat_tables([schema.empty_table(), *(rows for _, rows in found)])


def undelete(
    storage: Storage, level: Level, uid: str, *, as_of: int | datetime | None = None
) -> Restoration:
    """Bring back what was deleted of a study, a series or an instance.

    Parameters
    ----------
    storage
        the archive
    level, uid
        what
    as_of
        the version of `instances`, or the moment, whose rows are wanted; None: what the last commit
        took away that is not there now

    Raises
    ------
    NotInArchiveError
        where no version that is kept has it
    StorageError
        where its bytes are gone, or the storage fails
    """
    run_id, column = uuid.uuid4().hex, COLUMN_OF_LEVEL[level]
    if as_of is None:
        rows = _last_removed(storage, column, uid)
    else:
        then = Snapshot(storage, INSTANCES.name, as_of)
        then.require_kept()
        files = then.files({column: [uid]})
        rows = _rows(then, files, column, uid, INSTANCES.arrow_schema.names)
    if not rows.num_rows:
        message = (
            f"{storage.root}: expected a deleted {level} {uid}, found none in the versions that "
            "are kept"
        )
        raise NotInArchiveError(message)
    # bytes first: what compaction took from the list of objects since is listed again
    names = sorted(set(rows["object_file"].drop_null().to_pylist()))
    _require_bytes(storage, names)
    list_again(storage, names, run_id, "undelete")
    outcome = commit_instances(storage, rows, run_id=run_id, operation="undelete")
    # a compaction that had looked before this commit may have taken them from the list, or away
    list_again(storage, names, run_id, "undelete")
    _require_bytes(storage, names)
    restoration = Restoration(
        level,
        uid,
        outcome.stored.num_rows,
        outcome.duplicate,
        len(outcome.conflicts),
        outcome.version,
    )
    detail = {"instances": restoration.restored, "version": outcome.version}
    record(storage, "undelete", level, uid, "done", detail, run_id)
    return restoration


def _last_removed(storage: Storage, column: str, uid: str) -> pa.Table:
    """Give the rows with a UID that the newest commit took away and that are not there now."""
    catalog, now = Catalog(storage), Snapshot(storage, INSTANCES.name)
    for entry in entries(now):
        if not entry.removed or entry.operation == "compact":
            continue
        there = [file for file in entry.removed if _size_bytes(storage, INSTANCES.name, file.path)]
        uids = _rows(now, there, column, uid, ["sop_instance_uid"])[0].to_pylist()
        known = catalog.known(uids)
        if gone := [name for name in uids if name not in known]:
            return find_rows(storage, there, gone, INSTANCES.arrow_schema.names)
    return INSTANCES.arrow_schema.empty_table()


def _require_bytes(storage: Storage, names: Sequence[str]) -> None:
    gone = [name for name in names if not _size_bytes(storage, OBJECTS.name, name)]
    if gone:
        message = (
            f"{storage.root}: objects/{gone[0]}: expected the bytes of what is to come back, found "
            "no file: its retention has ended"
        )
        raise StorageError(message)


def _size_bytes(storage: Storage, table_name: str, path: str) -> int:
    with storage.errors(f"look for {table_name}/{path}"):
        return storage.filesystem.get_file_info(storage.path(table_name, path)).size or 0
