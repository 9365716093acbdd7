"""What an archive lists: its log, its data files, and which rows refer to which file.

Nothing here reads the bytes of an object. Memory is bounded by the number of data files, never by
that of rows.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from numpy.typing import NDArray

from pacspark.errors import StorageError
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import LISTED, FileToCheck
from pacspark.tables.logentries import logged_versions, read_entry
from pacspark.tables.logstatistics import statistics
from pacspark.tables.references import ROW_TABLES
from pacspark.tables.schema import TABLES
from pacspark.tables.seals import xxh3_in
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

_ROWS_PER_PASS: Final = 1 << 25
"""UIDs whose hashes are held at once: 256 MiB of them."""
_NAMES: Final = {"instances": "sop_instance_uid", "rejects": "source"}


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows are looked at: all, or those of a study or a series."""

    study: str | None = None
    series: str | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.study is None and self.series is None

    def files(self, snapshot: Snapshot) -> list[ActiveFile]:
        """List the files of a table that can hold rows of it."""
        return snapshot.files(self._wanted()) if snapshot.spec.name == "instances" else []

    def where(self, more: ds.Expression | None = None) -> ds.Expression | None:
        """Give the filter of its rows."""
        found = more
        for column, (value,) in self._wanted().items():
            one = ds.field(column) == value
            found = one if found is None else found & one
        return found

    def _wanted(self) -> Mapping[str, tuple[str]]:
        given = {"study_instance_uid": self.study, "series_instance_uid": self.series}
        return {column: (uid,) for column, uid in given.items() if uid is not None}


@dataclass(frozen=True, slots=True)
class Sample:
    """A share of the objects: by their digests and a seed, so always the same ones of a seed."""

    share: float
    seed: str

    def of(self, rows: pa.Table) -> pa.Table:
        """Give the rows whose objects are in it."""
        kept = [self.has(sha256) for sha256 in rows["sha256"].to_pylist()]
        return rows.filter(pa.array(kept, pa.bool_()))

    def has(self, sha256: str) -> bool:
        """Tell whether an object is in it."""
        drawn = hashlib.sha256(f"{self.seed} {sha256}".encode()).digest()[:8]
        return int.from_bytes(drawn) < self.share * 2**64


@dataclass(slots=True)
class Listing:
    """One version of every table, and the files that it lists.

    Tables of rows are opened before `objects`: bytes are committed first, so each row that is seen
    finds its file.
    """

    storage: Storage
    as_of: Mapping[str, int] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    _seals: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*ROW_TABLES, *(name for name in TABLES if name not in ROW_TABLES)]
        for name in names:
            self.snapshots[name] = Snapshot(self.storage, name, self.as_of.get(name))

    @property
    def versions(self) -> dict[str, int]:
        """The version of each table."""
        return {name: self.snapshots[name].version for name in TABLES}

    @property
    def archive_id(self) -> str:
        """What tells this archive from its replicas."""
        return self.snapshots["instances"].table_id

    def sizes(self, table: str) -> dict[str, int]:
        """Give the length of each active file."""
        return {file.path: file.size_bytes for file in self.snapshots[table].files()}

    def seals(self, table: str) -> dict[str, str | None]:
        """Give the XXH3 of each active file; empty where there is none, None for a broken seal."""
        if table not in self._seals:
            snapshot = self.snapshots[table]
            active = {file.path: "" for file in snapshot.files()}
            found: dict[str, str | None] = dict(active)
            for path, told in statistics(self.storage, table, snapshot.version, set(active)):
                found[path] = _xxh3_in(told)
            self._seals[table] = found
        return self._seals[table]

    def row_files(self, scope: Scope) -> Iterator[tuple[Snapshot, ActiveFile]]:
        """List the files whose rows refer to objects."""
        for table in ROW_TABLES:
            snapshot = self.snapshots[table]
            files = snapshot.files() if scope.everything else scope.files(snapshot)
            for file in files:
                yield snapshot, file


# what logs say of files


def broken_seals(listing: Listing) -> Iterator[Finding]:
    """Look for what the log says of files and was not sealed so: bounds that hide rows, say."""
    for table in TABLES:
        for file, xxh3 in listing.seals(table).items():
            if xxh3 is None:
                message = (
                    "expected what the log says of this file as it was sealed, found it changed"
                )
                yield Finding("log", table, file, "", "", message)


