"""Intake: bytes in, rows out. The one body of every ingest, in a Spark task or in this process.

An `Intake` reads sources and writes their bytes and rows to data files that nobody sees yet::

    source ── index_instance ──▶ instances row in an InstanceFile, bytes in an ObjectFile
                │                 same UID and bytes as a stored one ──▶ counted as duplicate,
                nothing written
                └─ DicomDecodeError ──▶ rejects row (bytes in an ObjectFile too, so that nothing is
                lost); what was refused before is counted, not kept again

What it holds is bounded, whatever the size and number of objects; what it hands on are files, keys
and counts. `commit_intake` then makes the results of all tasks visible: bytes first, rows second.
What fails before that takes its files away; what is killed leaves files that no table lists.
"""

import hashlib
import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa

from pacspark.dicom.decode import InstanceIndex, index_instance
from pacspark.errors import DicomDecodeError, ObjectChangedError, StorageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import AddedFile, ObjectFile, ObjectLocation, remove_file
from pacspark.tables.reports import CONFLICT, NOT_DICOM, IngestReport, Refused, named
from pacspark.tables.rowfiles import InstanceFiles, RowFile
from pacspark.tables.schema import INSTANCES, REJECTS, frame_columns
from pacspark.tables.sources import Source, open_source
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files, commit_rejects, commit_row_files
from pacspark.tables.zips import OpenZip

