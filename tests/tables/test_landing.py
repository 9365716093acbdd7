"""The landing: durable before acknowledged, whole after a crash, one holder."""

import errno
import io
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.errors import LandingFullError, StorageError, UsageError
from pacspark.tables import landing as landing_module
from pacspark.tables.landing import LARGE_BYTES, Landed, Landing
from tests.tables.samples import noise, sha256


def reopened(folder: Path) -> list[tuple[str, bytes]]:
    with Landing(folder) as landing:
        return [(landed.source, landing.read(landed)) for landed in landing.open()]


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.landing"))


def test_append__is_read_back_and_found_by_the_next_process(tmp_path: Path) -> None:
    received_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with Landing(tmp_path) as landing:
        assert landing.open() == []
        first = landing.append(b"one", "ct", received_at=received_at)
        second = landing.append(io.BytesIO(b"second"), "mr \u00e9")
        assert (first.sha256, first.size_bytes) == (sha256(b"one"), 3)
        assert landing.read(second) == b"second"
        assert landing.read_range(second, 2, 3) == b"con"
        with landing.open_stream(second) as stream:
            assert (stream.read(2), stream.read(), stream.read()) == (b"se", b"cond", b"")
            assert stream.seek(-4, os.SEEK_END) == 2
            assert stream.read() == b"cond"
    with Landing(tmp_path) as landing:
        found = landing.open()
        assert found[0] == first
        assert {landing.read(one) for one in found} == {b"one", b"second"}


def test_what_waits_for_one_archive__goes_into_no_other(tmp_path: Path) -> None:
    with Landing(tmp_path) as landing:
        assert landing.open("a") == []
    with Landing(tmp_path) as landing:
        assert landing.open("b") == []  # nothing waited
        (one,) = [landing.append(b"one", "ct")]
    with Landing(tmp_path) as landing, pytest.raises(UsageError, match="found 1 object in it"):
        landing.open("a")
    for archive_id in ("b", ""):  # whoever takes it over asks for none
        with Landing(tmp_path) as landing:
            assert landing.open(archive_id) == [one]


def test_names__come_from_numbers_alone(tmp_path: Path) -> None:
    with Landing(tmp_path) as landing:
        landing.append(b"x", "../../../etc/passwd\n{}")
        landing.append(noise(LARGE_BYTES + 1), "large")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == [
        path.name for path in tmp_path.glob("[0-9]*.landing")
    ]
    assert reopened(tmp_path)[0] == ("../../../etc/passwd\n{}", b"x")


def test_append__waits_until_bytes_and_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    data_sync, folder_sync = os.fdatasync, landing_module._sync_folder

    def fdatasync(descriptor: int) -> None:
        synced.append(f"{os.fstat(descriptor).st_size} bytes")
        data_sync(descriptor)

    def sync_folder(folder: Path) -> None:
        synced.append("name")
        folder_sync(folder)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(landing_module, "_sync_folder", sync_folder)
    with Landing(tmp_path) as landing:
        landing.append(b"abc", "x")
        assert synced == ["name", f"{journals(tmp_path)[0].stat().st_size} bytes"]


