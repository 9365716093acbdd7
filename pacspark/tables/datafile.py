"""Data files: Parquet written by a task, invisible until its add action is committed.

A file of `objects` is laid out so that any piece of any object is one range read::

    row group k:  sha256 | piece | content      one row, one page per column, nothing compressed
                                   ▲     ▲
                        offset of piece  end of the row group
"""

import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pacspark.errors import ObjectChangedError, StorageError
from pacspark.tables.schema import OBJECTS, TableSpec
from pacspark.tables.seals import SealedStream, with_seal, xxh3_of
from pacspark.tables.statistics import FileStatistics
from pacspark.tables.storage import Storage

PIECE_BYTES: Final = 16 << 20
"""Every piece of an object has this size, except the last."""
ROW_GROUP_ROWS: Final = 1 << 12
# a look-up asks for hundreds of UIDs at once, and one false positive among them reads a column
BLOOM_FALSE_POSITIVES: Final = 1e-4
_HASHED_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class AddedFile:
    """A finished data file: what a commit needs to make it visible.

    Attributes
    ----------
    path
        relative to the folder of the table
    size_bytes, num_records
        of the file
    modified_ms
        when it was finished, milliseconds since 1970
    statistics
        record count, smallest and largest values and null counts, JSON as the Delta log has it,
        with the seals of `tables.seals`
    """

    path: str
    size_bytes: int
    num_records: int
    modified_ms: int
    statistics: str


@dataclass(frozen=True, slots=True)
class ObjectLocation:
    """Where the bytes of an object are.

    Attributes
    ----------
    sha256, size_bytes
        of the whole object
    object_file
        relative to the folder of the table `objects`
    object_row_group, object_pieces
        its pieces are the row groups ``object_row_group .. object_row_group + object_pieces``
    object_offsets
        where in the file the bytes of each piece begin
    """

    sha256: str
    size_bytes: int
    object_file: str
    object_row_group: int
    object_pieces: int
    object_offsets: tuple[int, ...]

    def columns(self) -> dict[str, Any]:
        """Give the columns of `instances` and `rejects` of the same names."""
        # not `asdict`, which copies deeply: this is done for each object
        return {name: getattr(self, name) for name in self.__slots__}


@contextmanager
def files_of_job(storage: Storage, *table_names: str) -> Iterator[str]:
    """Give a name for the data files of one job's tasks, which go if the block fails.

    For the driver, around the job and not around its commit: the files of a commit of unknown fate
    stay. A task that outlives its job, or is killed, can still leave a file behind; no version of
    the table lists it.
    """
    job = uuid.uuid4().hex
    try:
        yield job
    except BaseException:
        for table_name in table_names:
            folder = storage.path(table_name)
            with suppress(StorageError), storage.errors(f"list the files of {table_name}"):
                for info in storage.filesystem.get_file_info(pafs.FileSelector(folder)):
                    if info.base_name.startswith(f"part-{job}-"):
                        remove_file(storage, table_name, info.base_name)
        raise


def job_of(name: str) -> str:
    """Give the job whose tasks wrote a data file, as it was named to them; empty for none."""
    return name.rpartition("-")[0].removeprefix("part").removeprefix("-")


def remove_file(storage: Storage, table_name: str, name: str) -> None:
    """Remove a data file that no commit has named, if the storage lets us."""
    with suppress(StorageError), storage.errors(f"remove a file of {table_name}"):
        storage.filesystem.delete_file(storage.path(table_name, name))


