"""Images of a camera at several places, joined to those of one wide panel."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, project, scaled
from pacspark.ct.stitching import stitch
from pacspark.errors import GeometryError, ProjectionDataError

HEAD = scaled(SHEPP_LOGAN_UNIT, 14.0, 0.02)
ANGLES = np.arange(60) * np.pi / 30
CAMERA = FlatPanel(12, 40, 1.0, 1.0, offset_v_mm=0.7)


def scan(panel: FlatPanel) -> ConeBeamGeometry:
    return ConeBeamGeometry(100.0, 200.0, ANGLES, panel)


def seen(panels: list[FlatPanel]) -> list[NDArray[np.float32]]:
    return [project(HEAD, scan(panel)) for panel in panels]


def at(*offsets_mm: float) -> list[FlatPanel]:
    return [replace(CAMERA, offset_u_mm=offset_mm) for offset_mm in offsets_mm]


@pytest.mark.parametrize("offsets_mm", [(-25.0, 0.0, 25.0), (20.0, -20.0), (3.0,), (-9.0, 8.0)])
def test_stitch__on_whole_columns_is_what_a_wide_panel_sees(offsets_mm: tuple[float, ...]) -> None:
    panels = at(*offsets_mm)
    wide, panel = stitch(seen(panels), panels)
    assert panel.n_columns == 40 + max(offsets_mm) - min(offsets_mm)
    assert panel.offset_u_mm == (max(offsets_mm) + min(offsets_mm)) / 2
    # joined in float32
    np.testing.assert_allclose(wide, project(HEAD, scan(panel)), atol=3e-7)


@pytest.mark.parametrize("part", [0.5, 0.3, 0.9999999])
def test_stitch__between_columns_is_nearly_that(part: float) -> None:
    panels = at(-24.0, 0.0 + part, 25.0)
    wide, panel = stitch(seen(panels), panels)
    expected = project(HEAD, scan(panel))
    # edges of the phantom are steps, which no interpolation knows
    assert np.abs(wide - expected).mean() < 0.003 * expected.max()
    assert np.isfinite(wide).all()
    grid = VolumeGrid((5, 32, 32), (1.0, 1.0, 1.0))
    volume = reconstruct_fdk(wide, scan(panel), grid)
    whole = reconstruct_fdk(expected, scan(panel), grid)
    assert np.sqrt(((volume - whole) ** 2).mean()) < 0.02 * whole.max()


def test_stitch__fades_from_one_to_the_other() -> None:
    panels = [FlatPanel(1, 10, 1.0, 1.0, offset_u_mm=offset_mm) for offset_mm in (0.0, 6.0)]
    images = [np.zeros((1, 1, 10), np.float32), np.ones((1, 1, 10), np.float32)]
    wide, _ = stitch(images, panels)
    expected = [0.0] * 6 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 6
    np.testing.assert_allclose(wide[0, 0], expected, atol=1e-6)


def test_stitch__refuses_what_is_no_camera_at_several_places() -> None:
    panels = at(0.0, 41.0)
    images = seen(panels)
    with pytest.raises(GeometryError, match=r"panels\[1\].* found 1 columns between two"):
        stitch(images, panels)
    with pytest.raises(GeometryError, match=r"panels\[1\]: expected panels\[0\] elsewhere"):
        stitch(images, [panels[0], replace(panels[0], offset_v_mm=1.0)])
    with pytest.raises(GeometryError, match="expected those of 2 panels, found 1"):
        stitch(images[:1], panels)
    with pytest.raises(GeometryError, match="expected those of 0 panels"):
        stitch([], [])
    with pytest.raises(ProjectionDataError, match=r"images\[1\]: expected shape"):
        stitch([images[0], images[1][:, :, 1:]], at(0.0, 20.0))
    with pytest.raises(ProjectionDataError, match=r"images\[1\]: expected shape"):
        stitch([images[0], images[1][1:]], at(0.0, 20.0))
