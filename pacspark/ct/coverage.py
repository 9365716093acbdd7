"""Whether a scan sees the voxels that it is asked to show."""

import math

from pacspark.ct.geometry import Geometry, VolumeGrid
from pacspark.errors import GeometryError


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
