"""Fixity: whether data files still hold what was written. The bodies of the tasks of `verify`.

A file of `objects` is read from front to back, and every object in it compared with the rows that
refer to it. The log has a seal of each file (`tables.seals`), so a file whose seal and objects are
right is whole; of any other, its pages and its footer tell what is wrong::

    file, seal, rows ──all right──▶ done
                     └─else, of `objects`──▶ read again, page by page (`objectscan`)

A file of another table is decoded only where the log has no seal of it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from xxhash import xxh3_128

from pacspark.errors import StorageError
from pacspark.tables.datafile import PIECE_BYTES
from pacspark.tables.findings import Finding
from pacspark.tables.forward import ForwardReader
from pacspark.tables.objectscan import FoundObject, read_footer, scan_objects
from pacspark.tables.schema import TABLES
from pacspark.tables.storage import Storage

LISTED: Final = pa.schema(
    [
        ("table", pa.string()),
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("size_bytes", pa.int64()),
        ("object_row_group", pa.int32()),
        ("object_pieces", pa.int32()),
        ("object_offsets", pa.list_(pa.int64())),
    ]
)
"""What rows of `instances` and `rejects` say of the objects in one file."""
_BATCH_ROWS: Final = 256
_READ_BYTES: Final = 1 << 20
_DECODE_ERRORS: Final = (pa.ArrowException, OSError, ValueError, IndexError, OverflowError)


@dataclass(frozen=True, slots=True)
class FileToCheck:
    """One data file of `objects` and what refers to it.

    Attributes
    ----------
    file
        relative to the folder of the table
    size_bytes
        that the log gives; None where no version lists the file
    rows
        of :data:`LISTED`
    all_rows
        whether these are all rows that refer to the file: then it is read whole
    xxh3
        of the whole file, by its seal; empty where the log has none
    pieces
        in the file, by the log; None where that does not matter
    """

    file: str
    size_bytes: int | None
    rows: pa.Table
    all_rows: bool = True
    xxh3: str = ""
    pieces: int | None = None


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What became of one data file.

    Attributes
    ----------
    table, file
        which
    objects, bytes
        that rows refer to and that were compared, whatever came of it
    bytes_read
        from the storage
    findings
        what is wrong or worth telling
    """

    table: str
    file: str
    objects: int
    bytes: int
    bytes_read: int
    findings: tuple[Finding, ...]


def check_object_file(storage: Storage, asked: FileToCheck, path: str | None = None) -> FileCheck:
    """Read one data file of `objects` and compare each object in it with its rows.

    Parameters
    ----------
    storage, asked
        which
    path
        where it lies, if it is not in its place yet

    Raises
    ------
    StorageError
        where the storage does not answer; what of a file cannot be read while it does is a finding
    """
    objects, size_bytes = asked.rows.num_rows, pc.sum(asked.rows["size_bytes"]).as_py() or 0
    path = path or storage.path("objects", asked.file)
    found_bytes = _size_of(storage, path)
    if found_bytes is None:
        lost = f"the data file objects/{asked.file} is gone"
        findings = [_file_finding("objects", asked.file, f"{lost}, with {objects} objects")]
        rows = asked.rows.to_pylist()
        findings += [_row_finding("missing", asked.file, row, lost) for row in rows]
        return FileCheck("objects", asked.file, objects, size_bytes, 0, tuple(findings))
    findings, bytes_read, xxh3 = [], 0, asked.xxh3
    if xxh3 and found_bytes == asked.size_bytes:
        xxh3, good = _first_reading(storage, path, found_bytes, asked.rows)
        bytes_read = found_bytes
        if good and xxh3 == asked.xxh3 and _is_filled(asked):
            return FileCheck("objects", asked.file, objects, size_bytes, bytes_read, ())
    if asked.size_bytes is None:
        message = "rows refer to this file, which no version of `objects` lists"
        findings.append(Finding("log", "objects", asked.file, "", "", message))
    elif found_bytes != asked.size_bytes:
        message = f"expected {asked.size_bytes} bytes, as the log says, found {found_bytes}"
        findings.append(_file_finding("objects", asked.file, message))
    with storage.errors(f"read objects/{asked.file}"), ForwardReader(storage, path) as reader:
        findings += _Comparison(asked, asked.rows.to_pylist(), reader, found_bytes).findings()
        bytes_read += reader.bytes_read
    if xxh3 != asked.xxh3 and not any(finding.wrong for finding in findings):
        findings.append(_broken_seal("objects", asked.file, asked.xxh3, xxh3))
    if any(finding.wrong for finding in findings):
        _require_answer(storage, path)
    return FileCheck("objects", asked.file, objects, size_bytes, bytes_read, tuple(findings))


