"""Storing: durable and visible at once, in the tables a little later, exactly once."""

import contextlib
import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import numpy as np
import pytest

from pacspark.dicom.decode import data_set_start
from pacspark.dicom.matching import parse_query
from pacspark.errors import DicomDecodeError, LandingFullError, StorageError
from pacspark.gateway import storing
from pacspark.gateway.config import Limits
from pacspark.gateway.index import Index
from pacspark.gateway.part10 import file_header
from pacspark.gateway.searching import answers, search
from pacspark.gateway.storing import Store
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.deletion import delete
from pacspark.tables.intake import Intake, IntakeResult
from pacspark.tables.landing import LARGE_BYTES, Landing
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage
from tests.ct_objects import SERIES_UID, ct_image, encoded
from tests.gateway.conftest import LIMITS

PIXELS = np.arange(24, dtype=np.int16).reshape(4, 6)


def ct(number: int, **more: Any) -> bytes:
    return encoded(ct_image(PIXELS + number, number, (0.0, 0.0, float(number)), **more))


def uid_of(number: int) -> str:
    return f"{SERIES_UID}.{number}"


def landed_files(folder: Path) -> list[Path]:
    return sorted((folder / "landing").glob("*.landing"))


def test_store__is_found_and_read_before_the_tables_have_it(store: Store, tmp_path: Path) -> None:
    stored = store.store(ct(1), "test")
    assert stored.outcome == "stored"
    assert store.pending == 1
    assert Catalog(store.storage).known([uid_of(1)]) == {}
    assert store.read(store.instance(uid_of(1))) == ct(1)
    query = parse_query({"SeriesInstanceUID": SERIES_UID, "KVP": ""}, "instance")
    assert list(answers(store.index, search(store.index, query), query.requested)) == [
        {"SeriesInstanceUID": SERIES_UID, "KVP": None}
    ]
    store.flush()
    assert (store.pending, landed_files(tmp_path)) == (0, [])
    assert store.instance(uid_of(1)).landed is None
    assert store.read(store.instance(uid_of(1))) == ct(1)
    assert store.read(stored.instance) == ct(1)  # what was looked up before goes on working
    assert store.read_range(stored.instance, 128, 4) == b"DICM"
    row = Catalog(store.storage).instance(uid_of(1))
    assert (row["source"], row["run_id"]) == ("test", store.run_id)


def test_store__of_the_same_bytes_is_a_duplicate(store: Store) -> None:
    assert [store.store(ct(1), "x").outcome for _ in range(2)] == ["stored", "duplicate"]
    store.flush()
    assert store.store(ct(1), "x").outcome == "duplicate"
    assert (store.pending, len(store.index)) == (0, 1)


def test_store__of_other_bytes_is_a_conflict_that_is_kept(store: Store) -> None:
    store.store(ct(1), "first")
    other = ct(1, SeriesDescription="another")
    assert store.store(other, "second").outcome == "conflict"
    assert store.read(store.instance(uid_of(1))) == ct(1)
    store.flush()
    catalog = Catalog(store.storage)
    (reject,) = catalog.rejects().to_pylist()
    assert (reject["error_class"], reject["source"]) == ("conflict", "second")
    assert catalog.read_object(reject) == other
    assert store.read(store.instance(uid_of(1))) == ct(1)


@pytest.mark.parametrize("as_file", [False, True])
def test_store__of_the_same_data_set_in_another_file_is_a_duplicate(
    store: Store, *, as_file: bool
) -> None:
    """A modality sends again what was ingested from a disk: the file meta information differs."""
    store.store(ct(1), "x")
    store.flush()
    again = file_header("1.2.3", "1.2.3", "1.2.840.10008.1.2.1") + ct(1)[data_set_start(ct(1)) :]
    assert again != ct(1)
    assert store.store(io.BytesIO(again) if as_file else again, "x").outcome == "duplicate"
    assert store.pending == 0
    changed = again[:-1] + bytes([again[-1] ^ 1])
    assert store.store(io.BytesIO(changed) if as_file else changed, "x").outcome == "conflict"


def test_large_object__is_stored_from_a_file(store: Store, tmp_path: Path) -> None:
    pixels = np.zeros((1100, 4096), np.int16)
    data = encoded(ct_image(pixels, 1, (0.0, 0.0, 0.0)))
    assert len(data) > LARGE_BYTES
    stored = store.store(io.BytesIO(data), "x")
    assert b"".join(store.stream(stored.instance)) == data
    assert store.read_range(stored.instance, len(data) - 10, 10) == data[-10:]
    store.flush()
    assert b"".join(store.stream(stored.instance)) == data
    assert landed_files(tmp_path) == []


