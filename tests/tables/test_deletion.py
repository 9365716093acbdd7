"""Deletes, restorations and legal holds, alone and against other writers."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from pacspark.errors import (
    CommitConflictError,
    HeldError,
    NotInArchiveError,
    StorageError,
    UsageError,
)
from pacspark.tables import deletion, log
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import DataFile
from pacspark.tables.deletion import delete, undelete
from pacspark.tables.holds import set_hold
from pacspark.tables.schema import INSTANCES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_instances, replace_files
from tests.tables.samples import instance_row, noise, rows_of, sha256, store, uid_rows
from tests.tables.test_fixity import verified

UIDS = {
    f"1.2.{study}.{series}.{n}": (f"1.2.{study}", f"1.2.{study}.{series}")
    for study in (1, 2)
    for series in (1, 2)
    for n in (1, 2, 3)
}


def _fill(storage: Storage) -> None:
    """Two studies of two series, spread over two commits that both have rows of each."""
    for part in (0, 1):
        rows = [
            instance_row(uid, uid.encode(), study_instance_uid=study, series_instance_uid=series)
            for number, (uid, (study, series)) in enumerate(UIDS.items())
            if number % 2 == part
        ]
        commit_instances(storage, rows_of(rows), run_id=f"run-{part}")


def _present(storage: Storage) -> set[str]:
    return set(Catalog(storage).known(UIDS))


def _data_files(storage: Storage, table: str = "instances") -> set[str]:
    return {path.name for path in Path(storage.path(table)).glob("*.parquet")}


@pytest.mark.parametrize(
    ("level", "uid"), [("study", "1.2.1"), ("series", "1.2.2.1"), ("instance", "1.2.1.2.3")]
)
def test_delete__takes_exactly_what_is_named_and_undelete_brings_it_back(
    storage: Storage, level: Any, uid: str
) -> None:
    _fill(storage)
    rows = Catalog(storage).table("instances").sort_by("sop_instance_uid")
    gone = {name for name, above in UIDS.items() if uid in {name, *above}}
    deleted = delete(storage, level, uid, reason="wrong patient")
    assert (deleted.instances, deleted.studies) == (len(gone), (uid[:5],))
    assert deleted.bytes_deleted == sum(len(name) for name in gone)
    assert _present(storage) == set(UIDS) - gone
    assert deleted.version == Catalog(storage).version() == 3
    assert set(Catalog(storage, as_of=2).known(UIDS)) == set(UIDS)
    with pytest.raises(NotInArchiveError, match=f"no {level} {uid} to delete"):
        delete(storage, level, uid)
    restored = undelete(storage, level, uid)
    assert (restored.restored, restored.present, restored.conflict) == (len(gone), 0, 0)
    # whole rows, as they were
    assert Catalog(storage).table("instances").sort_by("sop_instance_uid").equals(rows)
    with pytest.raises(NotInArchiveError, match=f"expected a deleted {level} {uid}"):
        undelete(storage, level, uid)
    audit = Catalog(storage).table("audit").sort_by("occurred_at").to_pylist()
    told = [(row["action"], row["level"], row["uid"], row["outcome"]) for row in audit]
    assert told == [("delete", level, uid, "done"), ("undelete", level, uid, "done")]
    assert {row["actor"] for row in audit} == {getpass.getuser()}
    assert json.loads(audit[0]["detail"])["reason"] == "wrong patient"
    history = Catalog(storage).versions("instances").to_pylist()
    assert [row["operation"] for row in history[-2:]] == ["delete", "undelete"]
    assert history[-2]["run_id"] == audit[0]["run_id"]
    assert history[-2]["user"] == getpass.getuser()


def test_delete__keeps_bloom_filters_statistics_and_order(storage: Storage) -> None:
    _fill(storage)
    delete(storage, "instance", "1.2.1.1.1")
    snapshot = Snapshot(storage, "instances")
    assert sum(snapshot._add_actions()["num_records"].to_pylist()) == len(UIDS) - 1
    assert len(snapshot.files({"study_instance_uid": ["1.2.9"]})) == 0
    from pacspark.tables.lookup import _read_sieve

    for file in snapshot.files():
        assert all(bloom is not None for _, _, bloom in _read_sieve(storage, file))
        uids = snapshot.read(["sop_instance_uid"], files=[file])["sop_instance_uid"].to_pylist()
        assert uids == sorted(uids)


def test_undelete__goes_back_delete_by_delete_and_as_of_any_version(storage: Storage) -> None:
    _fill(storage)
    delete(storage, "series", "1.2.1.1")  # version 3
    delete(storage, "series", "1.2.1.2")
    assert undelete(storage, "study", "1.2.1").restored == 3
    assert _present(storage) == {uid for uid in UIDS if not uid.startswith("1.2.1.1.")}
    assert undelete(storage, "study", "1.2.1").restored == 3
    assert _present(storage) == set(UIDS)
    delete(storage, "study", "1.2.1")
    restored = undelete(storage, "study", "1.2.1", as_of=3)
    assert restored.restored == 3
    again = undelete(storage, "study", "1.2.1", as_of=2)
    assert (again.restored, again.present) == (3, 3)


def test_undelete__never_doubles_what_came_in_again(storage: Storage) -> None:
    _fill(storage)
    delete(storage, "series", "1.2.1.1")
    commit_instances(storage, uid_rows(["1.2.1.1.1"], b"1.2.1.1.1"), run_id="again")
    commit_instances(storage, uid_rows(["1.2.1.1.2"], b"other"), run_id="other")
    assert undelete(storage, "series", "1.2.1.1").restored == 1
    as_of = undelete(storage, "series", "1.2.1.1", as_of=2)
    assert (as_of.restored, as_of.present, as_of.conflict) == (0, 2, 1)
    uids = Catalog(storage).table("instances", ["sop_instance_uid"])["sop_instance_uid"]
    assert sorted(uids.to_pylist()) == sorted(UIDS)
    assert Catalog(storage).known(["1.2.1.1.2"]) == {"1.2.1.1.2": sha256(b"other")}


def test_undelete__lists_bytes_again_or_says_that_they_are_gone(storage: Storage) -> None:
    store(storage, {"1.1": b"bytes"})
    (file,) = Snapshot(storage, "objects").files()
    delete(storage, "instance", "1.1")
    replace_files(storage, "objects", [file], [], run_id="c", operation="compact")
    assert undelete(storage, "instance", "1.1").restored == 1
    assert Catalog(storage).files_of("objects") == [file.path]
    snapshot = Snapshot(storage, "objects")
    assert snapshot._add_actions()["num_records"].to_pylist() == [1]
    assert snapshot.files({"sha256": [sha256(b"bytes")]})
    assert not snapshot.files({"sha256": [sha256(b"other")]})
    catalog = Catalog(storage)
    assert catalog.read_object(catalog.instance("1.1")) == b"bytes"
    delete(storage, "instance", "1.1")
    Path(storage.path("objects", file.path)).unlink()
    with pytest.raises(StorageError, match="its retention has ended"):
        undelete(storage, "instance", "1.1")
    assert catalog.known(["1.1"]) == {}


def _overtaken(storage: Storage, monkeypatch: pytest.MonkeyPatch, *others: Any) -> None:
    """Let others commit before each of the next commits to `instances`."""
    commit, waiting = log._commit, list(others)

    def overtaken(snapshot: Snapshot, *given: Any) -> None:
        if waiting and snapshot.spec.name == "instances":
            with monkeypatch.context() as patch:
                patch.setattr(log, "_commit", commit)
                waiting.pop(0)()
        commit(snapshot, *given)

    monkeypatch.setattr(log, "_commit", overtaken)


def _compact(storage: Storage) -> None:
    snapshot = Snapshot(storage, "instances")
    with DataFile(storage, INSTANCES) as file:
        file.append(snapshot.read(INSTANCES.arrow_schema.names))
    replace_files(
        storage,
        "instances",
        snapshot.files(),
        [file.close()],
        data_change=False,
        run_id="c",
        operation="compact",
    )


def test_delete__sees_what_other_writers_did_in_between(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(storage)
    more = uid_rows(["1.2.1.9.1"], study_instance_uid="1.2.1", series_instance_uid="1.2.1.9")
    _overtaken(
        storage,
        monkeypatch,
        lambda: commit_instances(storage, more, run_id="faster"),
        lambda: _compact(storage),
        lambda: delete(storage, "series", "1.2.1.2"),
    )
    deleted = delete(storage, "study", "1.2.1")
    assert deleted.instances == 4
    assert set(Catalog(storage).known([*UIDS, "1.2.1.9.1"])) == {
        uid for uid, (study, _) in UIDS.items() if study == "1.2.2"
    }
    # nothing is left of attempts that lost: what lies there, a version lists
    listed = {
        name
        for version in range(Catalog(storage).version() + 1)
        for name in Catalog(storage, as_of=version).files_of("instances")
    }
    assert _data_files(storage) == listed


def test_hold__keeps_a_study_until_its_release(storage: Storage) -> None:
    _fill(storage)
    held = set_hold(storage, "1.2.1", reason="case 4711")
    assert (held.held, held.instances) == (True, 6)
    files = _data_files(storage)
    for level, uid in (("study", "1.2.1"), ("series", "1.2.1.2"), ("instance", "1.2.1.1.1")):
        with pytest.raises(HeldError, match=r"study 1.2.1 is on legal hold since .*: case 4711;"):
            delete(storage, level, uid)  # type: ignore[arg-type]
    assert _present(storage) == set(UIDS)
    assert _data_files(storage) == files
    delete(storage, "study", "1.2.2")
    assert not set_hold(storage, "1.2.1", release=True, reason="settled").held
    with pytest.raises(UsageError, match=r"expected a study on hold, found none on 1.2.1"):
        set_hold(storage, "1.2.1", release=True)
    delete(storage, "study", "1.2.1")
    assert _present(storage) == set()
    with pytest.raises(NotInArchiveError, match=r"no study 1.2.1 to hold; `pacspark undelete"):
        set_hold(storage, "1.2.1")
    told = [
        (row["action"], row["uid"], row["outcome"])
        for row in Catalog(storage).table("audit").sort_by("occurred_at").to_pylist()
    ]
    assert told == [
        ("hold", "1.2.1", "done"),
        ("delete", "1.2.1", "refused"),
        ("delete", "1.2.1.2", "refused"),
        ("delete", "1.2.1.1.1", "refused"),
        ("delete", "1.2.2", "done"),
        ("release", "1.2.1", "done"),
        ("delete", "1.2.1", "done"),
    ]


def test_hold__that_comes_while_a_delete_is_on_its_way_wins(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(storage)
    files = _data_files(storage)
    _overtaken(storage, monkeypatch, lambda: set_hold(storage, "1.2.1"))
    with pytest.raises(HeldError):
        delete(storage, "study", "1.2.1")
    assert _present(storage) == set(UIDS)
    assert _data_files(storage) == files


@pytest.mark.parametrize("level", ["study", "instance"])
def test_delete__opens_each_table_once_however_many_files_there_are(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, level: Any
) -> None:
    for number in range(6):
        rows = [instance_row(f"1.{n}.{number}", study_instance_uid=f"1.{n}") for n in (1, 2)]
        commit_instances(storage, rows_of(rows), run_id=f"run-{number}")
    opened: list[str] = []
    begin = Snapshot.__init__

    def noted(self: Snapshot, *given: Any) -> None:
        begin(self, *given)
        opened.append(self.spec.name)

    monkeypatch.setattr(Snapshot, "__init__", noted)
    uid = "1.1" if level == "study" else "1.1.3"
    assert delete(storage, level, uid).instances == (6 if level == "study" else 1)
    assert sorted(opened) == ["audit", "holds", "instances"]


def test_hold__counts_by_its_last_row_whatever_clocks_say(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(storage)
    from pacspark.tables import holds

    class Slow:
        @staticmethod
        def now(zone: Any) -> Any:
            from datetime import datetime

            return datetime(2020, 1, 1, tzinfo=zone)

    set_hold(storage, "1.2.1")
    monkeypatch.setattr(holds, "datetime", Slow)
    set_hold(storage, "1.2.1", release=True)
    delete(storage, "study", "1.2.1")


def test_delete__that_others_outrun_leaves_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(storage)
    files = _data_files(storage)
    monkeypatch.setattr(log, "MAX_ATTEMPTS", 2)

    def refuse(*_: Any) -> None:
        from deltalake.exceptions import CommitFailedError

        message = "version exists"
        raise CommitFailedError(message)

    monkeypatch.setattr(log, "_commit", refuse)
    with pytest.raises(CommitConflictError):
        delete(storage, "study", "1.2.1")
    assert _data_files(storage) == files
    assert _present(storage) == set(UIDS)


def test_undelete__lists_again_what_a_compaction_unlists_meanwhile(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage, {"1.1": noise(5_000)})
    delete(storage, "instance", "1.1")

    def overtaken(*given: Any, **more: Any) -> Any:
        objects = Snapshot(storage, "objects")
        replace_files(storage, "objects", objects.files(), [], run_id="c", operation="compact")
        return commit_instances(*given, **more)

    monkeypatch.setattr(deletion, "commit_instances", overtaken)
    assert undelete(storage, "instance", "1.1").restored == 1
    assert verified(storage).findings == ()
