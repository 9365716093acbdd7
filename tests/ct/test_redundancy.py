"""What each ray of each view counts: short scans, half-fans, and arcs."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.ct.phantom import Ellipsoid, project
from pacspark.ct.redundancy import Redundancy, require_rays, shared_arcs, short_scan_shares
from pacspark.errors import GeometryError
from tests.oracles import arcs_rad
from tests.strategies import angle_lists


def scan(first_deg: float, last_deg: float, count: int, **panel: Any) -> ConeBeamGeometry:
    """Give a cone beam with a fan of 2 x 15 degrees; the end point is included."""
    width = 2 * 400 * math.tan(math.radians(15))
    detector = FlatPanel(
        **{
            "n_rows": 9,
            "n_columns": 120,
            "row_spacing_mm": 2.0,
            "column_spacing_mm": width / 120,
            **panel,
        }
    )
    angles = np.radians(np.linspace(first_deg, last_deg, count))
    return ConeBeamGeometry(250.0, 400.0, angles, detector)


@settings(deadline=None)
@given(angle_lists(), st.booleans())
def test_shared_arcs__are_the_arcs_nearest_to_each_view(
    angles: np.ndarray[Any, np.dtype[np.float64]], parallel: bool
) -> None:
    period = math.pi if parallel else 2 * math.pi
    weights = shared_arcs(angles, period)
    assert weights.sum() == pytest.approx(period)
    assert (weights >= 0).all()
    turned = np.sort(np.mod(angles, period))
    gaps = np.diff(turned, append=turned[0] + period)
    assume(angles.size == 1 or gaps.min() > 1e-6)  # twins share an arc in any way
    np.testing.assert_allclose(weights, arcs_rad(angles, period), atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 120, 721])
@pytest.mark.parametrize("endpoint", [False, True])
def test_shared_arcs__close_the_circle_with_and_without_its_end(count: int, endpoint: bool) -> None:
    angles = np.linspace(0, 2 * math.pi, count + endpoint, endpoint=endpoint)
    weights = shared_arcs(angles, 2 * math.pi)
    step = 2 * math.pi / count
    assert weights.sum() == pytest.approx(2 * math.pi)
    np.testing.assert_allclose(weights[1:-1], step)
    if endpoint:
        np.testing.assert_allclose(weights[[0, -1]], step / 2)


@pytest.mark.parametrize("turns", [2, 3, 5])
@pytest.mark.parametrize("start_rad", [0.0, 1.234])
def test_shared_arcs__of_several_turns_use_every_turn_alike(turns: int, start_rad: float) -> None:
    degrees = np.arange(0, 360 * turns, 3)
    angles = np.radians(degrees) + start_rad
    weights = shared_arcs(angles, 2 * math.pi)
    np.testing.assert_allclose(weights, math.radians(3) / turns)
    # parallel rays come back after half a turn
    weights = shared_arcs(angles, math.pi)
    np.testing.assert_allclose(weights, math.radians(3) / turns / 2)


def test_shared_arcs__of_twins_on_uneven_steps_are_shared() -> None:
    angles = np.radians([350, 0, 10, 10, 10, 90, 360, 200])
    weights = np.degrees(shared_arcs(angles, 2 * math.pi))
    np.testing.assert_allclose(weights, [80, 5, 15, 15, 15, 95, 5, 130])


@pytest.mark.parametrize(
    "degrees", [np.arange(180), np.arange(181), np.arange(0, 360, 2), np.arange(-90, 90)]
)
def test_shared_arcs__count_opposite_parallel_views_as_one(
    degrees: np.ndarray[Any, np.dtype[np.int64]],
) -> None:
    weights = shared_arcs(np.radians(degrees), math.pi)
    assert weights.sum() == pytest.approx(math.pi)
    assert weights.max() == pytest.approx(math.radians(1))


@settings(deadline=None)
@given(st.floats(0.02, 0.5), st.floats(0.0, 1.0), st.floats(-1.0, 1.0), st.floats(0.0, 1.0))
def test_short_scan_shares__of_both_ends_of_a_ray_add_up_to_one(
    fan_rad: float, longer: float, place: float, turn: float
) -> None:
    overscan = fan_rad + longer * (math.pi / 2 - fan_rad)
    gamma, beta = np.array([place * fan_rad]), np.array([turn * (math.pi + 2 * overscan)])
    # the source at beta, its ray, and the other point where that ray meets the circle
    direction = beta + math.pi - gamma
    source = np.array([np.cos(beta), np.sin(beta)])
    along = np.array([np.cos(direction), np.sin(direction)])
    other = source - 2 * (source * along).sum(axis=0) * along
    end = np.mod(np.arctan2(other[1], other[0]), 2 * math.pi)
    assume(not np.isclose(end, math.pi + 2 * overscan, atol=1e-6) and end[0] > 1e-6)
    total = short_scan_shares(beta, gamma, overscan)
    if end <= math.pi + 2 * overscan:
        total += short_scan_shares(end, -gamma, overscan)
    np.testing.assert_allclose(total, 1.0, atol=1e-5)


def test_short_scan_shares__fade_to_nothing_at_both_ends() -> None:
    gamma = np.linspace(-0.2, 0.2, 9)
    shares = short_scan_shares(np.array([[0.0], [math.pi / 2], [math.pi + 0.5]]), gamma, 0.25)
    np.testing.assert_allclose(shares[[0, 2]], 0.0, atol=1e-12)
    np.testing.assert_allclose(shares[1], 1.0)


@pytest.mark.parametrize("offset_u_mm", [-40.0, 25.0])
@pytest.mark.parametrize("parallel", [False, True])
def test_half_fan__counts_each_ray_once_in_all(offset_u_mm: float, *, parallel: bool) -> None:
    geometry: Geometry = scan(0, 359, 360, offset_u_mm=offset_u_mm)
    if parallel:
        geometry = ParallelBeamGeometry(geometry.gantry_angles_rad, geometry.detector)
    assert geometry.is_half_fan
    u_mm = geometry.detector.u_mm
    shares = Redundancy(geometry).weights(slice(1))[0] / math.radians(1)
    opposite = np.interp(-u_mm, u_mm, shares, left=0.0, right=0.0)
    far = np.minimum(np.abs(u_mm - u_mm[0]), np.abs(u_mm - u_mm[-1])) > 2
    np.testing.assert_allclose((shares + opposite)[far], 1.0, atol=2e-3)
    short = 0 if offset_u_mm > 0 else -1
    assert shares[short] < 0.01
    assert shares[-1 - short] == pytest.approx(1.0, abs=1e-6)


BALL = (
    Ellipsoid(0.02, (40.0, 40.0, 40.0)),
    Ellipsoid(0.01, (9.0, 6.0, 6.0), (0.0, -12.0, 18.0)),
)


def middle(geometry: Geometry, options: FDKOptions | None = None) -> NDArray[np.float32]:
    """Give the middle slice of the ball's scan, 2 mm voxels."""
    grid = VolumeGrid((1, 31, 31), (2.0, 2.0, 2.0))
    return np.asarray(reconstruct_fdk(project(BALL, geometry), geometry, grid, options)[0])


