"""How sharp the middle plane of a scan is with other axis offsets and senses of rotation.

A wrong offset or a wrong sense of rotation smears every point into an arc or a ring. That takes
contrast and mixes grey values, so the histogram of the slice gets narrower and flatter. Hence the
sharpness of a slice is ``s exp(-H)``: s is the standard deviation of its grey values, and H the
Shannon entropy of those values when they are scaled to mean 0 and deviation 1. Entropy is an old
measure for this (Donath, Beckmann and Schreyer, J. Opt. Soc. Am. A 23, 2006), but neither factor
alone finds the truth on every scan: docs/design/geometry-check.md has what was tried. Only ratios
of sharpness mean anything, and only for one scan.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import ConeBeamGeometry, Geometry, VolumeGrid
from pacspark.errors import GeometryError

OPTIONS: Final = FDKOptions(filter="hann")
"""Noise has no offset: less of it, and what is left is the object."""
BLUR_PIXELS: Final = 1.0
"""Of the columns, on top of the filter: a third of the counts do as well."""
N_PIXELS: Final = 192
"""Slices have at most this many pixels across."""
GREY_BINS: Final = 256
GREY_RANGE: Final = (-4.0, 6.0)
"""In standard deviations; what lies beyond counts as its ends."""
BEYOND_NOISE: Final = 1.05
"""What one slice must be sharper by than another to be told from it; noise alone is not."""
SMALL_UPDATES: Final = 4_000_000


def sharpness(values: NDArray[np.floating[Any]]) -> float:
    """Return ``s exp(-H)``: standard deviation, and entropy in nats of the standardised values.

    Two equally frequent grey values, 2 apart, have deviation 1 and entropy log 2:

    >>> round(sharpness(np.array([3.0, 3.0, 5.0, 5.0])), 3)
    0.5
    """
    if values.min() == values.max():
        return 0.0
    deviation = float(values.std(dtype=np.float64))
    scaled = (values - values.mean(dtype=np.float64)) / deviation
    counts, _ = np.histogram(np.clip(scaled, *GREY_RANGE), GREY_BINS, GREY_RANGE)
    parts = counts[counts > 0] / values.size
    return deviation * math.exp(float((parts * np.log(parts)).sum()))


class MiddlePlane:
    """The middle plane of a scan, to be reconstructed with any offset and sense.

    Parameters
    ----------
    sinogram
        (n_angles, n_columns), line integrals.
    geometry
        The scan as it is stated.
    reach_pixels
        How far from the stated offset it is looked at.
    """

    doubt = "too little structure in the middle plane, or too much noise"
    """Why nothing may stand out."""
    praise = "x{:.2f} as sharp"
    """What a `gain` means."""

    def __init__(
        self, sinogram: NDArray[np.float32], geometry: Geometry, reach_pixels: float
    ) -> None:
        self.sinogram = sinogram
        self.geometry = geometry
        self.stated_mm = geometry.detector.offset_u_mm
        self.pixel_mm = geometry.detector.column_spacing_mm
        self.reach_pixels = reach_pixels

    def radius_mm(self) -> float:
        """Radius of the circle that every candidate sees."""
        width_mm = self.geometry.detector.n_columns * self.pixel_mm
        half_mm = width_mm / 2 - abs(self.stated_mm) - self.reach_pixels * self.pixel_mm
        half_mm = max(half_mm, width_mm / 8)
        if not isinstance(self.geometry, ConeBeamGeometry):
            return half_mm
        distance_mm = self.geometry.source_to_detector_mm
        return self.geometry.source_to_isocenter_mm * half_mm / math.hypot(half_mm, distance_mm)

    def slices(
        self,
        offsets_mm: Sequence[float],
        *,
        reverse: bool,
        binning: int = 1,
        blur_pixels: float = 0.0,
    ) -> NDArray[np.float32]:
        """Reconstruct the plane with each of some offsets, columns binned: (n, n_y, n_x), 1/mm.

        Planes with an offset for which the scan cannot be reconstructed are empty.
        """
        grid = self.grid(binning)
        n_columns = self.geometry.detector.n_columns // binning
        used = n_columns * binning
        binned = self.sinogram[:, None, :used].reshape(-1, 1, n_columns, binning).mean(-1)
        binned = gaussian_filter(binned, (0.0, 0.0, blur_pixels / binning), mode="nearest")
        # columns that fill no bin are left out at the end, which moves the centre of the rest
        shift_mm = (used - self.geometry.detector.n_columns) / 2 * self.pixel_mm
        angles = self.geometry.gantry_angles_rad * (-1.0 if reverse else 1.0)
        # small slices are done before a second thread has begun
        n_threads = 1 if len(angles) * grid.shape[1] ** 2 < SMALL_UPDATES else None
        planes = np.zeros((len(offsets_mm), *grid.shape[1:]), np.float32)
        for plane, offset_mm in zip(planes, offsets_mm, strict=True):
            detector = replace(
                self.geometry.detector,
                n_rows=1,
                n_columns=n_columns,
                column_spacing_mm=self.pixel_mm * binning,
                offset_u_mm=offset_mm + shift_mm,
                offset_v_mm=0.0,
            )
            tried = replace(self.geometry, gantry_angles_rad=angles, detector=detector)
            with suppress(GeometryError):
                plane[:] = reconstruct_fdk(binned, tried, grid, OPTIONS, n_threads)[0]
        return planes

    def grid(self, binning: int = 1) -> VolumeGrid:
        """Give one plane that holds the circle of `radius_mm`."""
        n_xy = min(N_PIXELS, max(32, self.geometry.detector.n_columns // binning))
        voxel_mm = 2 * self.radius_mm() / n_xy
        return VolumeGrid((1, n_xy, n_xy), (voxel_mm, voxel_mm, voxel_mm))

    def inside(self, binning: int = 1) -> NDArray[np.bool_]:
        """Tell which pixels lie in the circle of `radius_mm`."""
        grid = self.grid(binning)
        return np.hypot(grid.y_mm[:, None], grid.x_mm[None, :]) < 0.98 * self.radius_mm()

    def scores(
        self, offsets_mm: Sequence[float], *, reverse: bool, binning: int = 1
    ) -> list[float]:
        """Measure how sharp the plane is with each of some offsets; more is better."""
        inside = self.inside(binning)
        slices = self.slices(offsets_mm, reverse=reverse, binning=binning, blur_pixels=BLUR_PIXELS)
        return [sharpness(one[inside]) for one in slices]

    def gain(self, better: tuple[float, bool], worse: tuple[float, bool]) -> float:
        """Return how many times as sharp as another one (offset, reverse) is."""
        sharper, other = (
            self.scores([offset_mm], reverse=reverse)[0] for offset_mm, reverse in (better, worse)
        )
        return sharper / other if other else 1.0

    def tells(self, better: tuple[float, bool], worse: tuple[float, bool]) -> bool:
        """Say whether noise cannot explain why one (offset, reverse) is sharper than another."""
        return self.gain(better, worse) > BEYOND_NOISE
