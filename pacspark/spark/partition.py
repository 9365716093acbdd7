"""The planner: geometry + grid + cluster -> slabs, angle groups, bytes, seconds. Pure arithmetic.

A volume is cut into *slabs* of contiguous z slices. The task of a slab streams blocks of angles,
each cut to the *band* of detector rows that the slab can see, so what a task holds does not grow
with the number of angles::

    task bytes = worker + slab (accumulator) + one angle block (read, filtered) or CT encoding

Before that, tasks of the prepare stage make line integrals of frames, some at a time; panels that
did not stand upright are resampled there, and all figures but those of stored frames are of the
upright ones. Line integrals and transmissions of upright panels are read as they are stored: they
need no prepare stage, unless so many slabs overlap that frames would be decoded over and over.

When there are fewer slabs than cores, the angles are split into groups as well: each group makes a
partial slab, and partial slabs, never volumes, are summed. Where one slice, or the band that it
needs of one angle, is too much for a task, slabs are cut in x and y as well: see `tiling`.

All sizes are bytes, all times seconds on one core unless said otherwise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pacspark.ct.checks import require_count
from pacspark.ct.coverage import require_countable, require_seen
from pacspark.ct.geometry import Geometry, VolumeGrid
from pacspark.ct.kernels.backproject import PADDING, RUN
from pacspark.ct.preprocess import Kind
from pacspark.ct.redundancy import require_rays
from pacspark.ct.shadow import FilteredView
from pacspark.ct.views import ConeBeamViews
from pacspark.errors import MemoryBudgetError, UsageError
from pacspark.spark.cluster import Cluster
from pacspark.spark.costs import (
    ENCODE_SECONDS_PER_VOXEL,
    FILTER_SECONDS_PER_SAMPLE,
    READ_BYTES_PER_SECOND,
    STARTUP_SECONDS,
    WORKER_SECONDS,
    WRITE_BYTES_PER_SECOND,
    backproject_seconds,
    waves,
)
from pacspark.spark.preparing import Preparing, plan_preparing
from pacspark.spark.tiling import FILTERED_ANGLES, Tiling, cut, find_tiling, slab_bounds
from pacspark.tables.scans import DECODED_BYTES

WORKER_BYTES = 392 << 20
"""A Python worker with NumPy, Numba, PyArrow and pydicom loaded and kernels found on disk takes
330 MiB; where it compiles them, 390."""
ANGLE_BLOCK_BYTES = 64 << 20
"""Aim for one block of angles cut to a slab's band, as float32."""
DECODING_COPIES = 3
"""Of what is decoded at once, beside the block: as it is stored, decoded, and line integrals."""
ENCODING_BYTES = 48 << 20
"""Objects that wait to be written, their headers, and what the file format takes."""
ENCODING_SAMPLE_BYTES = 80
"""A run of 16 slices that is turned, as float32 and pixel by pixel on its way to DICOM."""
JOINED_SLICES_BYTES = 256 << 20
"""Pixels that one task puts together from tiles, but for a single slice that is larger."""
MOST_DECODINGS = 3
"""What needs no prepare stage goes without one where tasks together read each frame at most this
often."""


@dataclass(frozen=True, slots=True)
class SlabTask:
    """One task: z slices ``z_start..z_stop`` from angles ``angle_start..angle_stop``.

    Of a tile, only the voxels ``y_start..y_stop`` and ``x_start..x_stop`` of them.
    """

    slab: int
    z_start: int
    z_stop: int
    angle_start: int
    angle_stop: int
    row_start: int
    row_stop: int
    y_start: int = 0
    y_stop: int = 0
    x_start: int = 0
    x_stop: int = 0


