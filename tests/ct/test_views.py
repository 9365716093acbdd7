"""Panels and sources that stand anywhere, brought upright."""

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.phantom import Ellipsoid, project
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.errors import GeometryError, ProjectionDataError

PANEL = FlatPanel(60, 90, 2.0, 1.8, offset_u_mm=1.3, offset_v_mm=-2.1)
CIRCLE = np.arange(180) * 2 * math.pi / 180
SCAN = ConeBeamGeometry(250.0, 400.0, CIRCLE, PANEL)
# soft balls off the axis: sharp edges would show the sampling, not the geometry
BODY = tuple(
    Ellipsoid(0.002, (radius, radius, radius), center)
    for center in ((22.0, 4.0, 20.0), (-14.0, -17.0, -18.0), (-5.0, 20.0, 0.0))
    for radius in np.linspace(2.0, 12.0, 21)
)
GRID = VolumeGrid((43, 45, 45), (1.5, 1.6, 1.6))
TURNED: dict[str, dict[str, Any]] = {
    "in its plane": {"in_plane_rad": 0.05},
    "about u": {"about_u_rad": -0.12},
    "about v": {"about_v_rad": 0.1},
    "all": {"in_plane_rad": -0.03, "about_u_rad": 0.07, "about_v_rad": -0.05},
    "jitter": {"shifts_mm": np.random.default_rng(0).uniform(-3, 3, (180, 2))},
}


@pytest.mark.parametrize("row_order", ["top_down", "bottom_up"])
def test_rectification__of_an_upright_panel_changes_nothing(row_order: Any) -> None:
    scan = replace(SCAN, detector=replace(PANEL, row_order=row_order))
    rectification = Rectification(ConeBeamViews.of_circle(scan))
    found = rectification.geometry
    assert found.source_to_isocenter_mm == pytest.approx(250.0)
    assert found.source_to_detector_mm == pytest.approx(400.0)
    assert found.source_shifts_mm is None
    np.testing.assert_allclose(np.mod(found.gantry_angles_rad, 2 * math.pi), CIRCLE, atol=1e-9)
    frames = np.random.default_rng(1).random((180, 60, 90)).astype(np.float32)
    upright = rectification.apply(frames)
    panel = found.detector
    # the offset is no whole number of pixels: the upright panel has the same pixels, moved
    np.testing.assert_allclose(panel.u_mm, PANEL.u_mm, atol=1e-6)
    np.testing.assert_allclose(panel.v_mm, scan.detector.v_mm, atol=1e-6)
    np.testing.assert_allclose(upright, frames, atol=1e-4)


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("row_order", ["top_down", "bottom_up"])
def test_rectification__gives_what_an_upright_panel_sees(name: str, row_order: Any) -> None:
    scan = replace(SCAN, detector=replace(PANEL, row_order=row_order))
    views = ConeBeamViews.of_circle(scan, **TURNED[name])
    rectification = Rectification(views)
    seen = project(BODY, rectification.geometry)
    found = rectification.apply(project(BODY, views), n_threads=2)
    assert float(np.sqrt(((found - seen) ** 2).mean())) < 0.002 * seen.max()


@pytest.mark.parametrize("name", TURNED)
def test_reconstruct__of_a_turned_panel_is_that_of_an_upright_one(name: str) -> None:
    views = ConeBeamViews.of_circle(SCAN, **TURNED[name])
    frames = project(BODY, views)
    expected = reconstruct_fdk(project(BODY, SCAN), SCAN, GRID)
    found = reconstruct_fdk(frames, views, GRID)
    ignored = reconstruct_fdk(frames, SCAN, GRID)
    error, without = (np.sqrt(((one - expected) ** 2).mean()) for one in (found, ignored))
    assert error < 0.0015 * expected.max()
    assert without > 2 * error
    rectification = Rectification(views)
    upright = reconstruct_fdk(rectification.apply(frames), rectification.geometry, GRID)
    assert np.abs(found - upright).max() <= 1e-6 * upright.max()


