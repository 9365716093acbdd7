"""The log: checkpoints whatever commits, entries of anybody, and versions beyond what is kept."""

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from pacspark.errors import StorageError, UsageError
from pacspark.tables import log
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import DataFile, remove_file
from pacspark.tables.log import entries, make_checkpoint, user_name
from pacspark.tables.schema import AUDIT, CHECKPOINT_INTERVAL, INSTANCES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files, commit_instances, replace_files
from tests.tables.samples import store, synced, uid_rows


def _log(storage: Storage, table: str = "instances") -> Path:
    return Path(storage.path(table, "_delta_log"))


def test_commits__write_a_durable_checkpoint_whatever_they_do(storage: Storage) -> None:
    for number in range(3):
        commit_instances(storage, uid_rows([f"1.{number}"]), run_id="run")
    snapshot = Snapshot(storage, "instances")
    with synced() as paths:
        # files that come and go, as deletes and compaction do it
        for number in range(CHECKPOINT_INTERVAL):
            removed, added = snapshot.files()[:1], []
            if number % 2:
                with DataFile(storage, INSTANCES) as file:  # any file: what counts is the log
                    file.append(INSTANCES.arrow_schema.empty_table())
                added = [file.close()]
                removed = []
            replace_files(storage, "instances", removed, added, run_id="run", operation="test")
            snapshot.refresh()
    names = {path.name for path in _log(storage).iterdir()}
    checkpoint = f"{CHECKPOINT_INTERVAL - 1:020}.checkpoint.parquet"
    assert checkpoint in names
    last = json.loads((_log(storage) / "_last_checkpoint").read_text())
    assert last["version"] == CHECKPOINT_INTERVAL - 1
    assert {str(_log(storage) / checkpoint), str(_log(storage) / "_last_checkpoint")} <= paths


def test_make_checkpoint__is_made_once_for_a_version(storage: Storage) -> None:
    commit_instances(storage, uid_rows(["1.1"]), run_id="run")
    make_checkpoint(Snapshot(storage, "instances"))
    (made,) = _log(storage).glob("*.checkpoint.parquet")
    before = made.stat().st_mtime_ns
    make_checkpoint(Snapshot(storage, "instances"))
    assert made.stat().st_mtime_ns == before
    assert set(Catalog(storage).known(["1.1"])) == {"1.1"}


def test_as_of__before_what_the_log_keeps_is_told_in_one_line(storage: Storage) -> None:
    for number in range(4):
        store(storage, {f"1.{number}": b"x"})
    make_checkpoint(Snapshot(storage, "instances"))
    for version in range(3):
        (_log(storage) / f"{version:020}.json").unlink()
    for as_of in (1, datetime(2020, 1, 1, tzinfo=UTC)):
        with pytest.raises(UsageError, match="as_of: expected a version of instances from about 3"):
            Snapshot(storage, "instances", as_of)
    assert set(Catalog(storage).known(["1.0", "1.3"])) == {"1.0", "1.3"}
    assert Catalog(storage).versions("instances")["version"].to_pylist() == [3, 4]
    assert [entry.version for entry in entries(Snapshot(storage, "instances"))] == [4, 3]


def test_entries__tell_what_anybody_did(storage: Storage) -> None:
    commit_instances(storage, uid_rows(["1.1"]), run_id="run")
    (file,) = Snapshot(storage, "instances").files()
    delta = DeltaTable(storage.table_uri("instances"))
    write_deltalake(delta, uid_rows(["1.2"]), mode="overwrite")
    other, own, made = entries(Snapshot(storage, "instances"))
    assert (other.version, other.operation, other.removed) == (2, "WRITE", (file,))
    assert (own.version, own.operation, own.removed) == (1, "ingest", ())
    assert made.version == 0
    assert 0 < own.committed_ms <= other.committed_ms


def test_user_name__is_there_even_for_a_user_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_name() == getpass.getuser()

    def nobody() -> str:
        message = "getpwuid(): uid not found"
        raise KeyError(message)

    monkeypatch.setattr(getpass, "getuser", nobody)
    user_name.cache_clear()
    assert log.user_name().startswith("uid ")
    user_name.cache_clear()


def test_commit__of_a_file_that_is_gone_is_refused(contract_storage: Storage) -> None:
    """A compaction told to wait for nobody takes what a job has written and not committed."""
    with DataFile(contract_storage, AUDIT) as file:
        file.append(AUDIT.arrow_schema.empty_table())
    added = file.close()
    remove_file(contract_storage, "audit", added.path)
    with pytest.raises(StorageError, match=r"was deleted meanwhile.*repeat the command"):
        commit_files(contract_storage, "audit", [added], run_id="r", operation="test")
