"""Whether the stated geometry of a scan is right.

Other axis offsets, and the other sense of rotation, are compared with the stated ones: where a full
circle measures rays from both ends, by how well those agree (`pacspark.ct.opposite_rays`), else by
how sharp a coarse slice is (`pacspark.ct.sharpness`). Either can say what noise may explain; then
nothing is decided, nor at the edge of what was searched. docs/design/geometry-check.md has what was
tried.

Of panels that did not stand upright it is the upright ones, onto which they are resampled, that are
looked at. No key of the description has their offset, so what is told is how far all panels should
stand from where they are stated.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.angles import FULL_CIRCLE_RAD, is_closed
from pacspark.ct.coverage import length_unit
from pacspark.ct.geometry import ConeBeamGeometry, Geometry
from pacspark.ct.opposite_rays import OppositeRays
from pacspark.ct.redundancy import require_rays
from pacspark.ct.sharpness import MiddlePlane, sharpness
from pacspark.errors import ProjectionDataError
from pacspark.middle_row import read_middle_row
from pacspark.pictures import Candidate, ImagePlane, Picture, draw_candidates
from pacspark.progress import SILENT, Progress, Stage
from pacspark.scans.correction import write_corrected
from pacspark.tables.catalog import Catalog

COARSEST_COLUMNS: Final = 96
SEARCHED_PART: Final = 0.1
"""Offsets are looked for within this part of the detector's width, to both sides."""
FINE_STEP_PIXELS: Final = 0.25
FITTED_PIXELS: Final = 1.25
WRONG_PIXELS: Final = 0.5
"""A stated offset that is less than this beside the best one is right."""
PEAK_PIXELS: Final = 2.0
"""What lies that far beside the best offset must be told from it."""
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


@dataclass(frozen=True, eq=False, repr=False)
class GeometryCheck:
    """What a geometry check found.

    Attributes
    ----------
    stated_offset_u_mm, best_offset_u_mm
        of the detector's centre along +u; of panels that did not stand upright, 0 and how much
        further along +u they stand
    best_rotation_axis_column
        the same as the column, counted from 0, that the axis falls on; then None
    stated_rotation, best_rotation
        counterclockwise or clockwise, seen from +z
    rotation_known
        whether the two senses differ at all: for parallel rays they are mirror images
    decided
        whether the scan tells at all; else the best is the stated, and the message has the reason
    gain
        how many times better the best fits than the stated, by the measure that the message names
    trials
        the candidates at full resolution, by sense and offset
    message
        one line for a person
    """

    stated_offset_u_mm: float
    best_offset_u_mm: float
    best_rotation_axis_column: float | None
    stated_rotation: str
    best_rotation: str
    rotation_known: bool
    decided: bool
    gain: float
    trials: tuple[Trial, ...]
    message: str
    shown: tuple[tuple[Candidate, ...], ...]

    def __repr__(self) -> str:
        return f"GeometryCheck({self.message!r})"

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the stated geometry."""
        return (
            self.best_offset_u_mm == self.stated_offset_u_mm
            and self.best_rotation == self.stated_rotation
        )

    def correct(self, path: str | Path) -> Path:
        """Write a copy of the scan's ``SCAN.toml``, with what was found in it, beside it.

        Raises
        ------
        ScanDescriptionError
            When it cannot be read, or states another offset than the scan that was checked.
        """
        return write_corrected(
            path,
            self.stated_offset_u_mm,
            self.best_offset_u_mm,
            reverse=self.best_rotation != self.stated_rotation,
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
            "decided": self.decided,
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


def check_series(
    catalog: Catalog, series_uid: str, energy_bin: int = 0, progress: Progress = SILENT
) -> GeometryCheck:
    """Check a projection series of the archive; only one row of each frame is read.

    Raises
    ------
    SeriesNotFoundError
        When the archive holds no such series, or no projections in it.
    UsageError
        When the scan has no such energy bin.
    """
    scan, sinogram = read_middle_row(catalog, series_uid, energy_bin)
    return check_geometry(
        sinogram, scan.geometry, rectified=scan.views is not None, progress=progress
    )


def check_geometry(
    sinogram: NDArray[np.floating[Any]],
    geometry: Geometry,
    *,
    rectified: bool = False,
    progress: Progress = SILENT,
) -> GeometryCheck:
    """Look for a wrong axis offset or rotation sense.

    Parameters
    ----------
    sinogram
        (n_angles, n_columns), line integrals of the detector row in the plane of the source (any
        row, for parallel rays).
    geometry
        The scan as it is stated; only its angles, distances and columns count.
    rectified
        Whether it is that of rectified frames: then offsets are told from the stated one.
    progress
        Told of the slices that are made for the picture, after the search.

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
    values = np.asarray(sinogram, np.float32)
    reach_pixels = SEARCHED_PART * geometry.detector.n_columns
    require_rays(geometry)
    plane = MiddlePlane(values, geometry, reach_pixels)
    senses = 2 if isinstance(geometry, ConeBeamGeometry) else 1
    with progress.stage("check", senses * N_SHOWN, "slices") as stage:
        if is_closed(geometry.gantry_angles_rad, FULL_CIRCLE_RAD):
            # never by sharpness: the shares of half-fans change with the offset, noise with them
            found = _find(OppositeRays(values, geometry, reach_pixels), geometry)
        else:
            found = _find(plane, geometry)
        check = _show(plane, found, plane.stated_mm if rectified else 0.0, stage)
    if rectified:
        check = _from_stated(check)
    return replace(check, message=_message(check, plane, found))


