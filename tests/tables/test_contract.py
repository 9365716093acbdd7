"""What holds on every kind of root: the same cases over local disk, S3 and HDFS."""

import io
import multiprocessing
import pickle
from collections import Counter

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from benchmarks.instances import instance
from pacspark.dicom.matching import parse_query
from pacspark.errors import (
    ArchiveNotFoundError,
    CommitConflictError,
    HeldError,
    StorageError,
    UsageError,
)
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import compact
from pacspark.tables.creating import check_tables, create_tables
from pacspark.tables.datafile import PIECE_BYTES, AddedFile, DataFile, ObjectFile
from pacspark.tables.deletion import delete, undelete
from pacspark.tables.holds import set_hold
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.schema import INSTANCES, TABLES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import commit_files, commit_instances, replace_files
from tests.tables.samples import noise, sha256, store, uid_rows

OBJECTS = {"1.2.1.1": noise(132), "1.2.1.2": noise(PIECE_BYTES + 4321, 1), "1.2.1.3": b""}


def test_root__has_no_archive_before_it_is_made(archive_root: str) -> None:
    storage = open_storage(archive_root)
    with pytest.raises(ArchiveNotFoundError, match="pacspark init"):
        check_tables(storage)
    create_tables(storage)
    create_tables(storage)
    check_tables(storage)
    for name in TABLES:
        table = DeltaTable(storage.table_uri(name), storage_options=storage.delta_options)
        assert table.version() == 0


def test_objects__come_out_as_they_went_in(contract_storage: Storage) -> None:
    outcome = store(contract_storage, OBJECTS)
    assert outcome.stored.num_rows == len(OBJECTS)
    catalog = pickle.loads(pickle.dumps(Catalog(contract_storage)))
    assert catalog.known([*OBJECTS, "1.9"]) == {uid: sha256(d) for uid, d in OBJECTS.items()}
    for uid, data in OBJECTS.items():
        assert catalog.read_object(catalog.instance(uid)) == data
    row = catalog.instance("1.2.1.2")
    start, length = PIECE_BYTES - 100, 300
    assert catalog.read_range(row, start, length) == OBJECTS["1.2.1.2"][start : start + length]
    found = catalog.find(parse_query({"SeriesInstanceUID": "1.2.1"}, "series"))
    assert found["NumberOfSeriesRelatedInstances"].to_pylist() == [3]


def test_commits__are_exactly_once(contract_storage: Storage) -> None:
    store(contract_storage, OBJECTS)
    again = store(contract_storage, OBJECTS | {"1.2.1.1": b"other", "1.2.1.4": b"new"})
    assert again.stored["sop_instance_uid"].to_pylist() == ["1.2.1.4"]
    assert again.duplicate == 2
    assert [row["sop_instance_uid"] for row in again.conflicts] == ["1.2.1.1"]
    assert Catalog(contract_storage).version() == 2


def test_commits__are_compare_and_set(contract_storage: Storage) -> None:
    catalogs = [Catalog(contract_storage) for _ in range(4)]
    for catalog in catalogs:
        assert catalog.version() == 0
    outcomes = [
        commit_instances(contract_storage, uid_rows([f"1.{n}", "1.9"]), run_id=f"run-{n}")
        for n in range(4)
    ]
    assert [outcome.version for outcome in outcomes] == [1, 2, 3, 4]
    assert [outcome.stored.num_rows for outcome in outcomes] == [2, 1, 1, 1]
    assert all(catalog.version() == 4 for catalog in catalogs)


SPAWN = multiprocessing.get_context("spawn")
WRITERS, COMMITS = 3, 4


def _store_overlapping(
    root: str, number: int, barrier: "multiprocessing.synchronize.Barrier"
) -> None:
    storage = open_storage(root)
    barrier.wait(120)
    for commit in range(COMMITS):
        uids = [f"1.2.{commit}.{n}" for n in range(number, number + 4)]
        commit_instances(storage, uid_rows(uids), run_id=f"writer-{number}")


def test_commits__are_exactly_once_among_processes(contract_storage: Storage) -> None:
    barrier = SPAWN.Barrier(WRITERS)
    writers = [
        SPAWN.Process(target=_store_overlapping, args=(contract_storage.root, n, barrier))
        for n in range(WRITERS)
    ]
    for process in writers:
        process.start()
    for process in writers:
        process.join(120)
    assert [process.exitcode for process in writers] == [0] * WRITERS
    uids = Catalog(contract_storage).table("instances", ["sop_instance_uid"])
    expected = sorted(f"1.2.{commit}.{n}" for commit in range(COMMITS) for n in range(WRITERS + 3))
    assert sorted(uids["sop_instance_uid"].to_pylist()) == expected


