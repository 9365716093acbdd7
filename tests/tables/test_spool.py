"""The spool: objects on their way in are bounded in memory, and a full disk stops no sender."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.errors import LandingFullError
from pacspark.tables import landing as landing_module
from pacspark.tables.journals import LOCK_NAME
from pacspark.tables.landing import LARGE_BYTES, Landing
from pacspark.tables.spool import Spool
from tests.tables.samples import noise


def content(spool: Spool) -> bytes:
    data = spool.data()
    return data if isinstance(data, bytes) else data.read()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=20))
def test_spool__gives_what_was_written(parts: list[bytes]) -> None:
    spool = Spool()
    for part in parts:
        spool.write(part)
    assert content(spool) == b"".join(parts)
    assert spool.size_bytes == len(b"".join(parts))


def test_large_object__is_in_a_file_without_a_name(tmp_path: Path) -> None:
    with Landing(tmp_path) as landing:
        spool, part = Spool(landing), noise(LARGE_BYTES // 4)
        for _ in range(6):
            spool.write(part)
        assert isinstance(spool.data(), io.RawIOBase)
        assert content(spool) == content(spool) == part * 6
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
        spool.close()


def test_many_at_once__share_a_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing_module, "IN_MEMORY_BYTES", 1000)
    with Landing(tmp_path) as landing:
        spools = [Spool(landing) for _ in range(5)]
        for spool in spools:
            spool.write(bytes(400))
        assert [isinstance(spool.data(), bytes) for spool in spools] == [True] * 2 + [False] * 3
        assert all(content(spool) == bytes(400) for spool in spools)
        for spool in [*spools, *spools]:  # to let go twice does no harm
            spool.close()
        later = Spool(landing)
        later.write(bytes(1000))
        assert isinstance(later.data(), bytes)


def test_full_disk__is_told_when_the_object_is_asked_for(tmp_path: Path) -> None:
    with Landing(tmp_path, reserve_bytes=1 << 60) as landing:
        spool = Spool(landing)
        for _ in range(20):
            spool.write(bytes(1 << 20))  # who sends is heard to the end
        assert spool.size_bytes == 20 << 20
        with pytest.raises(LandingFullError, match="stay free"):
            spool.data()
        landing.reserve_bytes = 0
        spool = Spool(landing)
        spool.write(bytes(LARGE_BYTES + 1))
        assert content(spool) == bytes(LARGE_BYTES + 1)
        spool.close()
