"""Rows that cannot be read come back from a replica, or nothing is changed."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.instances import instance
from pacspark.spark.repair import RepairReport, repair
from pacspark.spark.replicate import replicate
from pacspark.spark.verify import VerifyReport, VerifyRequest, verify
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import in_threads
from pacspark.tables.creating import create_tables
from pacspark.tables.deletion import delete
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.schema import TABLES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage


def take_in(storage: Storage, run_id: str, objects: dict[str, bytes]) -> None:
    with Intake(storage, run_id) as intake:
        for source, data in objects.items():
            intake.add(source, data)
        taken = intake.finish()
    commit_intake(storage, [taken], run_id)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Storage, Storage]:
    """Give an archive of two files of `instances` and one of `rejects`, and its replica."""
    storage, other = open_storage(tmp_path / "archive"), open_storage(tmp_path / "replica")
    create_tables(storage)
    take_in(storage, "first", {f"{n}.dcm": instance(n) for n in range(3)})
    take_in(storage, "second", {f"{n}.dcm": instance(n) for n in range(100, 105)})
    take_in(storage, "third", {"text.dcm": b"no DICOM at all"})
    assert not replicate(in_threads, storage, other).findings
    return storage, other


def verified(storage: Storage) -> VerifyReport:
    return verify(in_threads, storage, VerifyRequest())


def spoil(storage: Storage, table: str) -> bytes:
    """Flip a bit in the values of a table's newest file; return the file as it was."""
    (file,) = Snapshot(storage, table).newest_files(1)
    path = Path(storage.path(table, file.path))
    kept = path.read_bytes()
    digests = TABLES[table].arrow_schema.get_field_index("sha256")
    chunk = pq.read_metadata(path).row_group(0).column(digests)
    assert chunk.path_in_schema == "sha256"
    data = bytearray(kept)
    data[chunk.dictionary_page_offset + 100] ^= 16
    path.write_bytes(data)
    return kept


def rows_of(storage: Storage, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Catalog(storage).table(table).sort_by("received_at").to_pylist()
    return rows


def mended(storage: Storage, other: Storage) -> RepairReport:
    return repair(in_threads, storage, other, verified(storage))


@pytest.mark.parametrize("table", ["instances", "rejects"])
def test_repair__brings_rows_back(pair: tuple[Storage, Storage], table: str) -> None:
    storage, other = pair
    before = rows_of(storage, table)
    spoil(storage, table)
    (finding,) = (one for one in verified(storage).findings if one.wrong)
    assert (finding.kind, finding.table) == ("file", table)

    report = mended(storage, other)

    assert report.clean
    assert report.files == 1
    assert verified(storage).clean
    assert rows_of(storage, table) == before
    assert all(Catalog(storage).read_object(row) for row in before)


def test_repair__brings_rows_back_where_bytes_lie_elsewhere(
    pair: tuple[Storage, Storage],
) -> None:
    storage, other = pair
    spoil(storage, "instances")
    for file in Snapshot(storage, "objects").files():
        Path(storage.path("objects", file.path)).unlink()

    assert mended(storage, other).clean

    assert verified(storage).clean
    assert len(rows_of(storage, "instances")) == 8


@pytest.mark.parametrize("table", ["instances", "rejects"])
def test_repair__brings_the_rows_of_all_files_of_a_table_back(
    pair: tuple[Storage, Storage], table: str
) -> None:
    storage, other = pair
    take_in(storage, "fourth", {"other.dcm": b"no DICOM either"})
    assert not replicate(in_threads, storage, other).findings
    before = rows_of(storage, table)
    files = Snapshot(storage, table).files()
    assert len(files) == 2
    for file in files:
        Path(storage.path(table, file.path)).unlink()

    report = mended(storage, other)

    assert (report.files, report.left) == (2, ())
    assert rows_of(storage, table) == before
    assert verified(storage).clean


def test_repair__changes_nothing_where_rows_cannot_be_told(
    pair: tuple[Storage, Storage],
) -> None:
    storage, other = pair
    delete(other, "instance", str(rows_of(other, "instances")[-1]["sop_instance_uid"]))
    kept = spoil(storage, "instances")
    version = Catalog(storage).version()

    report = mended(storage, other)

    assert [line.split("; ")[-1] for line in report.left] == [
        "the replica has 4 rows for the 5 that are lost"
    ]
    assert Catalog(storage).version() == version
    (file,) = Snapshot(storage, "instances").newest_files(1)
    Path(storage.path("instances", file.path)).write_bytes(kept)
    assert verified(storage).clean
