"""Ingest through Spark: nothing lost, nothing twice, bytes out as bytes in."""

import errno
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pytest
from pydicom import Dataset, dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from pacspark.archive import Archive, create_archive
from pacspark.dicom.enhanced_xa import file_meta
from pacspark.errors import StorageError, UsageError
from pacspark.spark.ingest import ingest, take_in
from pacspark.tables import datafile
from pacspark.tables.catalog import Catalog
from pacspark.tables.intake import Intake, IntakeResult, commit_intake
from pacspark.tables.reports import IngestReport, Refused
from pacspark.tables.schema import create_tables
from pacspark.tables.sources import Source, expand_sources, open_source
from pacspark.tables.storage import Storage, open_storage
from tests.ct_objects import ct_image, encoded
from tests.scan_files import write_phantom_scan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An archive without objects."""
    storage = open_storage(tmp_path / "archive")
    create_tables(storage)
    return storage


def ct_slice(uid: str, number: int, size: int = 16) -> bytes:
    """Give the bytes of a small CT slice."""
    pixels = np.full((size, size), number, np.int16)
    return encoded(ct_image(pixels, number, (0, 0, number), SOPInstanceUID=uid))


def write_slices(folder: Path, count: int, size: int = 16) -> dict[str, str]:
    """Write CT slices; return the digest of each by SOP Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for number in range(count):
        uid = f"2.25.{1000 + number}"
        data = ct_slice(uid, number + 1, size)
        (folder / f"{number:05d}.dcm").write_bytes(data)
        digests[uid] = hashlib.sha256(data).hexdigest()
    return digests


def stored(archive: Archive) -> dict[str, str]:
    """Read every object back and give its digest by SOP Instance UID; each UID once."""
    rows = archive.catalog.table("instances").to_pylist()
    assert len({row["sop_instance_uid"] for row in rows}) == len(rows)
    return {
        row["sop_instance_uid"]: hashlib.sha256(archive.catalog.read_object(row)).hexdigest()
        for row in rows
    }


def test_expand_sources__names_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "real").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    found = [Path(source.path).name for source in expand_sources([tmp_path])]
    assert found == ["dangling", "pipe", "real"]


def test_expand_sources__follows_links_to_folders_once(tmp_path: Path) -> None:
    """Scans lie on other disks, and links lead back."""
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "a.dcm").write_bytes(b"a")
    (tmp_path / "disk" / "deep" / "b.dcm").write_bytes(b"b")
    (tmp_path / "disk" / "deep" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "one").symlink_to(tmp_path / "disk")
    (tmp_path / "in" / "two").symlink_to(tmp_path / "disk" / "deep")
    found = [source.path for source in expand_sources([tmp_path / "in"])]
    assert found == [f"{tmp_path}/in/one/{name}" for name in ("a.dcm", "deep/b.dcm")]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_intake__refuses_what_is_no_regular_file(tmp_path: Path, scheme: str) -> None:
    archive = create_archive(tmp_path / "archive")
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe")
    (tmp_path / "in" / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "in" / "socket"))  # of short names only
    intake = Intake(archive._storage, "run")
    for source in expand_sources([f"{scheme}{tmp_path}/in"]):
        intake.add_source(source)
    report = commit_intake(archive._storage, [intake.finish()], "run", "ingest")
    assert (report.inputs, report.rejected) == (3, 3)
    refused = {Path(one.source).name: one.message for one in report.refused}
    assert refused == {
        "pipe": "expected a readable file, found a pipe",
        "socket": "expected a readable file, found a socket",
        "zero": "expected a readable file, found a device",
    }
    (source,) = expand_sources([tmp_path / "in" / "pipe"])
    assert source.size_bytes == 0


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


DIRECTORY_NEST = b"\x04\x00\x20\x12SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
"""The beginning of a Directory Record Sequence and of its first item, both without a length."""


def dicomdir(*files: str) -> bytes:
    """Give a DICOMDIR that lists files."""
    directory = Dataset()
    directory.DirectoryRecordSequence = []
    for file in files:
        record = Dataset()
        record.ReferencedFileID = file.split("/")
        directory.DirectoryRecordSequence.append(record)
    buffer = io.BytesIO()
    directory.file_meta = file_meta(MediaStorageDirectoryStorage, "1.2.9")
    dcmwrite(buffer, directory, enforce_file_format=True)
    return buffer.getvalue()


def upload(root: str, files: Mapping[str, bytes]) -> str:
    """Write files below a root; return its URL."""
    storage = open_storage(root)
    for name, data in files.items():
        path = storage.path(name)
        storage.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with storage.filesystem.open_output_stream(path) as stream:
            stream.write(data)
    return root if "://" in root else Path(root).as_uri()


