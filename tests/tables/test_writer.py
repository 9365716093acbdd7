import getpass
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from pacspark import __version__
from pacspark.errors import CommitConflictError, StorageError
from pacspark.tables import log
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import AddedFile, DataFile, ObjectFile
from pacspark.tables.schema import REJECTS, RUNS
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import (
    append_rows,
    commit_files,
    commit_instances,
    commit_rejects,
    replace_files,
)
from tests.tables.samples import located_rows, noise, sha256, store, synced, uid_rows

SPAWN = multiprocessing.get_context("spawn")


def _all_uids(storage: Storage) -> list[str]:
    """What another reader sees."""
    delta = DeltaTable(storage.table_uri("instances"))
    rows = delta.to_pyarrow_table(columns=["sop_instance_uid"])
    return sorted(rows["sop_instance_uid"].to_pylist())


def test_commit_instances__stores_each_uid_once(storage: Storage) -> None:
    first = commit_instances(storage, uid_rows(["1", "2"], b"x"), run_id="run-1")
    second = commit_instances(storage, uid_rows(["2", "3"], b"x"), run_id="run-2")
    assert first.stored["sop_instance_uid"].to_pylist() == ["1", "2"]
    assert second.stored["sop_instance_uid"].to_pylist() == ["3"]
    assert second.duplicates["sop_instance_uid"].to_pylist() == ["2"]
    assert (second.duplicate, second.conflicts, second.version) == (1, [], 2)
    assert _all_uids(storage) == ["1", "2", "3"]


def test_commit_instances__sorts_out_conflicts_and_keeps_what_was_first(storage: Storage) -> None:
    commit_instances(storage, uid_rows(["1"], b"first"), run_id="run-1")
    outcome = commit_instances(storage, uid_rows(["1"], b"other"), run_id="run-2")
    assert outcome.stored.num_rows == outcome.duplicate == 0
    assert [row["sha256"] for row in outcome.conflicts] == [sha256(b"other")]
    assert Catalog(storage).known(["1"]) == {"1": sha256(b"first")}
    assert outcome.version == 1


def test_commit_instances__sorts_out_its_own_batch_the_first_wins(storage: Storage) -> None:
    batch = pa.concat_tables(
        [uid_rows(["1", "2"], b"a"), uid_rows(["1", "1"], b"a"), uid_rows(["2"], b"b")]
    )
    outcome = commit_instances(storage, batch, run_id="run-1")
    assert outcome.stored["sop_instance_uid"].to_pylist() == ["1", "2"]
    assert outcome.duplicate == 2
    assert [row["sha256"] for row in outcome.conflicts] == [sha256(b"b")]


def test_commit_instances__of_nothing_new_makes_no_version(storage: Storage) -> None:
    commit_instances(storage, uid_rows(["1"]), run_id="run-1")
    again = commit_instances(storage, uid_rows(["1"]), run_id="run-2")
    nothing = commit_instances(storage, uid_rows([]), run_id="run-3")
    assert again.version == nothing.version == Catalog(storage).version() == 1
    assert len(list(Path(storage.path("instances")).glob("*.parquet"))) == 1


WRITERS, COMMITS, BATCH, UIDS = 4, 10, 12, 150


def _batches(number: int) -> list[list[tuple[str, bytes]]]:
    """What one writer brings: often what others bring too, sometimes with other bytes."""
    draw = random.Random(number)
    return [
        [(f"1.2.{draw.randrange(UIDS)}", draw.choice([b"a", b"b"])) for _ in range(BATCH)]
        for _ in range(COMMITS)
    ]


def _store_overlapping(
    root: str,
    number: int,
    barrier: "multiprocessing.synchronize.Barrier",
    counts: "multiprocessing.Queue[tuple[int, int, int]]",
) -> None:
    storage = open_storage(root)
    stored = duplicate = conflict = 0
    barrier.wait(120)
    for batch in _batches(number):
        rows = pa.concat_tables(uid_rows([uid], data) for uid, data in batch)
        outcome = commit_instances(storage, rows, run_id=f"writer-{number}")
        stored += outcome.stored.num_rows
        duplicate += outcome.duplicate
        conflict += len(outcome.conflicts)
    counts.put((stored, duplicate, conflict))


