"""A volume is the same however it is cut: slabs, blocks of views, threads."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.ct import fdk as fdk_module
from pacspark.ct.fdk import SlabReconstruction
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.ct.kernels.variants import available_variants
from pacspark.errors import UsageError

PANEL = FlatPanel(61, 37, 0.9, 1.1, offset_u_mm=0.3, offset_v_mm=1.7)
ANGLES = np.arange(21) * 2 * math.pi / 21
CONE = ConeBeamGeometry(120.0, 200.0, ANGLES, PANEL)
SCANS: dict[str, Geometry] = {
    "cone": CONE,
    "bottom up": replace(CONE, detector=replace(PANEL, row_order="bottom_up")),
    "fine rows": replace(CONE, detector=replace(PANEL, row_spacing_mm=0.3)),
    "parallel": ParallelBeamGeometry(ANGLES / 2, PANEL),
}
GRID = VolumeGrid((53, 9, 10), (0.6, 1.3, 1.1), (0.77, 0.3, -0.4))
PROJECTIONS = np.random.default_rng(1).standard_normal((21, 61, 37)).astype(np.float32)


def in_slabs(geometry: Geometry, cuts: list[int], variant: str) -> NDArray[np.float32]:
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, GRID.shape[0]], strict=True):
        slab = SlabReconstruction(geometry, GRID.slab(start, stop), variant=variant)
        slab.add(PROJECTIONS[:, slice(*slab.row_band)])
        parts.append(slab.result())
    return np.concatenate(parts)


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 52), unique=True, max_size=6).map(sorted))
@pytest.mark.parametrize("variant", available_variants())
@pytest.mark.parametrize("name", SCANS)
def test_slabs__are_the_volume_bit_for_bit(name: str, variant: str, cuts: list[int]) -> None:
    np.testing.assert_array_equal(
        in_slabs(SCANS[name], cuts, variant), in_slabs(SCANS[name], [], variant)
    )


def test_slabs_of_slabs__are_the_volume_bit_for_bit() -> None:
    part = GRID.slab(5, 48).slab(3, 30)
    slab = SlabReconstruction(CONE, part)
    slab.add(PROJECTIONS[:, slice(*slab.row_band)])
    np.testing.assert_array_equal(slab.result(), in_slabs(CONE, [], available_variants()[0])[8:35])


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(1, 20), unique=True, max_size=5).map(sorted),
    st.randoms(use_true_random=False),
    st.sampled_from(available_variants()),
)
def test_blocks_of_views__in_any_order_make_the_same_volume(
    cuts: list[int], random: object, variant: str
) -> None:
    blocks = list(zip([0, *cuts], [*cuts, 21], strict=True))
    whole = in_slabs(CONE, [], variant)
    in_order, shuffled = (SlabReconstruction(CONE, GRID, variant=variant) for _ in range(2))
    band = slice(*in_order.row_band)
    for start, stop in blocks:
        in_order.add(PROJECTIONS[start:stop, band], start)
    np.testing.assert_array_equal(in_order.result(), whole)
    random.shuffle(blocks)  # type: ignore[attr-defined]
    for start, stop in blocks:
        shuffled.add(PROJECTIONS[start:stop, band], start)
    assert np.abs(shuffled.result() - whole).max() < 1e-6 * np.abs(whole).max()


def test_threads_and_work_space__do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_slabs(CONE, [], available_variants()[0])
    monkeypatch.setattr(fdk_module, "WORK_BYTES", 1)
    slab = SlabReconstruction(CONE, GRID, n_threads=2)
    slab.add(PROJECTIONS[:, slice(*slab.row_band)])
    np.testing.assert_array_equal(slab.result(), whole)


def test_result__that_was_the_last_takes_no_more() -> None:
    slab = SlabReconstruction(CONE, GRID)
    band = slice(*slab.row_band)
    slab.add(PROJECTIONS[:, band], 0)
    np.testing.assert_array_equal(
        slab.result(last=True), in_slabs(CONE, [], available_variants()[0])
    )
    with pytest.raises(UsageError, match="found one whose last result was taken"):
        slab.add(PROJECTIONS[:, band], 0)


def test_result__can_be_asked_for_in_between() -> None:
    slab = SlabReconstruction(CONE, GRID)
    assert not slab.result().any()
    band = slice(*slab.row_band)
    slab.add(PROJECTIONS[:10, band], 0)
    first = slab.result()
    kept = first.copy()
    slab.add(PROJECTIONS[10:, band], 10)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(slab.result(), in_slabs(CONE, [], available_variants()[0]))
