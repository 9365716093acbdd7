"""A landing whose gateway is gone is a source like others; a living one's is left to it."""

import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.instances import instance
from pacspark.errors import UsageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.landing import LARGE_BYTES, Landing
from pacspark.tables.sources import Source, expand_sources
from pacspark.tables.storage import Storage
from pacspark.tables.takeover import Takeover
from tests.tables.samples import noise, sha256

RECEIVED_AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A landing with two instances and what is none, and its neighbours."""
    folder = tmp_path / "landing"
    with Landing(folder) as landing:
        for number in range(2):
            landing.append(instance(number), "CT1@10.0.0.7", received_at=RECEIVED_AT)
        landing.append(noise(LARGE_BYTES + 1), "CT2@10.0.0.8")
    (folder / "audit.jsonl").write_text("{}\n")
    (tmp_path / "0.dcm").write_bytes(instance(2))
    return folder


@pytest.fixture
def takeover() -> Iterator[Takeover]:
    with Takeover() as takeover:
        yield takeover


def found(takeover: Takeover, folder: Path) -> list[Source]:
    return list(takeover.sources(expand_sources([folder])))


def test_landing__gives_its_objects_in_the_place_of_its_files(
    folder: Path, takeover: Takeover, storage: Storage
) -> None:
    sources = list(takeover.sources(expand_sources([folder.parent], storage)))
    assert list(map(str, sources)) == [
        str(folder.parent / "0.dcm"), "CT1@10.0.0.7", "CT1@10.0.0.7", "CT2@10.0.0.8",
    ]  # fmt: skip
    for _ in range(2):
        with Intake(storage, "run") as intake:
            for source in sources:
                intake.add_source(source)
            taken = intake.finish()
        report = commit_intake(storage, [taken], "run")
    assert (report.duplicate, report.rejected) == (3, 1)
    catalog = Catalog(storage)
    rows = catalog.table("instances").to_pylist()
    assert {row["sha256"] for row in rows} == {sha256(instance(number)) for number in range(3)}
    received = [row for row in rows if row["source"] == "CT1@10.0.0.7"]
    assert [row["received_at"] for row in received] == [RECEIVED_AT] * 2
    (refused,) = catalog.rejects().to_pylist()
    assert (refused["source"], refused["size_bytes"]) == ("CT2@10.0.0.8", LARGE_BYTES + 1)


def test_landing__is_left_to_a_gateway_that_lives(
    folder: Path, takeover: Takeover, caplog: pytest.LogCaptureFixture
) -> None:
    journal = next(iter(folder.glob("*.landing")))
    with Landing(folder) as landing:
        assert len(landing.open()) == 3
        assert list(map(str, found(takeover, folder.parent))) == [str(folder.parent / "0.dcm")]
        assert takeover.waits(str(journal))
        assert not takeover.waits(str(folder / "audit.jsonl"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: left to the gateway that holds it"
    ]
    with Takeover() as again:
        assert not again.waits(str(journal))
        assert len(found(again, folder)) == 3


def test_gateway__cannot_begin_with_what_is_read(folder: Path) -> None:
    with Takeover() as one, Takeover() as other:
        assert len(found(one, folder)) == len(found(other, folder)) == 3
        with pytest.raises(UsageError, match="wait, where an ingest reads it"):
            Landing(folder)
    with Landing(folder) as landing:
        assert len(landing.open()) == 3


def test_journal__alone_is_read_up_to_where_it_was_torn(
    folder: Path, takeover: Takeover, caplog: pytest.LogCaptureFixture
) -> None:
    copied = folder.parent / "copy" / "000000000001.landing"
    copied.parent.mkdir()
    data = (folder / copied.name).read_bytes()
    copied.write_bytes(data[:-5])
    with caplog.at_level(logging.WARNING):
        (source,) = found(takeover, copied.parent)
    assert source.size_bytes == len(instance(0))
    assert "bytes are no whole object" in caplog.text
    copied.write_bytes(b"")
    assert found(takeover, copied.parent) == []


def test_landing__of_pipes_is_none_and_nobody_waits_for_it(
    takeover: Takeover, tmp_path: Path
) -> None:
    folder = tmp_path / "pipes"
    folder.mkdir()
    for name in ("landing.lock", "000000000001.landing"):
        os.mkfifo(folder / name)
    (folder / "0.dcm").write_bytes(instance(2))
    names = [Path(source.path).name for source in found(takeover, folder)]
    assert names == ["0.dcm", "000000000001.landing", "landing.lock"]
    assert not takeover.waits(str(folder / "000000000001.landing"))
