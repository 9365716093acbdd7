"""Progress in lines: each is said once, and a wait begins with one."""

import io

import pytest

from pacspark import progress
from pacspark.progress import LineProgress


def test_lines__tell_the_begin_and_the_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    told = io.StringIO()
    with LineProgress(told).stage("ingest", 2, "objects") as stage:
        stage.advance()
        stage.advance()
    lines = [line.rpartition(",")[0] for line in told.getvalue().splitlines()]
    assert lines == ["ingest: 0 of 2 objects", "ingest: 1 of 2 objects", "ingest: 2 of 2 objects"]


@pytest.mark.parametrize(
    ("total", "says"), [(None, "import: 1 object"), (1, "import: 1 of 1 object")]
)
def test_lines__count_one_thing_as_one(total: int | None, says: str) -> None:
    told = io.StringIO()
    with LineProgress(told).stage("import", total, "objects") as stage:
        stage.advance()
    assert told.getvalue().splitlines()[-1].startswith(f"{says}, ")


def test_lines__tell_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 10.0, 10.0, 40.0, 40.0])
    monkeypatch.setattr("pacspark.progress.time.monotonic", lambda: next(clock))
    told = io.StringIO()
    with LineProgress(told).stage("ingest", 400, "objects") as stage:
        stage.advance(100, 50_000_000)
        stage.advance(300, 150_000_000)
    assert told.getvalue().splitlines() == [
        "ingest: 0 of 400 objects, 0.0 s",
        "ingest: 100 of 400 objects, 10.0 s (10 per s, 5.0 MB/s, 30 s left)",
        "ingest: 400 of 400 objects, 40.0 s (10 per s, 5.0 MB/s)",
    ]
