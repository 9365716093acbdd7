"""The kernel that filters rows, against a convolution in float64."""

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.ct.filtering import (
    FDKOptions,
    RowFilter,
    ramp_response,
    transform_response,
    transform_steps,
)
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, RowOrder
from pacspark.ct.kernels.backproject import PADDING
from pacspark.ct.kernels.ramp import LANES, filter_rows
from pacspark.ct.kernels.threads import most_threads

RNG = np.random.default_rng(11)
LENGTHS = [1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 20, 27, 30, 64, 96, 100, 125, 160]
"""Quarters of a transform: every radix alone and with others."""


def even_kernel(length: int) -> NDArray[np.float64]:
    kernel = RNG.normal(size=length)
    return kernel + np.roll(kernel[::-1], 1)


def filtered(
    rows: NDArray[np.float32],
    kernel: NDArray[np.float64],
    *,
    rises: bool = True,
    before: int = 0,
    first_u: int = 0,
    n_u: int | None = None,
    padding: int = PADDING,
) -> NDArray[np.float32]:
    """Filter rows without weights; what was there before is 7."""
    n_angles, n_v, n_columns = rows.shape
    n_u = n_columns if n_u is None else n_u
    radices, twiddles, turns = transform_steps(len(kernel) // 4)
    factors, opposites = transform_response(kernel, radices)
    result = np.full((n_angles, n_u + 2, n_v + 2 * padding), 7, np.float32)
    work = np.full((most_threads(), len(kernel) * LANES), np.nan)
    filter_rows(
        rows, rises, np.ones((n_v, n_columns)),
        np.ones((n_angles, n_columns)), np.zeros(0), before, first_u,
        factors, opposites, radices, twiddles, turns, padding, work, result,
    )  # fmt: skip
    return result


def convolved(
    rows: NDArray[np.float32], kernel: NDArray[np.float64], before: int, first_u: int, n_u: int
) -> NDArray[np.float64]:
    """Sum by sum: what the transforms are for, ``(a,u,v)``."""
    placed = np.zeros((*rows.shape[:2], len(kernel)))
    placed[:, :, before : before + rows.shape[2]] = rows
    index = (np.arange(len(kernel))[:, None] - np.arange(len(kernel))) % len(kernel)
    everything: NDArray[np.float64] = np.einsum("uw,avw->auv", kernel[index], placed)
    return everything[:, first_u : first_u + n_u]


@pytest.mark.parametrize("quarter", LENGTHS)
def test_filter_rows__is_a_convolution(quarter: int) -> None:
    kernel = even_kernel(4 * quarter)
    rows = RNG.normal(size=(2, 19, 2 * quarter)).astype(np.float32)
    found = filtered(rows, kernel)[:, 1:-1, PADDING:-PADDING]
    expected = convolved(rows, kernel, 0, 0, 2 * quarter)
    assert np.abs(found - expected).max() <= 2e-7 * np.abs(expected).max()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 40), st.booleans())
def test_filter_rows__puts_rows_where_they_belong(
    before: int, first_u: int, n_v: int, rises: bool
) -> None:
    kernel = even_kernel(80)
    rows = RNG.normal(size=(2, n_v, 25)).astype(np.float32)
    result = filtered(rows, kernel, rises=rises, before=before, first_u=first_u, n_u=23)
    found = result[:, 1:-1, PADDING:-PADDING]
    expected = convolved(rows if rises else rows[:, ::-1], kernel, before, first_u, 23)
    assert np.abs(found - expected).max() <= 2e-7 * np.abs(expected).max()
    # not a float beside it was touched
    assert (result == 7).sum() == result.size - found.size


def test_filter_rows__does_not_mix_rows() -> None:
    """Bit for bit: slabs of a volume have bands of their own."""
    kernel = even_kernel(120)
    rows = RNG.normal(size=(3, 50, 60)).astype(np.float32)
    whole = filtered(rows, kernel)[:, :, PADDING:-PADDING]
    for start, stop in ((0, 50), (7, 29), (13, 14), (17, 50)):
        band = filtered(np.ascontiguousarray(rows[:, start:stop]), kernel)[:, :, PADDING:-PADDING]
        np.testing.assert_array_equal(band[:, 1:-1], whole[:, 1:-1, start:stop])
    rows[1, 4] = np.inf
    others = np.delete(filtered(rows, kernel)[1, 1:-1, PADDING:-PADDING], 4, axis=1)
    np.testing.assert_array_equal(others, np.delete(whole[1, 1:-1], 4, axis=1))


@pytest.mark.parametrize("quarter", [7, 22])
def test_transform_steps__refuses_other_prime_factors(quarter: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        transform_steps(quarter)


@pytest.mark.parametrize("row_order", ["top_down", "bottom_up"])
@pytest.mark.parametrize("extrapolation", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("offset_u_mm", [0.0, 6.0, -6.0])
def test_row_filter__weights_goes_on_and_pads(
    row_order: RowOrder, extrapolation: float, offset_u_mm: float
) -> None:
    """Against the same steps, taken one after the other in float64."""
    panel = FlatPanel(20, 31, 1.0, 1.0, offset_u_mm=offset_u_mm, row_order=row_order)
    geometry = ConeBeamGeometry(100.0, 200.0, np.arange(40) * np.pi / 20, panel)
    options = FDKOptions("hann", extrapolation=extrapolation)
    rows = np.abs(RNG.normal(size=(3, 7, 31))).astype(np.float32)
    row_filter = RowFilter(geometry, 5, 12, options)
    found = row_filter.filter(rows, 2, 1)
    ray_mm = np.sqrt(200.0**2 + panel.u_mm**2 + panel.v_mm[5:12, None] ** 2)
    weighted = rows * (200.0 / ray_mm) * row_filter._redundancy.weights(slice(2, 5))[:, None]
    added = int(extrapolation * 30)
    before = [
        np.maximum(2 * weighted[..., 0] - weighted[..., number], 0)
        * np.cos(np.pi / 2 * number / (added + 1)) ** 2
        for number in range(added, 0, -1)
    ]
    after = [
        np.maximum(2 * weighted[..., -1] - weighted[..., -1 - number], 0)
        * np.cos(np.pi / 2 * number / (added + 1)) ** 2
        for number in range(1, added + 1)
    ]
    longer = np.concatenate(
        [np.stack(before, -1), weighted, np.stack(after, -1)] if added else [weighted], axis=2
    )
    wide = row_filter.columns_before, row_filter._redundancy.columns_after
    length, ramp = ramp_response(max(wide[0], added) + 31 + max(wide[1], added), 0.5, options)
    start = max(wide[0], added)
    placed = np.zeros((3, 7, length))
    placed[:, :, start - added : start + 31 + added] = longer
    convolution = scipy.fft.irfft(scipy.fft.rfft(placed) * ramp, length)
    expected = convolution[:, :, start - wide[0] : start + 31 + wide[1]]
    if row_order == "top_down":
        expected = expected[:, ::-1]
    inside = found[:, 1:-1, PADDING:-PADDING]
    assert np.abs(inside - expected.transpose(0, 2, 1)).max() <= 2e-7 * np.abs(expected).max()
    assert np.abs(found).sum() == pytest.approx(np.abs(inside).sum())
