"""The reconstruction against brute force, voxel by voxel, in every geometry that it knows."""

import math
import tracemalloc
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.ct.fdk import SlabReconstruction, reconstruct_fdk
from pacspark.ct.filtering import WINDOWS, FDKOptions, ramp_response
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.ct.kernels.variants import available_variants
from pacspark.errors import GeometryError, ProjectionDataError, UsageError
from tests.oracles import fdk

TOLERANCE = 3e-6
"""Of the peak: what single precision costs."""
PANEL = FlatPanel(20, 26, 1.4, 1.1, offset_u_mm=0.7, offset_v_mm=-0.9)
CIRCLE = np.arange(24) * 2 * math.pi / 24
CONE = ConeBeamGeometry(120.0, 200.0, CIRCLE, PANEL)
GRID = VolumeGrid((18, 13, 15), (0.7, 0.9, 0.8), (0.3, -1.1, 0.6))
UNEVEN = CIRCLE + np.random.default_rng(3).uniform(-0.05, 0.05, 24)
SCANS: dict[str, Geometry] = {
    "cone": CONE,
    "clockwise": replace(CONE, gantry_angles_rad=-CIRCLE),
    "starts anywhere": replace(CONE, gantry_angles_rad=CIRCLE + 2.345),
    "end point included": replace(CONE, gantry_angles_rad=np.linspace(0, 2 * math.pi, 25)),
    "uneven steps": replace(CONE, gantry_angles_rad=UNEVEN),
    "any order": replace(
        CONE, gantry_angles_rad=np.random.default_rng(4).permutation(CIRCLE) - 1.0
    ),
    "two turns": replace(CONE, gantry_angles_rad=np.arange(50) * 4 * math.pi / 50),
    "bottom up": replace(CONE, detector=replace(PANEL, row_order="bottom_up")),
    "fine rows": replace(CONE, detector=replace(PANEL, row_spacing_mm=0.7)),
    "finer rows than two in a voxel": replace(CONE, detector=replace(PANEL, row_spacing_mm=0.4)),
    "coarse rows": replace(CONE, detector=replace(PANEL, row_spacing_mm=9.0)),
    "wide cone": ConeBeamGeometry(30.0, 45.0, CIRCLE, PANEL),
    "off the axis": replace(CONE, detector=replace(PANEL, offset_u_mm=-1.4, offset_v_mm=6.0)),
    "half-fan": replace(CONE, detector=replace(PANEL, offset_u_mm=-3.0, offset_v_mm=6.0)),
    "half-fan, other side": replace(CONE, detector=replace(PANEL, offset_u_mm=5.0)),
    "short scan": replace(CONE, gantry_angles_rad=np.radians(np.arange(40, 240, 5.0))),
    "short scan, clockwise": replace(CONE, gantry_angles_rad=np.radians(np.arange(9, -190, -7.0))),
    "over-scan, uneven": replace(CONE, gantry_angles_rad=np.sort(UNEVEN)[:20]),
    "wobbling source": replace(
        CONE, source_shifts_mm=np.stack([9 * np.cos(CIRCLE), 4 * np.sin(3 * CIRCLE)], axis=1)
    ),
    "fan": ConeBeamGeometry(120.0, 200.0, CIRCLE, FlatPanel(1, 26, 1.4, 1.1, offset_u_mm=-0.4)),
    "parallel, half": ParallelBeamGeometry(np.arange(20) * math.pi / 20, PANEL),
    "parallel, half with its end": ParallelBeamGeometry(np.linspace(0, math.pi, 21), PANEL),
    "parallel, half-fan": ParallelBeamGeometry(CIRCLE, replace(PANEL, offset_u_mm=4.0)),
    "parallel, full": ParallelBeamGeometry(CIRCLE, replace(PANEL, row_order="bottom_up")),
}


def noise(geometry: Geometry, seed: int = 0) -> NDArray[np.float32]:
    """Projections that hide no mistake: every pixel differs from its neighbours."""
    detector = geometry.detector
    shape = (geometry.n_angles, detector.n_rows, detector.n_columns)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reconstruct(
    projections: NDArray[np.float32], geometry: Geometry, grid: VolumeGrid, variant: str
) -> NDArray[np.float32]:
    slab = SlabReconstruction(geometry, grid, n_threads=2, variant=variant)
    slab.add(projections[:, slice(*slab.row_band)])
    return slab.result()


