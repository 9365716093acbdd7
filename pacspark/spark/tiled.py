"""Stages of a reconstruction whose slices no task can hold: filter, make tiles, join them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pyspark.sql import SparkSession

from pacspark.ct.geometry import VolumeGrid
from pacspark.progress import Progress
from pacspark.spark import blocks, tiles
from pacspark.spark.jobs import Marks, counted, run_tasks
from pacspark.spark.partition import ReconstructionPlan, SlabTask, joined_slices

JoinInput = tuple[tuple[tiles.TileFile, ...], int, int]

SAMPLED_VOXELS = 512
"""Along x and y of a slice whose range of values is looked at, at least a few per tile."""


def filter_views(
    spark: SparkSession,
    job: blocks.SlabJob,
    inputs: Sequence[blocks.SlabInput],
    marks: Marks,
    progress: Progress,
) -> list[tiles.FilteredFile]:
    """Filter all rows of all views once, for all tiles that see them."""
    with counted(marks, progress, "filter", len(inputs), "blocks of views"):
        files = run_tasks(spark, inputs, partial(_filter_task, job, marks))
    marks.begin()
    return files


def value_range(
    spark: SparkSession,
    job: blocks.SlabJob,
    plan: ReconstructionPlan,
    files: Sequence[tiles.FilteredFile],
    n_slices: int,
    marks: Marks,
) -> tuple[float, float]:
    """Return the smallest and largest value of coarse voxels of a few slices, 1/mm.

    Tiles of the coarse slices are as wide as those of the volume, so they fit a task as well.
    """
    n_z, n_y, n_x = job.grid.shape
    dz_mm, dy_mm, dx_mm = job.grid.voxel_mm
    stride = max(1, max(n_y, n_x) // max(SAMPLED_VOXELS, 4 * plan.tile_cuts))
    coarse = VolumeGrid(
        (n_z, math.ceil(n_y / stride), math.ceil(n_x / stride)),
        (dz_mm, dy_mm * stride, dx_mm * stride),
        job.grid.center_mm,
    )
    places = sorted({(2 * number + 1) * n_z // (2 * n_slices) for number in range(n_slices)})
    edges_y, edges_x = (
        [count * part // plan.tile_cuts for part in range(plan.tile_cuts + 1)]
        for count in coarse.shape[1:]
    )
    tasks = [
        SlabTask(0, z, z + 1, 0, job.geometry.n_angles, 0, 0, y, y_stop, x, x_stop)
        for z in places
        for y, y_stop in itertools.pairwise(edges_y)
        for x, x_stop in itertools.pairwise(edges_x)
        if y < y_stop and x < x_stop
    ]
    coarse_job = replace(job, grid=coarse)
    ranges = run_tasks(spark, tasks, partial(_range_task, coarse_job, files, marks))
    marks.begin()
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def make_slices(
    spark: SparkSession,
    job: blocks.SlabJob,
    plan: ReconstructionPlan,
    files: Sequence[tiles.FilteredFile],
    marks: Marks,
    progress: Progress,
) -> tuple[list[blocks.SlabOutcome], list[blocks.TaskCost]]:
    """Make all tiles, and join those of each slice to an object; give what tiles took, too."""
    total = len(plan.tasks) * -(-job.geometry.n_angles // plan.angle_block)
    with counted(marks, progress, "reconstruct", total, "blocks of angles"):
        made = run_tasks(spark, plan.tasks, partial(_tile_task, job, files, marks))
    of_slab: dict[int, list[tiles.TileFile]] = {}
    for tile in made:
        of_slab.setdefault(tile.task.slab, []).append(tile)
    step = joined_slices(job.grid)
    joins: list[JoinInput] = [
        (tuple(those), z, min(z + step, those[0].task.z_stop))
        for those in of_slab.values()
        for z in range(those[0].task.z_start, those[0].task.z_stop, step)
    ]
    return run_tasks(spark, joins, partial(_join_task, job)), [tile.cost for tile in made]


def _filter_task(job: blocks.SlabJob, marks: Marks, given: blocks.SlabInput) -> tiles.FilteredFile:
    return tiles.filter_views(job, *given, marks.set)


def _range_task(
    job: blocks.SlabJob, files: Sequence[tiles.FilteredFile], marks: Marks, task: SlabTask
) -> tuple[float, float]:
    return tiles.tile_range(job, task, files, marks.set)


def _tile_task(
    job: blocks.SlabJob, files: Sequence[tiles.FilteredFile], marks: Marks, task: SlabTask
) -> tiles.TileFile:
    return tiles.make_tile(job, task, files, marks.set)


def _join_task(job: blocks.SlabJob, given: JoinInput) -> blocks.SlabOutcome:
    return tiles.join_slices(job, *given)