@pytest.mark.parametrize(
    ("first_deg", "last_deg"), [(0, 210), (77, 287), (0, -210), (-300, -60), (10, 320)]
)
def test_reconstruct__gives_of_a_short_scan_what_it_gives_of_a_circle(
    first_deg: int, last_deg: int
) -> None:
    full = middle(scan(0, 359.5, 720))
    short = middle(scan(first_deg, last_deg, 2 * abs(last_deg - first_deg) + 1))
    assert full[15, 15] == pytest.approx(0.02, rel=0.005)
    assert np.abs(short - full).max() < 0.02 * full.max()


@pytest.mark.parametrize("offset_columns", [25, -25])
@pytest.mark.parametrize("parallel", [False, True])
def test_reconstruct__gives_of_a_half_fan_what_it_gives_of_a_whole_one(
    offset_columns: int, *, parallel: bool
) -> None:
    whole: Geometry = scan(0, 359, 360)
    if parallel:
        whole = ParallelBeamGeometry(whole.gantry_angles_rad, FlatPanel(9, 100, 1.2, 1.2))
        offset_columns = offset_columns * 3 // 5
    columns = whole.detector.n_columns - 2 * abs(offset_columns)
    offset_u_mm = offset_columns * whole.detector.column_spacing_mm
    panel = replace(whole.detector, n_columns=columns, offset_u_mm=offset_u_mm)
    expected = middle(whole)
    found = middle(replace(whole, detector=panel))
    assert expected[15, 15] == pytest.approx(0.02, rel=0.005)
    assert np.abs(found - expected).max() < 0.01 * expected.max()