def zip_of(*members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for number, data in enumerate(members):
            packed.writestr(f"folder/{number}.dcm", data)
    return buffer.getvalue()


def test_urls__have_zips_globs_and_dicomdirs_as_paths_do(archive_root: str) -> None:
    objects = [ct_slice(f"1.2.{number}", number) for number in range(6)]
    url = upload(
        archive_root,
        {
            "in/a.dcm": objects[0],
            "in/b.dcm": objects[1],
            "in/b.txt": b"notes",
            "in/deep/c.dcm": objects[2],
            "in/deep/packed.zip": zip_of(*objects[3:5]),
            "disc/DICOMDIR": dicomdir("IMAGES/I1", "IMAGES/I2"),
            "disc/IMAGES/I1": objects[5],
        },
    )

    def names(pattern: str) -> list[str]:
        return [str(source).removeprefix(url) for source in expand_sources([url + pattern])]

    zipped = [f"/in/deep/packed.zip!folder/{number}.dcm" for number in (0, 1)]
    assert names("/in/*.dcm") == ["/in/a.dcm", "/in/b.dcm"]
    assert names("/in/b.???") == ["/in/b.dcm", "/in/b.txt"]
    assert names("/in/**/*.dcm") == ["/in/a.dcm", "/in/b.dcm", "/in/deep/c.dcm"]
    assert names("/i*/deep") == names("/in/deep") == ["/in/deep/c.dcm", *zipped]
    assert names("/in/deep/packed.zip") == zipped
    assert names("/disc/DICOMDIR") == ["/disc/IMAGES/I1", "/disc/IMAGES/I2"]
    for nothing in ("/in/*.zip", "/nowhere/*", "/in/c.dcm"):
        with pytest.raises(UsageError, match="found no"):
            names(nothing)
    read = []
    for source in expand_sources([f"{url}/in/deep", f"{url}/disc/DICOMDIR"]):
        if source.size_bytes:
            with open_source(source) as stream:
                read.append(stream.read())
    assert read == objects[2:]


def test_dicomdir__is_followed_unless_it_is_an_image_of_that_name(tmp_path: Path) -> None:
    archive = create_archive(tmp_path / "archive")
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "DICOMDIR").write_bytes(ct_slice("1.2.1", 1))
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc" / "DICOMDIR").write_bytes(dicomdir("I1", "I2"))
    (tmp_path / "disc" / "I1").write_bytes(ct_slice("1.2.2", 2))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "DICOMDIR").write_text("no DICOM")
    intake = Intake(archive._storage, "run")
    for source in expand_sources(
        tmp_path / name / "DICOMDIR" for name in ("image", "disc", "text")
    ):
        intake.add_source(source)
    report = commit_intake(archive._storage, [intake.finish()], "run", "ingest")
    assert sorted(stored(archive)) == ["1.2.1", "1.2.2"]
    refused = {Path(one.source).name: one.message for one in report.refused}
    assert "every machine of the cluster" in refused.pop("I2")
    assert list(refused) == ["DICOMDIR"]


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(DIRECTORY_NEST * 5000, id="nested"),
        pytest.param(DIRECTORY_NEST[:8] + b"\xff\xff\xff\x7f" + DIRECTORY_NEST[12:], id="length"),
        pytest.param(b"\x04\x00\x20\x12UL\x04\x00abcd", id="wrong VR"),
        pytest.param(b"\x04\x00\x20\x12SQ\x00\x00\x14\x00\x00\x00\xfe\xff\x00\xe0\x0c\x00\x00\x00"
                     b"\x04\x00\x00\x15UL\x04\x00abcd", id="numbers for names"),
    ],
)  # fmt: skip
def test_dicomdir__that_lists_nothing_readable_is_a_refusal(tmp_path: Path, records: bytes) -> None:
    path = tmp_path / "DICOMDIR"
    path.write_bytes(dicomdir()[:-12] + records)  # without its empty sequence
    assert [source.path for source in expand_sources([path])] == [str(path)]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # what it writes is wrong
@pytest.mark.parametrize("name", ["../A", "A/B\0C", "A/.", "/etc"])
def test_dicomdir__that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "DICOMDIR").write_bytes(dicomdir(name))
    with pytest.raises(UsageError, match="expected file names below its folder"):
        list(expand_sources([tmp_path / "DICOMDIR"]))


