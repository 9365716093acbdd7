"""What a reconstruction measures: attenuation, places, and real scans."""

import doctest
import importlib
import math
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

import pacspark.ct
from pacspark.ct.fdk import SlabReconstruction, reconstruct_fdk
from pacspark.ct.filtering import WINDOWS, FDKOptions
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.ct.kernels.variants import available_variants
from pacspark.ct.phantom import Ellipsoid, project
from tests import oracles
from tests.ct import disks, edges, water

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WATER_PER_MM = 0.0206
CIRCLE = np.arange(360) * 2 * math.pi / 360
MODULES = [module.name for module in pkgutil.iter_modules(pacspark.ct.__path__)]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("module", MODULES)
def test_docstrings__say_what_happens(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(f"pacspark.ct.{module}"))
    assert failed == 0


@pytest.mark.parametrize(
    ("geometry", "options"),
    [
        (ConeBeamGeometry(500.0, 1000.0, CIRCLE, FlatPanel(24, 256, 1.0, 1.0)), FDKOptions()),
        (
            ConeBeamGeometry(500.0, 1000.0, -CIRCLE, FlatPanel(24, 256, 1.0, 1.0, 7.3)),
            FDKOptions("hann", 0.8),
        ),
        (ConeBeamGeometry(500.0, 1000.0, CIRCLE, FlatPanel(1, 256, 1.0, 1.0)), FDKOptions()),
        (ParallelBeamGeometry(CIRCLE[:180], FlatPanel(24, 256, 0.5, 0.5)), FDKOptions("cosine")),
    ],
    ids=["cone", "cone, clockwise, off centre, Hann", "fan", "parallel, cosine"],
)
def test_water__reads_zero_and_air_minus_a_thousand(
    geometry: Geometry, options: FDKOptions
) -> None:
    cylinder = Ellipsoid(WATER_PER_MM, (40.0, 40.0, 1e5))
    grid = VolumeGrid((1, 110, 110), (0.5, 1.0, 1.0))
    volume = reconstruct_fdk(project([cylinder], geometry), geometry, grid, options)[0]
    hounsfield = 1000 * (volume - WATER_PER_MM) / WATER_PER_MM
    radius_mm = np.hypot(grid.y_mm[:, None], grid.x_mm)
    assert abs(hounsfield[radius_mm < 36].mean()) < 1
    assert abs(hounsfield[(radius_mm > 44) & (radius_mm < 52)].mean() + 1000) < 1


@pytest.mark.parametrize("name", water.SCANS)
def test_water__reads_zero_in_every_ring_of_every_slice(name: str) -> None:
    geometry, grid = water.SCANS[name]
    volume = reconstruct_fdk(water.projections(geometry), geometry, grid)
    found = water.measured(water.hounsfield(volume), grid)
    for value in (found.water, found.water_ring):
        assert value == pytest.approx(0, abs=1)
    for value in (found.air, found.air_ring):
        assert value == pytest.approx(-1000, abs=1)


def test_water__reads_zero_in_the_ct_images_of_an_archive(
    spark: "SparkSession", tmp_path: Path
) -> None:
    found = water.measured(*water.through_the_archive(tmp_path, spark))
    assert found.water == pytest.approx(0, abs=1)
    assert found.air == pytest.approx(-1000, abs=1)


@pytest.mark.parametrize("name", WINDOWS)
def test_edge__is_as_sharp_as_theory_says(name: str) -> None:
    options = FDKOptions(name)
    found, expected = edges.measured_mtf(edges.edge_scan(), options), edges.theoretical_mtf(options)
    assert edges.ten_percent(found) == pytest.approx(edges.ten_percent(expected), rel=0.02)


@pytest.mark.parametrize("name", WINDOWS)
def test_noise__is_what_the_counts_make_it(name: str) -> None:
    options = FDKOptions(name)
    expected = edges.theoretical_noise(options)
    assert edges.measured_noise(options) == pytest.approx(expected, rel=0.03)


def test_disks__fade_with_the_cone_angle_alike_above_and_below() -> None:
    outermost = []
    for source_mm in disks.SOURCES_MM[:2]:
        geometry = disks.disk_scan(source_mm)
        volume = reconstruct_fdk(project(disks.DISKS, geometry), geometry, disks.GRID)
        found = disks.contrasts(volume)
        middle = len(found) // 2
        assert found[middle] == pytest.approx(1, abs=0.01)
        assert (np.diff(found[middle:]) < 0).all()
        np.testing.assert_allclose(found, found[::-1], atol=1e-3)
        outermost.append(found[-1])
    assert outermost[1] < outermost[0] < 1


