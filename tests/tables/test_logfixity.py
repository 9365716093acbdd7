"""Logs: an entry that is lost, changed or in another's place is told, on every storage."""

import json
from collections.abc import Callable
from datetime import timedelta

import pyarrow.fs as pafs
import pytest

from pacspark.errors import StorageError
from pacspark.tables import logfixity
from pacspark.tables.audit import record
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import compact
from pacspark.tables.deletion import delete
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.log import make_checkpoint
from pacspark.tables.logentries import entry_path, logged_versions
from pacspark.tables.logfixity import check_logs
from pacspark.tables.runs import recorded_run
from pacspark.tables.schema import TABLES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from tests.tables.samples import noise, store
from tests.tables.test_fixity import flip, read, verified, write

Job = Callable[[Storage], None]


def ended_run(storage: Storage) -> None:
    with recorded_run(storage, "run-1", "ingest", {}):
        pass


def gateway(storage: Storage) -> None:
    """A gateway writes no row for each commit, but that it was stored to."""
    record(storage, "store", "", "", "done", {}, "run-1")


def next_batch(storage: Storage) -> None:
    with Intake(storage, "run-2") as intake:
        intake.add("notes.txt", b"no DICOM")
        taken = intake.finish()
    commit_intake(storage, [taken], "run-2")


def newest(storage: Storage, table: str = "instances") -> str:
    return entry_path(storage, table, Catalog(storage).version(table))


def told(storage: Storage) -> list[tuple[str, str]]:
    return [(one.table, one.file[-6:-5]) for one in check_logs(storage).findings]


@pytest.mark.parametrize("later", [ended_run, gateway, next_batch])
def test_verify__tells_that_the_newest_commit_is_lost(storage: Storage, later: Job) -> None:
    for number in range(2):
        store(storage, {f"1.{number}": noise(100, number)})
    later(storage)
    assert verified(storage).clean
    storage.filesystem.delete_file(newest(storage))

    report = verified(storage)

    (line,) = (one.line for one in report.findings if one.wrong)
    assert line == (
        f"log: instances/_delta_log/{2:020}.json: expected the entry of version 2, found none"
    )


def test_compact__deletes_nothing_where_a_commit_is_lost(contract_storage: Storage) -> None:
    storage = contract_storage
    store(storage, {"1.1": noise(100)})
    ended_run(storage)
    storage.filesystem.delete_file(newest(storage))
    selector = pafs.FileSelector(storage.folder, recursive=True)
    before = {info.path for info in storage.filesystem.get_file_info(selector)}

    for dry_run in (False, True):
        with pytest.raises(StorageError, match=r"the entry of version 1, found none; .*--repair"):
            compact(storage, retain_days=0, min_age_hours=0, dry_run=dry_run)

    assert {info.path for info in storage.filesystem.get_file_info(selector)} == before
    assert told(storage) == [("instances", "1")]


def test_verify__tells_that_another_commit_took_the_place_of_one(storage: Storage) -> None:
    store(storage, {"1.1": noise(100)})
    ended_run(storage)
    storage.filesystem.delete_file(newest(storage))
    store(storage, {"1.2": noise(100, 1)})
    ended_run(storage)
    (finding,) = check_logs(storage).findings
    assert "took the place of one that was lost" in finding.message


def test_verify__tells_any_flipped_bit_of_an_entry(storage: Storage) -> None:
    """Of each table's newest entry, and of the one that made it: paths, times, properties, all."""
    store(storage, {"1.1": noise(100), "1.2": noise(100, 1)})
    next_batch(storage)
    delete(storage, "instance", "1.2")
    assert verified(storage).clean  # is witness of all that is there
    for table in TABLES:
        for version in {0, Catalog(storage).version(table)} - {1 if table == "runs" else None}:
            path = entry_path(storage, table, version).removeprefix(f"{storage.folder}/")
            entry = read(storage, path)
            for position in range(0, len(entry), 61):
                flip(storage, position, path)
                found = [(one.table, one.file) for one in check_logs(storage).findings]
                assert (table, f"_delta_log/{version:020}.json") in found, (table, position)
            write(storage, entry, path)
    assert check_logs(storage).findings == []


def test_verify__is_witness_of_what_others_committed(storage: Storage) -> None:
    store(storage, {"1.1": noise(100)})
    check = check_logs(storage)
    assert {("runs", 0), ("instances", 1)} <= check.found.keys() - check.witnessed.keys()
    verified(storage)
    check = check_logs(storage)
    assert check.found.keys() - check.witnessed.keys() == {("runs", 1)}


def test_commit__is_witness_of_each_entry_once(storage: Storage) -> None:
    store(storage, {"1.1": noise(100)})
    for _ in range(2):
        gateway(storage)
    about = [
        json.loads(json.loads(line)["commitInfo"]["userMetadata"])
        for version in (1, 2)
        for line in read(storage, f"audit/_delta_log/{version:020}.json").splitlines()
        if b"commitInfo" in line
    ]
    assert [list(one["entries"]) for one in about] == [["instances/1"], ["audit/1"]]


def test_verify__asks_again_for_an_entry_that_a_listing_lacks(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing beside a writer is no snapshot."""
    for number in range(2):
        store(storage, {f"1.{number}": noise(100, number)})
    versions = logged_versions

    def hasty(storage: Storage, table: str) -> tuple[set[int], set[int]]:
        entries, checkpoints = versions(storage, table)
        return entries - {1}, checkpoints

    monkeypatch.setattr(logfixity, "logged_versions", hasty)
    assert told(storage) == []


def test_compact__goes_on_where_what_is_lost_is_due_anyway(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """delta-rs cleans a log up in no order; a kill may leave a gap."""
    for number in range(4):
        store(storage, {f"1.{number}": noise(100, number)})
    make_checkpoint(Snapshot(storage, "instances"))
    storage.filesystem.delete_file(entry_path(storage, "instances", 2))
    store(storage, {"1.9": noise(9)})
    assert told(storage) == [("instances", "2")]
    with pytest.raises(StorageError, match="the entry of version 2, found none"):
        compact(storage)
    compact(storage, retain_days=0, min_age_hours=0)  # a commit that nothing kept depends on
    monkeypatch.setattr(logfixity, "LOG_RETENTION", timedelta(0))
    assert told(storage) == []
