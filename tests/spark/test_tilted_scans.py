"""Scans whose panel did not stand upright, from SCAN.toml through Spark to a volume."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.archive import Archive, create_archive
from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel
from pacspark.ct.phantom import Ellipsoid, project, voxelize
from pacspark.ct.preprocess import line_integrals
from pacspark.ct.views import ConeBeamViews
from pacspark.dicom.encode import CTSeries, ValueMap
from pacspark.scans.description import read_scan_description
from pacspark.spark import blocks
from pacspark.spark.cluster import Cluster
from pacspark.spark.jobs import run_tasks
from pacspark.spark.partition import plan_reconstruction
from pacspark.spark.reconstruct import ReconstructionRequest, reconstruct
from pacspark.tables.projections import list_chunks
from pacspark.tables.scans import read_all
from tests.scans.scan_folder import write_toml
from tests.spark.test_reconstruct import slab_values
from tests.test_archive import GRID

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

N_ANGLES, N_ROWS, N_COLUMNS = 60, 28, 40
PANEL = FlatPanel(N_ROWS, N_COLUMNS, 1.5, 1.5, offset_u_mm=0.4, offset_v_mm=-0.7)
SCAN = ConeBeamGeometry(200.0, 300.0, np.radians(np.arange(N_ANGLES) * 6.0), PANEL)
# soft balls off the axis: sharp edges would show the sampling, not the geometry
BODY = tuple(
    Ellipsoid(0.002, (radius, radius, radius), center)
    for center in ((7.0, 2.0, 5.0), (-4.0, -6.0, -5.0))
    for radius in np.linspace(1.0, 5.0, 11)
)
rng = np.random.default_rng(0)
SHIFTS, WOBBLE = rng.uniform(-1.5, 1.5, (N_ANGLES, 2)), rng.uniform(-2, 2, (N_ANGLES, 2))
GAIN = rng.uniform(0.5, 1.0, (N_ROWS, N_COLUMNS))
UPRIGHT: dict[str, Any] = {
    "beam": "cone",
    "source_to_isocenter_mm": 200.0,
    "source_to_detector_mm": 300.0,
    "column_spacing_mm": 1.5,
    "detector_offset_u_mm": 0.4,
    "detector_offset_v_mm": -0.7,
}
TILTED = UPRIGHT | {
    "detector_in_plane_deg": 3.0,
    "detector_about_u_deg": -5.0,
    "detector_about_v_deg": 6.0,
    "detector_shifts_file": "shifts.txt",
    "source_shifts_file": "source.txt",
}
MATRICES = {
    "beam": "cone",
    "column_spacing_mm": 1.5,
    "projection_matrices": "matrices.npy",
}


def views(wobble: NDArray[np.float64] | None = WOBBLE) -> ConeBeamViews:
    """Give what `TILTED` describes, from the same numbers."""
    return ConeBeamViews.of_circle(
        ConeBeamGeometry(200.0, 300.0, SCAN.gantry_angles_rad, PANEL, wobble),
        in_plane_rad=np.radians(3.0),
        about_u_rad=np.radians(-5.0),
        about_v_rad=np.radians(6.0),
        shifts_mm=SHIFTS,
    )


def write(folder: Path, described: dict[str, Any], geometry: Any) -> Path:
    """Write counts of the phantom, on a detector of uneven gain, and how they were made."""
    folder.mkdir()
    beam = 60_000 * GAIN
    counts = np.rint(beam * np.exp(-project(BODY, geometry)))
    np.save(folder / "stack.npy", counts.astype(np.uint16))
    np.save(folder / "flat.npy", np.rint(beam)[None].astype(np.uint16))
    np.savetxt(folder / "shifts.txt", SHIFTS, fmt="%.17g")
    np.savetxt(folder / "source.txt", WOBBLE, fmt="%.17g")
    np.save(folder / "matrices.npy", views().matrices())
    tables: dict[str, Any] = {
        "projections": {"files": "stack.npy", "kind": "counts", "flat": "flat.npy"},
        "geometry": described,
    }
    if "projection_matrices" not in described:
        tables["angles"] = {"step_deg": 6.0}
    return write_toml(folder, tables)


def local(path: Path) -> NDArray[np.float32]:
    """Reconstruct the files of a scan without an archive."""
    description = read_scan_description(path)
    folder = path.parent
    integrals = line_integrals(
        np.load(folder / "stack.npy"), "counts", flats=np.load(folder / "flat.npy")
    )
    return reconstruct_fdk(integrals, description.views or description.geometry, GRID)


def through_spark(spark: "SparkSession", archive: Archive, path: Path) -> NDArray[np.float32]:
    """Reconstruct a scan through the archive; the numbers before they become DICOM."""
    series_uid = archive.import_scan(path).series_instance_uid
    storage = archive.catalog.storage
    report = reconstruct(spark, storage, ReconstructionRequest(series_uid, GRID), Cluster())
    assert report.peak_task_bytes <= report.predicted_task_bytes
    scan = archive._scan(series_uid)
    plan = plan_reconstruction(scan.geometry, GRID, Cluster(), views=scan.views, n_slabs=3)
    job = blocks.SlabJob(
        storage=storage,
        geometry=scan.geometry,
        grid=GRID,
        options=FDKOptions(),
        angle_block=7,
        series=CTSeries.of_scan(scan, "test", GRID, ValueMap.hounsfield(0.02), 0, "ram-lak"),
        run_id="test",
    )
    inputs = blocks.slab_inputs(plan.tasks, list_chunks(archive.catalog, series_uid, 0))
    return np.concatenate(run_tasks(spark, inputs, partial(slab_values, job)))


@pytest.mark.parametrize("described", [TILTED, MATRICES], ids=["tilts", "matrices"])
def test_spark__gives_the_local_volume_of_a_tilted_scan_which_is_that_of_an_upright_one(
    spark: "SparkSession", tmp_path: Path, described: dict[str, Any]
) -> None:
    path = write(tmp_path / "tilted", described, views())
    archive = create_archive(tmp_path / "archive", spark)
    found = through_spark(spark, archive, path)
    expected = local(path)
    peak = float(expected.max())
    assert np.abs(found - expected).max() <= 1e-6 * peak

    upright = local(write(tmp_path / "upright", UPRIGHT, SCAN))
    ignored = local(write(tmp_path / "ignored", UPRIGHT, views()))
    truth = voxelize(BODY, GRID)
    error, without = (np.sqrt(((one - upright) ** 2).mean()) for one in (found, ignored))
    assert error < 0.003 * peak
    assert without > 5 * error
    errors = [np.sqrt(((one - truth) ** 2).mean()) for one in (found, upright)]
    assert errors[0] < 1.1 * errors[1]


def test_archive__keeps_the_raw_frames_of_a_tilted_scan(
    spark: "SparkSession", tmp_path: Path
) -> None:
    path = write(tmp_path / "tilted", TILTED, views())
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    assert archive.import_scan(path).duplicate > 0
    stored = archive._scan_frames(series_uid)
    assert stored.scan.views == views() == read_scan_description(path).views
    raw = read_all(archive.catalog, stored.located(stored.scan.projections, 0))
    np.testing.assert_array_equal(raw, np.load(tmp_path / "tilted" / "stack.npy"))


def test_sinogram__of_a_tilted_scan_is_that_of_the_upright_row(
    spark: "SparkSession", tmp_path: Path
) -> None:
    path = write(tmp_path / "tilted", TILTED, views())
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    geometry = archive._scan(series_uid).geometry
    sinogram = archive.sinogram(series_uid)
    row = int(np.argmin(np.abs(geometry.detector.v_mm)))
    seen = project(BODY, geometry)[:, row]
    assert sinogram.title == f"upright row {row}"
    assert sinogram.values.shape == (N_ANGLES, geometry.detector.n_columns)
    assert float(np.sqrt(((sinogram.values - seen) ** 2).mean())) < 0.01 * seen.max()


def test_plan__of_a_tilted_scan_is_that_of_its_upright_panel(
    spark: "SparkSession", tmp_path: Path
) -> None:
    path = write(tmp_path / "tilted", TILTED, views())
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    panel = archive._scan(series_uid).geometry.detector
    assert archive.grid(series_uid).shape[0] == panel.n_rows > N_ROWS
    plan = archive.plan(series_uid, cluster=Cluster())
    assert plan.projection_bytes == 4 * N_ANGLES * panel.n_rows * panel.n_columns


@pytest.mark.parametrize("beside_mm", [0.0, 3.0])
def test_check__of_a_tilted_scan_tells_how_far_its_panels_are_off(
    spark: "SparkSession", tmp_path: Path, beside_mm: float
) -> None:
    described = TILTED | {"detector_offset_u_mm": 0.4 - beside_mm}
    del described["source_shifts_file"]
    archive = create_archive(tmp_path / "archive", spark)
    path = write(tmp_path / "tilted", described, views(wobble=None))
    check = archive.check(archive.import_scan(path).series_instance_uid)
    assert check.ok == (beside_mm == 0.0)
    assert check.best_offset_u_mm == pytest.approx(beside_mm, abs=0.2)
    assert (check.stated_offset_u_mm, check.best_rotation_axis_column) == (0.0, None)
    assert check.summary()["trials"][2]["offset_u_mm"] == check.best_offset_u_mm
    if beside_mm:
        told = f"panels {check.best_offset_u_mm:+.2f} mm further along u fits better"
        assert told in check.message
    else:
        assert check.message.startswith("where panels stand along u looks right: no other")
