"""How long work takes on one core: rates, measured on 2 cores of AMD EPYC (Zen 4, AVX-512).

All are seconds per unit of work, of tasks that run beside each other on all cores; `waves` makes
them into time on the clock.
"""

import math
from collections.abc import Iterable

from pacspark.ct.geometry import Geometry, VolumeGrid
from pacspark.ct.kernels.backproject import LONGEST_STEP

READ_BYTES_PER_SECOND = 300e6
"""Of data files, and of what travels between tasks; written as fast."""
DECODE_SECONDS_PER_SAMPLE = 2.2e-9
"""Stored samples to values."""
PREPARE_SECONDS_PER_SAMPLE = 8.4e-9
"""Stored samples to line integrals, and those to chunks."""
RECTIFY_SECONDS_PER_SAMPLE = 3.0e-8
FILTER_SECONDS_PER_SAMPLE = 5.5e-9
UPDATE_SECONDS = 4.0e-10
"""Of one voxel by one view."""
COARSE_UPDATE_SECONDS = 2.7e-9
"""Of voxels higher than the shadows of `LONGEST_STEP` rows, which go one at a time."""
ENCODE_SECONDS_PER_VOXEL = 2.4e-8
"""Values to pixels, headers, their index and digest, and the file."""
STARTUP_SECONDS = 12.0
"""JVM, Python workers, kernels from their cache, table look-ups and commits."""


def update_seconds(geometry: Geometry, grid: VolumeGrid) -> float:
    """Return the seconds that one view of one voxel takes."""
    rows = grid.voxel_mm[0] * geometry.magnification / geometry.detector.row_spacing_mm
    return UPDATE_SECONDS if rows < LONGEST_STEP else COARSE_UPDATE_SECONDS


def waves(stages: Iterable[tuple[float, int]], cores: int) -> float:
    """Return the seconds that stages take, each given as seconds on one core and equal tasks.

    Stages follow each other; tasks of a stage run in waves of one per core.
    """
    return sum(
        seconds / n_tasks * math.ceil(n_tasks / cores) for seconds, n_tasks in stages if n_tasks
    )
