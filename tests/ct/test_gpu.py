"""The GPU's kernel, on Numba's simulator of one: the numbers, not the speed."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pacspark.ct.fdk import SlabReconstruction
from pacspark.ct.geometry import FlatPanel, ParallelBeamGeometry, VolumeGrid
from pacspark.ct.kernels.gpu import is_available
from pacspark.errors import UsageError

SAME = """
import math
from dataclasses import replace
import numpy as np
from pacspark.ct import (
    ConeBeamGeometry, FlatPanel, ParallelBeamGeometry, VolumeGrid, reconstruct_fdk
)

angles = np.arange(5) * 2 * math.pi / 5
panel = FlatPanel(9, 24, 1.4, 0.6, offset_u_mm=0.5, offset_v_mm=-0.7)
cone = ConeBeamGeometry(40.0, 60.0, angles, panel)
wobble = np.stack([2 * np.cos(angles), np.sin(angles)], axis=1)
half_fan = replace(panel, offset_u_mm=1.5)
grid = VolumeGrid((19, 3, 4), (0.4, 1.5, 1.2), (0.5, 0.0, 1.0))
for geometry in (
    cone,
    replace(cone, source_shifts_mm=wobble),
    replace(cone, detector=half_fan),
    ParallelBeamGeometry(angles / 2, replace(panel, row_order="bottom_up")),
):
    projections = np.random.default_rng(0).standard_normal((5, 9, 24)).astype(np.float32)
    ours = reconstruct_fdk(projections, geometry, grid)
    theirs = reconstruct_fdk(projections, geometry, grid, backend="cuda")
    print(np.abs(ours - theirs).max() / np.abs(ours).max())
"""


def test_gpu__makes_what_the_cpu_makes() -> None:
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SAME], capture_output=True, text=True, check=True, env=environment
    )
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == 4
    assert max(differences) < 3e-6


def test_backend__that_is_not_here_is_refused() -> None:
    geometry = ParallelBeamGeometry(np.array([0.0, 1.0, 2.0]), FlatPanel(1, 4, 1.0, 1.0))
    grid = VolumeGrid((1, 1, 1), (1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="expected cpu or cuda, found 'opencl'"):
        SlabReconstruction(geometry, grid, backend="opencl")
    if not is_available():
        with pytest.raises(UsageError, match=r"expected an NVIDIA GPU .* found none; use cpu"):
            SlabReconstruction(geometry, grid, backend="cuda")
