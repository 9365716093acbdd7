"""Whether a scan sees what it is asked to show: all around, and where the voxels are."""

import math

import numpy as np

from pacspark.ct.geometry import Geometry, VolumeGrid
from pacspark.errors import GeometryError

LARGEST_GAP_RAD = math.radians(20)
"""A larger arc without views is a scan that does not close, unless its steps are that coarse."""
COARSEST_GAP_STEPS = 1.5
"""The largest arc without views of a scan of few views, in steps of an even scan."""


def largest_gap_rad(geometry: Geometry) -> float:
    """Return the largest arc without a view, on the circle that the beam needs."""
    turned = np.sort(np.mod(geometry.gantry_angles_rad, geometry.period_rad))
    return float(np.diff(turned, append=turned[:1] + geometry.period_rad).max())


def require_closed(geometry: Geometry) -> None:
    """Refuse a scan that leaves out a part of the circle; of parallel beam, of half of it.

    Raises
    ------
    GeometryError
        When the largest gap between neighbouring views is no step any more.
    """
    gap_rad = largest_gap_rad(geometry)
    equal_step_rad = geometry.period_rad / geometry.n_angles
    if gap_rad > max(LARGEST_GAP_RAD, COARSEST_GAP_STEPS * equal_step_rad):
        period_deg = math.degrees(geometry.period_rad)
        message = (
            f"gantry_angles_rad: expected views all around {period_deg:.0f} degrees, "
            f"found none for {math.degrees(gap_rad):.1f} degrees; short scans are not supported yet"
        )
        raise GeometryError(message)


def view_radius_mm(geometry: Geometry) -> float:
    """Return how far from the rotation axis the outermost ray passes; beyond, nothing is seen.

    Of a detector beside the axis the farther edge counts: a full turn sees both sides by it.
    """
    u_mm, half_mm = geometry.detector.u_mm, geometry.detector.column_spacing_mm / 2
    return geometry.axis_distance_mm(max(abs(u_mm[0] - half_mm), abs(u_mm[-1] + half_mm)))


def require_seen(geometry: Geometry, grid: VolumeGrid) -> None:
    """Refuse a grid of which no voxel is in the field of view.

    Raises
    ------
    GeometryError
        When all voxels lie beside it, above it or below it, or reach the source's circle.
    """
    sides = zip(grid.center_mm[1:], grid.shape[1:], grid.voxel_mm[1:], strict=True)
    nearest_mm = math.hypot(
        *(max(0.0, abs(center) - count / 2 * edge) for center, count, edge in sides)
    )
    radius_mm = view_radius_mm(geometry)
    if nearest_mm > radius_mm:
        message = (
            f"grid: expected voxels within the field of view, {radius_mm:.4g} mm around the "
            f"rotation axis, found none nearer than {nearest_mm:.4g} mm; move center_mm"
        )
        raise GeometryError(message)
    detector = geometry.detector
    half_mm = detector.row_spacing_mm / 2
    seen_mm = float(detector.v_mm.min() - half_mm), float(detector.v_mm.max() + half_mm)
    low_mm, high_mm = geometry.v_range_mm(grid)
    if low_mm > seen_mm[1] or high_mm < seen_mm[0]:
        message = (
            f"grid: expected slices that the detector sees, from v = {seen_mm[0]:.4g} to "
            f"{seen_mm[1]:.4g} mm, found all of them projected to {low_mm:.4g} to {high_mm:.4g} "
            "mm; move center_mm"
        )
        raise GeometryError(message)
