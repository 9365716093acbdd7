import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from pacspark.tables import lookup
from pacspark.tables.catalog import Catalog
from pacspark.tables.lookup import filters_may_hold
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_instances
from tests.tables.samples import sha256, uid_rows


def _bloom_of(values: list[str], capacity: int) -> NDArray[np.uint32]:
    sink = io.BytesIO()
    options = {"a": {"ndv": capacity, "fpp": 0.01}}
    pq.write_table(pa.table({"a": values}), sink, bloom_filter_options=options)
    chunk = pq.ParquetFile(sink).metadata.row_group(0).column(0)
    start = chunk.bloom_filter_offset
    blocks = lookup._bitset(sink.getvalue()[start : start + chunk.bloom_filter_length])
    assert blocks is not None
    return blocks


def _may_hold(filters: list[NDArray[np.uint32]], values: list[str]) -> list[bool]:
    sizes = np.array([len(blocks) for blocks in filters])
    starts = np.cumsum(sizes) - sizes
    digests = np.array([xxh64_intdigest(value.encode()) for value in values], np.uint64)
    may_hold: list[bool] = filters_may_hold(
        np.concatenate(filters), starts, sizes, digests
    ).tolist()
    return may_hold


@given(values=st.lists(st.text(max_size=80), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_filters_may_hold__never_denies_what_pyarrow_put_in(values: list[str]) -> None:
    filters = [_bloom_of(["other"], 1), _bloom_of(values, len(values))]
    for value in values:
        assert _may_hold(filters, [value])[1]
    assert _may_hold(filters, [*values, "other"]) == [True, True]


@pytest.mark.parametrize("capacity", [1, 100, 5000, 65536])
def test_filters_may_hold__denies_most_of_what_is_not_there(capacity: int) -> None:
    filters = [_bloom_of([f"1.2.{n}" for n in range(capacity)], capacity)]
    wrong = sum(_may_hold(filters, [f"1.3.{n}"])[0] for n in range(2000))
    assert wrong < 60


def test_filters_may_hold__asks_each_filter_for_all_values() -> None:
    owners = [[f"{owner}.{n}" for n in range(50)] for owner in range(30)]
    filters = [_bloom_of(values, 3000) for values in owners]
    assert sum(_may_hold(filters, [owners[7][3], owners[21][9]])) < 5
    found = _may_hold([*filters, np.empty((0, 8), np.uint32)], [owners[7][3], owners[21][9]])
    assert found[7]
    assert found[21]
    assert found[30]  # who has no filter may hold anything


def test_bitset__ignores_filters_of_an_unknown_kind() -> None:
    assert lookup._bitset(b"\x15\x40\x2c\x1c\x00\x00" + b"\x1c\x1c\x00\x00" * 2 + bytes(33)) is None
    assert lookup._bitset(b"\x00") is None


def _scattered_uids(count: int, seed: int) -> list[str]:
    numbers = random.Random(seed)
    return [f"1.2.{numbers.randrange(10**6)}.{n}" for n in range(count)]


def test_known__is_what_a_scan_of_all_rows_finds(storage: Storage) -> None:
    uids = _scattered_uids(600, 1)
    digests: dict[str, str] = {}
    for number in range(6):
        part, data = uids[number * 100 : number * 100 + 100], f"file {number}".encode()
        commit_instances(storage, uid_rows(part, data), run_id="r")
        digests |= dict.fromkeys(part, sha256(data))
    catalog = Catalog(storage)
    others = _scattered_uids(200, 2)
    for start in range(0, 600, 37):
        asked = uids[start : start + 20] + others[:20] + ["", "\U0010ffff", "1.2"]
        expected = {uid: digests[uid] for uid in asked if uid in digests}
        assert catalog.known(asked) == expected
    assert catalog.known(uids) == digests
    assert catalog.known([]) == {}
    assert catalog.known(iter(others)) == {uid: digests[uid] for uid in others if uid in digests}


def test_known__reads_no_column_of_files_that_cannot_hold_a_uid(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = _scattered_uids(400, 3)
    for number in range(4):
        commit_instances(storage, uid_rows(uids[number::4]), run_id="r")
    groups_read: list[int] = []
    read_row_group = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, number: int, **more: object) -> pa.Table:
        groups_read.append(number)
        return read_row_group(self, number, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    catalog = Catalog(storage)
    assert catalog.known(["1.1.before", "1.9.after"]) == {}
    assert not groups_read
    # in the midst of all four files' bounds: only their Bloom filters tell
    absent = [f"1.2.500000.{n}" for n in range(1000, 1100)]
    for uid in absent:
        assert catalog.known([uid]) == {}
    assert len(groups_read) <= 20
    groups_read.clear()
    assert set(catalog.known([uids[7]])) == {uids[7]}
    assert len(groups_read) <= 4


def test_known__works_on_files_that_another_writer_compacted(storage: Storage) -> None:
    uids = _scattered_uids(90, 4)
    for number in range(3):
        commit_instances(storage, uid_rows(uids[number::3]), run_id="r")
    delta = Snapshot(storage, "instances").delta
    delta.optimize.compact()
    assert len(Catalog(storage).files_of("instances")) == 1
    assert set(Catalog(storage).known([*uids, "1.2"])) == set(uids)
    again = commit_instances(storage, uid_rows([*uids, "1.9"]), run_id="r")
    assert again.stored["sop_instance_uid"].to_pylist() == ["1.9"]