@contextmanager
def open_data_file(
    storage: Storage, table_name: str, name: str, *, dictionaries: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """Open a data file to read; a page that is not what its checksum says is an error.

    Parameters
    ----------
    storage, table_name, name
        which
    dictionaries
        columns to give as dictionaries

    Raises
    ------
    StorageError
        where the file, or what is read of it in the block, cannot be read
    """
    with (
        storage.errors(f"read {table_name}/{name}"),
        storage.filesystem.open_input_file(storage.path(table_name, name)) as stream,
    ):
        yield pq.ParquetFile(
            stream, read_dictionary=list(dictionaries), page_checksum_verification=True
        )


def describe_file(storage: Storage, spec: TableSpec, name: str, xxh3: str = "") -> AddedFile:
    """Describe a data file that lies there, as its writer did when it was finished.

    Parameters
    ----------
    storage, spec, name
        which
    xxh3
        of the file, where that is known: saves reading all of it
    """
    statistics, num_records = FileStatistics(spec), 0
    with open_data_file(storage, spec.name, name) as reader:
        for batch in reader.iter_batches(columns=list(spec.statistics_columns)):
            statistics.add(pa.table(batch))
            num_records += batch.num_rows
    with (
        storage.errors(f"read {spec.name}/{name}"),
        storage.filesystem.open_input_file(storage.path(spec.name, name)) as stream,
    ):
        size_bytes, xxh3 = stream.size(), xxh3 or xxh3_of(stream)
    now_ms = time.time_ns() // 1_000_000
    told = with_seal(statistics.to_json(num_records), xxh3)
    return AddedFile(name, size_bytes, num_records, now_ms, told)


class DataFile:
    """Writes one Parquet file below the folder of a table; a context manager that closes or aborts.

    Nothing refers to the file before its :class:`AddedFile` is committed; if that never happens, it
    is an orphan that no reader sees.

    Parameters
    ----------
    storage
        the archive
    spec
        the table
    job
        from :func:`files_of_job`, in a task
    """

    def __init__(self, storage: Storage, spec: TableSpec, job: str = "") -> None:
        self.name = "-".join(filter(None, ["part", job, f"{uuid.uuid4().hex}.parquet"]))
        self._storage = storage
        self._spec = spec
        self._path = storage.path(spec.name, self.name)
        self._begin()

    def _begin(self) -> None:
        self.num_records = 0
        self.row_groups = 0
        self._statistics = FileStatistics(self._spec)
        self._sink: SealedStream | None = None
        self._writer: pq.ParquetWriter | None = None

    @property
    def size_bytes(self) -> int:
        """What has been written so far; the footer is still to come."""
        return self._sink.stream.tell() if self._sink is not None else 0

    def append(self, table: pa.Table) -> None:
        """Write rows as one row group, or several where they pass 4,096 rows.

        Raises
        ------
        StorageError
            where the storage fails, or a column that has to have values has none
        """
        if not table.num_rows:
            return
        with self._storage.errors(f"write a file of {self._spec.name}"):
            if self._writer is None:
                self._sink, self._writer = self._open(min(table.num_rows, ROW_GROUP_ROWS))
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            self._statistics.add(table)
        self.num_records += table.num_rows
        self.row_groups += -(-table.num_rows // ROW_GROUP_ROWS)

    def close(self) -> AddedFile:
        """Finish the file and wait until it is durable.

        Raises
        ------
        StorageError
            where the storage fails; the file is removed as far as that is possible
        """
        try:
            with self._storage.errors(f"write a file of {self._spec.name}"):
                if self._sink is None or self._writer is None:
                    self._sink, self._writer = self._open(1)
                self._writer.close()
                size_bytes = self.size_bytes
                xxh3 = self._sink.close()
                self._writer = self._sink = None
                self._storage.make_durable(self._path)
        except StorageError:
            self.abort()
            raise
        return AddedFile(
            self.name,
            size_bytes,
            self.num_records,
            time.time_ns() // 1_000_000,
            with_seal(self._statistics.to_json(self.num_records), xxh3),
        )

    def cut(self, row_groups: int, size_bytes: int) -> None:
        """Take back what was written after some row groups: they are written anew, as they were.

        Parameters
        ----------
        row_groups, size_bytes
            what there was at the moment that comes back; of row groups at least one

        Raises
        ------
        StorageError
            where the storage fails
        """
        aside = f"{self.name}.cut"
        with self._storage.errors(f"write a file of {self._spec.name}"):
            self.close()
            self._storage.filesystem.move(self._path, self._storage.path(self._spec.name, aside))
            self._begin()
            with open_data_file(self._storage, self._spec.name, aside) as reader:
                for number in range(row_groups):
                    self.append(reader.read_row_group(number))
        remove_file(self._storage, self._spec.name, aside)
        if self.size_bytes != size_bytes:  # rows say already where in the file their bytes are
            message = f"{self.name}: expected {size_bytes} bytes again, found {self.size_bytes}"
            raise StorageError(message)

    def abort(self) -> None:
        """Remove the file; for one that was closed too, as long as it is not committed."""
        sink, self._sink, self._writer = self._sink, None, None
        if sink is not None:
            with suppress(StorageError), self._storage.errors(f"close a file of {self._spec.name}"):
                sink.close()
        remove_file(self._storage, self._spec.name, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()

    def _open(self, row_group_rows: int) -> tuple[SealedStream, pq.ParquetWriter]:
        schema = self._spec.arrow_schema
        small = [field.name for field in schema if not pa.types.is_binary(field.type)]
        bulk = len(small) < len(schema)
        bloom = self._spec.bloom_column
        sink = SealedStream(self._storage.filesystem.open_output_stream(self._path))
        writer = pq.ParquetWriter(
            sink.stream,
            schema,
            compression="none" if bulk else "zstd",
            use_dictionary=False if bulk else [name for name in schema.names if name != bloom],
            # one page per value, so that bulk values are contiguous
            data_page_size=1 if bulk else None,
            write_statistics=small,
            # objects have digests of their own; of what is no value only the seal tells
            write_page_checksum=not bulk,
            bloom_filter_options=(
                {bloom: {"ndv": row_group_rows, "fpp": BLOOM_FALSE_POSITIVES}} if bloom else None
            ),
        )
        return sink, writer


class ObjectFile:
    """Writes the bytes of objects into one file of the table `objects`, a piece per row group.

    Parameters
    ----------
    storage
        the archive
    job
        from :func:`files_of_job`, in a task
    """

    def __init__(self, storage: Storage, job: str = "") -> None:
        self._file = DataFile(storage, OBJECTS, job)

    @property
    def size_bytes(self) -> int:
        """What has been written so far; callers begin a new file when it is large enough."""
        return self._file.size_bytes

    @property
    def row_groups(self) -> int:
        """How many pieces have been written so far."""
        return self._file.row_groups

    def append(self, data: bytes | BinaryIO, *, sha256: str | None = None) -> ObjectLocation:
        """Write one object, byte for byte.

        Parameters
        ----------
        data
            the whole object, or a seekable file that stands at its first byte, of which at most two
            pieces are held in memory
        sha256
            of the object, hexadecimal, where the caller knows it: saves one pass over the data. Of
            a file it is checked, which may have changed since

        Raises
        ------
        ObjectChangedError
            where the bytes of a file are not those of `sha256`; what was written of them stays,
            unless it is taken back
        StorageError
            where the storage fails
        """
        if isinstance(data, bytes):
            expected = sha256 or hashlib.sha256(data).hexdigest()
            return self._append(_slices(data), expected, verify=False)
        start = data.tell()
        if sha256 is None:
            digest = hashlib.sha256()
            for part in iter(lambda: data.read(_HASHED_BYTES), b""):
                digest.update(part)
            sha256 = digest.hexdigest()
            data.seek(start)
        return self._append(_pieces(data), sha256, verify=True)

    def cut(self, row_groups: int, size_bytes: int) -> None:
        """Take back what was appended since there were so many row groups and bytes."""
        self._file.cut(row_groups, size_bytes)

    def close(self) -> AddedFile:
        """Finish the file and wait until it is durable."""
        return self._file.close()

    def abort(self) -> None:
        """Remove the file."""
        self._file.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def _append(
        self, pieces: Iterator[bytes | memoryview], sha256: str, *, verify: bool
    ) -> ObjectLocation:
        digest = hashlib.sha256()
        first, offsets, size_bytes = self._file.row_groups, [], 0
        for number, piece in enumerate(pieces):
            if verify:
                digest.update(piece)
            self._file.append(_piece_row(sha256, number, piece))
            offsets.append(self._file.size_bytes - len(piece))
            size_bytes += len(piece)
        if verify and digest.hexdigest() != sha256:
            message = (
                f"object: expected bytes of SHA-256 {sha256}, found {digest.hexdigest()}: they "
                "changed while they were read"
            )
            raise ObjectChangedError(message)
        return ObjectLocation(
            sha256, size_bytes, self._file.name, first, len(offsets), tuple(offsets)
        )


def _slices(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, max(len(view), 1), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    piece = _read_fully(stream)
    yield piece
    while len(piece) == PIECE_BYTES:
        piece = _read_fully(stream)
        if piece:
            yield piece


def _read_fully(stream: BinaryIO) -> bytes:
    """Read one piece; unbuffered streams may give less than asked for before their end."""
    parts, missing = [], PIECE_BYTES
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def one_value(data: bytes | memoryview | NDArray[Any]) -> pa.Array:
    """Return a binary column of one value, whose bytes are not copied."""
    buffer = pa.py_buffer(data)
    offsets = pa.py_buffer(np.array([0, buffer.size], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, buffer])


def _piece_row(sha256: str, number: int, piece: bytes | memoryview) -> pa.Table:
    arrays = [pa.array([sha256]), pa.array([number], pa.int32()), one_value(piece)]
    return pa.Table.from_arrays(arrays, schema=OBJECTS.arrow_schema)
