"""Compaction that is killed, or runs beside others: rows and bytes stay the same."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacspark.tables import log
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import compact
from pacspark.tables.creating import create_tables
from pacspark.tables.deletion import delete, undelete
from pacspark.tables.storage import Storage, open_storage
from tests.tables.compacting import (
    EAGER,
    NOW,
    data_files,
    fill,
    ingest,
    listed,
    objects_of,
    read_all,
    reject,
    settle,
)
from tests.tables.samples import noise

SPAWN = multiprocessing.get_context("spawn")


def _die_at(number: int, *, before: bool) -> None:
    """Let the process be killed before or after its commit of a number."""
    commit, count = log._commit, iter(range(1000))

    def dying(*given: Any) -> None:
        mine = next(count)
        if before and mine == number:
            os.kill(os.getpid(), signal.SIGKILL)
        commit(*given)
        if mine == number:
            os.kill(os.getpid(), signal.SIGKILL)

    log._commit = dying  # type: ignore[assignment]


def _compact_and_die(root: str, number: int, before: bool) -> None:
    _die_at(number, before=before)
    compact(open_storage(root), **NOW)


@pytest.mark.parametrize(
    ("number", "before"),
    [(0, True), *((n, False) for n in range(4)), pytest.param(4, False, marks=pytest.mark.slow)],
)
def test_compact__may_be_killed_at_any_commit(
    storage: Storage, number: int, *, before: bool
) -> None:
    """Rows of instances, objects in, rows moved in instances and rejects, objects out."""
    stored = fill(storage, 4)
    reject(storage, "broken.dcm", b"not DICOM")
    process = SPAWN.Process(target=_compact_and_die, args=(storage.root, number, before))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert read_all(storage) == stored
    compact(storage, **NOW)
    assert read_all(storage) == stored
    settle(storage)
    for table in ("instances", "rejects", "objects"):
        assert data_files(storage, table) == listed(storage, table)
    assert len(listed(storage, "instances")) == 1
    assert len(listed(storage, "objects")) <= 2  # too few to be merged once more
    (row,) = Catalog(storage).rejects().to_pylist()
    assert Catalog(storage).read_object(row) == b"not DICOM"
    pieces = Catalog(storage).table("objects", ["sha256"]).num_rows
    assert pieces == len(stored) + 1


def _before_commits(
    monkeypatch: pytest.MonkeyPatch, others: Iterable[Callable[[], object]]
) -> None:
    commit, waiting = log._commit, list(others)

    def overtaken(*given: Any) -> None:
        if waiting:
            with monkeypatch.context() as patch:
                patch.setattr(log, "_commit", commit)
                waiting.pop(0)()
        commit(*given)

    monkeypatch.setattr(log, "_commit", overtaken)


def test_compact__takes_up_what_others_do_between_its_commits(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = fill(storage, 5)
    kept, gone = "1.2.9.9.1", next(iter(stored))
    new = {f"1.2.9.9.{n}": noise(50, n) for n in range(2, 9)}
    work: list[Callable[[], object]] = [
        lambda: ingest(storage, {kept: b"x"}),
        lambda: delete(storage, "instance", gone),
        *(lambda uid=uid: ingest(storage, {uid: new[uid]}) for uid in new),
    ]
    work.insert(4, lambda: undelete(storage, "instance", gone))
    _before_commits(monkeypatch, work)
    compact(storage, **EAGER)
    monkeypatch.undo()
    # those that had no turn
    for uid, data in (new | {kept: b"x"}).items():
        if uid not in Catalog(storage).known([uid]):
            ingest(storage, {uid: data})
    if gone not in Catalog(storage).known([gone]):
        undelete(storage, "instance", gone)
    assert read_all(storage) == stored | new | {kept: b"x"}
    settle(storage)
    assert read_all(storage) == stored | new | {kept: b"x"}


UIDS = [f"1.2.{study}.{series}.{n}" for study in (1, 2) for series in (1, 2) for n in (1, 2)]
STEP = st.one_of(
    st.tuples(
        st.just("ingest"),
        st.dictionaries(st.sampled_from(UIDS), st.sampled_from([b"a", b"b"]), min_size=1),
    ),
    st.tuples(
        st.sampled_from(["delete", "undelete"]),
        st.sampled_from([("study", u[:5]) for u in UIDS[::4]] + [("instance", u) for u in UIDS]),
    ),
    st.tuples(st.just("compact"), st.sampled_from([EAGER, NOW])),
)


UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=4, deadline=None, suppress_health_check=UNCHECKED)
@given(st.lists(STEP, min_size=3, max_size=8))
def test_archive__is_a_dictionary_whatever_is_done(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    check_model(tmp_path_factory, steps)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=UNCHECKED)
@given(st.lists(STEP, min_size=3, max_size=12))
def test_archive__is_a_dictionary_whatever_is_done_at_length(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    check_model(tmp_path_factory, steps)


def check_model(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]) -> None:
    """Do some steps with an archive and with a dictionary, and compare after each."""
    storage = open_storage(tmp_path_factory.mktemp("model") / "archive")
    create_tables(storage)
    model: dict[str, bytes] = {}
    trash: list[dict[str, bytes]] = []
    for action, what in steps:
        if action == "ingest":
            ingest(storage, what)
            model = what | model
        elif action == "delete":
            level, uid = what
            gone = {u: d for u, d in model.items() if uid == (u if level == "instance" else u[:5])}
            if gone:
                assert delete(storage, level, uid).instances == len(gone)
                trash.append(gone)
                model = {u: d for u, d in model.items() if u not in gone}
        elif action == "undelete":
            level, uid = what
            for batch in reversed(trash):
                back = {
                    u: d
                    for u, d in batch.items()
                    if uid == (u if level == "instance" else u[:5]) and u not in model
                }
                if back:
                    assert undelete(storage, level, uid).restored == len(back)
                    model |= back
                    break
        else:
            compact(storage, **what)
            if what is NOW:
                trash.clear()
                settle(storage)
        assert read_all(storage) == model


PARTS = 5
AMONG_OTHERS_S = 3
"""Longer than others need from a file to its commit."""


def _ingest_many(root: str, number: int, barrier: Any) -> None:
    storage = open_storage(root)
    barrier.wait(120)
    for part in range(PARTS):
        ingest(storage, {f"1.2.{number}.{part}.{n}": noise(99, n) for n in range(3)}, "w")


def _delete_and_bring_back(root: str, barrier: Any) -> None:
    storage = open_storage(root)
    barrier.wait(120)
    for _ in range(2):
        delete(storage, "study", "1.2.90")
        undelete(storage, "study", "1.2.90")
    delete(storage, "study", "1.2.91")


def _compact_again_and_again(root: str, barrier: Any) -> None:
    storage = open_storage(root)
    barrier.wait(120)
    for _ in range(2):
        compact(storage, min_age_hours=AMONG_OTHERS_S / 3600)


def test_processes__ingest_delete_and_compact_at_once_and_nothing_is_lost_or_doubled(
    storage: Storage,
) -> None:
    kept = {f"1.2.90.1.{n}": noise(77, n) for n in range(3)}
    for uid, data in kept.items():
        ingest(storage, {uid: data})
    ingest(storage, {"1.2.91.1.1": b"to go"})
    barrier = SPAWN.Barrier(5)
    work = [
        SPAWN.Process(target=_ingest_many, args=(storage.root, 1, barrier)),
        SPAWN.Process(target=_ingest_many, args=(storage.root, 2, barrier)),
        SPAWN.Process(target=_delete_and_bring_back, args=(storage.root, barrier)),
        SPAWN.Process(target=_compact_again_and_again, args=(storage.root, barrier)),
        SPAWN.Process(target=_compact_again_and_again, args=(storage.root, barrier)),
    ]
    for process in work:
        process.start()
    for process in work:
        process.join(300)
    assert [process.exitcode for process in work] == [0] * len(work)
    expected = kept | {
        f"1.2.{number}.{part}.{n}": noise(99, n)
        for number in (1, 2)
        for part in range(PARTS)
        for n in range(3)
    }
    assert read_all(storage) == expected
    assert settle(storage).left_alone == []
    assert read_all(storage) == expected
    assert data_files(storage, "objects") == listed(storage, "objects")


@pytest.mark.slow
def test_compact__may_be_killed_at_any_moment(storage: Storage) -> None:
    """Kills while it reads, writes and deletes too, not at commits alone."""
    draw, stored = random.Random(7), fill(storage, 12)
    for round_ in range(12):
        objects = objects_of(4, 20 + round_)
        ingest(storage, objects)
        stored |= objects
        process = SPAWN.Process(target=_compact_again_and_again, args=(storage.root, Never()))
        process.start()
        process.join(draw.uniform(1, 6))
        process.kill()
        process.join(60)
        assert read_all(storage) == stored
    settle(storage)
    assert read_all(storage) == stored
    for table in ("instances", "rejects", "objects"):
        assert data_files(storage, table) == listed(storage, table)


class Never:
    """A barrier for one."""

    def wait(self, seconds: float) -> None:
        """Wait for nobody."""
