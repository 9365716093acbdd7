"""Reconstruction inside the archive: a stored scan in, a stored CT series out, through Spark.

::

    instances ─▶ StoredScan ─▶ stage 1 prepare ─▶ projections   (once per scan, where needed)
                               a few slices tell the range of values   (only without water)
                               stage 2 slabs ─▶ objects ─▶ instances ─▶ runs

The identity of a run is the digest of what was asked of which scan. A run that is already in the
archive is found, not made again; a killed one leaves nothing visible and is made whole by asking
again.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from pacspark.ct.fdk import kernel_variant
from pacspark.dicom.encode import ValueMap, ct_series_uid
from pacspark.dicom.scan import StoredScan
from pacspark.errors import JobError, UsageError
from pacspark.middle_row import mean_attenuation_per_mm
from pacspark.progress import SILENT, Progress
from pacspark.spark import blocks
from pacspark.spark.cluster import Cluster
from pacspark.spark.jobs import Marks
from pacspark.spark.partition import (
    ReconstructionPlan,
    plan_reconstruction,
)
from pacspark.spark.request import ReconstructionRequest
from pacspark.spark.stages import make_slices
from pacspark.tables.catalog import Catalog
from pacspark.tables.intake import commit_intake
from pacspark.tables.runs import describe_geometry, recorded_run, recover_run, versions_now
from pacspark.tables.scans import ScanFrames, read_stored_scan
from pacspark.tables.storage import Storage

__all__ = [
    "ReconstructionReport",
    "ReconstructionRequest",
    "find_result",
    "prepared",
    "reconstruct",
]


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
        run["metrics"] = {
            "report": report.summary(),
            "plan": dict(plan.summary()),
            "kernel": kernel_variant(),
        }
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
    run_id = request.run_id()
    marks = Marks(storage, run_id)
    made = make_slices(
        spark, storage, request, stored, values, plan, cluster, watch, progress, run_id, marks
    )
    intakes = [outcome.intake for outcome in made.outcomes]
    taken = commit_intake(storage, intakes, run_id, "reconstruct")
    marks.clear()
    series_uid = made.series.series_instance_uid
    if not taken.clean:
        raise JobError(taken.refusal(f"series {series_uid}"))
    watch.lap("commit")

    seconds: Counter[str] = Counter(watch.cost().seconds)
    costs_of = {"prepare": made.prepare_costs, "slab": made.slab_costs}
    for stage, costs in costs_of.items():
        for cost in costs:
            seconds.update({f"{stage} tasks: {phase}": s for phase, s in cost.seconds.items()})
    return ReconstructionReport(
        series_instance_uid=series_uid,
        run_id=run_id,
        n_slices=request.grid.shape[0],
        found=False,
        clamped_voxels=sum(outcome.clamped_voxels for outcome in made.outcomes),
        seconds={phase: round(spent, 3) for phase, spent in seconds.items()},
        peak_task_bytes=max(cost.peak_bytes for costs in costs_of.values() for cost in costs),
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


def _run_columns(request: ReconstructionRequest, scan: StoredScan) -> dict[str, Any]:
    """Give what the row of the run says from which its result can be made again."""
    return {
        "series_instance_uid": ct_series_uid(request.run_id()),
        "source_series_instance_uid": request.series_instance_uid,
        "options": request.as_json(),
        "geometry": describe_geometry(scan.geometry, request.grid),
    }
