"""Reconstruction inside the archive: a stored scan in, a stored CT series out, through Spark.

::

    instances ─▶ StoredScan ─▶ stage 1 prepare ─▶ projections   (once per scan, where needed)
                               a few slices tell the range of values   (only without water)
                               stage 2 slabs ─▶ objects ─▶ instances ─▶ runs

The identity of a run is the digest of what was asked of which scan. A run that is already in the
archive is found, not made again; a killed one leaves nothing visible and is made whole by asking
again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from pacspark import __version__
from pacspark.ct.fdk import kernel_variant
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import VolumeGrid
from pacspark.dicom.encode import CTSeries, ValueMap, ct_series_uid
from pacspark.dicom.scan import StoredScan
from pacspark.errors import JobError, UsageError
from pacspark.middle_row import mean_attenuation_per_mm
from pacspark.progress import SILENT, Progress
from pacspark.spark import blocks, tiled
from pacspark.spark.cluster import Cluster
from pacspark.spark.jobs import Marks, counted, run_summed, run_tasks
from pacspark.spark.partition import (
    ReconstructionPlan,
    SlabTask,
    plan_reconstruction,
)
from pacspark.spark.preparing import cut_runs, frames_at_once, largest_frame_bytes
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import files_of_job
from pacspark.tables.intake import commit_intake
from pacspark.tables.projections import list_chunks
from pacspark.tables.runs import describe_geometry, recorded_run, recover_run, versions_now
from pacspark.tables.scans import LocatedRun, ScanFrames, read_stored_scan
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
class ReconstructionRequest:
    """What is asked: everything that the result depends on, and so its identity.

    Parameters
    ----------
    series_instance_uid
        A projection series in the archive.
    grid
        Where the voxels are.
    options
        Filter and cut-off.
    energy_bin
        Index of the energy bin.
    water_mu_per_mm
        Attenuation of water, 1/mm, for Hounsfield units; None: the scan's own, else a linear map of
        1/mm.
    """

    series_instance_uid: str
    grid: VolumeGrid
    options: FDKOptions = field(default_factory=FDKOptions)
    energy_bin: int = 0
    water_mu_per_mm: float | None = None

    def as_json(self) -> str:
        """Return the request as JSON, keys in order."""
        return json.dumps(asdict(self), sort_keys=True)

    def run_id(self) -> str:
        """Return the digest of the request and of the code's version."""
        text = f"reconstruct {__version__} {self.as_json()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ReconstructionReport:
    """What a reconstruction made.

    Attributes
    ----------
    series_instance_uid
        The CT series.
    found
        Whether it was in the archive already; then there are no figures.
    clamped_voxels
        Voxels whose value did not fit 16 bits.
    seconds
        By phase: of the driver, and of all tasks of a stage added up (``prepare tasks: ...``,
        ``slab tasks: ...``).
    peak_task_bytes, predicted_task_bytes
        Largest resident size of a task's worker, and the plan's bound for it.
    """

    series_instance_uid: str
    run_id: str
    n_slices: int
    found: bool
    clamped_voxels: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_task_bytes: int = 0
    predicted_task_bytes: int = 0

    def summary(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        return asdict(self)


def reconstruct(
    spark: SparkSession,
    storage: Storage,
    request: ReconstructionRequest,
    cluster: Cluster,
    *,
    n_slabs: int | None = None,
    angle_block: int | None = None,
    n_angle_groups: int | None = None,
    tile_cuts: int | None = None,
    progress: Progress = SILENT,
) -> ReconstructionReport:
    """Reconstruct one energy bin of a stored scan into a stored CT series.

    Parameters
    ----------
    spark
        Any session; it needs no Delta.
    storage
        The archive.
    request
        What to reconstruct.
    cluster
        What the plan may use.
    n_slabs, angle_block, n_angle_groups
        Forced cuts, for tests and experts; they do not change the numbers.
    progress
        Told of blocks of frames, and of blocks of angles per slab.

    Raises
    ------
    SeriesNotFoundError, GeometryError, MemoryBudgetError, UsageError
        Before any task starts.
    """
    watch = blocks.Stopwatch()
    versions = versions_now(storage)
    catalog = Catalog(storage)
    stored = read_stored_scan(catalog, request.series_instance_uid)
    request = _with_water(request, stored.scan)
    run_id = request.run_id()
    if (found := find_result(catalog, stored.scan, request)) is not None:
        return found
    plan, values = prepared(
        catalog,
        stored,
        request,
        cluster,
        n_slabs=n_slabs,
        angle_block=angle_block,
        n_angle_groups=n_angle_groups,
        tile_cuts=tile_cuts,
    )
    kernel_variant()  # tasks would refuse the same, after minutes
    watch.lap("plan")
    with recorded_run(
        storage, run_id, "reconstruct", versions, **_run_columns(request, stored.scan)
    ) as run:
        report = _make(spark, storage, request, stored, values, plan, cluster, watch, progress)
        run["metrics"] = {"report": report.summary(), "plan": dict(plan.summary())}
    return report


def prepared(
    catalog: Catalog,
    stored: ScanFrames,
    request: ReconstructionRequest,
    cluster: Cluster,
    **cuts: Any,
) -> tuple[ReconstructionPlan, ValueMap | None]:
    """Plan a request and choose its unit; what cannot be is refused here, without Spark."""
    request = _with_water(request, stored.scan)
    stored.scan.require_energy_bin(request.energy_bin)
    plan = plan_reconstruction(
        stored.scan.geometry,
        request.grid,
        cluster,
        kind=stored.scan.kind,
        views=stored.scan.views,
        **cuts,
    )
    if request.water_mu_per_mm is None:
        return plan, None
    values = ValueMap.hounsfield(request.water_mu_per_mm)
    _require_fitting(catalog, stored, request.energy_bin, values)
    return plan, values


def _make(
    spark: SparkSession,
    storage: Storage,
    request: ReconstructionRequest,
    stored: ScanFrames,
    values: ValueMap | None,
    plan: ReconstructionPlan,
    cluster: Cluster,
    watch: blocks.Stopwatch,
    progress: Progress,
) -> ReconstructionReport:
    """Run the stages; the result is visible when this returns."""
    catalog, run_id = Catalog(storage), request.run_id()
    geometry, grid = stored.scan.geometry, request.grid
    series = CTSeries.of_scan(
        stored.scan,
        run_id,
        grid,
        values or ValueMap.linear(0.0, 0.0, 0.0),  # until the range of values is known
        request.energy_bin,
        str(request.options),
    )

    marks = Marks(storage, run_id)
    marks.begin()
    prepare_costs: list[blocks.TaskCost] = []
    views: blocks.Views
    if plan.n_prepare_tasks:
        prepare_costs = _prepare(
            spark, storage, stored, request.energy_bin, cluster, marks, progress
        )
        views = list_chunks(catalog, stored.scan.series_instance_uid, request.energy_bin)
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
    scratch, filtered = Scratch(storage, run_id), []
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
    taken = commit_intake(storage, [outcome.intake for outcome in outcomes], run_id, "reconstruct")
    marks.clear()
    if not taken.clean:
        raise JobError(taken.refusal(f"series {series.series_instance_uid}"))
    watch.lap("commit")

    seconds: Counter[str] = Counter(watch.cost().seconds)
    slab_costs += [outcome.cost for outcome in outcomes]
    for stage, costs in (("prepare", prepare_costs), ("slab", slab_costs)):
        for cost in costs:
            seconds.update({f"{stage} tasks: {phase}": s for phase, s in cost.seconds.items()})
    return ReconstructionReport(
        series_instance_uid=series.series_instance_uid,
        run_id=run_id,
        n_slices=grid.shape[0],
        found=False,
        clamped_voxels=sum(outcome.clamped_voxels for outcome in outcomes),
        seconds={phase: round(spent, 3) for phase, spent in seconds.items()},
        peak_task_bytes=max(cost.peak_bytes for cost in prepare_costs + slab_costs),
        predicted_task_bytes=plan.task_bytes,
    )


def find_result(
    catalog: Catalog, scan: StoredScan, request: ReconstructionRequest
) -> ReconstructionReport | None:
    """Return the report of a result that is in the archive already, without Spark; else None."""
    request = _with_water(request, scan)
    run_id, n_slices = request.run_id(), request.grid.shape[0]
    series_uid = ct_series_uid(run_id)
    # a few slices alone may have come from elsewhere: then the others are made
    if catalog.count_of(series_uid) < n_slices:
        return None
    # what was killed between its commit and its end left both
    recover_run(catalog.storage, run_id, "reconstruct", **_run_columns(request, scan))
    Marks(catalog.storage, run_id).clear()
    return ReconstructionReport(series_uid, run_id, n_slices, found=True)


def _with_water(request: ReconstructionRequest, scan: StoredScan) -> ReconstructionRequest:
    if request.water_mu_per_mm is not None:
        return request
    return replace(request, water_mu_per_mm=scan.water_mu_per_mm)


def _require_fitting(
    catalog: Catalog, stored: ScanFrames, energy_bin: int, values: ValueMap
) -> None:
    """Refuse a value for water in whose Hounsfield units the scan's mean leaves 16 bits."""
    mean = mean_attenuation_per_mm(catalog, stored, energy_bin)
    if values.clamped(np.array([mean], np.float32)):
        message = (
            f"water_mu_per_mm: expected the attenuation of water in 1/mm, found "
            f"{values.water_mu_per_mm:g}: the scan's mean, {mean:.3g}, would be "
            f"{1000 * (mean / values.water_mu_per_mm - 1):.3g} HU, beyond 16 bits; correct it, or "
            "leave it out for results in 1/mm"
        )
        raise UsageError(message)


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


def _run_columns(request: ReconstructionRequest, scan: StoredScan) -> dict[str, Any]:
    """Give what the row of the run says from which its result can be made again."""
    return {
        "series_instance_uid": ct_series_uid(request.run_id()),
        "source_series_instance_uid": request.series_instance_uid,
        "options": request.as_json(),
        "geometry": describe_geometry(scan.geometry, request.grid),
    }
