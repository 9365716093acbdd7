"""The same projections given to itk-rtk, the CPU reference of the field."""

import math
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.ct.fdk import SlabReconstruction, reconstruct_fdk
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.kernels.variants import available_variants
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, project, scaled, voxelize
from tests.conftest import missing
from tests.ct.rtk import Volume, fdk, shepp_logan


@pytest.fixture(scope="module")
def rtk() -> Iterator[Executor]:
    """Give the process in which itk-rtk runs."""
    if find_spec("itk") is None:
        missing("itk")
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


def circle(n_angles: int, *, start_rad: float = 0.0, turn: float = 1.0) -> NDArray[np.float64]:
    return start_rad + turn * np.arange(n_angles) * 2 * np.pi / n_angles


def steps(n_angles: int) -> NDArray[np.float64]:
    """Give a circle whose steps vary by a factor of two."""
    part = np.arange(n_angles) / n_angles
    return 2 * np.pi * part + 0.3 * np.sin(2 * np.pi * part)


CASES = {
    "plain": (circle(60), {}, (0.0, 0.0, 0.0)),
    "clockwise": (circle(60, start_rad=1.1, turn=-1.0), {}, (0.0, 0.0, 0.0)),
    "offsets": (circle(60), {"offset_u_mm": 5.3, "offset_v_mm": -4.1}, (0.0, 0.0, 0.0)),
    "unequal steps": (steps(60), {"row_order": "bottom_up"}, (0.0, 0.0, 0.0)),
    "half-fan": (circle(60), {"offset_u_mm": 45.0}, (0.0, 0.0, 0.0)),
    "half-fan, other side": (circle(60), {"offset_u_mm": -21.6}, (0.0, 3.0, 0.0)),
    "short scan": (np.radians(np.arange(20, 231, 3.0)), {}, (0.0, 0.0, 0.0)),
    "over-scan, clockwise": (np.radians(np.arange(0, -280, -4.0)), {}, (0.0, 0.0, 0.0)),
    "off centre": (circle(60, start_rad=-0.4), {}, (6.0, -8.0, 11.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_fdk__is_voxel_by_voxel_what_rtk_gives(rtk: Executor, case: str) -> None:
    angles, panel, center = CASES[case]
    detector = FlatPanel(80, 100, 2.2, 1.8, **panel)  # type: ignore[arg-type]
    geometry = ConeBeamGeometry(300.0, 540.0, angles, detector)
    projections = project(scaled(SHEPP_LOGAN_UNIT, 30.0, 0.02), geometry)
    grid = VolumeGrid((30, 36, 40), (1.9, 1.4, 1.3), center)

    theirs = rtk.submit(fdk, projections, geometry, grid).result()

    peak = float(np.abs(theirs).max())
    assert peak > 0.01
    for variant in available_variants():
        slab = SlabReconstruction(geometry, grid, n_threads=2, variant=variant)
        row_start, row_stop = slab.row_band
        slab.add(projections[:, row_start:row_stop])
        assert np.abs(slab.result() - theirs).max() < 1e-5 * peak


GATES = {
    "full circle": (circle(180), {"offset_u_mm": 20.0, "offset_v_mm": 15.0}, 0.03, 26.0),
    "short scan": (np.radians(np.arange(110) * 240 / 110), {}, 0.09, 22.0),
    "half-fan": (circle(180), {"offset_u_mm": 120.0}, 0.061, 24.0),
    "half-fan, other side": (circle(180), {"offset_u_mm": -120.0}, 0.061, 24.0),
}
"""RTK's own tests of its FDK: views, offsets, mean absolute error and PSNR in dB passing there."""


@pytest.mark.parametrize("name", GATES)
def test_fdk__passes_the_gates_of_rtk_and_is_no_worse(rtk: Executor, name: str) -> None:
    """Projections and reference both come from RTK, as in its own tests."""
    angles, offsets, largest_error, least_psnr_db = GATES[name]
    detector = FlatPanel(128, 128, 4.0, 4.0, **offsets)  # type: ignore[arg-type]
    geometry = ConeBeamGeometry(600.0, 1200.0, angles, detector)
    grid = VolumeGrid((128, 128, 128), (2.0, 2.0, 2.0))
    projections, reference = rtk.submit(shepp_logan, geometry, grid).result()
    assert reference.max() == pytest.approx(2.0)

    volume = reconstruct_fdk(projections, geometry, grid)
    theirs = rtk.submit(fdk, projections, geometry, grid).result()

    seen = field_of_view(geometry, grid)
    error, psnr_db = quality(volume, reference, seen)
    their_error, their_psnr_db = quality(theirs, reference, seen)
    assert error < largest_error
    assert psnr_db > least_psnr_db
    assert error <= their_error * 1.001
    assert psnr_db >= their_psnr_db - 0.01


def test_fdk__passes_the_gate_of_rtk_on_the_head_phantom() -> None:
    detector = FlatPanel(128, 128, 4.0, 4.0, offset_u_mm=20.0, offset_v_mm=15.0)
    geometry = ConeBeamGeometry(600.0, 1200.0, circle(180), detector)
    grid = VolumeGrid((128, 128, 128), (2.0, 2.0, 2.0))
    head = scaled(SHEPP_LOGAN_UNIT, 116.0, 2.0)

    volume = reconstruct_fdk(project(head, geometry), geometry, grid)

    mean_error, psnr_db = quality(volume, voxelize(head, grid), field_of_view(geometry, grid))
    assert mean_error < 0.03
    assert psnr_db > 26


def quality(volume: Volume, reference: Volume, seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Give mean absolute error and PSNR in dB of a peak of 2.

    Counted as RTK does in its own tests: zero outside the field of view, mean over all voxels.
    """
    error = (np.where(seen, volume, 0) - reference).astype(np.float64)
    psnr_db = 20 * math.log10(2.0) - 10 * math.log10(float((error**2).mean()))
    return float(np.abs(error).mean()), psnr_db


def field_of_view(geometry: ConeBeamGeometry, grid: VolumeGrid) -> NDArray[np.bool_]:
    """Give the voxels that are seen all round: a cylinder with a cone on either end."""
    detector, source = geometry.detector, geometry.source_to_isocenter_mm
    distance = geometry.source_to_detector_mm
    reach = max if geometry.is_half_fan else min
    half_u = reach(-detector.u_mm.min(), detector.u_mm.max())
    radius = np.hypot(grid.y_mm[:, None], grid.x_mm)
    nearest = distance / (source - radius)  # the magnification where the source is nearest
    inside = radius <= source * math.sin(math.atan2(half_u, distance))
    z_mm = grid.z_mm[:, None, None]
    seen = (z_mm * nearest <= detector.v_mm.max()) & (z_mm * nearest >= detector.v_mm.min())
    return np.asarray(inside & seen)
