"""Verify, killed with all its processes in the middle, and begun again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pacspark
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.tables.samples import noise, store

FILES, FILE_BYTES = 30, 20 << 20


def filled(root: Path) -> None:
    """Make an archive of more than one task, each object in a data file of its own."""
    storage = open_storage(root)
    create_tables(storage)
    for number in range(FILES):
        store(storage, {f"1.2.{number}": noise(FILE_BYTES, number)})


def kill_when(arguments: list[str], reached: Callable[[], bool]) -> None:
    """Begin a command, and kill its whole process group at some point."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pacspark", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_verify__goes_on_after_kills(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    filled(root)
    row = pacspark.open(root).catalog.instance("1.2.7")
    path = root / "objects" / row["object_file"]
    data = bytearray(path.read_bytes())
    data[row["object_offsets"][0] + 12_345] ^= 1
    path.write_bytes(data)

    def kept() -> int:
        # the files of rows are checked first: as many as those of objects
        return len([*root.glob("_scratch/verify-*/*.*.*.*.*")])

    command = ["verify", str(root), "--resume", "--json"]
    kill_when(command, lambda: kept() > FILES + 3)
    first = kept()
    kill_when(command, lambda: kept() > FILES + 9)
    second = kept()
    assert FILES < first < second < 2 * FILES

    done = subprocess.run(
        [sys.executable, "-m", "pacspark", *command], capture_output=True, text=True, check=False
    )

    report = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, report["objects"], report["wrong"]) == (1, FILES, 1)
    assert report["kept"] >= second - 1  # the last one may have been cut off
    assert report["bytes_read"] < (2 * FILES - second + 2) * (FILE_BYTES + 100_000)
    assert [one["name"] for one in report["found"] if one["wrong"]] == ["1.2.7"]
    assert not [*root.glob("_scratch/*")]
