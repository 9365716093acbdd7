"""What arrives in a watched folder is stored: once, whole, and never read by the JVM."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.instances import instance, write_instances
from pacspark.archive import Archive, create_archive
from pacspark.errors import StorageError, UsageError
from pacspark.progress import Progress
from pacspark.spark import watch as watching
from pacspark.spark.watch import Watch
from pacspark.tables.catalog import Catalog
from pacspark.tables.landing import Landing
from pacspark.tables.storage import Storage, open_storage
from tests.servers import wait_until

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Heard(Progress):
    """Keeps the lines that were said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def archive(spark: "SparkSession", tmp_path: Path) -> Archive:
    """An archive without objects."""
    return create_archive(tmp_path / "archive", spark, Heard())


@contextmanager
def unread(spark: "SparkSession") -> Iterator[None]:
    """Let Spark refuse to read the content of any file that has some."""
    spark.conf.set("spark.sql.sources.binaryFile.maxLength", "0")
    yield
    spark.conf.unset("spark.sql.sources.binaryFile.maxLength")


def write(folder: Path, names: str, first: int = 0) -> None:
    """Write instances under some names, whose times are long ago, as copies have them."""
    for number, name in enumerate(names.split("|"), first):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(instance(number))
        os.utime(path, (1.4e9, 1.4e9))


def sources(archive: Archive) -> list[str]:
    """Name the stored objects by their files."""
    rows = archive.catalog.table("instances", ["source"])
    return sorted(Path(source).name for source in rows["source"].to_pylist())


def test_watch__takes_what_is_there_and_what_arrives_each_once(
    spark: "SparkSession", archive: Archive, tmp_path: Path
) -> None:
    folder = tmp_path / "in [1] %20 ü"
    write(folder, "a.dcm|b c.dcm|deep/er/d#%41.dcm")
    (folder / "notes.txt").write_text("no DICOM")
    with unread(spark):
        first = archive.watch(folder, settle_s=0, once=True)
    assert (first.stored, first.rejected) == (3, 1)
    assert sources(archive) == ["a.dcm", "b c.dcm", "d#%41.dcm"]
    (line,) = archive.progress.lines  # type: ignore[attr-defined]
    assert line.startswith("watch: stored 3, rejected 1 in ")
    assert line.endswith(" MB/s)")

    write(folder, "e.dcm", 3)  # older than those that were taken
    os.utime(folder / "e.dcm", (1e9, 1e9))
    second = archive.watch(folder, settle_s=0, once=True)
    assert (second.inputs, second.stored) == (1, 1)
    assert archive.watch(folder, settle_s=0, once=True).inputs == 0


def test_watch__waits_for_a_file_that_somebody_writes(archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder, "whole.dcm")
    data = instance(1)
    begun = folder / "growing.dcm"
    begun.write_bytes(data[:500])

    def go_on() -> None:
        for size in range(600, len(data) + 100, 100):
            time.sleep(0.1)
            with begun.open("ab") as file:
                file.write(data[size - 100 : size])

    writer = threading.Thread(target=go_on)
    writer.start()
    report = archive.watch(folder, settle_s=1.5, once=True)
    writer.join()
    assert (report.stored, report.rejected) == (2, 0)
    assert sources(archive) == ["growing.dcm", "whole.dcm"]


def test_watch__takes_a_file_again_that_was_half_when_it_was_taken(
    archive: Archive, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "slow.dcm").write_bytes(instance(1)[:500])
    first = archive.watch(folder, settle_s=0, once=True)
    assert (first.stored, first.rejected) == (0, 1)
    (folder / "slow.dcm").write_bytes(instance(1))
    second = archive.watch(folder, settle_s=0, once=True)
    assert (second.stored, second.rejected) == (1, 0)
    assert archive.watch(folder, settle_s=0, once=True).inputs == 0


