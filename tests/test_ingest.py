"""Ingest through Spark: nothing lost, nothing twice, bytes out as bytes in."""

import errno
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pacspark.archive import create_archive
from pacspark.cli import main
from pacspark.errors import StorageError, UsageError
from pacspark.spark.ingest import ingest, take_in
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.intake import IntakeResult, commit_intake
from pacspark.tables.reports import IngestReport
from pacspark.tables.sources import Source, expand_sources
from pacspark.tables.storage import Storage, open_storage
from tests.scan_files import write_phantom_scan
from tests.taking_in import ct_slice, object_files, stored, upload, write_slices

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An archive without objects."""
    storage = open_storage(tmp_path / "archive")
    create_tables(storage)
    return storage


def test_ingest__leaves_the_archive_itself_out(
    archive_root: str, spark: "SparkSession", caplog: pytest.LogCaptureFixture
) -> None:
    data = ct_slice("1.2.1", 1)
    url = upload(archive_root, {"in/a.dcm": data, "in/archives.dcm": data})
    archive = create_archive(f"{url}/in/archive", spark)
    folders = [url]
    if url.startswith("file://"):
        local = Path(open_storage(url).path())
        (local / "in" / "link").symlink_to(local / "in" / "archive")
        folders = [url, str(local)]
    for folder in folders:
        for _ in range(2):
            caplog.clear()
            assert archive.ingest(folder).inputs == 2
            assert caplog.text.count("left out: the archive itself") >= 1
    assert archive.catalog.rejects().num_rows == 0


def test_task__that_does_not_see_the_archive_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all machines of the cluster share, found none on"):
        take_in(open_storage(tmp_path / "elsewhere"), "run", "job", [])
    assert not (tmp_path / "elsewhere").exists()


def _take_in_unless_second(
    storage: Storage, run_id: str, job: str, sources: Sequence[Source]
) -> IntakeResult:
    """Take in, but for one task, which fails as soon as the other has written."""
    if sources[0].path.endswith("00000.dcm"):
        return take_in(storage, run_id, job, sources)
    while not object_files(storage):
        time.sleep(0.01)
    raise StorageError(errno.EIO, "the disk fails")


def test_ingest__that_fails_leaves_no_file_of_the_tasks_that_were_done(
    spark: "SparkSession", storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slices(tmp_path / "in", 2)
    monkeypatch.setattr("pacspark.spark.ingest.TASK_OBJECTS", 1)
    monkeypatch.setattr("pacspark.spark.ingest.take_in", _take_in_unless_second)
    with pytest.raises(StorageError, match="the disk fails"):
        ingest(lambda: spark, storage, [tmp_path / "in"])
    assert object_files(storage) == set()
    (run,) = Catalog(storage).runs().to_pylist()
    assert (run["operation"], run["outcome"]) == ("ingest", "failed")
    assert "the disk fails" in run["message"]
    assert json.loads(run["options"]) == {"paths": [str(tmp_path / "in")]}


def _in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacspark.spark.ingest.TASK_OBJECTS", 5)
    monkeypatch.setattr("pacspark.spark.ingest.MIN_TASK_OBJECTS", 1)
    monkeypatch.setattr("pacspark.spark.ingest.TASKS_PER_CORE", 1)


def test_ingest__stores_once_what_comes_again_while_its_batch_is_committed(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without preambles too; the tasks of a batch cannot know what the one before it stores."""
    _in_small_batches(monkeypatch)
    digests = write_slices(tmp_path / "in", 40)
    for number, path in enumerate(sorted((tmp_path / "in").glob("*.dcm"))):
        data = path.read_bytes()[132:] if number % 2 else path.read_bytes()
        path.write_bytes(data)
        path.with_name(f"{path.stem}-again.dcm").write_bytes(data)
        digests[f"2.25.{1000 + number}"] = hashlib.sha256(data).hexdigest()
    archive = create_archive(tmp_path / "archive", spark)
    report = archive.ingest(tmp_path / "in")
    assert (report.stored, report.duplicate, report.inputs) == (40, 40, 80)
    assert stored(archive) == digests
    assert archive.catalog.version() == 8  # a commit for each ten inputs
    steps = {"list", "read", "hash", "index", "look up", "write", "rows", "commit", "Spark"}
    assert set(report.steps) == steps
    (run,) = archive.catalog.runs().to_pylist()
    metrics = json.loads(run["metrics"])
    assert (metrics["stored"], set(metrics["steps"])) == (40, steps)
    assert metrics["bytes_stored"] == sum(
        path.stat().st_size for path in (tmp_path / "in").glob("*-again.dcm")
    )