class _Measure(Protocol):
    """What tells good candidates from bad ones."""

    reach_pixels: float
    doubt: str
    praise: str

    def scores(
        self, offsets_mm: Sequence[float], *, reverse: bool, binning: int = 1
    ) -> list[float]: ...

    def gain(self, better: tuple[float, bool], worse: tuple[float, bool]) -> float: ...

    def tells(self, better: tuple[float, bool], worse: tuple[float, bool]) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Found:
    """The best offset and sense; the stated ones, if nothing is decided."""

    offset_mm: float
    reverse: bool = False
    senses: tuple[bool, ...] = (False,)
    rotation_known: bool = False
    undecided: str = ""
    """The reason."""
    gain: float = 1.0
    praise: str = "x{:.2f}"
    """What the gain means."""


def _find(measure: _Measure, geometry: Geometry) -> _Found:
    """Find what is best, and whether that can be said."""
    stated_mm, pixel_mm = geometry.detector.offset_u_mm, geometry.detector.column_spacing_mm
    senses = (False, True) if isinstance(geometry, ConeBeamGeometry) else (False,)
    best_mm = {reverse: _search(measure, geometry, reverse=reverse) for reverse in senses}
    scores = [measure.scores([best_mm[reverse]], reverse=reverse)[0] for reverse in senses]
    better = senses[int(np.argmax(scores))]
    rotation_known = len(senses) > 1 and measure.tells(
        (best_mm[better], better), (best_mm[not better], not better)
    )
    reverse = better and rotation_known
    best = (best_mm[reverse], reverse)
    beside_pixels = abs(best_mm[reverse] - stated_mm) / pixel_mm
    # were the stated offset right, those equally far to both sides of it would fit alike
    mirrored_mm = 2 * stated_mm - best_mm[reverse]
    gains = any(
        measure.tells(best, worse) for worse in ((stated_mm, False), (mirrored_mm, reverse))
    )
    sides_mm = [best_mm[reverse] + side * PEAK_PIXELS * pixel_mm for side in (-1, 1)]
    undecided = ""
    if gains and beside_pixels > measure.reach_pixels - 1:
        undecided = (
            f"the best lies at the edge of what was searched, {measure.reach_pixels:.1f} pixels to "
            "both sides"
        )
    elif not all(measure.tells(best, (side_mm, reverse)) for side_mm in sides_mm):
        undecided = measure.doubt
    elif not rotation_known and np.ptp(list(best_mm.values())) >= WRONG_PIXELS * pixel_mm:
        undecided = "both senses of rotation fit, each with an offset of its own"
    elif beside_pixels >= WRONG_PIXELS and not gains:
        undecided = "another offset fits better, but noise may be why"
    if undecided:
        return _Found(stated_mm, senses=senses, undecided=undecided)
    if not reverse and beside_pixels < WRONG_PIXELS:
        return _Found(stated_mm, False, senses, rotation_known)
    gain = measure.gain(best, (stated_mm, False))
    return _Found(best_mm[reverse], reverse, senses, rotation_known, "", gain, measure.praise)


def _search(measure: _Measure, geometry: Geometry, *, reverse: bool) -> float:
    """Find the best offset of one sense, from coarse to fine."""
    pixel_mm = geometry.detector.column_spacing_mm

    def best_of(center_mm: float, steps: Iterable[int]) -> float:
        offsets = [center_mm + step * binning * pixel_mm for step in steps]
        scores = measure.scores(offsets, reverse=reverse, binning=binning)
        return offsets[int(np.argmax(scores))]

    binning = 1
    while geometry.detector.n_columns // binning > COARSEST_COLUMNS:
        binning *= 2
    reach = math.ceil(measure.reach_pixels / binning)
    best_mm = best_of(geometry.detector.offset_u_mm, range(-reach, reach + 1))
    while binning > 1:
        binning //= 2
        best_mm = best_of(best_mm, range(-3, 4))
    # the top of a parabola through fine steps: noise moves it less
    reach = round(FITTED_PIXELS / FINE_STEP_PIXELS)
    steps = np.arange(-reach, reach + 1) * FINE_STEP_PIXELS
    scores = measure.scores((best_mm + steps * pixel_mm).tolist(), reverse=reverse)
    bend, slope, _ = np.polyfit(steps, scores, 2)
    if bend >= 0:
        return best_mm
    return best_mm + float(np.clip(-slope / (2 * bend), -1.0, 1.0)) * pixel_mm