@dataclass(frozen=True, slots=True)
class ReconstructionPlan:
    """What a reconstruction would run and what it would cost.

    Attributes
    ----------
    tasks
        Of one energy bin's slabs: every (angle, slice) pair lies in exactly one of them.
    n_prepare_tasks
        Tasks that make one energy bin's line integrals; a later reconstruction finds them made. 0:
        frames are read as they are stored.
    n_energy_bins
        All figures below are of all bins, one after the other.
    angle_block
        Angles that a task holds at once.
    task_bytes
        Predicted peak of the largest task's Python worker.
    projection_bytes, volume_bytes
        All line integrals and the whole volume, as float32.
    read_bytes
        What all tasks read together, stored frames included; bands of neighbouring slabs overlap.
    shuffle_bytes
        Partial slabs, or filtered views and tiles, that travel between tasks; 0 when slabs suffice.
    tile_cuts
        Into how many parts slabs are cut along each of x and y; 1: not at all.
    filter_tasks
        Of one energy bin: tasks that filter rows for tiles; none without tiles.
    n_join_tasks
        Of one energy bin: tasks that join tiles.
    voxel_updates
        Voxels times angles.
    core_seconds, wall_seconds
        Predicted time of work on one core, and from start to end on the cluster.
    """

    grid: VolumeGrid
    cluster: Cluster
    tasks: tuple[SlabTask, ...]
    n_prepare_tasks: int
    n_energy_bins: int
    n_slabs: int
    n_angle_groups: int
    angle_block: int
    task_bytes: int
    projection_bytes: int
    volume_bytes: int
    read_bytes: int
    shuffle_bytes: int
    voxel_updates: int
    core_seconds: float
    wall_seconds: float
    tile_cuts: int = 1
    filter_tasks: tuple[SlabTask, ...] = ()
    n_join_tasks: int = 0

    @property
    def core_hours(self) -> float:
        """What the cluster is paid for: all its cores, from start to end."""
        return self.cluster.cores * self.wall_seconds / 3600

    def summary(self) -> Mapping[str, int | float]:
        """Every figure but the list of tasks, for people and JSON."""
        n_z, n_y, n_x = self.grid.shape
        n_tasks = self.n_prepare_tasks + len(self.filter_tasks) + len(self.tasks)
        return MappingProxyType(
            {
                "n_x": n_x,
                "n_y": n_y,
                "n_z": n_z,
                "energy_bins": self.n_energy_bins,
                "slabs": self.n_slabs,
                "tiles_per_slab": self.tile_cuts**2,
                "angle_groups": self.n_angle_groups,
                "tasks": self.n_energy_bins * (n_tasks + self.n_join_tasks),
                "prepare_tasks": self.n_energy_bins * self.n_prepare_tasks,
                "angle_block": self.angle_block,
                "cores": self.cluster.cores,
                "bytes_per_task": self.task_bytes,
                "memory_per_task_bytes": self.cluster.memory_per_task_bytes,
                "projection_bytes": self.projection_bytes,
                "volume_bytes": self.volume_bytes,
                "read_bytes": self.read_bytes,
                "shuffle_bytes": self.shuffle_bytes,
                "voxel_updates": self.voxel_updates,
                "busy_core_hours": self.core_seconds / 3600,
                "core_hours": self.core_hours,
                "wall_seconds": self.wall_seconds,
            }
        )


