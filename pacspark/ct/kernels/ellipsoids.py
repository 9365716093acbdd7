# mypy: allow-untyped-defs
"""Exact line integrals through ellipsoids: ``(e,9),(a),(u),(v)->(a,v,u)``."""

import math

import numba
import numpy as np

from pacspark.ct.kernels._jit import parallel_jit


@parallel_jit
def line_integrals(table, starts_mm, centers_mm, u_axes, v_axes, u_mm, v_mm, rays, integrals):
    """Fill `integrals` with density times chord, summed over the ellipsoids.

    A row of `table` is density, three semi-axes, centre x, y, z, and cosine and sine of the
    rotation about z. Rays go from the start of a view through the pixels, which lie ``u_mm`` and
    ``v_mm`` along the axes from the centre of the panel; those of parallel beams, where `rays` is
    ``(a,3)`` and not ``(0,3)``, go through the pixels along the view's ray.
    """
    n_ellipsoids = table.shape[0]
    for angle in numba.prange(centers_mm.shape[0]):
        for row in range(v_mm.size):
            for column in range(u_mm.size):
                u, v = u_mm[column], v_mm[row]
                place_x = centers_mm[angle, 0] + u * u_axes[angle, 0] + v * v_axes[angle, 0]
                place_y = centers_mm[angle, 1] + u * u_axes[angle, 1] + v * v_axes[angle, 1]
                place_z = centers_mm[angle, 2] + u * u_axes[angle, 2] + v * v_axes[angle, 2]
                if rays.shape[0]:
                    start_x, start_y, start_z = place_x, place_y, place_z
                    ray_x, ray_y, ray_z = rays[angle, 0], rays[angle, 1], rays[angle, 2]
                else:
                    start_x, start_y = starts_mm[angle, 0], starts_mm[angle, 1]
                    start_z = starts_mm[angle, 2]
                    ray_x, ray_y = place_x - start_x, place_y - start_y
                    ray_z = place_z - start_z
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