def worst(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference, as part of the peak."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("variant", available_variants())
@pytest.mark.parametrize("name", SCANS)
def test_reconstruct__does_what_brute_force_does(name: str, variant: str) -> None:
    geometry = SCANS[name]
    projections = noise(geometry)
    expected = fdk(projections, geometry, GRID)
    assert worst(reconstruct(projections, geometry, GRID, variant), expected) < TOLERANCE


@pytest.mark.parametrize(
    "grid",
    [
        VolumeGrid((1, 1, 1), (1.0, 1.0, 1.0)),
        VolumeGrid((40, 3, 2), (0.11, 3.0, 2.0), (-2.0, 1.0, 0.0)),
        VolumeGrid((37, 17, 33), (2.2, 1.0, 1.0), (40.0, 0.0, 0.0)),
        VolumeGrid((70, 5, 5), (1.0, 12.0, 12.0), (0.0, 20.0, -15.0)),
    ],
    ids=["one voxel", "flat voxels", "half of it above the detector", "larger than it sees"],
)
@pytest.mark.parametrize("variant", available_variants())
def test_reconstruct__does_any_grid(grid: VolumeGrid, variant: str) -> None:
    projections = noise(CONE)
    expected = fdk(projections, CONE, grid)
    assert worst(reconstruct(projections, CONE, grid, variant), expected) < TOLERANCE


@pytest.mark.parametrize("cutoff", [1.0, 0.6])
@pytest.mark.parametrize("name", WINDOWS)
def test_reconstruct__does_every_filter(name: str, cutoff: float) -> None:
    projections = noise(CONE)
    length, _ = ramp_response(PANEL.n_columns, 1.0, FDKOptions())
    expected = fdk(projections, CONE, GRID, name, cutoff, length)
    found = reconstruct_fdk(projections, CONE, GRID, FDKOptions(name, cutoff))
    assert worst(found, expected) < TOLERANCE


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 30),
    st.integers(2, 60),
    st.floats(0.3, 5.0),
    st.floats(-8.0, 8.0),
    st.floats(-8.0, 8.0),
    st.tuples(st.integers(1, 35), st.integers(1, 4), st.integers(1, 4)),
    st.floats(0.05, 4.0),
    st.floats(-30.0, 30.0),
    st.sampled_from(available_variants()),
)
def test_reconstruct__does_what_brute_force_does_anywhere(
    n_rows: int,
    n_columns: int,
    row_spacing_mm: float,
    offset_u_mm: float,
    offset_v_mm: float,
    shape: tuple[int, int, int],
    dz_mm: float,
    center_z_mm: float,
    variant: str,
) -> None:
    panel = FlatPanel(n_rows, n_columns, row_spacing_mm, 1.3, offset_u_mm, offset_v_mm)
    geometry = replace(CONE, gantry_angles_rad=CIRCLE[::3], detector=panel)
    grid = VolumeGrid(shape, (dz_mm, 3.0, 2.0), (center_z_mm, 1.0, -2.0))
    half_mm = n_columns * 1.3 / 2
    least_mm = 8 * 1.3 if geometry.is_half_fan else 0.0  # others are refused
    assume(half_mm - abs(offset_u_mm) > least_mm + 1e-9)
    projections = noise(geometry)
    expected = fdk(projections, geometry, grid)
    # of the peak that such projections have where they are seen: here there may be only an edge
    peak = max(np.abs(expected).max(), np.abs(projections).max())
    found = reconstruct(projections, geometry, grid, variant)
    assert np.abs(found - expected).max() < TOLERANCE * peak


def test_reconstruct__reads_any_numbers_and_any_memory_order() -> None:
    counts = np.random.default_rng(0).integers(0, 200, (24, 20, 26))
    expected = reconstruct_fdk(counts.astype(np.float32), CONE, GRID)
    for same in (counts.astype(np.uint8), counts.astype(np.float64), np.asfortranarray(counts)):
        np.testing.assert_array_equal(reconstruct_fdk(same, CONE, GRID), expected)


def test_reconstruct__of_a_row_order_is_that_of_the_other_upside_down() -> None:
    projections = noise(CONE)
    other = replace(CONE, detector=replace(PANEL, row_order="bottom_up"))
    np.testing.assert_array_equal(
        reconstruct_fdk(projections, CONE, GRID),
        reconstruct_fdk(np.ascontiguousarray(projections[:, ::-1]), other, GRID),
    )


