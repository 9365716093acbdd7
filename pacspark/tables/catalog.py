"""Reading an archive: find, look up, fetch bytes, history. Nothing here writes.

Only the columns that a question needs are read, from the files that, by the log, can hold the
answer.
"""

import hashlib
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds

from pacspark.dicom.conditions import Query
from pacspark.errors import (
    InstanceNotFoundError,
    SeriesNotFoundError,
    StorageError,
    UsageError,
)
from pacspark.tables.changes import CHANGE_COLUMNS, Changes, changes_between
from pacspark.tables.datafile import PIECE_BYTES
from pacspark.tables.log import read_origin
from pacspark.tables.lookup import find_rows, refused_in
from pacspark.tables.schema import INSTANCES, TABLES
from pacspark.tables.search import search
from pacspark.tables.sifting import files_with
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage

_ORDER: Final = (("instance_number", "ascending"), ("sop_instance_uid", "ascending"))
_HISTORY: Final = pa.schema(
    [
        ("table", pa.string()),
        ("version", pa.int64()),
        ("committed_at", pa.timestamp("ms", tz="UTC")),
        ("operation", pa.string()),
        ("run_id", pa.string()),
        ("user", pa.string()),
        ("pacspark", pa.string()),
    ]
)


class Catalog:
    """An archive to read from; every call sees the newest version, unless `as_of` fixes one.

    Cheap to make and picklable; it keeps the log in memory from one call to the next.

    Parameters
    ----------
    storage
        where the archive is
    as_of
        a version of `instances`, or a moment (UTC where it has no zone): every table is seen as it
        was then
    """

    def __init__(self, storage: Storage, as_of: int | datetime | None = None) -> None:
        self.storage = storage
        self.as_of = as_of
        self._snapshots: dict[str, Snapshot] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.storage, self.as_of)

    def __repr__(self) -> str:
        return f"Catalog({self.storage.root!r}, as_of={self.as_of!r})"

    # what there is

    def find(self, query: Query) -> pa.Table:
        """Find patients, studies, series or instances by PS3.4 matching.

        Parameters
        ----------
        query
            from :func:`pacspark.dicom.matching.parse_query`

        Returns
        -------
        pyarrow.Table
            a row per match, ordered; columns named by DICOM keyword: the promoted attributes of the
            level and those above it, what the query names, and the counts that PS3.4 C.6 computes
        """
        return search(self._snapshot("instances"), query)

    def known(self, uids: Iterable[str]) -> dict[str, str]:
        """Tell which SOP Instance UIDs are in the archive, and the SHA-256 of their bytes."""
        wanted = list(dict.fromkeys(uids))
        if not wanted:
            return {}
        found = self._rows_of(wanted, ("sop_instance_uid", "sha256")).to_pydict()
        return dict(zip(found["sop_instance_uid"], found["sha256"], strict=True))

    def refused(self, names: Iterable[str]) -> set[tuple[str, str | None]]:
        """Tell what was refused before.

        Parameters
        ----------
        names
            sources, and SOP Instance UIDs of objects that conflict with what is stored

        Returns
        -------
        set
            of name and SHA-256; None where the bytes could not be read
        """
        wanted = list(names)
        return refused_in(self._snapshot("rejects"), wanted) if wanted else set()

    def instance(self, uid: str, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """Give the row of one instance.

        Parameters
        ----------
        uid
            its SOP Instance UID
        columns
            of `instances`; None for all, ``dicom_json`` included

        Raises
        ------
        InstanceNotFoundError
            where the archive does not hold it
        """
        rows = self._rows_of([uid], INSTANCES.require_columns(columns))
        if not rows.num_rows:
            message = f"{self.storage.root}: no instance with the SOP Instance UID {uid[:64]!r}"
            raise InstanceNotFoundError(message)
        row: dict[str, Any] = rows.slice(0, 1).to_pylist()[0]
        return row

    def count_of(self, series_uid: str) -> int:
        """Tell how many instances of a series the archive has."""
        rows = self._of("series_instance_uid", series_uid, ("series_instance_uid",))
        return int(rows.num_rows)

    def instances_of(self, series_uid: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Give the rows of a series, by instance number and UID.

        Parameters
        ----------
        series_uid
            a Series Instance UID
        columns
            of `instances`; None for all, ``dicom_json`` included: name what you need where a series
            is long

        Raises
        ------
        SeriesNotFoundError
            where the archive does not hold it; the message says what else the UID is
        """
        names = INSTANCES.require_columns(columns)
        needed = tuple(dict.fromkeys([*names, *(name for name, _ in _ORDER)]))
        rows = self._of("series_instance_uid", series_uid, needed)
        if not rows.num_rows:
            message = f"{self.storage.root}: no series {series_uid[:64]!r}{self._hint(series_uid)}"
            raise SeriesNotFoundError(message)
        return rows.sort_by(list(_ORDER)).select(names)

    def each_file_of(self, where: Mapping[str, str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Give rows of `instances` file by file, so that all of an archive can be gone through.

        Parameters
        ----------
        where
            column -> the text it has to have; none: every row
        columns
            of `instances`
        """
        snapshot = self._snapshot("instances")
        conditions = [ds.field(column) == value for column, value in where.items()]
        wanted = reduce(operator.and_, conditions) if conditions else None
        for file in files_with(snapshot, {column: [value] for column, value in where.items()}):
            yield snapshot.read(list(columns), wanted, [file])

    def _hint(self, uid: str) -> str:
        series = self._of("study_instance_uid", uid, ("series_instance_uid",))
        if series.num_rows:
            uids = sorted(set(series["series_instance_uid"].to_pylist()))
            more = f" and {len(uids) - 3} more" if len(uids) > 3 else ""
            return f": it is a study, with the series {', '.join(uids[:3])}{more}"
        instance = self._rows_of([uid], ("series_instance_uid",))
        if instance.num_rows:
            return f": it is an instance, of the series {instance['series_instance_uid'][0]}"
        return "; `pacspark find --level series` lists those that there are"

    # bytes

    def read_object(self, row: Mapping[str, Any]) -> bytes:
        """Read a whole object as it was received, and check its digest.

        Parameters
        ----------
        row
            of `instances` or `rejects`, with the columns of `schema.LOCATION_COLUMNS`

        Raises
        ------
        StorageError
            where the bytes are gone or are not what was stored
        """
        return b"".join(self.stream_object(row))

    def stream_object(self, row: Mapping[str, Any]) -> Iterator[bytes]:
        """Read an object piece by piece, at most 16 MiB each.

        The digest is known only at the end: the error that tells of changed bytes comes after the
        last piece.
        """
        digest = hashlib.sha256()
        for start in range(0, max(row["size_bytes"], 1), PIECE_BYTES):
            piece = self.read_range(row, start, min(PIECE_BYTES, row["size_bytes"] - start))
            digest.update(piece)
            yield piece
        if digest.hexdigest() != row["sha256"]:
            message = (
                f"{self.storage.root}: objects/{row['object_file']}: expected bytes of SHA-256 "
                f"{row['sha256']}, found {digest.hexdigest()}"
            )
            raise StorageError(message)

    def read_range(self, row: Mapping[str, Any], start: int, length: int) -> bytes:
        """Read a part of an object: one range read for each of the pieces it touches.

        Parameters
        ----------
        row
            of `instances` or `rejects`, with the columns of `schema.LOCATION_COLUMNS`
        start, length
            in bytes of the object

        Raises
        ------
        UsageError
            where the object has no such bytes
        StorageError
            where they cannot be read
        """
        offsets = row["object_offsets"]
        if offsets is None:
            message = f"{row.get('source')}: the bytes of this input were not kept"
            raise UsageError(message)
        if start < 0 or length < 0 or start + length > row["size_bytes"]:
            message = (
                f"bytes: expected a range within the object's {row['size_bytes']} bytes, found "
                f"{length} from {start}"
            )
            raise UsageError(message)
        if not length:
            return b""
        path = self.storage.path("objects", row["object_file"])
        parts = []
        with (
            self.storage.errors(f"read objects/{row['object_file']}"),
            self.storage.filesystem.open_input_file(path) as stream,
        ):
            for number in range(start // PIECE_BYTES, (start + length - 1) // PIECE_BYTES + 1):
                first = max(start - number * PIECE_BYTES, 0)
                last = min(start + length - number * PIECE_BYTES, PIECE_BYTES)
                part = stream.read_at(last - first, offsets[number] + first)
                if len(part) != last - first:
                    message = f"{path}: expected {last - first} bytes, found {len(part)}"
                    raise OSError(message)
                parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # the other tables

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a whole table, or some columns of it; for the small ones."""
        return self._snapshot(name).read(columns or TABLES[name].arrow_schema.names)

    def runs(self) -> pa.Table:
        """Give the runs, the newest last."""
        return self.table("runs").sort_by([("started_at", "ascending"), ("run_id", "ascending")])

    def rejects(self) -> pa.Table:
        """Give the refused inputs, the newest last."""
        return self.table("rejects").sort_by([("received_at", "ascending")])

    def files_of(self, name: str, where: Mapping[str, Any] | None = None) -> list[str]:
        """List files that can hold rows with some values, as paths relative to the table's folder.

        Parameters
        ----------
        name
            of the table
        where
            column -> value; statistics decide, so files without such rows can be among them
        """
        wanted = {column: [value] for column, value in (where or {}).items()}
        return [file.path for file in self._snapshot(name).files(wanted)]

    def version(self, name: str = "instances") -> int:
        """Give the version of a table that this catalog sees."""
        return self._snapshot(name).version

    def changes(
        self, since: int, until: int | None = None, columns: Sequence[str] = CHANGE_COLUMNS
    ) -> Changes:
        """Tell which instances came and went between two versions of `instances`.

        Parameters
        ----------
        since, until
            versions, the earlier one first; None for what this catalog sees
        columns
            of `instances`, to give of each

        Raises
        ------
        UsageError
            where there are no such versions or columns
        StorageError
            where what the earlier version lists is not kept any more
        """
        return changes_between(
            self.storage, since, self.version() if until is None else until, columns
        )

    def versions(self, *names: str) -> pa.Table:
        """List every version of some tables, of all unless named: when it was made, by whom.

        Columns: table, version, committed_at, operation, run_id, user, pacspark (version of the
        code). The newest is last.
        """
        rows = [row for name in names or TABLES for row in self._history(name)]
        rows.sort(key=lambda row: (row["committed_at"], row["table"], row["version"]))
        return pa.Table.from_pylist(rows, schema=_HISTORY)

    def _history(self, name: str) -> Iterator[dict[str, Any]]:
        last, newest = self._snapshot(name).version, Snapshot(self.storage, name)
        with self.storage.errors(f"read the history of {name}"):
            entries = newest.delta.history()  # of an older version, delta-rs gives it all as well
        for version, entry in zip(itertools.count(newest.version, -1), entries, strict=False):
            if version > last:
                continue
            origin = read_origin(entry.get("userMetadata"))
            yield {
                "table": name,
                "version": version,
                "committed_at": datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
                "operation": origin.get("operation", entry.get("operation")),
                "run_id": origin.get("run_id"),
                "user": origin.get("user", entry.get("userName")),
                "pacspark": origin.get("pacspark"),
            }

    def _snapshot(self, name: str) -> Snapshot:
        snapshot = self._snapshots.get(name)
        if snapshot is None:
            as_of = self.as_of
            if isinstance(as_of, int) and name != "instances":
                as_of = self._end_of(as_of)
            snapshot = Snapshot(self.storage, name, as_of)
            if as_of is not None:
                snapshot.require_kept()
            self._snapshots[name] = snapshot
        elif self.as_of is None:
            snapshot.refresh()
        return snapshot

    def _end_of(self, version: int) -> datetime | None:
        """Give the last moment at which a version of `instances` was the newest; None for now."""
        newest = Catalog(self.storage)
        for row in newest._history("instances"):
            if row["version"] == version + 1:
                committed_at: datetime = row["committed_at"]
                return committed_at - timedelta(milliseconds=1)
        return None

    def _of(self, column: str, uid: str, columns: Sequence[str]) -> pa.Table:
        snapshot = self._snapshot("instances")
        files = files_with(snapshot, {column: [uid]})
        return snapshot.read(columns, ds.field(column) == uid, files)

    def _rows_of(self, uids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        files = self._snapshot("instances").files({"sop_instance_uid": uids})
        return find_rows(self.storage, files, uids, columns)