def _show(scan: MiddlePlane, found: _Found, zero_mm: float, stage: Stage) -> GeometryCheck:
    """Reconstruct slices with the best, the stated and what lies between or beside them.

    The captions count offsets from `zero_mm`.
    """
    stated_mm, best_mm = scan.stated_mm, found.offset_mm
    inside = scan.inside()
    # a constant slice, as of an empty scan, has no sharpness to compare with
    reference = sharpness(scan.slices([stated_mm], reverse=False)[0][inside]) or 1.0
    step_mm = abs(best_mm - stated_mm)
    if step_mm < WRONG_PIXELS * scan.pixel_mm:
        step_mm = 2 * scan.pixel_mm
    offsets = [best_mm + (number - N_SHOWN // 2) * step_mm for number in range(N_SHOWN)]
    trials, lines = [], []
    for sense in found.senses:
        line = []
        for offset_mm in offsets:
            (plane,) = scan.slices([offset_mm], reverse=sense)
            stage.advance()
            trial = Trial(offset_mm, sense, sharpness(plane[inside]) / reference)
            trials.append(trial)
            line.append(_candidate(scan, trial, plane, found, zero_mm))
        lines.append(tuple(line))
    rotation = _rotation(scan.geometry)
    other = {"clockwise": "counterclockwise", "counterclockwise": "clockwise"}[rotation]
    return GeometryCheck(
        stated_offset_u_mm=stated_mm,
        best_offset_u_mm=best_mm,
        best_rotation_axis_column=(scan.geometry.detector.n_columns - 1) / 2
        - best_mm / scan.pixel_mm,
        stated_rotation=rotation,
        best_rotation=other if found.reverse else rotation,
        rotation_known=found.rotation_known,
        decided=not found.undecided,
        gain=found.gain,
        trials=tuple(trials),
        message="",
        shown=tuple(lines),
    )


def _from_stated(check: GeometryCheck) -> GeometryCheck:
    """Count offsets from the stated one, which no key of the description has."""
    stated_mm = check.stated_offset_u_mm
    return replace(
        check,
        stated_offset_u_mm=0.0,
        best_offset_u_mm=check.best_offset_u_mm - stated_mm,
        best_rotation_axis_column=None,
        trials=tuple(
            replace(trial, offset_u_mm=trial.offset_u_mm - stated_mm) for trial in check.trials
        ),
    )


def _candidate(
    scan: MiddlePlane, trial: Trial, plane: NDArray[np.float32], found: _Found, zero_mm: float
) -> Candidate:
    voxel_mm = scan.grid().voxel_mm[1]
    stated = not trial.reversed_rotation and math.isclose(
        trial.offset_u_mm, scan.stated_mm, abs_tol=1e-9 * scan.pixel_mm
    )
    best = (trial.offset_u_mm, trial.reversed_rotation) == (found.offset_mm, found.reverse)
    unit = length_unit(scan.geometry)
    sense = ", reversed" if trial.reversed_rotation else ""
    return Candidate(
        # drawn as the CT series will be: y downwards
        ImagePlane(plane, (voxel_mm, voxel_mm), f"1/{unit.removesuffix('s')}", length_unit=unit),
        f"{_offset_text(trial.offset_u_mm - zero_mm, scan)}{sense}: {trial.sharpness:.3f}",
        best=best,
        stated=stated,
    )


def _offset_text(offset_mm: float, scan: MiddlePlane) -> str:
    """Write an offset to about a hundredth of a pixel."""
    decimals = max(2, 2 - math.floor(math.log10(scan.pixel_mm)) - 1)
    return f"{offset_mm:+.{decimals}f} {length_unit(scan.geometry)}"


def _rotation(geometry: Geometry) -> str:
    """Tell the sense of the steps from view to view, seen from +z."""
    turns = np.diff(geometry.gantry_angles_rad)
    return "clockwise" if len(turns) and np.median(turns) < 0 else "counterclockwise"


def _message(check: GeometryCheck, scan: MiddlePlane, found: _Found) -> str:
    best, column = _offset_text(check.best_offset_u_mm, scan), check.best_rotation_axis_column
    if column is None:
        stated, wrong = "where panels stand along u", f"panels {best} further along u"
    else:
        stated = f"stated offset {_offset_text(check.stated_offset_u_mm, scan)}"
        wrong = f"{best} (rotation_axis_column = {column:.2f})"
    if found.undecided:
        return f"{stated}: undecided, {found.undecided}"
    better = f"{wrong} fits better ({found.praise.format(check.gain)})"
    if check.best_rotation != check.stated_rotation:
        told = (
            f"stated rotation {check.stated_rotation} looks wrong: {check.best_rotation} with "
            f"{'' if column is None else 'the offset '}{better}"
        )
    elif check.ok:
        told = f"{stated} looks right: no other fits better"
    else:
        told = f"{stated} looks wrong: {better}"
    if not check.rotation_known:
        told += "; the sense of rotation cannot be told from this scan"
    return told
