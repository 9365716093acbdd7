"""How long work takes on one core: rates, measured on 2 cores of AMD EPYC (Zen 4, AVX-512).

All are seconds per unit of work, of tasks that run beside each other on all cores; `waves` makes
them into time on the clock.
"""

import math
from collections.abc import Iterable

from pacspark.ct.geometry import Geometry, VolumeGrid
from pacspark.ct.kernels.backproject import LONGEST_STEP

READ_BYTES_PER_SECOND = 1.0e9
"""Of data files, from a disk's cache."""
WRITE_BYTES_PER_SECOND = 6.0e8
"""Of data files and of what travels between tasks, until it is durable."""
DECODE_SECONDS_PER_SAMPLE = 1.4e-9
"""Stored samples to values."""
INTEGRALS_SECONDS_PER_SAMPLE = 4.6e-9
"""Values to line integrals."""
RECTIFY_SECONDS_PER_SAMPLE = 3.0e-8
FILTER_SECONDS_PER_SAMPLE = 6.8e-9
UPDATE_SECONDS = 2.2e-10
"""Of one voxel by one view;"""
LINE_SECONDS = 1.6e-8
"""and of a line of voxels of a slab, before its first."""
COARSE_UPDATE_SECONDS = 1.1e-9
"""Of voxels higher than the shadows of `LONGEST_STEP` rows, which go one at a time."""
ENCODE_SECONDS_PER_VOXEL = 1.8e-8
"""Values to pixels, headers, their index and digest, and the file."""
WORKER_SECONDS = 0.5
"""Until a worker has read kernels from their cache, and what else is new to it."""
STARTUP_SECONDS = 12.0
"""JVM, session, first Python workers, table look-ups and commits."""


def backproject_seconds(geometry: Geometry, grid: VolumeGrid, n_slabs: int) -> float:
    """Return the seconds that all views of all voxels take, in slabs of whole slices."""
    lines = grid.shape[1] * grid.shape[2] * geometry.n_angles
    rows = grid.voxel_mm[0] * geometry.magnification / geometry.detector.row_spacing_mm
    update_s = UPDATE_SECONDS if rows < LONGEST_STEP else COARSE_UPDATE_SECONDS
    return lines * (grid.shape[0] * update_s + n_slabs * LINE_SECONDS)


def waves(stages: Iterable[tuple[float, int]], cores: int) -> float:
    """Return the seconds that stages take, each given as seconds on one core and equal tasks.

    Stages follow each other; tasks of a stage run in waves of one per core.
    """
    return sum(
        seconds / n_tasks * math.ceil(n_tasks / cores) for seconds, n_tasks in stages if n_tasks
    )