BATCHES, BATCH, STEP = 250, 6, 3


def _ingest_overlapping(
    root: str,
    number: int,
    barrier: "multiprocessing.synchronize.Barrier",
    counts: "multiprocessing.Queue[dict[str, int]]",
) -> None:
    """Take in batches of which each shares half with the next, in this or in the other order."""
    storage = open_storage(root)
    barrier.wait(120)
    total: Counter[str] = Counter()
    starts = [batch * STEP for batch in range(BATCHES)]
    for start in starts if number == 0 else reversed(starts):
        with Intake(storage, f"writer-{number}") as intake:
            for one in range(start, start + BATCH):
                intake.add(f"{number}: {one}", instance(one))
            result = intake.finish()
        total.update(commit_intake(storage, [result], f"writer-{number}").counts)
    counts.put(dict(total))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ingests__of_two_writers_at_once_lose_nothing_and_double_nothing(
    contract_storage: Storage,
) -> None:
    """500 commits; each object comes four times, twice from each writer."""
    barrier, counts = SPAWN.Barrier(2), SPAWN.Queue()
    writers = [
        SPAWN.Process(target=_ingest_overlapping, args=(contract_storage.root, n, barrier, counts))
        for n in range(2)
    ]
    for process in writers:
        process.start()
    totals = [counts.get(timeout=2900) for _ in writers]
    for process in writers:
        process.join(60)
    assert [process.exitcode for process in writers] == [0, 0]
    n_objects = (BATCHES - 1) * STEP + BATCH
    total = Counter(totals[0]) + Counter(totals[1])
    assert total == {"stored": n_objects, "duplicate": 2 * BATCHES * BATCH - n_objects}
    catalog = Catalog(contract_storage)
    rows = catalog.table("instances").to_pylist()
    assert len(rows) == len({row["sop_instance_uid"] for row in rows}) == n_objects
    assert {sha256(instance(one)) for one in range(n_objects)} == {row["sha256"] for row in rows}
    for row in rows[::50]:
        assert sha256(catalog.read_object(row)) == row["sha256"]
    # files of attempts that lost are gone
    folder = pa.fs.FileSelector(contract_storage.path("instances"))
    found = contract_storage.filesystem.get_file_info(folder)
    on_storage = {info.base_name for info in found if info.base_name.endswith(".parquet")}
    assert on_storage == set(catalog.files_of("instances"))


def test_files__are_nobodys_before_the_commit_and_go_when_aborted(
    contract_storage: Storage,
) -> None:
    with DataFile(contract_storage, INSTANCES) as orphan:
        orphan.append(uid_rows(["1.1"]))
    added = orphan.close()
    assert Catalog(contract_storage).known(["1.1"]) == {}
    path = contract_storage.path("instances", added.path)
    info = contract_storage.filesystem.get_file_info(path)
    assert info.size == added.size_bytes
    orphan.abort()
    assert not contract_storage.filesystem.get_file_info(path).is_file
    broken = ObjectFile(contract_storage)
    with pytest.raises(StorageError, match="changed while they were read"), broken:
        broken.append(io.BytesIO(b"changed"), sha256=sha256(b"as promised"))
    folder = pa.fs.FileSelector(contract_storage.path("objects"))
    files = contract_storage.filesystem.get_file_info(folder)
    assert not [info.path for info in files if info.path.endswith(".parquet")]


def test_application_transactions__count_once(contract_storage: Storage) -> None:
    for number in (1, 1, 2):
        with ObjectFile(contract_storage) as file:
            file.append(b"x")
        commit_files(
            contract_storage,
            "objects",
            [file.close()],
            app_transaction=("job", number),
            run_id="r",
            operation="t",
        )
    assert Catalog(contract_storage).table("objects", ["piece"]).num_rows == 2


def test_as_of__shows_the_archive_as_it_was(contract_storage: Storage) -> None:
    store(contract_storage, {"1.1": b"x"}, "run-a")
    store(contract_storage, {"1.2": b"y"}, "run-b")
    assert set(Catalog(contract_storage, as_of=1).known(["1.1", "1.2"])) == {"1.1"}
    runs = Catalog(contract_storage).versions().to_pylist()
    assert [row["run_id"] for row in runs if row["table"] == "instances"] == [
        None,
        "run-a",
        "run-b",
    ]


