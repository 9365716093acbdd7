"""Whether the stated geometry of a scan is right.

Coarse slices with other axis offsets, and turned the other way round, are compared by their
sharpness. A wrong offset or a wrong sense of rotation smears every point into an arc or a
ring. That takes contrast and mixes grey values, so the histogram of the slice gets narrower and
flatter. Hence the sharpness of a slice is ``s exp(-H)``: s is the standard deviation of its grey
values, and H the Shannon entropy of those values when they are scaled to mean 0 and deviation 1.
Entropy is an old measure for this (Donath, Beckmann and Schreyer, J. Opt. Soc. Am. A 23, 2006), but
neither factor alone finds the truth on every scan: docs/design/geometry-check.md has what was
tried. Only ratios of sharpness mean anything, and only for one scan.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.coverage import length_unit
from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import ConeBeamGeometry, Geometry, VolumeGrid
from pacspark.errors import ProjectionDataError
from pacspark.middle_row import read_middle_row
from pacspark.pictures import Candidate, ImagePlane, Picture, draw_candidates
from pacspark.tables.catalog import Catalog

OPTIONS: Final = FDKOptions(filter="hann")
"""Noise has no offset: less of it, and what is left is the object."""
N_PIXELS: Final = 192
"""Slices have at most this many pixels across."""
COARSEST_COLUMNS: Final = 96
SEARCHED_PART: Final = 0.1
"""Offsets are looked for within this part of the detector's width, to both sides."""
FINE_STEP_PIXELS: Final = 0.25
FITTED_PIXELS: Final = 1.25
GREY_BINS: Final = 256
GREY_RANGE: Final = (-4.0, 6.0)
"""In standard deviations; what lies beyond counts as its ends."""
WRONG_PIXELS: Final = 0.5
"""A stated offset that is less than this beside the best one is right."""
TELLING_GAIN: Final = 1.02
"""What one sense of rotation must be sharper by than the other to be told from it."""
PEAK_GAIN: Final = 1.05
PEAK_PIXELS: Final = 2.0
"""The best offset is sharper by that than what lies that far beside it; noise alone is not."""
N_SHOWN: Final = 5
SMALL_UPDATES: Final = 4_000_000


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


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        return f"GeometryCheck({self.message!r})"

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


def check_series(catalog: Catalog, series_uid: str, energy_bin: int = 0) -> GeometryCheck:
    """Check a projection series of the archive; only one row of each frame is read.

    Raises
    ------
    SeriesNotFoundError
        When the archive holds no such series, or no projections in it.
    UsageError
        When the scan has no such energy bin.
    """
    scan, sinogram = read_middle_row(catalog, series_uid, energy_bin)
    return check_geometry(sinogram, scan.geometry)


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
    found = {reverse: scan.search(reverse=reverse) for reverse in senses}
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
        # small slices are done before a second thread has begun
        n_threads = 1 if len(angles) * grid.shape[1] ** 2 < SMALL_UPDATES else None
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
                    OPTIONS,
                    n_threads,
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

    def search(self, *, reverse: bool) -> float:
        """Find the sharpest offset of one sense, from coarse to fine."""
        binning = 1
        while self.geometry.detector.n_columns // binning > COARSEST_COLUMNS:
            binning *= 2
        reach = math.ceil(self.searched_pixels / binning)
        best_mm = self._sharpest(self.stated_mm, range(-reach, reach + 1), binning, reverse=reverse)
        while binning > 1:
            binning //= 2
            best_mm = self._sharpest(best_mm, range(-3, 4), binning, reverse=reverse)
        return self._apex(best_mm, reverse=reverse)

    def sharpness(
        self, offsets_mm: Sequence[float], *, reverse: bool, binning: int = 1
    ) -> list[float]:
        """Measure the plane with each of some offsets."""
        inside = self.inside(binning)
        slices = self.slices(offsets_mm, reverse=reverse, binning=binning)
        return [sharpness(one[inside]) for one in slices]

    def _sharpest(
        self, center_mm: float, steps: Iterable[int], binning: int, *, reverse: bool
    ) -> float:
        """Try offsets around one, in steps of binned pixels."""
        offsets = [center_mm + step * binning * self.pixel_mm for step in steps]
        return offsets[int(np.argmax(self.sharpness(offsets, reverse=reverse, binning=binning)))]

    def _apex(self, center_mm: float, *, reverse: bool) -> float:
        """Fit a parabola to fine steps around the sharpest offset: noise moves its top less."""
        reach = round(FITTED_PIXELS / FINE_STEP_PIXELS)
        steps = np.arange(-reach, reach + 1) * FINE_STEP_PIXELS
        offsets = center_mm + steps * self.pixel_mm
        bend, slope, _ = np.polyfit(steps, self.sharpness(offsets.tolist(), reverse=reverse), 2)
        if bend >= 0:
            return center_mm
        return center_mm + float(np.clip(-slope / (2 * bend), -1.0, 1.0)) * self.pixel_mm