def test_commit_instances__is_exactly_once_among_processes(storage: Storage) -> None:
    barrier, counts = SPAWN.Barrier(WRITERS), SPAWN.Queue()
    writers = [
        SPAWN.Process(target=_store_overlapping, args=(storage.root, n, barrier, counts))
        for n in range(WRITERS)
    ]
    for process in writers:
        process.start()
    totals = [counts.get(timeout=120) for _ in writers]
    for process in writers:
        process.join(60)
    assert [process.exitcode for process in writers] == [0] * WRITERS
    uids = _all_uids(storage)
    assert len(uids) == len(set(uids)) == sum(stored for stored, _, _ in totals)
    assert sum(sum(total) for total in totals) == WRITERS * COMMITS * BATCH
    brought = {uid for n in range(WRITERS) for batch in _batches(n) for uid, _ in batch}
    assert set(uids) == brought
    # files of attempts that lost are gone
    on_disk = {path.name for path in Path(storage.path("instances")).glob("*.parquet")}
    assert on_disk == set(Catalog(storage).files_of("instances"))


OBJECTS = {f"1.2.{n}": noise(1000 + n, n) for n in range(5)}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _store_and_die(root: str, moment: str) -> None:
    """Store objects, killed before, between or after the commits."""
    storage = open_storage(root)
    file = ObjectFile(storage)
    located = {uid: (data, file.append(data)) for uid, data in OBJECTS.items()}
    if moment == "objects half written":
        _die()
    added = file.close()
    if moment == "objects written":
        _die()
    commit_files(storage, "objects", [added], run_id="killed", operation="ingest")
    if moment == "objects committed":
        _die()
    if moment == "instances written":
        log._commit = lambda *_: _die()
    if moment == "instances committed":
        commit = log._commit

        def commit_and_die(*given: Any) -> None:
            commit(*given)
            _die()

        log._commit = commit_and_die  # type: ignore[assignment]
    commit_instances(storage, located_rows(located, "killed"), run_id="killed")


@pytest.mark.parametrize(
    ("moment", "survives"),
    [
        ("objects half written", False),
        ("objects written", False),
        ("objects committed", False),
        ("instances written", False),
        ("instances committed", True),
    ],
)
def test_kill__leaves_all_or_nothing_and_repeating_completes(
    storage: Storage, moment: str, *, survives: bool
) -> None:
    process = SPAWN.Process(target=_store_and_die, args=(storage.root, moment))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(Catalog(storage).known(OBJECTS)) == (len(OBJECTS) if survives else 0)
    outcome = store(storage, OBJECTS, "again")
    assert outcome.stored.num_rows == (0 if survives else len(OBJECTS))
    assert outcome.duplicate == (len(OBJECTS) if survives else 0)
    assert _all_uids(storage) == sorted(OBJECTS)
    catalog = Catalog(storage)
    for uid, data in OBJECTS.items():
        assert catalog.read_object(catalog.instance(uid)) == data


def _entry(storage: Storage, version: int) -> str:
    return storage.path("instances", "_delta_log", f"{version:020}.json")


def test_commit_instances__waits_for_what_makes_its_rows_duplicates(storage: Storage) -> None:
    """Another writer may have died between its commit and the disk."""
    commit_instances(storage, uid_rows(["1"]), run_id="run-1")
    with synced() as paths:
        assert commit_instances(storage, uid_rows(["1"]), run_id="run-2").duplicate == 1
    assert {_entry(storage, 1), storage.path("instances", "_delta_log")} <= paths


