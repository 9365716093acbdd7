"""Hypothesis strategies: scanners and grids that can be."""

import math

import numpy as np
from hypothesis import strategies as st

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, ParallelBeamGeometry, VolumeGrid

lengths_mm = st.floats(0.01, 1000.0)
offsets_mm = st.floats(-20.0, 20.0)


@st.composite
def panels(draw: st.DrawFn, *, max_pixels: int = 40) -> FlatPanel:
    """Flat panels of any spacing, a little off the axis, in both row orders."""
    return FlatPanel(
        n_rows=draw(st.integers(1, max_pixels)),
        n_columns=draw(st.integers(1, max_pixels)),
        row_spacing_mm=draw(lengths_mm),
        column_spacing_mm=draw(lengths_mm),
        offset_u_mm=draw(offsets_mm),
        offset_v_mm=draw(offsets_mm),
        row_order=draw(st.sampled_from(["top_down", "bottom_up"])),
    )


@st.composite
def angle_lists(draw: st.DrawFn) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Angles in any order, with any steps, over up to two turns."""
    values = draw(st.lists(st.floats(-2 * math.pi, 2 * math.pi), min_size=1, max_size=30))
    return np.array(values)


@st.composite
def cone_geometries(draw: st.DrawFn) -> ConeBeamGeometry:
    """Cone beams with any angles; not every one closes its circle."""
    isocenter_mm = draw(st.floats(50.0, 2000.0))
    return ConeBeamGeometry(
        isocenter_mm, isocenter_mm * draw(st.floats(1.0, 10.0)), draw(angle_lists()), draw(panels())
    )


@st.composite
def parallel_geometries(draw: st.DrawFn) -> ParallelBeamGeometry:
    """Parallel beams with any angles."""
    return ParallelBeamGeometry(draw(angle_lists()), draw(panels()))


@st.composite
def grids(draw: st.DrawFn, *, reach_mm: float = 30.0) -> VolumeGrid:
    """Small grids anywhere near the isocenter, up to `reach_mm` from it along each axis."""
    count, edge_mm = st.integers(1, 12), st.floats(0.05, reach_mm / 24)
    middle_mm = st.floats(-reach_mm / 2, reach_mm / 2)
    return VolumeGrid(
        draw(st.tuples(count, count, count)),
        draw(st.tuples(edge_mm, edge_mm, edge_mm)),
        draw(st.tuples(middle_mm, middle_mm, middle_mm)),
    )
