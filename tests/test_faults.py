"""Fault campaigns: what is killed, filled up, cut off or flipped loses nothing acknowledged."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pacspark.spark.repair import repair
from pacspark.tables.compaction import in_threads
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import open_storage
from tests.conftest import missing, mounted
from tests.faults import OPERATIONS, Campaign, Victim
from tests.servers import S3Server

SEEDS = range(8)
ROUNDS = 7
"""Eight seeds, seven rounds of four operations: 224 kills are tried."""


def campaign(folder: Path, seed: int) -> Campaign:
    return Campaign(str(folder / "archive"), str(folder / "replica"), folder / "journal", seed)


def test_kills__lose_nothing(tmp_path: Path) -> None:
    faults = campaign(tmp_path, 100)
    for operation in ("ingest", *OPERATIONS):
        faults.fault(operation)
    assert faults.present


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_kills__at_random_moments_lose_nothing(tmp_path: Path, seed: int) -> None:
    faults = campaign(tmp_path, seed)
    for _ in range(ROUNDS):
        for operation in OPERATIONS:
            faults.fault(operation)
    faults.run("replicate", faults.arguments("replicate"), None)
    assert faults.present <= faults.stored(faults.other)
    assert faults.verified(faults.other).clean
    # the moments are spread over the whole of what is killed
    assert faults.killed > ROUNDS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of two megabytes."""
    with mounted(tmp_path / "disk", "2m") as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_full_disk__refuses_in_one_line_and_recovers(
    small_disk: Path, tmp_path: Path, seed: int
) -> None:
    root = str(small_disk / "archive")
    faults = Campaign(root, str(tmp_path / "replica"), tmp_path / "journal", seed)
    faults.next = 2000
    filling = (root, faults.journal, 0, faults.next)
    with Victim("ingest", *filling) as victim:
        status, errors = victim.finish()
    assert status == 1
    assert errors.splitlines()[-1].endswith(
        "the disk is full; free some space and repeat the command"
    )
    assert 0 < len(faults.acknowledged()) < faults.next
    assert faults.acknowledged() <= faults.stored()
    assert faults.verified().clean

    subprocess.run(["mount", "-o", "remount,size=512m", str(small_disk)], check=True)
    faults.run("ingest", filling, None)
    faults.done("ingest", filling)
    faults.check()


@pytest.mark.slow
def test_dropped_server__loses_nothing(tmp_path: Path) -> None:
    if S3Server.program() is None:
        missing("versitygw")
    with S3Server(tmp_path) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        faults = Campaign(server.new_root(), server.new_root(), tmp_path / "journal", 1)
        began = faults.arguments("ingest")
        faults.run("ingest", began, None)
        faults.done("ingest", began)
        for operation in OPERATIONS * 3:
            arguments, before = faults.arguments(operation), faults.present.copy()
            with Victim(operation, *arguments) as victim:
                with suppress(subprocess.TimeoutExpired):
                    victim.process.wait(faults.random.uniform(0, 0.5))
                server.drop()
                status, errors = victim.finish()
            assert status == 0 or "the server does not answer" in errors.splitlines()[-1]
            server.listen()
            if operation != "delete":
                assert before <= faults.stored()
            faults.run(operation, arguments, None)
            faults.done(operation, arguments)
            faults.check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_flipped_byte__is_found_and_repaired(tmp_path: Path, seed: int) -> None:
    faults = Campaign(
        str(tmp_path / "archive"), str(tmp_path / "replica"), tmp_path / "journal", seed
    )
    for operation in ("ingest", "ingest", "replicate"):
        arguments = faults.arguments(operation)
        faults.run(operation, arguments, None)
        faults.done(operation, arguments)
    snapshot = Snapshot(faults.storage, faults.random.choice(["objects", "instances"]))
    file = Path(
        faults.storage.path(snapshot.spec.name, faults.random.choice(snapshot.files()).path)
    )
    data = bytearray(file.read_bytes())
    at = faults.random.randrange(len(data))
    data[at] ^= 1 << faults.random.randrange(8)
    file.write_bytes(data)

    report = faults.verified()
    if not report.clean:  # else it was a byte that says nothing, as of a file's padding
        repair(in_threads, faults.storage, open_storage(faults.other), report)
    faults.check()