def test_expand_sources__gives_tasks_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "A").write_bytes(b"a")
    (tmp_path / "in" / "DICOMDIR").write_bytes(dicomdir("A"))
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "in" / "A")
    for given in ("in/A", "in/A*", "in/DICOMDIR"):
        assert [source.path for source in expand_sources([given])] == [expected]
    assert expected in [source.path for source in expand_sources(["in"])]


def test_task__that_does_not_see_the_archive_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all machines of the cluster share, found none on"):
        take_in(open_storage(tmp_path / "elsewhere"), "run", "job", [])
    assert not (tmp_path / "elsewhere").exists()


def test_intake__takes_zip_members_of_one_name_and_any_file_name(tmp_path: Path) -> None:
    archive = create_archive(tmp_path / "archive")
    packed = tmp_path / "twice.zip"
    with zipfile.ZipFile(packed, "w") as members, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the doubled name
        for number in (1, 2, 3):
            members.writestr("same.dcm", ct_slice(f"1.2.{number}", number))
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.dcm"))
    strange.write_bytes(ct_slice("1.2.4", 4))
    intake = Intake(open_storage(str(tmp_path / "archive")), "run")
    for source in expand_sources([packed, strange]):
        intake.add_source(source)
    report = commit_intake(archive._storage, [intake.finish()], "run", "ingest")
    assert (report.stored, report.inputs) == (4, 4)
    assert len(stored(archive)) == 4


def test_intake__refuses_a_damaged_member_of_a_zip_and_takes_the_others(
    storage: Storage, tmp_path: Path
) -> None:
    packed = tmp_path / "lzma.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as members:
        for number in (1, 2, 3):
            members.writestr(f"{number}.dcm", ct_slice(f"1.2.{number}", number, size=64))
        first, second = members.infolist()[1:]
        middle = (first.header_offset + second.header_offset) // 2
    data = bytearray(packed.read_bytes())
    data[middle - 20 : middle + 20] = b"\xff" * 40
    packed.write_bytes(data)
    report = take_in_here(storage, packed)
    assert (report.stored, report.rejected) == (2, 1)
    assert report.refused[0].source == f"{packed}!2.dcm"
    assert report.refused[0].message.startswith("expected a readable zip member, found")
    assert set(Catalog(storage).known(["1.2.1", "1.2.2", "1.2.3"])) == {"1.2.1", "1.2.3"}


def test_intake__ends_when_the_archive_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is no fault of the file that is read meanwhile."""
    create_archive(tmp_path / "archive")
    path = tmp_path / "slice.dcm"
    path.write_bytes(ct_slice("1.2.1", 1))
    intake = Intake(open_storage(str(tmp_path / "archive")), "run")

    def full(*_: object, **__: object) -> None:
        raise StorageError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("pacspark.tables.intake.HELD_OBJECTS", 1)
    monkeypatch.setattr("pacspark.tables.datafile.ObjectFile.append", full)
    (source,) = expand_sources([path])
    with pytest.raises(StorageError):
        intake.add_source(source)


def test_intake__leaves_no_part_of_a_large_object_that_cannot_be_read_again(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it take the same object for stored when it comes from elsewhere."""
    monkeypatch.setattr("pacspark.tables.intake.STREAMED_BYTES", 0)
    monkeypatch.setattr("pacspark.tables.datafile.PIECE_BYTES", 300)
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(ct_slice("1.2.1", 1))
    pieces, failing = datafile._read_fully, [False, True]

    def read_or_fail(stream: BinaryIO) -> bytes:
        if failing and failing.pop(0):
            raise OSError(errno.EIO, "Input/output error")
        return pieces(stream)

    monkeypatch.setattr("pacspark.tables.datafile._read_fully", read_or_fail)
    with pytest.raises(StorageError, match=r"a.dcm: read once, and then not again: Input/output"):
        take_in_here(storage, tmp_path / "a.dcm", tmp_path / "b.dcm")
    assert object_files(storage) == set()
    assert take_in_here(storage, tmp_path / "a.dcm", tmp_path / "b.dcm").stored == 1


def object_files(storage: Storage) -> set[str]:
    """Give the data files in the folder of `objects`, listed by the table or not."""
    return {path.name for path in Path(storage.path("objects")).glob("*.parquet")}


def _take_three_and_fail(storage: Storage) -> None:
    with Intake(storage, "run") as intake:
        for number in (1, 2, 3):
            intake.add(f"{number}", ct_slice(f"1.2.{number}", number))
        assert len(object_files(storage)) == 3  # two are closed, one is open
        message = "interrupted"
        raise StorageError(message)


