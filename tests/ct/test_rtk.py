"""The same projections given to itk-rtk, the CPU reference of the field."""

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context

import numpy as np
import pytest

from pacspark.ct.fdk import SlabReconstruction, reconstruct_fdk
from pacspark.ct.kernels.variants import available_variants
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, project, scaled, voxelize
from tests.conftest import missing
from tests.ct import disks
from tests.ct.peers import (
    CASES,
    GATE_GRID,
    GATES,
    field_of_view,
    gate_geometry,
    quality,
    same_case,
)
from tests.ct.rtk import fdk, shepp_logan


@pytest.fixture(scope="module")
def rtk() -> Iterator[Executor]:
    """Give the process in which itk-rtk runs."""
    if find_spec("itk") is None:
        missing("itk")
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


@pytest.mark.parametrize("case", CASES)
def test_fdk__is_voxel_by_voxel_what_rtk_gives(rtk: Executor, case: str) -> None:
    projections, geometry, grid = same_case(case)

    theirs = rtk.submit(fdk, projections, geometry, grid).result()

    peak = float(np.abs(theirs).max())
    assert peak > 0.01
    for variant in available_variants():
        slab = SlabReconstruction(geometry, grid, n_threads=2, variant=variant)
        row_start, row_stop = slab.row_band
        slab.add(projections[:, row_start:row_stop])
        assert np.abs(slab.result() - theirs).max() < 1e-5 * peak


def test_disks__in_a_wide_cone_are_voxel_by_voxel_what_rtk_gives(rtk: Executor) -> None:
    geometry = disks.disk_scan(disks.SOURCES_MM[-1])
    projections = project(disks.DISKS, geometry)
    theirs = rtk.submit(fdk, projections, geometry, disks.GRID).result()
    volume = reconstruct_fdk(projections, geometry, disks.GRID)
    assert np.abs(volume - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("name", GATES)
def test_fdk__passes_the_gates_of_rtk_and_is_no_worse(rtk: Executor, name: str) -> None:
    """Projections and reference both come from RTK, as in its own tests."""
    _, _, largest_error, least_psnr_db = GATES[name]
    geometry, grid = gate_geometry(name), GATE_GRID
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
    geometry, grid = gate_geometry("full circle"), GATE_GRID
    head = scaled(SHEPP_LOGAN_UNIT, 116.0, 2.0)

    volume = reconstruct_fdk(project(head, geometry), geometry, grid)

    mean_error, psnr_db = quality(volume, voxelize(head, grid), field_of_view(geometry, grid))
    assert mean_error < 0.03
    assert psnr_db > 26