def test_reconstruct__leaves_its_input_and_the_threads_alone() -> None:
    projections = noise(CONE)
    before, threads = projections.copy(), numba.get_num_threads()
    reconstruct_fdk(projections, CONE, GRID, n_threads=1)
    np.testing.assert_array_equal(projections, before)
    assert numba.get_num_threads() == threads


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_reconstruct__names_the_first_bad_pixel(value: float) -> None:
    projections = noise(CONE)
    projections[7, 11, 3] = value
    projections[9, 0, 0] = math.nan
    with pytest.raises(ProjectionDataError, match=rf"projections\[7, 11, 3\].*found {value}"):
        reconstruct_fdk(projections, CONE, GRID)


def test_reconstruct__refuses_numbers_that_single_precision_cannot_hold() -> None:
    projections = noise(CONE).astype(np.float64)
    projections[0, 10, 5] = 1e300
    with pytest.raises(ProjectionDataError, match=r"projections\[0, 10, 5\].*found inf"):
        reconstruct_fdk(projections, CONE, GRID)


def test_reconstruct__refuses_other_shapes_and_kinds() -> None:
    projections = noise(CONE)
    with pytest.raises(ProjectionDataError, match=r"\(24, 20, 26\), found \(24, 26, 20\)"):
        reconstruct_fdk(projections.transpose(0, 2, 1), CONE, GRID)
    with pytest.raises(ProjectionDataError, match="expected real numbers, found complex64"):
        reconstruct_fdk(projections.astype(np.complex64), CONE, GRID)
    slab = SlabReconstruction(CONE, GRID)
    with pytest.raises(ProjectionDataError, match="expected shape"):
        slab.add(projections[0])
    with pytest.raises(ProjectionDataError, match="angle_start: expected 0 to 0, found 1"):
        slab.add(projections[:, slice(*slab.row_band)], 1)


def test_reconstruct__refuses_threads_and_variants_that_are_not_there() -> None:
    wrong: list[Any] = [0, 1.5, "2", math.nan]
    for n_threads in wrong:
        with pytest.raises(UsageError, match="n_threads: expected a whole number >= 1, found"):
            reconstruct_fdk(noise(CONE), CONE, GRID, n_threads=n_threads)
    with pytest.raises(UsageError, match=r"variant: expected one of .*portable, found 'vax'"):
        SlabReconstruction(CONE, GRID, variant="vax")


@pytest.mark.parametrize(
    ("angles", "found"),
    [
        (np.radians(np.arange(180)), "179.0"),
        (np.radians(np.arange(0, 150, 2)), "148.0"),
        (np.array([0.0, 0.05, 0.1]), "5.7"),
    ],
)
def test_reconstruct__refuses_too_short_a_scan(angles: NDArray[np.float64], found: str) -> None:
    geometry = replace(CONE, gantry_angles_rad=angles)
    message = f"over 180 degrees and the fan's .*, found views over {found} degrees"
    with pytest.raises(GeometryError, match=message):
        SlabReconstruction(geometry, GRID)


def test_reconstruct__refuses_a_quarter_of_a_parallel_scan() -> None:
    geometry = ParallelBeamGeometry(np.radians(np.arange(90)), PANEL)
    with pytest.raises(GeometryError, match="all around 180 degrees, found none for 91"):
        SlabReconstruction(geometry, GRID)


@pytest.mark.parametrize(
    "options", [("ramlak",), ("hann", 0.0), ("hann", 1.5), ("hann", 1.0, -0.1), ("hann", 1.0, 2.0)]
)
def test_options__refuse_what_no_filter_is(options: tuple[Any, ...]) -> None:
    with pytest.raises(GeometryError, match=r"options\.(filter|cutoff|extrapolation): expected"):
        FDKOptions(*options)


def test_slices__are_the_result_without_a_second_slab() -> None:
    angles = np.arange(40) * 2 * np.pi / 40
    geometry = ConeBeamGeometry(200.0, 300.0, angles, FlatPanel(24, 36, 1.5, 1.5))
    grid = VolumeGrid((100, 128, 128), (0.2, 0.2, 0.2)).slab(5, 85)
    slab = SlabReconstruction(geometry, grid)
    row_start, row_stop = slab.row_band
    views = np.random.default_rng(1).random((40, row_stop - row_start, 36), np.float32)
    slab.add(views)
    whole = slab.result()
    tracemalloc.start()
    try:
        alike = [np.array_equal(values, whole[z]) for z, values in enumerate(slab.slices())]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert alike == [True] * 80
    assert peak_bytes < whole.nbytes / 2
