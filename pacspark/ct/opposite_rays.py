"""How well the two measurements of each ray of a full circle agree.

A full circle measures every ray of the middle plane twice, from both of its ends (`redundancy`).
Which two belong together depends on the axis offset, and for diverging rays on the sense of
rotation too: at the truth they differ by noise only. No slice is needed for that, and noise is
averaged over all rays.

Views are taken as Fourier series over the circle, so a turn is a factor and nothing is interpolated
between views. With ``P_k(gamma)`` the k-th harmonic, opposite rays agree when
``P_k(gamma) = P_k(-gamma) exp(ik (pi - 2 gamma))``; scans the other way round have ``+ 2 gamma``.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from pacspark.ct.angles import FULL_CIRCLE_RAD, angular_gaps
from pacspark.ct.geometry import ConeBeamGeometry, Geometry
from pacspark.ct.redundancy import shared_arcs

MOST_HARMONICS: Final = 256
FEWEST_COLUMNS: Final = 4
"""To either side of the axis; half-fans that see fewer from both sides tell nothing."""
BEYOND_NOISE: Final = 5.0
"""In standard errors of the misfit."""
ROUNDING: Final = 1e-9
"""The part of the rays' power that is no difference at all."""


class OppositeRays:
    """The rays of a full circle that are measured twice, for any offset near the stated one.

    Parameters
    ----------
    sinogram
        (n_angles, n_columns), line integrals.
    geometry
        The scan as it is stated.
    reach_pixels
        How far from the stated offset it is looked at; half of what both sides see at most.

    Attributes
    ----------
    reach_pixels
        how far that is at last
    n_columns
        to either side of the axis that are compared
    """

    doubt = "too little structure, too much noise, or too few rays measured from both ends"
    """Why nothing may stand out."""
    praise = "rays measured from both ends differ x{:.2f} less"
    """What a `gain` means."""

    def __init__(
        self, sinogram: NDArray[np.float32], geometry: Geometry, reach_pixels: float
    ) -> None:
        detector = geometry.detector
        self._geometry = geometry
        seen = detector.n_columns / 2 - abs(detector.offset_u_mm) / detector.column_spacing_mm
        self.reach_pixels = max(0.0, min(reach_pixels, seen / 2))
        self.n_columns = max(1, int(seen - self.reach_pixels))
        angles = geometry.gantry_angles_rad
        # orders that turn further than half a circle from view to view are not seen
        gap_rad = angular_gaps(angles, FULL_CIRCLE_RAD)[1].max()
        count = max(1, min(int(math.pi / gap_rad), detector.n_columns // 2, MOST_HARMONICS))
        self._orders = np.arange(count)[:, None]
        shares = shared_arcs(angles, FULL_CIRCLE_RAD) / FULL_CIRCLE_RAD
        self._harmonics = (np.exp(-1j * self._orders * angles) * shares) @ sinogram
        self._splines: dict[int, CubicSpline] = {}

    def misfits(self, offset_mm: float, *, reverse: bool, binning: int = 1) -> NDArray[np.float64]:
        """Return the squared differences by harmonic, of columns blurred by `binning`."""
        one, other = self._pairs(offset_mm, reverse=reverse, binning=binning)
        squares: NDArray[np.float64] = (np.abs(one - other) ** 2).mean(axis=1)
        squares[1:] *= 2.0  # the negative orders differ alike
        return squares

    def scores(
        self, offsets_mm: Sequence[float], *, reverse: bool, binning: int = 1
    ) -> list[float]:
        """Measure how well the rays agree with each of some offsets; more is better."""
        return [
            -float(self.misfits(offset_mm, reverse=reverse, binning=binning).sum())
            for offset_mm in offsets_mm
        ]

    def gain(self, better: tuple[float, bool], worse: tuple[float, bool]) -> float:
        """Return how many times less the rays differ at one (offset, reverse) than at another."""
        least, other = (
            float(self.misfits(offset_mm, reverse=reverse).sum())
            for offset_mm, reverse in (better, worse)
        )
        return other / least if least else 1.0

    def tells(self, better: tuple[float, bool], worse: tuple[float, bool]) -> bool:
        """Say whether noise cannot explain why one (offset, reverse) agrees better than another.

        What is left at the better one is noise, or as good as: its spread from harmonic to harmonic
        says how far two sums of it come to lie apart.
        """
        if self.n_columns < FEWEST_COLUMNS:
            return False
        left = self.misfits(better[0], reverse=better[1])
        gain = self.misfits(worse[0], reverse=worse[1]).sum() - left.sum()
        error = math.sqrt(2 * len(left)) * left.std()
        power = 2 * (np.abs(self._pairs(better[0], reverse=better[1])[0]) ** 2).mean(axis=1).sum()
        return bool(gain > BEYOND_NOISE * error + ROUNDING * power)

    def _pairs(
        self, offset_mm: float, *, reverse: bool, binning: int = 1
    ) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return the harmonics of rays of one side, and what those of the other side make them."""
        detector = self._geometry.detector
        if binning not in self._splines:
            # blurred, so that noise is the same between columns as it is on them
            count = max(1, len(self._harmonics) // binning)
            blurred = gaussian_filter1d(self._harmonics[:count], binning, axis=1, mode="nearest")
            self._splines[binning] = CubicSpline(np.arange(detector.n_columns), blurred, axis=1)
        columns = np.arange(0.5 * binning, max(self.n_columns, binning), binning)
        axis = (detector.n_columns - 1) / 2 - offset_mm / detector.column_spacing_mm
        sides = [
            self._splines[binning](np.clip(axis + side * columns, 0, detector.n_columns - 1))
            for side in (1, -1)
        ]
        fan_rad = np.zeros_like(columns)
        if isinstance(self._geometry, ConeBeamGeometry):
            u_mm = columns * detector.column_spacing_mm
            fan_rad = np.arctan(u_mm / self._geometry.source_to_detector_mm)
        turn_rad = math.pi - (-2.0 if reverse else 2.0) * fan_rad
        return sides[0], sides[1] * np.exp(1j * self._orders[: len(sides[1])] * turn_rad)
