"""The Spark route gives the numbers of the local one, whatever the cuts, within its memory."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.archive import Archive, create_archive
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import VolumeGrid
from pacspark.spark import blocks
from pacspark.spark.jobs import run_summed, run_tasks
from pacspark.spark.partition import Cluster, SlabTask, plan_reconstruction
from pacspark.spark.reconstruct import ReconstructionRequest, cut_runs, reconstruct
from pacspark.tables.projections import list_chunks
from tests.scan_files import write_phantom_scan
from tests.test_archive import GRID, stored_reconstruction

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pyspark.sql import SparkSession


@pytest.fixture
def scanned(spark: "SparkSession", tmp_path: Path) -> tuple[Archive, str]:
    """An archive whose scan has its line integrals prepared."""
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    one_slice = VolumeGrid(shape=(1, 8, 8), voxel_mm=(1.0, 1.0, 1.0))
    request = ReconstructionRequest(series_uid, one_slice)
    reconstruct(spark, archive.catalog.storage, request, Cluster())
    return archive, series_uid


def slab_values(job: blocks.SlabJob, task: SlabTask) -> NDArray[np.float32]:
    """Give a slab as numbers, before it becomes DICOM."""
    return np.stack(
        [
            np.frombuffer(batch["values"][0].as_buffer(), np.float32).reshape(job.grid.shape[1:])
            for batch in blocks.partial_slab(job, task, lambda _: None)
        ]
    )


def add_up(
    job: blocks.SlabJob, slab: int, batches: "Iterator[pa.RecordBatch]"
) -> tuple[int, NDArray[np.float64]]:
    """Add partial slices as `blocks.sum_slab` does, and keep the numbers."""
    total = np.zeros(job.grid.shape)
    for batch in batches:
        for z, values in zip(batch["z"].to_pylist(), batch["values"], strict=True):
            total[z] += np.frombuffer(values.as_buffer(), np.float32).reshape(total.shape[1:])
    return slab, total


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
) -> None:
    archive, series_uid = scanned
    expected = stored_reconstruction(archive, series_uid)
    geometry = archive._scan(series_uid).geometry
    plan = plan_reconstruction(
        geometry,
        GRID,
        Cluster(),
        n_slabs=n_slabs,
        angle_block=angle_block,
        n_angle_groups=n_angle_groups,
    )
    chunks = tuple(list_chunks(archive.catalog, series_uid, 0))
    job = blocks.SlabJob(
        storage=archive.catalog.storage,
        geometry=geometry,
        grid=GRID,
        options=FDKOptions(),
        angle_block=angle_block,
        chunks=chunks,
        series=None,
        run_id="test",
    )
    if n_angle_groups == 1:
        found = np.concatenate(run_tasks(spark, plan.tasks, partial(slab_values, job)))
        # slabs are bit for bit what the volume is
        blocks_alike = angle_block >= geometry.n_angles
        assert not blocks_alike or np.array_equal(found, expected)
    else:
        make = partial(blocks.partial_slab, job, mark=lambda _: None)
        sums = run_summed(spark, plan.tasks, make, partial(add_up, job))
        found = np.sum([total for _, total in sums], axis=0)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_cut_runs__covers_every_frame_once(scanned: tuple[Archive, str]) -> None:
    archive, series_uid = scanned
    runs = archive._scan(series_uid).projections
    for cores in (1, 2, 3, 7, 50):
        tasks = cut_runs(runs, cores)
        frames = [
            run.frame_start + offset
            for task in tasks
            for run in task
            for offset in range(run.count)
        ]
        assert sorted(frames) == list(range(40))
        assert len(tasks) <= max(cores, 1) + 1
