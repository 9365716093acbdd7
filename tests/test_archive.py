"""The whole way, from a scan's files to a CT series and out again, on every storage."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

import pacspark
from pacspark.archive import Archive, create_archive
from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import VolumeGrid
from pacspark.dicom.scan import decode_frames, scan_from_headers
from pacspark.errors import ArchiveNotFoundError, GeometryError, MemoryBudgetError, UsageError
from pacspark.middle_row import middle_row_sinogram
from pacspark.pictures import draw_panels
from pacspark.progress import SILENT
from pacspark.spark.cluster import Cluster
from pacspark.spark.reconstruct import ReconstructionRequest, reconstruct
from tests.scan_files import phantom_geometry, write_phantom_scan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

GRID = VolumeGrid(shape=(20, 24, 24), voxel_mm=(1.0, 1.0, 1.0))
ONE_SLICE = VolumeGrid(shape=(1, 8, 8), voxel_mm=(1.0, 1.0, 1.0))


def test_archive__reconstructs_on_every_storage_what_arrays_give(
    spark: "SparkSession", archive_root: str, tmp_path: Path
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(archive_root, spark)
    imported = archive.import_scan(path)
    assert imported.stored == 1
    assert archive.import_scan(path).duplicate == 1

    volume = archive.reconstruct(imported.series_instance_uid, GRID)

    expected = 1000 * (stored_reconstruction(archive, imported.series_instance_uid) / 0.02 - 1)
    assert volume.unit == "HU"
    np.testing.assert_allclose(volume.to_numpy(), expected, atol=0.51)  # whole HU are stored
    found = archive.find(level="series", Modality="CT")
    assert found["SeriesInstanceUID"].tolist() == [volume.series_uid]
    assert found["NumberOfSeriesRelatedInstances"].tolist() == [20]
    rows = archive.sql(
        "SELECT Modality, count(*) AS n, max(DistanceSourceToDetector), max(KVP), "
        "max(ReconstructionDiameter) FROM instances GROUP BY Modality ORDER BY Modality"
    ).collect()
    assert [(row["Modality"], row["n"]) for row in rows] == [("CT", 20), ("XA", 1)]
    assert archive.instances.count() == 21
    again = archive.reconstruct(imported.series_instance_uid, GRID)
    assert again.series_uid == volume.series_uid
    assert pacspark.open(archive_root, spark).instances.count() == 21
    runs = [
        (run["operation"], run["series_instance_uid"]) for run in archive.catalog.runs().to_pylist()
    ]
    made = imported.series_instance_uid
    assert runs == [("import-scan", made)] * 2 + [("reconstruct", volume.series_uid)]


def test_sql__sees_every_table_as_it_was(spark: "SparkSession", tmp_path: Path) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    root = tmp_path / "archive"
    archive = create_archive(root, spark)
    archive.import_scan(path)
    time.sleep(0.05)  # commits are told apart by the millisecond
    moment = datetime.now(UTC)
    time.sleep(0.05)
    archive.reconstruct(archive.find(level="series")["SeriesInstanceUID"][0], ONE_SLICE)
    counts = "SELECT (SELECT count(*) FROM instances), (SELECT count(*) FROM runs)"
    assert [tuple(row) for row in archive.sql(counts).collect()] == [(2, 2)]
    for as_of in (1, moment, moment.replace(tzinfo=None)):
        then = pacspark.open(root, spark, as_of=as_of)
        assert [tuple(row) for row in then.sql(counts).collect()] == [(1, 1)]
        assert then.instances.count() == then.catalog.runs().num_rows == 1


def stored_reconstruction(archive: Archive, series_uid: str) -> NDArray[np.float32]:
    """Reconstruct, without Spark, what the archive stores of a scan."""
    rows = archive.catalog.instances_of(series_uid).to_pylist()
    scan = scan_from_headers(rows)
    by_uid = {row["sop_instance_uid"]: row for row in rows}
    frames = [
        decode_frames(
            archive.catalog.read_range(
                by_uid[run.sop_instance_uid],
                by_uid[run.sop_instance_uid]["pixel_data_offset"],
                by_uid[run.sop_instance_uid]["pixel_data_length"],
            ),
            run,
        )
        for run in scan.projections
    ]
    return reconstruct_fdk(np.concatenate(frames), scan.views or scan.geometry, GRID)


@pytest.mark.parametrize(
    ("n_slabs", "angle_block", "n_angle_groups"), [(1, 40, 1), (3, 7, 1), (1, 11, 3), (4, 40, 2)]
)
def test_reconstruct__gives_the_same_slices_however_it_is_cut(
    spark: "SparkSession",
    tmp_path: Path,
    n_slabs: int,
    angle_block: int,
    n_angle_groups: int,
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    report = reconstruct(
        spark,
        archive.catalog.storage,
        ReconstructionRequest(series_uid, GRID),
        Cluster(1, 2, 4 << 30),
        n_slabs=n_slabs,
        angle_block=angle_block,
        n_angle_groups=n_angle_groups,
    )
    expected = 1000 * (stored_reconstruction(archive, series_uid) / 0.02 - 1)
    found = archive.volume(report.series_instance_uid).to_numpy()
    assert np.abs(found - np.rint(expected)).max() <= 1
    assert np.mean(found != np.rint(expected)) < 1e-3
    assert report.peak_task_bytes <= report.predicted_task_bytes


def test_export__gives_files_that_peers_accept(
    spark: "SparkSession", tmp_path: Path, peer: Callable[[str], str]
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", spark)
    projections_uid = archive.import_scan(path).series_instance_uid
    volume = archive.reconstruct(projections_uid, VolumeGrid((3, 24, 24), (1.0, 1.0, 1.0)))
    files = archive.export(tmp_path / "ct", series=volume.series_uid)
    files += archive.export(tmp_path / "xa", series=projections_uid)
    assert len(files) == 4
    for file in files:
        checked = subprocess.run(
            [peer("dciodvfy"), str(file)], capture_output=True, text=True, check=False
        )
        assert "Error" not in checked.stderr + checked.stdout, checked.stderr
        subprocess.run([peer("dcmdump"), str(file)], capture_output=True, check=True)
        assert pydicom.dcmread(file).pixel_array.size
        opened = highdicom.imread(file)
        assert opened.get_frames(apply_modality_transform=False).size
    entities = subprocess.run(
        [peer("dcentvfy"), *map(str, files[:3])], capture_output=True, text=True, check=False
    )
    assert "Error" not in entities.stdout + entities.stderr


def test_plan__predicts_what_a_stored_scan_costs(tmp_path: Path) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive")
    series_uid = archive.import_scan(path).series_instance_uid
    plan = archive.plan(series_uid, GRID, Cluster(1, 2, 4 << 30))
    assert plan.voxel_updates == 20 * 24 * 24 * 40
    assert plan.projection_bytes == 4 * 40 * 24 * 36
    assert archive.grid(series_uid, size=(10, 12, 8)).shape == (8, 12, 10)
    assert archive.grid(series_uid).shape[0] == phantom_geometry().detector.n_rows


@pytest.mark.parametrize("uid", [["1.2"], None, "", "*", "1.2.*", "1.2,1.3", "1.2\\1.3", "../1"])
def test_a_uid__is_one_and_no_query(tmp_path: Path, uid: Any) -> None:
    archive = create_archive(tmp_path / "archive")
    asks: list[Callable[[Any], object]] = [archive.reconstruct, archive.volume, archive.check]
    for ask in [*asks, archive.plan, archive.grid, archive.sinogram]:
        with pytest.raises(UsageError, match="series: expected a UID"):
            ask(uid)


@pytest.mark.parametrize("as_of", ["x", "1", 1.5, True, b"1"])
def test_open__takes_versions_and_times_alone(tmp_path: Path, as_of: Any) -> None:
    create_archive(tmp_path)
    with pytest.raises(UsageError, match="as_of: expected a version, a whole number, or a date"):
        pacspark.open(tmp_path, as_of=as_of)


def test_open__of_no_archive_is_one_error_without_its_causes(tmp_path: Path) -> None:
    with pytest.raises(ArchiveNotFoundError, match="pacspark init") as error:
        pacspark.open(tmp_path)
    assert error.value.__suppress_context__


def no_spark(archive: Archive) -> "SparkSession":
    pytest.fail(f"{archive}: Spark was asked for")


def test_what_cannot_be__is_refused_before_spark_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Archive, "spark", property(no_spark))
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive")
    series_uid = archive.import_scan(path).series_instance_uid
    with pytest.raises(MemoryBudgetError, match="expected at least"):
        archive.reconstruct(series_uid, GRID, cluster=Cluster(1, 1, 1 << 20))
    with pytest.raises(GeometryError, match="within the field of view"):
        archive.reconstruct(series_uid, replace(GRID, center_mm=(0.0, 0.0, 500.0)))
    with pytest.raises(UsageError, match="water_mu_per_mm: expected"):
        archive.reconstruct(series_uid, GRID, water_mu_per_mm=1e-9)
    with pytest.raises(UsageError, match="found nothing there"):
        archive.ingest(tmp_path / "missing")


def test_progress__is_shown_unless_it_is_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    pacspark.create(tmp_path / "archive", progress=SILENT).import_scan(path)
    assert capsys.readouterr() == ("", "")
    pacspark.open(tmp_path / "archive").import_scan(path)
    assert capsys.readouterr().err.startswith("import: 1 object, ")


def test_find__shows_first_what_its_level_is_about(tmp_path: Path) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive")
    archive.import_scan(path)
    series = archive.find(level="series", PatientComments="")
    names = series.columns.to_list()
    assert names[:3] == ["PatientID", "StudyDate", "Modality"]
    assert names.index("SeriesInstanceUID") == names.index("PatientComments") + 1
    assert names.index("SeriesInstanceUID") < names.index("Manufacturer")
    assert "BodyPartExamined" not in names  # no series has one
    assert "PatientComments" in names  # asked for
    nothing = archive.find(level="series", PatientID="NOBODY")
    assert set(nothing.columns) == set(archive.find_table("series", {}).column_names)


PARALLEL_TOML = """format_version = 1
[projections]
files = "stack.npy"
kind = "line_integrals"
[geometry]
beam = "parallel"
{spacing}
[angles]
step_deg = 4.5
[subject]
PatientID = "PARALLEL"
"""


@pytest.mark.parametrize(
    ("spacing", "length", "value"),
    [("", "pixels", "1/pixel"), ("column_spacing_mm = 0.5", "mm", "1/mm")],
)
def test_lengths__are_pixels_where_a_scan_says_no_pixel_size(
    spark: "SparkSession", tmp_path: Path, spacing: str, length: str, value: str
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    path.write_text(PARALLEL_TOML.format(spacing=spacing))
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    volume = archive.reconstruct(series_uid, archive.grid(series_uid, size=(8, 8, 1)))
    assert (volume.length_unit, volume.unit) == (length, value)
    assert f"{length}, unit '{value}'" in repr(volume)
    plane = volume.slice(0)
    assert plane.title.endswith(f" {length})")
    sinogram = middle_row_sinogram(archive.catalog, series_uid)
    check = archive.check(series_uid)
    assert f" {length}" in check.message
    shown = check.shown[0][0].plane
    assert (shown.unit, shown.length_unit) == (value, length)
    drawn = draw_panels([[plane, sinogram]]).figure
    words = {text.get_text() for axes in drawn.get_axes() for text in axes.texts}
    assert [word for word in words if word.endswith(f" {length}")]
    labels = {axes.get_xlabel() for axes in drawn.get_axes()}
    assert f"u on the detector, {length}" in labels