def _first_reading(
    storage: Storage, path: str, size_bytes: int, rows: pa.Table
) -> tuple[str, bool]:
    """Give the XXH3 of a file, and whether each object lies where its row says, whole.

    Here as little as possible is done for each object: there may be many small ones. In place of
    the XXH3 of a file that cannot be read stands why.
    """
    pieces = _pieces(rows)
    good = all(one[1] <= other[0] for one, other in pairwise(pieces))
    whole, found, position, number = xxh3_128(), hashlib.sha256(), 0, 0
    with storage.errors("open a data file"), ForwardReader(storage, path) as reader:
        reader.plan([(0, size_bytes)])
        try:
            for view in reader.views(0, size_bytes):
                whole.update(view)
                end = position + len(view)
                while good and number < len(pieces) and pieces[number][0] < end:
                    start, stop, sha256 = pieces[number]
                    found.update(view[max(0, start - position) : stop - position])
                    if stop > end:
                        break
                    if sha256:
                        good, found = found.hexdigest() == sha256, hashlib.sha256()
                    number += 1
                position = end
        except OSError as error:
            return str(error), False
    return whole.hexdigest(), good and number == len(pieces)


def _pieces(rows: pa.Table) -> list[tuple[int, int, str]]:
    """Give where the pieces of objects lie, in order; the last of each has the object's SHA-256."""
    found = set()
    columns = (rows[name].to_pylist() for name in ("object_offsets", "size_bytes", "sha256"))
    for offsets, size_bytes, sha256 in zip(*columns, strict=True):
        *before, last = offsets or [-1]
        found |= {(start, start + PIECE_BYTES, "") for start in before}
        found.add((last, last + (size_bytes or 0) - PIECE_BYTES * len(before), sha256))
    return sorted(found)


def _is_filled(asked: FileToCheck) -> bool:
    """Tell whether the objects of the rows are all that a file has, in the row groups they say."""
    if not asked.all_rows or asked.pieces is None:
        return True
    columns = ("object_offsets", "object_row_group", "object_pieces")
    rows = zip(*(asked.rows[name].to_pylist() for name in columns), strict=True)
    row_group = 0
    for _, first, pieces in sorted({(tuple(offsets or ()), *rest) for offsets, *rest in rows}):
        if first != row_group:
            return False
        row_group += pieces
    return row_group == asked.pieces


def check_table_file(
    storage: Storage,
    table: str,
    file: str,
    size_bytes: int,
    num_records: int | None,
    xxh3: str = "",
) -> FileCheck:
    """Compare one data file of another table than `objects` with its seal.

    Where it has none, it is decoded, a bounded number of rows at a time.
    """
    path = storage.path(table, file)
    found_bytes = _size_of(storage, path)
    findings: list[Finding] = []
    if found_bytes is None:
        findings.append(_file_finding(table, file, f"the data file is gone, of {num_records} rows"))
    elif found_bytes != size_bytes:
        message = f"expected {size_bytes} bytes, as the log says, found {found_bytes}"
        findings.append(_file_finding(table, file, message))
    else:
        finding = _damage_of(storage, table, file, size_bytes, num_records, xxh3)
        if finding is not None:
            _require_answer(storage, path)
            findings = [finding]
    return FileCheck(table, file, 0, 0, found_bytes or 0, tuple(findings))


def _damage_of(
    storage: Storage, table: str, file: str, size_bytes: int, num_records: int | None, xxh3: str
) -> Finding | None:
    path = storage.path(table, file)
    if not xxh3:
        trouble = _decode(storage, table, path, num_records)
        return Finding("unreadable", table, file, "", "", trouble) if trouble else None
    found, _ = _first_reading(storage, path, size_bytes, LISTED.empty_table())
    # what is damaged can end the process, so is not decoded
    return None if found == xxh3 else _broken_seal(table, file, xxh3, found)


def _decode(storage: Storage, table: str, path: str, num_records: int | None) -> str:
    rows = 0
    names = TABLES[table].arrow_schema.names
    try:
        with storage.filesystem.open_input_file(path) as stream:
            reader = pq.ParquetFile(
                stream,
                buffer_size=_READ_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            )
            for batch in reader.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                batch.validate(full=True)
                rows += batch.num_rows
    except _DECODE_ERRORS as error:
        return f"cannot be read: {' '.join(str(error).split()):.200}"
    except RuntimeError as error:  # what hdfs-native says with it is the server's refusal
        return f"cannot be read: {' '.join(str(error).split()):.200}"
    if num_records is not None and rows != num_records:
        return f"expected {num_records} rows, as the log says, found {rows}"
    return ""


