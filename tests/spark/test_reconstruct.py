"""The Spark route gives the numbers of the local one, whatever the cuts, within its memory."""

import math
import pickle
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pacspark.archive import Archive, create_archive
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import VolumeGrid
from pacspark.dicom import scan as scans
from pacspark.dicom.encode import CTSeries, ValueMap
from pacspark.errors import GeometryError, UsageError
from pacspark.spark import blocks, partition, preparing, stages
from pacspark.spark.cluster import Cluster
from pacspark.spark.jobs import Marks, run_summed, run_tasks
from pacspark.spark.partition import plan_reconstruction
from pacspark.spark.preparing import cut_runs
from pacspark.spark.reconstruct import (
    ReconstructionRequest,
    reconstruct,
)
from pacspark.tables.projections import list_chunks
from pacspark.tables.scans import read_stored_scan
from tests.scan_files import write_phantom_scan
from tests.test_archive import GRID, stored_reconstruction

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pyspark.sql import SparkSession


@pytest.fixture
def scanned(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Archive, str]:
    """An archive whose scan has its line integrals prepared."""
    monkeypatch.setattr(partition, "MOST_DECODINGS", 0)
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    one_slice = VolumeGrid(shape=(1, 8, 8), voxel_mm=(1.0, 1.0, 1.0))
    request = ReconstructionRequest(series_uid, one_slice)
    reconstruct(spark, archive.catalog.storage, request, Cluster())
    return archive, series_uid


def slab_values(job: blocks.SlabJob, given: blocks.SlabInput) -> NDArray[np.float32]:
    """Give a slab as numbers, before it becomes DICOM."""
    return np.stack(
        [
            np.frombuffer(batch["values"][0].as_buffer(), np.float32).reshape(job.grid.shape[1:])
            for batch in blocks.partial_slab(job, *given, lambda _: None)
        ]
    )


def partial_values(job: blocks.SlabJob, given: blocks.SlabInput) -> "Iterator[pa.RecordBatch]":
    return blocks.partial_slab(job, *given, lambda _: None)


def add_up(
    job: blocks.SlabJob, slab: int, batches: "Iterator[pa.RecordBatch]"
) -> tuple[int, NDArray[np.float64]]:
    """Add partial slices as `blocks.sum_slab` does, and keep the numbers."""
    total = np.zeros(job.grid.shape)
    for batch in batches:
        for z, values in zip(batch["z"].to_pylist(), batch["values"], strict=True):
            total[z] += np.frombuffer(values.as_buffer(), np.float32).reshape(total.shape[1:])
    return slab, total


@pytest.mark.parametrize("views", ["prepared", "stored"])
@pytest.mark.parametrize(
    ("n_slabs", "angle_block", "n_angle_groups"),
    [(1, 40, 1), (3, 7, 1), (20, 16, 1), (2, 11, 3), (1, 1, 40)],
)
def test_spark__gives_the_local_volume_to_a_millionth_of_its_peak(
    spark: "SparkSession",
    scanned: tuple[Archive, str],
    n_slabs: int,
    angle_block: int,
    n_angle_groups: int,
    views: str,
) -> None:
    archive, series_uid = scanned
    expected = stored_reconstruction(archive, series_uid)
    stored = archive._scan_frames(series_uid)
    scan = stored.scan
    geometry = scan.geometry
    plan = plan_reconstruction(
        geometry,
        GRID,
        Cluster(),
        n_slabs=n_slabs,
        angle_block=angle_block,
        n_angle_groups=n_angle_groups,
    )
    source: blocks.Views = stored.located(scan.projections, 0)
    if views == "prepared":
        source = list_chunks(archive.catalog, series_uid, 0)
    inputs = blocks.slab_inputs(plan.tasks, source)
    job = blocks.SlabJob(
        storage=archive.catalog.storage,
        geometry=geometry,
        grid=GRID,
        options=FDKOptions(),
        angle_block=angle_block,
        series=CTSeries.of_scan(scan, "test", GRID, ValueMap.hounsfield(0.02), 0, "ram-lak"),
        run_id="test",
        stored_kind=scan.kind if views == "stored" else None,
    )
    if n_angle_groups == 1:
        found = np.concatenate(run_tasks(spark, inputs, partial(slab_values, job)))
        # slabs are bit for bit what the volume is
        blocks_alike = angle_block >= geometry.n_angles
        assert not blocks_alike or np.array_equal(found, expected)
    else:
        sums = run_summed(spark, inputs, partial(partial_values, job), partial(add_up, job))
        found = np.sum([total for _, total in sums], axis=0)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("water", ["water_mu_per_mm = 0.02", ""])