def _xxh3_in(told: str) -> str | None:
    try:
        return xxh3_in(told)
    except ValueError:
        return None


# data files that no version lists


def orphans(listing: Listing) -> Iterator[Finding]:
    """Look for data files that no version of their table lists, and tell how old they are."""
    storage, now = listing.storage, datetime.now(UTC)
    for table in TABLES:
        listed = set(listing.sizes(table))
        others = [
            info
            for info in _files_in(storage, table)
            if info.base_name.endswith(".parquet") and info.base_name not in listed
        ]
        if not others:
            continue
        once = listed_once(storage, table)
        for info in others:
            if info.base_name in once:
                continue
            hours = (now - info.mtime).total_seconds() / 3600 if info.mtime else 0.0
            message = (
                f"no version of the table lists this file of {info.size} bytes, {hours:.1f} hours "
                "old: a job that was killed, or still runs, wrote it"
            )
            yield Finding("orphan", table, info.base_name, "", "", message)


def listed_once(storage: Storage, table: str) -> set[str]:
    """Give the data files that any entry left in a table's log has ever named."""
    names: set[str] = set()
    for version in logged_versions(storage, table)[0]:
        with storage.errors(f"read the log of {table}"):
            names |= set(_named(read_entry(storage, table, version)))
    # what was added before the oldest entry left stands in the checkpoint
    snapshot = Snapshot(storage, table)
    return names | {file.path for file in snapshot.files()}


def _named(entry: bytes) -> Iterator[str]:
    for line in entry.splitlines():
        try:
            action = json.loads(line)
        except ValueError:
            continue
        for kind in ("add", "remove"):
            if isinstance(action, dict) and kind in action:
                yield action[kind]["path"]


def _files_in(storage: Storage, folder: str) -> list[pafs.FileInfo]:
    with storage.errors(f"list {folder}"):
        selector = pafs.FileSelector(storage.path(folder), allow_not_found=True)
        found = storage.filesystem.get_file_info(selector)
    return [info for info in found if info.type == pafs.FileType.File]


