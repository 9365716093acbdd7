"""Scanners and grids: what they compute, and what they refuse."""

import math
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pacspark.ct.coverage import require_seen, warn_beyond_view
from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.errors import GeometryError
from tests.strategies import cone_geometries, grids, panels, parallel_geometries

PANEL = FlatPanel(n_rows=5, n_columns=8, row_spacing_mm=2.0, column_spacing_mm=1.0)
CIRCLE = np.arange(36) * 2 * math.pi / 36


def cone(**changes: Any) -> ConeBeamGeometry:
    values = {
        "source_to_isocenter_mm": 500.0,
        "source_to_detector_mm": 1000.0,
        "gantry_angles_rad": CIRCLE,
        "detector": PANEL,
    }
    return ConeBeamGeometry(**{**values, **changes})


def test_import__does_not_load_a_compiler() -> None:
    code = (
        "import sys; from pacspark.ct import ConeBeamGeometry, VolumeGrid; "
        "print(sorted({'numba', 'scipy', 'pyspark'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("source_to_isocenter_mm", 0, "source_to_isocenter_mm: expected a number > 0, found 0"),
        ("source_to_isocenter_mm", math.nan, "expected a finite number, found nan"),
        ("source_to_isocenter_mm", "500", "expected a finite number, found '500'"),
        ("source_to_isocenter_mm", True, "expected a finite number, found True"),
        ("source_to_isocenter_mm", 10**400, "expected a finite number, found 1000"),
        ("source_to_detector_mm", 400.0, "are the two swapped"),
        ("source_to_isocenter_mm", 1e-300, "source_to_isocenter_mm: expected 1e-06 to 1e.07 mm"),
        ("source_to_isocenter_mm", 1e-5, "source_to_isocenter_mm: expected 0.001 to 1e.07 mm"),
        ("source_to_detector_mm", 1e308, "source_to_detector_mm: expected 1e-06 to 1e.07 mm"),
        (
            "detector",
            replace(PANEL, offset_v_mm=1e5),
            "detector.offset_v_mm: expected at most 1000",
        ),
        (
            "detector",
            replace(PANEL, offset_u_mm=-1e5),
            "detector.offset_u_mm: expected at most 1000",
        ),
        ("gantry_angles_rad", [], "expected a list of angles, found shape"),
        ("gantry_angles_rad", [[0.0]], "expected a list of angles, found shape"),
        ("gantry_angles_rad", [0.0, math.inf], r"gantry_angles_rad\[1\]: expected a number"),
        ("gantry_angles_rad", ["a"], "gantry_angles_rad: expected numbers"),
        ("gantry_angles_rad", [1j, 2.0], "gantry_angles_rad: expected real numbers, found complex"),
        ("gantry_angles_rad", np.arange(9) + 1e16, "expected angles within .*, found 1e.16"),
        ("source_shifts_mm", [[1j, 0.0]], "source_shifts_mm: expected real numbers, found complex"),
        ("gantry_angles_rad", np.arange(180.0), "looks like degrees; convert with numpy.radians"),
        ("detector", None, "detector: expected a FlatPanel, found None"),
    ],
)
def test_cone_beam__refuses_what_cannot_be(field: str, value: object, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        cone(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_rows", 0),
        ("n_rows", 2.0),
        ("n_columns", True),
        ("n_columns", 10**9),
        ("row_spacing_mm", -1.0),
        ("row_spacing_mm", 1e-09),
        ("row_spacing_mm", 1e308),
        ("column_spacing_mm", 5e-324),
        ("column_spacing_mm", 1e-300),
        ("offset_v_mm", 1e308),
        ("column_spacing_mm", math.inf),
        ("offset_u_mm", math.nan),
        ("offset_v_mm", None),
        ("row_order", "upside_down"),
    ],
)
def test_flat_panel__names_the_field_that_is_wrong(field: str, value: Any) -> None:
    found = re.escape(repr(value))
    with pytest.raises(GeometryError, match=f"detector.{field}: expected .*, found {found}"):
        replace(PANEL, **{field: value})


