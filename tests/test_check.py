"""The geometry check finds what is wrong with the scan of a phantom."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.check import GeometryCheck, check_geometry
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
)
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, Ellipsoid, project, scaled
from pacspark.ct.sharpness import sharpness
from pacspark.errors import (
    GeometryError,
    ProjectionDataError,
)
from pacspark.middle_row import middle_row
from pacspark.pictures import Candidate, ImagePlane, draw_candidates
from pacspark.progress import LineProgress

HEAD = scaled(SHEPP_LOGAN_UNIT, 16.0, 0.02)
FULL_TURN = np.arange(90) * np.pi / 45


def fan(offset_u_mm: float, *, n_rows: int = 1) -> ConeBeamGeometry:
    panel = FlatPanel(n_rows, 80, 1.0, 1.0, offset_u_mm=offset_u_mm)
    return ConeBeamGeometry(100.0, 200.0, FULL_TURN, panel)


def parallel(offset_u_mm: float) -> ParallelBeamGeometry:
    panel = FlatPanel(1, 80, 0.5, 0.5, offset_u_mm=offset_u_mm)
    return ParallelBeamGeometry(FULL_TURN / 2, panel)


def with_offset(geometry: Geometry, offset_u_mm: float) -> Geometry:
    return replace(geometry, detector=replace(geometry.detector, offset_u_mm=offset_u_mm))


def sinogram_of(geometry: Geometry, noise: float = 0.0) -> NDArray[np.float32]:
    integrals = project(HEAD, geometry)[:, 0]
    drawn = np.random.default_rng(7).normal(0.0, noise, integrals.shape)
    return (integrals + drawn).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize(
    ("geometry", "stated_mm"), [(fan(-2.3), 0.0), (fan(3.0), -3.0), (parallel(1.4), 0.0)]
)
def test_check__finds_the_offset_within_a_quarter_of_a_pixel(
    geometry: Geometry, stated_mm: float, noise: float
) -> None:
    found = check_geometry(sinogram_of(geometry, noise), with_offset(geometry, stated_mm))
    true_mm = geometry.detector.offset_u_mm
    assert abs(found.best_offset_u_mm - true_mm) <= 0.25 * geometry.detector.column_spacing_mm
    assert found.best_rotation == "counterclockwise"
    assert not found.ok
    assert found.gain > 1.0
    assert "looks wrong" in found.message


def test_check__leaves_a_right_geometry_alone() -> None:
    geometry = fan(1.1)
    found = check_geometry(sinogram_of(geometry, 0.01), geometry)
    assert found.ok
    assert found.best_offset_u_mm == 1.1
    assert found.rotation_known
    assert found.message == "stated offset +1.10 mm looks right: no other fits better"


def test_check__finds_a_wrong_sense_of_rotation() -> None:
    geometry = fan(1.1)
    sinogram = sinogram_of(geometry)
    turned = replace(geometry, gantry_angles_rad=-geometry.gantry_angles_rad)
    found = check_geometry(sinogram, turned)
    assert (found.stated_rotation, found.best_rotation) == ("clockwise", "counterclockwise")
    assert abs(found.best_offset_u_mm - 1.1) <= 0.25
    assert found.message.startswith("stated rotation clockwise looks wrong")


SPHERES = (
    Ellipsoid(0.02, (25.0, 25.0, 25.0)),
    Ellipsoid(0.02, (4.0, 4.0, 4.0), (10.0, 0.0, 0.0)),
    Ellipsoid(0.03, (3.0, 3.0, 3.0), (0.0, -12.0, 0.0)),
)
PHANTOMS = {
    "spheres": SPHERES,
    "head": scaled(SHEPP_LOGAN_UNIT, 26.0, 0.02),
    "disk": (Ellipsoid(0.02, (20.0, 20.0, 20.0)),),
}
COUNTS = (2_000, 5_000, 20_000, None)
SHIFTS = (0.0, 3.0, 10.0)
"""Pixels of 128."""


def counted(
    phantom: str, geometry: Geometry, counts: int | None, seed: int = 0
) -> NDArray[np.float32]:
    """Line integrals as a detector has them that counts so many photons without an object."""
    integrals = project(PHANTOMS[phantom], geometry)[:, 0]
    if counts is None:
        return integrals
    drawn = np.random.default_rng(seed).poisson(counts * np.exp(-integrals.astype(np.float64)))
    return -np.log(np.maximum(drawn, 1) / counts).astype(np.float32)


def wide_fan(offset_pixels: float) -> ConeBeamGeometry:
    panel = FlatPanel(1, 128, 1.0, 1.0, offset_u_mm=offset_pixels)
    return ConeBeamGeometry(200.0, 400.0, FULL_TURN, panel)


def wide_parallel(offset_pixels: float) -> ParallelBeamGeometry:
    panel = FlatPanel(1, 128, 0.5, 0.5, offset_u_mm=offset_pixels / 2)
    return ParallelBeamGeometry(np.arange(90) * np.pi / 90, panel)


def offset_is_found(found: GeometryCheck, truth: Geometry) -> bool:
    panel = truth.detector
    return abs(found.best_offset_u_mm - panel.offset_u_mm) <= 0.5 * panel.column_spacing_mm


@pytest.mark.parametrize("phantom", PHANTOMS)
@pytest.mark.parametrize("counts", COUNTS)
def test_noisy_fan__is_judged_rightly(phantom: str, counts: int | None) -> None:
    """All 48 are: none is undecided."""
    for seed, (shift, turn) in enumerate([(0.0, 1), (0.0, -1), (3.0, -1), (10.0, 1)]):
        truth = wide_fan(shift)
        stated = replace(with_offset(truth, 0.0), gantry_angles_rad=turn * FULL_TURN)
        found = check_geometry(counted(phantom, truth, counts, seed), stated)
        assert found.decided, found
        assert offset_is_found(found, truth), found
        # a disk around the axis looks the same from everywhere
        assert found.rotation_known == (phantom != "disk"), found
        if found.rotation_known:
            assert found.best_rotation == "counterclockwise"
        assert found.ok == (shift == 0.0 and found.best_rotation == found.stated_rotation)


@pytest.mark.parametrize("phantom", PHANTOMS)
@pytest.mark.parametrize("counts", COUNTS)
def test_noisy_half_circle__is_judged_rightly_or_not_at_all(
    phantom: str, counts: int | None
) -> None:
    """All 18 of 20,000 counts and more are judged; of fewer, what stands out from the noise."""
    decided = 0
    for seed, shift in enumerate(SHIFTS):
        truth = wide_parallel(shift)
        found = check_geometry(counted(phantom, truth, counts, seed), with_offset(truth, 0.0))
        decided += found.decided
        if found.decided:
            assert offset_is_found(found, truth), found
    assert decided == len(SHIFTS) or (counts or math.inf) < 5_000


@pytest.mark.parametrize("counts", [2_000, 20_000])
def test_best_at_the_edge__decides_nothing(counts: int) -> None:
    sinogram = counted("spheres", wide_fan(18.0), counts)
    found = check_geometry(sinogram, wide_fan(0.0))
    assert not found.decided
    assert found.best_offset_u_mm == 0.0
    assert "undecided, the best lies at the edge of what was searched" in found.message


@pytest.mark.parametrize("stated_pixels", [25.0, 40.0, 50.0, 54.0])
def test_half_fan__is_judged_by_what_both_sides_see(stated_pixels: float) -> None:
    truth = wide_fan(stated_pixels + 2.0)
    found = check_geometry(counted("head", truth, 20_000), wide_fan(stated_pixels))
    assert found.decided
    assert not found.ok
    assert offset_is_found(found, truth), found


def test_half_fan__that_cannot_be_reconstructed_is_not_judged() -> None:
    with pytest.raises(GeometryError, match="at least 8 columns beyond the axis, found 4"):
        check_geometry(counted("head", wide_fan(60.0), 20_000), wide_fan(60.0))


@pytest.mark.parametrize("stated_pixels", [-10.0, -8.0])
def test_short_scan__is_judged_although_some_candidates_cannot_be(stated_pixels: float) -> None:
    """Nearer to the middle the fan is wider, and the scan too short for it."""
    wide = wide_fan(-10.0)
    edge_mm = 54 * wide.detector.column_spacing_mm
    fan_deg = 2 * math.degrees(math.atan(edge_mm / wide.source_to_detector_mm))
    angles = np.radians(np.linspace(0, 180 + fan_deg + 1, 150))
    truth = replace(wide, gantry_angles_rad=angles)
    stated = with_offset(truth, stated_pixels * wide.detector.column_spacing_mm)
    found = check_geometry(counted("spheres", truth, None), stated)
    assert found.decided
    assert offset_is_found(found, truth), found


def test_parallel_full_circle__is_judged_by_opposite_rays() -> None:
    truth = replace(wide_parallel(3.0), gantry_angles_rad=FULL_TURN)
    found = check_geometry(counted("spheres", truth, 2_000), with_offset(truth, 0.0))
    assert offset_is_found(found, truth), found
    assert not found.rotation_known


@pytest.mark.parametrize("seed", range(4))
def test_rings_on_air__are_no_structure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    air = rng.normal(0, 0.01, 128) + rng.normal(0, 0.01, (90, 128))
    assert not check_geometry(air.astype(np.float32), wide_fan(0.0)).decided


def test_check__says_that_parallel_rays_do_not_tell_the_sense() -> None:
    geometry = parallel(0.0)
    found = check_geometry(sinogram_of(geometry), geometry)
    assert found.ok
    assert not found.rotation_known
    assert {trial.reversed_rotation for trial in found.trials} == {False}
    assert "cannot be told" in found.message


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_check__says_where_there_is_nothing_to_judge(noise: float) -> None:
    geometry = fan(0.0)
    air = np.random.default_rng(5).normal(0.0, noise, (90, 80)).astype(np.float32)
    found = check_geometry(air, geometry)
    assert found.ok
    assert "too little structure" in found.message


def test_check__names_the_column_of_the_axis() -> None:
    geometry = parallel(2.0)
    found = check_geometry(sinogram_of(geometry), with_offset(geometry, 0.0))
    # the axis falls on the column whose u is 0
    panel = replace(geometry.detector, offset_u_mm=found.best_offset_u_mm)
    column = found.best_rotation_axis_column
    assert column is not None
    assert np.interp(column, np.arange(80), panel.u_mm) == pytest.approx(0.0, abs=1e-9)


def test_check__draws_the_best_and_the_stated() -> None:
    geometry = fan(2.0)
    found = check_geometry(sinogram_of(geometry), with_offset(geometry, 0.0))
    marks = [(item.best, item.stated) for line in found.shown for item in line]
    assert marks.count((True, False)) == 1
    assert marks.count((False, True)) == 1
    assert len(marks) == 10
    assert found._repr_png_().startswith(b"\x89PNG")


def test_picture__holds_the_whole_of_a_long_message() -> None:
    plane = ImagePlane(np.eye(8), (1.0, 1.0), "1/mm")
    message = (
        "stated rotation counterclockwise looks wrong: clockwise with the offset -12.44 mm "
        "(rotation_axis_column = 75.94) fits better (x1.30 as sharp)"
    )
    figure = draw_candidates([[Candidate(plane, "one")] * 5] * 2, message).figure
    figure.canvas.draw()
    drawn = figure.get_suptitle()
    assert drawn.split() == message.split()
    title = figure.texts[0].get_window_extent()
    assert figure.texts[0].get_text() == drawn
    assert title.x0 >= 0
    assert title.x1 <= figure.bbox.width
    assert title.y1 <= figure.bbox.height
    highest = max(axes.get_window_extent().y1 for axes in figure.axes)
    assert title.y0 >= highest


def test_check__tells_how_far_it_is() -> None:
    told = io.StringIO()
    check_geometry(sinogram_of(fan(2.0)), fan(0.0), progress=LineProgress(told))
    lines = told.getvalue().splitlines()
    assert lines[0].startswith("check: 0 of 10 slices")
    assert lines[-1].startswith("check: 10 of 10 slices")


def test_check__has_a_summary_for_machines() -> None:
    geometry = fan(2.0)
    found = check_geometry(sinogram_of(geometry), with_offset(geometry, 0.0))
    summary = json.loads(json.dumps(found.summary()))
    assert summary["best_offset_u_mm"] == found.best_offset_u_mm
    assert summary["ok"] is False
    stated = [trial for trial in summary["trials"] if trial["offset_u_mm"] == 0.0]
    assert [trial["sharpness"] for trial in stated if not trial["reversed_rotation"]] == [1.0]


@pytest.mark.parametrize(
    ("sinogram", "error"),
    [
        (np.zeros((90, 79), np.float32), ProjectionDataError),
        (np.full((90, 80), np.nan, np.float32), ProjectionDataError),
    ],
)
def test_check__refuses_what_is_no_sinogram(
    sinogram: NDArray[np.float32], error: type[Exception]
) -> None:
    with pytest.raises(error, match="sinogram: expected"):
        check_geometry(sinogram, fan(0.0))


def test_check__refuses_a_scan_that_cannot_be_reconstructed() -> None:
    short = replace(fan(0.0), gantry_angles_rad=FULL_TURN / 4)
    with pytest.raises(GeometryError):
        check_geometry(np.ones((90, 80), np.float32), short)


@given(st.floats(0.1, 50.0), st.floats(-5.0, 5.0), st.permutations(range(40)))
def test_sharpness__is_contrast_times_the_shares_of_grey_values(
    scale: float, shift: float, order: list[int]
) -> None:
    values = np.array([0.0] * 30 + [1.0] * 10)
    deviation = (0.75 * 0.25) ** 0.5
    expected = scale * deviation * 0.75**0.75 * 0.25**0.25
    assert sharpness(values[order] * scale + shift) == pytest.approx(expected)
    assert sharpness(np.full(9, shift)) == 0.0


def test_middle_row__is_where_the_plane_of_the_source_meets_the_detector() -> None:
    top_down = FlatPanel(10, 4, 1.0, 1.0, offset_v_mm=2.5)
    bottom_up = replace(top_down, row_order="bottom_up")
    for panel in (top_down, bottom_up):
        geometry = ConeBeamGeometry(100.0, 200.0, FULL_TURN, panel)
        assert abs(panel.v_mm[middle_row(geometry)]) == 0.0
    assert middle_row(ParallelBeamGeometry(FULL_TURN, top_down)) == 5


def test_ellipsoids_off_the_axis__are_found_too() -> None:
    blob = [Ellipsoid(0.03, (6.0, 4.0, 5.0), (9.0, 3.0, 0.0))]
    geometry = fan(-1.7)
    sinogram = project(blob, geometry)[:, 0]
    found = check_geometry(sinogram, with_offset(geometry, 0.0))
    assert abs(found.best_offset_u_mm + 1.7) <= 0.25
