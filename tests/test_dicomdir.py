"""File-sets with a DICOMDIR: DCMTK reads them, dciodvfy passes them, ingest takes them back."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from pacspark.dicom.unchecked import unchecked
from pacspark.errors import UsageError
from pacspark.export import export
from pacspark.export.dicomdir import RECORD_COLUMNS, DirectoryBuilder
from pacspark.tables.catalog import Catalog
from pacspark.tables.sources import expand_sources, open_source
from tests.ct_objects import SERIES_UID, STUDY_UID, archive_of, ct_image, encoded, steps

Peer = Callable[[str], str]


def study(**more: Any) -> list[bytes]:
    """Two series of one study, with names that ASCII has not."""
    common: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": "Łukasz^Ünal",
        "PatientID": "P1",
        "StudyDate": "20260102",
        "StudyTime": "030405",
        "StudyID": "S7",
        "StudyDescription": "größe",
        "SeriesNumber": 4,
        **more,
    }
    series = [encoded(ct_image(steps()[z], z, (0, 0, z), **common)) for z in range(3)]
    other = ct_image(steps()[0], 9, (0, 0, 0), series_uid=f"{STUDY_UID}.2", **common)
    return [*series, encoded(other)]


def records(path: Path) -> list[tuple[str, Any, Any]]:
    directory = pydicom.dcmread(path)
    return [
        (
            record.DirectoryRecordType,
            list(record.get("ReferencedFileID", [])),
            record.get("ReferencedSOPInstanceUIDInFile", ""),
        )
        for record in directory.DirectoryRecordSequence
    ]


def run(folder: Path, *words: str | Path) -> str:
    done = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_dicomdir__brings_the_same_bytes_back(tmp_path: Path) -> None:
    objects = study()
    catalog = archive_of(tmp_path / "archive", objects)
    paths = export(catalog, tmp_path / "out", "study", STUDY_UID, dicomdir=True)
    assert paths[-1] == tmp_path / "out" / "DICOMDIR"
    sources = list(expand_sources([paths[-1]]))
    assert [Path(source.path) for source in sources] == paths[:-1]
    read = []
    for source in sources:
        with open_source(source) as stream:
            read.append(stream.read())
    assert sorted(read) == sorted(objects)


def test_dicomdir__is_what_dcmtk_makes_of_the_files(tmp_path: Path, peer: Peer) -> None:
    out = tmp_path / "out"
    export(archive_of(tmp_path / "archive", study()), out, "study", STUDY_UID, dicomdir=True)
    theirs = tmp_path / "DICOMDIR"
    run(out, peer("dcmmkdir"), "+D", theirs, "+r", "-Nxc", "DICOM")
    assert sorted(records(out / "DICOMDIR")) == sorted(records(theirs))
    dump = run(out, peer("dcmdump"), "DICOMDIR")
    assert dump.count("Directory Record") >= 4 + 4
    assert "DIRECTORY ERROR" not in dump.upper()
    # it walks the records by their offsets, and adds to them
    run(out, peer("dcmmkdir"), "+D", "DICOMDIR", "+U", "+r", "-Nxc", "DICOM")
    assert sorted(records(out / "DICOMDIR")) == sorted(records(theirs))


def test_dicomdir__passes_dciodvfy(tmp_path: Path, peer: Peer) -> None:
    catalog = archive_of(tmp_path / "archive", study())
    *_, path = export(catalog, tmp_path / "out", "study", STUDY_UID, dicomdir=True)
    done = subprocess.run(
        [peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
    )
    assert "BasicDirectory" in done.stderr
    assert "Error" not in done.stderr, done.stderr


def test_offsets__lead_through_the_tree(tmp_path: Path) -> None:
    catalog = archive_of(tmp_path / "archive", study())
    *_, path = export(catalog, tmp_path / "out", "study", STUDY_UID, dicomdir=True)
    directory = pydicom.dcmread(path)
    by_offset = {record.seq_item_tell: record for record in directory.DirectoryRecordSequence}

    def walk(offset: int) -> list[Any]:
        found = []
        while offset:
            record = by_offset[offset]
            below = walk(record.OffsetOfReferencedLowerLevelDirectoryEntity)
            found.append([record.DirectoryRecordType, *below])
            offset = record.OffsetOfTheNextDirectoryRecord
        return found

    image = ["IMAGE"]
    assert walk(directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity) == [
        ["PATIENT", ["STUDY", ["SERIES", image, image, image], ["SERIES", image]]]
    ]
    patient, study_record = list(by_offset.values())[:2]
    assert patient.PatientName == "Łukasz^Ünal"
    assert study_record.StudyDescription == "größe"


def test_what_a_directory_must_say__is_there_where_objects_lack_it(
    tmp_path: Path, peer: Peer
) -> None:
    bare = ct_image(steps()[0], 1, (0, 0, 0), InstanceNumber=None, Modality=None)
    catalog = archive_of(tmp_path / "archive", [encoded(bare)])
    *_, path = export(catalog, tmp_path / "out", "series", SERIES_UID, dicomdir=True)
    _, study_record, series, image = pydicom.dcmread(path).DirectoryRecordSequence
    assert (series.Modality, series.SeriesNumber, image.InstanceNumber) == ("OT", 1, 1)
    assert len(study_record.StudyDate) == 8
    done = subprocess.run(
        [peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
    )
    assert "Error" not in done.stderr, done.stderr


def test_values_that_no_standard_permits__are_listed_as_they_are(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {
        "PatientName": "x" * 90,
        "AccessionNumber": "9" * 40,
        "StudyDescription": "a\x1bb",
    }
    with unchecked():
        bare = encoded(ct_image(steps()[0], 1, (0, 0, 0), **wrong))
    catalog = archive_of(tmp_path / "archive", [bare])
    *_, path = export(catalog, tmp_path / "out", "series", SERIES_UID, dicomdir=True)
    with unchecked():
        patient, study_record, *_ = pydicom.dcmread(path).DirectoryRecordSequence
        assert patient.PatientName == wrong["PatientName"]
        assert study_record.AccessionNumber == wrong["AccessionNumber"]


def test_reports__are_listed_as_what_they_are(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "dicom" / "dcmqi" / "data" / "sr-example"
    for name, kind in (("sr.dcm", "SR DOCUMENT"), ("seg.dcm", "IMAGE"), ("rwvm.dcm", "VALUE MAP")):
        data = (folder / name).read_bytes()
        uid = pydicom.dcmread(folder / name, stop_before_pixels=True).SeriesInstanceUID
        catalog = archive_of(tmp_path / name / "archive", [data])
        *_, path = export(catalog, tmp_path / name / "out", "series", uid, dicomdir=True)
        assert records(path)[-1][0] == kind


def test_again__is_the_same_file_set(tmp_path: Path) -> None:
    catalog = archive_of(tmp_path / "archive", study())
    first = export(catalog, tmp_path / "out", "study", STUDY_UID, dicomdir=True)
    content = first[-1].read_bytes()
    first[-1].unlink()  # as if it had been killed before the end
    assert export(catalog, tmp_path / "out", "study", STUDY_UID, dicomdir=True) == first
    assert first[-1].read_bytes() == content
    first[-1].write_bytes(b"other")
    with pytest.raises(UsageError, match="something else"):
        export(catalog, tmp_path / "out", "study", STUDY_UID, dicomdir=True)


class DyingCatalog(Catalog):
    """Loses an object."""

    def stream_object(self, row: Any) -> Any:
        if row["sop_instance_uid"].endswith(".2"):
            message = "gone"
            raise OSError(message)
        return super().stream_object(row)


def test_a_file_set_without_all_files__has_no_dicomdir(tmp_path: Path) -> None:
    catalog = archive_of(tmp_path / "archive", study())
    with pytest.raises(OSError, match="gone"):
        export(DyingCatalog(catalog.storage), tmp_path / "out", "study", STUDY_UID, dicomdir=True)
    assert not (tmp_path / "out" / "DICOMDIR").exists()


def test_thousands_of_records__take_kilobytes_each_at_most(tmp_path: Path) -> None:
    import tracemalloc

    row = dict.fromkeys(RECORD_COLUMNS) | {
        "study_instance_uid": "1.2",
        "series_instance_uid": "1.2.3",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "study_date": "20260101",
        "frame_kind": "native",
    }
    tracemalloc.start()
    builder = DirectoryBuilder()
    for number in range(500):
        uid = f"1.2.3.{number}"
        more = {"sop_instance_uid": uid, "instance_number": number}
        builder.add(row | more, ("DICOM", "S0000001", f"I{number:07}"))
    content = builder.content()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500 * 4096
    path = tmp_path / "DICOMDIR"
    path.write_bytes(content)
    assert len(pydicom.dcmread(path).DirectoryRecordSequence) == 503
