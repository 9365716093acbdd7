"""How often a scan measures each ray, and what each of its views therefore counts.

A ray that is measured twice counts half each time, or by shares that add up to one and fade to
nothing where a scan or a detector ends, so that the filter meets no edge:

* a full circle of a cone beam measures every ray of the middle plane twice, from both its ends;
* a **half-fan**, a full circle with a detector that is shifted along u to see one side of the
  object only, measures the rays near the axis twice and the others once (Wang, X-ray micro-CT with
  a displaced detector array, Med. Phys. 29, 2002);
* a **short scan**, half a circle and the angle of the fan, measures twice what both of its ends see
  (Parker, Optimal short scan convolution reconstruction for fanbeam CT, Med. Phys. 9, 1982); a scan
  between that and the full circle is the same with longer ramps;
* parallel rays are the same from opposite sides: half a circle measures each once.

With gamma the angle of a ray in the fan, positive along +u, the ray of ``(beta, gamma)`` is seen
again from its other end as ``(beta + pi - 2 gamma, -gamma)``.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.angles import (
    FULL_CIRCLE_RAD,
    LARGEST_GAP_RAD,
    LEAST_VIEWS,
    TWINS_RAD,
    angular_gaps,
    is_closed,
    is_hole,
)
from pacspark.ct.geometry import ConeBeamGeometry, Geometry
from pacspark.errors import GeometryError


class Redundancy:
    """What every detector column of every view of a scan counts.

    Parameters
    ----------
    geometry
        The whole scan.

    Attributes
    ----------
    columns_before, columns_after
        Columns that a half-fan's detector lacks on its short side to reach as far as on the long
        one. Nothing is measured there, but what the filter spreads there belongs to the image.

    Raises
    ------
    GeometryError
        When the views leave out rays that a reconstruction needs.
    """

    def __init__(self, geometry: Geometry) -> None:
        geometry.half_view_mm()
        angles = geometry.gantry_angles_rad
        cone = isinstance(geometry, ConeBeamGeometry)
        period_rad = FULL_CIRCLE_RAD if cone or geometry.is_half_fan else math.pi
        closed = is_closed(angles, period_rad)
        if isinstance(geometry, ConeBeamGeometry):
            _require_one_height(geometry)
        self.columns_before = self.columns_after = 0
        self._turns_rad, self._overscan_rad = angles, 0.0
        self._fan_rad = _fan_rad(geometry)
        self.is_short_scan = False
        """Whether the views end before they close the circle."""
        if not closed:
            _require_no_holes(angles, period_rad, 1 if cone else 0)
            if isinstance(geometry, ConeBeamGeometry):
                self.is_short_scan = True
                self._turns_rad, self._overscan_rad = _short_scan(geometry, angles)
        self.arcs_rad = shared_arcs(angles, period_rad, closed=closed)
        """The arc that each view stands for, ``(n_angles,)``."""
        self._shares = np.full(self._fan_rad.shape, 0.5 if cone else 1.0)
        if geometry.is_half_fan:
            self._shares = _half_fan_shares(geometry, self._fan_rad)
            self.columns_before, self.columns_after = _missing_columns(geometry)

    def weights(self, views: slice) -> NDArray[np.float64]:
        """Return what the columns of some views count, ``(n, n_columns)``, radians."""
        shares = self._shares
        if self.is_short_scan:
            shares = short_scan_shares(
                self._turns_rad[views, None], self._fan_rad, self._overscan_rad
            )
        weights: NDArray[np.float64] = self.arcs_rad[views, None] * shares
        return weights


def _require_one_height(geometry: ConeBeamGeometry) -> None:
    """Refuse sources that climb: those of a circle wobble by less than the detector sees."""
    heights_mm = geometry.source_z_mm
    detector = geometry.detector
    seen_mm = detector.n_rows * detector.row_spacing_mm / geometry.magnification
    if np.ptp(heights_mm) > seen_mm:
        message = (
            "source_shifts_mm: expected sources about one circle, whose heights differ by no more "
            f"than the {seen_mm:.4g} mm of the axis that a view sees, found heights from "
            f"{heights_mm.min():.4g} to {heights_mm.max():.4g} mm; helical orbits are not "
            "reconstructed"
        )
        raise GeometryError(message)


def require_rays(geometry: Geometry) -> None:
    """Refuse a scan whose views leave out rays that a reconstruction needs.

    Raises
    ------
    GeometryError
        When they do.
    """
    Redundancy(geometry)


def shared_arcs(
    angles_rad: NDArray[np.float64], period_rad: float, *, closed: bool = True
) -> NDArray[np.float64]:
    """Return the arc that each view stands for, ``(n_angles,)``; closed, they sum to the period.

    Half of the gap to each neighbour on the circle, so unequal steps, any order and a repeated end
    point weigh what they should; views from the same place share theirs alike.

    Parameters
    ----------
    angles_rad
        ``(n_angles,)``, in any order.
    period_rad
        The full circle, or half of it where opposite views see the same.
    closed
        False: the largest gap is where the scan ends, and stands for nothing.
    """
    turned = np.mod(angles_rad, period_rad)
    # rounding may leave an angle of exactly one period just below it: the gaps absorb that
    order = np.argsort(turned, kind="stable")
    _, gaps = angular_gaps(angles_rad, period_rad)
    before = np.roll(gaps, 1)
    # views of several turns coincide but for rounding: each group shares its arc, so all count
    apart = before > TWINS_RAD
    group = np.cumsum(apart) % max(int(apart.sum()), 1)
    if not closed:
        gaps = np.where(gaps == gaps.max(), 0.0, gaps)
        before = np.roll(gaps, 1)
    arcs = np.bincount(group, (gaps + before) / 2) / np.bincount(group)
    weights = np.empty_like(gaps)
    weights[order] = arcs[group]
    return weights


def short_scan_shares(
    turns_rad: NDArray[np.float64], fan_rad: NDArray[np.float64], overscan_rad: float
) -> NDArray[np.float64]:
    """Return Parker's shares of rays; those of both ends of a ray add up to one.

    Parameters
    ----------
    turns_rad
        Gantry angles counted from the first view, in ``[0, pi + 2 overscan_rad]``.
    fan_rad
        Angles of rays in the fan, positive along +u.
    overscan_rad
        Half of what the scan has beyond half a circle; of the shortest possible, the half angle of
        the fan.
    """
    rising = overscan_rad + fan_rad
    falling = overscan_rad - fan_rad
    left = math.pi + 2 * overscan_rad - turns_rad
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = np.sin(np.pi / 4 * turns_rad / rising) ** 2
        fall = np.sin(np.pi / 4 * left / falling) ** 2
    shares: NDArray[np.float64] = np.where(turns_rad < 2 * rising, rise, 1.0)
    shares *= np.where(left < 2 * falling, fall, 1.0)
    return shares


def _fan_rad(geometry: Geometry) -> NDArray[np.float64]:
    """Return the angle of each column's ray in the fan; of parallel rays its place along u, mm."""
    u_mm = geometry.detector.u_mm
    if isinstance(geometry, ConeBeamGeometry):
        return np.arctan(u_mm / geometry.source_to_detector_mm)
    return u_mm