class _Comparison:
    """The objects of one file beside the rows that refer to them."""

    def __init__(
        self,
        asked: FileToCheck,
        rows: Sequence[Mapping[str, Any]],
        reader: ForwardReader,
        size_bytes: int,
    ) -> None:
        self._asked = asked
        self._reader = reader
        self._size_bytes = size_bytes
        self._rows: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            self._rows.setdefault(row["object_row_group"], []).append(row)

    def findings(self) -> Iterator[Finding]:
        """Read, compare, tell."""
        file = self._asked.file
        try:
            groups = read_footer(self._reader, self._size_bytes)
        except OSError as error:
            yield Finding("footer", "objects", file, "", "", str(error))
            yield from self._without_footer()
            return
        listed = {
            number: max(row["object_pieces"] for row in rows) for number, rows in self._rows.items()
        }
        unlisted = unlisted_bytes = 0
        for one in scan_objects(self._reader, groups, listed, only_listed=not self._asked.all_rows):
            rows = self._rows.pop(one.row_group, [])
            for row in rows:
                yield from self._compare(row, one)
            if not rows:
                unlisted, unlisted_bytes = unlisted + 1, unlisted_bytes + one.size_bytes
                if one.found != one.sha256:
                    yield self._damaged_unlisted(one)
        for rows in self._rows.values():
            for row in rows:
                message = (
                    f"expected it in row group {row['object_row_group']}, found {len(groups)} row "
                    "groups"
                )
                yield _row_finding("missing", file, row, message)
        if unlisted:
            message = (
                f"{unlisted} objects, {unlisted_bytes} bytes, that no row refers to: none is "
                "missing; `pacspark compact` takes them away when they are a day old"
            )
            yield Finding("unlisted", "objects", file, "", "", message)

    def _compare(self, row: Mapping[str, Any], one: FoundObject) -> Iterator[Finding]:
        file, offsets = self._asked.file, tuple(row["object_offsets"] or ())
        if not one.found:
            yield _row_finding("damaged", file, row, one.trouble)
        elif offsets != one.offsets or row["size_bytes"] != one.size_bytes:
            message = (
                f"expected {row['size_bytes']} bytes at {_places(offsets)}, found "
                f"{one.size_bytes} at {_places(one.offsets)}, of SHA-256 {one.found}"
            )
            yield _row_finding("missing", file, row, message)
        elif one.found != row["sha256"]:
            message = f"expected bytes of SHA-256 {row['sha256']}, found {one.found}"
            yield _row_finding("damaged", file, row, message)
        elif one.sha256 != one.found or one.trouble:
            message = one.trouble or (
                f"expected the digest {one.found} beside bytes that have it, found {one.sha256!r}"
            )
            yield _row_finding("digest", file, row, message)

    def _damaged_unlisted(self, one: FoundObject) -> Finding:
        message = (
            f"row group {one.row_group}, which no row refers to: expected bytes of SHA-256 "
            f"{one.sha256!r}, found {one.found or one.trouble}"
        )
        return Finding("damaged", "objects", self._asked.file, "", one.sha256, message)

    def _without_footer(self) -> Iterator[Finding]:
        """Read the objects where their rows say that they are; the footer does not tell."""
        rows = [row for rows in self._rows.values() for row in rows]
        rows.sort(key=lambda row: list(row["object_offsets"] or ()))
        self._reader.plan(
            (start, min(stop, self._size_bytes))
            for row in rows
            for start, stop in _ranges(row)
            if start < self._size_bytes
        )
        for row in rows:
            digest = hashlib.sha256()
            try:
                for start, stop in _ranges(row):
                    for view in self._reader.views(start, stop):
                        digest.update(view)
            except OSError as error:
                yield _row_finding("missing", self._asked.file, row, str(error))
                continue
            if digest.hexdigest() != row["sha256"]:
                message = f"expected bytes of SHA-256 {row['sha256']}, found {digest.hexdigest()}"
                yield _row_finding("damaged", self._asked.file, row, message)


def _ranges(row: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    for number, start in enumerate(row["object_offsets"] or ()):
        length = min(PIECE_BYTES, row["size_bytes"] - number * PIECE_BYTES)
        yield start, start + max(0, length)


def _places(offsets: Sequence[int]) -> str:
    more = f" and {len(offsets) - 1} more places" if len(offsets) > 1 else ""
    return f"{offsets[0] if offsets else 'no place'}{more}"


def _file_finding(table: str, file: str, message: str) -> Finding:
    return Finding("file", table, file, "", "", message)


def _broken_seal(table: str, file: str, xxh3: str, found: str) -> Finding:
    message = f"expected bytes of XXH3 {xxh3}, as the log says, found {found}"
    return _file_finding(table, file, message)


def _row_finding(kind: str, file: str, row: Mapping[str, Any], message: str) -> Finding:
    return Finding(kind, "objects", file, row["name"], row["sha256"], message)


def _size_of(storage: Storage, path: str) -> int | None:
    """Give the length of a file, None where there is none."""
    with storage.errors("look for a data file"):
        info = storage.filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        return None
    return int(info.size or 0)


def _require_answer(storage: Storage, path: str) -> None:
    """Tell a storage that is away from a file that is broken."""
    with storage.errors("read a data file"):
        info = storage.filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        message = f"{storage.root}: {path}: it was there and is gone; repeat the command"
        raise StorageError(message)
