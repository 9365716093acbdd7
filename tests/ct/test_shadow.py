"""Parts of a volume from parts of filtered views are the voxels of the whole, bit for bit."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.ct.fdk import SlabReconstruction, reconstruct_fdk
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.ct.kernels.backproject import PADDING
from pacspark.ct.shadow import FilteredView

N_ANGLES, N_ROWS, N_COLUMNS = 12, 37, 48
ANGLES = np.arange(N_ANGLES) * 2 * math.pi / N_ANGLES
PANEL = FlatPanel(N_ROWS, N_COLUMNS, 1.3, 0.9, offset_u_mm=0.4, offset_v_mm=-1.7)
CONE = ConeBeamGeometry(60.0, 90.0, ANGLES, PANEL)
WOBBLE = np.stack([2 * np.cos(ANGLES), np.sin(3 * ANGLES)], axis=1)
GRID = VolumeGrid((41, 21, 26), (0.8, 0.9, 0.7), (0.5, -0.4, 1.0))
GEOMETRIES: dict[str, Geometry] = {
    "cone": CONE,
    "wobbling": replace(CONE, source_shifts_mm=WOBBLE),
    "half-fan": replace(CONE, detector=replace(PANEL, offset_u_mm=4.5)),
    "parallel": ParallelBeamGeometry(ANGLES / 2, replace(PANEL, row_order="bottom_up")),
}
PROJECTIONS = (
    np.random.default_rng(0).standard_normal((N_ANGLES, N_ROWS, N_COLUMNS)).astype(np.float32)
)


def of_windows(geometry: Geometry, grid: VolumeGrid, angle_block: int) -> NDArray[np.float32]:
    """Reconstruct a part from the windows of views that were filtered whole."""
    whole = SlabReconstruction(geometry, GRID)
    rows = whole.row_band
    views = whole.row_filter.filter(PROJECTIONS[:, slice(*rows)], 0, 1)
    views = views[:, :, PADDING:-PADDING]
    falls = geometry.detector.row_order == "top_down"
    first_row = N_ROWS - rows[1] if falls else rows[0]
    part = SlabReconstruction(geometry, grid)
    for start in range(0, N_ANGLES, angle_block):
        windows = part.windows(slice(start, start + angle_block))
        shape = (len(windows.row_starts), windows.n_columns, windows.n_rows + 2 * PADDING)
        cut = np.zeros(shape, np.float32)
        for view in range(shape[0]):
            column, row = windows.column_starts[view], windows.row_starts[view] - first_row
            # what lies outside the band that the whole volume needs is nothing that a part needs
            for at in range(max(0, -row), min(windows.n_rows, views.shape[2] - row)):
                cut[view, :, PADDING + at] = views[
                    start + view, column : column + windows.n_columns, row + at
                ]
        part.backproject(cut, start, windows)
    return part.result()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(GEOMETRIES)),
    corners=st.tuples(
        *(
            st.tuples(st.integers(0, count - 1), st.integers(1, count)).filter(
                lambda pair: pair[0] < pair[1]
            )
            for count in GRID.shape
        )
    ),
    angle_block=st.integers(1, N_ANGLES),
)
def test_windows__give_the_voxels_of_the_whole_bit_for_bit(
    name: str, corners: tuple[tuple[int, int], ...], angle_block: int
) -> None:
    geometry = GEOMETRIES[name]
    (z, z_stop), (y, y_stop), (x, x_stop) = corners
    part = of_windows(geometry, GRID.part((z, y, x), (z_stop, y_stop, x_stop)), angle_block)
    whole = reconstruct_fdk(PROJECTIONS, geometry, GRID)
    assert np.array_equal(part, whole[z:z_stop, y:y_stop, x:x_stop])


def test_windows__of_a_part_are_smaller_than_the_view() -> None:
    view = FilteredView.of(CONE)
    corner = GRID.part((32, 0, 0), (41, 5, 5))
    windows = view.windows(CONE, corner, slice(0, N_ANGLES))
    assert windows.n_columns < N_COLUMNS / 2
    assert windows.n_rows < N_ROWS
    assert (windows.column_starts >= 0).all()
    assert (windows.column_starts + windows.n_columns <= view.n_columns).all()
    assert (windows.row_starts + windows.n_rows <= view.n_rows).all()


def test_windows__of_what_no_view_sees_stay_on_the_detector() -> None:
    far = VolumeGrid((2, 2, 2), (1.0, 1.0, 1.0), (500.0, 0.0, 0.0))
    windows = FilteredView.of(CONE).windows(CONE, far, slice(0, N_ANGLES))
    assert (windows.row_starts + windows.n_rows == N_ROWS).all()


def test_part__lies_where_it_lies_in_the_whole() -> None:
    part = GRID.slab(3, 30).part((2, 4, 5), (9, 6, 20))
    assert np.array_equal(part.z_mm, GRID.z_mm[5:12])
    assert np.array_equal(part.y_mm, GRID.y_mm[4:6])
    assert np.array_equal(part.x_mm, GRID.x_mm[5:20])
    assert part.ends_mm(2) == (part.x_mm[0], part.x_mm[-1])
    assert part.reach_mm == pytest.approx(np.hypot(np.abs(part.y_mm).max(), abs(part.x_mm).max()))
