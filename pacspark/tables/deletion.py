"""Deleting rows of `instances`, and bringing them back. Bytes stay until their retention ends.

A delete is one commit: files that hold a wanted row make room for files with the other rows. What
other writers did meanwhile is looked at again before each attempt, so that the commit removes
exactly what the version before it had.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.errors import CommitConflictError, HeldError, NotInArchiveError, StorageError
from pacspark.tables.audit import record
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import AddedFile, remove_file
from pacspark.tables.holds import require_free
from pacspark.tables.log import NOTHING, Change, compare_and_set, entries
from pacspark.tables.lookup import find_rows
from pacspark.tables.moving import list_again
from pacspark.tables.rewriting import rewrite
from pacspark.tables.schema import HOLDS, INSTANCES, OBJECTS
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
_TOLD: Final = ("sop_instance_uid", "study_instance_uid", "size_bytes")


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


def delete(storage: Storage, level: Level, uid: str, *, reason: str = "") -> Deletion:
    """Delete a study, a series or an instance, in one commit.

    Parameters
    ----------
    storage
        the archive
    level, uid
        what
    reason
        why, for the table `audit`

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
    run_id = uuid.uuid4().hex
    removal = _Removal(storage, level, uid)
    try:
        version = compare_and_set(
            Snapshot(storage, INSTANCES.name), removal.change, run_id, "delete"
        )
    except (HeldError, CommitConflictError) as error:
        removal.discard(NOTHING)
        if isinstance(error, HeldError):
            record(storage, "delete", level, uid, "refused", {"why": str(error)}, run_id)
        raise
    removal.discard(removal.last)
    if not removal.last:
        message = f"{storage.root}: no {level} {uid} to delete"
        raise NotInArchiveError(message)
    rows = removal.rows
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


@dataclass(frozen=True, slots=True)
class _Part:
    """The wanted rows of one file, and the file without them, if others are left."""

    rows: pa.Table
    rest: AddedFile | None


class _Removal:
    """The files that a delete replaces, as seen from one version after the other."""

    def __init__(self, storage: Storage, level: Level, uid: str) -> None:
        self._storage = storage
        self._column = COLUMN_OF_LEVEL[level]
        self._uid = uid
        self._holds = Snapshot(storage, HOLDS.name)
        self._parts: dict[str, _Part] = {}
        self.last = NOTHING

    @property
    def rows(self) -> pa.Table:
        """The rows that the last change takes away."""
        return pa.concat_tables([self._parts[file.path].rows for file in self.last.removed])

    def change(self, now: Snapshot) -> Change:
        """Replace the files of a version that hold wanted rows."""
        self.last = NOTHING
        concerned = {}
        for file in now.files({self._column: [self._uid]}):
            rows = self._parts[file.path].rows if file.path in self._parts else self._find(file)
            if rows.num_rows:
                concerned[file] = rows
        self._holds.refresh()
        studies = {uid for rows in concerned.values() for uid in rows[_TOLD[1]].to_pylist()}
        require_free(self._holds, studies)
        for file, rows in concerned.items():
            if file.path not in self._parts:
                rest = rewrite(self._storage, INSTANCES, file, self._without)
                self._parts[file.path] = _Part(rows, rest)
        rests = [self._parts[file.path].rest for file in concerned]
        self.last = Change([rest for rest in rests if rest is not None], list(concerned))
        return self.last

    def discard(self, committed: Change) -> None:
        """Remove the files that no commit has named."""
        kept = {file.path for file in committed.added}
        for part in self._parts.values():
            if part.rest is not None and part.rest.path not in kept:
                remove_file(self._storage, INSTANCES.name, part.rest.path)

    def _find(self, file: ActiveFile) -> pa.Table:
        return rows_in(self._storage, [file], self._column, self._uid, _TOLD)

    def _without(self, table: pa.Table) -> pa.Table:
        return table.filter(pc.not_equal(table[self._column], self._uid))


def rows_in(
    storage: Storage,
    files: Sequence[ActiveFile],
    column: str,
    uid: str,
    columns: Sequence[str],
) -> pa.Table:
    """Read some columns of the rows of files of `instances` that have a UID."""
    if column == "sop_instance_uid":
        return find_rows(storage, files, [uid], columns)
    return Snapshot(storage, INSTANCES.name).read(columns, ds.field(column) == uid, files)


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
        rows = rows_in(storage, files, column, uid, INSTANCES.arrow_schema.names)
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
    catalog = Catalog(storage)
    for entry in entries(Snapshot(storage, INSTANCES.name)):
        if not entry.removed or entry.operation == "compact":
            continue
        there = [file for file in entry.removed if _size_bytes(storage, INSTANCES.name, file.path)]
        uids = rows_in(storage, there, column, uid, _TOLD)["sop_instance_uid"].to_pylist()
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