@pytest.mark.parametrize(
    ("shape", "voxel_mm", "center_mm", "field"),
    [
        ((1, 1), (1, 1, 1), (0, 0, 0), "grid.shape"),
        (3, (1, 1, 1), (0, 0, 0), "grid.shape"),
        ((1, 0, 1), (1, 1, 1), (0, 0, 0), r"grid.shape\[y\]"),
        ((1, 1, 1), (1, 1, 0), (0, 0, 0), r"grid.voxel_mm\[x\]"),
        ((1, 1, 1), (1, 1, 1), (math.nan, 0, 0), r"grid.center_mm\[z\]"),
        ((1, 1, 1), (1, 1e300, 1), (0, 0, 0), r"grid.voxel_mm\[y\]"),
        ((1, 1, 1), (1, 1, 1), (0, 0, 1e300), r"grid.center_mm\[x\]"),
        ((1, 1, 2**20 + 1), (1, 1, 1), (0, 0, 0), "grid.shape: expected at most 1048576 voxels al"),
        ((2**19, 2**19, 2**19), (1, 1, 1), (0, 0, 0), "grid.shape: .* make fewer or larger voxels"),
    ],
)
def test_grid__names_the_field_that_is_wrong(
    shape: Any, voxel_mm: Any, center_mm: Any, field: str
) -> None:
    with pytest.raises(GeometryError, match=field):
        VolumeGrid(shape, voxel_mm, center_mm)


def test_grid__refuses_a_slab_outside_its_whole() -> None:
    grid = VolumeGrid((4, 2, 2), (1.0, 1.0, 1.0))
    for start, stop in ((-1, 2), (2, 2), (3, 5)):
        with pytest.raises(GeometryError, match=r"grid\.slab"):
            grid.slab(start, stop)
    with pytest.raises(GeometryError, match=r"grid\.start\[z\]"):
        replace(grid, start=(1, 0, 0))


def test_flat_panel__counts_rows_from_the_side_that_row_order_says() -> None:
    panel = replace(PANEL, offset_u_mm=0.25, offset_v_mm=-1.0)
    assert panel.v_mm.tolist() == [3.0, 1.0, -1.0, -3.0, -5.0]
    assert replace(panel, row_order="bottom_up").v_mm.tolist() == [-5.0, -3.0, -1.0, 1.0, 3.0]
    assert panel.u_mm[0] == -3.25
    assert panel.u_mm[-1] == 3.75


@settings(deadline=None)
@given(st.one_of(cone_geometries(), parallel_geometries()))
def test_geometry__compares_hashes_and_pickles(geometry: Geometry) -> None:
    again = pickle.loads(pickle.dumps(geometry))
    assert again == geometry
    assert hash(again) == hash(geometry)
    assert not again.gantry_angles_rad.flags.writeable
    assert replace(geometry, gantry_angles_rad=geometry.gantry_angles_rad + 1) != geometry


