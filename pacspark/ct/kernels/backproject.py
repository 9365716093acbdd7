"""Voxel-line backprojection of filtered views into a slab: ``(a,u,v),(a)->(y,x,z)``.

All voxels of a line parallel to z have the same depth and the same detector column position u, and
their detector row position v is affine in z. So per (x, y, view) everything but v is a scalar.

Layout, the same for every variant:

* ``filtered (a, u, v)``: v contiguous and rising with +v; one zero column before and after, and
  `PADDING` zero samples before and after each column, so that samples outside the detector count as
  zero and no bound is tested inside;
* ``slab (y, x, z)``: z contiguous; its first slice has an absolute index that is a multiple of 16 and
  its length is one too, so that runs of voxels fall on the same absolute slices however a volume is
  cut, and a slab is bit for bit the same part of a volume;
* positions are computed in double precision from absolute indices, interpolation in single.
"""

import math

import numba
import numpy as np

from pacspark.ct.kernels._jit import jit, parallel_jit
from pacspark.ct.kernels.lanes import resample_8, resample_16

PADDING = 48
"""Zero samples before and after each detector column: two runs of sixteen, and an interpolation."""
RUN = 16
"""Slices of slabs come in multiples of this."""
TILE = 16
ANGLES_AT_ONCE = 8


@jit
def line_16(sums, column_0, column_1, weight_0, weight_1, origin, step, z_start, n_z, row_start, n_v):
    """Add one view to a line of voxels, sixteen at a time; the step is at most one."""
    for at in range(0, n_z, 16):
        position = origin + (z_start + at) * step
        below = math.floor(position)
        base = np.int64(below) - row_start + PADDING
        if base < PADDING - 32 or base > n_v + PADDING:
            continue
        resample_16(
            sums, at, column_0, column_1, base, weight_0, weight_1,
            np.float32(position - below), np.float32(step),
        )  # fmt: skip


@jit
def line_8(sums, column_0, column_1, weight_0, weight_1, origin, step, z_start, n_z, row_start, n_v):
    """Add one view to a line of voxels, eight at a time; the step is at most one."""
    for at in range(0, n_z, 8):
        position = origin + (z_start + at) * step
        below = math.floor(position)
        base = np.int64(below) - row_start + PADDING
        if base < PADDING - 32 or base > n_v + PADDING:
            continue
        resample_8(
            sums, at, column_0, column_1, base, weight_0, weight_1,
            np.float32(position - below), np.float32(step),
        )  # fmt: skip


@jit
def line_1(sums, column_0, column_1, weight_0, weight_1, origin, step, z_start, n_z, row_start, n_v):
    """Add one view to a line of voxels, one at a time; any step, any CPU."""
    # rows -1 .. n_v are where an interpolation can find a sample that is not zero
    first = origin + z_start * step - row_start
    start = max(0, np.int64(math.floor((-1 - first) / step)))
    stop = min(n_z, np.int64(math.floor((n_v - first) / step)) + 2)
    for at in range(start, stop):
        position = origin + (z_start + at) * step
        below = math.floor(position)
        base = np.int64(below) - row_start + PADDING
        if base < PADDING - 1 or base >= n_v + PADDING:
            continue
        part = np.float32(position - below)
        left = weight_0 * column_0[base] + weight_1 * column_1[base]
        right = weight_0 * column_0[base + 1] + weight_1 * column_1[base + 1]
        sums[at] += left + part * (right - left)


def _make_backproject(line, longest_step):
    """Make the kernel around a line function; longer steps than it can do go one at a time."""

    @parallel_jit
    def backproject(
        filtered, slab, cosines, sines, x_mm, y_mm,
        isocenter_mm, detector_mm, u_per_mm, u_origin, v_per_mm, v_origin,
        z_origin_mm, dz_mm, z_start, row_start, parallel_beam,
    ):  # fmt: skip
        """Add views to a slab: ``(a,u,v),(y,x,z),(a),(a),(x),(y) -> (y,x,z)`` in place.

        ``u_origin`` and ``v_origin`` are the positions, in columns of `filtered` and rows of the
        whole detector, of the ray through the isocenter; ``z_origin_mm`` is where the absolute
        slice 0 lies. ``z_start`` and ``row_start`` are the absolute indices of the slab's first
        slice and of the first row that `filtered` holds.
        """
        n_angles, n_u, n_v = filtered.shape
        n_v -= 2 * PADDING
        n_y, n_x, n_z = slab.shape
        n_tiles_x = (n_x + TILE - 1) // TILE
        n_tiles = n_tiles_x * ((n_y + TILE - 1) // TILE)
        for tile in numba.prange(n_tiles):
            y_start = tile // n_tiles_x * TILE
            x_start = tile % n_tiles_x * TILE
            for angle_start in range(0, n_angles, ANGLES_AT_ONCE):
                angle_stop = min(n_angles, angle_start + ANGLES_AT_ONCE)
                for row in range(y_start, min(n_y, y_start + TILE)):
                    for column in range(x_start, min(n_x, x_start + TILE)):
                        sums = slab[row, column]
                        for angle in range(angle_start, angle_stop):
                            cosine, sine = cosines[angle], sines[angle]
                            across = y_mm[row] * cosine - x_mm[column] * sine
                            scale = weight = 1.0
                            if not parallel_beam:
                                depth = isocenter_mm - (x_mm[column] * cosine + y_mm[row] * sine)
                                inverse = 1.0 / depth
                                scale = detector_mm * inverse
                                weight = isocenter_mm * inverse
                                weight *= weight
                            position = across * scale * u_per_mm + u_origin
                            left = math.floor(position)
                            if left < 0 or left >= n_u - 1:
                                continue
                            at = np.int64(left)
                            part = position - left
                            step = dz_mm * scale * v_per_mm
                            origin = z_origin_mm * scale * v_per_mm + v_origin
                            if step <= longest_step:
                                line(
                                    sums, filtered[angle, at], filtered[angle, at + 1],
                                    np.float32((1.0 - part) * weight), np.float32(part * weight),
                                    origin, step, z_start, n_z, row_start, n_v,
                                )  # fmt: skip
                            else:
                                line_1(
                                    sums, filtered[angle, at], filtered[angle, at + 1],
                                    np.float32((1.0 - part) * weight), np.float32(part * weight),
                                    origin, step, z_start, n_z, row_start, n_v,
                                )  # fmt: skip

    return backproject


backproject_avx512 = _make_backproject(line_16, 1.0)
backproject_avx2 = _make_backproject(line_8, 1.0)
backproject_portable = _make_backproject(line_1, 0.0)


@parallel_jit
def arrange(filtered_rows, arranged):
    """Turn filtered rows into columns: ``(a,v,u)->(a,u,v)`` inside the padding; rows rise with v."""
    n_angles, n_v, n_u = filtered_rows.shape
    for angle in numba.prange(n_angles):
        for u_start in range(0, n_u, 32):
            for v_start in range(0, n_v, 32):
                for u in range(u_start, min(n_u, u_start + 32)):
                    for v in range(v_start, min(n_v, v_start + 32)):
                        arranged[angle, u + 1, v + PADDING] = filtered_rows[angle, v, u]