def test_reconstruct__follows_a_source_that_wobbles() -> None:
    shifts = np.stack([8 * np.cos(CIRCLE), 5 * np.sin(2 * CIRCLE)], axis=1)
    scan = replace(SCAN, source_shifts_mm=shifts)
    frames = project(BODY, scan)
    expected = reconstruct_fdk(project(BODY, SCAN), SCAN, GRID)
    found = reconstruct_fdk(frames, scan, GRID)
    ignored = reconstruct_fdk(frames, SCAN, GRID)
    error, without = (np.sqrt(((one - expected) ** 2).mean()) for one in (found, ignored))
    assert error < 0.003 * expected.max()
    assert without > 10 * error


def test_matrices__take_points_to_the_pixels_that_see_them() -> None:
    views = ConeBeamViews.of_circle(SCAN, **TURNED["all"])
    pixels = np.array([(0, 0), (59, 89), (17, 70)])
    for view in (0, 50, 179):
        for row, column in pixels:
            place = (
                views.centers_mm[view]
                + PANEL.u_mm[column] * views.u_axes[view]
                + PANEL.v_mm[row] * views.v_axes[view]
            )
            point = views.sources_mm[view] + 0.61 * (place - views.sources_mm[view])
            x, y, depth = views.matrices()[view] @ [*point, 1.0]
            assert (x / depth, y / depth) == (pytest.approx(column), pytest.approx(row))


@settings(deadline=None, max_examples=25)
@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.integers(0, 2**31),
       st.sampled_from(["top_down", "bottom_up"]))  # fmt: skip
def test_views__come_back_from_matrices_of_any_factor(
    in_plane: float, about_u: float, about_v: float, seed: int, row_order: Any
) -> None:
    rng = np.random.default_rng(seed)
    scan = replace(
        SCAN,
        gantry_angles_rad=CIRCLE[::20],
        detector=replace(PANEL, row_order=row_order),
        source_shifts_mm=rng.uniform(-10, 10, (9, 2)),
    )
    views = ConeBeamViews.of_circle(
        scan, in_plane_rad=in_plane, about_u_rad=about_u, about_v_rad=about_v
    )
    factors = rng.choice([-1, 1], (9, 1, 1)) * rng.uniform(0.1, 10, (9, 1, 1))
    panel = replace(scan.detector, offset_u_mm=0.0, offset_v_mm=0.0)
    found = ConeBeamViews.from_matrices(views.matrices() * factors, panel)
    middle = views.centers_mm + PANEL.offset_u_mm * views.u_axes + PANEL.offset_v_mm * views.v_axes
    for name, expected in (
        ("sources_mm", views.sources_mm),
        ("centers_mm", middle),
        ("u_axes", views.u_axes),
        ("v_axes", views.v_axes),
    ):
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-6)


def test_reconstruct__from_matrices_is_that_of_the_scan() -> None:
    frames = project(BODY, SCAN)
    matrices = ConeBeamViews.of_circle(SCAN).matrices()
    panel = replace(PANEL, offset_u_mm=0.0, offset_v_mm=0.0)
    found = reconstruct_fdk(frames, ConeBeamViews.from_matrices(matrices, panel), GRID)
    expected = reconstruct_fdk(frames, SCAN, GRID)
    assert np.abs(found - expected).max() < 1e-4 * expected.max()


