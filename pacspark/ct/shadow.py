"""Where on the detector each view sees a box of voxels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ROW_MARGIN, ConeBeamGeometry, Geometry
from pacspark.ct.grid import VolumeGrid
from pacspark.ct.redundancy import Redundancy

Indices = NDArray[np.int64]
COLUMN_MARGIN = 2
"""Columns that a window has beyond the outermost interpolated one."""


@dataclass(frozen=True, slots=True)
class FilteredView:
    """What the columns and rows of a filtered view are, as `kernels.backproject` counts them.

    Rows rise with v. Columns are those of the detector and what a half-fan lacks, with a column of
    zeros before and after.

    Attributes
    ----------
    n_columns, n_rows
        Of a whole view.
    u_per_mm, u_origin, v_per_mm, v_origin
        ``column = u_mm * u_per_mm + u_origin``, ``row = v_mm * v_per_mm + v_origin``, from the
        horizontal ray through the axis.
    """

    n_columns: int
    n_rows: int
    u_per_mm: float
    u_origin: float
    v_per_mm: float
    v_origin: float

    @classmethod
    def of(cls, geometry: Geometry) -> "FilteredView":
        """Describe the filtered views of a scan."""
        detector, redundancy = geometry.detector, Redundancy(geometry)
        before, after = redundancy.columns_before, redundancy.columns_after
        return cls(
            before + detector.n_columns + after + 2,
            detector.n_rows,
            1 / detector.column_spacing_mm,
            (detector.n_columns - 1) / 2
            - detector.offset_u_mm / detector.column_spacing_mm
            + before
            + 1,
            1 / detector.row_spacing_mm,
            (detector.n_rows - 1) / 2 - detector.offset_v_mm / detector.row_spacing_mm,
        )

    def windows(self, geometry: Geometry, grid: VolumeGrid, views: slice) -> "Windows":
        """Return the smallest windows, alike in size, in which some views see a box of voxels.

        The shadow of a box is convex and its corners are shadows of corners.
        """
        angles = geometry.gantry_angles_rad[views, None]
        cosines, sines = np.cos(angles), np.sin(angles)
        (y_low, y_high), (x_low, x_high) = grid.ends_mm(1), grid.ends_mm(2)
        x_mm = np.array([x_low, x_high, x_low, x_high])
        y_mm = np.array([y_low, y_low, y_high, y_high])
        scales, heights_mm = np.ones_like(cosines), np.zeros_like(cosines)
        if isinstance(geometry, ConeBeamGeometry):
            depths_mm = geometry.source_radii_mm[views, None] - (x_mm * cosines + y_mm * sines)
            scales = geometry.source_to_detector_mm / depths_mm
            heights_mm = geometry.source_z_mm[views, None]
        columns = (y_mm * cosines - x_mm * sines) * scales * self.u_per_mm + self.u_origin
        rows = np.concatenate(
            [(z - heights_mm) * scales * self.v_per_mm + self.v_origin for z in grid.ends_mm(0)],
            axis=1,
        )
        column_starts, n_columns = _windows(columns, COLUMN_MARGIN, self.n_columns)
        row_starts, n_rows = _windows(rows, ROW_MARGIN, self.n_rows)
        return Windows(column_starts, row_starts, n_columns, n_rows)


@dataclass(frozen=True, slots=True)
class Windows:
    """Parts of filtered views: where each begins, and how large all of them are.

    Attributes
    ----------
    column_starts, row_starts
        ``(n_views,)``.
    n_columns, n_rows
        Of each.
    """

    column_starts: Indices
    row_starts: Indices
    n_columns: int
    n_rows: int


def _windows(places: NDArray[np.float64], margin: int, count: int) -> tuple[Indices, int]:
    """Return where windows around the places of each row begin, and how long the longest is."""
    # first within what a whole number holds: shadows of what is not seen may be far away
    low = np.clip(np.floor(places.min(axis=1)) - margin, 0, count - 1)
    high = np.clip(np.floor(places.max(axis=1)) + margin + 2, 1, count)
    longest = int(max(1, (high - low).max()))
    return np.minimum(low, count - longest).astype(np.int64), longest