def test_ingest__whose_commit_fails_leaves_no_file_of_the_next_batch(
    spark: "SparkSession", storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_small_batches(monkeypatch)
    write_slices(tmp_path / "in", 30)

    def fail_second(storage: Storage, results: Sequence[IntakeResult], run_id: str) -> IngestReport:
        if Catalog(storage).version() > 0:
            raise StorageError(errno.EIO, "the disk fails")
        return commit_intake(storage, results, run_id)

    monkeypatch.setattr("pacspark.spark.ingest.commit_intake", fail_second)
    with pytest.raises(StorageError, match="the disk fails"):
        ingest(lambda: spark, storage, [tmp_path / "in"])
    catalog = Catalog(storage)
    assert catalog.table("instances", ["sop_instance_uid"]).num_rows == 10
    # those of the batch whose commit failed stay: nobody knows how far it came
    assert len(object_files(storage)) == 2 + 2
    (run,) = catalog.runs().to_pylist()
    assert (run["outcome"], json.loads(run["metrics"])["stored"]) == ("failed", 10)


@pytest.mark.slow
def test_ingest__stores_a_series_of_5000(spark: "SparkSession", tmp_path: Path) -> None:
    digests = write_slices(tmp_path / "in", 5000, 8)
    archive = create_archive(tmp_path / "archive", spark)
    assert archive.ingest(tmp_path / "in").stored == 5000
    assert stored(archive) == digests
    (series,) = archive.find_table("series", {}).to_pylist()
    assert series["NumberOfSeriesRelatedInstances"] == 5000


def test_ingest__stores_every_public_object_byte_for_byte(
    spark: "SparkSession", shared_data: Path, tmp_path: Path
) -> None:
    archive = create_archive(tmp_path / "archive", spark)
    given = list(expand_sources([shared_data / "dicom"]))
    report = archive.ingest(shared_data / "dicom")
    assert report.inputs == len(given) == 254
    assert report.stored + report.duplicate + report.conflict + report.rejected == len(given)
    on_disk = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (shared_data / "dicom").rglob("*")
        if path.is_file()
    }
    kept = set(stored(archive).values())
    assert len(kept) == report.stored
    assert kept <= on_disk
    conflicts = [
        row for row in archive.catalog.rejects().to_pylist() if row["error_class"] == "conflict"
    ]
    assert len(conflicts) == report.conflict > 0
    for row in conflicts:
        data = archive.catalog.read_object(row)
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert row["sha256"] in on_disk

    again = archive.ingest(shared_data / "dicom")
    assert again.stored == 0
    assert again.inputs == len(given)
    assert again.duplicate == report.stored + report.duplicate
    assert (again.conflict, again.rejected) == (report.conflict, report.rejected)
    assert archive.catalog.rejects().num_rows == report.conflict + report.rejected


def test_ingest__takes_folders_globs_zips_and_says_what_it_refuses(
    spark: "SparkSession", tmp_path: Path
) -> None:
    digests = write_slices(tmp_path / "in", 6)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as packed:
        for path in sorted((tmp_path / "in").glob("*.dcm")):
            packed.write(path, path.name)
        packed.writestr("notes.txt", "no DICOM")
    archive = create_archive(tmp_path / "archive", spark)
    first = archive.ingest(str(tmp_path / "in" / "0000[0-2].dcm"))
    assert (first.stored, first.duplicate) == (3, 0)
    second = archive.ingest([tmp_path / "in", tmp_path / "more.zip"])
    assert (second.stored, second.duplicate, second.conflict, second.rejected) == (3, 9, 0, 1)
    assert second.refused[0].source.endswith("more.zip!notes.txt")
    assert stored(archive) == digests


