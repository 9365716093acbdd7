"""Which of some UIDs are in the archive: an answer that does not read the whole table.

Three sieves, each cheaper than what it saves: the bounds of each file in the Delta log, the bounds
of each row group in the footer of a file, and the Bloom filter of the row group. Only row groups
that pass all three have their column of UIDs read. What the sieves need of a file is kept in
memory, since a data file never changes.

The Bloom filters are those of the Parquet format (split block Bloom filter, XXH64), so that other
engines use them too; reading them is done here because pyarrow only writes them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from pacspark.tables.schema import INSTANCES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

_UID: Final = "sop_instance_uid"
MAX_BLOCKS: Final = 8 << 20
"""Filters are forgotten beyond so many blocks: 256 MiB, of about 10^8 instances."""
_FILTERS_AT_ONCE: Final = 4096
_READERS: Final = 8
_SALT: Final = np.array(
    [
        0x47B6137B,
        0x44974D91,
        0x8824AD5B,
        0xA2B7289D,
        0x705495C7,
        0x2DF1424B,
        0x9EFC4947,
        0x5C6BFB31,
    ],
    np.uint32,
)


@dataclass(frozen=True, slots=True)
class _RowGroup:
    """Bounds of a row group, and where the blocks of its filter are; none where it has no block."""

    low: str | None
    high: str | None
    first_block: int
    n_blocks: int


class _Sieves:
    """What the sieves need of the files that this process has met; all filters are one array.

    So one question to all of them is one calculation, however many there are.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._groups: dict[tuple[Storage, str], tuple[_RowGroup, ...]] = {}
        self._blocks = np.empty((1024, 8), np.uint32)
        self._used = 0

    def of(
        self, storage: Storage, files: Sequence[ActiveFile]
    ) -> tuple[list[tuple[_RowGroup, ...]], NDArray[np.uint32]]:
        """Give the row groups of each file, and the array that has their filters."""
        with self._lock:
            if self._used > MAX_BLOCKS:
                self._groups.clear()
                self._blocks, self._used = self._blocks[:1024].copy(), 0
            missing = [file for file in files if (storage, file.path) not in self._groups]
            if len(missing) > 1:  # an object store answers many questions as fast as one
                with ThreadPoolExecutor(min(len(missing), _READERS)) as readers:
                    read = list(readers.map(partial(_read_sieve, storage), missing))
            else:
                read = [_read_sieve(storage, file) for file in missing]
            for file, groups in zip(missing, read, strict=True):
                self._groups[storage, file.path] = tuple(
                    _RowGroup(low, high, *self._keep(bloom)) for low, high, bloom in groups
                )
            return [self._groups[storage, file.path] for file in files], self._blocks

    def _keep(self, bloom: NDArray[np.uint32] | None) -> tuple[int, int]:
        if bloom is None:
            return 0, 0
        first, self._used = self._used, self._used + len(bloom)
        if self._used > len(self._blocks):
            larger = np.empty((max(2 * len(self._blocks), self._used), 8), np.uint32)
            larger[:first] = self._blocks[:first]
            self._blocks = larger
        self._blocks[first : self._used] = bloom
        return first, len(bloom)


_SIEVES: Final = _Sieves()


def refused_in(rejects: Snapshot, names: Iterable[str]) -> set[tuple[str, str | None]]:
    """Tell what a version of `rejects` has of some names, as `Catalog.refused` does."""
    wanted = pa.array(dict.fromkeys(names), pa.string())
    if not len(wanted):
        return set()
    source, uid = ds.field("source"), ds.field("sop_instance_uid")
    columns = ["source", "sop_instance_uid", "sha256"]
    rows = rejects.read(columns, source.isin(wanted) | uid.isin(wanted))
    return {(row["sop_instance_uid"] or row["source"], row["sha256"]) for row in rows.to_pylist()}


def find_rows(
    storage: Storage, files: Iterable[ActiveFile], uids: Iterable[str], columns: Sequence[str]
) -> pa.Table:
    """Read the rows of files of `instances` whose SOP Instance UID is among some.

    Parameters
    ----------
    storage
        the archive
    files
        active files of `instances`
    uids
        wanted
    columns
        to read of the rows that are found; the UIDs alone decide which those are
    """
    schema = pa.schema([INSTANCES.arrow_schema.field(name) for name in columns])
    found = (rows for _, rows in find_rows_by_file(storage, list(files), uids, columns))
    return pa.concat_tables([schema.empty_table(), *found])


def find_rows_by_file(
    storage: Storage, files: Sequence[ActiveFile], uids: Iterable[str], columns: Sequence[str]
) -> Iterator[tuple[ActiveFile, pa.Table]]:
    """Read the same rows as :func:`find_rows`, file by file; files without any are left out."""
    wanted = sorted(set(uids))
    schema = pa.schema([INSTANCES.arrow_schema.field(name) for name in columns])
    values = pa.array(wanted, pa.string())
    for file, groups in _candidates(storage, files, wanted):
        found = list(_matching_rows(storage, file, groups, values, schema))
        if found:
            yield file, pa.concat_tables(found)


