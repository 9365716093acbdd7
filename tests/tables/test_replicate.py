"""Replicas: the same objects under another root, exactly once, whatever happens on the way."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pacspark.errors import HeldError, StorageError, UsageError
from pacspark.spark import replicate as replicate_module
from pacspark.spark.replicate import ReplicateReport, replicate
from pacspark.tables import log, replica
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import compact
from pacspark.tables.creating import create_tables
from pacspark.tables.datafile import PIECE_BYTES
from pacspark.tables.deletion import delete
from pacspark.tables.holds import set_hold
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.placing import copy_bytes
from pacspark.tables.runs import recorded_run, versions_now
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import append_unseen, commit_files, commit_instances, commit_rejects
from tests.tables.samples import noise, store
from tests.tables.test_fixity import flip, here, named, place_of, read, verified

OBJECTS = {"1.2.1": noise(5_000), "1.2.2": noise(PIECE_BYTES + 321, 1), "1.2.3": b""}
COMMITS: Sequence[Callable[..., Any]] = (commit_files, commit_instances, commit_rejects)
RUN = Callable[[Sequence[Any], Callable[[Any], Any]], list[Any]]


@pytest.fixture
def replica_root(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "replica")


def filled(storage: Storage) -> None:
    """Store some objects in two files, and refuse something."""
    store(storage, OBJECTS, "run-1")
    store(storage, {"1.3.1": noise(3_000, 3)}, "run-2")
    with recorded_run(storage, "run-3", "ingest", versions_now(storage)):
        intake = Intake(storage, "run-3")
        intake.add("notes.txt", b"no DICOM")
        commit_intake(storage, [intake.finish()], "run-3")


def contents(storage: Storage, table: str) -> list[dict[str, Any]]:
    """Give the rows of a table with the bytes that they refer to."""
    catalog = Catalog(storage)
    rows = sorted(catalog.table(table).to_pylist(), key=str)
    return [row | {"bytes": catalog.read_object(row)} for row in rows]


def copied(source: Storage, target: Storage, run: RUN = here, **more: Any) -> ReplicateReport:
    return replicate(run, source, target, **more)


def assert_same(source: Storage, target: Storage) -> None:
    for table in ("instances", "rejects"):
        assert contents(target, table) == contents(source, table)
    assert verified(target).findings == ()


@pytest.mark.parametrize("towards", [True, False], ids=["to", "from"])
def test_replicate__brings_everything_once_on_every_storage(
    contract_storage: Storage, replica_root: Storage, towards: bool
) -> None:
    source, target = replica_root, contract_storage
    if not towards:
        source, target = target, source
    create_tables(source)
    filled(source)

    report = copied(source, target)

    assert (report.stored, report.rejects, report.files, report.findings) == (4, 1, 3, [])
    assert_same(source, target)
    for file in Catalog(source).files_of("objects"):
        assert read(target, "objects", file) == read(source, "objects", file)
    assert not list(_scratch(target))
    again = copied(source, target)
    assert (again.stored, again.rejects, again.files, again.bytes_copied) == (0, 0, 0, 0)
    store(source, {"1.4.1": noise(2_000, 4)})
    more = copied(source, target)
    assert (more.stored, more.files) == (1, 1)
    assert_same(source, target)
    read_again: list[str] = []

    def noted(target: Storage, table: str, rows: pa.Table, **origin: Any) -> int:
        read_again.append(table)
        return append_unseen(target, table, rows, **origin)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicate_module, "append_unseen", noted)
        copied(source, target)
    assert read_again == []
    runs = [run for run in Catalog(target).runs().to_pylist() if run["run_id"] == "run-3"]
    assert runs == [run for run in Catalog(source).runs().to_pylist() if run["run_id"] == "run-3"]


def _scratch(storage: Storage) -> list[Any]:
    folder = Path(storage.path("_scratch"))
    return list(folder.iterdir()) if storage.kind == "local" and folder.exists() else []


def test_replicate__leaves_what_the_replica_has_of_its_own(
    storage: Storage, replica_root: Storage
) -> None:
    create_tables(replica_root)
    store(replica_root, {"1.2.1": OBJECTS["1.2.1"], "9.1": noise(100, 9)}, "own")
    store(replica_root, {"1.3.1": b"other bytes"}, "own")
    filled(storage)

    report = copied(storage, replica_root)

    assert (report.stored, report.conflict, report.rejects) == (2, 1, 1)
    catalog = Catalog(replica_root)
    for uid, data in (OBJECTS | {"9.1": noise(100, 9), "1.3.1": b"other bytes"}).items():
        assert catalog.read_object(catalog.instance(uid)) == data
    (conflict,) = (row for row in catalog.rejects().to_pylist() if row["error_class"] == "conflict")
    assert catalog.read_object(conflict) == noise(3_000, 3)
    again = copied(storage, replica_root)
    assert (again.stored, again.conflict, again.rejects, again.files) == (0, 0, 0, 0)
    assert verified(replica_root).clean


def test_replicate__leaves_damaged_objects_behind_and_brings_them_when_they_are_mended(
    storage: Storage, replica_root: Storage
) -> None:
    filled(storage)
    file, start = place_of(storage, "1.2.2")
    flip(storage, start + 5, "objects", file)

    for _ in range(2):
        report = copied(storage, replica_root)
        assert [(one.kind, one.name) for one in report.findings] == [("damaged", "1.2.2")]
        assert set(Catalog(replica_root).known([*OBJECTS, "1.3.1"])) == {"1.2.1", "1.2.3", "1.3.1"}
        assert verified(replica_root).clean
    flip(storage, start + 5, "objects", file)
    assert copied(storage, replica_root).findings == []
    for uid, data in OBJECTS.items():
        catalog = Catalog(replica_root)
        assert catalog.read_object(catalog.instance(uid)) == data
    assert verified(replica_root).clean


@pytest.mark.parametrize("lost", ["file", "footer"])
def test_replicate__goes_on_beside_broken_files(
    storage: Storage, replica_root: Storage, lost: str
) -> None:
    filled(storage)
    file, _ = place_of(storage, "1.2.1")
    if lost == "file":
        storage.filesystem.delete_file(storage.path("objects", file))
    else:
        flip(storage, len(read(storage, "objects", file)) - 2, "objects", file)
    report = copied(storage, replica_root)
    expected = set() if lost == "footer" else set(OBJECTS)
    assert {one.name for one in report.findings} == expected
    assert set(Catalog(replica_root).known([*OBJECTS, "1.3.1"])) == {*OBJECTS, "1.3.1"} - expected
    assert verified(replica_root).clean


def test_replicate__does_not_trust_a_copy_that_it_has_not_read(
    storage: Storage, replica_root: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(storage)

    def damages(source: Storage, path: str, stream: Any) -> None:
        class Stream:
            def write(self, data: Any) -> None:
                stream.write(bytes(data).replace(OBJECTS["1.2.1"][:50], bytes(50)))

        copy_bytes(source, path, Stream())

    monkeypatch.setattr(replica, "copy_bytes", damages)
    with pytest.raises(StorageError, match="the copy is not what"):
        copied(storage, replica_root)
    assert Catalog(replica_root).table("instances").num_rows == 0
    monkeypatch.undo()
    copied(storage, replica_root)
    assert_same(storage, replica_root)


@pytest.mark.parametrize("step", range(0, 14, 3))
def test_replicate__is_exactly_once_wherever_it_is_stopped(
    storage: Storage, replica_root: Storage, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Stopped before or after each task and each commit, then repeated."""
    filled(storage)
    monkeypatch.setattr(replicate_module, "BATCH_ROWS", 1)
    steps = iter(range(step))

    def stop_or_go() -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    def run(tasks: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
        found = []
        for task in tasks:
            found.append(work(task))
            stop_or_go()
        return found

    def stopping(commit: Callable[..., Any]) -> Callable[..., Any]:
        def committed(*arguments: Any, **origin: Any) -> Any:
            outcome = commit(*arguments, **origin)
            stop_or_go()
            return outcome

        return committed

    for commit in COMMITS:
        monkeypatch.setattr(replicate_module, commit.__name__, stopping(commit))
    try:
        copied(storage, replica_root, run)
    except KeyboardInterrupt:
        assert not _scratch(replica_root)
    for commit in COMMITS:
        monkeypatch.setattr(replicate_module, commit.__name__, commit)
    copied(storage, replica_root)
    for table in ("instances", "rejects"):
        assert contents(replica_root, table) == contents(storage, table)
    report = verified(replica_root)
    assert report.clean
    assert report.kinds.keys() <= {"unlisted", "orphan"}


def test_replicate__repeats_deletes_only_when_asked(
    storage: Storage, replica_root: Storage
) -> None:
    filled(storage)
    create_tables(replica_root)
    store(replica_root, {"9.1": noise(10)}, "own")
    copied(storage, replica_root)
    delete(storage, "instance", "1.2.1")
    set_hold(replica_root, "1.2")
    assert copied(storage, replica_root).removed == 0
    with pytest.raises(HeldError):
        copied(storage, replica_root, mirror=True)
    set_hold(replica_root, "1.2", release=True)

    assert copied(storage, replica_root, mirror=True).removed == 1

    found = set(Catalog(replica_root).known([*OBJECTS, "1.3.1", "9.1"]))
    assert found == {"1.2.2", "1.2.3", "1.3.1", "9.1"}
    assert copied(storage, replica_root, mirror=True).removed == 0
    assert verified(replica_root).clean
    actions = Catalog(replica_root).table("audit")["action"].to_pylist()
    assert actions.count("mirror") == 1
    assert actions.count("delete") == 1  # the source's own


def test_replicate__ends_no_hold_that_the_replica_set_itself(
    storage: Storage, replica_root: Storage
) -> None:
    store(storage, {"1.2.1": noise(10)}, "run-1")
    set_hold(storage, "1.2")
    copied(storage, replica_root)
    set_hold(replica_root, "1.2")
    for _ in range(2):
        set_hold(storage, "1.2", release=True)
        copied(storage, replica_root)
        with pytest.raises(HeldError):
            delete(replica_root, "study", "1.2")
        set_hold(storage, "1.2")

    set_hold(replica_root, "1.2", release=True)
    set_hold(storage, "1.2")
    copied(storage, replica_root)
    with pytest.raises(HeldError):
        delete(replica_root, "study", "1.2")
    set_hold(storage, "1.2", release=True)
    copied(storage, replica_root)
    delete(replica_root, "study", "1.2")


def test_replicate__mirrors_nothing_of_a_study_on_which_a_hold_is_set_meanwhile(
    storage: Storage, replica_root: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(storage)
    copied(storage, replica_root)
    delete(storage, "instance", "1.2.1")
    commit, waiting = log._commit, [lambda: set_hold(replica_root, "1.2")]

    def overtaken(snapshot: Snapshot, *given: Any) -> None:
        if waiting and snapshot.spec.name == "instances":
            waiting.pop()()
        commit(snapshot, *given)

    monkeypatch.setattr(log, "_commit", overtaken)
    with pytest.raises(HeldError):
        copied(storage, replica_root, mirror=True)
    assert set(Catalog(replica_root).known(OBJECTS)) == set(OBJECTS)
    assert verified(replica_root).findings == ()


def test_replicate__refuses_itself(storage: Storage) -> None:
    link = Path(f"{storage.root}-link")
    link.symlink_to(storage.root)
    for one in (storage, open_storage(link)):
        with pytest.raises(UsageError, match="two roots"):
            copied(storage, one)
    assert named(verified(storage)) == []


def test_replicate__brings_nothing_again_after_a_compaction(
    storage: Storage, replica_root: Storage
) -> None:
    filled(storage)
    copied(storage, replica_root)
    for one in (storage, replica_root):
        compact(one, retain_days=0, min_age_hours=0)
    report = copied(storage, replica_root)
    assert (report.stored, report.rejects, report.files) == (0, 0, 0)
    assert verified(replica_root).clean
