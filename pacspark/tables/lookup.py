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
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pacspark.tables.schema import INSTANCES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

_UID: Final = "sop_instance_uid"
_MASK: Final = (1 << 64) - 1
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
_P1: Final = 0x9E3779B185EBCA87
_P2: Final = 0xC2B2AE3D27D4EB4F
_P3: Final = 0x165667B19E3779F9
_P4: Final = 0x85EBCA77C2B2AE63
_P5: Final = 0x27D4EB2F165667C5


@dataclass(frozen=True, slots=True)
class _RowGroup:
    low: str | None
    high: str | None
    bloom: NDArray[np.uint32] | None


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
    wanted = sorted(set(uids))
    digests = np.array([_digest(uid) for uid in wanted], np.uint64)
    schema = pa.schema([INSTANCES.arrow_schema.field(name) for name in columns])
    found = [schema.empty_table()]
    for file in files:
        sieves = _sieves(storage, file)
        groups = [i for i, group in enumerate(sieves) if _may_hold(group, wanted, digests)]
        if groups:
            found += _matching_rows(storage, file, groups, pa.array(wanted, pa.string()), schema)
    return pa.concat_tables(found)


def _matching_rows(
    storage: Storage, file: ActiveFile, groups: Iterable[int], wanted: pa.Array, schema: pa.Schema
) -> Iterator[pa.Table]:
    path = storage.path("instances", file.path)
    with (
        storage.errors(f"read instances/{file.path}"),
        storage.filesystem.open_input_file(path) as stream,
    ):
        reader = pq.ParquetFile(stream)
        for group in groups:
            # files that other engines compacted may come as views of strings
            column = reader.read_row_group(group, columns=[_UID])[_UID].cast(pa.string())
            rows = pc.indices_nonzero(pc.is_in(column, wanted))
            if len(rows):
                table = reader.read_row_group(group, columns=schema.names)
                yield table.select(schema.names).cast(schema).take(rows)


def _may_hold(group: _RowGroup, uids: Sequence[str], digests: NDArray[np.uint64]) -> bool:
    """Tell whether a row group can hold one of some UIDs; both are sorted by UID."""
    start = 0 if group.low is None else bisect_left(uids, group.low)
    stop = len(uids) if group.high is None else bisect_right(uids, group.high)
    if start >= stop or group.bloom is None:
        return start < stop
    return bool(bloom_may_hold(group.bloom, digests[start:stop]).any())


@lru_cache(maxsize=1 << 16)
def _digest(uid: str) -> int:
    """Hash a UID once, however many files it is looked for in."""
    return xxh64(uid.encode())


@lru_cache(maxsize=4096)
def _sieves(storage: Storage, file: ActiveFile) -> tuple[_RowGroup, ...]:
    """Read what the sieves need of a file: once, since data files never change."""
    path = storage.path("instances", file.path)
    with (
        storage.errors(f"read instances/{file.path}"),
        storage.filesystem.open_input_file(path) as stream,
    ):
        metadata = pq.read_metadata(stream)
        column = metadata.schema.names.index(_UID)
        groups = []
        for number in range(metadata.num_row_groups):
            chunk = metadata.row_group(number).column(column)
            bounds = chunk.statistics
            known = bounds is not None and bounds.has_min_max
            bloom = None
            if chunk.bloom_filter_offset is not None and chunk.bloom_filter_length:
                data = stream.read_at(chunk.bloom_filter_length, chunk.bloom_filter_offset)
                bloom = _bitset(data)
            groups.append(
                _RowGroup(bounds.min if known else None, bounds.max if known else None, bloom)
            )
    return tuple(groups)


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


def bloom_may_hold(blocks: NDArray[np.uint32], digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Ask a split block Bloom filter for values (Parquet, BloomFilter.md).

    Parameters
    ----------
    blocks
        of 8 words each, (n_blocks, 8)
    digests
        the XXH64 of each value

    Returns
    -------
    numpy.ndarray
        for each value, False where the filter has not seen it
    """
    numbers = ((digests >> np.uint64(32)) * np.uint64(len(blocks))) >> np.uint64(32)
    bits = (digests.astype(np.uint32)[:, np.newaxis] * _SALT) >> np.uint32(27)
    found: NDArray[np.bool_] = ((blocks[numbers] >> bits) & np.uint32(1)).all(axis=1)
    return found


def xxh64(data: bytes) -> int:
    """Hash bytes with XXH64, seed 0.

    Examples
    --------
    >>> hex(xxh64(b"")), hex(xxh64(b"a"))
    ('0xef46db3751d8e999', '0xd24ec4f1a98c6e5b')
    """
    position, length = 0, len(data)
    if length >= 32:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, (-_P1) & _MASK]
        while position <= length - 32:
            for lane in range(4):
                start = position + 8 * lane
                word = int.from_bytes(data[start : start + 8], "little")
                lanes[lane] = _round(lanes[lane], word)
            position += 32
        digest = sum(_rotate(lanes[i], bits) for i, bits in enumerate((1, 7, 12, 18))) & _MASK
        for lane in lanes:
            digest = ((digest ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        digest = _P5
    digest = (digest + length) & _MASK
    while position <= length - 8:
        digest ^= _round(0, int.from_bytes(data[position : position + 8], "little"))
        digest = (_rotate(digest, 27) * _P1 + _P4) & _MASK
        position += 8
    if position <= length - 4:
        digest ^= int.from_bytes(data[position : position + 4], "little") * _P1 & _MASK
        digest = (_rotate(digest, 23) * _P2 + _P3) & _MASK
        position += 4
    for byte in data[position:]:
        digest = _rotate(digest ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    digest = (digest ^ digest >> 33) * _P2 & _MASK
    digest = (digest ^ digest >> 29) * _P3 & _MASK
    return digest ^ digest >> 32


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK


def _round(lane: int, word: int) -> int:
    return _rotate((lane + word * _P2) & _MASK, 31) * _P1 & _MASK