# rows


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows refer to each file of `objects`, and the files whose rows cannot be read."""

    rows: Mapping[str, int]
    bytes: int
    unread: frozenset[tuple[str, str]]


def count_rows(
    listing: Listing,
    scope: Scope,
    advance: Callable[[], None] = lambda: None,
    damaged: frozenset[tuple[str, str]] = frozenset(),
) -> RowCounts:
    """Count the rows that refer to each file.

    Parameters
    ----------
    listing, scope
        which rows
    advance
        called for each file of rows
    damaged
        table and name of files that are not to be opened
    """
    counts: Counter[str] = Counter()
    size_bytes = 0
    unread = set(damaged)
    for snapshot, file in listing.row_files(scope):
        advance()
        if (snapshot.spec.name, file.path) in damaged:
            continue
        own: Counter[str] = Counter()
        own_bytes = 0
        try:
            # all that `rows_of_files` will want: what cannot be read then is known now
            for batch in _batches(snapshot, file, _columns_of(snapshot.spec.name), scope):
                kept = batch.filter(pc.is_valid(batch["object_file"]))
                for pair in pc.value_counts(kept["object_file"]).to_pylist():
                    own[pair["values"]] += pair["counts"]
                own_bytes += pc.sum(kept["size_bytes"]).as_py() or 0
        except StorageError:
            unread.add((snapshot.spec.name, file.path))
            continue
        counts.update(own)
        size_bytes += own_bytes
    return RowCounts(counts, size_bytes, frozenset(unread))


def files_to_check(
    listing: Listing, rows: Mapping[str, pa.Table], *, all_rows: bool = True
) -> list[FileToCheck]:
    """Ask for the check of data files of `objects`, each beside what the log says of it.

    Parameters
    ----------
    listing
        the log
    rows
        what refers to each file
    all_rows
        whether that is all; else only the objects of these rows are to be read
    """
    snapshot = listing.snapshots["objects"]
    sizes, records = listing.sizes("objects"), snapshot.records()
    seals = listing.seals("objects") if all_rows else {}
    return [
        FileToCheck(
            name, sizes.get(name), of_file, all_rows, seals.get(name) or "", records.get(name)
        )
        for name, of_file in rows.items()
    ]


def rows_of_files(
    listing: Listing, scope: Scope, files: Sequence[str], unread: frozenset[tuple[str, str]]
) -> dict[str, pa.Table]:
    """Read what rows say of the objects in some files: :data:`fixity.LISTED`, by file."""
    wanted = pa.array(files, pa.string())
    where = ds.field("object_file").isin(wanted)
    found: dict[str, list[pa.Table]] = {}
    for snapshot, file in listing.row_files(scope):
        table = snapshot.spec.name
        if (table, file.path) in unread:
            continue
        for batch in _batches(snapshot, file, _columns_of(table), scope, where):
            for name, rows in listed_rows(table, pa.Table.from_batches([batch])).items():
                found.setdefault(name, []).append(rows)
    return {name: pa.concat_tables(parts).combine_chunks() for name, parts in found.items()}


def _columns_of(table: str) -> list[str]:
    return [_NAMES[table], "object_file", *LISTED.names[2:]]


def listed_rows(table: str, rows: pa.Table) -> dict[str, pa.Table]:
    """Give what rows of a table say of the objects in each file that they refer to."""
    rows = rows.filter(pc.is_valid(rows["object_file"])).sort_by("object_file")
    named = pa.array([table] * rows.num_rows, pa.string())
    columns = [named, *(rows[name] for name in [_NAMES[table], *LISTED.names[2:]])]
    listed = pa.Table.from_arrays(columns, schema=LISTED)
    found, start = {}, 0
    for pair in pc.value_counts(rows["object_file"].combine_chunks()).to_pylist():
        found[pair["values"]] = listed.slice(start, pair["counts"])
        start += pair["counts"]
    return found


def twins(listing: Listing, unread: frozenset[tuple[str, str]]) -> Iterator[Finding]:
    """Look for SOP Instance UIDs that have two rows, which must never be."""
    snapshot = listing.snapshots["instances"]
    files = [f for f in snapshot.files() if ("instances", f.path) not in unread]
    total = sum(count or 0 for count in snapshot.records().values())
    passes = max(1, -(-total // _ROWS_PER_PASS))
    for number in range(passes):
        hashes = [np.empty(0, np.uint64)]
        for file in files:
            for batch in _batches(snapshot, file, ["sop_instance_uid"], Scope()):
                found = _hashes(batch["sop_instance_uid"])
                hashes.append(found if passes == 1 else found[found % passes == number])
        ordered = np.sort(np.concatenate(hashes))
        suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if len(suspects):
            yield from _same_uids(snapshot, files, suspects)


def _same_uids(
    snapshot: Snapshot, files: Sequence[ActiveFile], suspects: NDArray[np.uint64]
) -> Iterator[Finding]:
    """Tell UIDs that are the same from those whose hashes are."""
    seen: dict[str, tuple[str, str]] = {}
    for file in files:
        for batch in _batches(snapshot, file, ["sop_instance_uid", "sha256"], Scope()):
            mask = pa.array(np.isin(_hashes(batch["sop_instance_uid"]), suspects))
            for row in batch.filter(mask).to_pylist():
                uid, sha256 = row["sop_instance_uid"], row["sha256"]
                if uid in seen:
                    other, digest = seen[uid]
                    message = f"expected one row, found another in {other}, of SHA-256 {digest}"
                    yield Finding("twice", "instances", file.path, uid, sha256, message)
                seen[uid] = file.path, sha256


def _hashes(uids: pa.Array) -> NDArray[np.uint64]:
    values = np.array(uids.to_pylist(), dtype=object)
    found: NDArray[np.uint64] = pd.util.hash_array(values, categorize=False)
    return found


def _batches(
    snapshot: Snapshot,
    file: ActiveFile,
    columns: Sequence[str],
    scope: Scope,
    where: ds.Expression | None = None,
) -> Iterator[pa.RecordBatch]:
    wanted: Any = scope.where(where) if snapshot.spec.name == "instances" else where
    yield from snapshot.batches(columns, wanted, [file])
