"""Whether rows of `instances` are what indexing the bytes again gives."""

import io
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds

from pacspark.dicom.decode import index_instance
from pacspark.errors import DicomDecodeError, StorageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import FileCheck
from pacspark.tables.schema import FRAME_COLUMNS, INSTANCES, LOCATION_COLUMNS, frame_columns
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

_HELD_BYTES: Final = 16 << 20
_BUFFER_BYTES: Final = 1 << 20
_COMPARED: Final = pa.schema(
    [field for field in INSTANCES.arrow_schema if field.metadata.get(b"dicom_keyword")]
    + [INSTANCES.arrow_schema.field(name) for name in (*FRAME_COLUMNS, "dicom_json")]
)


def check_rows(
    storage: Storage,
    file: ActiveFile,
    where: ds.Expression | None,
    wanted: Callable[[str], bool],
) -> FileCheck:
    """Index again the objects of one file of `instances`, and compare.

    Parameters
    ----------
    storage, file
        which
    where
        a filter of rows; None for all
    wanted
        tells by its digest whether an object is looked at
    """
    catalog = Catalog(storage)
    snapshot = Snapshot(storage, "instances")
    names = list(dict.fromkeys([*LOCATION_COLUMNS, *_COMPARED.names]))
    findings, objects, size_bytes = [], 0, 0
    for batch in snapshot.batches(names, where, [file]):
        for row in batch.to_pylist():
            if not wanted(row["sha256"]):
                continue
            objects, size_bytes = objects + 1, size_bytes + row["size_bytes"]
            message = _difference(catalog, row)
            if message:
                uid, sha256 = row["sop_instance_uid"], row["sha256"]
                findings.append(Finding("row", "instances", file.path, uid, sha256, message))
    return FileCheck("deep", file.path, objects, size_bytes, size_bytes, tuple(findings))


def _difference(catalog: Catalog, row: Mapping[str, Any]) -> str:
    try:
        if row["size_bytes"] <= _HELD_BYTES:
            index = index_instance(catalog.read_range(row, 0, row["size_bytes"]))
        else:
            index = index_instance(open_stored(catalog, row))
    except (DicomDecodeError, StorageError) as error:
        return f"its bytes cannot be indexed: {error}"
    again = index.row | frame_columns(index.frames) | {"dicom_json": index.dicom_json}
    # through Arrow, as the row went: types and precision are those of the columns
    (expected,) = pa.Table.from_pylist([again], schema=_COMPARED).to_pylist()
    differing = [name for name in _COMPARED.names if expected[name] != row[name]]
    if not differing:
        return ""
    first = differing[0]
    more = f"; also {', '.join(differing[1:6])}" if len(differing) > 1 else ""
    return f"{first}: the bytes say {_short(expected[first])}, the row {_short(row[first])}{more}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def open_stored(catalog: Catalog, row: Mapping[str, Any]) -> io.BufferedReader:
    """Open a stored object as a seekable file; its digest is not looked at."""
    return io.BufferedReader(_StoredObject(catalog, row), _BUFFER_BYTES)


class _StoredObject(io.RawIOBase):
    """A stored object as a file, read where it is asked for."""

    def __init__(self, catalog: Catalog, row: Mapping[str, Any]) -> None:
        self._catalog = catalog
        self._row = row
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._row["size_bytes"]}
        self._position = max(0, start[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        left = max(0, self._row["size_bytes"] - self._position)
        length: int = min(len(view), left)
        view[:length] = self._catalog.read_range(self._row, self._position, length)
        self._position += length
        return length
