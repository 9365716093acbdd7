"""Circles along the axis make one volume: that of the phantom, and of one circle where it does."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pacspark.ct.circles import circle_shares, reconstruct_circles
from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.phantom import Ellipsoid, project, voxelize
from pacspark.ct.views import ConeBeamViews
from pacspark.errors import GeometryError

ANGLES = np.arange(120) * 2 * math.pi / 120
PANEL = FlatPanel(24, 48, 2.0, 2.0)
HEIGHTS = (-20.0, 0.0, 20.0)
GRID = VolumeGrid((80, 40, 40), (0.75, 1.0, 1.0))
# soft balls all along the axis: sharp edges would show the sampling
BODY = tuple(
    Ellipsoid(0.002, (radius, radius, radius), (9 * math.cos(z), 9 * math.sin(z), float(z)))
    for z in range(-24, 25, 8)
    for radius in np.linspace(1.0, 7.0, 13)
)


def circle(height_mm: float, panel: FlatPanel = PANEL) -> ConeBeamGeometry:
    return ConeBeamGeometry(400.0, 600.0, ANGLES, panel, np.tile([0.0, height_mm], (120, 1)))


CIRCLES = [circle(height) for height in HEIGHTS]


def test_circles__make_a_volume_that_none_of_them_sees() -> None:
    frames = [project(BODY, one) for one in CIRCLES]
    found = reconstruct_circles(frames, CIRCLES, GRID)
    truth = voxelize(BODY, GRID)
    # one tall detector sees it all: what is left is the cone's and the sampling's error
    tall = circle(0.0, replace(PANEL, n_rows=60))
    reference = reconstruct_fdk(project(BODY, tall), tall, GRID)
    error, of_tall = (np.sqrt(((one - truth) ** 2).mean()) for one in (found, reference))
    assert error < 1.05 * of_tall
    assert np.abs(found - reference).max() < 0.05 * truth.max()
    alone = reconstruct_fdk(frames[1], CIRCLES[1], GRID)
    assert np.sqrt(((alone - truth) ** 2).mean()) > 3 * error


def test_circles__are_one_circle_where_one_suffices() -> None:
    frames = [project(BODY, one) for one in CIRCLES]
    shares = circle_shares(CIRCLES, GRID)
    found = reconstruct_circles(frames, CIRCLES, GRID)
    for number, one in enumerate(CIRCLES):
        alone = np.flatnonzero(shares[number] == 1.0)
        assert len(alone) > 5
        slab = GRID.slab(int(alone[0]), int(alone[-1]) + 1)
        expected = reconstruct_fdk(frames[number], one, slab)
        np.testing.assert_array_equal(found[alone], expected)


def test_shares__fade_linearly_and_sum_to_one() -> None:
    shares = circle_shares(CIRCLES, GRID)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    fading = np.flatnonzero((shares[0] > 0) & (shares[0] < 1))
    assert len(fading) > 3
    np.testing.assert_allclose(np.diff(shares[0, fading], 2), 0.0, atol=1e-12)
    # neighbours whose slices overlap meet in the middle between them
    assert np.interp(-10.0, GRID.z_mm, shares[0]) == pytest.approx(0.5)
    assert shares[0, 0] == shares[2, -1] == 1.0


def test_shares__do_not_depend_on_the_order() -> None:
    shares = circle_shares(CIRCLES, GRID)
    order = [2, 0, 1]
    np.testing.assert_array_equal(circle_shares([CIRCLES[one] for one in order], GRID),
                                  shares[order])  # fmt: skip


def test_shares__of_dense_circles_are_those_of_the_two_nearest() -> None:
    dense = [circle(height) for height in np.arange(-24.0, 25.0, 4.0)]
    shares = circle_shares(dense, GRID)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    assert (shares > 0).sum(axis=0).max() == 2
    assert np.interp(2.0, GRID.z_mm, shares[6]) == pytest.approx(0.5)


def test_shares__follow_a_detector_that_sees_one_side_of_its_plane() -> None:
    panel = replace(PANEL, offset_v_mm=12.0)
    shares = circle_shares([circle(height - 8.0, panel) for height in HEIGHTS], GRID)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    assert shares[1, np.abs(GRID.z_mm).argmin()] == 1.0


def test_circles__refuse_gaps_and_what_is_no_circle() -> None:
    apart = [circle(-30.0), circle(30.0)]
    with pytest.raises(GeometryError, match=r"from z = .* that neither circle 0 nor 1 sees so"):
        circle_shares(apart, GRID)
    shifts = np.stack([np.zeros(120), np.linspace(0, 1, 120)], axis=1)
    with pytest.raises(GeometryError, match=r"circles\[1\]: expected all views at one height"):
        circle_shares([CIRCLES[0], replace(CIRCLES[1], source_shifts_mm=shifts)], GRID)
    tilted = ConeBeamViews.of_circle(CIRCLES[0], in_plane_rad=0.1)
    with pytest.raises(GeometryError, match=r"circles\[0\]: .*, found ConeBeamViews"):
        circle_shares([tilted], GRID)  # type: ignore[list-item]
    with pytest.raises(GeometryError, match="at least one"):
        circle_shares([], GRID)
    with pytest.raises(GeometryError, match="those of 3 circles, found 0"):
        reconstruct_circles([], CIRCLES, GRID)
