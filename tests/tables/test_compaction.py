"""Compaction: fewer files, the same rows and bytes."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacspark.errors import StorageError, UsageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import compact
from pacspark.tables.datafile import PIECE_BYTES
from pacspark.tables.deletion import delete, undelete
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.lookup import _read_sieve
from pacspark.tables.merging import group_up
from pacspark.tables.schema import PROJECTIONS
from pacspark.tables.scratch import Scratch
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import append_rows
from tests.ct_objects import ct_image, encoded, steps
from tests.tables.compacting import (
    EAGER,
    NOW,
    data_files,
    fill,
    ingest,
    listed,
    read_all,
    reject,
    settle,
)
from tests.tables.samples import noise, sha256


@given(st.lists(st.floats(0, 1.2), max_size=40))
def test_group_up__makes_groups_that_are_not_small_again(weights: list[float]) -> None:
    items = list(enumerate(weights))
    groups = group_up(((n, w), w) for n, w in items)
    sums = [sum(w for _, w in group) for group in group_up(((n, w), w) for n, w in items)]
    assert all(total <= 1 + 1e-9 for total in sums)
    flat = [item for group in groups for item in group]
    assert flat == [item for item in items if item in set(flat)]
    every = group_up(((n, w), w) for n, w in items), group_up(items, fewest=1)
    assert all(sum(w for n, w in items if n in group) > 0.5 for group in every[1][:-1])
    assert sum(map(len, every[1])) == sum(w < 0.5 for w in weights)


def test_compact__makes_few_ordered_files_of_many_and_changes_nothing(storage: Storage) -> None:
    stored = fill(storage)
    reject(storage, "broken.dcm", b"not DICOM")
    before = Catalog(storage).table("instances").sort_by("sop_instance_uid")
    held = Snapshot(storage, "instances")  # a reader that goes on with what it has opened
    version = held.version
    report = compact(storage, **EAGER)
    assert (report.merged_files["instances"], report.into_files["instances"]) == (6, 1)
    assert (report.merged_files["objects"], report.into_files["objects"]) == (7, 1)
    assert report.moved_objects == len(stored) + 1
    assert report.left_alone == []
    assert read_all(storage) == read_all(storage, version) == stored
    (row,) = Catalog(storage).rejects().to_pylist()
    assert Catalog(storage).read_object(row) == b"not DICOM"
    assert row["object_file"] in listed(storage, "objects")
    assert held.read(before.column_names).sort_by("sop_instance_uid").equals(before)
    # the same rows, but for where their bytes are
    after = Catalog(storage).table("instances").sort_by("sop_instance_uid")
    places = ["object_file", "object_row_group", "object_offsets"]
    assert after.drop(places).equals(before.drop(places))
    snapshot = Snapshot(storage, "instances")
    (file,) = snapshot.files()
    keys = ["study_instance_uid", "series_instance_uid", "instance_number"]
    clustered = snapshot.read(keys).to_pylist()
    assert clustered == sorted(clustered, key=lambda row: [row[key] for key in keys])
    assert all(bloom is not None for _, _, bloom in _read_sieve(storage, file))
    assert snapshot.files({"sop_instance_uid": ["0.1"]}) == []
    # objects of a study lie together, in the order of their numbers
    rows = snapshot.read([*keys, "object_row_group"]).to_pylist()
    assert [r["object_row_group"] for r in rows] == sorted(r["object_row_group"] for r in rows)
    # nothing is left to do
    versions = {name: Catalog(storage).version(name) for name in ("instances", "objects")}
    again = compact(storage, **EAGER)
    assert again.merged_files.keys() <= {"runs"}
    assert versions == {name: Catalog(storage).version(name) for name in versions}


def test_compact__says_beforehand_what_it_would_do(storage: Storage) -> None:
    stored = fill(storage)
    for table in ("instances", "objects"):
        Path(storage.path(table, "part-killed.parquet")).write_bytes(b"half a file")
    versions = Catalog(storage).versions().num_rows
    looked = compact(storage, dry_run=True, **EAGER)
    assert Catalog(storage).versions().num_rows == versions
    assert "part-killed.parquet" in data_files(storage, "objects")
    done = compact(storage, **EAGER)
    for name in ("merged_files", "into_files", "deleted_files", "deleted_bytes"):
        assert getattr(looked, name) == getattr(done, name), name
    assert (done.deleted_files, done.deleted_bytes) == (2, 22)
    assert read_all(storage) == stored


def test_compact__keeps_large_objects_piece_by_piece(storage: Storage) -> None:
    large = noise(PIECE_BYTES + 4321)
    stored = {"1.2.1.1.1": large, "1.2.1.1.2": b"", "1.2.1.1.3": b"x", "1.2.1.1.4": b"y"}
    for uid, data in stored.items():
        ingest(storage, {uid: data})
    assert compact(storage, **EAGER).into_files["objects"] == 1
    catalog = Catalog(storage)
    row = catalog.instance("1.2.1.1.1")
    assert catalog.read_range(row, PIECE_BYTES - 10, 20) == large[PIECE_BYTES - 10 :][:20]
    assert read_all(storage) == stored
    # one row group for each piece, as a reader of the table sees it
    pieces = catalog.table("objects", ["sha256", "piece"]).to_pylist()
    expected = [(sha256(large), 1), *((sha256(data), 0) for data in stored.values())]
    assert sorted((p["sha256"], p["piece"]) for p in pieces) == sorted(expected)


def test_compact__leaves_alone_what_is_young_or_kept(storage: Storage) -> None:
    stored = fill(storage)
    orphan = Path(storage.path("instances", "part-orphan.parquet"))
    orphan.write_bytes(b"a job that still runs")
    Scratch(storage, "run").begin()
    compact(storage)
    assert len(listed(storage, "objects")) == 6  # rows may be on their way to them
    assert len(listed(storage, "instances")) == 1
    assert len(data_files(storage, "instances")) == 8
    assert orphan.exists()
    assert Path(storage.path("_scratch", "run")).exists()
    for table in ("instances", "objects"):
        for path in Path(storage.path(table)).glob("*.parquet"):
            os.utime(path, (1, 1))
    os.utime(storage.path("_scratch", "run"), (1, 1))
    report = compact(storage)
    assert report.leftovers == 1
    assert not Path(storage.path("_scratch", "run")).exists()
    assert not orphan.exists()
    assert len(listed(storage, "objects")) == 1
    # versions of the last 30 days are whole
    assert len(data_files(storage, "objects")) == 7
    for version in range(1, 7):
        assert len(read_all(storage, version)) == 4 * version
    assert read_all(storage) == stored


def test_compact__leaves_alone_what_a_job_of_days_has_written(storage: Storage) -> None:
    """Its first files are older than the floor when it still writes others; its end lists all."""
    folder = Path(storage.path("objects"))
    first, last, killed = (
        folder / f"part-{job}-{part * 32}.parquet"
        for job, part in (("a" * 32, "1"), ("a" * 32, "2"), ("b" * 32, "1"))
    )
    scratch, progress = (Path(storage.path(name, "run")) for name in ("_scratch", "_progress"))
    for path in (first, last, killed):
        path.write_bytes(b"objects")
    for path in (scratch, progress):
        path.mkdir(parents=True)
    for path in (first, killed, scratch):
        os.utime(path, (1, 1))
    report = compact(storage)
    assert (report.deleted_files, report.leftovers) == (1, 0)
    assert [path.exists() for path in (first, last, killed, scratch)] == [True, True, False, True]
    for path in (last, progress):
        os.utime(path, (1, 1))
    report = compact(storage)
    assert (report.deleted_files, report.leftovers) == (2, 2)
    assert not list(folder.glob("*.parquet"))


def test_compact__deletes_bytes_whose_retention_has_ended_and_no_others(storage: Storage) -> None:
    stored = fill(storage, 3)
    gone, *_ = stored
    compact(storage, **EAGER)
    delete(storage, "instance", gone)
    compact(storage, **EAGER)
    assert undelete(storage, "instance", gone).restored == 1
    assert read_all(storage) == stored
    delete(storage, "instance", gone)
    version = Catalog(storage).version()
    settle(storage)
    del stored[gone]
    assert read_all(storage) == stored
    for table in ("instances", "objects"):
        assert data_files(storage, table) == listed(storage, table)
    digests = Catalog(storage).table("objects", ["sha256"])["sha256"].to_pylist()
    assert sorted(digests) == sorted(sha256(data) for data in stored.values())
    message = (
        rf"as_of: expected a version of instances that is kept, found {version - 1}, [0-9]+ of"
    )
    with pytest.raises(UsageError, match=message):
        Catalog(storage, version - 1).known([gone])


def _prepare(storage: Storage, series: str) -> None:
    row: dict[str, Any] = dict.fromkeys(PROJECTIONS.arrow_schema.names, 0)
    row |= {"series_instance_uid": series, "gantry_angles_rad": [0.0], "run_id": "run"}
    row |= {"line_integrals": b"1234"}
    rows = pa.Table.from_pylist([row], schema=PROJECTIONS.arrow_schema)
    append_rows(storage, "projections", rows, run_id="run", operation="reconstruct")


def test_compact__drops_projections_when_no_kept_version_has_their_scan(storage: Storage) -> None:
    stored = {f"1.2.3.{series}.1": b"frames" for series in (1, 2)}
    ingest(storage, stored)
    for series in ("1.2.3.1", "1.2.3.2"):
        _prepare(storage, series)
    delete(storage, "series", "1.2.3.1")
    compact(storage, **EAGER)
    assert Catalog(storage).table("projections").num_rows == 2  # it may come back
    compact(storage, retain_days=0)
    assert Catalog(storage).table("projections").num_rows == 2  # somebody may be making them
    settle(storage)
    left = Catalog(storage).table("projections", ["series_instance_uid"]).to_pylist()
    assert left == [{"series_instance_uid": "1.2.3.2"}]
    assert data_files(storage, "projections") == listed(storage, "projections")


def test_compact__drops_conflicts_with_the_objects_that_they_contradict(storage: Storage) -> None:
    ingest(storage, {"1.2.1.1.1": b"deleted", "1.2.2.1.1": b"kept"})
    for uid in ("1.2.1.1.1", "1.2.2.1.1"):
        with Intake(storage, "run-2") as intake:
            image = ct_image(steps(1)[0], 1, (0, 0, 0), SOPInstanceUID=uid)
            intake.add("late.dcm", encoded(image))
            taken = intake.finish()
        assert commit_intake(storage, [taken], "run-2").conflict == 1
    reject(storage, "broken", b"no DICOM")
    conflicts = {row["sop_instance_uid"]: row for row in Catalog(storage).rejects().to_pylist()}
    delete(storage, "study", "1.2.1")
    compact(storage, **EAGER)
    assert Catalog(storage).rejects().num_rows == 3  # their study may come back
    undelete(storage, "study", "1.2.1")
    settle(storage)
    assert Catalog(storage).rejects().num_rows == 3
    delete(storage, "study", "1.2.1")
    settle(storage)
    catalog = Catalog(storage)
    left = {row["sop_instance_uid"]: row for row in catalog.rejects().to_pylist()}
    assert set(left) == {"1.2.2.1.1", None}
    assert {catalog.read_object(row) for row in left.values()} >= {b"no DICOM"}
    # nothing of what was deleted is left on the storage
    gone = conflicts["1.2.1.1.1"]["sha256"].encode()
    for table in ("objects", "rejects", "instances"):
        for path in Path(storage.path(table)).glob("*.parquet"):
            content = path.read_bytes()
            assert b"1.2.1.1.1" not in content, path
            assert gone not in content, path


def test_compact__leaves_damage_where_it_is_and_says_so(storage: Storage) -> None:
    stored = fill(storage, 4)
    first, *others = Catalog(storage).files_of("objects")
    row = next(
        row
        for row in Catalog(storage).table("instances").to_pylist()
        if row["object_file"] == first
    )
    path = Path(storage.path("objects", first))
    damaged = bytearray(path.read_bytes())
    damaged[row["object_offsets"][0]] ^= 1
    path.write_bytes(damaged)
    os.utime(path, (1, 1))
    report = compact(storage, **EAGER)
    assert len(report.left_alone) == 1
    assert "expected bytes of SHA-256" in report.left_alone[0]
    assert listed(storage, "objects") == {first, *others}
    catalog = Catalog(storage)
    for uid, data in stored.items():
        if uid != row["sop_instance_uid"]:
            assert catalog.read_object(catalog.instance(uid)) == data


def test_compact__takes_no_bytes_for_nobodys_when_rows_are_lost(storage: Storage) -> None:
    fill(storage, 3)
    lost, *_ = Catalog(storage).files_of("instances")
    Path(storage.path("instances", lost)).unlink()
    before = data_files(storage, "objects")
    with pytest.raises(StorageError, match=f"cannot read instances/{lost}"):
        compact(storage, **NOW)
    assert data_files(storage, "objects") == listed(storage, "objects") == before


def test_compact__takes_no_bytes_for_nobodys_when_rows_are_damaged(storage: Storage) -> None:
    fill(storage, 3)
    (file,) = Snapshot(storage, "instances").newest_files(1)
    path = Path(storage.path("instances", file.path))
    data = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(0)
    names = [group.column(number).path_in_schema for number in range(group.num_columns)]
    chunk = group.column(names.index("object_file"))
    name = data.index(b"part-", chunk.dictionary_page_offset)
    data[name + 10] ^= 1  # the name of another file, that there is not
    path.write_bytes(data)
    before = data_files(storage, "objects")
    with pytest.raises(StorageError, match=f"cannot read instances/{file.path}"):
        compact(storage, **NOW)
    assert data_files(storage, "objects") == listed(storage, "objects") == before
