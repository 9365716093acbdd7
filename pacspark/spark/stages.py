"""The stages of a reconstruction: prepared views, the range of values, slabs or tiles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyspark.sql import SparkSession

from pacspark.ct.geometry import VolumeGrid
from pacspark.dicom.encode import CTSeries, ValueMap
from pacspark.progress import Progress
from pacspark.spark import blocks, tiled
from pacspark.spark.cluster import Cluster
from pacspark.spark.jobs import Marks, counted, run_summed, run_tasks
from pacspark.spark.partition import (
    ReconstructionPlan,
    SlabTask,
)
from pacspark.spark.preparing import cut_runs, frames_at_once, largest_frame_bytes
from pacspark.spark.request import ReconstructionRequest
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import files_of_job
from pacspark.tables.projections import list_chunks
from pacspark.tables.scans import LocatedRun, ScanFrames
from pacspark.tables.scratch import Scratch
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files

SAMPLED_SLICES = 4
SAMPLED_STRIDE = 4
"""The range of values is that of every fourth voxel of every fourth row: samples, not averages."""
HEADROOM = 0.5
"""The linear map of values reaches this part of the sampled span beyond both its ends."""


@dataclass(frozen=True, slots=True)
class MadeSlices:
    """All slices of a reconstruction, written where they are new, and not yet visible."""

    series: CTSeries
    outcomes: list[blocks.SlabOutcome]
    prepare_costs: list[blocks.TaskCost]
    slab_costs: list[blocks.TaskCost]


def make_slices(
    spark: SparkSession,
    storage: Storage,
    request: ReconstructionRequest,
    stored: ScanFrames,
    values: ValueMap | None,
    plan: ReconstructionPlan,
    cluster: Cluster,
    watch: blocks.Stopwatch,
    progress: Progress,
    run_id: str,
    marks: Marks,
) -> MadeSlices:
    """Run all stages but the commit.

    Parameters
    ----------
    spark, storage, request, cluster, progress
        As `reconstruct` takes them.
    stored
        The scan and its frames.
    values, plan
        From `prepared`.
    watch
        Told of the phases.
    run_id
        What all UIDs derive from.
    marks
        Of this job, whose name its scratch files have too.
    """
    geometry, grid = stored.scan.geometry, request.grid
    series = CTSeries.of_scan(
        stored.scan,
        run_id,
        grid,
        values or ValueMap.linear(0.0, 0.0, 0.0),  # until the range of values is known
        request.energy_bin,
        str(request.options),
    )

    marks.begin()
    prepare_costs: list[blocks.TaskCost] = []
    views: blocks.Views
    if plan.n_prepare_tasks:
        prepare_costs = _prepare(
            spark, storage, stored, request.energy_bin, cluster, marks, progress
        )
        views = list_chunks(Catalog(storage), stored.scan.series_instance_uid, request.energy_bin)
    else:
        views = stored.located(stored.scan.projections, request.energy_bin)
    watch.lap("prepare")
    job = blocks.SlabJob(
        storage=storage,
        geometry=geometry,
        grid=grid,
        options=request.options,
        angle_block=plan.angle_block,
        series=series,
        run_id=run_id,
        stored_kind=None if plan.n_prepare_tasks else stored.scan.kind,
    )
    slab_costs: list[blocks.TaskCost] = []
    scratch, filtered = Scratch(storage, marks.run_id), []
    scratch.clear()
    if plan.filter_tasks:
        scratch.begin()
        inputs = blocks.slab_inputs(plan.filter_tasks, views)
        filtered = tiled.filter_views(spark, job, inputs, marks, progress)
        watch.lap("filter")
    if values is None:
        if plan.filter_tasks:
            found = tiled.value_range(spark, job, plan, filtered, SAMPLED_SLICES, marks)
            values = ValueMap.linear(*found, HEADROOM)
        else:
            values = _linear_map(spark, job, views, marks)
        series = replace(series, values=values)
        job = replace(job, series=series)
    watch.lap("range of values")
    with files_of_job(storage, "objects", "instances") as name:
        job = replace(job, job_name=name)
        if plan.filter_tasks:
            outcomes, slab_costs = tiled.make_slices(spark, job, plan, filtered, marks, progress)
        else:
            outcomes = _slabs(spark, job, plan, views, marks, progress)
    scratch.clear()
    watch.lap("slabs")
    slab_costs += [outcome.cost for outcome in outcomes]
    return MadeSlices(series, outcomes, prepare_costs, slab_costs)


def _prepare(
    spark: SparkSession,
    storage: Storage,
    stored: ScanFrames,
    energy_bin: int,
    cluster: Cluster,
    marks: Marks,
    progress: Progress,
) -> list[blocks.TaskCost]:
    """Make line integrals of a scan's frames, once: later reconstructions find them.

    Returns what the tasks took; nothing where they are found.
    """
    scan = stored.scan
    done = f"prepare {scan.series_instance_uid} {energy_bin}"
    if Snapshot(storage, "projections").transaction_version(done) is not None:
        return []
    tasks = prepare_tasks(stored, energy_bin, cluster.cores)
    at_once = frames_at_once(largest_frame_bytes(scan.geometry, scan.views))
    total = sum(-(-those.run.count // at_once) for task in tasks for those in task)
    with (
        files_of_job(storage, "projections") as name,
        counted(marks, progress, "prepare", total, "blocks of frames"),
    ):
        job = blocks.PrepareJob(
            storage=storage,
            series_instance_uid=scan.series_instance_uid,
            kind=scan.kind,
            unattenuated_counts=scan.unattenuated_counts,
            flats=stored.located(scan.flats, energy_bin),
            darks=stored.located(scan.darks, energy_bin),
            energy_bin=energy_bin,
            geometry=scan.geometry,
            views=scan.views,
            run_id=marks.run_id,
            job_name=name,
        )
        made = run_tasks(spark, tasks, partial(_prepare_task, job, marks))
    commit_files(
        storage,
        "projections",
        [prepared.file for prepared in made],
        app_transaction=(done, 1),
        run_id=marks.run_id,
        operation="prepare",
    )
    marks.begin()
    return [prepared.cost for prepared in made]


def prepare_tasks(stored: ScanFrames, energy_bin: int, cores: int) -> list[list[LocatedRun]]:
    """Cut the projections of an energy bin into tasks, each with what it needs to read its own."""
    scan = stored.scan
    runs = [run for run in scan.projections if run.energy_bin == energy_bin]
    frame_bytes = largest_frame_bytes(scan.geometry, scan.views)
    return [list(stored.located(task, energy_bin)) for task in cut_runs(runs, frame_bytes, cores)]


def _prepare_task(
    job: blocks.PrepareJob, marks: Marks, frames: list[LocatedRun]
) -> blocks.PreparedFrames:
    job.storage.require_seen()
    return blocks.prepare_frames(job, frames, marks.set)


def _linear_map(
    spark: SparkSession, job: blocks.SlabJob, views: blocks.Views, marks: Marks
) -> ValueMap:
    """Reconstruct a few slices for the range of values that the map has to hold."""
    n_z, n_y, n_x = job.grid.shape
    dz_mm, dy_mm, dx_mm = job.grid.voxel_mm
    coarse = VolumeGrid(
        (n_z, -(-n_y // SAMPLED_STRIDE), -(-n_x // SAMPLED_STRIDE)),
        (dz_mm, dy_mm * min(SAMPLED_STRIDE, n_y), dx_mm * min(SAMPLED_STRIDE, n_x)),
        job.grid.center_mm,
    )
    job = replace(job, grid=coarse)
    n_slices = min(SAMPLED_SLICES, n_z)
    places = sorted({(2 * number + 1) * n_z // (2 * n_slices) for number in range(n_slices)})
    n_angles = job.geometry.n_angles
    tasks = [
        SlabTask(0, z, z + 1, 0, n_angles, *job.geometry.row_band(coarse.slab(z, z + 1)))
        for z in places
    ]
    ranges = run_tasks(spark, blocks.slab_inputs(tasks, views), partial(_range_task, job, marks))
    marks.begin()
    return ValueMap.linear(min(low for low, _ in ranges), max(high for _, high in ranges), HEADROOM)


def _range_task(job: blocks.SlabJob, marks: Marks, given: blocks.SlabInput) -> tuple[float, float]:
    return blocks.slice_range(job, *given, marks.set)


def _slabs(
    spark: SparkSession,
    job: blocks.SlabJob,
    plan: ReconstructionPlan,
    views: blocks.Views,
    marks: Marks,
    progress: Progress,
) -> list[blocks.SlabOutcome]:
    total = sum(-(-(task.angle_stop - task.angle_start) // plan.angle_block) for task in plan.tasks)
    inputs = blocks.slab_inputs(plan.tasks, views)
    with counted(marks, progress, "reconstruct", total, "blocks of angles"):
        if plan.n_angle_groups == 1:
            return run_tasks(spark, inputs, partial(_slab_task, job, marks))
        bounds = {task.slab: (task.z_start, task.z_stop) for task in plan.tasks}
        return run_summed(
            spark,
            inputs,
            partial(_partial_task, job, marks),
            partial(_sum_task, job, bounds),
        )


def _slab_task(job: blocks.SlabJob, marks: Marks, given: blocks.SlabInput) -> blocks.SlabOutcome:
    return blocks.reconstruct_slab(job, *given, marks.set)


def _partial_task(job: blocks.SlabJob, marks: Marks, given: blocks.SlabInput) -> Any:
    return blocks.partial_slab(job, *given, marks.set)


def _sum_task(
    job: blocks.SlabJob, bounds: Mapping[int, tuple[int, int]], slab: int, batches: Any
) -> blocks.SlabOutcome:
    return blocks.sum_slab(job, *bounds[slab], batches)
