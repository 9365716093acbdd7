"""What a scan says of space: the voxels that it sees, grids that fit, the unit of lengths."""

import logging
import math
from collections.abc import Sequence

from pacspark.ct.checks import require_count, require_voxel_edge
from pacspark.ct.geometry import Geometry, ParallelBeamGeometry, VolumeGrid
from pacspark.ct.kernels.backproject import MOST_ROWS
from pacspark.errors import GeometryError


def view_radius_mm(geometry: Geometry) -> float:
    """Return how far from the rotation axis the outermost ray passes; beyond, nothing is seen.

    Of a detector beside the axis the farther edge counts: a full turn sees both sides by it.
    """
    return geometry.axis_distance_mm(max(map(abs, geometry.detector.u_edges_mm)))


def length_unit(geometry: Geometry) -> str:
    """Return ``mm``, or ``pixels`` for parallel rays on a detector whose pixel counts as 1 mm.

    Parallel scans often come without a pixel size. What one of exactly 1 mm shows is as long in
    pixels as in mm, so the word is true there too.
    """
    detector = geometry.detector
    spacings = {detector.row_spacing_mm, detector.column_spacing_mm}
    return "pixels" if isinstance(geometry, ParallelBeamGeometry) and spacings == {1.0} else "mm"


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


def warn_beyond_view(geometry: Geometry, grid: VolumeGrid) -> None:
    """Tell of a grid that reaches, along x or y, beyond what is measured all round.

    Voxels there get values, as those in the corners of any grid do, that are no measurement: of a
    short scan whose detector is shifted, up to a quarter wrong.
    """
    seen_mm = geometry.axis_distance_mm(geometry.half_view_mm())
    reach_mm = max(abs(end) for axis in (1, 2) for end in grid.ends_mm(axis))
    if reach_mm - max(grid.voxel_mm[1:]) > seen_mm:
        logging.getLogger(__name__).warning(
            "grid: reaches %.4g mm from the rotation axis, of which the scan measures %.4g mm all "
            "round; values beyond are no measurement",
            reach_mm,
            seen_mm,
        )


def require_countable(geometry: Geometry, grid: VolumeGrid) -> None:
    """Refuse a grid that rows of the detector do not measure: far too many, or too fine.

    Raises
    ------
    GeometryError
        When a slice of the whole grid is seen millions of rows away, or reaches the source's
        circle.
    """
    detector = geometry.detector
    whole = VolumeGrid(grid.whole_shape, grid.voxel_mm, grid.center_mm)
    low_mm, high_mm = geometry.v_range_mm(whole)
    middle_mm = detector.offset_v_mm
    height_mm = max(high_mm - low_mm, abs(low_mm - middle_mm), abs(high_mm - middle_mm))
    rows = height_mm / detector.row_spacing_mm + detector.n_rows
    if not rows < MOST_ROWS:
        message = (
            f"grid: expected slices that are seen within {MOST_ROWS} rows of the detector, found "
            f"{rows:.3g} rows of row_spacing_mm = {detector.row_spacing_mm:g}; check it, voxel_mm "
            "and center_mm"
        )
        raise GeometryError(message)


def refit(
    grid: VolumeGrid,
    size: Sequence[int] | None,
    voxel_mm: float | None,
    center_mm: Sequence[float] | None,
) -> VolumeGrid:
    """Change a grid's size, voxels or centre; what is not given follows from the rest.

    `size` and `center_mm` are along x, y, z, as on the command line.
    """
    for name, count in zip("xyz", size or (), strict=False):
        require_count(f"size along {name}", count)
    if voxel_mm is not None:
        require_voxel_edge("voxel_mm", voxel_mm)
    extent_mm = [count * edge for count, edge in zip(grid.shape, grid.voxel_mm, strict=True)]
    shape = grid.shape if size is None else (size[2], size[1], size[0])
    voxel = grid.voxel_mm if voxel_mm is None else (voxel_mm, voxel_mm, voxel_mm)
    if size is None and voxel_mm is not None:
        n_z, n_y, n_x = (max(1, round(extent / voxel_mm)) for extent in extent_mm)
        shape = (n_z, n_y, n_x)
    elif size is not None and voxel_mm is None:
        # cubic voxels that let the wider of x and y reach across the field of view
        edge = max(extent_mm[1] / shape[1], extent_mm[2] / shape[2])
        voxel = (grid.voxel_mm[0] if shape[0] == grid.shape[0] == 1 else edge, edge, edge)
    center = grid.center_mm if center_mm is None else (center_mm[2], center_mm[1], center_mm[0])
    return VolumeGrid(shape=shape, voxel_mm=voxel, center_mm=center)
