# mypy: allow-untyped-defs, allow-untyped-calls
"""The same backprojection on an NVIDIA GPU: ``(a,u,v),(a)->(y,x,z)``, the layout of `backproject`.

One thread makes one voxel from all views of a block. Threads of a warp are neighbours along z: they
see the same detector column and neighbouring rows of it, so both their reads and their sums lie
side by side in memory.
"""

import math

import numpy as np
from numba import cuda

from pacspark.ct.kernels.backproject import PADDING

WARP = 32
LINES = 4
"""Voxel lines that a block of threads works on."""


@cuda.jit(fastmath=True)
def _backproject(
    filtered, slab, cosines, sines, x_mm, y_mm, source_radii_mm, source_z_mm,
    source_to_detector_mm, u_per_mm, u_origin, v_per_mm, v_origin, z_origin_mm, dz_mm, z_start,
    column_starts, row_starts, parallel_beam,
):  # fmt: skip
    z, column, row = cuda.grid(3)  # type: ignore[attr-defined]
    n_angles, n_u, n_padded = filtered.shape
    n_y, n_x, n_z = slab.shape
    if z >= n_z or column >= n_x or row >= n_y:
        return
    z_mm = z_origin_mm + (z_start + z) * dz_mm
    total = np.float32(0.0)
    for angle in range(n_angles):
        across_mm = y_mm[row] * cosines[angle] - x_mm[column] * sines[angle]
        scale, weight = 1.0, 1.0
        if not parallel_beam:
            depth_mm = source_radii_mm[angle] - (
                x_mm[column] * cosines[angle] + y_mm[row] * sines[angle]
            )
            scale = source_to_detector_mm / depth_mm
            weight = source_radii_mm[angle] / depth_mm
        u = across_mm * scale * u_per_mm + u_origin
        v = (z_mm - source_z_mm[angle]) * scale * v_per_mm + v_origin
        left, below = math.floor(u), math.floor(v)
        at = int(below) - row_starts[angle] + PADDING
        at_column = int(left) - column_starts[angle]
        if at_column < 0 or at_column >= n_u - 1 or at < 0 or at >= n_padded - 1:
            continue
        part_u, part_v = np.float32(u - left), np.float32(v - below)
        near, far = filtered[angle, at_column], filtered[angle, at_column + 1]
        low = near[at] + part_u * (far[at] - near[at])
        high = near[at + 1] + part_u * (far[at + 1] - near[at + 1])
        total += np.float32(weight * weight) * (low + part_v * (high - low))
    slab[row, column, z] += total


def is_available() -> bool:
    """Say whether there is a GPU that Numba can use."""
    return bool(cuda.is_available())


def zeros(shape):
    """Return a slab of zeros on the GPU."""
    return cuda.to_device(np.zeros(shape, np.float32))


def backproject(filtered, slab, *numbers):
    """Add views to a slab on the GPU; the arguments are those of `kernels.backproject`."""
    n_y, n_x, n_z = slab.shape
    blocks = (-(-n_z // WARP), -(-n_x // LINES), n_y)
    moved = [
        cuda.to_device(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        for value in (filtered, *numbers)
    ]
    _backproject[blocks, (WARP, LINES, 1)](moved[0], slab, *moved[1:])


def to_host(slab):
    """Return a slab as it is so far, in ordinary memory."""
    return slab.copy_to_host()