def test_commit__that_arrived_without_an_answer_counts_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = log._commit

    for answer in (CommitFailedError("version exists"), OSError("connection reset")):

        def commit_unanswered(*given: Any, answer: Exception = answer) -> None:
            commit(*given)
            raise answer

        monkeypatch.setattr(log, "_commit", commit_unanswered)
        uid = type(answer).__name__
        with synced() as paths:
            outcome = commit_instances(storage, uid_rows([uid]), run_id="run-1")
        assert _entry(storage, outcome.version) in paths
        assert outcome.stored["sop_instance_uid"].to_pylist() == [uid]
        assert set(Catalog(storage).known([uid])) == {uid}
    assert len(_all_uids(storage)) == 2


def test_commit__whose_file_was_replaced_before_the_answer_was_missed_counts_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of a small table has nothing that would tell a second one from the first."""
    commit = log._commit

    def replaced_unanswered(*given: Any) -> None:
        commit(*given)
        monkeypatch.setattr(log, "_commit", commit)
        with DataFile(storage, RUNS) as file:
            file.append(rows)
        listed = Snapshot(storage, "runs").files()
        replace_files(storage, "runs", listed, [file.close()], run_id="c", operation="compact")
        message = "version exists"
        raise CommitFailedError(message)

    row = dict.fromkeys(RUNS.arrow_schema.names) | {"run_id": "run-1", "operation": "test"}
    rows = pa.Table.from_pylist([row], schema=RUNS.arrow_schema)
    monkeypatch.setattr(log, "_commit", replaced_unanswered)
    assert append_rows(storage, "runs", rows, run_id="run-1", operation="test") == 1
    assert Catalog(storage).runs().to_pylist() == [row]


def test_snapshot__tells_files_apart_by_the_bounds_of_their_uids(storage: Storage) -> None:
    """Without a word about columns, delta-rs would keep bounds of the first 32 alone."""
    for uid in ("1.2.1", "1.2.5", "1.2.9"):
        commit_instances(storage, uid_rows([uid]), run_id="run-1")
    snapshot = Snapshot(storage, "instances")
    assert len(snapshot.files({"sop_instance_uid": ["1.2.5"]})) == 1
    assert len(snapshot.files({"sha256": [sha256(b"")]})) == 3


def _never(error: Exception) -> "object":
    def commit(*_: object) -> None:
        raise error

    return commit


def test_commit_instances__gives_up_after_bounded_attempts(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_ATTEMPTS", 3)
    monkeypatch.setattr(log, "_commit", _never(CommitFailedError("version exists")))
    with pytest.raises(CommitConflictError, match="other writers were faster 3 times in a row"):
        commit_instances(storage, uid_rows(["1"]), run_id="run-1")
    assert _all_uids(storage) == []
    assert not list(Path(storage.path("instances")).glob("*.parquet"))


def test_commit_instances__keeps_the_file_of_a_commit_of_unknown_fate(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_commit", _never(OSError("connection reset")))
    with pytest.raises(StorageError, match="cannot commit to instances: connection reset"):
        commit_instances(storage, uid_rows(["1"]), run_id="run-1")
    assert len(list(Path(storage.path("instances")).glob("*.parquet"))) == 1
    monkeypatch.undo()
    assert commit_instances(storage, uid_rows(["1"]), run_id="run-2").stored.num_rows == 1
    assert _all_uids(storage) == ["1"]


def test_commit_instances__sees_what_another_writer_did_in_between(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = log._commit

    def interrupted(*given: Any) -> None:
        monkeypatch.setattr(log, "_commit", commit)
        rows = pa.concat_tables([uid_rows(["2"], b"x"), uid_rows(["3"], b"other")])
        commit_instances(storage, rows, run_id="faster")
        commit(*given)

    monkeypatch.setattr(log, "_commit", interrupted)
    outcome = commit_instances(storage, uid_rows(["1", "2", "3"], b"x"), run_id="slower")
    assert outcome.stored["sop_instance_uid"].to_pylist() == ["1"]
    assert outcome.duplicates["sop_instance_uid"].to_pylist() == ["2"]
    assert [row["sop_instance_uid"] for row in outcome.conflicts] == ["3"]
    assert _all_uids(storage) == ["1", "2", "3"]


def _object_file(storage: Storage, data: bytes) -> AddedFile:
    with ObjectFile(storage) as file:
        file.append(data)
    return file.close()


def test_commit_files__does_an_application_transaction_once(storage: Storage) -> None:
    for transaction in (("job", 1), ("job", 1), ("job", 2), ("job", 1), ("other", 1)):
        added = _object_file(storage, repr(transaction).encode())
        commit_files(
            storage, "objects", [added], app_transaction=transaction, run_id="r", operation="t"
        )
    digests = Catalog(storage).table("objects", ["sha256"])["sha256"].to_pylist()
    expected = [("job", 1), ("job", 2), ("other", 1)]
    assert sorted(digests) == sorted(sha256(repr(key).encode()) for key in expected)
    # what was not needed is not left behind
    folder = storage.path("objects")
    found = storage.filesystem.get_file_info(pafs.FileSelector(folder))
    assert sum(info.base_name.endswith(".parquet") for info in found) == 3


def test_commit_files__of_no_files_makes_no_version(storage: Storage) -> None:
    assert commit_files(storage, "objects", [], run_id="r", operation="t") == 0
    assert Catalog(storage).version("objects") == 0


def test_commits__say_who_made_them(storage: Storage) -> None:
    commit_instances(storage, uid_rows(["1"]), run_id="run-7", operation="import-scan")
    entry = DeltaTable(storage.table_uri("instances")).history()[0]
    origin = json.loads(entry["userMetadata"])
    assert len(origin.pop("commit")) == 32
    assert origin == {
        "operation": "import-scan",
        "run_id": "run-7",
        "pacspark": __version__,
        "user": getpass.getuser(),
    }
    assert entry["userName"] == getpass.getuser()


def _reject_rows(names: Sequence[str], data: bytes) -> pa.Table:
    rows = [
        {"source": "file", "sop_instance_uid": name, "sha256": sha256(data), "error_class": "e"}
        | {"message": "m", "received_at": datetime.now(UTC), "run_id": "run"}
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=REJECTS.arrow_schema)


def test_commit_rejects__keeps_one_refusal_once_though_others_are_faster(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = log._commit
    others = [["2"], ["3"], ["4"], []]

    def overtaken(*given: Any) -> None:
        if others and (names := others.pop(0)):
            with monkeypatch.context() as patch:
                patch.setattr(log, "_commit", commit)
                rows = _reject_rows(names, b"a")
                commit_rejects(storage, rows, run_id="other", operation="ingest")
        commit(*given)

    monkeypatch.setattr(log, "_commit", overtaken)
    rows = pa.concat_tables(
        [_reject_rows(["1", "2", "3", "1"], b"a"), _reject_rows(["2", "1"], b"b")]
    )
    commit_rejects(storage, rows, run_id="own", operation="ingest")
    commit_rejects(storage, rows, run_id="again", operation="ingest")
    kept = Catalog(storage).rejects().to_pylist()
    brought = [(uid, data) for uid in "1234" for data in (b"a", b"b")]
    expected = {(uid, sha256(data)) for uid, data in [*brought[:4], ("3", b"a"), ("4", b"a")]}
    assert len(kept) == len(expected)
    assert {(row["sop_instance_uid"], row["sha256"]) for row in kept} == expected
    on_disk = {path.name for path in Path(storage.path("rejects")).glob("*.parquet")}
    assert on_disk == set(Catalog(storage).files_of("rejects"))


def test_append_rows__fills_a_small_table(storage: Storage) -> None:
    row = dict.fromkeys(RUNS.arrow_schema.names) | {"run_id": "run-1", "operation": "test"}
    rows = pa.Table.from_pylist([row], schema=RUNS.arrow_schema)
    version = append_rows(storage, "runs", rows, run_id="run-1", operation="test")
    assert version == 1
    assert Catalog(storage).runs().to_pylist() == [row]
