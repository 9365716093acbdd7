"""Intake: bytes in, rows out. The one body of every ingest, in a Spark task or in this process.

An `Intake` reads sources, writes their bytes to data files that nobody sees yet, and keeps one row
for each::

    source ── index_instance ──▶ instances row (bytes in an ObjectFile)
                │                 same UID and bytes as a stored one ──▶ counted as duplicate,
                nothing written
                └─ DicomDecodeError ──▶ rejects row (bytes in an ObjectFile too, so that nothing is
                lost); what was refused before is counted, not kept again

`commit_intake` then makes the results of all tasks visible: bytes first, rows second. What fails
before that takes its files away; what is killed leaves files that no table lists.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa

from pacspark.dicom.decode import InstanceIndex, index_instance
from pacspark.errors import DicomDecodeError, StorageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import AddedFile, ObjectFile, ObjectLocation, remove_file
from pacspark.tables.schema import INSTANCES, REJECTS, frame_columns
from pacspark.tables.sources import Source, open_source
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files, commit_instances, commit_rejects

HELD_BYTES = 32 << 20
"""Small objects wait in memory up to this sum, so that one look-up answers "known?" for all of
them. Each counts as its bytes or as the header that they open to, whichever is larger."""
HELD_OBJECTS = 256
STREAMED_BYTES = 16 << 20
"""A larger object is never held: it is read once for its digest and once for its bytes."""
OBJECT_FILE_BYTES = 512 << 20
"""A data file that has reached this size is closed and the next one begun."""
CONFLICT = "conflict"
"""The error class of an object whose UID is stored with other bytes."""
KEPT_REJECT_BYTES = 256 << 20
"""Bytes of what is not DICOM are kept up to this size; a conflict is kept whole whatever its
size."""


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What one task made: rows to commit and the files that hold their bytes.

    ``repeated`` is what the table `rejects` has already: for the report alone.
    """

    instances: pa.Table
    rejects: pa.Table
    repeated: pa.Table
    duplicate: int
    files: tuple[AddedFile, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused input, for people: where it came from and why."""

    source: str
    error_class: str
    message: str


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did; ``stored + duplicate + conflict + rejected`` is the number of inputs."""

    run_id: str
    stored: int = 0
    duplicate: int = 0
    conflict: int = 0
    rejected: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    refused: tuple[Refused, ...] = ()

    @property
    def inputs(self) -> int:
        """How many inputs were looked at."""
        return self.stored + self.duplicate + self.conflict + self.rejected

    @property
    def clean(self) -> bool:
        """Whether nothing was refused."""
        return not self.conflict and not self.rejected

    def refusal(self, what: str) -> str:
        """Say, of something that has to be stored whole, what was refused of it."""
        return (
            f"{what}: expected every object stored, found {self.conflict} in conflict with what "
            f"the archive holds and {self.rejected} rejected; the first: {self.refused[0].message}"
        )

    def timed(self, seconds: float) -> "IngestReport":
        """Return the same report with the time it took."""
        return replace(self, seconds=seconds)

    def __add__(self, other: "IngestReport") -> "IngestReport":
        """Join the reports of two batches of one run."""
        return IngestReport(
            run_id=self.run_id,
            stored=self.stored + other.stored,
            duplicate=self.duplicate + other.duplicate,
            conflict=self.conflict + other.conflict,
            rejected=self.rejected + other.rejected,
            bytes_stored=self.bytes_stored + other.bytes_stored,
            seconds=self.seconds + other.seconds,
            refused=(self.refused + other.refused)[:MAX_REFUSED_SHOWN],
        )


MAX_REFUSED_SHOWN = 20
"""Refused inputs that a report names; the `rejects` table has all of them."""


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
        return max(self.size_bytes or 0, len(header))


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
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _rejects: list[dict[str, Any]] = field(default_factory=list)
    _repeated: list[dict[str, Any]] = field(default_factory=list)
    _files: list[AddedFile] = field(default_factory=list)
    _held: list[_Input] = field(default_factory=list)
    _held_bytes: int = 0
    _seen: dict[str, str] = field(default_factory=dict)
    _duplicate: int = 0
    _objects: ObjectFile | None = None
    _finished: bool = False

    def __post_init__(self) -> None:
        self._catalog = Catalog(self.storage)

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
        if self._objects is not None:
            self._objects.abort()
        for file in self._files:
            remove_file(self.storage, "objects", file.path)

    def add_source(self, source: Source) -> None:
        """Take in one source; whatever is wrong with it becomes a row in `rejects`."""
        try:
            with open_source(source) as stream:
                size_bytes = stream.seek(0, io.SEEK_END)
                stream.seek(0)
                self.add_stream(str(source), stream, size_bytes)
        except DicomDecodeError as error:
            self._hold(_Input(str(source), error))
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
        """
        digest = hashlib.sha256(data).hexdigest()
        self._hold(_Input(source, index or _read(data), digest, len(data), data, received_at))

    def finish(self) -> IntakeResult:
        """Close the data files, durable but not yet visible, and return the rows."""
        self._flush()
        if self._objects is not None:
            self._files.append(self._objects.close())
            self._objects = None
        self._finished = True
        return IntakeResult(
            instances=pa.Table.from_pylist(self._rows, schema=INSTANCES.arrow_schema),
            rejects=pa.Table.from_pylist(self._rejects, schema=REJECTS.arrow_schema),
            repeated=pa.Table.from_pylist(self._repeated, schema=REJECTS.arrow_schema),
            duplicate=self._duplicate,
            files=tuple(self._files),
        )

    def _hold(self, item: _Input) -> None:
        self._held.append(item)
        self._held_bytes += item.held_bytes
        if len(self._held) >= HELD_OBJECTS or self._held_bytes >= HELD_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._take(self._held)
        self._held.clear()
        self._held_bytes = 0

    def add_stream(
        self,
        source: str,
        stream: BinaryIO,
        size_bytes: int,
        *,
        received_at: datetime | None = None,
    ) -> None:
        """Take in one object from a seekable stream that stands at its start; see `add`."""
        if size_bytes <= STREAMED_BYTES:
            self.add(source, stream.read(), received_at=received_at)
            return
        read = _read(stream)
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        stream.seek(0)
        kept = isinstance(read, InstanceIndex) or size_bytes <= KEPT_REJECT_BYTES
        content = stream if kept else None
        self._take([_Input(source, read, digest, size_bytes, content, received_at)])

    def _take(self, items: Sequence[_Input]) -> None:
        """Write what is neither stored nor refused already: one look-up in each table for all."""
        uids = [item.name for item in items if isinstance(item.read, InstanceIndex)]
        self._seen.update(self._catalog.known(uid for uid in uids if uid not in self._seen))
        refused = self._catalog.refused(
            item.name
            for item in items
            if isinstance(item.read, DicomDecodeError)
            or self._seen.get(item.name, item.sha256) != item.sha256
        )
        for item in items:
            repeated = (item.name, item.sha256) in refused
            if isinstance(item.read, DicomDecodeError):
                self._reject(item, item.read, repeated=repeated)
            elif item.name not in self._seen:
                self._seen[item.name] = item.sha256 or ""
                self._store(item, item.read)
            elif self._seen[item.name] == item.sha256:
                self._duplicate += 1
            elif repeated:
                self._repeated.append(_conflict_row(self._row(item) | item.read.row))
            else:  # a conflict, it seems; the commit tells
                self._store(item, item.read)

    def _write(self, data: bytes | BinaryIO, sha256: str | None) -> ObjectLocation:
        if self._objects is not None and self._objects.size_bytes >= OBJECT_FILE_BYTES:
            self._files.append(self._objects.close())
            self._objects = None
        if self._objects is None:
            self._objects = ObjectFile(self.storage, self.job)
        return self._objects.append(data, sha256=sha256)

    def _row(self, item: _Input) -> dict[str, Any]:
        return {
            "source": item.source,
            "sha256": item.sha256,
            "size_bytes": item.size_bytes,
            "received_at": item.received_at or datetime.now(UTC),
            "run_id": self.run_id,
        }

    def _store(self, item: _Input, index: InstanceIndex) -> None:
        assert item.content is not None  # noqa: S101 -- only refused bytes are not kept
        self._rows.append(
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
    files = [file for result in results for file in result.files]
    if files:
        commit_files(storage, "objects", files, run_id=run_id, operation=operation)
    rows = pa.concat_tables([result.instances for result in results])
    outcome = commit_instances(storage, rows, run_id=run_id, operation=operation)
    rejects = [row for result in results for row in result.rejects.to_pylist()]
    rejects += [_conflict_row(row) for row in outcome.conflicts]
    rows = pa.Table.from_pylist(rejects, schema=REJECTS.arrow_schema)
    commit_rejects(storage, rows, run_id=run_id, operation=operation)
    refused = rejects + [row for result in results for row in result.repeated.to_pylist()]
    conflicts = sum(row["error_class"] == CONFLICT for row in refused)
    return IngestReport(
        run_id=run_id,
        stored=outcome.stored.num_rows,
        duplicate=outcome.duplicate + sum(result.duplicate for result in results),
        conflict=conflicts,
        rejected=len(refused) - conflicts,
        bytes_stored=sum(outcome.stored["size_bytes"].to_pylist()),
        refused=tuple(
            Refused(row["source"], row["error_class"], row["message"])
            for row in refused[:MAX_REFUSED_SHOWN]
        ),
    )


def _conflict_row(row: dict[str, Any]) -> dict[str, Any]:
    message = (
        f"SOP Instance UID {row['sop_instance_uid']}: expected the bytes that are stored, "
        "found others; the stored object stays"
    )
    kept = {name: row[name] for name in REJECTS.arrow_schema.names if name in row}
    return kept | {"error_class": CONFLICT, "message": message}
