"""Scanners, detectors and grids, in millimetres and radians.

One convention, right-handed: the origin is the isocenter, z is the rotation axis. At gantry angle
``beta`` the source lies at ``(cos beta, sin beta, 0)`` times its distance, so it starts on +x and
moves counterclockwise as seen from +z::

              y                      u = (-sin beta, cos beta, 0)   along a detector row
              ^    . source          v = (0, 0, 1)                  along a detector column
              |   /
              |  / beta              detector point of pixel (row, column):
      --------o---------> x            (iso_to_source - source_to_detector) * (cos, sin, 0)
             /|                        + u_mm * u + v_mm * v
            / |
      =====+===== detector         u_mm = (column - (n_columns - 1) / 2) * column_spacing + offset_u
                                   v_mm = +-(row - (n_rows - 1) / 2) * row_spacing + offset_v

``row_order`` says the sign of v: ``top_down`` (row 0 is the highest v) or ``bottom_up``. An offset
is the position of the detector's centre along +u or +v, from where the ray through the isocenter
meets it. Clockwise scans have negative angles. In a parallel beam the rays run along
``-(cos beta, sin beta, 0)`` and u and v mean the same.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.angles import FULL_CIRCLE_RAD, is_closed
from pacspark.ct.checks import (
    LARGEST_MAGNIFICATION,
    MOST_ALONG_AXIS,
    require_count,
    require_length,
    require_numbers,
    require_place,
    require_shifts,
)
from pacspark.ct.grid import VolumeGrid as VolumeGrid  # noqa: PLC0414 -- one place for users
from pacspark.ct.grid import centers_mm
from pacspark.ct.values import ByValue
from pacspark.errors import GeometryError

RowOrder = Literal["top_down", "bottom_up"]

LEAST_OVERLAP_COLUMNS = 8
"""Columns that a half-fan sees beyond the axis. Of a water cylinder with fewer the middle is wrong,
by how the axis falls between columns: with 6 by 10 HU, 4 by 70, 2 by 700, none by thousands."""
HALF_FAN_PART = 0.1
"""A detector is a half-fan's when its middle is further from the shadow of the axis than this part
of its half width; RTK decides alike."""
MAX_SPAN_RAD = 32 * math.pi
"""Angles that reach further than 16 turns are degrees by mistake."""
FURTHEST_RAD = 1e6
"""Double precision tells views apart by less than `TWINS_RAD` as far as this."""
ROW_MARGIN = 2
"""Rows that a band has beyond the outermost interpolated one."""


@dataclass(frozen=True, slots=True)
class FlatPanel:
    """A flat detector whose columns are parallel to the rotation axis.

    Parameters
    ----------
    n_rows, n_columns
        Pixels along v and u, >= 1.
    row_spacing_mm, column_spacing_mm
        Distance of neighbouring rows and columns, > 0.
    offset_u_mm, offset_v_mm
        Position of the detector's centre along +u and +v.
    row_order
        ``top_down``: row 0 is the highest v; ``bottom_up``: the lowest.
    """

    n_rows: int
    n_columns: int
    row_spacing_mm: float
    column_spacing_mm: float
    offset_u_mm: float = 0.0
    offset_v_mm: float = 0.0
    row_order: RowOrder = "top_down"

    def __post_init__(self) -> None:
        for name in ("n_rows", "n_columns"):
            value = require_count(f"detector.{name}", getattr(self, name), MOST_ALONG_AXIS)
            object.__setattr__(self, name, value)
        # of a description without row_spacing_mm, which is then the columns', the key that it has
        for name in ("column_spacing_mm", "row_spacing_mm"):
            length = require_length(f"detector.{name}", getattr(self, name))
            object.__setattr__(self, name, length)
        for name in ("offset_u_mm", "offset_v_mm"):
            length = require_place(f"detector.{name}", getattr(self, name))
            object.__setattr__(self, name, length)
        if self.row_order not in {"top_down", "bottom_up"}:
            message = (
                f"detector.row_order: expected top_down or bottom_up, found {self.row_order!r}"
            )
            raise GeometryError(message)

    @property
    def u_mm(self) -> NDArray[np.float64]:
        """Position of each column along u, mm."""
        return centers_mm(self.n_columns, self.column_spacing_mm, self.offset_u_mm)

    @property
    def u_edges_mm(self) -> tuple[float, float]:
        """Outer edges of the first and of the last column along u, mm."""
        half_mm, u_mm = self.column_spacing_mm / 2, self.u_mm
        return float(u_mm[0]) - half_mm, float(u_mm[-1]) + half_mm

    @property
    def v_mm(self) -> NDArray[np.float64]:
        """Position of each row along v, mm, in the order of the rows."""
        sign = -1.0 if self.row_order == "top_down" else 1.0
        return centers_mm(self.n_rows, sign * self.row_spacing_mm, self.offset_v_mm)


class _Views(ByValue, ABC):
    """What both beams share: views that are values, and a detector."""

    __slots__ = ()
    gantry_angles_rad: NDArray[np.float64]
    detector: FlatPanel

    @abstractmethod
    def v_range_mm(self, grid: VolumeGrid) -> tuple[float, float]:
        """Return between which positions along v the voxels of a grid are projected."""

    def row_band(self, grid: VolumeGrid) -> tuple[int, int]:
        """Return the detector rows ``(start, stop)`` that can contribute to a grid."""
        return _rows_between(self.detector, *self.v_range_mm(grid))

    @property
    def n_angles(self) -> int:
        """Number of views."""
        return len(self.gantry_angles_rad)

    @property
    def is_half_fan(self) -> bool:
        """Whether the detector is shifted along u to see the object from both sides by turns."""
        half_mm = self.detector.n_columns * self.detector.column_spacing_mm / 2
        shifted = abs(self.detector.offset_u_mm) > HALF_FAN_PART * half_mm
        return shifted and is_closed(self.gantry_angles_rad, FULL_CIRCLE_RAD)

    def half_view_mm(self) -> float:
        """Return how far along u from the axis' shadow the object is seen all round.

        Raises
        ------
        GeometryError
            When the detector does not see the axis, or a half-fan's sees too little beyond it.
        """
        low_mm, high_mm = self.detector.u_edges_mm
        half_mm = min(-low_mm, high_mm)
        if half_mm <= 0:
            message = (
                "detector.offset_u_mm: expected a detector that sees the rotation axis, found one "
                f"whose edge is {-half_mm:g} mm beside it; correct the offset"
            )
            raise GeometryError(message)
        if not self.is_half_fan:
            return half_mm
        if half_mm < LEAST_OVERLAP_COLUMNS * self.detector.column_spacing_mm:
            message = (
                f"detector.offset_u_mm: expected a half-fan with at least {LEAST_OVERLAP_COLUMNS} "
                f"columns beyond the axis, found {half_mm / self.detector.column_spacing_mm:.1f}"
            )
            raise GeometryError(message)
        return max(-low_mm, high_mm)

    def _check(self) -> None:
        object.__setattr__(self, "gantry_angles_rad", _checked_angles(self.gantry_angles_rad))
        if not isinstance(self.detector, FlatPanel):
            message = f"detector: expected a FlatPanel, found {self.detector!r}"
            raise GeometryError(message)


@dataclass(frozen=True, slots=True, eq=False)
class ConeBeamGeometry(_Views):
    """A point source and a flat detector on a circle around the rotation axis.

    A fan beam is a cone beam with one detector row.

    Parameters
    ----------
    source_to_isocenter_mm
        > 0.
    source_to_detector_mm
        Along the ray through the isocenter; not less than `source_to_isocenter_mm`.
    gantry_angles_rad
        ``(n_angles,)``, finite; any start, order and steps. Clockwise scans have falling angles.
    detector
        The flat panel.
    source_shifts_mm
        ``(n_angles, 2)``: how much further from the axis than `source_to_isocenter_mm`, and how
        high above z = 0, the source of each view is; None: not at all. The detector goes with the
        source: v counts from the source's height.

    Raises
    ------
    GeometryError
        When a value cannot be, or the angles look like degrees.

    Examples
    --------
    >>> panel = FlatPanel(n_rows=4, n_columns=6, row_spacing_mm=1.0, column_spacing_mm=1.0)
    >>> ConeBeamGeometry(500.0, 1000.0, [0.0, 3.14], panel).magnification
    2.0
    """

    source_to_isocenter_mm: float
    source_to_detector_mm: float
    gantry_angles_rad: NDArray[np.float64]
    detector: FlatPanel
    source_shifts_mm: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for name in ("source_to_isocenter_mm", "source_to_detector_mm"):
            object.__setattr__(self, name, require_length(name, getattr(self, name)))
        shortest_mm = self.source_to_detector_mm / LARGEST_MAGNIFICATION
        require_length("source_to_isocenter_mm", self.source_to_isocenter_mm, shortest_mm)
        if self.source_to_detector_mm < self.source_to_isocenter_mm:
            message = (
                "source_to_detector_mm: expected a detector behind the rotation axis, at least "
                f"source_to_isocenter_mm = {self.source_to_isocenter_mm:g}, found "
                f"{self.source_to_detector_mm:g}; are the two swapped?"
            )
            raise GeometryError(message)
        self._check()
        for name in ("offset_u_mm", "offset_v_mm"):
            # a detector beyond is further than 45 degrees from the ray through the isocenter
            offset_mm = getattr(self.detector, name)
            require_place(f"detector.{name}", offset_mm, self.source_to_detector_mm)
        if self.source_shifts_mm is not None:
            shifts = require_shifts(self.source_shifts_mm, self.n_angles)
            object.__setattr__(self, "source_shifts_mm", shifts)
            if self.source_radii_mm.min() <= 0:
                message = (
                    "source_shifts_mm: expected sources off the axis, found one "
                    f"{self.source_radii_mm.min():g} mm from it"
                )
                raise GeometryError(message)

    @property
    def source_radii_mm(self) -> NDArray[np.float64]:
        """Distance of each view's source from the rotation axis, mm."""
        radii = np.full(self.n_angles, self.source_to_isocenter_mm)
        return radii if self.source_shifts_mm is None else radii + self.source_shifts_mm[:, 0]

    @property
    def source_z_mm(self) -> NDArray[np.float64]:
        """Height of each view's source, mm."""
        if self.source_shifts_mm is None:
            return np.zeros(self.n_angles)
        return self.source_shifts_mm[:, 1]

    @property
    def magnification(self) -> float:
        """How much larger a shadow at the isocenter is on the detector."""
        return self.source_to_detector_mm / self.source_to_isocenter_mm

    def axis_distance_mm(self, u_mm: float) -> float:
        """Return how far from the rotation axis the ray to a position along u passes."""
        return self.source_to_isocenter_mm * math.sin(math.atan2(u_mm, self.source_to_detector_mm))

    def v_range_mm(self, grid: VolumeGrid) -> tuple[float, float]:
        """Return between which positions along v the voxels of a grid are projected.

        Raises
        ------
        GeometryError
            When the grid reaches the source's circle.
        """
        reach_mm = grid.reach_mm
        # once where all sources are alike: plans ask thousands of times
        shifts_mm = np.zeros((1, 2)) if self.source_shifts_mm is None else self.source_shifts_mm
        radii_mm = self.source_to_isocenter_mm + shifts_mm[:, 0]
        if reach_mm >= radii_mm.min():
            message = (
                f"grid: expected voxels less than source_to_isocenter_mm = {radii_mm.min():g} from "
                f"the rotation axis, found {reach_mm:g}"
            )
            raise GeometryError(message)
        reached = [
            (z - shifts_mm[:, 1]) * self.source_to_detector_mm / (radii_mm + side * reach_mm)
            for z in grid.ends_mm(0)
            for side in (-1, 1)
        ]
        return float(np.min(reached)), float(np.max(reached))

    def fit_grid(self) -> VolumeGrid:
        """Return the field of view, at the detector's resolution at the isocenter.

        The field of view is the cylinder that every view sees whole; its ends are where the cone
        still sees the axis.
        """
        radius_mm = self.axis_distance_mm(self.half_view_mm())
        return _fitted(self.detector, radius_mm, self.magnification)


