"""Angles around a circle: steps between views, holes, and where a scan ends."""

import math

import numpy as np
from numpy.typing import NDArray

FULL_CIRCLE_RAD = 2 * math.pi
LEAST_VIEWS = 3
"""Directions that a scan has at least."""
SMALLEST_HOLE_RAD = math.radians(5)
"""A smaller arc without views hardly shows in the image, whatever the steps."""
LARGEST_GAP_STEPS = 2.5
"""A larger arc without views, in steps of the others, is a hole or the end of a scan."""
LARGEST_GAP_RAD = math.radians(20)
"""So is a larger one than this, where it is no step: more than `COARSEST_STEPS`."""
COARSEST_STEPS = 1.5
TWINS_RAD = 1e-6
"""Views that are no further apart are one direction, seen again."""


def is_closed(angles_rad: NDArray[np.float64], period_rad: float) -> bool:
    """Say whether angles leave out no more of a circle (or half one) than steps between views."""
    return not is_hole(angular_gaps(angles_rad, period_rad)[1]).any()


def is_hole(gaps_rad: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which gaps around a circle are holes, and which are steps between views."""
    # views of several turns fall almost together: what lies between them is no step
    mean_rad = (gaps_rad.sum() - gaps_rad.max()) / max(len(gaps_rad) - 1, 1)
    steps = gaps_rad[gaps_rad > max(0.1 * mean_rad, TWINS_RAD)]
    if len(steps) < LEAST_VIEWS:
        return np.ones(len(gaps_rad), np.bool_)
    step_rad = float(np.median(steps))
    largest_rad = min(
        max(SMALLEST_HOLE_RAD, LARGEST_GAP_STEPS * step_rad),
        max(LARGEST_GAP_RAD, COARSEST_STEPS * step_rad),
    )
    return np.asarray(gaps_rad > largest_rad)


def angular_gaps(
    angles_rad: NDArray[np.float64], period_rad: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return angles in order around a circle, and the gap from each to the next."""
    ordered = np.sort(np.mod(angles_rad, period_rad))
    return ordered, np.diff(ordered, append=ordered[:1] + period_rad)