def broken(**changes: Any) -> ConeBeamViews:
    views = ConeBeamViews.of_circle(SCAN)
    names = ("sources_mm", "centers_mm", "u_axes", "v_axes", "detector")
    return ConeBeamViews(**{**{name: getattr(views, name) for name in names}, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u_axes": np.zeros((180, 3))}, "unit vectors at right angles"),
        ({"v_axes": ConeBeamViews.of_circle(SCAN).u_axes}, "unit vectors at right angles"),
        ({"sources_mm": np.full((180, 3), math.nan)}, r"sources_mm\[0\]: expected numbers within"),
        ({"sources_mm": np.full((180, 3), 1e300)}, r"sources_mm\[0\]: expected numbers within"),
        ({"centers_mm": np.zeros((3, 3))}, "centers_mm: expected"),
    ],
)
def test_views__refuse_what_no_panel_is(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        broken(**changes)


def test_rectification__refuses_panels_that_face_elsewhere() -> None:
    views = ConeBeamViews.of_circle(SCAN)
    away = {"u_axes": np.cross(views.u_axes, views.v_axes)}
    with pytest.raises(GeometryError, match=r"within 60 degrees of upright, found .* by 90"):
        Rectification(broken(**away))
    with pytest.raises(GeometryError, match="behind the axis"):
        Rectification(broken(centers_mm=2 * views.sources_mm))


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        (np.zeros((3, 3)), "expected .n_angles, 3, 4. finite"),
        (np.zeros((2, 3, 4)), r"matrices\[0\]: expected one of a source and a panel"),
        (np.full((2, 3, 4), 1e308), r"matrices\[0\]: expected one of a source and a panel"),
        (
            ConeBeamViews.of_circle(SCAN).matrices() * [1.0, 1.0, 1.0, 1e300],
            r"sources_mm\[0\]: expected numbers within",
        ),
        (
            ConeBeamViews.of_circle(SCAN).matrices() * [[[1], [2], [1]]],
            "rows 2 mm apart .* found 1",
        ),
    ],
)
def test_matrices__that_are_none_are_refused(matrices: NDArray[np.float64], message: str) -> None:
    panel = replace(PANEL, offset_u_mm=0.0, offset_v_mm=0.0)
    with pytest.raises(GeometryError, match=message):
        ConeBeamViews.from_matrices(matrices, panel)


def test_matrices__come_with_a_panel_without_offsets() -> None:
    with pytest.raises(GeometryError, match="expected no offsets beside matrices"):
        ConeBeamViews.from_matrices(ConeBeamViews.of_circle(SCAN).matrices(), PANEL)


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("rows", [(0, 1), (17, 19), (30, 61), (60, 64)])
def test_rectification__of_a_band_takes_its_raw_rows_alone(
    name: str, rows: tuple[int, int]
) -> None:
    rectification = Rectification(ConeBeamViews.of_circle(SCAN, **TURNED[name]))
    rows = (rows[0], min(rows[1], rectification.geometry.detector.n_rows))
    frames = np.random.default_rng(2).random((180, 60, 90)).astype(np.float32)
    expected = rectification.apply(frames)[40:60, slice(*rows)]
    start, stop = rectification.raw_rows(*rows)
    found = rectification.apply(frames[40:60, start:stop], 40, rows=rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert stop - start < rows[1] - rows[0] + 30


def test_rectification__refuses_frames_of_another_panel() -> None:
    rectification = Rectification(ConeBeamViews.of_circle(SCAN, about_u_rad=0.1))
    for shape in ((2, 60, 91), (2, 59, 90), (181, 60, 90)):
        with pytest.raises(ProjectionDataError, match=r"expected shape \(n, 60, 90\)"):
            rectification.apply(np.zeros(shape, np.float32))


def test_rectification__takes_views_in_any_order() -> None:
    # steps of the golden angle: each is further than half a circle from the one before
    order = replace(
        SCAN, gantry_angles_rad=np.mod(np.arange(720) * math.radians(222.49), 2 * math.pi)
    )
    found = Rectification(ConeBeamViews.of_circle(order)).geometry.gantry_angles_rad
    expected = np.mod(order.gantry_angles_rad, 2 * math.pi)
    np.testing.assert_allclose(np.mod(found, 2 * math.pi), expected, atol=1e-9)


def test_rectification__refuses_shifts_that_no_panel_has() -> None:
    shifts = np.zeros((180, 2))
    shifts[7, 1] = 390.0
    views = ConeBeamViews.of_circle(SCAN, shifts_mm=shifts)
    assert Rectification(views).geometry.detector.n_rows == 60 + 195
    shifts[7, 1] = 790.0
    with pytest.raises(GeometryError, match=r"at most 300 rows and columns .* takes 455 x 90"):
        Rectification(ConeBeamViews.of_circle(SCAN, shifts_mm=shifts))


def test_views__are_values() -> None:
    views = ConeBeamViews.of_circle(SCAN, **TURNED["all"])
    again = pickle.loads(pickle.dumps(views))
    assert again == views
    assert hash(again) == hash(views)
    assert not again.sources_mm.flags.writeable
    assert views != ConeBeamViews.of_circle(SCAN)
