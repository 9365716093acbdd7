"""Files of `instances`: written by tasks, committed as they are where all their rows are new.

A task writes its rows in the final layout and hands on a file and its keys; whoever commits holds
no row, only keys::

    rows ──InstanceFiles──▶ row groups, sorted by study ──▶ RowFile: file + UID, digest, size
                                                               │
    Admission: all rows new ──▶ the file as it is              │ one for each file
               some new     ──▶ the file written anew, row group by row group
               none new     ──▶ no file; rows in conflict are read back for `rejects`
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from pacspark.tables.datafile import (
    ROW_GROUP_ROWS,
    AddedFile,
    DataFile,
    open_data_file,
    remove_file,
)
from pacspark.tables.lookup import find_rows_by_file
from pacspark.tables.schema import INSTANCES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage

CLUSTERING: Final = (
    ("study_instance_uid", "ascending"),
    ("series_instance_uid", "ascending"),
    ("instance_number", "ascending"),
)
KEY_COLUMNS: Final = ("sop_instance_uid", "sha256", "size_bytes")
WAITING_BYTES: Final = 32 << 20
"""Rows wait in memory up to this sum, to be sorted and written as one row group."""
FILE_ROWS: Final = 1 << 16
"""A file with so many rows is closed and the next one begun."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """A finished file of `instances` that nobody sees yet.

    Attributes
    ----------
    file
        what a commit needs
    keys
        the `KEY_COLUMNS` of its rows, in their order
    """

    file: AddedFile
    keys: pa.Table


class InstanceFiles:
    """Writes rows of `instances` into files; a bounded number of them waits in memory.

    Parameters
    ----------
    storage
        the archive
    job
        from :func:`~pacspark.tables.datafile.files_of_job`, in a task
    """

    def __init__(self, storage: Storage, job: str = "") -> None:
        self._storage = storage
        self._job = job
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._file: DataFile | None = None
        self._keys: list[pa.Table] = []
        self._done: list[RowFile] = []

    def append(self, rows: pa.Table) -> None:
        """Take rows in, and write those that wait when they are many."""
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        self._waiting_bytes += rows.nbytes
        if self._waiting_rows >= ROW_GROUP_ROWS or self._waiting_bytes >= WAITING_BYTES:
            self._write()

    def close(self) -> tuple[RowFile, ...]:
        """Finish the files, durable but not yet visible."""
        self._write()
        self._close_file()
        return tuple(self._done)

    def abort(self) -> None:
        """Remove the files."""
        self._waiting.clear()
        if self._file is not None:
            self._file.abort()
        for done in self._done:
            remove_file(self._storage, INSTANCES.name, done.file.path)

    def _write(self) -> None:
        if not self._waiting_rows:
            return
        rows = pa.concat_tables(self._waiting).sort_by(list(CLUSTERING))
        self._waiting.clear()
        self._waiting_rows = self._waiting_bytes = 0
        self._file = self._file or DataFile(self._storage, INSTANCES, self._job)
        self._file.append(rows)
        self._keys.append(rows.select(KEY_COLUMNS))
        if self._file.num_records >= FILE_ROWS:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            keys = pa.concat_tables(self._keys).combine_chunks()
            self._done.append(RowFile(self._file.close(), keys))
            self._file, self._keys = None, []


@dataclass(slots=True)
class _Part:
    """One file on its way: which of its rows are new, and what is committed in its place."""

    given: RowFile
    uids: list[str]
    digests: list[str]
    new: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    conflicts: list[int] = field(default_factory=list)
    rewritten: AddedFile | None = None
    rewritten_rows: list[int] = field(default_factory=list)


class Admission:
    """Files on their way into `instances`: what of them is new, from one version to the next.

    Parameters
    ----------
    storage
        the archive
    given
        from :meth:`InstanceFiles.close`; of rows with one UID the first counts
    """

    def __init__(self, storage: Storage, given: Sequence[RowFile]) -> None:
        self._storage = storage
        self._parts = [
            _Part(one, one.keys["sop_instance_uid"].to_pylist(), one.keys["sha256"].to_pylist())
            for one in given
        ]
        self._uids = [uid for part in self._parts for uid in part.uids]
        self._known_of_file: dict[str, dict[str, str]] = {}

    def files(self, snapshot: Snapshot) -> list[AddedFile]:
        """Give the files that hold the rows which are new to a version, and those alone."""
        self._sort_out(self._known(snapshot))
        wanted = [self._file_of(part) for part in self._parts]
        return [file for file in wanted if file is not None]

    def stored(self) -> pa.Table:
        """Give the keys of the rows that were new."""
        return self._keys([part.new for part in self._parts])

    def duplicates(self) -> pa.Table:
        """Give the keys of the rows that were there before, with the same bytes."""
        return self._keys([part.duplicates for part in self._parts])

    def conflicts(self, columns: Sequence[str]) -> pa.Table:
        """Read the rows whose UID has other bytes; before `discard_unused`."""
        schema = pa.schema([INSTANCES.arrow_schema.field(name) for name in columns])
        found = [schema.empty_table()]
        for part in self._parts:
            found += _rows(self._storage, part.given.file, part.conflicts, columns)
        return pa.concat_tables(found)

    def discard_unused(self) -> None:
        """Remove the files that a commit which succeeded did not name."""
        for part in self._parts:
            if len(part.new) < len(part.uids):
                remove_file(self._storage, INSTANCES.name, part.given.file.path)

    def discard(self) -> None:
        """Remove all files, when the commit is known to have failed."""
        for part in self._parts:
            remove_file(self._storage, INSTANCES.name, part.given.file.path)
            self._discard_rewritten(part)

    def _known(self, snapshot: Snapshot) -> dict[str, str]:
        """Look the UIDs up, in the files that earlier attempts have not looked into."""
        known: dict[str, str] = {}
        listed = snapshot.files({"sop_instance_uid": self._uids}) if self._uids else []
        unread = [file for file in listed if file.path not in self._known_of_file]
        for file, rows in find_rows_by_file(self._storage, unread, self._uids, KEY_COLUMNS[:2]):
            self._known_of_file[file.path] = dict(
                zip(rows["sop_instance_uid"].to_pylist(), rows["sha256"].to_pylist(), strict=True)
            )
        for file in listed:
            known |= self._known_of_file.setdefault(file.path, {})
        return known

    def _sort_out(self, known: dict[str, str]) -> None:
        seen = dict(known)
        for part in self._parts:
            part.new, part.duplicates, part.conflicts = [], [], []
            for number, (uid, digest) in enumerate(zip(part.uids, part.digests, strict=True)):
                if uid not in seen:
                    seen[uid] = digest
                    part.new.append(number)
                elif seen[uid] == digest:
                    part.duplicates.append(number)
                else:
                    part.conflicts.append(number)

    def _file_of(self, part: _Part) -> AddedFile | None:
        if part.rewritten is not None and part.rewritten_rows != part.new:
            self._discard_rewritten(part)
        if not part.new:
            return None
        if len(part.new) == len(part.uids):
            return part.given.file
        if part.rewritten is None:
            with DataFile(self._storage, INSTANCES) as file:
                names = INSTANCES.arrow_schema.names
                for rows in _rows(self._storage, part.given.file, part.new, names):
                    file.append(rows)
            part.rewritten, part.rewritten_rows = file.close(), part.new
        return part.rewritten

    def _discard_rewritten(self, part: _Part) -> None:
        """Remove the file of an attempt that failed: its version belongs to somebody else now."""
        if part.rewritten is not None:
            remove_file(self._storage, INSTANCES.name, part.rewritten.path)
            part.rewritten = None

    def _keys(self, numbers: Sequence[Sequence[int]]) -> pa.Table:
        schema = pa.schema([INSTANCES.arrow_schema.field(name) for name in KEY_COLUMNS])
        return pa.concat_tables(
            [
                schema.empty_table(),
                *(
                    part.given.keys.take(pa.array(rows, pa.int64()))
                    for part, rows in zip(self._parts, numbers, strict=True)
                ),
            ]
        )


def _rows(
    storage: Storage, file: AddedFile, numbers: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Read some rows of a finished file, a row group at a time; their numbers are in order."""
    if not numbers:
        return
    with open_data_file(storage, INSTANCES.name, file.path) as reader:
        start = 0
        for group in range(reader.num_row_groups):
            stop = start + reader.metadata.row_group(group).num_rows
            wanted = [number - start for number in numbers if start <= number < stop]
            if wanted:
                rows = reader.read_row_group(group, columns=list(columns))
                schema = pa.schema([INSTANCES.arrow_schema.field(name) for name in columns])
                yield rows.take(pa.array(wanted, pa.int64())).select(columns).cast(schema)
            start = stop