def test_geometry__keeps_its_own_angles() -> None:
    angles = CIRCLE.copy()
    geometry = cone(gantry_angles_rad=angles)
    angles[0] = 5.0
    assert geometry.gantry_angles_rad[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        geometry.gantry_angles_rad[0] = 1.0


@settings(deadline=None)
@given(grids(), st.data())
def test_slab__lies_where_it_lies_in_the_whole(grid: VolumeGrid, data: st.DataObject) -> None:
    stop = data.draw(st.integers(1, grid.shape[0]))
    start = data.draw(st.integers(0, stop - 1))
    slab = grid.slab(start, stop)
    assert slab.z_mm.tolist() == grid.z_mm[start:stop].tolist()
    assert slab.slab(0, 1) == grid.slab(start, start + 1)
    assert pickle.loads(pickle.dumps(slab)) == slab


@settings(deadline=None)
@given(panels(), grids(), st.floats(100.0, 2000.0), st.floats(1.0, 5.0))
def test_row_band__holds_every_row_that_a_voxel_can_need(
    panel: FlatPanel, grid: VolumeGrid, isocenter_mm: float, magnification: float
) -> None:
    geometry = ConeBeamGeometry(isocenter_mm, isocenter_mm * magnification, CIRCLE, panel)
    start, stop = geometry.row_band(grid)
    assert 0 <= start < stop <= panel.n_rows
    z, y, x = np.meshgrid(grid.z_mm, grid.y_mm, grid.x_mm, indexing="ij")
    rising = np.sort(panel.v_mm)
    for angle in CIRCLE:
        depth = isocenter_mm - (x * np.cos(angle) + y * np.sin(angle))
        row = (z * geometry.source_to_detector_mm / depth - rising[0]) / panel.row_spacing_mm
        needed = np.concatenate([np.floor(row).ravel(), np.floor(row).ravel() + 1])
        if panel.row_order == "top_down":
            needed = panel.n_rows - 1 - needed
        needed = needed[(needed >= 0) & (needed < panel.n_rows)]
        assert ((needed >= start) & (needed < stop)).all()


def test_row_band__refuses_a_grid_that_reaches_the_source() -> None:
    grid = VolumeGrid((1, 3, 3), (1.0, 400.0, 400.0))
    with pytest.raises(GeometryError, match="from the rotation axis, found 565"):
        cone().row_band(grid)


EXTREMES_MM = (1e-6, 1.0, 1e3, 1e7)


@pytest.mark.parametrize("to_isocenter_mm", EXTREMES_MM)
@pytest.mark.parametrize("to_detector_mm", EXTREMES_MM)
def test_scanners__can_be_reconstructed_or_are_refused(
    to_isocenter_mm: float, to_detector_mm: float
) -> None:
    made = 0
    for row_mm, column_mm, offset_v_mm in product(EXTREMES_MM, EXTREMES_MM, (0.0, 1.0, 1e3)):
        panel = FlatPanel(2, 3, row_mm, column_mm, offset_v_mm=offset_v_mm)
        try:
            geometry = ConeBeamGeometry(to_isocenter_mm, to_detector_mm, CIRCLE, panel)
        except GeometryError:
            continue
        grid = geometry.fit_grid()
        require_seen(geometry, grid)
        volume = reconstruct_fdk(np.ones((36, 2, 3), np.float32), geometry, grid)
        assert np.isfinite(volume).all()
        made += 1
    assert bool(made) == (to_isocenter_mm <= to_detector_mm <= 1e6 * to_isocenter_mm)


def test_fit_grid__is_the_field_of_view_at_the_detectors_resolution() -> None:
    panel = FlatPanel(64, 100, 0.5, 1.0, offset_v_mm=3.0)
    grid = cone(detector=panel).fit_grid()
    radius_mm = 500 * math.sin(math.atan(50 / 1000))
    assert grid.voxel_mm == (0.25, 0.5, 0.5)
    assert grid.shape == (64, math.floor(2 * radius_mm / 0.5), math.floor(2 * radius_mm / 0.5))
    assert grid.center_mm == (1.5, 0.0, 0.0)
    assert ParallelBeamGeometry(CIRCLE, panel).fit_grid().shape == (64, 100, 100)


def test_fit_grid__of_a_fan_beam_is_one_slice_at_zero() -> None:
    grid = cone(detector=FlatPanel(1, 100, 7.0, 1.0)).fit_grid()
    assert grid.shape[0] == 1
    assert grid.z_mm.tolist() == [0.0]


@settings(deadline=None)
@given(st.one_of(cone_geometries(), parallel_geometries()))
def test_fit_grid__is_inside_what_the_detector_sees(geometry: Geometry) -> None:
    detector = geometry.detector
    edges_mm = [-detector.u_mm[0], detector.u_mm[-1]]
    half_mm = min(edges_mm) + detector.column_spacing_mm / 2
    if half_mm <= 0:
        with pytest.raises(GeometryError, match=r"detector\.offset_u_mm: .* rotation axis"):
            geometry.fit_grid()
        return
    if geometry.is_half_fan:
        if half_mm < 8 * detector.column_spacing_mm:
            with pytest.raises(GeometryError, match="at least 8 columns beyond the axis"):
                geometry.fit_grid()
            return
        half_mm = max(edges_mm) + detector.column_spacing_mm / 2
    grid = geometry.fit_grid()
    assert grid.shape[1] == grid.shape[2]
    assert grid.shape[0] == detector.n_rows
    assert grid.x_mm[-1] * geometry.magnification <= half_mm * (1 + 1e-9)


def test_fit_grid__of_a_half_fan_reaches_as_far_as_the_long_side() -> None:
    panel = FlatPanel(1, 100, 1.0, 1.0, offset_u_mm=-30.0)
    assert not ParallelBeamGeometry(
        CIRCLE, FlatPanel(1, 100, 1.0, 1.0, offset_u_mm=5.0)
    ).is_half_fan
    assert ParallelBeamGeometry(CIRCLE, panel).is_half_fan
    assert ParallelBeamGeometry(CIRCLE, panel).fit_grid().shape == (1, 160, 160)


@settings(deadline=None)
@given(st.one_of(cone_geometries(), parallel_geometries()))
def test_require_seen__takes_the_field_of_view_and_the_middle_of_it(geometry: Geometry) -> None:
    detector = geometry.detector
    seen_columns = min(-detector.u_mm[0], detector.u_mm[-1]) / detector.column_spacing_mm + 0.5
    assume(seen_columns > (8.1 if geometry.is_half_fan else 0.5))
    fitted = geometry.fit_grid()
    if isinstance(geometry, ConeBeamGeometry):
        assume(math.hypot(fitted.x_mm[-1], fitted.y_mm[-1]) < geometry.source_to_isocenter_mm)
    require_seen(geometry, fitted)
    require_seen(geometry, VolumeGrid((1, 1, 1), fitted.voxel_mm, fitted.center_mm))


@pytest.mark.parametrize(
    ("center_mm", "message"),
    [
        ((0, 0, 30), "4 mm around the rotation axis, found none nearer than 29 mm"),
        ((0, -30, 0), "found none nearer than 29 mm"),
        ((30, 0, 0), "from v = -4 to 4 mm, found all of them projected to"),
        ((-30, 0, 0), "from v = -4 to 4 mm, found all of them projected to"),
    ],
)
def test_require_seen__refuses_a_grid_beside_above_and_below(
    center_mm: tuple[float, float, float], message: str
) -> None:
    panel = FlatPanel(n_rows=8, n_columns=8, row_spacing_mm=1.0, column_spacing_mm=1.0)
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    for geometry in (
        ConeBeamGeometry(1e6, 1e6, angles, panel),
        ParallelBeamGeometry(angles, panel),
    ):
        with pytest.raises(GeometryError, match=message):
            require_seen(geometry, VolumeGrid((2, 2, 2), (1.0, 1.0, 1.0), center_mm))


SHIFTED = FlatPanel(4, 64, 1.0, 1.0, offset_u_mm=12.0)
SHORT = np.linspace(0, np.pi + 0.3, 60)


@pytest.mark.parametrize(
    ("geometry", "seen_mm"),
    [
        # as far as the short side, 20 of 44 mm; a full circle sees by the long one
        (ConeBeamGeometry(500.0, 1000.0, SHORT, SHIFTED), 10.0),
        (ConeBeamGeometry(500.0, 1000.0, CIRCLE, SHIFTED), 22.0),
        (ParallelBeamGeometry(CIRCLE, FlatPanel(4, 64, 1.0, 1.0)), 32.0),
    ],
)
def test_warn_beyond_view__tells_of_voxels_that_are_no_measurement(
    geometry: Geometry, seen_mm: float, caplog: pytest.LogCaptureFixture
) -> None:
    size = math.floor(2 * seen_mm)
    warn_beyond_view(geometry, geometry.fit_grid())
    warn_beyond_view(geometry, VolumeGrid((1, size, size), (1.0, 1.0, 1.0)))
    assert not caplog.records
    warn_beyond_view(geometry, VolumeGrid((1, 1, size + 6), (1.0, 1.0, 1.0)))
    (record,) = caplog.records
    assert isinstance(record.args, tuple)
    assert record.args[1] == pytest.approx(seen_mm, rel=1e-2)