@dataclass(frozen=True, slots=True, eq=False)
class ParallelBeamGeometry(_Views):
    """Parallel rays and a flat detector that turn around the rotation axis.

    Parameters
    ----------
    gantry_angles_rad
        ``(n_angles,)``; half a circle is enough.
    detector
        The flat panel.
    """

    gantry_angles_rad: NDArray[np.float64]
    detector: FlatPanel

    def __post_init__(self) -> None:
        self._check()

    @property
    def magnification(self) -> float:
        """One: parallel rays do not magnify."""
        return 1.0

    def axis_distance_mm(self, u_mm: float) -> float:
        """Return how far from the rotation axis the ray to a position along u passes."""
        return u_mm

    def v_range_mm(self, grid: VolumeGrid) -> tuple[float, float]:
        """Return between which positions along v the voxels of a grid are projected."""
        return grid.ends_mm(0)

    def fit_grid(self) -> VolumeGrid:
        """Return the cylinder that every view sees whole, at the detector's resolution."""
        return _fitted(self.detector, self.half_view_mm(), 1.0)


Geometry = ConeBeamGeometry | ParallelBeamGeometry


def _rows_between(detector: FlatPanel, low_mm: float, high_mm: float) -> tuple[int, int]:
    first_mm = detector.v_mm[0]
    step_mm = detector.row_spacing_mm * (-1.0 if detector.row_order == "top_down" else 1.0)
    ends = sorted(((low_mm - first_mm) / step_mm, (high_mm - first_mm) / step_mm))
    start = min(max(math.floor(ends[0]) - ROW_MARGIN, 0), detector.n_rows - 1)
    stop = max(min(math.ceil(ends[1]) + ROW_MARGIN + 1, detector.n_rows), start + 1)
    return start, stop