HELD_BYTES = 32 << 20
"""Small objects wait in memory up to this sum, so that one look-up answers "known?" for all of
them. Each counts as its bytes or as the header that they open to, whichever is larger."""
HELD_OBJECTS = 256
STREAMED_BYTES = 16 << 20
"""A larger object is never held: it is read once for its digest and once for its bytes."""
OBJECT_FILE_BYTES = 512 << 20
OBJECT_FILE_PIECES = 1 << 14
"""A data file that has reached this size, or so many row groups, is closed and the next begun."""
SEEN_UIDS = 1 << 16
"""UIDs are remembered up to this number: to forget one costs bytes that nobody lists, no more."""
KEPT_REJECT_BYTES = 256 << 20
"""Bytes of what is not DICOM are kept up to this size; a conflict is kept whole whatever its
size."""
_HASHED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What one task made: files of rows to commit and the files that hold their bytes.

    ``repeated`` is what the table `rejects` has already, and ``steps`` are seconds: for the report
    alone.
    """

    instances: tuple[RowFile, ...]
    rejects: pa.Table
    repeated: pa.Table
    duplicate: int
    files: tuple[AddedFile, ...]
    steps: dict[str, float]


@dataclass(slots=True)
class _Input:
    """One input as it was read; no content where nothing of it is kept."""

    source: str
    read: InstanceIndex | DicomDecodeError
    sha256: str | None = None
    size_bytes: int | None = None
    content: bytes | BinaryIO | None = None
    received_at: datetime | None = None

    @property
    def name(self) -> str:
        """By which a refusal is known again, together with the digest."""
        return self.read.sop_instance_uid if isinstance(self.read, InstanceIndex) else self.source

    @property
    def held_bytes(self) -> int:
        header = self.read.dicom_json if isinstance(self.read, InstanceIndex) else ""
        return (self.size_bytes or 0) + len(header)


@dataclass
class Intake:
    """Takes objects in one after another; bounded memory, nothing visible until committed.

    A context manager that removes what was written, unless `finish` was reached in its block.

    Parameters
    ----------
    storage
        The archive.
    run_id
        Written into every row.
    job
        From `files_of_job`, in a task.
    """

    storage: Storage
    run_id: str
    job: str = ""
    _rejects: list[dict[str, Any]] = field(default_factory=list)
    _repeated: list[dict[str, Any]] = field(default_factory=list)
    _files: list[AddedFile] = field(default_factory=list)
    _held: list[_Input] = field(default_factory=list)
    _held_bytes: int = 0
    _seen: dict[str, str] = field(default_factory=dict)
    _duplicate: int = 0
    _steps: Counter[str] = field(default_factory=Counter)
    _since: float = 0.0
    _objects: ObjectFile | None = None
    _zip: OpenZip = field(default_factory=OpenZip)
    _finished: bool = False

    def __post_init__(self) -> None:
        self._catalog = Catalog(self.storage)
        self._rows = InstanceFiles(self.storage, self.job)
        # apart: a file of which one row is in conflict would have to be written anew
        self._doubtful = InstanceFiles(self.storage, self.job)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._finished:
            return
        self._zip.close()
        if self._objects is not None:
            self._objects.abort()
        for file in self._files:
            remove_file(self.storage, "objects", file.path)
        self._rows.abort()
        self._doubtful.abort()

    def add_source(self, source: Source) -> None:
        """Take in one source; whatever is wrong with it becomes a row in `rejects`."""
        self._since = time.perf_counter()
        try:
            with open_source(source, self._zip) as stream:
                size_bytes = stream.seek(0, io.SEEK_END)
                if size_bytes != source.size_bytes:
                    raise _changed(source.size_bytes, f"{size_bytes}")
                stream.seek(0)
                self._take_stream(str(source), stream, size_bytes, source.received_at)
        except DicomDecodeError as error:
            self._hold(_Input(str(source), error))
        except ObjectChangedError:
            self._hold(_Input(str(source), _changed(source.size_bytes, "other ones")))
        except StorageError:  # the archive's own: a repeat of the whole run mends it
            raise
        except OSError as error:
            reason = DicomDecodeError(f"expected a readable file, found {error.strerror or error}")
            self._hold(_Input(str(source), reason))

    def add(
        self,
        source: str,
        data: bytes,
        *,
        index: InstanceIndex | None = None,
        received_at: datetime | None = None,
        sha256: str | None = None,
    ) -> None:
        """Take in one object that is in memory.

        Parameters
        ----------
        source
            Where it came from.
        data
            All of it.
        index
            What `index_instance` gives for it, where that is known.
        received_at
            When it arrived; None: now.
        sha256
            Of the bytes as they arrived: others are kept in `rejects`. None: whatever there is.
        """
        self._since = time.perf_counter()
        self._take_bytes(source, data, index, received_at, sha256)

    def add_stream(
        self,
        source: str,
        stream: BinaryIO,
        size_bytes: int,
        *,
        received_at: datetime | None = None,
        sha256: str | None = None,
    ) -> None:
        """Take in one object from a seekable stream that stands at its start; see `add`."""
        self._since = time.perf_counter()
        try:
            self._take_stream(source, stream, size_bytes, received_at, sha256)
        except StorageError:
            raise
        except OSError as error:
            message = f"{source}: read once, and then not again: {error.strerror or error}"
            raise StorageError(message) from error

    def refuse(self, source: str, error: DicomDecodeError) -> None:
        """Count one object as refused, without a byte of it."""
        self._hold(_Input(source, error))

    def finish(self) -> IntakeResult:
        """Close the data files, durable but not yet visible."""
        self._since = time.perf_counter()
        self._flush()
        if self._objects is not None:
            self._files.append(self._objects.close())
            self._objects = None
        self._zip.close()
        self._lap("write")
        instances = self._rows.close() + self._doubtful.close()
        self._lap("rows")
        result = IntakeResult(
            instances=instances,
            rejects=pa.Table.from_pylist(self._rejects, schema=REJECTS.arrow_schema),
            repeated=pa.Table.from_pylist(self._repeated, schema=REJECTS.arrow_schema),
            duplicate=self._duplicate,
            files=tuple(self._files),
            steps=dict(self._steps),
        )
        self._finished = True
        return result

    def _hold(self, item: _Input) -> None:
        self._held.append(item)
        self._held_bytes += item.held_bytes
        if len(self._held) >= HELD_OBJECTS or self._held_bytes >= HELD_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._take(self._held)
        self._held.clear()
        self._held_bytes = 0

    def _lap(self, step: str) -> None:
        """Charge the time since the last lap to a step."""
        now = time.perf_counter()
        self._steps[step] += now - self._since  # type: ignore[assignment]
        self._since = now

    def _take_bytes(
        self,
        source: str,
        data: bytes,
        index: InstanceIndex | None,
        received_at: datetime | None,
        arrived: str | None = None,
    ) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self._lap("hash")
        read = _damaged(arrived, digest) or index or _read(data)
        self._lap("index")
        self._hold(_Input(source, read, digest, len(data), data, received_at))

    def _take_stream(
        self,
        source: str,
        stream: BinaryIO,
        size_bytes: int,
        received_at: datetime | None = None,
        arrived: str | None = None,
    ) -> None:
        if size_bytes <= STREAMED_BYTES:
            data = b""
            while len(data) <= size_bytes and (more := stream.read(size_bytes + 1 - len(data))):
                data += more  # who makes an object as it is read gives it in parts
            if len(data) != size_bytes:
                raise _changed(size_bytes, "more" if data[size_bytes:] else f"{len(data)}")
            self._lap("read")
            self._take_bytes(source, data, None, received_at, arrived)
            return
        read = _read(stream)
        self._lap("index")
        stream.seek(0)
        digest = hashlib.sha256()
        while part := stream.read(_HASHED_BYTES):
            digest.update(part)
            if stream.tell() > size_bytes:  # before it is read to an end that it may not have
                break
        if stream.tell() != size_bytes:
            raise _changed(size_bytes, f"{stream.tell()}")
        stream.seek(0)
        self._lap("hash")
        sha256 = digest.hexdigest()
        read = _damaged(arrived, sha256) or read
        kept = isinstance(read, InstanceIndex) or size_bytes <= KEPT_REJECT_BYTES
        content = stream if kept else None
        self._take([_Input(source, read, sha256, size_bytes, content, received_at)])

    def _take(self, items: Sequence[_Input]) -> None:
        """Write what is neither stored nor refused already: one look-up in each table for all."""
        if len(self._seen) > SEEN_UIDS:
            self._seen.clear()
        uids = [item.name for item in items if isinstance(item.read, InstanceIndex)]
        self._seen.update(self._catalog.known(uid for uid in uids if uid not in self._seen))
        refused = self._catalog.refused(
            item.name
            for item in items
            if isinstance(item.read, DicomDecodeError)
            or self._seen.get(item.name, item.sha256) != item.sha256
        )
        self._lap("look up")
        rows: list[dict[str, Any]] = []
        doubtful: list[dict[str, Any]] = []
        for item in items:
            repeated = (item.name, item.sha256) in refused
            if isinstance(item.read, DicomDecodeError):
                self._reject(item, item.read, repeated=repeated)
            elif item.name not in self._seen:
                rows.append(self._stored_row(item, item.read))
                self._seen[item.name] = item.sha256 or ""
            elif self._seen[item.name] == item.sha256:
                self._duplicate += 1
            elif repeated:
                self._repeated.append(conflict_row(self._row(item) | item.read.row))
            else:  # a conflict, it seems; the commit tells
                doubtful.append(self._stored_row(item, item.read))
        self._lap("write")
        for files, found in ((self._rows, rows), (self._doubtful, doubtful)):
            if found:
                files.append(pa.Table.from_pylist(found, schema=INSTANCES.arrow_schema))
        self._lap("rows")

    def _write(self, data: bytes | BinaryIO, sha256: str | None) -> ObjectLocation:
        if self._objects is not None and (
            self._objects.size_bytes >= OBJECT_FILE_BYTES
            or self._objects.row_groups >= OBJECT_FILE_PIECES
        ):
            self._files.append(self._objects.close())
            self._objects = None
        if self._objects is None:
            self._objects = ObjectFile(self.storage, self.job)
        begun = self._objects.row_groups, self._objects.size_bytes
        try:
            return self._objects.append(data, sha256=sha256)
        except OSError as error:
            if isinstance(error, ObjectChangedError) or not isinstance(error, StorageError):
                self._take_back(self._objects, *begun)
            raise

    def _take_back(self, objects: ObjectFile, row_groups: int, size_bytes: int) -> None:
        """Leave no part of an object among the bytes."""
        if row_groups:
            objects.cut(row_groups, size_bytes)
        else:
            objects.abort()
            self._objects = None

    def _row(self, item: _Input) -> dict[str, Any]:
        return {
            "source": item.source,
            "sha256": item.sha256,
            "size_bytes": item.size_bytes,
            "received_at": item.received_at or datetime.now(UTC),
            "run_id": self.run_id,
        }

    def _stored_row(self, item: _Input, index: InstanceIndex) -> dict[str, Any]:
        assert item.content is not None  # noqa: S101 -- only refused bytes are not kept
        return (
            index.row
            | self._row(item)
            | self._write(item.content, item.sha256).columns()
            | frame_columns(index.frames)
            | {"dicom_json": index.dicom_json}
        )

    def _reject(self, item: _Input, error: DicomDecodeError, *, repeated: bool) -> None:
        row = self._row(item) | {"error_class": type(error).__name__, "message": str(error)}
        if repeated:
            self._repeated.append(row)
        elif item.content is None:
            self._rejects.append(row)
        else:
            self._rejects.append(row | self._write(item.content, item.sha256).columns())


def _changed(expected_bytes: int, found: str) -> DicomDecodeError:
    return DicomDecodeError(
        f"expected {expected_bytes} bytes as listed, found {found}: it changed while it was read; "
        "ingest it again"
    )


def _damaged(arrived: str | None, found: str) -> DicomDecodeError | None:
    """Tell of bytes that are not those that arrived; what they show is nobody's."""
    if arrived in {None, found}:
        return None
    return DicomDecodeError(
        f"expected bytes of SHA-256 {arrived}, found {found}: a disk has changed them since they "
        "came; send the object again"
    )


