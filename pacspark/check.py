"""Is the stated geometry of a scan right? Coarse slices with other axis offsets, and turned the other
way round, compared by their sharpness.

A wrong offset or a wrong sense of rotation smears every point into an arc or a ring, which mixes grey
values: the histogram of the slice gets flatter. So the sharpness of a slice is ``exp(-H)``, H being
the Shannon entropy of its grey values, all candidates in one range and with the same number of bins
(the measure of Donath et al., J. Opt. Soc. Am. A 23, 2006, among those tried on real scans; see
docs/design/geometry-check.md). Only ratios of sharpness mean anything, and only for one scan.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import ConeBeamGeometry, Geometry, VolumeGrid
from pacspark.errors import ProjectionDataError, UsageError
from pacspark.pictures import Candidate, ImagePlane, Picture, draw_candidates

N_PIXELS: Final = 256
"""Slices have at most this many pixels across."""
COARSEST_COLUMNS: Final = 96
SEARCHED_PART: Final = 0.1
"""Offsets are looked for within this part of the detector's width, to both sides."""
FINE_STEP_PIXELS: Final = 0.25
GREY_BINS: Final = 256
GREY_PERCENT: Final = (0.05, 99.95)
WRONG_PIXELS: Final = 0.5
"""A stated offset that is less than this beside the best one is right."""
TELLING_GAIN: Final = 1.01
"""What a candidate must be sharper by to mean anything."""
N_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate.

    Attributes
    ----------
    offset_u_mm
        of the detector's centre
    reversed_rotation
        whether the scan was turned the other way round
    sharpness
        that of the stated geometry is 1
    """

    offset_u_mm: float
    reversed_rotation: bool
    sharpness: float


@dataclass(frozen=True, eq=False)
class GeometryCheck:
    """What a geometry check found.

    Attributes
    ----------
    stated_offset_u_mm, best_offset_u_mm
        of the detector's centre along +u
    best_rotation_axis_column
        the same as the column, counted from 0, that the axis falls on
    stated_rotation, best_rotation
        counterclockwise or clockwise, seen from +z
    rotation_known
        whether the two senses differ at all: for parallel rays they are mirror images
    gain
        how much sharper the best is than the stated
    trials
        the candidates at full resolution, by sense and offset
    message
        one line for a person
    """

    stated_offset_u_mm: float
    best_offset_u_mm: float
    best_rotation_axis_column: float
    stated_rotation: str
    best_rotation: str
    rotation_known: bool
    gain: float
    trials: tuple[Trial, ...]
    message: str
    shown: tuple[tuple[Candidate, ...], ...]

    @property
    def ok(self) -> bool:
        """Whether the stated geometry is at least as good as any other that was tried."""
        return (
            self.best_offset_u_mm == self.stated_offset_u_mm
            and self.best_rotation == self.stated_rotation
        )

    @cached_property
    def picture(self) -> Picture:
        """The candidates side by side, the best and the stated framed."""
        return draw_candidates(self.shown, self.message)

    def summary(self) -> dict[str, Any]:
        """Return what was found as plain values, for JSON."""
        return {
            "ok": self.ok,
            "message": self.message,
            "stated_offset_u_mm": self.stated_offset_u_mm,
            "best_offset_u_mm": self.best_offset_u_mm,
            "best_rotation_axis_column": self.best_rotation_axis_column,
            "stated_rotation": self.stated_rotation,
            "best_rotation": self.best_rotation,
            "rotation_known": self.rotation_known,
            "gain": self.gain,
            "trials": [
                {
                    "offset_u_mm": trial.offset_u_mm,
                    "reversed_rotation": trial.reversed_rotation,
                    "sharpness": trial.sharpness,
                }
                for trial in self.trials
            ],
        }

    def _repr_png_(self) -> bytes:
        return self.picture.to_png()


def sharpness(slices: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return ``exp(-H)`` of each slice, H the entropy of its grey values in nats.

    Parameters
    ----------
    slices
        (n, n_y, n_x), compared in their common range
    inside
        (n_y, n_x), the pixels that count
    """
    values = slices[:, inside]
    lower, upper = np.percentile(values[:, :: max(1, values.shape[1] // 8192)], GREY_PERCENT)
    if upper <= lower:
        return np.ones(len(slices))
    result = np.empty(len(slices))
    for number, one in enumerate(values):
        counts, _ = np.histogram(np.clip(one, lower, upper), GREY_BINS, (lower, upper))
        parts = counts[counts > 0] / one.size
        result[number] = math.exp(float((parts * np.log(parts)).sum()))
    return result


def check_geometry(sinogram: NDArray[np.floating[Any]], geometry: Geometry) -> GeometryCheck:
    """Look for a wrong axis offset or rotation sense.

    Parameters
    ----------
    sinogram
        (n_angles, n_columns), line integrals of the detector row in the plane of the source (any
        row, for parallel rays).
    geometry
        The scan as it is stated; only its angles, distances and columns count.

    Raises
    ------
    ProjectionDataError
        When the sinogram does not fit the geometry or is not finite.
    GeometryError
        When the scan cannot be reconstructed at all.
    """
    expected = (len(geometry.gantry_angles_rad), geometry.detector.n_columns)
    if sinogram.shape != expected:
        message = f"sinogram: expected (n_angles, n_columns) {expected}, found {sinogram.shape}"
        raise ProjectionDataError(message)
    if not np.isfinite(sinogram).all():
        message = "sinogram: expected finite line integrals, found NaN or infinity"
        raise ProjectionDataError(message)
    scan = _MiddlePlane(np.asarray(sinogram, np.float32), geometry)
    senses = (False, True) if isinstance(geometry, ConeBeamGeometry) else (False,)
    found = {reverse: scan.search(reverse) for reverse in senses}
    return _judge(scan, found)


class _MiddlePlane:
    """The middle plane of a scan, to be reconstructed with any offset and sense."""

    def __init__(self, sinogram: NDArray[np.float32], geometry: Geometry) -> None:
        self.sinogram = sinogram
        self.geometry = geometry
        self.stated_mm = geometry.detector.offset_u_mm
        self.pixel_mm = geometry.detector.column_spacing_mm
        self.searched_pixels = SEARCHED_PART * geometry.detector.n_columns

    def radius_mm(self) -> float:
        """Radius of the circle that every candidate sees."""
        width_mm = self.geometry.detector.n_columns * self.pixel_mm
        half_mm = width_mm / 2 - abs(self.stated_mm) - self.searched_pixels * self.pixel_mm
        half_mm = max(half_mm, width_mm / 8)
        if not isinstance(self.geometry, ConeBeamGeometry):
            return half_mm
        distance_mm = self.geometry.source_to_detector_mm
        return self.geometry.source_to_isocenter_mm * half_mm / math.hypot(half_mm, distance_mm)

    def slices(
        self, offsets_mm: Iterable[float], *, reverse: bool, binning: int = 1
    ) -> NDArray[np.float32]:
        """Reconstruct the plane with each of some offsets, columns binned: (n, n_y, n_x), 1/mm."""
        grid = self.grid(binning)
        n_columns = self.geometry.detector.n_columns // binning
        used = n_columns * binning
        binned = self.sinogram[:, None, :used].reshape(-1, 1, n_columns, binning).mean(-1)
        # columns that fill no bin are left out at the end, which moves the centre of the rest
        shift_mm = (used - self.geometry.detector.n_columns) / 2 * self.pixel_mm
        angles = self.geometry.gantry_angles_rad * (-1.0 if reverse else 1.0)
        return np.concatenate(
            [
                reconstruct_fdk(
                    binned,
                    replace(
                        self.geometry,
                        gantry_angles_rad=angles,
                        detector=replace(
                            self.geometry.detector,
                            n_rows=1,
                            n_columns=n_columns,
                            column_spacing_mm=self.pixel_mm * binning,
                            offset_u_mm=offset_mm + shift_mm,
                            offset_v_mm=0.0,
                        ),
                    ),
                    grid,
                )
                for offset_mm in offsets_mm
            ]
        )

    def grid(self, binning: int = 1) -> VolumeGrid:
        """Give one plane that holds the circle of `radius_mm`."""
        n_xy = min(N_PIXELS, max(32, self.geometry.detector.n_columns // binning))
        voxel_mm = 2 * self.radius_mm() / n_xy
        return VolumeGrid((1, n_xy, n_xy), (voxel_mm, voxel_mm, voxel_mm))

    def inside(self, binning: int = 1) -> NDArray[np.bool_]:
        """Tell which pixels lie in the circle of `radius_mm`."""
        grid = self.grid(binning)
        return np.hypot(grid.y_mm[:, None], grid.x_mm[None, :]) < 0.98 * self.radius_mm()

    def search(self, reverse: bool) -> float:  # noqa: FBT001
        """Find the sharpest offset of one sense, from coarse to fine."""
        binning = 1
        while self.geometry.detector.n_columns // binning > COARSEST_COLUMNS:
            binning *= 2
        reach = math.ceil(self.searched_pixels / binning)
        best_mm = self._sharpest(self.stated_mm, range(-reach, reach + 1), binning, reverse=reverse)
        while binning > 1:
            binning //= 2
            best_mm = self._sharpest(best_mm, range(-3, 4), binning, reverse=reverse)
        steps = [number * FINE_STEP_PIXELS for number in range(-5, 6)]
        return self._sharpest(best_mm, steps, 1, reverse=reverse)

    def _sharpest(
        self, center_mm: float, steps: Sequence[float], binning: int, *, reverse: bool
    ) -> float:
        """Try offsets around one, in steps of binned pixels."""
        offsets = [center_mm + step * binning * self.pixel_mm for step in steps]
        slices = self.slices(offsets, reverse=reverse, binning=binning)
        return offsets[int(np.argmax(sharpness(slices, self.inside(binning))))]


def _judge(scan: _MiddlePlane, found: dict[bool, float]) -> GeometryCheck:
    raise UsageError
