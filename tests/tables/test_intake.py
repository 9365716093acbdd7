"""Intake in this process: whole or not at all, and what is refused once."""

import errno
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pacspark.archive import create_archive
from pacspark.errors import StorageError
from pacspark.spark.verify import VerifyRequest, verify
from pacspark.tables import datafile
from pacspark.tables.catalog import Catalog
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.reports import IngestReport, Refused
from pacspark.tables.sources import expand_sources
from pacspark.tables.storage import Storage, open_storage
from tests.ct_objects import ct_image, encoded
from tests.taking_in import ct_slice, object_files, take_in_here


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
    report = take_in_here(storage, tmp_path / "a.dcm", tmp_path / "b.dcm")
    assert (report.stored, report.rejected) == (1, 1)
    assert report.refused[0].source == str(tmp_path / "a.dcm")
    assert report.refused[0].message == "expected a readable file, found Input/output error"
    assert_whole(storage, 1)


def _here(tasks: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
    return [work(task) for task in tasks]


def assert_whole(storage: Storage, stored: int) -> None:
    """No file and no byte more than what rows refer to, and each object as its digest says."""
    report = verify(_here, storage, VerifyRequest())
    assert (report.findings, report.objects) == ((), stored)


@pytest.mark.parametrize("change", ["grows", "shrinks", "is other"])
@pytest.mark.parametrize("moment", ["listed", "half stored"])
@pytest.mark.parametrize("streamed_bytes", [0, 16 << 20])
def test_intake__refuses_a_file_that_changes_meanwhile_and_takes_the_others(
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    moment: str,
    streamed_bytes: int,
) -> None:
    monkeypatch.setattr("pacspark.tables.intake.STREAMED_BYTES", streamed_bytes)
    monkeypatch.setattr("pacspark.tables.datafile.PIECE_BYTES", 10_000)
    files = [tmp_path / f"{number}.dcm" for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(ct_slice(f"1.2.{number}", number, size=128))
    changing, data = files[2], files[2].read_bytes()
    others = {"grows": data + b"more", "shrinks": data[:-400], "is other": data[:-1] + b"?"}
    sources = list(expand_sources(files))
    pieces = datafile._read_fully

    def read_and_change(stream: BinaryIO) -> bytes:
        piece = pieces(stream)
        if piece == data[:10_000]:
            changing.write_bytes(others[change])
        return piece

    if moment == "listed":
        changing.write_bytes(others[change])
    else:
        monkeypatch.setattr("pacspark.tables.datafile._read_fully", read_and_change)
    with Intake(storage, "run") as intake:
        for source in sources:
            intake.add_source(source)
        report = commit_intake(storage, [intake.finish()], "run")
    unseen = change == "is other" if moment == "listed" else streamed_bytes > 0
    if unseen:
        assert report.stored == 5  # it did not change while it was read
    else:
        assert (report.stored, report.rejected) == (4, 1)
        (refused,) = report.refused
        assert refused.source == str(changing)
        found = str(len(others[change])) if moment == "listed" else "other ones"
        assert refused.message == (
            f"expected {len(data)} bytes as listed, found {found}: it changed while it was read; "
            "ingest it again"
        )
    assert_whole(storage, report.stored)
    assert take_in_here(storage, *files).duplicate == report.stored


def test_intake__reads_no_further_than_a_file_that_only_grows(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Growing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size >= 0
            self.seek(self.tell() + size)
            return bytes(size)

    (tmp_path / "log").write_bytes(bytes(1000))
    (source,) = expand_sources([tmp_path / "log"])
    monkeypatch.setattr("pacspark.tables.sources._open", lambda _: Growing(bytes(1000)))
    for streamed_bytes in (0, 16 << 20):
        monkeypatch.setattr("pacspark.tables.intake.STREAMED_BYTES", streamed_bytes)
        with Intake(storage, "run") as intake:
            intake.add_source(source)
            report = commit_intake(storage, [intake.finish()], "run")
        assert report.rejected == 1
        assert "expected 1000 bytes as listed, found" in report.refused[0].message


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


def test_report__names_conflicts_first_and_what_is_no_dicom_once(
    storage: Storage, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(30):
        (folder / f"README.{number:02d}").write_text("no DICOM")
    whole = ct_slice("1.2.1", 1)
    for number in range(12):
        (folder / f"cut{number:02d}.dcm").write_bytes(whole[: -1 - number])
    (folder / "first.dcm").write_bytes(whole)
    (folder / "second.dcm").write_bytes(ct_slice("1.2.1", 2))
    for _ in range(2):  # what was refused before is named again
        told = take_in_here(storage, folder).told
        assert [line.partition(":")[0] for line in told] == (
            ["conflict"] + ["DicomDecodeError"] * 10 + ["... and 2 more like these"]
            + ["NotDicomError"]
        )  # fmt: skip
        assert told[-1].startswith(
            f"NotDicomError: 30 times, as {folder}/README.00: expected DICOM"
        )
    joined = IngestReport("run", rejected=2, not_dicom=1, refused=(
        Refused("a", "NotDicomError", "m"), Refused("b", "DicomDecodeError", "m"),
    )) + IngestReport("run", conflict=1, refused=(Refused("c", "conflict", "m"),))  # fmt: skip
    assert joined.told == ["conflict: c: m", "DicomDecodeError: b: m", "NotDicomError: a: m"]


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