def _read(data: bytes | BinaryIO) -> InstanceIndex | DicomDecodeError:
    try:
        return index_instance(data)
    except DicomDecodeError as error:
        return error


def commit_intake(
    storage: Storage, results: Sequence[IntakeResult], run_id: str, operation: str = "ingest"
) -> IngestReport:
    """Make what tasks took in visible: bytes first, then rows, whose commit is the moment of truth.

    Parameters
    ----------
    storage
        The archive.
    results
        What the tasks of one batch returned.
    run_id, operation
        Written into the commits.

    Raises
    ------
    CommitConflictError
        When other writers won every attempt; nothing of the batch is visible then.
    """
    started = time.perf_counter()
    files = [file for result in results for file in result.files]
    if files:
        commit_files(storage, "objects", files, run_id=run_id, operation=operation)
    rows = [file for result in results for file in result.instances]
    outcome = commit_row_files(storage, rows, run_id=run_id, operation=operation)
    rejects = [row for result in results for row in result.rejects.to_pylist()]
    rejects += [conflict_row(row) for row in outcome.conflicts]
    kept = pa.Table.from_pylist(rejects, schema=REJECTS.arrow_schema)
    commit_rejects(storage, kept, run_id=run_id, operation=operation)
    refused = rejects + [row for result in results for row in result.repeated.to_pylist()]
    conflicts = sum(row["error_class"] == CONFLICT for row in refused)
    steps: Counter[str] = Counter({"commit": time.perf_counter() - started})
    for result in results:
        steps.update(result.steps)
    return IngestReport(
        run_id=run_id,
        stored=outcome.stored.num_rows,
        duplicate=outcome.duplicate + sum(result.duplicate for result in results),
        conflict=conflicts,
        rejected=len(refused) - conflicts,
        bytes_stored=sum(outcome.stored["size_bytes"].to_pylist()),
        refused=named(
            Refused(row["source"], row["error_class"], row["message"]) for row in refused
        ),
        not_dicom=sum(row["error_class"] == NOT_DICOM for row in refused),
        steps=dict(steps),
    )


def conflict_row(row: dict[str, Any]) -> dict[str, Any]:
    """Give the row of `rejects` of an instance whose UID is stored with other bytes."""
    message = (
        f"SOP Instance UID {row['sop_instance_uid']}: expected the bytes that are stored, "
        "found others; the stored object stays"
    )
    kept = {name: row[name] for name in REJECTS.arrow_schema.names if name in row}
    return kept | {"error_class": CONFLICT, "message": message}
