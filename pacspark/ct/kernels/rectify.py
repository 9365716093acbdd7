# mypy: allow-untyped-defs
"""Frames seen by other panels: ``(a,v,u),(a,3,3)->(a,v,u)``."""

import math

import numba
import numpy as np

from pacspark.ct.kernels._jit import jit, parallel_jit


@jit
def cubic(part):
    """Return the weights of the four samples around a place, ``part`` after the second."""
    before, after = 1.0 + part, 1.0 - part
    return (
        ((-0.5 * before + 2.5) * before - 4.0) * before + 2.0,
        (1.5 * part - 2.5) * part * part + 1.0,
        (1.5 * after - 2.5) * after * after + 1.0,
        ((-0.5 * (1.0 + after) + 2.5) * (1.0 + after) - 4.0) * (1.0 + after) + 2.0,
    )


@parallel_jit
def resample(frames, homographies, resampled):
    """Fill `resampled` with what `frames` hold where the homographies take its pixels.

    A homography takes ``(column, row, 1)`` to a pixel of the frame times any factor. Beyond the
    frame, its edge goes on.
    """
    n_angles, n_rows, n_columns = resampled.shape
    last_row, last_column = frames.shape[1] - 1, frames.shape[2] - 1
    for line in numba.prange(n_angles * n_rows):
        angle, row = line // n_rows, line % n_rows
        turn = homographies[angle]
        for column in range(n_columns):
            depth = turn[2, 0] * column + turn[2, 1] * row + turn[2, 2]
            x = (turn[0, 0] * column + turn[0, 1] * row + turn[0, 2]) / depth
            y = (turn[1, 0] * column + turn[1, 1] * row + turn[1, 2]) / depth
            x = min(max(x, 0.0), float(last_column))
            y = min(max(y, 0.0), float(last_row))
            left, top = np.int64(math.floor(x)), np.int64(math.floor(y))
            weights_x, weights_y = cubic(x - left), cubic(y - top)
            total = 0.0
            for down in range(4):
                place_y = min(max(top + down - 1, 0), last_row)
                across = 0.0
                for along in range(4):
                    place_x = min(max(left + along - 1, 0), last_column)
                    across += weights_x[along] * frames[angle, place_y, place_x]
                total += weights_y[down] * across
            resampled[angle, row, column] = np.float32(total)