def plan_reconstruction(
    geometry: Geometry,
    grid: VolumeGrid,
    cluster: Cluster,
    *,
    kind: Kind = "counts",
    views: ConeBeamViews | None = None,
    n_energy_bins: int = 1,
    n_slabs: int | None = None,
    angle_block: int | None = None,
    n_angle_groups: int | None = None,
    tile_cuts: int | None = None,
) -> ReconstructionPlan:
    """Cut a reconstruction into tasks that fit the cluster.

    Parameters
    ----------
    geometry, grid
        What is reconstructed, and where.
    cluster
        What it runs on.
    kind
        What the stored frames hold.
    views
        As they were measured, where panels did not stand upright: `geometry` is that of the
        rectified frames.
    n_energy_bins
        Reconstructed one after the other.
    n_slabs, angle_block, n_angle_groups, tile_cuts
        Forced values, for tests and experts; the memory bound is checked all the same.

    Returns
    -------
    ReconstructionPlan
        As few slabs as fill the cores and fit the memory.

    Raises
    ------
    MemoryBudgetError
        When not even a small tile and the rows that are filtered at once fit; the message has the
        smallest budget that would.
    GeometryError
        When the views leave a gap, or do not see the grid.
    UsageError
        When a forced value is out of range.
    """
    require_rays(geometry)
    require_seen(geometry, grid)
    require_countable(geometry, grid)
    n_z = grid.shape[0]
    n_angles = len(geometry.gantry_angles_rad)
    _check_forced("n_slabs", n_slabs, n_z)
    _check_forced("angle_block", angle_block, n_angles)
    _check_forced("n_angle_groups", n_angle_groups, n_angles)
    _check_forced("tile_cuts", tile_cuts, min(grid.shape[1:]))

    budget = cluster.memory_per_task_bytes
    as_stored = kind != "counts" and views is None
    whole_frames = plan_preparing(geometry, views, as_stored, cluster.cores)
    if tile_cuts:
        tiling = find_tiling(geometry, grid, budget - WORKER_BYTES, tile_cuts, n_slabs, angle_block)
        tile_bytes = _tile_task_bytes(whole_frames, tiling)
        if tile_bytes > budget:
            raise _too_little(tile_bytes, cluster, grid)
        return _tiled(geometry, whole_frames, grid, cluster, n_energy_bins, tiling)
    bounds, groups, block, band_rows, task_bytes = _cut_slabs(
        geometry, grid, cluster, n_slabs, angle_block, n_angle_groups
    )
    few = len(bounds) * band_rows <= MOST_DECODINGS * geometry.detector.n_rows
    bands = plan_preparing(geometry, views, as_stored and few, cluster.cores)
    task_bytes = max(task_bytes, WORKER_BYTES + bands.task_bytes)
    plans = []
    if task_bytes <= budget:
        plans.append(
            _assemble(
                geometry, bands, grid, cluster, n_energy_bins, bounds, groups, block, task_bytes
            )
        )
    forced = n_slabs or angle_block or n_angle_groups
    if not forced and (not plans or len(bounds) > cluster.cores):
        # no slab fits, or many thin ones do: tiles of thicker ones may be faster
        tiling = find_tiling(geometry, grid, budget - WORKER_BYTES)
        tile_bytes = _tile_task_bytes(whole_frames, tiling)
        task_bytes = min(task_bytes, tile_bytes)
        if tile_bytes <= budget:  # else there may be as many tiles as voxels
            plans.append(_tiled(geometry, whole_frames, grid, cluster, n_energy_bins, tiling))
    if not plans:
        raise _too_little(task_bytes, cluster, grid)
    return min(plans, key=lambda plan: plan.wall_seconds)