def _fitted(detector: FlatPanel, radius_mm: float, magnification: float) -> VolumeGrid:
    edge_mm = detector.column_spacing_mm / magnification
    n_xy = max(1, math.floor(2 * radius_mm / edge_mm))
    dz_mm = detector.row_spacing_mm / magnification
    center_z_mm = detector.offset_v_mm / magnification
    return VolumeGrid(
        (detector.n_rows, n_xy, n_xy), (dz_mm, edge_mm, edge_mm), (center_z_mm, 0.0, 0.0)
    )


def _checked_angles(angles: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    checked = require_numbers("gantry_angles_rad", angles)
    if checked.ndim != 1 or not checked.size:
        message = f"gantry_angles_rad: expected a list of angles, found shape {checked.shape}"
        raise GeometryError(message)
    if not np.isfinite(checked).all():
        first = int(np.flatnonzero(~np.isfinite(checked))[0])
        message = f"gantry_angles_rad[{first}]: expected a number, found {checked[first]}"
        raise GeometryError(message)
    span = float(checked.max() - checked.min())
    if span > MAX_SPAN_RAD:
        message = (
            f"gantry_angles_rad: expected radians, found a span of {span:g}, which looks like "
            "degrees; convert with numpy.radians"
        )
        raise GeometryError(message)
    furthest = float(np.abs(checked).max())
    if furthest > FURTHEST_RAD:
        message = (
            f"gantry_angles_rad: expected angles within +-{FURTHEST_RAD:g}, found {furthest:g}, "
            "whose direction rounding has lost; count turns from 0"
        )
        raise GeometryError(message)
    checked.flags.writeable = False
    return checked
