"""What changed between versions, against sets of UIDs that are kept beside the table."""

import itertools
import random
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pacspark.errors import StorageError, UsageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.changes import Changes, changes_between, follow
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_instances
from tests.tables.samples import uid_rows


def delta(storage: Storage) -> DeltaTable:
    return DeltaTable(storage.table_uri("instances"), storage_options=storage.delta_options)


def add(storage: Storage, uids: list[str], data: bytes = b"") -> int:
    return commit_instances(storage, uid_rows(uids, data), run_id="run-1").version


def uids_of(changes: Changes) -> tuple[set[str], set[str]]:
    added = changes.added["sop_instance_uid"].to_pylist()
    removed = changes.removed["sop_instance_uid"].to_pylist()
    assert len(added) == len(set(added))
    assert len(removed) == len(set(removed))
    return set(added), set(removed)


def test_changes__are_the_difference_of_any_two_versions(storage: Storage) -> None:
    draw = random.Random(5)
    there: set[str] = set()
    at_version = {0: frozenset(there)}
    for step in range(24):
        what = draw.choice(["add", "add", "compact", "delete"])
        if what == "add":
            new = {f"1.2.{step}.{i}" for i in range(draw.randrange(1, 5))}
            add(storage, sorted(new))
            there |= new
        elif what == "compact":
            delta(storage).optimize.compact()
        elif there:
            gone = draw.choice(sorted(there))
            delta(storage).delete(f"sop_instance_uid = '{gone}'")
            there -= {gone}
        version = Snapshot(storage, "instances").version
        for number in range(max(at_version) + 1, version + 1):
            at_version[number] = frozenset(there)
    assert len(at_version) > 15
    for since, until in itertools.combinations_with_replacement(sorted(at_version), 2):
        changes = changes_between(storage, since, until)
        before, after = at_version[since], at_version[until]
        assert uids_of(changes) == (set(after - before), set(before - after))
        assert (changes.since, changes.until) == (since, until)
        assert bool(changes) == (before != after)


def test_changes__of_other_bytes_are_a_row_that_went_and_one_that_came(storage: Storage) -> None:
    since = add(storage, ["1.2.3", "1.2.4"], b"before")
    delta(storage).delete("sop_instance_uid = '1.2.3'")
    add(storage, ["1.2.3"], b"after")
    changes = Catalog(storage).changes(since, columns=["sop_instance_uid", "size_bytes"])
    assert changes.to_table().to_pylist() == [
        {"change": "removed", "version": 3, "sop_instance_uid": "1.2.3", "size_bytes": 6},
        {"change": "added", "version": 3, "sop_instance_uid": "1.2.3", "size_bytes": 5},
    ]


def test_changes__open_only_files_of_one_version(storage: Storage) -> None:
    add(storage, ["1.2.1"])
    (common,) = Snapshot(storage, "instances").files()
    since = 1
    add(storage, ["1.2.2"])
    Path(storage.path("instances", common.path)).unlink()
    assert uids_of(changes_between(storage, since)) == ({"1.2.2"}, set())


def test_changes__say_when_the_earlier_version_is_not_kept(storage: Storage) -> None:
    since = add(storage, ["1.2.1"])
    (lost,) = Snapshot(storage, "instances").files()
    delta(storage).delete("sop_instance_uid = '1.2.1'")
    add(storage, ["1.2.2"])
    Path(storage.path("instances", lost.path)).unlink()
    with pytest.raises(StorageError, match=r"files of version 1 .* begin with all of version 3"):
        changes_between(storage, since)


def test_changes__refuse_what_is_no_range(storage: Storage) -> None:
    add(storage, ["1.2.1"])
    for since, until, found in ((2, None, "1, found 2"), (1, 0, "0, found 1"), (-1, 1, "-1")):
        with pytest.raises(UsageError, match=f"^since: expected a version from 0 to .*{found}"):
            changes_between(storage, since, until)
    with pytest.raises(UsageError, match="expected columns of instances, found nonsense"):
        changes_between(storage, 0, 1, ["nonsense"])


def test_follow__tells_each_change_once(contract_storage: Storage) -> None:
    add(contract_storage, ["1.2.1"])
    steps = follow(contract_storage, 0)
    assert uids_of(next(steps)) == ({"1.2.1"}, set())
    assert not next(steps)
    add(contract_storage, ["1.2.2"])
    add(contract_storage, ["1.2.3"])
    delta(contract_storage).optimize.compact()
    seen = [next(steps) for _ in range(3)]
    assert [uids_of(step) for step in seen if step] == [({"1.2.2", "1.2.3"}, set())]
