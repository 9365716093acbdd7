"""Figures are kept with what is needed to compare them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.instances import fill, instance
from benchmarks.memory import MemoryWatch
from pacspark.dicom.decode import index_instance
from pacspark.tables.catalog import Catalog
from pacspark.tables.storage import open_storage
from tests.servers import wait_until

# a child that holds 64 MiB, the half of it shared with its own child; page by page, so that nothing
# larger is ever held on the way there
HOLDING = """
import os, sys
kept = bytearray(64 << 20)
kept[::4096] = b"x" * (len(kept) // 4096)
if os.fork() == 0:
    for page in range(0, 32 << 20, 4096):
        kept[page] = 1
    print("held", flush=True)
    sys.stdin.read()
else:
    os.wait()
"""


def test_record__keeps_each_line_with_date_commit_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "benchmarks")

    results.record("fdk", seconds=1.5)
    results.record("fdk", seconds=1.4)

    kept = (tmp_path / "benchmarks" / "fdk.jsonl").read_text()
    assert kept == capsys.readouterr().out
    first, second = (json.loads(line) for line in kept.splitlines())
    assert (first["benchmark"], first["seconds"], second["seconds"]) == ("fdk", 1.5, 1.4)
    for name in ("date", "commit", "machine", "cores"):
        assert first[name]


def test_memory_watch__counts_children_and_what_they_share_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:], check=True)",
         sys.executable, "-c", HOLDING],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        watch = MemoryWatch(process.pid)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        wait_until(lambda: watch.peak_bytes >= 96 << 20, "a sample of all", [process])
        assert watch.stop() < 160 << 20
        assert len(watch.at_peak) == 3
        process.communicate()
    assert process.returncode == 0


def test_fill__makes_an_archive_of_distinct_instances_and_grows_it(tmp_path: Path) -> None:
    first = fill(tmp_path / "archive", range(120), processes=1)
    second = fill(tmp_path / "archive", range(100, 240), processes=1)
    assert (first.stored, first.rejected) == (120, 0)
    assert (second.stored, second.duplicate) == (120, 20)
    catalog = Catalog(open_storage(tmp_path / "archive"))
    names = ["sop_instance_uid", "series_instance_uid", "instance_number"]
    rows = catalog.table("instances", names).to_pandas()
    assert rows.nunique().to_list() == [240, 3, 100]
    for number in (0, 99, 239):
        index = index_instance(instance(number))
        assert catalog.read_object(catalog.instance(index.sop_instance_uid)) == instance(number)
        assert index.row["instance_number"] == number % 100 + 1
