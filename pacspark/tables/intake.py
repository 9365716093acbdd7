"""Intake: bytes in, rows out. The one body of every ingest, in a Spark task or in this process.

An `Intake` reads sources, writes their bytes to data files that nobody sees yet, and keeps one row
for each::

    source ── index_instance ──▶ instances row (bytes in an ObjectFile)
                │                 same UID and bytes as a stored one ──▶ counted as duplicate,
                nothing written
                └─ DicomDecodeError ──▶ rejects row (bytes in an ObjectFile too, so that nothing is
                lost)

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
from pacspark.tables.writer import append_rows, commit_files, commit_instances

HELD_BYTES = 32 << 20
"""Small objects wait in memory up to this sum, so that one look-up answers "known?" for all of
them."""
HELD_OBJECTS = 256
STREAMED_BYTES = 16 << 20
"""A larger object is never held: it is read once for its digest and once for its bytes."""
OBJECT_FILE_BYTES = 512 << 20
"""A data file that has reached this size is closed and the next one begun."""
KEPT_REJECT_BYTES = 256 << 20
"""Bytes of what is not DICOM are kept up to this size; a conflict is kept whole whatever its
size."""


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What one task made: rows to commit and the files that hold their bytes."""

    instances: pa.Table
    rejects: pa.Table
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
class _Held:
    source: str
    index: InstanceIndex
    sha256: str
    data: bytes


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
    _files: list[AddedFile] = field(default_factory=list)
    _held: list[_Held] = field(default_factory=list)
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
                if size_bytes > STREAMED_BYTES:
                    self._add_stream(str(source), stream, size_bytes)
                else:
                    self.add(str(source), stream.read())
        except DicomDecodeError as error:
            self._reject(str(source), error, None)
        except StorageError:  # the archive's own: a repeat of the whole run mends it
            raise
        except OSError as error:
            reason = DicomDecodeError(f"expected a readable file, found {error.strerror or error}")
            self._reject(str(source), reason, None)

    def add(self, source: str, data: bytes) -> None:
        """Take in one object that is in memory."""
        try:
            index = index_instance(data)
        except DicomDecodeError as error:
            self._reject(source, error, io.BytesIO(data))
            return
        self._held.append(_Held(source, index, hashlib.sha256(data).hexdigest(), data))
        if (
            len(self._held) >= HELD_OBJECTS
            or sum(len(held.data) for held in self._held) >= HELD_BYTES
        ):
            self._flush()

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
            duplicate=self._duplicate,
            files=tuple(self._files),
        )

    def _flush(self) -> None:
        unseen = [
            uid for held in self._held if (uid := held.index.sop_instance_uid) not in self._seen
        ]
        self._seen.update(self._catalog.known(unseen))
        for held in self._held:
            if not self._is_duplicate(held.index, held.sha256):
                self._store(held.source, held.index, self._write(held.data, held.sha256))
        self._held.clear()

    def _add_stream(self, source: str, stream: BinaryIO, size_bytes: int) -> None:
        try:
            index = index_instance(stream)
        except DicomDecodeError as error:
            stream.seek(0)
            self._reject(source, error, stream if size_bytes <= KEPT_REJECT_BYTES else None)
            return
        stream.seek(0)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        self._seen.update(self._catalog.known([index.sop_instance_uid]))
        if not self._is_duplicate(index, sha256):
            stream.seek(0)
            self._store(source, index, self._write(stream, sha256))

    def _is_duplicate(self, index: InstanceIndex, sha256: str) -> bool:
        """Count a duplicate; of a conflict the bytes are kept, and the commit tells it apart."""
        if self._seen.setdefault(index.sop_instance_uid, "") == sha256:
            self._duplicate += 1
            return True
        self._seen[index.sop_instance_uid] = self._seen[index.sop_instance_uid] or sha256
        return False

    def _write(self, data: bytes | BinaryIO, sha256: str | None = None) -> ObjectLocation:
        if self._objects is not None and self._objects.size_bytes >= OBJECT_FILE_BYTES:
            self._files.append(self._objects.close())
            self._objects = None
        if self._objects is None:
            self._objects = ObjectFile(self.storage, self.job)
        return self._objects.append(data, sha256=sha256)

    def _store(self, source: str, index: InstanceIndex, location: ObjectLocation) -> None:
        self._rows.append(
            index.row
            | location.columns()
            | frame_columns(index.frames)
            | {
                "dicom_json": index.dicom_json,
                "source": source,
                "received_at": datetime.now(UTC),
                "run_id": self.run_id,
            }
        )

    def _reject(self, source: str, error: DicomDecodeError, stream: BinaryIO | None) -> None:
        row = {
            "source": source,
            "received_at": datetime.now(UTC),
            "error_class": type(error).__name__,
            "message": str(error),
            "run_id": self.run_id,
        }
        self._rejects.append(row | (self._write(stream).columns() if stream is not None else {}))


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
    conflicts = [_conflict_row(row) for row in outcome.conflicts]
    rejects = pa.concat_tables(
        [
            *(result.rejects for result in results),
            pa.Table.from_pylist(conflicts, schema=REJECTS.arrow_schema),
        ]
    )
    if rejects.num_rows:
        append_rows(storage, "rejects", rejects, run_id=run_id, operation=operation)
    named = rejects.slice(0, MAX_REFUSED_SHOWN).select(["source", "error_class", "message"])
    return IngestReport(
        run_id=run_id,
        stored=outcome.stored.num_rows,
        duplicate=outcome.duplicate + sum(result.duplicate for result in results),
        conflict=len(conflicts),
        rejected=rejects.num_rows - len(conflicts),
        bytes_stored=sum(outcome.stored["size_bytes"].to_pylist()),
        refused=tuple(Refused(**row) for row in named.to_pylist()),
    )


def _conflict_row(row: dict[str, Any]) -> dict[str, Any]:
    message = (
        f"SOP Instance UID {row['sop_instance_uid']}: expected the bytes that are stored, "
        "found others; the stored object stays"
    )
    kept = {name: row[name] for name in REJECTS.arrow_schema.names if name in row}
    return kept | {"error_class": "conflict", "message": message}