@pytest.mark.parametrize("n_angles", [360, 220])
@pytest.mark.parametrize(("columns", "seen_mm", "part"), [(60, 28, 0.2), (44, 18, 0.5)])
def test_extrapolation__mends_the_rim_of_an_object_wider_than_the_detector(
    n_angles: int, columns: int, seen_mm: float, part: float
) -> None:
    whole = scan(0, n_angles - 1, n_angles)
    cut = replace(whole, detector=replace(whole.detector, n_columns=columns))
    seen = np.hypot(*np.mgrid[-30:31:2, -30:31:2]) <= seen_mm
    expected = middle(whole)[seen]
    plain = np.abs(middle(cut)[seen] - expected).max()
    mended = np.abs(middle(cut, FDKOptions(extrapolation=part))[seen] - expected).max()
    assert plain > 0.2 * expected.max()
    assert mended < plain / 5


@pytest.mark.parametrize("offset_u_mm", [0.0, 50.0])
def test_extrapolation__leaves_alone_what_ends_on_the_detector(offset_u_mm: float) -> None:
    geometry = scan(0, 356, 90, offset_u_mm=offset_u_mm)
    found = middle(geometry, FDKOptions(extrapolation=0.3))
    np.testing.assert_allclose(found, middle(geometry), atol=1e-6)


