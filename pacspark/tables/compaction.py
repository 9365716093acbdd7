"""Compaction: few large files in place of many small ones, and an end to what nobody needs.

::

    rows      small files of a table ──▶ one file, ordered        one commit per group
    objects   1  small files and those with pieces that nothing kept refers to ──▶ one file
              2  rows of instances and rejects refer to the new file   one commit per table
              3  the old files leave the list, if no row refers to them
    scans     projections whose scan no kept version has leave the list
    log       a checkpoint of each table
    storage   files that no kept version lists, or refers to, are deleted

Readers and writers go on meanwhile. Each commit is a compare-and-set, and bytes are in two places
before any row lets go of one: whatever a kill leaves, the next run finishes. Old files stay on the
storage until their retention ends.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pacspark.errors import CommitConflictError
from pacspark.progress import SILENT, Progress, Stage
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import AddedFile
from pacspark.tables.log import make_checkpoint
from pacspark.tables.logfixity import require_sound_logs
from pacspark.tables.merging import (
    FEWEST_FILES,
    MERGED_OBJECT_BYTES,
    MERGED_PIECES,
    ORDER,
    MergedObjects,
    ObjectMerge,
    RowMerge,
    decoded_weight,
    group_up,
    merge_objects,
    merge_rows,
)
from pacspark.tables.moving import list_again, move_rows
from pacspark.tables.references import PLACE, ROW_TABLES, Pieces, refers_to, uids_in
from pacspark.tables.retention import (
    Retention,
    age_ms,
    data_files,
    delete_files,
    delete_leftovers,
    expired,
    kept_files,
    leftovers,
    retention_of,
)
from pacspark.tables.rewriting import rewrite_without
from pacspark.tables.rowfiles import CLUSTERING
from pacspark.tables.runs import recorded_run, versions_now
from pacspark.tables.schema import INSTANCES, OBJECTS, PROJECTIONS, REJECTS, TABLES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import replace_files

T = TypeVar("T")
R = TypeVar("R")

THREADS: Final = 2
_GROUPS_AT_ONCE: Final = 4
"""Groups of objects between two scans of the rows: what refers to them is in memory meanwhile."""
_COPIED: Final = ("sha256", "size_bytes", *PLACE, "object_offsets")
MIN_AGE_HOURS: Final = 24.0


class Run(Protocol):
    """Runs a function for each of some tasks and gives the results in order."""

    def __call__(self, tasks: Sequence[T], work: Callable[[T], R], /) -> list[R]:
        """Run them."""
        ...


def in_threads(tasks: Sequence[T], work: Callable[[T], R], /) -> list[R]:
    """Run tasks in this process, as `jobs.run_tasks` runs them in Spark."""
    with ThreadPoolExecutor(min(THREADS, max(1, len(tasks)))) as pool:
        return list(pool.map(work, tasks))


@dataclass(slots=True)
class CompactionReport:
    """What a compaction did, or would do.

    Attributes
    ----------
    run_id, dry_run
        which run, and whether it only looked
    merged_files, into_files
        data files that were merged, by table, and how many they became
    moved_objects
        objects that lie in another file now
    deleted_files, deleted_bytes
        data files that no kept version needs
    leftovers
        what killed runs left in the folders of runs
    left_alone
        groups that another writer changed meanwhile, or that have damage; why
    seconds
        how long it took
    """

    run_id: str
    dry_run: bool = False
    merged_files: dict[str, int] = field(default_factory=dict)
    into_files: dict[str, int] = field(default_factory=dict)
    moved_objects: int = 0
    deleted_files: int = 0
    deleted_bytes: int = 0
    leftovers: int = 0
    left_alone: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, table: str, files: int, into: int) -> None:
        """Count a merge."""
        self.merged_files[table] = self.merged_files.get(table, 0) + files
        self.into_files[table] = self.into_files.get(table, 0) + into


def compact(
    storage: Storage,
    *,
    retain_days: float | None = None,
    min_age_hours: float = MIN_AGE_HOURS,
    dry_run: bool = False,
    run: Run = in_threads,
    progress: Progress = SILENT,
) -> CompactionReport:
    """Merge small files, delete what no kept version needs; safe to kill, to repeat, to run twice.

    Parameters
    ----------
    storage
        the archive
    retain_days
        for so long versions stay whole after they were replaced; None: as the table `instances`
        says, 30 days unless somebody changed it
    min_age_hours
        younger data files of `objects`, and younger files that no version lists, are not touched: a
        job may still be writing them
    dry_run
        only look
    run
        how tasks run
    progress
        told of groups as they are done

    Raises
    ------
    StorageError
        where the storage fails, or a log is not as it was written: what it lists would be lost
    UsageError
        for negative times
    """
    started = time.monotonic()
    retention = retention_of(storage, time.time_ns() // 1_000_000, retain_days, min_age_hours)
    require_sound_logs(storage, retention.since_ms)
    work = _Compaction(storage, retention, run, progress, CompactionReport(uuid.uuid4().hex))
    if dry_run:
        work.report.dry_run = True
        work.look()
        work.report.seconds = time.monotonic() - started
        return work.report
    options = {"retain_days": retain_days, "min_age_hours": min_age_hours}
    versions = versions_now(storage)
    with recorded_run(
        storage, work.report.run_id, "compact", versions, options=options
    ) as recorded:
        work.do()
        work.report.seconds = time.monotonic() - started
        recorded["metrics"] = asdict(work.report)
    return work.report


@dataclass(frozen=True, slots=True)
class _Compaction:
    storage: Storage
    retention: Retention
    run: Run
    progress: Progress
    report: CompactionReport

    def look(self) -> None:
        """Count what would be done."""
        for table in ORDER:
            for group in row_groups_to_merge(self.storage, table):
                self.report.count(table, len(group), 1)
        for files in self._object_groups():
            self.report.count(OBJECTS.name, len(files), 1)
        for table in TABLES:
            infos = self._expired(table)
            self.report.deleted_files += len(infos)
            self.report.deleted_bytes += sum(info.size for info in infos)
        self.report.leftovers = len(leftovers(self.storage, self.retention))

    def do(self) -> None:
        """Do it."""
        with self.progress.stage("merge rows", None, "groups") as stage:
            for table in ORDER:
                self._merge_rows(table, stage)
        self._list_again()
        groups = self._object_groups()
        with self.progress.stage("merge objects", len(groups), "groups") as stage:
            for start in range(0, len(groups), _GROUPS_AT_ONCE):
                part = groups[start : start + _GROUPS_AT_ONCE]
                self._merge_objects(part)
                stage.advance(len(part))
        self._drop_projections()
        self._drop_conflicts()
        for table in TABLES:
            make_checkpoint(Snapshot(self.storage, table))
        with self.progress.stage("delete", len(TABLES), "tables") as stage:
            for table in TABLES:
                count, size_bytes = delete_files(self.storage, table, self._expired(table))
                self.report.deleted_files += count
                self.report.deleted_bytes += size_bytes
                stage.advance()
        left = leftovers(self.storage, self.retention)
        self.report.leftovers = delete_leftovers(self.storage, left)

    # rows

    def _merge_rows(self, table: str, stage: Stage) -> None:
        groups = row_groups_to_merge(self.storage, table)
        for start in range(0, len(groups), _GROUPS_AT_ONCE):
            part = groups[start : start + _GROUPS_AT_ONCE]
            tasks = [RowMerge(self.storage, table, tuple(group)) for group in part]
            for group, merged in zip(part, self.run(tasks, merge_rows), strict=True):
                if isinstance(merged, str):
                    self.report.left_alone.append(merged)
                elif self._replace(table, group, [merged], data_change=False):
                    self.report.count(table, len(group), 1)
                stage.advance()

    def _replace(
        self,
        table: str,
        removed: Sequence[ActiveFile],
        added: Sequence[AddedFile],
        *,
        data_change: bool,
    ) -> bool:
        """Commit; tell whether it could be."""
        try:
            replace_files(
                self.storage,
                table,
                removed,
                added,
                data_change=data_change,
                run_id=self.report.run_id,
                operation="compact",
            )
        except CommitConflictError as error:
            self.report.left_alone.append(str(error))
            return False
        return True

    # objects

    def _kept_pieces(self) -> Pieces:
        """Give the pieces that rows of kept versions refer to."""
        kept = Pieces()
        for table in ROW_TABLES:
            kept.add_rows(self.storage, table, self._kept_row_files(table))
        return kept

    def _kept_row_files(self, table: str) -> list[ActiveFile]:
        """List the files of kept versions; of old ones, those that other engines left.

        A file of the newest version that is lost is an error where it is read: without its rows,
        bytes would seem to be nobody's.
        """
        there, snapshot = data_files(self.storage, table), Snapshot(self.storage, table)
        active = {file.path for file in snapshot.files()}
        kept = kept_files(snapshot, self.retention).values()
        return [file for file in kept if file.path in there or file.path in active]

    def _list_again(self) -> None:
        """List files of objects that rows refer to and the table does not: an undelete was late."""
        current = Pieces()
        for table in ROW_TABLES:
            current.add_rows(self.storage, table, Snapshot(self.storage, table).files())
        list_again(self.storage, sorted(current.marks), self.report.run_id, "compact")

    def _object_groups(self) -> list[list[ActiveFile]]:
        """Group files of objects: those with pieces that nothing kept refers to, and small ones."""
        kept = self._kept_pieces()
        objects = Snapshot(self.storage, OBJECTS.name)
        there, records = data_files(self.storage, OBJECTS.name), objects.records()
        partly_dead, small = [], []
        for file in sorted(objects.files(), key=lambda file: _age(there, file.path)):
            info, count = there.get(file.path), records[file.path]
            if info is None or count is None or age_ms(info) > self.retention.young_since_ms:
                continue
            live = kept.count(file.path)
            weight = max(file.size_bytes / MERGED_OBJECT_BYTES, count / MERGED_PIECES)
            if live < count:
                partly_dead.append((file, min(weight * live / max(1, count), 0.49)))
            else:
                small.append((file, weight))
        return group_up(partly_dead, fewest=1) + group_up(small)

    def _merge_objects(self, groups: Sequence[Sequence[ActiveFile]]) -> None:
        names = [file.path for group in groups for file in group]
        rows = self._rows_about(names)
        tasks = [ObjectMerge(self.storage, tuple(group), _rows_of(rows, group)) for group in groups]
        moved: list[MergedObjects] = []
        for merged in self.run(tasks, merge_objects):
            if isinstance(merged, str):
                self.report.left_alone.append(merged)
            elif merged.added is None or self._replace(
                OBJECTS.name, [], [merged.added], data_change=False
            ):
                moved.append(merged)
        moves: dict[tuple[str, int], tuple[str, int, list[int]]] = {}
        for merged in moved:
            moves |= merged.moves
        for table in ROW_TABLES:
            move_rows(self.storage, table, moves, self.report.run_id)
        # rows that others wrote or brought back meanwhile may refer to what was not copied
        still = Pieces()
        still.add(self._rows_about(names))
        for merged in moved:
            done = [file for file in merged.files if file.path not in still]
            if done and self._replace(OBJECTS.name, done, [], data_change=False):
                self.report.count(OBJECTS.name, len(done), int(merged.added is not None))
                self.report.moved_objects += len(merged.moves)

    def _rows_about(self, names: Sequence[str]) -> pa.Table:
        """Read where rows say that the objects of some files are, in the order of their studies."""
        parts = []
        for table in ROW_TABLES:
            columns = [name for name, _ in CLUSTERING] if table == INSTANCES.name else []
            snapshot = Snapshot(self.storage, table)
            parts.append(snapshot.read([*_COPIED, *columns], refers_to(names)))
        return pa.concat_tables(parts, promote_options="default")

    # what nobody needs

    def _drop_projections(self) -> None:
        """Take those from the list whose scan no kept version has: they can be made again."""
        table, there = PROJECTIONS.name, data_files(self.storage, PROJECTIONS.name)
        old = [
            file
            for file in Snapshot(self.storage, table).files()
            if file.path in there and age_ms(there[file.path]) <= self.retention.young_since_ms
        ]
        column = "series_instance_uid"
        series = {file: uids_in(self.storage, table, column, [file]) for file in old}
        gone = self._in_no_kept_version(column, set().union(*series.values()))
        dead = [file for file, uids in series.items() if uids <= gone]
        if dead and self._replace(table, dead, [], data_change=True):
            self.report.count(table, len(dead), 0)

    def _drop_conflicts(self) -> None:
        """Drop what came under the UID of an object that was deleted: it goes with that object."""
        table, column = REJECTS.name, "sop_instance_uid"  # which conflicts alone have
        files = Snapshot(self.storage, table).files()
        named = {file: uids_in(self.storage, table, column, [file]) for file in files}
        unknown = set().union(*named.values())
        unknown -= Catalog(self.storage).known(unknown).keys()
        gone = self._in_no_kept_version(column, unknown)
        dropped = pa.array(sorted(gone), pa.string())
        for file, uids in named.items():
            if uids & gone:
                rest = rewrite_without(self.storage, REJECTS, file, column, dropped)
                left = [] if rest is None else [rest]
                if self._replace(table, [file], left, data_change=True):
                    self.report.count(table, 1, len(left))

    def _in_no_kept_version(self, column: str, uids: set[str]) -> set[str]:
        """Choose the UIDs that no version of `instances` has which is kept."""
        if not uids:
            return set()
        kept = self._kept_row_files(INSTANCES.name)
        return uids - uids_in(self.storage, INSTANCES.name, column, kept, uids)

    def _expired(self, table: str) -> list[Any]:
        # what lies there is listed before the log is read: what was committed since is in the log
        there = data_files(self.storage, table)
        names = kept_files(Snapshot(self.storage, table), self.retention)
        infos = expired(there, names, self.retention)
        if infos and table == OBJECTS.name:
            kept = self._kept_pieces()
            return [info for info in infos if info.base_name not in kept]
        return infos


def _age(there: Mapping[str, Any], path: str) -> tuple[int, str]:
    return age_ms(there[path]) if path in there else 0, path


def _rows_of(rows: pa.Table, group: Sequence[ActiveFile]) -> pa.Table:
    names = pa.array([file.path for file in group], pa.string())
    order = [key for key in CLUSTERING if key[0] in rows.column_names]
    chosen = rows.filter(pc.is_in(rows["object_file"], names))
    return chosen.sort_by([*order, ("object_file", "ascending"), ("object_row_group", "ascending")])


def row_groups_to_merge(storage: Storage, table: str) -> list[list[ActiveFile]]:
    """Group the small files of a table, neighbours by the order of their rows."""
    snapshot = Snapshot(storage, table)
    files = snapshot.files_by(ORDER[table][0][0])
    if len(files) < FEWEST_FILES:
        return []
    return group_up((file, decoded_weight(storage, table, file)) for file in files)