def _cut_slabs(
    geometry: Geometry,
    grid: VolumeGrid,
    cluster: Cluster,
    n_slabs: int | None,
    angle_block: int | None,
    n_angle_groups: int | None,
) -> tuple[list[tuple[int, int]], int, int, int, int]:
    """Return slabs, groups of angles, angles of a block, rows of the widest band, and bytes.

    Those that need least, where none fits.
    """
    n_z, n_angles, budget = grid.shape[0], geometry.n_angles, cluster.memory_per_task_bytes
    columns = FilteredView.of(geometry).n_columns
    # slabs of less than a run of slices would cost and hold as much as a whole one
    most_slabs = math.ceil(n_z / RUN)
    slabs = n_slabs or min(most_slabs, cluster.cores)
    groups = 1
    while True:
        bounds = slab_bounds(n_z, slabs)
        groups = n_angle_groups or max(1, min(n_angles // 16, cluster.cores // len(bounds)))
        slices = max(RUN * (-(-stop // RUN) - start // RUN) for start, stop in bounds)
        # bands are widest where the cone is steepest, at an end, or in the middle
        some = {0, len(bounds) // 2, len(bounds) - 1}
        band_rows = max(_band_rows(geometry, grid.slab(*bounds[slab])) for slab in some)
        block = angle_block or _angle_block(geometry, band_rows, math.ceil(n_angles / groups))
        held_bytes, encoding_bytes = _slab_bytes(grid, slices, groups)
        # a view is read, then filtered and padded
        band_bytes = 4 * band_rows * geometry.detector.n_columns
        view_bytes = band_bytes + 4 * (band_rows + 2 * PADDING) * columns
        decoding_bytes = DECODING_COPIES * max(DECODED_BYTES, band_bytes)
        decoding_bytes += 2 * band_bytes  # cosines of the rays, in double precision
        task_bytes = held_bytes + max(encoding_bytes, decoding_bytes + block * view_bytes)
        if task_bytes <= budget or (n_slabs and angle_block):
            break
        fitting = (budget - held_bytes - decoding_bytes) // view_bytes
        roomy = held_bytes + encoding_bytes <= budget
        if angle_block is None and roomy and fitting >= min(block, 8):
            block = min(block, fitting)
            task_bytes = held_bytes + max(encoding_bytes, decoding_bytes + block * view_bytes)
            break
        if n_slabs or slabs >= most_slabs:
            break
        slabs = min(most_slabs, slabs * 2)
    return bounds, groups, block, band_rows, task_bytes


def _assemble(
    geometry: Geometry,
    preparing: Preparing,
    grid: VolumeGrid,
    cluster: Cluster,
    n_energy_bins: int,
    bounds: list[tuple[int, int]],
    groups: int,
    block: int,
    task_bytes: int,
) -> ReconstructionPlan:
    n_z, n_y, n_x = grid.shape
    n_angles = len(geometry.gantry_angles_rad)
    tasks = []
    read_samples = 0
    for slab, (z_start, z_stop) in enumerate(bounds):
        row_start, row_stop = geometry.row_band(grid.slab(z_start, z_stop))
        read_samples += (row_stop - row_start) * geometry.detector.n_columns * n_angles
        tasks += [
            SlabTask(slab, z_start, z_stop, angle_start, angle_stop, row_start, row_stop)
            for angle_start, angle_stop in cut(n_angles, groups)
        ]
    samples = n_angles * geometry.detector.n_rows * geometry.detector.n_columns
    volume_bytes = 4 * n_z * n_y * n_x
    shuffle_bytes = volume_bytes * groups if groups > 1 else 0
    updates = n_z * n_y * n_x * n_angles
    read_bytes = preparing.sample_bytes * read_samples
    slab_seconds = (
        backproject_seconds(geometry, grid, len(bounds))
        + read_samples * (preparing.sample_seconds + FILTER_SECONDS_PER_SAMPLE)
        + read_bytes / READ_BYTES_PER_SECOND
        + math.prod(grid.shape) * ENCODE_SECONDS_PER_VOXEL
        + shuffle_bytes / WRITE_BYTES_PER_SECOND
        + WORKER_SECONDS * min(cluster.cores, len(tasks))
    )
    stages = ((preparing.seconds, preparing.n_tasks), (slab_seconds, len(tasks)))
    wall_seconds = waves(stages, cluster.cores)
    return ReconstructionPlan(
        grid=grid,
        cluster=cluster,
        tasks=tuple(tasks),
        n_prepare_tasks=preparing.n_tasks,
        n_energy_bins=n_energy_bins,
        n_slabs=len(bounds),
        n_angle_groups=groups,
        angle_block=block,
        task_bytes=task_bytes,
        projection_bytes=n_energy_bins * 4 * samples,
        volume_bytes=n_energy_bins * volume_bytes,
        read_bytes=n_energy_bins * (preparing.read_bytes + read_bytes),
        shuffle_bytes=n_energy_bins * shuffle_bytes,
        voxel_updates=n_energy_bins * updates,
        core_seconds=n_energy_bins * (preparing.seconds + slab_seconds),
        wall_seconds=STARTUP_SECONDS + n_energy_bins * wall_seconds,
    )


def _too_little(smallest_bytes: int, cluster: Cluster, grid: VolumeGrid) -> MemoryBudgetError:
    n_z, n_y, n_x = grid.shape
    executor_gib = math.ceil(10 * smallest_bytes * cluster.cores_per_executor / 2**30) / 10
    return MemoryBudgetError(
        f"memory: expected at least {smallest_bytes / 2**30:.2f} GiB per task for a grid of "
        f"{n_x} x {n_y} x {n_z} voxels, found {cluster.memory_per_task_bytes / 2**30:.2f} GiB; "
        f"give {executor_gib:.1f} GiB per executor (spark.executor.memoryOverhead, --memory), "
        "fewer cores each, or a smaller grid"
    )


def _tile_task_bytes(preparing: Preparing, tiling: Tiling) -> int:
    return WORKER_BYTES + max(tiling.task_bytes, preparing.task_bytes)


def _tiled(
    geometry: Geometry,
    preparing: Preparing,
    grid: VolumeGrid,
    cluster: Cluster,
    n_energy_bins: int,
    tiling: Tiling,
) -> ReconstructionPlan:
    """Assemble a plan whose slabs are cut in x and y, from views that are filtered once."""
    n_angles, detector = geometry.n_angles, geometry.detector
    cuts_y, cuts_x = (cut(count, tiling.n_parts) for count in grid.shape[1:])
    slabs = slab_bounds(grid.shape[0], tiling.n_slabs)
    tasks = tuple(
        SlabTask(slab, *z, 0, n_angles, 0, detector.n_rows, *y, *x)
        for slab, z in enumerate(slabs)
        for y in cuts_y
        for x in cuts_x
    )
    filter_tasks = tuple(
        SlabTask(
            0, 0, 0, angle, min(n_angles, angle + FILTERED_ANGLES),
            row, min(detector.n_rows, row + tiling.filtered_rows),
        )
        for angle in range(0, n_angles, FILTERED_ANGLES)
        for row in range(0, detector.n_rows, tiling.filtered_rows)
    )  # fmt: skip
    samples = n_angles * detector.n_rows * detector.n_columns
    voxels = math.prod(grid.shape)
    per_join = joined_slices(grid)
    n_join_tasks = sum(-(-(stop - start) // per_join) for start, stop in slabs)
    tile_bytes = 4 * (tiling.read_samples + voxels)
    filter_seconds = WORKER_SECONDS * min(cluster.cores, len(filter_tasks)) + samples * (
        preparing.sample_seconds
        + FILTER_SECONDS_PER_SAMPLE
        + preparing.sample_bytes / READ_BYTES_PER_SECOND
        + 4 / WRITE_BYTES_PER_SECOND
    )
    tile_seconds = (
        backproject_seconds(geometry, grid, tiling.n_slabs)
        + 4 * tiling.read_samples / READ_BYTES_PER_SECOND
        + 2 * voxels / WRITE_BYTES_PER_SECOND
    )
    join_seconds = voxels * (2 / READ_BYTES_PER_SECOND + ENCODE_SECONDS_PER_VOXEL)
    stages = (
        (preparing.seconds, preparing.n_tasks),
        (filter_seconds, len(filter_tasks)),
        (tile_seconds, len(tasks)),
        (join_seconds, n_join_tasks),
    )
    return ReconstructionPlan(
        grid=grid,
        cluster=cluster,
        tasks=tasks,
        n_prepare_tasks=preparing.n_tasks,
        n_energy_bins=n_energy_bins,
        n_slabs=tiling.n_slabs,
        n_angle_groups=1,
        angle_block=tiling.angle_block,
        task_bytes=_tile_task_bytes(preparing, tiling),
        projection_bytes=n_energy_bins * 4 * samples,
        volume_bytes=n_energy_bins * 4 * voxels,
        read_bytes=n_energy_bins
        * (preparing.read_bytes + preparing.sample_bytes * samples + tile_bytes),
        shuffle_bytes=n_energy_bins * (4 * samples + 2 * voxels),
        voxel_updates=n_energy_bins * voxels * n_angles,
        core_seconds=n_energy_bins * sum(seconds for seconds, _ in stages),
        wall_seconds=STARTUP_SECONDS + n_energy_bins * waves(stages, cluster.cores),
        tile_cuts=tiling.n_parts,
        filter_tasks=filter_tasks,
        n_join_tasks=n_join_tasks,
    )


def joined_slices(grid: VolumeGrid) -> int:
    """Return how many slices a task joins from tiles: of about the bytes of an objects file."""
    return max(1, JOINED_SLICES_BYTES // (2 * math.prod(grid.shape[1:])))


def _check_forced(name: str, value: int | None, largest: int) -> None:
    if value is not None:
        require_count(name, value, largest, UsageError)


def _band_rows(geometry: Geometry, grid: VolumeGrid) -> int:
    row_start, row_stop = geometry.row_band(grid)
    return max(1, row_stop - row_start)


def _angle_block(geometry: Geometry, band_rows: int, n_angles: int) -> int:
    frame_bytes = 4 * band_rows * geometry.detector.n_columns
    return max(1, min(n_angles, ANGLE_BLOCK_BYTES // frame_bytes))


def _slab_bytes(grid: VolumeGrid, slices: int, groups: int) -> tuple[int, int]:
    """Return what a task holds from its start to its end, and what encoding adds to that.

    Sums of groups of angles are in double precision.
    """
    _, n_y, n_x = grid.shape
    slab_bytes = 4 * slices * n_y * n_x
    encoding_bytes = ENCODING_SAMPLE_BYTES * n_y * n_x + ENCODING_BYTES
    return WORKER_BYTES + slab_bytes, encoding_bytes + (slab_bytes if groups > 1 else 0)