@pytest.mark.parametrize("name", ["short scan", "half fan"])
def test_redundancy__of_blocks_of_views_is_that_of_all(name: str) -> None:
    geometry = scan(5, 230, 100) if name == "short scan" else scan(0, 356, 90, offset_u_mm=50.0)
    redundancy = Redundancy(geometry)
    whole = redundancy.weights(slice(None))
    parts = [redundancy.weights(slice(at, at + 10)) for at in range(0, geometry.n_angles, 10)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (scan(0, 180, 181), r"180 degrees and the fan's 30\.0, found views over 180\.0"),
        (ParallelBeamGeometry(np.radians(np.arange(150)), FlatPanel(1, 9, 1.0, 1.0)),
         r"all around 180 degrees, found none for 31\.0 degrees from 149\.0 on"),
    ],
)  # fmt: skip
def test_redundancy__refuses_views_that_leave_out_rays(geometry: Geometry, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        Redundancy(geometry)


RANGES = {
    "a short scan with a hole": [*range(60), *range(80, 202)],
    "a view that stands alone": [*range(202), 280],
    "views that stand far apart": [*range(202), *range(220, 355, 19)],
    "a circle with two holes": [*range(60), *range(120, 300), *range(330, 360)],
    "one view": [0],
    "two views": [0, 90],
    "two opposite views": [0, 180, 0, 180],
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("first_deg", [0, 77])
def test_redundancy__refuses_holes(name: str, first_deg: int) -> None:
    angles = np.radians(np.random.default_rng(0).permutation(RANGES[name]) + first_deg)
    geometry = replace(scan(0, 359, 360), gantry_angles_rad=angles)
    with pytest.raises(GeometryError, match=r"found none for|at least 3 directions"):
        Redundancy(geometry)
    with pytest.raises(GeometryError, match=r"found none for|at least 3 directions"):
        Redundancy(ParallelBeamGeometry(angles / 2, geometry.detector))


RNG = np.random.default_rng(5)
WHOLE = {
    "six turns that do not quite meet": RNG.normal(0, 0.002, 2160) + np.arange(2160),
    "five turns, each a bit on": np.arange(1800) * 1.00005,
    "views by chance": RNG.uniform(0, 360, 720),
    "the golden angle": np.arange(400) * 137.50776 % 360,
    "three frames lost": np.delete(np.arange(360.0), [50, 51, 52]),
    "three views": np.array([0.0, 120.0, 240.0]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_redundancy__takes_any_views_from_all_sides(name: str) -> None:
    geometry = replace(scan(0, 359, 360), gantry_angles_rad=np.radians(WHOLE[name]))
    assert not Redundancy(geometry).is_short_scan
    Redundancy(ParallelBeamGeometry(geometry.gantry_angles_rad, geometry.detector))
    if "three views" not in name:
        half = ParallelBeamGeometry(geometry.gantry_angles_rad / 2, geometry.detector)
        assert Redundancy(half).arcs_rad.sum() == pytest.approx(math.pi)


def test_redundancy__takes_a_step_for_no_more_than_it_is() -> None:
    angles = np.radians([0.0, 50.0, 100.0, 150.0])
    geometry = replace(scan(0, 359, 360), gantry_angles_rad=angles)
    with pytest.raises(GeometryError, match=r"fan's 30\.0, found views over 150\.0"):
        Redundancy(geometry)


@pytest.mark.parametrize(("last_deg", "short"), [(355, False), (353, True), (340, True)])
def test_redundancy__of_a_circle_with_a_gap_is_that_of_a_long_short_scan(
    last_deg: int, *, short: bool
) -> None:
    geometry = scan(0, last_deg, last_deg + 1)
    assert Redundancy(geometry).is_short_scan == short
    full = middle(scan(0, 359, 360))
    assert np.abs(middle(geometry) - full).max() < 0.02 * full.max()


def test_redundancy__wants_some_columns_of_a_half_fan_beyond_the_axis() -> None:
    spacing_mm = scan(0, 359, 360).detector.column_spacing_mm
    Redundancy(scan(0, 359, 360, offset_u_mm=51 * spacing_mm))
    for columns, message in ((53, "at least 8 columns beyond the axis, found 7.0"),
                             (61, "sees the rotation axis")):  # fmt: skip
        for sign in (-1, 1):
            with pytest.raises(GeometryError, match=message):
                Redundancy(scan(0, 359, 360, offset_u_mm=sign * columns * spacing_mm))


def test_redundancy__of_a_short_scan_does_without_half_fans() -> None:
    """Only a full circle brings what a shifted detector misses into its view."""
    geometry = scan(0, 220, 441, offset_u_mm=40.0)
    assert not geometry.is_half_fan
    assert Redundancy(geometry).is_short_scan
    assert middle(geometry)[15, 15] == pytest.approx(0.02, rel=0.01)


def test_shared_arcs__of_an_open_scan_leave_out_the_gap() -> None:
    arcs = shared_arcs(np.radians([10.0, 0.0, 30.0, 60.0]), 2 * math.pi, closed=False)
    np.testing.assert_allclose(np.degrees(arcs), [15, 5, 25, 15])


def test_helix__is_refused_and_a_drift_is_not() -> None:
    angles = np.arange(360) * 2 * np.pi / 120
    panel = FlatPanel(24, 32, 2.0, 2.0)
    rising = np.linspace(-1, 1, 360)

    def climbing(height_mm: float) -> ConeBeamGeometry:
        shifts_mm = np.stack([np.zeros(360), rising * height_mm / 2], axis=1)
        return ConeBeamGeometry(400.0, 600.0, angles, panel, shifts_mm)

    require_rays(climbing(31.9))  # a view sees 32 mm of the axis
    with pytest.raises(GeometryError, match=r"source_shifts_mm: .* 32 mm .* helical orbits"):
        require_rays(climbing(200.0))
