"""Rows of `instances` go in one commit: files that hold any make room for files with the others.

What other writers did meanwhile is looked at again before each attempt, so that the commit removes
exactly what the version before it had, and nothing of a study that is on hold by then.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pacspark.errors import CommitConflictError, HeldError
from pacspark.tables.datafile import AddedFile, remove_file
from pacspark.tables.holds import require_free
from pacspark.tables.log import NOTHING, Change, compare_and_set
from pacspark.tables.rewriting import rewrite_without
from pacspark.tables.schema import HOLDS, INSTANCES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

REMOVED_COLUMNS: Final = ("sop_instance_uid", "study_instance_uid", "size_bytes")
"""What is known of each row that goes."""
_SCHEMA: Final = pa.schema([INSTANCES.arrow_schema.field(name) for name in REMOVED_COLUMNS])
_UID: Final = REMOVED_COLUMNS[0]

Files = Callable[[Snapshot], Sequence[ActiveFile]]
Find = Callable[[Snapshot, Sequence[ActiveFile]], Iterable[tuple[ActiveFile, pa.Table]]]


@dataclass(slots=True)
class _Part:
    """The unwanted rows of one file, and the file without them, if others are left."""

    rows: pa.Table
    rest: AddedFile | None = None
    is_rewritten: bool = False


class Removal:
    """Rows that go, as seen from one version after the other.

    Parameters
    ----------
    storage
        the archive
    files
        gives the files of a version that can hold such rows
    find
        gives `REMOVED_COLUMNS` of such rows in some files, by file
    """

    def __init__(self, storage: Storage, files: Files, find: Find) -> None:
        self._storage = storage
        self._files, self._find = files, find
        self._holds = Snapshot(storage, HOLDS.name)
        self._parts: dict[str, _Part] = {}
        self._last = NOTHING

    @property
    def rows(self) -> pa.Table:
        """What went with the commit, `REMOVED_COLUMNS`; no rows where there were none."""
        gone = [self._parts[file.path].rows for file in self._last.removed]
        return pa.concat_tables([_SCHEMA.empty_table(), *gone])

    def commit(self, run_id: str, operation: str) -> int:
        """Remove them; give a version of `instances` that is without them.

        Raises
        ------
        HeldError
            where one belongs to a study on legal hold; nothing is removed then
        CommitConflictError
            where other writers won every attempt; nothing is removed then
        StorageError
            where the storage fails
        """
        snapshot = Snapshot(self._storage, INSTANCES.name)
        try:
            version = compare_and_set(snapshot, self._change, run_id, operation)
        except (HeldError, CommitConflictError):
            self._discard(NOTHING)
            raise
        self._discard(self._last)
        return version

    def _change(self, now: Snapshot) -> Change:
        self._last = NOTHING
        files = self._files(now)
        unseen = [file for file in files if file.path not in self._parts]
        found = dict(self._find(now, unseen))
        self._parts |= {one.path: _Part(found.get(one, _SCHEMA.empty_table())) for one in unseen}
        concerned = [file for file in files if self._parts[file.path].rows.num_rows]
        self._holds.refresh()
        studies: set[str] = set()
        for file in concerned:
            studies.update(self._parts[file.path].rows["study_instance_uid"].to_pylist())
        require_free(self._holds, studies)
        rests = [self._rest_of(file) for file in concerned]
        self._last = Change([rest for rest in rests if rest is not None], concerned)
        return self._last

    def _rest_of(self, file: ActiveFile) -> AddedFile | None:
        part = self._parts[file.path]
        if not part.is_rewritten:
            gone = part.rows[_UID].combine_chunks()
            part.rest = rewrite_without(self._storage, INSTANCES, file, _UID, gone)
            part.is_rewritten = True
        return part.rest

    def _discard(self, committed: Change) -> None:
        """Remove the files that no commit has named."""
        kept = {file.path for file in committed.added}
        for part in self._parts.values():
            if part.rest is not None and part.rest.path not in kept:
                remove_file(self._storage, INSTANCES.name, part.rest.path)
