"""Phantoms against chords that are counted step by step."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.ct.phantom import SHEPP_LOGAN, Ellipsoid, project, scaled, voxelize
from pacspark.errors import GeometryError
from tests.oracles import chord_mm

ANGLES = np.array([0.0, 0.7, 2.0, 4.4])
PANEL = FlatPanel(5, 7, 6.0, 5.0, offset_u_mm=1.0, offset_v_mm=-2.0)
CONE = ConeBeamGeometry(80.0, 130.0, ANGLES, PANEL)
BLOBS = (
    Ellipsoid(0.02, (12.0, 20.0, 9.0), (1.0, -3.0, 2.0), 0.4),
    Ellipsoid(-0.005, (5.0, 3.0, 7.0), (-4.0, 5.0, 0.0), -1.0),
)


def ray(
    geometry: Geometry, angle: float, row: int, column: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two points of a pixel's ray, on both sides of the phantom."""
    toward = np.array([math.cos(angle), math.sin(angle), 0.0])
    across = np.array([-math.sin(angle), math.cos(angle), 0.0])
    pixel = geometry.detector.u_mm[column] * across
    pixel[2] += geometry.detector.v_mm[row]
    if isinstance(geometry, ConeBeamGeometry):
        beyond = geometry.source_to_detector_mm - geometry.source_to_isocenter_mm
        return geometry.source_to_isocenter_mm * toward, pixel - beyond * toward
    return pixel + 60 * toward, pixel - 60 * toward


@pytest.mark.parametrize("geometry", [CONE, ParallelBeamGeometry(ANGLES, PANEL)])
def test_project__is_density_times_chord(geometry: Geometry) -> None:
    found = project(BLOBS, geometry)
    assert found.dtype == np.float32
    for number, angle in enumerate(ANGLES):
        for row in range(PANEL.n_rows):
            for column in range(PANEL.n_columns):
                ends = ray(geometry, angle, row, column)
                expected = sum(
                    one.density_per_mm
                    * chord_mm(
                        *ends,
                        np.array(one.semi_axes_mm),
                        np.array(one.center_mm),
                        one.rotation_rad,
                        n_steps=4000,
                    )
                    for one in BLOBS
                )
                assert found[number, row, column] == pytest.approx(expected, abs=2e-3)
    assert found.max() > 0.5


def test_project__of_a_ball_in_the_middle_is_its_diameter() -> None:
    panel = FlatPanel(1, 1, 1.0, 1.0)
    found = project([Ellipsoid(0.5, (3.0, 3.0, 3.0))], ConeBeamGeometry(50.0, 90.0, ANGLES, panel))
    np.testing.assert_allclose(found, 3.0, rtol=1e-6)
    assert not project([], CONE).any()


def test_project__of_row_orders_is_the_same_upside_down() -> None:
    straight = FlatPanel(5, 7, 6.0, 5.0, 1.0, -2.0, "bottom_up")
    np.testing.assert_array_equal(
        project(BLOBS, CONE)[:, ::-1],
        project(BLOBS, ConeBeamGeometry(80.0, 130.0, ANGLES, straight)),
    )


def test_voxelize__adds_the_densities_of_what_holds_a_voxels_centre() -> None:
    volume = voxelize(BLOBS, VolumeGrid((40, 50, 50), (1.0, 1.0, 1.0)))
    for one in BLOBS:
        content = 4 / 3 * math.pi * math.prod(one.semi_axes_mm)
        alone = voxelize([one], VolumeGrid((40, 50, 50), (1.0, 1.0, 1.0)))
        assert alone.sum() == pytest.approx(one.density_per_mm * content, rel=0.02)
    assert volume.min() == pytest.approx(-0.005)
    assert volume.max() == pytest.approx(0.02)


def test_shepp_logan__has_the_contrasts_of_toft() -> None:
    head = voxelize(SHEPP_LOGAN, VolumeGrid((1, 200, 200), (1.0, 1.0, 1.0)))
    levels = set(np.round(head.astype(np.float64), 3).ravel().tolist())
    assert levels == {0.0, 0.1, 0.2, 0.3, 1.0}
    # the skull's longest axis is along y, and its lowest edge is where the table has it
    assert head[0, 100 - 92, 100] == 1.0
    assert head[0, 100 - 93, 100] == 0.0


def test_scaled__scales_lengths_and_densities() -> None:
    (ball,) = scaled([Ellipsoid(2.0, (1.0, 2.0, 3.0), (0.5, 0.0, -1.0), 0.3)], 10.0, 0.5)
    assert ball == Ellipsoid(1.0, (10.0, 20.0, 30.0), (5.0, 0.0, -10.0), 0.3)


def test_ellipsoid__refuses_an_axis_without_length() -> None:
    with pytest.raises(GeometryError, match=r"semi_axes_mm\[y\]: expected a number > 0, found 0"):
        Ellipsoid(1.0, (1.0, 0, 1.0))