def test_folder__has_one_holder(tmp_path: Path) -> None:
    with Landing(tmp_path), pytest.raises(UsageError, match="another process holds"):
        Landing(tmp_path)
    with Landing(tmp_path):
        pass


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.data())
def test_open__finds_the_whole_records_before_a_tear(
    tmp_path_factory: pytest.TempPathFactory, objects: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("landing")
    ends = []
    with Landing(folder) as landing:
        for one in objects:
            landed = landing.append(one, "x")
            ends.append(landed.offset + landed.size_bytes)
    cut = data.draw(st.integers(0, ends[-1]))
    (journal,) = journals(folder)
    os.truncate(journal, cut)
    assert [one for _, one in reopened(folder)] == objects[: sum(end <= cut for end in ends)]


@pytest.mark.parametrize("place", [0, 3, 40, 60, 150])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_open__finds_whole_records_behind_bytes_that_changed_and_keeps_their_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int, which: int
) -> None:
    starts, objects, end = [], [noise(100, seed) for seed in range(3)], 0
    with Landing(tmp_path) as landing:
        for one in objects:
            starts.append(end)
            landed = landing.append(one, "x")
            end = landed.offset + landed.size_bytes
    (journal,) = journals(tmp_path)
    content = bytearray(journal.read_bytes())
    content[starts[which] + place] ^= 1
    journal.write_bytes(content)
    with Landing(tmp_path) as landing:
        found = landing.open()
        assert [landing.read(one) for one in found] == objects[:which] + objects[which + 1 :]
        landing.remove(found)
    assert [path.name for path in tmp_path.glob("*.landing*")] == [f"{journal.name}.damaged"]
    assert f"has damaged {len(content) // 3} bytes" in caplog.text
    with Landing(tmp_path) as landing:
        assert landing.open() == []


def test_many_threads__share_what_makes_them_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        synced.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    objects = [noise(1000, seed) for seed in range(200)]
    with Landing(tmp_path) as landing, ThreadPoolExecutor(16) as pool:
        landed = list(pool.map(lambda data: landing.append(data, "x"), objects))
        assert [landing.read(one) for one in landed] == objects
    assert len(synced) < len(objects)
    assert sorted(data for _, data in reopened(tmp_path)) == sorted(objects)


def test_full_disk__refuses_one_object_and_takes_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) > 50:
            write(descriptor, data[:20], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    with Landing(tmp_path) as landing:
        before = landing.append(b"before", "x")
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(LandingFullError, match="free some space"):
            landing.append(noise(1000), "x" * 100)
        monkeypatch.undo()
        after = landing.append(b"after", "x")
        assert [landing.read(one) for one in (before, after)] == [b"before", b"after"]
    assert [data for _, data in reopened(tmp_path)] == [b"before", b"after"]


def test_full_disk__refuses_a_large_object_and_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Landing(tmp_path) as landing:
        monkeypatch.setattr(os, "fsync", fail)
        monkeypatch.setattr(landing_module, "_sync_folder", lambda _folder: None)
        with pytest.raises(LandingFullError):
            landing.append(noise(LARGE_BYTES + 1), "x")
        assert journals(tmp_path) == []


def test_reserve__is_left_free(tmp_path: Path) -> None:
    with (
        Landing(tmp_path, reserve_bytes=1 << 60) as landing,
        pytest.raises(LandingFullError, match="stay free"),
    ):
        landing.append(b"x", "x")


def test_failing_disk__is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Landing(tmp_path) as landing:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(StorageError, match="Input/output error") as caught:
                landing.append(b"lost", "x")
            assert not isinstance(caught.value, LandingFullError)
        landing.append(b"kept", "x")
    assert [data for _, data in reopened(tmp_path)] == [b"kept"]


def test_remove__takes_a_journal_away_with_its_last_object(tmp_path: Path) -> None:
    with Landing(tmp_path) as landing:
        small = [landing.append(noise(10, seed), "x") for seed in range(3)]
        large = landing.append(noise(LARGE_BYTES + 1), "x")
        assert len(journals(tmp_path)) == 2
        landing.remove([large, small[0]])
        assert len(journals(tmp_path)) == 1
        assert landing.read(small[1]) == noise(10, 1)
        landing.remove(small)
        assert journals(tmp_path) == []
        with pytest.raises(StorageError):
            landing.read(small[1])
        again = landing.append(b"again", "x")
        assert landing.read(again) == b"again"


def test_journals__are_followed_by_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing_module, "JOURNAL_BYTES", 1000)
    with Landing(tmp_path) as landing:
        landed: list[Landed] = [landing.append(noise(400, seed), "x") for seed in range(6)]
        assert len(journals(tmp_path)) > 1
        landing.remove(landed[:2])
        assert [landing.read(one) for one in landed[2:]] == [noise(400, n) for n in range(2, 6)]