def _candidates(
    storage: Storage, files: Sequence[ActiveFile], wanted: Sequence[str]
) -> Iterator[tuple[ActiveFile, list[int]]]:
    """Give the files and row groups that can hold one of some UIDs, which are sorted."""
    groups_of_files, blocks = _SIEVES.of(storage, files)
    between = [
        (number, group, sieve)
        for number, groups in enumerate(groups_of_files)
        for group, sieve in enumerate(groups)
        if _overlaps(sieve, wanted)
    ]
    digests = np.array([xxh64_intdigest(uid.encode()) for uid in wanted], np.uint64)
    chosen: dict[int, list[int]] = {}
    for start in range(0, len(between), _FILTERS_AT_ONCE):
        part = between[start : start + _FILTERS_AT_ONCE]
        may_hold = filters_may_hold(
            blocks,
            np.array([sieve.first_block for _, _, sieve in part], np.int64),
            np.array([sieve.n_blocks for _, _, sieve in part], np.int64),
            digests,
        )
        for (number, group, _), may in zip(part, may_hold, strict=True):
            if may:
                chosen.setdefault(number, []).append(group)
    for number, numbers in chosen.items():
        yield files[number], numbers


def _overlaps(group: _RowGroup, uids: Sequence[str]) -> bool:
    start = 0 if group.low is None else bisect_left(uids, group.low)
    stop = len(uids) if group.high is None else bisect_right(uids, group.high)
    return start < stop


def _matching_rows(
    storage: Storage, file: ActiveFile, groups: Iterable[int], wanted: pa.Array, schema: pa.Schema
) -> Iterator[pa.Table]:
    path = storage.path("instances", file.path)
    with (
        storage.errors(f"read instances/{file.path}"),
        storage.filesystem.open_input_file(path) as stream,
    ):
        reader = pq.ParquetFile(stream, page_checksum_verification=True)
        for group in groups:
            # files that other engines compacted may come as views of strings
            column = reader.read_row_group(group, columns=[_UID])[_UID].cast(pa.string())
            rows = pc.indices_nonzero(pc.is_in(column, wanted))
            if len(rows):
                table = reader.read_row_group(group, columns=schema.names)
                yield table.select(schema.names).cast(schema).take(rows)


def _read_sieve(
    storage: Storage, file: ActiveFile
) -> list[tuple[str | None, str | None, NDArray[np.uint32] | None]]:
    """Read bounds and filter of each row group of a file: once, since data files never change."""
    path = storage.path("instances", file.path)
    groups = []
    with (
        storage.errors(f"read instances/{file.path}"),
        storage.filesystem.open_input_file(path) as stream,
    ):
        metadata = pq.read_metadata(stream)
        column = metadata.schema.names.index(_UID)
        for number in range(metadata.num_row_groups):
            chunk = metadata.row_group(number).column(column)
            bounds = chunk.statistics
            known = bounds is not None and bounds.has_min_max
            bloom = None
            if chunk.bloom_filter_offset is not None and chunk.bloom_filter_length:
                data = stream.read_at(chunk.bloom_filter_length, chunk.bloom_filter_offset)
                bloom = _bitset(data)
            groups.append((bounds.min if known else None, bounds.max if known else None, bloom))
    return groups


def _bitset(data: bytes) -> NDArray[np.uint32] | None:
    """Give the blocks of a Bloom filter, 8 words each; None for one of an unknown kind.

    The bitset is a power of two in bytes; before it stands a header (Thrift, compact) with that
    length and the unions BLOCK, XXHASH and UNCOMPRESSED.
    """
    size_bytes = 1 << (len(data).bit_length() - 1)
    header = b"\x15" + _varint(size_bytes * 2) + b"\x1c\x1c\x00\x00" * 3 + b"\x00"
    if len(header) + size_bytes != len(data) or not data.startswith(header):
        return None
    return np.frombuffer(data, "<u4", offset=len(header)).reshape(-1, 8)


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def filters_may_hold(
    blocks: NDArray[np.uint32],
    first_block: NDArray[np.int64],
    n_blocks: NDArray[np.int64],
    digests: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """Ask split block Bloom filters for values (Parquet, BloomFilter.md).

    Parameters
    ----------
    blocks
        of all filters, of 8 words each, (n, 8)
    first_block, n_blocks
        where the blocks of each filter are; a filter without blocks denies nothing
    digests
        the XXH64 of each value

    Returns
    -------
    numpy.ndarray
        for each filter, False where it has seen none of the values
    """
    high = (digests >> np.uint64(32)).astype(np.int64)
    asked = np.flatnonzero(n_blocks)
    numbers = first_block[asked, np.newaxis] + ((high * n_blocks[asked, np.newaxis]) >> 32)
    bits = ((digests.astype(np.uint32)[:, np.newaxis] * _SALT) >> np.uint32(27)).T
    # most pairs of filter and value end at the first word, and need no other
    seen = (blocks[numbers, 0] >> bits[0]) & np.uint32(1)
    filters, values = np.nonzero(seen)
    for word in range(1, 8):
        held = (blocks[numbers[filters, values], word] >> bits[word][values]) & np.uint32(1)
        filters, values = filters[held != 0], values[held != 0]
    may_hold: NDArray[np.bool_] = n_blocks == 0
    may_hold[asked[filters]] = True
    return may_hold
