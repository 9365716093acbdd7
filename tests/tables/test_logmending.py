"""Logs are mended: by a copy, by their witnesses, or by what their entries listed."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacspark.archive import open_archive
from pacspark.errors import StorageError
from pacspark.progress import SILENT
from pacspark.spark.repair import RepairReport, repair
from pacspark.spark.replicate import replicate
from pacspark.tables import compaction, log, logmending
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import compact
from pacspark.tables.creating import create_tables
from pacspark.tables.deletion import delete
from pacspark.tables.holds import held_studies, set_hold
from pacspark.tables.log import make_checkpoint
from pacspark.tables.logentries import entry_path
from pacspark.tables.schema import TABLES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage
from tests.tables.samples import noise, store
from tests.tables.test_fixity import flip, here, read, verified, write
from tests.tables.test_logfixity import ended_run, newest, next_batch

OBJECTS = {f"1.{number}": noise(100 + number, number) for number in range(3)}


@pytest.fixture
def replica(tmp_path: Path) -> Storage:
    """An archive of its own, still without objects."""
    storage = open_storage(tmp_path / "replica")
    create_tables(storage)
    return storage


@pytest.fixture
def copy(storage: Storage, tmp_path: Path) -> Storage:
    """A copy of the files of an archive that was written to."""
    filled(storage)
    shutil.copytree(storage.folder, tmp_path / "copy")
    return open_storage(tmp_path / "copy")


def filled(storage: Storage) -> None:
    for uid, data in OBJECTS.items():
        store(storage, {uid: data})
    next_batch(storage)
    set_hold(storage, Catalog(storage).instance("1.0")["study_instance_uid"])
    ended_run(storage)


def mended(storage: Storage, other: Storage) -> RepairReport:
    return repair(here, storage, other, verified(storage))


def assert_whole(storage: Storage, uids: set[str] | None = None) -> None:
    catalog = Catalog(storage)
    there = catalog.table("instances", ["sop_instance_uid"])["sop_instance_uid"].to_pylist()
    assert sorted(there) == sorted(OBJECTS if uids is None else uids)
    for uid in there:
        assert catalog.read_object(catalog.instance(uid)) == OBJECTS[uid]
    assert verified(storage).clean
    compact(storage, retain_days=0, min_age_hours=0)
    assert verified(storage).clean


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("harm", ["broken", "gone", "made"])
def test_repair__takes_entries_from_a_copy(
    storage: Storage, copy: Storage, table: str, harm: str
) -> None:
    version = 0 if harm == "made" else Catalog(storage).version(table)
    path = entry_path(storage, table, version).removeprefix(f"{storage.folder}/")
    entry = read(storage, path)
    if harm == "broken":
        write(storage, entry[:-5] + b"\xff\x00{{{", path)
    else:
        storage.filesystem.delete_file(storage.path(path))
    # an archive that cannot be opened can be mended all the same
    archive = open_archive(storage.root, progress=SILENT, broken=True)
    report = archive.verify()
    if harm == "gone" and table == "runs":
        assert report.clean  # its last entry has no witness yet
        return
    assert not report.clean

    repaired = archive.repair(report, copy.root)

    assert (repaired.files, repaired.left) == (1, ())
    assert read(storage, path) == entry
    assert_whole(storage)


def test_repair__turns_a_bit_back_that_changed(storage: Storage, replica: Storage) -> None:
    filled(storage)
    for table in ("instances", "objects", "rejects", "holds"):
        path = newest(storage, table).removeprefix(f"{storage.folder}/")
        entry = read(storage, path)
        for position in range(7, len(entry), 997):
            flip(storage, position, path)
            assert mended(storage, replica).left == (), (table, position)
            assert read(storage, path) == entry
    assert_whole(storage)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_repair__brings_back_what_lost_commits_stored(
    storage: Storage, replica: Storage, checkpoint: bool
) -> None:
    store(storage, {"1.0": OBJECTS["1.0"]})
    if checkpoint:
        make_checkpoint(Snapshot(storage, "instances"))
    for uid in ("1.1", "1.2"):
        store(storage, {uid: OBJECTS[uid]})
    ended_run(storage)
    for _ in range(2):
        storage.filesystem.delete_file(newest(storage))

    report = mended(storage, replica)

    assert (report.files, report.objects, report.left) == (0, 2, ())
    assert_whole(storage)
    (audit,) = Catalog(storage).table("audit").to_pylist()
    assert (audit["action"], audit["run_id"]) == ("repair", report.run_id)


def test_repair__keeps_what_took_the_place_of_a_lost_commit(
    storage: Storage, replica: Storage
) -> None:
    store(storage, {"1.1": OBJECTS["1.1"]})
    ended_run(storage)
    storage.filesystem.delete_file(newest(storage))
    store(storage, {"1.2": OBJECTS["1.2"]})
    ended_run(storage)
    assert mended(storage, replica).left == ()
    assert_whole(storage, {"1.1", "1.2"})


@pytest.mark.parametrize("table", ["objects", "rejects", "holds"])
def test_repair__brings_back_what_other_tables_lost(
    storage: Storage, replica: Storage, table: str
) -> None:
    filled(storage)
    rows = Snapshot(storage, table).read(TABLES[table].arrow_schema.names)
    storage.filesystem.delete_file(newest(storage, table))
    assert mended(storage, replica).left == ()
    assert Snapshot(storage, table).read(TABLES[table].arrow_schema.names).equals(rows)
    assert_whole(storage)


def test_repair__undoes_a_delete_whose_commit_is_lost(storage: Storage, replica: Storage) -> None:
    """Nothing that was stored may go by accident; `audit` has what is to be deleted again."""
    store(storage, OBJECTS)
    delete(storage, "instance", "1.1")
    storage.filesystem.delete_file(newest(storage))
    assert mended(storage, replica).left == ()
    assert_whole(storage)


def test_repair__brings_back_what_was_lost_long_ago(
    storage: Storage, replica: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage, {"1.0": OBJECTS["1.0"]})
    store(storage, {"1.1": OBJECTS["1.1"]})
    ended_run(storage)
    storage.filesystem.delete_file(newest(storage))
    long_ago = time.time() - 3 * 86400
    for path in Path(storage.folder).rglob("*.parquet"):
        os.utime(path, (long_ago, long_ago))
    store(storage, {"1.2": OBJECTS["1.2"]})
    ended_run(storage)

    def dated(snapshot: Snapshot) -> Iterator[log.Entry]:
        for entry in log.entries(snapshot):
            old = entry.version < 2 and snapshot.spec.name == "instances"
            yield replace(entry, committed_ms=int(long_ago * 1000) - 1000) if old else entry

    monkeypatch.setattr(logmending, "entries", dated)
    assert mended(storage, replica).left == ()
    assert_whole(storage)


def test_repair__brings_back_nothing_that_was_deleted(
    storage: Storage, replica: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed compaction left is no commit that was lost."""
    for uid, data in (OBJECTS | {"8.8": noise(8)}).items():
        store(storage, {uid: data})
    with monkeypatch.context() as patched:
        patched.setattr(compaction, "replace_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compact(storage)
    delete(storage, "instance", "1.1")
    next_batch(storage)
    store(storage, {"9.9": noise(10)})
    ended_run(storage)
    storage.filesystem.delete_file(newest(storage))
    assert mended(storage, replica).left == ()
    uids = Catalog(storage).table("instances")["sop_instance_uid"].to_pylist()
    assert sorted(uids) == ["1.0", "1.2", "8.8", "9.9"]


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_repair__ends_no_hold(
    storage: Storage, replica: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage, OBJECTS)
    study = Catalog(storage).instance("1.0")["study_instance_uid"]
    set_hold(storage, study)
    set_hold(storage, study, reason="again")
    ended_run(storage)
    monkeypatch.setattr(log, "_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        set_hold(storage, study, release=True)
    monkeypatch.undo()
    storage.filesystem.delete_file(newest(storage, "holds"))
    assert mended(storage, replica).left == ()
    assert held_studies(Snapshot(storage, "holds"), [study])


def test_repair__takes_no_place_that_a_writer_took_meanwhile(
    storage: Storage, copy: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.filesystem.delete_file(newest(storage))
    right_entry = logmending._right_entry

    def overtaken(*given: Any) -> bytes | None:
        entry = right_entry(*given)
        store(storage, {"9.9": noise(10)})
        return entry

    monkeypatch.setattr(logmending, "_right_entry", overtaken)
    with pytest.raises(StorageError, match="put a file in its place"):
        mended(storage, copy)
    assert Catalog(storage).known(["9.9"])


def test_repair__tells_what_no_replica_can_give_back(storage: Storage, replica: Storage) -> None:
    filled(storage)
    replicate(here, storage, replica)
    path = entry_path(storage, "instances", 2).removeprefix(f"{storage.folder}/")
    write(storage, b"{", path)

    report = mended(storage, replica)

    (line, *_) = report.left
    assert line.startswith(f"log: instances/_delta_log/{2:020}.json: expected lines of JSON")
    assert line.endswith(f"; {replica.root} has no entry that is this one")
    assert not report.clean
    with pytest.raises(StorageError, match=r"(read|open) the table"):
        open_archive(storage.root).catalog.table("instances")