@pytest.fixture
def remote_store(archive_root: str, tmp_path: Path) -> Iterator[Store]:
    """A store over an archive on each kind of root; its landing is on a local disk."""
    storage = open_storage(archive_root)
    create_tables(storage)
    with Store(storage, Landing(tmp_path / "landing"), LIMITS) as store:
        yield store


def test_store__works_on_every_kind_of_root(remote_store: Store) -> None:
    stored = remote_store.store(ct(1), "x")
    remote_store.flush()
    assert remote_store.store(ct(1), "x").outcome == "duplicate"
    assert remote_store.read(stored.instance) == ct(1)
    assert remote_store.store(ct(1, SeriesDescription="other"), "x").outcome == "conflict"
    remote_store.flush()
    assert len(Index(remote_store.storage)) == 1


def test_store__of_what_is_no_dicom_is_an_error_and_kept(store: Store) -> None:
    with pytest.raises(DicomDecodeError):
        store.store(b"no DICOM at all", "peer")
    assert len(store.index) == 0
    store.flush()
    (reject,) = Catalog(store.storage).rejects().to_pylist()
    assert (reject["source"], reject["size_bytes"]) == ("peer", 15)


def test_bytes_of_no_dicom__are_kept_within_the_limit_of_an_hour(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = replace(LIMITS, refused_bytes_per_hour=100_000)
    with Store(storage, Landing(tmp_path / "landing"), limits) as store:
        for number in range(40):
            with pytest.raises(DicomDecodeError):
                store.store(bytes([number]) * 10_000, "peer")
        assert 5 <= store.pending <= 8  # of 10,000 bytes and a row each
        assert store.landing.held_bytes < 100_000
        digest = hashlib.sha256(bytes([39]) * 10_000).hexdigest()
        assert f"SHA-256 {digest}, which are not kept" in caplog.messages[-1]
        kept = store.store(ct(1), "peer")  # DICOM is not meant
        assert store.read(kept.instance) == ct(1)
        store.flush()
        assert 5 <= Catalog(storage).rejects().num_rows <= 8


@pytest.mark.parametrize("as_file", [False, True])
def test_conflicts__are_kept_within_the_limit_of_an_hour(
    storage: Storage, tmp_path: Path, *, as_file: bool
) -> None:
    """More of them are failures that may be sent again: nobody is told that they were kept."""
    other = [ct(1, SeriesDescription=f"other {number}") for number in range(40)]
    limits = replace(LIMITS, refused_bytes_per_hour=5 * (len(other[0]) + 4096) + 1000)
    with Store(storage, Landing(tmp_path / "landing"), limits) as store:
        store.store(ct(1), "peer")
        for number, data in enumerate(other):
            given = io.BytesIO(data) if as_file else data
            if number < 5:
                assert store.store(given, "peer").outcome == "conflict"
                continue
            with pytest.raises(LandingFullError, match=r"limits\.refused_bytes_per_hour"):
                store.store(given, "peer")
        assert store.store(ct(1), "peer").outcome == "duplicate"
        assert store.store(ct(2), "peer").outcome == "stored"
        store.flush()
    assert Catalog(storage).rejects().num_rows == 5


def test_objects__that_a_killed_gateway_left_are_there_and_committed_once(
    storage: Storage, tmp_path: Path
) -> None:
    landing = Landing(tmp_path / "landing")
    killed = Store(storage, landing, LIMITS)  # without its thread, and never closed
    killed.store(ct(1), "x")
    killed.store(ct(2), "x")
    landing._lock_file.close()
    with Store(storage, Landing(tmp_path / "landing"), LIMITS) as store:
        assert len(store.index) == 2
        assert store.read(store.instance(uid_of(2))) == ct(2)
    assert sorted(Catalog(storage).known([uid_of(n) for n in (1, 2, 3)])) == [uid_of(1), uid_of(2)]


def test_objects__committed_before_a_kill_are_not_there_twice(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_self: Landing, _landed: object) -> None:
        raise KeyboardInterrupt

    landing = Landing(tmp_path / "landing")
    store = Store(storage, landing, LIMITS)
    store.store(ct(1), "x")
    with monkeypatch.context() as patch:
        patch.setattr(Landing, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            store.flush()
    landing._lock_file.close()
    with Store(storage, Landing(tmp_path / "landing"), LIMITS) as again:
        assert len(again.index) == 1
        again.flush()
        assert Catalog(storage).table("instances", ["sop_instance_uid"]).num_rows == 1
    assert landed_files(tmp_path) == []


def test_commit__that_fails_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_arguments: object) -> None:
        message = "the tables are away"
        raise StorageError(message)

    store.store(ct(1), "x")
    with monkeypatch.context() as patch:
        patch.setattr(storing, "commit_intake", fail)
        with pytest.raises(StorageError, match="away"):
            store.flush()
    store.store(ct(2), "x")
    assert store.pending == 2
    assert store.read(store.instance(uid_of(1))) == ct(1)
    store.flush()
    assert landed_files(tmp_path) == []
    assert len(Catalog(store.storage).known([uid_of(1), uid_of(2)])) == 2


def test_landing__forgets_what_was_committed_before_the_tables_could_not_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        message = "the tables are away"
        raise StorageError(message)

    store.store(ct(1), "x")
    store.store(ct(1, PatientName="other"), "x")
    with monkeypatch.context() as patch:
        patch.setattr(store.index, "refresh", fail)
        with pytest.raises(StorageError, match="away"):
            store.flush()
    assert store.read(store.instance(uid_of(1))) == ct(1)
    assert len(landed_files(tmp_path)) == 1
    with store._committing:
        store._follow()
    assert landed_files(tmp_path) == []
    assert store.instance(uid_of(1)).landed is None


def test_object__that_cannot_be_taken_in_stops_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Intake.add

    def refuse(self: Intake, source: str, data: bytes, **more: Any) -> None:
        if source == "poison":
            message = "an error of our own"
            raise RuntimeError(message)
        take(self, source, data, **more)

    store.store(ct(0), "poison")
    for number in range(1, 6):
        store.store(ct(number), "x")
    with monkeypatch.context() as patch:
        patch.setattr(Intake, "add", refuse)
        for _ in range(12):
            with contextlib.suppress(RuntimeError):
                store._commit()
    assert store.pending == 1
    assert len(Catalog(store.storage).known([uid_of(n) for n in range(6)])) == 5
    assert store.read(store.instance(uid_of(0))) == ct(0)
    store.flush()
    assert len(Catalog(store.storage).known([uid_of(n) for n in range(6)])) == 6
    assert store._kept_bytes == 0


def test_object__that_is_known_waits_for_no_tables_that_are_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.store(ct(1), "x")
    store.flush()
    asked, tried = [], Event()

    def refresh() -> bool:
        asked.append(current_thread())
        tried.set()
        message = "away"
        raise StorageError(message)

    monkeypatch.setattr(store.index, "refresh", refresh)
    assert tried.wait(30)
    while not store.is_in_trouble:
        pass
    assert store.store(ct(1), "x").outcome == "duplicate"
    assert current_thread() not in asked


@pytest.mark.parametrize("edge", [4, 2100, 3000])
def test_bytes__that_the_disk_changes_before_the_commit_are_not_taken_for_the_object(
    store: Store, tmp_path: Path, edge: int
) -> None:
    whole = encoded(ct_image(np.zeros((edge, edge), np.int16), 1, (0.0, 0.0, 0.0)))
    landed = store.store(whole, "x").instance.landed
    assert landed is not None
    (journal,) = landed_files(tmp_path)
    with journal.open("r+b") as file:
        file.seek(landed.offset + landed.size_bytes - 4)
        file.write(b"rot!")
    with pytest.raises(StorageError, match="changed its bytes"):
        store.read(store.instance(uid_of(1)))
    store.store(ct(2), "x")
    store.flush()
    assert Catalog(store.storage).known([uid_of(1), uid_of(2)]).keys() == {uid_of(2)}
    (reject,) = Snapshot(store.storage, "rejects").read(["message"]).to_pylist()
    assert "send the object again" in reject["message"]
    assert store.store(whole, "x").outcome == "stored"
    assert store.read(store.instance(uid_of(1))) == whole


@pytest.mark.parametrize("limits", [{"commit_objects": 2}, {"commit_bytes": 1}, {"commit_s": 0.01}])
def test_background_thread__commits_by_count_bytes_and_seconds(
    storage: Storage, tmp_path: Path, limits: dict[str, float]
) -> None:
    told = Limits(**{"commit_s": 3600, "reserve_bytes": 1, "follow_s": 0.05} | limits)  # type: ignore[arg-type]
    with Store(storage, Landing(tmp_path / "landing"), told) as store:
        with store._changed:
            pass
        turns = []
        store.every_turn = lambda: turns.append(len(Catalog(storage).known([uid_of(1)])))
        store.store(ct(1), "x")
        store.store(ct(2), "x")
        for _ in range(600):
            if turns and turns[-1]:
                break
            store._thread.join(0.05)
        assert turns[-1] == 1


def test_objects__of_other_writers_are_followed(
    store: Store, storage: Storage, tmp_path: Path
) -> None:
    with Store(storage, Landing(tmp_path / "other"), LIMITS) as other:
        other.store(ct(7), "x")
        other.flush()
        assert len(store.index) == 0 or store.index.lookup(uid_of(7))
        store.index.refresh()
        assert store.read(store.instance(uid_of(7))) == ct(7)


@pytest.mark.parametrize("newcomer", [ct(1), ct(1, SeriesDescription="other")])
def test_object__that_another_writer_has_just_deleted_is_stored_again(
    storage: Storage, tmp_path: Path, newcomer: bytes
) -> None:
    told = replace(LIMITS, follow_s=3600)
    with Store(storage, Landing(tmp_path / "landing"), told) as store:
        store.store(ct(1), "x")
        store.flush()
        delete(storage, "instance", uid_of(1))
        assert store.store(newcomer, "x").outcome == "stored"
        store.flush()
        assert store.read(store.instance(uid_of(1))) == newcomer


@pytest.mark.parametrize("n_commits", [0, 1, 2])
def test_root__that_is_another_archive_now_is_followed(
    store: Store, storage: Storage, tmp_path: Path, n_commits: int
) -> None:
    store.store(ct(1), "x")
    store.flush()
    other = open_storage(tmp_path / "other")
    create_tables(other)
    with Store(other, Landing(tmp_path / "other-landing"), LIMITS) as second:
        for number in range(2, 2 + n_commits):
            second.store(ct(number), "x")
            second.flush()
    Path(storage.folder).rename(tmp_path / "before")
    Path(other.folder).rename(storage.folder)
    assert store.store(ct(1), "x").outcome == "stored"
    store.flush()
    assert len(store.index) == 1 + n_commits
    for number in range(1, 2 + n_commits):
        assert store.read(store.instance(uid_of(number))) == ct(number)


def test_flush__commits_all_in_however_many_parts(storage: Storage, tmp_path: Path) -> None:
    told = replace(LIMITS, commit_bytes=1)
    with Store(storage, Landing(tmp_path / "landing"), told) as store:
        for number in range(5):
            store.store(ct(number), "x")
        store.flush()
        assert store.pending == 0
    assert len(Catalog(storage).known([uid_of(n) for n in range(5)])) == 5


def test_flush__waits_for_what_another_thread_commits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking, goes_on = Event(), Event()
    finish = Intake.finish

    def wait(self: Intake) -> IntakeResult:
        taking.set()
        assert goes_on.wait(30)
        return finish(self)

    monkeypatch.setattr(Intake, "finish", wait)
    store.store(ct(1), "x")
    with ThreadPoolExecutor(2) as threads:
        threads.submit(store._commit)
        assert taking.wait(30)
        flushed = threads.submit(store.flush)
        with pytest.raises(TimeoutError):
            flushed.result(0.2)
        goes_on.set()
        flushed.result(30)
    assert len(Catalog(store.storage).known([uid_of(1)])) == 1


def test_query__that_began_before_a_commit_ends_as_it_began(store: Store) -> None:
    for number in (1, 2):
        store.store(ct(number), "x")
    groups = store.index.groups()
    located = store.index.located([uid_of(1)])
    store.flush()
    assert sum(map(len, groups)) == 2
    assert {one.sop_instance_uid for group in groups for one in group.instances()} == {
        uid_of(1),
        uid_of(2),
    }
    assert store.read(located[0][1]) == ct(1)
    assert sum(map(len, store.index.groups())) == 2
    assert not store.index._landed_groups


def test_conflict__that_another_gateway_won_goes_to_rejects(
    store: Store, storage: Storage, tmp_path: Path
) -> None:
    mine = ct(1, SeriesDescription="mine")
    with Store(storage, Landing(tmp_path / "other"), LIMITS) as other:
        assert store.store(mine, "x").outcome == "stored"
        assert other.store(ct(1), "x").outcome == "stored"
        other.flush()
    store.flush()
    assert store.read(store.instance(uid_of(1))) == ct(1)
    (reject,) = Catalog(storage).rejects().to_pylist()
    assert Catalog(storage).read_object(reject) == mine