def test_watch__that_fails_goes_on_with_the_same_run(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    write(folder, "a.dcm|b.dcm")

    def fail(*_: Any) -> list[Any]:
        raise StorageError("the disk fails")

    with monkeypatch.context() as patch:
        # after the commit, before Spark knows
        patch.setattr(Watch, "_changed", fail)
        with pytest.raises(StorageError, match="the disk fails"):
            archive.watch(folder, settle_s=0, once=True)
    assert sources(archive) == ["a.dcm", "b.dcm"]
    again = archive.watch(folder, settle_s=0, once=True)
    assert (again.stored, again.duplicate) == (0, 2)
    runs = archive.catalog.runs().to_pylist()
    assert [run["operation"] for run in runs] == ["ingest", "ingest"]
    assert len({run["run_id"] for run in runs}) == 1


def test_watch__runs_until_it_is_told_to_stop(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SECONDS_BETWEEN_LISTINGS", 0.2)
    folder = tmp_path / "in"
    write(folder, "a.dcm")
    create_archive(tmp_path / "archive")
    stop, heard, came = threading.Event(), Heard(), threading.Event()

    def say(text: str) -> None:
        heard.lines.append(text)
        came.set()

    monkeypatch.setattr(heard, "say", say)
    storage = open_storage(tmp_path / "archive")
    run = threading.Thread(
        target=lambda: watching.watch(
            spark, storage, str(folder), settle_s=0, stop=stop, progress=heard
        )
    )
    run.start()
    try:
        assert came.wait(60)
        came.clear()
        write(folder, "b.dcm", 1)
        assert came.wait(60)
    finally:
        stop.set()
        run.join(60)
    assert not run.is_alive()
    assert [line.partition(" in ")[0] for line in heard.lines] == ["watch: stored 1"] * 2


def arrive(incoming: Storage, numbers: Iterable[int]) -> None:
    incoming.create_folder("deep")
    for number in numbers:
        path = incoming.path("deep", f"{number}.dcm")
        with incoming.filesystem.open_output_stream(path) as stream:
            stream.write(instance(number))


def test_watch__takes_what_arrives_on_any_storage(
    spark: "SparkSession", archive_root: str, tmp_path: Path
) -> None:
    archive = create_archive(f"{archive_root}/archive", spark, Heard())
    incoming = open_storage(f"{archive_root}/in")
    arrive(incoming, range(3))
    with unread(spark):
        first = archive.watch(incoming.root, settle_s=0, once=True)
    assert (first.stored, first.rejected) == (3, 0)
    arrive(incoming, range(2, 5))
    second = archive.watch(incoming.root, settle_s=0, once=True)
    assert (second.inputs, second.stored) == (2, 2)
    assert archive.watch(incoming.root, settle_s=0, once=True).inputs == 0
    assert sources(archive) == [f"{number}.dcm" for number in range(5)]
    for row in archive.catalog.table("instances").to_pylist():
        number = int(Path(row["source"]).stem)
        assert archive.catalog.read_object(row) == instance(number)


def test_watch__takes_a_landing_when_its_gateway_is_gone(archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "landing"
    with Landing(folder) as landing:
        for number in range(3):
            landing.append(instance(number), f"CT{number}")
        stop, reports = threading.Event(), []
        watch = Watch(archive.spark, archive.catalog.storage, str(folder), 0)
        run = threading.Thread(
            target=lambda: reports.append(watch.run(once=False, stop=stop)), daemon=True
        )
        run.start()
        # its journal waits while the gateway lives
        wait_until(lambda: any(files for _, files in watch._waiting.read()), "a journal", [])
        assert archive.catalog.version() == 0
    wait_until(lambda: Catalog(archive.catalog.storage).version() > 0, "a commit", [])
    stop.set()
    run.join(60)
    assert (reports[0].stored, reports[0].rejected) == (3, 0)
    assert sources(archive) == ["CT0", "CT1", "CT2"]


def test_watch__refuses_what_is_no_folder_beside_the_archive(
    archive: Archive, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="expected a folder to watch, found NotFound"):
        archive.watch(tmp_path / "nowhere", once=True)
    with pytest.raises(UsageError, match="expected a folder beside the archive"):
        archive.watch(tmp_path, once=True)
    with pytest.raises(UsageError, match="settle_s: expected seconds from 0 on, found nan"):
        archive.watch(tmp_path, settle_s=float("nan"))


def command(archive: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pacspark", "ingest", str(archive), str(folder), "--watch", *more]


@pytest.mark.slow
def test_watch__is_complete_after_a_kill_and_the_same_command(tmp_path: Path) -> None:
    root, folder = tmp_path / "archive", tmp_path / "in"
    create_archive(root)
    write_instances(folder, range(6000))
    process = subprocess.Popen(
        command(root, folder, "--once", "--settle", "0"), stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    # in the midst of its second batch
    wait_until(lambda: Catalog(open_storage(root)).version() >= 1, "a commit", [process], 300)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [*command(root, folder, "--once", "--settle", "0"), "--json"],
        capture_output=True, text=True, check=True, timeout=400,
    )  # fmt: skip
    report = json.loads(done.stdout)
    uids = Catalog(open_storage(root)).table("instances", ["sop_instance_uid"])
    assert uids.num_rows == len(set(uids["sop_instance_uid"].to_pylist())) == 6000
    assert 0 < report["stored"] < 6000


@pytest.mark.slow
def test_watch__ends_cleanly_at_an_interrupt(tmp_path: Path) -> None:
    root, folder = tmp_path / "archive", tmp_path / "in"
    create_archive(root)
    write_instances(folder, range(20))
    lines = []
    with subprocess.Popen(
        command(root, folder, "--settle", "0"), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.startswith("watch: stored 20 in"):
                os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 130
    assert lines[-1] == "interrupted; the same command again finishes the work\n"
    assert not any("Traceback" in line for line in lines)