def test_ingest__says_what_it_refused_and_how_to_see_all(
    spark: "SparkSession", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = create_archive(tmp_path / "an archive [1] #ü", spark).root
    for name in ("LICENSE", "README"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(f"no DICOM in {name}")
    capsys.readouterr()
    assert main(["ingest", root, str(tmp_path / "in")]) == 1
    out, err = capsys.readouterr()
    assert out == "stored 0, duplicate 0, conflict 0, rejected 2\n"
    told, hint = err.splitlines()[-2:]
    assert told.startswith(f"NotDicomError: 2 times, as {tmp_path}/in/LICENSE: expected DICOM")
    _, *command = shlex.split(hint.removeprefix("all of them: "))
    assert main(command) == 0
    out, _ = capsys.readouterr()
    assert sorted(line.split("\t")[:2] for line in out.splitlines()[1:]) == [
        ["NotDicomError", f"{tmp_path}/in/{name}"] for name in ("LICENSE", "README")
    ]


def test_ingest__keeps_the_first_and_the_newcomer_of_a_conflict(
    spark: "SparkSession", tmp_path: Path
) -> None:
    archive = create_archive(tmp_path / "archive", spark)
    first, other = ct_slice("2.25.7", 1), ct_slice("2.25.7", 2)
    (tmp_path / "a.dcm").write_bytes(first)
    (tmp_path / "b.dcm").write_bytes(other)
    archive.ingest(tmp_path / "a.dcm")
    report = archive.ingest(tmp_path / "b.dcm")
    assert (report.stored, report.conflict) == (0, 1)
    row = archive.catalog.instance("2.25.7")
    assert archive.catalog.read_object(row) == first
    (reject,) = archive.catalog.rejects().to_pylist()
    assert archive.catalog.read_object(reject) == other


def test_ingest__refuses_a_path_that_names_nothing(spark: "SparkSession", tmp_path: Path) -> None:
    archive = create_archive(tmp_path / "archive", spark)
    with pytest.raises(UsageError, match="expected a file, a folder or a glob, found nothing"):
        archive.ingest(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="expected files that match, found none"):
        archive.ingest(str(tmp_path / "*.dcm"))
    with pytest.raises(UsageError, match="expected a file, a folder or a glob, found an empty"):
        archive.ingest(["", tmp_path])


def run_and_kill(arguments: list[str], root: Path, table: str) -> None:
    """Begin a command and kill its whole process group once it has written into a table."""
    before = set((root / table).glob("*.parquet"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pacspark", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while set((root / table).glob("*.parquet")) == before:
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_whole(arguments: list[str]) -> str:
    """Run a command to its end and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "pacspark", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_ingest__is_complete_after_a_kill_and_the_same_command(tmp_path: Path) -> None:
    digests = write_slices(tmp_path / "in", 3000)
    root = tmp_path / "archive"
    archive = create_archive(root)
    run_and_kill(["ingest", str(root), str(tmp_path / "in")], root, "objects")
    seen = stored(archive)
    assert seen.items() <= digests.items()
    run_whole(["ingest", str(root), str(tmp_path / "in")])
    assert stored(archive) == digests


@pytest.mark.slow
@pytest.mark.parametrize("table", ["projections", "objects"])
def test_reconstruct__is_complete_after_a_kill_and_the_same_command(
    tmp_path: Path, table: str
) -> None:
    path, integrals = write_phantom_scan(tmp_path / "scan")
    if table == "projections":  # only counts are prepared
        np.save(path.parent / "stack.npy", (50_000 * np.exp(-integrals)).astype(np.uint16))
        counts = 'kind = "counts"\nunattenuated_counts = 50000'
        path.write_text(path.read_text().replace('kind = "line_integrals"', counts))
    root = tmp_path / "archive"
    archive = create_archive(root)
    series_uid = archive.import_scan(path).series_instance_uid
    command = ["reconstruct", str(root), series_uid, "--size", "64", "64", "48"]
    run_and_kill(command, root, table)
    assert archive.find(level="series", Modality="CT").empty
    ct_uid = run_whole(command).split()[-1]
    assert archive.catalog.instances_of(ct_uid).num_rows == 48
    assert run_whole(command).split()[-1] == ct_uid
    assert len(stored(archive)) == 49
    runs = archive.catalog.runs().select(["operation", "outcome"]).to_pylist()
    assert runs == [
        {"operation": operation, "outcome": "done"} for operation in ("import-scan", "reconstruct")
    ]
