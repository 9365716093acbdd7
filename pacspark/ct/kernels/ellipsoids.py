# mypy: allow-untyped-defs
"""Exact line integrals through ellipsoids: ``(e,9),(a),(u),(v)->(a,v,u)``."""

import math

import numba
import numpy as np

from pacspark.ct.kernels._jit import parallel_jit


@parallel_jit
def line_integrals(
    table,
    cosines,
    sines,
    u_mm,
    v_mm,
    source_to_isocenter_mm,
    source_to_detector_mm,
    parallel_beam,
    integrals,
):
    """Fill `integrals` with density times chord, summed over the ellipsoids.

    A row of `table` is density, three semi-axes, centre x, y, z, and cosine and sine of the
    rotation about z.
    """
    n_ellipsoids = table.shape[0]
    for angle in numba.prange(cosines.size):
        cosine, sine = cosines[angle], sines[angle]
        for row in range(v_mm.size):
            for column in range(u_mm.size):
                u, v = u_mm[column], v_mm[row]
                if parallel_beam:
                    start_x, start_y, start_z = -u * sine, u * cosine, v
                    ray_x, ray_y, ray_z = -cosine, -sine, 0.0
                else:
                    start_x, start_y, start_z = (
                        source_to_isocenter_mm * cosine,
                        source_to_isocenter_mm * sine,
                        0.0,
                    )
                    ray_x = -source_to_detector_mm * cosine - u * sine
                    ray_y = -source_to_detector_mm * sine + u * cosine
                    ray_z = v
                    length = math.sqrt(ray_x**2 + ray_y**2 + ray_z**2)
                    ray_x /= length
                    ray_y /= length
                    ray_z /= length
                total = 0.0
                for number in range(n_ellipsoids):
                    turn_cosine, turn_sine = table[number, 7], table[number, 8]
                    from_x = start_x - table[number, 4]
                    from_y = start_y - table[number, 5]
                    from_z = (start_z - table[number, 6]) / table[number, 3]
                    along_x = (from_x * turn_cosine + from_y * turn_sine) / table[number, 1]
                    along_y = (from_y * turn_cosine - from_x * turn_sine) / table[number, 2]
                    to_x = (ray_x * turn_cosine + ray_y * turn_sine) / table[number, 1]
                    to_y = (ray_y * turn_cosine - ray_x * turn_sine) / table[number, 2]
                    to_z = ray_z / table[number, 3]
                    a = to_x**2 + to_y**2 + to_z**2
                    b = along_x * to_x + along_y * to_y + from_z * to_z
                    c = along_x**2 + along_y**2 + from_z**2 - 1
                    under_root = b * b - a * c
                    if under_root > 0:
                        total += table[number, 0] * 2 * math.sqrt(under_root) / a
                integrals[angle, row, column] = np.float32(total)