def _judge(scan: _MiddlePlane, found: dict[bool, float]) -> GeometryCheck:
    stated_mm, pixel_mm = scan.stated_mm, scan.pixel_mm
    # a constant slice, as of an empty scan, has no sharpness to compare with
    reference = scan.sharpness([stated_mm], reverse=False)[0] or 1.0
    peaks = {
        reverse: scan.sharpness([offset_mm], reverse=reverse)[0] / reference
        for reverse, offset_mm in found.items()
    }
    rotation_known = len(peaks) > 1 and max(peaks.values()) > TELLING_GAIN * min(peaks.values())
    reverse = rotation_known and peaks[True] > peaks[False]
    best_mm, gain = found[reverse], peaks[reverse]
    around = [best_mm + side * PEAK_PIXELS * pixel_mm for side in (-1, 1)]
    ground = float(np.mean(scan.sharpness(around, reverse=reverse))) / reference
    is_flat = gain <= PEAK_GAIN * ground
    if is_flat:
        reverse, rotation_known = False, False
    beside_pixels = abs(best_mm - stated_mm) / pixel_mm
    if is_flat or (not reverse and (beside_pixels < WRONG_PIXELS or gain <= 1.0)):
        best_mm, gain = stated_mm, 1.0
    step_mm = abs(best_mm - stated_mm)
    if step_mm < WRONG_PIXELS * pixel_mm:
        step_mm = 2 * pixel_mm
    offsets = [best_mm + (number - N_SHOWN // 2) * step_mm for number in range(N_SHOWN)]
    trials, lines = [], []
    for sense in found:
        slices = scan.slices(offsets, reverse=sense)
        inside = scan.inside()
        line = []
        for offset_mm, plane in zip(offsets, slices, strict=True):
            trial = Trial(offset_mm, sense, sharpness(plane[inside]) / reference)
            trials.append(trial)
            line.append(_candidate(scan, trial, plane, best_mm, reverse=reverse))
        lines.append(tuple(line))
    rotation = _rotation(scan.geometry)
    other = {"clockwise": "counterclockwise", "counterclockwise": "clockwise"}[rotation]
    check = GeometryCheck(
        stated_offset_u_mm=stated_mm,
        best_offset_u_mm=best_mm,
        best_rotation_axis_column=(scan.geometry.detector.n_columns - 1) / 2 - best_mm / pixel_mm,
        stated_rotation=rotation,
        best_rotation=other if reverse else rotation,
        rotation_known=rotation_known,
        gain=gain,
        trials=tuple(trials),
        message="",
        shown=tuple(lines),
    )
    return replace(check, message=_message(check, scan, is_flat=is_flat))


def _candidate(
    scan: _MiddlePlane, trial: Trial, plane: NDArray[np.float32], best_mm: float, *, reverse: bool
) -> Candidate:
    voxel_mm = scan.grid().voxel_mm[1]
    stated = not trial.reversed_rotation and math.isclose(
        trial.offset_u_mm, scan.stated_mm, abs_tol=1e-9 * scan.pixel_mm
    )
    best = trial.reversed_rotation == reverse and trial.offset_u_mm == best_mm
    unit = length_unit(scan.geometry)
    sense = ", reversed" if trial.reversed_rotation else ""
    return Candidate(
        # drawn as the CT series will be: y downwards
        ImagePlane(plane, (voxel_mm, voxel_mm), f"1/{unit.removesuffix('s')}", length_unit=unit),
        f"{_offset_text(trial.offset_u_mm, scan)}{sense}: {trial.sharpness:.3f}",
        best=best,
        stated=stated,
    )


def _offset_text(offset_mm: float, scan: _MiddlePlane) -> str:
    """Write an offset to about a hundredth of a pixel."""
    decimals = max(2, 2 - math.floor(math.log10(scan.pixel_mm)) - 1)
    return f"{offset_mm:+.{decimals}f} {length_unit(scan.geometry)}"


def _rotation(geometry: Geometry) -> str:
    """Tell the sense of the steps from view to view, seen from +z."""
    turns = np.diff(geometry.gantry_angles_rad)
    return "clockwise" if len(turns) and np.median(turns) < 0 else "counterclockwise"


def _message(check: GeometryCheck, scan: _MiddlePlane, *, is_flat: bool) -> str:
    stated = f"stated offset {_offset_text(check.stated_offset_u_mm, scan)}"
    best = (
        f"{_offset_text(check.best_offset_u_mm, scan)} (rotation_axis_column = "
        f"{check.best_rotation_axis_column:.2f})"
    )
    if is_flat:
        return f"{stated}: too little structure in the middle plane to judge it"
    if check.best_rotation != check.stated_rotation:
        told = (
            f"stated rotation {check.stated_rotation} looks wrong: {check.best_rotation} with the "
            f"offset {best} is sharper (x{check.gain:.2f})"
        )
    elif check.ok:
        told = f"{stated} looks right: no other is sharper"
    else:
        told = f"{stated} looks wrong: {best} is sharper (x{check.gain:.2f})"
    if abs(check.best_offset_u_mm - scan.stated_mm) > (scan.searched_pixels - 1) * scan.pixel_mm:
        told += "; the best lies at the edge of what was searched"
    if not check.rotation_known:
        told += "; the sense of rotation cannot be told from this scan"
    return told