def test_disks__in_a_wide_cone_are_what_double_precision_gives() -> None:
    geometry = disks.disk_scan(disks.SOURCES_MM[-1])
    projections = project(disks.DISKS, geometry)
    exact = oracles.fdk(projections, geometry, disks.GRID)
    for variant in available_variants():
        slab = SlabReconstruction(geometry, disks.GRID, variant=variant)
        slab.add(projections[:, slice(*slab.row_band)])
        # rows that are filtered in single precision are twice as far off
        assert np.abs(slab.result() - exact).max() < 5e-6 * np.abs(exact).max()


def test_a_bead__appears_where_it_is() -> None:
    # different along every axis, so that no exchange and no mirror image passes
    for place in ((11.0, -4.0, 6.0), (-9.0, 13.0, -5.0)):
        for turn in (1.0, -1.0):
            panel = FlatPanel(64, 96, 1.0, 1.0, offset_u_mm=2.5, offset_v_mm=-3.5)
            geometry = ConeBeamGeometry(200.0, 400.0, turn * CIRCLE[::3], panel)
            grid = VolumeGrid((30, 60, 60), (0.5, 0.5, 0.5), (place[2] + 0.2, 1.0, -0.7))
            bead = Ellipsoid(1.0, (1.0, 1.0, 1.0), place)
            volume = reconstruct_fdk(project([bead], geometry), geometry, grid)
            bright = np.where(volume > 0.5 * volume.max(), volume, 0)
            for axis, (middles, expected) in enumerate(
                zip((grid.z_mm, grid.y_mm, grid.x_mm), place[::-1], strict=True)
            ):
                others = tuple(other for other in range(3) if other != axis)
                found = (bright.sum(axis=others) * middles).sum() / bright.sum()
                assert found == pytest.approx(expected, abs=0.1)


def test_a_wrong_offset__blurs_a_bead() -> None:
    panel = FlatPanel(1, 128, 1.0, 1.0, offset_u_mm=1.5)
    geometry = ConeBeamGeometry(200.0, 400.0, CIRCLE, panel)
    projections = project([Ellipsoid(1.0, (1.0, 1.0, 1.0), (9.0, 4.0, 0.0))], geometry)
    grid = VolumeGrid((1, 90, 90), (0.5, 0.5, 0.5))
    peaks = {
        offset: reconstruct_fdk(
            projections, replace(geometry, detector=replace(panel, offset_u_mm=offset)), grid
        ).max()
        for offset in (-1.5, 0.0, 1.5)
    }
    assert peaks[1.5] > 1.3 * max(peaks[0.0], peaks[-1.5])


def walnut_sharpness(sinogram: NDArray[np.float32], offset_u_mm: float, sense: float) -> float:
    """Mean squared gradient inside the field of view."""
    angles = sense * np.radians(3.0 * np.arange(120))
    panel = FlatPanel(1, 328, 0.35, 0.35, offset_u_mm=offset_u_mm)
    geometry = ConeBeamGeometry(110.0, 300.0, angles, panel)
    grid = VolumeGrid((1, 300, 300), (0.13, 0.13, 0.13))
    volume = reconstruct_fdk(sinogram, geometry, grid)[0]
    along_y, along_x = np.gradient(volume)
    seen = np.hypot(grid.y_mm[:, None], grid.x_mm) < 19
    return float((along_y**2 + along_x**2)[seen].mean())


def test_walnut__is_sharpest_counterclockwise_and_a_quarter_millimetre_off() -> None:
    image = pytest.importorskip("imagecodecs").imread(
        str(EXAMPLES / "walnut" / "walnut_sinogram.png")
    )
    sinogram = np.ascontiguousarray(image.T[:, None], np.float32) / np.float32(65535)
    sharpness = {
        (offset, sense): walnut_sharpness(sinogram, offset, sense)
        for offset in (-0.27, 0.0, 0.27, 0.54)
        for sense in (1.0, -1.0)
    }
    best = sharpness.pop((0.27, 1.0))
    assert best > 1.2 * max(sharpness.values())