def test_intake__takes_its_files_away_unless_it_was_finished(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacspark.tables.intake.HELD_OBJECTS", 1)
    monkeypatch.setattr("pacspark.tables.intake.OBJECT_FILE_BYTES", 1)
    with pytest.raises(StorageError, match="interrupted"):
        _take_three_and_fail(storage)
    assert object_files(storage) == set()
    with Intake(storage, "run") as forgotten:
        forgotten.add("1", ct_slice("1.2.1", 1))
    assert object_files(storage) == set()
    with Intake(storage, "run") as intake:
        intake.add("1", ct_slice("1.2.1", 1))
        result = intake.finish()
    assert commit_intake(storage, [result], "run").stored == 1
    assert object_files(storage) == set(Catalog(storage).files_of("objects"))


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


def test_report__is_a_table_in_a_notebook_and_escapes_what_others_wrote() -> None:
    refused = Refused("<script>.dcm", "DicomDecodeError", "expected DICOM & found <b>")
    report = IngestReport("run", stored=1200, rejected=3, seconds=2.0, refused=(refused,))
    shown = report._repr_html_()
    assert "<td>1200</td>" in shown
    assert "<td>602 per s</td>" in shown
    assert "<td>&lt;script&gt;.dcm</td>" in shown
    assert "and 2 more in the table rejects" in shown
    assert "<script>" not in shown
    assert "<b>" not in shown


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


def take_in_here(storage: Storage, *paths: Path) -> IngestReport:
    """Ingest in this process."""
    with Intake(storage, "run") as intake:
        for source in expand_sources(paths):
            intake.add_source(source)
        result = intake.finish()
    return commit_intake(storage, [result], "run")


@pytest.mark.parametrize("streamed_bytes", [0, 16 << 20])
def test_intake__keeps_one_refusal_once_however_often_it_comes(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed_bytes: int
) -> None:
    monkeypatch.setattr("pacspark.tables.intake.STREAMED_BYTES", streamed_bytes)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(ct_slice("1.2.1", 1))
    (folder / "b.dcm").write_bytes(ct_slice("1.2.1", 2))
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "nowhere").symlink_to(tmp_path / "nothing")
    first = take_in_here(storage, folder)
    assert (first.stored, first.duplicate, first.conflict, first.rejected) == (1, 0, 1, 2)
    rejects, objects = Catalog(storage).rejects(), object_files(storage)
    assert len(set(rejects["sha256"].to_pylist())) == rejects.num_rows == 3

    again = take_in_here(storage, folder)
    assert (again.stored, again.duplicate, again.conflict, again.rejected) == (0, 1, 1, 2)
    assert sorted(again.refused, key=str) == sorted(first.refused, key=str)
    assert Catalog(storage).rejects() == rejects
    assert object_files(storage) == objects

    (folder / "notes.txt").write_text("no DICOM still")
    (folder / "b.dcm").write_bytes(ct_slice("1.2.1", 3))
    other = take_in_here(storage, folder)
    assert (other.duplicate, other.conflict, other.rejected) == (1, 1, 2)
    assert Catalog(storage).rejects().num_rows == 5


def test_intake__keeps_one_row_of_a_refusal_that_comes_twice_at_once(
    storage: Storage, tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no DICOM")
    assert take_in_here(storage, path, path).rejected == 2
    assert Catalog(storage).rejects().num_rows == 1


def test_intake__knows_the_digest_of_what_is_too_large_to_keep(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacspark.tables.intake.STREAMED_BYTES", 1000)
    monkeypatch.setattr("pacspark.tables.intake.KEPT_REJECT_BYTES", 2000)
    data = b"no DICOM" * 1000
    (tmp_path / "huge.bin").write_bytes(data)
    assert take_in_here(storage, tmp_path / "huge.bin").rejected == 1
    (row,) = Catalog(storage).rejects().to_pylist()
    assert (row["sha256"], row["size_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert row["object_file"] is None
    assert object_files(storage) == set()


def test_intake__holds_no_more_than_its_bound_of_what_deflated_objects_open_to(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacspark.tables.intake.HELD_BYTES", 2_500_000)
    with Intake(storage, "run") as intake:
        for number in range(6):
            image = ct_image(np.zeros((4, 4), np.int16), number, (0, 0, number))
            image.SOPInstanceUID = f"1.2.{number}"
            image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            image.add_new("TextValue", "UT", "a" * 1_000_000)
            data = encoded(image)
            assert len(data) < 10_000
            intake.add(f"{number}", data)
            assert len(intake._held) <= 2
        result = intake.finish()
    assert sum(file.keys.num_rows for file in result.instances) == 6


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