def test_tiles__give_the_pixels_of_whole_slabs_bit_for_bit(
    spark: "SparkSession", tmp_path: Path, water: str
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    path.write_text(path.read_text().replace("water_mu_per_mm = 0.02", water))
    digests, volumes, clamped = [], [], []
    whole: dict[str, Any] = {"n_slabs": 1}
    in_tiles: dict[str, Any] = {"tile_cuts": 3, "n_slabs": 2, "angle_block": 7}
    for name, cuts in (("whole", whole), ("tiles", in_tiles)):
        archive = create_archive(tmp_path / name, spark)
        series_uid = archive.import_scan(path).series_instance_uid
        request = ReconstructionRequest(series_uid, GRID)
        report = reconstruct(spark, archive.catalog.storage, request, Cluster(), **cuts)
        assert report.peak_task_bytes <= report.predicted_task_bytes
        assert not (tmp_path / name / "_scratch" / report.run_id).exists()
        rows = archive.catalog.instances_of(report.series_instance_uid).to_pylist()
        digests.append({row["sop_instance_uid"]: row["sha256"] for row in rows})
        volumes.append(archive.volume(report.series_instance_uid).to_numpy())
        clamped.append(report.clamped_voxels)
    assert len(digests[0]) == 20
    if water:
        assert digests[0] == digests[1]
        assert clamped[0] == clamped[1]
    else:  # other samples tell the range of values, so the steps of the map differ
        np.testing.assert_allclose(volumes[1], volumes[0], atol=1e-5)


def test_prepare__of_frames_in_bands_of_rows_is_that_of_whole_frames(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    stored = read_stored_scan(archive.catalog, series_uid)
    detector = stored.scan.geometry.detector
    prepared = []
    for largest_frame in (preparing.LARGEST_FRAME_BYTES, 0):
        monkeypatch.setattr(preparing, "LARGEST_FRAME_BYTES", largest_frame)
        monkeypatch.setattr(preparing, "FRAMES_AT_ONCE_BYTES", 4 * 5 * detector.n_columns)
        storage = archive.catalog.storage
        job = blocks.PrepareJob(
            storage, series_uid, stored.scan.kind, None, (), (), 0,
            stored.scan.geometry, None, "test", "",
        )  # fmt: skip
        frames = stored.located(stored.scan.projections, 0)
        file = blocks.prepare_frames(job, frames, lambda _: None).file
        table = pq.read_table(storage.path("projections", file.path))
        rows = table.to_pylist()
        values = np.full((40, detector.n_rows, detector.n_columns), np.nan, np.float32)
        for row in rows:
            count, n_rows = row["angle_count"], row["row_count"]
            chunk = np.frombuffer(row["line_integrals"], "<f4").reshape(count, n_rows, -1)
            first = row["angle_start"]
            values[first : first + count, row["row_start"] : row["row_start"] + n_rows] = chunk
        prepared.append((len(rows), values))
    assert prepared[1][0] > prepared[0][0]
    assert np.array_equal(prepared[0][1], prepared[1][1])


def test_cut_runs__covers_every_frame_once(scanned: tuple[Archive, str]) -> None:
    archive, series_uid = scanned
    runs = archive._scan(series_uid).projections
    for cores in (1, 2, 3, 7, 50):
        tasks = cut_runs(runs, 4 * 24 * 36, cores)
        frames = [
            run.frame_start + offset
            for task in tasks
            for run in task
            for offset in range(run.count)
        ]
        assert sorted(frames) == list(range(40))
        assert len(tasks) <= max(cores, 1) + 1


def task_bytes(
    spark: "SparkSession", folder: Path, frames_per_instance: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[int]]:
    """Reconstruct a scan; give its instances, and the largest task of each stage, pickled."""
    largest: list[int] = []

    def listened(session: "SparkSession", tasks: list[Any], work: Any) -> list[Any]:
        largest.append(max(len(pickle.dumps((work, task))) for task in tasks))
        return run_tasks(session, tasks, work)

    path, _ = write_phantom_scan(folder / "scan")
    path.write_text(path.read_text().replace("water_mu_per_mm = 0.02", ""))
    archive = create_archive(folder / "archive", spark)
    with monkeypatch.context() as patch:
        patch.setattr(scans, "INSTANCE_FRAMES", frames_per_instance)
        patch.setattr(stages, "run_tasks", listened)
        imported = archive.import_scan(path)
        request = ReconstructionRequest(imported.series_instance_uid, GRID)
        reconstruct(spark, archive.catalog.storage, request, Cluster(cores_per_executor=2))
    return imported.stored, largest


def test_tasks__do_not_grow_with_the_number_of_instances(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "MOST_DECODINGS", 0)
    few, (prepare, values, slab) = task_bytes(spark, tmp_path / "few", 10, monkeypatch)
    many, found = task_bytes(spark, tmp_path / "many", 5, monkeypatch)
    assert (few, many) == (4, 8)
    # a run of frames more in the task of the same ten frames, a chunk more in the same slab
    assert found[0] <= prepare + 1200
    assert found[1:] == pytest.approx([values, slab], abs=200)
    assert max(found) < 8000


def test_tasks__that_read_stored_frames_name_each_instance_once(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, (values, slab) = task_bytes(spark, tmp_path / "few", 10, monkeypatch)
    many, found = task_bytes(spark, tmp_path / "many", 5, monkeypatch)
    assert found == pytest.approx([values, slab], abs=500 * (many - few))


@pytest.mark.parametrize(
    ("step_deg", "water", "says"),
    [
        (4.0, 0.02, "found views over 156.0 degrees"),
        (9.0, 0.0, "water_mu_per_mm: expected a number > 0"),
        (9.0, -0.02, "water_mu_per_mm: expected a number > 0"),
        (9.0, math.nan, "water_mu_per_mm: expected a number > 0"),
        (9.0, 1e300, "water_mu_per_mm: expected a number > 0, at most 500, found 1e.300"),
    ],
)
def test_reconstruct__refuses_what_cannot_be_before_it_writes(
    spark: "SparkSession", tmp_path: Path, step_deg: float, water: float, says: str
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    path.write_text(path.read_text().replace("step_deg = 9.0", f"step_deg = {step_deg}"))
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    with pytest.raises(GeometryError, match=says):
        archive.reconstruct(series_uid, GRID, water_mu_per_mm=water)
    assert list((tmp_path / "archive" / "projections").glob("*.parquet")) == []
    assert not (tmp_path / "archive" / "_progress").exists()


def test_reconstruct__refuses_a_kernel_that_is_none_before_any_task(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    monkeypatch.setenv("PACSPARK_KERNEL", "junk")
    with pytest.raises(UsageError, match=r"PACSPARK_KERNEL: expected one of .*, found 'junk'"):
        reconstruct(
            spark, archive.catalog.storage, ReconstructionRequest(series_uid, GRID), Cluster()
        )
    assert not (tmp_path / "archive" / "_progress").exists()


def test_reconstruct__that_is_found_clears_the_marks_of_a_killed_one(
    spark: "SparkSession", scanned: tuple[Archive, str]
) -> None:
    archive, series_uid = scanned
    storage = archive.catalog.storage
    one_slice = VolumeGrid(shape=(1, 8, 8), voxel_mm=(1.0, 1.0, 1.0))
    (made,) = archive.reconstruct_series(series_uid, one_slice)
    marks = Marks(storage, made.run_id)
    marks.begin()
    marks.set("slab-0")
    assert marks.count() == 1
    (found,) = archive.reconstruct_series(series_uid, one_slice)
    assert (found.found, found.run_id) == (True, made.run_id)
    assert list(Path(storage.path("_progress")).iterdir()) == []


def test_reconstruct__makes_a_result_of_which_only_some_slices_are_there(
    spark: "SparkSession", tmp_path: Path
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    grid = VolumeGrid(shape=(3, 12, 12), voxel_mm=(2.0, 2.0, 2.0))
    whole, some = (create_archive(tmp_path / name, spark) for name in ("whole", "some"))
    series_uid = whole.import_scan(path).series_instance_uid
    volume = whole.reconstruct(series_uid, grid)
    slices = whole.export(tmp_path / "slices", series=volume.series_uid)
    some.import_scan(path)
    some.ingest(slices[:2])
    assert some.catalog.count_of(volume.series_uid) == 2
    found = [some.reconstruct_series(series_uid, grid)[0] for _ in range(2)]
    assert [report.found for report in found] == [False, True]
    assert [report.series_instance_uid for report in found] == [volume.series_uid] * 2
    np.testing.assert_array_equal(some.volume(volume.series_uid).to_numpy(), volume.to_numpy())