def _written(storage: Storage, uids: list[str]) -> AddedFile:
    with DataFile(storage, INSTANCES) as file:
        file.append(uid_rows(uids))
    return file.close()


def test_files__take_the_place_of_others_in_one_commit(contract_storage: Storage) -> None:
    for uid in ("1.1", "1.2", "1.3"):
        commit_instances(contract_storage, uid_rows([uid]), run_id="run")
    before = Catalog(contract_storage, as_of=3)
    files = Snapshot(contract_storage, "instances").files()
    merged = _written(contract_storage, ["1.1", "1.3"])
    # whoever reads an old version goes on reading
    assert before.version() == 3
    version = replace_files(
        contract_storage, "instances", files, [merged], run_id="r", operation="delete"
    )
    assert version == 4
    assert set(Catalog(contract_storage).known(["1.1", "1.2", "1.3"])) == {"1.1", "1.3"}
    assert Catalog(contract_storage).files_of("instances") == [merged.path]
    assert set(before.known(["1.1", "1.2", "1.3"])) == {"1.1", "1.2", "1.3"}
    # what somebody else replaced first is not replaced again, and the newcomer goes
    late = _written(contract_storage, ["1.1"])
    with pytest.raises(CommitConflictError, match="another writer replaced"):
        replace_files(contract_storage, "instances", files, [late], run_id="r", operation="x")
    path = contract_storage.path("instances", late.path)
    assert not contract_storage.filesystem.get_file_info(path).is_file
    assert Catalog(contract_storage).version() == 4
    # files may go without others
    merged_now = Snapshot(contract_storage, "instances").files()
    assert (
        replace_files(contract_storage, "instances", merged_now, [], run_id="r", operation="delete")
        == 5
    )
    assert Catalog(contract_storage).known(["1.1", "1.3"]) == {}
    delta = DeltaTable(
        contract_storage.table_uri("instances"), storage_options=contract_storage.delta_options
    )
    assert delta.to_pyarrow_table().num_rows == 0


def test_deletes__are_undone_and_refused_for_what_is_on_hold(contract_storage: Storage) -> None:
    store(contract_storage, OBJECTS)
    commit_instances(contract_storage, uid_rows(["1.9"], study_instance_uid="1"), run_id="run")
    assert delete(contract_storage, "study", "1.2").instances == len(OBJECTS)
    assert set(Catalog(contract_storage).known([*OBJECTS, "1.9"])) == {"1.9"}
    assert undelete(contract_storage, "series", "1.2.1").restored == len(OBJECTS)
    catalog = Catalog(contract_storage)
    for uid, data in OBJECTS.items():
        assert catalog.read_object(catalog.instance(uid)) == data
    set_hold(contract_storage, "1.2", reason="a test")
    with pytest.raises(HeldError, match="is on legal hold"):
        delete(contract_storage, "instance", "1.2.1.1")
    set_hold(contract_storage, "1.2", release=True)
    assert delete(contract_storage, "instance", "1.2.1.1").instances == 1


def test_compact__merges_and_deletes_and_keeps_every_byte(contract_storage: Storage) -> None:
    objects = {f"1.2.1.{n}": noise(100 + n, n) for n in range(4)}
    for uid, data in objects.items():
        store(contract_storage, {uid: data})
    path = contract_storage.path("objects", "part-killed.parquet")
    with contract_storage.filesystem.open_output_stream(path) as stream:
        stream.write(b"half a file")
    assert compact(contract_storage).deleted_files == 0  # it is young
    report = compact(contract_storage, retain_days=30, min_age_hours=0)
    assert report.merged_files["objects"] == 4
    assert (report.deleted_files, report.deleted_bytes) == (1, 11)
    delete(contract_storage, "instance", "1.2.1.3")
    before = Catalog(contract_storage, as_of=4)
    assert set(before.known(objects)) == set(objects)
    assert {d for uid in objects if (d := before.read_object(before.instance(uid)))}
    for _ in range(3):
        compact(contract_storage, retain_days=0, min_age_hours=0)
    catalog = Catalog(contract_storage)
    del objects["1.2.1.3"]
    assert {uid: catalog.read_object(catalog.instance(uid)) for uid in objects} == objects
    assert len(catalog.files_of("objects")) == 1
    folder = pa.fs.FileSelector(contract_storage.path("objects"))
    files = contract_storage.filesystem.get_file_info(folder)
    assert sum(info.path.endswith(".parquet") for info in files) == 1
    with pytest.raises(UsageError, match="as_of: expected a version of instances that is kept"):
        Catalog(contract_storage, as_of=4).known(objects)