def _short_scan(
    geometry: ConeBeamGeometry, angles_rad: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return the gantry angles from the first view on, and half of what exceeds half a circle."""
    turned, gaps = angular_gaps(angles_rad, FULL_CIRCLE_RAD)
    last = int(gaps.argmax())
    first_rad = turned[(last + 1) % len(turned)]
    turns = np.mod(angles_rad - first_rad, FULL_CIRCLE_RAD)
    turns[turns > FULL_CIRCLE_RAD - TWINS_RAD] = 0.0
    span_rad = float(turns.max())
    step_rad = min(span_rad / max(len(np.unique(turns)) - 1, 1), LARGEST_GAP_RAD)
    low_mm, high_mm = geometry.detector.u_edges_mm
    fan_rad = 2 * math.atan2(min(-low_mm, high_mm), geometry.source_to_detector_mm)
    # the last view that a scan misses is worth a step
    if span_rad + step_rad < math.pi + fan_rad:
        message = (
            f"gantry_angles_rad: expected views over 180 degrees and the fan's "
            f"{math.degrees(fan_rad):.1f}, found views over {math.degrees(span_rad):.1f} degrees"
        )
        raise GeometryError(message)
    return turns, (span_rad - math.pi) / 2


def _half_fan_shares(geometry: Geometry, fan_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Wang's shares of columns: none at the short side's end, all where no other sees."""
    overlap = min(-fan_rad[0], fan_rad[-1])
    side = math.copysign(1.0, geometry.detector.offset_u_mm)
    place = np.clip(fan_rad / overlap, -1.0, 1.0)
    shares: NDArray[np.float64] = 0.5 * (1 + side * np.sin(np.pi / 2 * place))
    return shares


def _missing_columns(geometry: Geometry) -> tuple[int, int]:
    low_mm, high_mm = geometry.detector.u_edges_mm
    count = math.ceil(abs(high_mm + low_mm) / geometry.detector.column_spacing_mm)
    return (count, 0) if -low_mm < high_mm else (0, count)


def _require_no_holes(angles_rad: NDArray[np.float64], period_rad: float, allowed: int) -> None:
    """Refuse views with more gaps than the one where a short scan ends."""
    turned, gaps = angular_gaps(angles_rad, period_rad)
    count = int((gaps > TWINS_RAD).sum())
    if count < LEAST_VIEWS:
        message = (
            f"gantry_angles_rad: expected at least {LEAST_VIEWS} directions, found {max(count, 1)}"
        )
        raise GeometryError(message)
    holes = np.flatnonzero(is_hole(gaps))
    if len(holes) > allowed:
        # of a short scan with holes, the largest is its end
        hole = holes[np.argsort(gaps[holes])[-1 - allowed]]
        start_deg = math.degrees(turned[hole])
        gap_deg = math.degrees(gaps[hole])
        message = (
            f"gantry_angles_rad: expected views all around {math.degrees(period_rad):.0f} degrees"
            f"{' or a short scan' if allowed else ''}, found none for {gap_deg:.1f} degrees from "
            f"{start_deg:.1f} on"
        )
        raise GeometryError(message)
