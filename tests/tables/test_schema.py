import multiprocessing
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.schema import Field, PrimitiveType

from pacspark.dicom.attributes import PROMOTED
from pacspark.dicom.frames import FrameIndex
from pacspark.errors import StorageError
from pacspark.tables import creating
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import check_tables, create_tables
from pacspark.tables.schema import INSTANCES, TABLES, describe_tables, frame_columns, frame_index
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import commit_instances
from tests.conftest import REPOSITORY
from tests.tables.samples import instance_row, rows_of, synced, uid_rows


@pytest.mark.parametrize("name", TABLES)
def test_create_tables__declares_types_comments_and_keys(storage: Storage, name: str) -> None:
    spec = TABLES[name]
    table = DeltaTable(storage.table_uri(name))
    found = pa.schema(table.schema().to_arrow())
    assert found.names == spec.arrow_schema.names
    for column in spec.columns:
        field = found.field(column.name)
        assert (field.type, field.nullable) == (column.type, column.nullable)
        assert field.metadata[b"comment"].decode() == column.description
    assert set(spec.key) <= set(found.names)
    assert table.metadata().description == spec.description


def test_create_tables__waits_until_every_new_folder_is_on_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "new" / "archive"
    with synced() as paths:
        create_tables(open_storage(root))
    made = {path for path in tmp_path.rglob("*") if path.is_dir() or path.suffix == ".json"}
    assert len(made) == 2 + 3 * len(TABLES)
    # the name of a folder is in the folder above it
    assert {str(path) for path in {tmp_path, *made}} <= paths


@pytest.mark.parametrize("name", TABLES)
def test_create_tables__asks_nothing_special_of_readers(storage: Storage, name: str) -> None:
    protocol = DeltaTable(storage.table_uri(name)).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not protocol.reader_features
    assert not protocol.writer_features


def test_instances__has_a_column_for_every_promoted_attribute() -> None:
    columns = {column.keyword: column for column in INSTANCES.columns if column.keyword}
    assert set(columns) == {attribute.keyword for attribute in PROMOTED}
    for attribute in PROMOTED:
        assert columns[attribute.keyword].name == attribute.column
        assert pa.types.is_list(columns[attribute.keyword].type) == attribute.multiple


def test_column_names__are_distinct() -> None:
    for spec in TABLES.values():
        assert len(set(spec.arrow_schema.names)) == len(spec.columns)


def test_create_tables__changes_nothing_when_repeated(storage: Storage) -> None:
    commit_instances(storage, uid_rows(["1.2.3"]), run_id="run-1")
    create_tables(storage)
    assert Catalog(storage).version() == 1
    assert set(Catalog(storage).known(["1.2.3"])) == {"1.2.3"}


def _create(root: str, barrier: "multiprocessing.synchronize.Barrier") -> None:
    barrier.wait(60)
    create_tables(open_storage(root))


def test_create_tables__is_safe_in_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    makers = [context.Process(target=_create, args=(str(tmp_path), barrier)) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0, 0]
    check_tables(open_storage(tmp_path))
    for name in TABLES:
        assert len(list((tmp_path / name / "_delta_log").glob("*.json"))) == 1


def test_check_tables__names_the_column_that_does_not_fit(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    create_tables(storage)
    shutil.rmtree(tmp_path / "runs")
    schema = TABLES["runs"].arrow_schema
    changed = schema.set(0, pa.field("run_id", pa.int64())).remove(1)
    DeltaTable.create(storage.table_uri("runs"), changed)
    with pytest.raises(StorageError) as caught:
        create_tables(storage)
    message = str(caught.value)
    assert "table runs: expected run_id string, found int64; operation string, found no" in message


def test_check_tables__lets_additional_columns_be(storage: Storage) -> None:
    table = DeltaTable(storage.table_uri("runs"))
    table.alter.add_columns(Field("note", PrimitiveType("string")))
    check_tables(storage)


def test_create_tables__completes_an_archive_of_an_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had no `holds`, and its log kept the bounds of the first columns alone."""
    storage = open_storage(tmp_path / "archive")
    with monkeypatch.context() as patch:
        patch.setattr(
            creating, "configuration", lambda _: {"delta.logRetentionDuration": "interval 1 days"}
        )
        create_tables(storage)
    shutil.rmtree(tmp_path / "archive" / "holds")
    commit_instances(storage, uid_rows(["1.1", "1.2"]), run_id="r")
    uids = {"sop_instance_uid": ["9.9"]}
    assert len(Snapshot(storage, "instances").files(uids)) == 1
    with pytest.raises(StorageError, match=r"found no holds; .* `pacspark init .*archive` adds"):
        check_tables(storage)

    create_tables(storage)

    check_tables(storage)
    snapshot = Snapshot(storage, "instances")
    assert snapshot.files(uids) == []
    assert snapshot.read(["sop_instance_uid"]).num_rows == 2
    assert (
        snapshot.delta.metadata().configuration["delta.logRetentionDuration"] == "interval 1 days"
    )
    create_tables(storage)
    assert Snapshot(storage, "instances").version == snapshot.version


@pytest.mark.parametrize(
    "frames",
    [
        FrameIndex(),
        FrameIndex("native", 3, 1000, 6144, 16384),
        FrameIndex("encapsulated", 2, 900, 500, None, (916, 1016, 1116), (92, 92, 92), (2, 1)),
        FrameIndex("deflated"),
    ],
)
def test_frame_index__survives_the_table(storage: Storage, frames: FrameIndex) -> None:
    row = instance_row("1.2.3") | frame_columns(frames)
    commit_instances(storage, rows_of([row]), run_id="run-1")
    assert frame_index(Catalog(storage).instance("1.2.3")) == frames


def test_rows__survive_the_table(storage: Storage) -> None:
    row = instance_row(
        "1.2.3",
        b"data",
        patient_name="Dœ^Jane=\u5c71\u7530",
        image_type=["ORIGINAL", "PRIMARY"],
        pixel_spacing=[0.1, 1 / 3],
        instance_number=-(2**40),
        kvp=1e-300,
        object_offsets=[2**40, 7],
    )
    commit_instances(storage, rows_of([row]), run_id="run-1")
    assert Catalog(storage).instance("1.2.3") == row


def test_describe_tables__has_every_table_and_column() -> None:
    page = describe_tables()
    for spec in TABLES.values():
        section = page.split(f"\n## {spec.name}\n")[1].split("\n## ")[0]
        for column in spec.columns:
            assert f"`{column.name}`" in section
            assert column.keyword or column.description in section


def test_the_page_about_the_tables__is_up_to_date() -> None:
    """Write it anew with `Path("docs/tables.md").write_text(describe_tables())`."""
    assert (REPOSITORY / "docs" / "tables.md").read_text() == describe_tables()


@pytest.mark.parametrize("lost", ["instances", "instances/_delta_log", "runs/_delta_log"])
def test_tables__are_not_made_anew_where_an_archive_lost_one(tmp_path: Path, lost: str) -> None:
    storage = open_storage(tmp_path / "archive")
    create_tables(storage)
    commit_instances(storage, uid_rows(["1.1"]), run_id="r")
    shutil.rmtree(tmp_path / "archive" / lost)
    table = lost.partition("/")[0]
    for work in (check_tables, create_tables):
        with pytest.raises(StorageError, match=f"table {table}: expected a log, .* --repair-from"):
            work(storage)
    with pytest.raises(StorageError, match=r"an archive is here, but .* --repair-from"):
        Snapshot(storage, table)
    assert not (tmp_path / "archive" / table / "_delta_log" / f"{0:020}.json").exists()
