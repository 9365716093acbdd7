"""Counts to line integrals: what the logarithm has an answer for, and what it has not."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pacspark.ct.preprocess import SMALLEST_TRANSMISSION, line_integrals
from pacspark.errors import ProjectionDataError

SHAPE = (3, 4, 6)
RANDOM = np.random.default_rng(5)
TRUE = RANDOM.uniform(0, 3, SHAPE)
DARK = RANDOM.uniform(90, 110, SHAPE[1:])
BEAM = RANDOM.uniform(20_000, 30_000, SHAPE[1:])
COUNTS = DARK + BEAM * np.exp(-TRUE)


def frames(frame: NDArray[Any], count: int = 5) -> NDArray[np.float64]:
    """Frames that scatter around one, and whose mean it is."""
    noise = RANDOM.uniform(-5, 5, (count, *frame.shape))
    return np.asarray(frame + noise - noise.mean(axis=0))


def test_counts__are_compared_with_the_mean_of_flats_less_that_of_darks() -> None:
    found = line_integrals(COUNTS, "counts", flats=frames(DARK + BEAM), darks=frames(DARK, 3))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, TRUE, atol=1e-5)


def test_counts__without_darks_or_flats_use_what_there_is() -> None:
    np.testing.assert_allclose(
        line_integrals(COUNTS - DARK, "counts", flats=BEAM[None]), TRUE, atol=1e-5
    )
    even = 5e4 * np.exp(-TRUE)
    np.testing.assert_allclose(
        line_integrals(even, "counts", unattenuated_counts=5e4), TRUE, atol=1e-5
    )
    np.testing.assert_allclose(
        line_integrals(even + DARK, "counts", darks=DARK[None], unattenuated_counts=5e4),
        -np.log(even / (5e4 - DARK)),
        atol=1e-5,
    )


@settings(deadline=None)
@given(hnp.arrays(np.uint16, (2, 3, 4)), hnp.arrays(np.uint16, (2, 3, 4)))
def test_counts__of_any_detector_give_finite_numbers_or_one_error(
    values: NDArray[np.uint16], flats: NDArray[np.uint16]
) -> None:
    saturated = (flats == 65535).all(axis=0)
    if max(saturated.mean(), (flats.sum(axis=0) == 0).mean()) > 0.5:
        with pytest.raises(ProjectionDataError, match="flat: expected the beam"):
            line_integrals(values, "counts", flats=flats)
        return
    found = line_integrals(values, "counts", flats=flats)
    assert np.isfinite(found).all()
    assert found.shape == values.shape


def test_counts__in_whole_numbers_do_not_wrap_below_the_dark_level() -> None:
    values = np.full((1, 1, 2), 10, np.uint16)
    darks, flats = np.full((1, 1, 2), 50, np.uint16), np.full((1, 1, 2), 1050, np.uint16)
    found = line_integrals(values, "counts", flats=flats, darks=darks)
    np.testing.assert_allclose(found, math.log(1000 / 0.5), rtol=1e-6)


def test_counts__that_are_parts_of_the_beam_keep_what_is_below_half() -> None:
    parts = np.array([[[0.2, 0.001, 0.0, -1.0]]])
    found = line_integrals(parts, "counts", flats=np.full((1, 1, 4), 1.1))
    lowest = -math.log(SMALLEST_TRANSMISSION)
    expected = [math.log(1.1 / 0.2), math.log(1.1 / 0.001), lowest, lowest]
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5)


def test_transmission__is_the_logarithm_with_a_floor() -> None:
    found = line_integrals(np.array([[[1.0, 0.5, 0.0, -0.2]]]), "transmission")
    lowest = -math.log(SMALLEST_TRANSMISSION)
    np.testing.assert_allclose(found[0, 0], [0, math.log(2), lowest, lowest], atol=1e-5)


def test_line_integrals__stay_as_they_are() -> None:
    np.testing.assert_array_equal(line_integrals(TRUE, "line_integrals"), TRUE.astype(np.float32))


def test_dead_pixels__are_filled_along_their_row() -> None:
    ramp = np.broadcast_to(np.arange(6) * 0.2, SHAPE)
    flat = BEAM.copy()
    counts = flat * np.exp(-ramp)
    dead = [(0, 0), (1, 2), (1, 3), (2, 5)]
    for row, column in dead:
        flat[row, column] = 0
        counts[:, row, column] = 7777
    found = line_integrals(counts, "counts", flats=flat[None])
    expected = ramp.copy()
    expected[:, 0, 0] = ramp[:, 0, 1]  # at an edge there is one neighbour
    expected[:, 2, 5] = ramp[:, 2, 4]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_dead_rows_and_columns__at_the_rim_take_their_nearest() -> None:
    true = RANDOM.uniform(0, 3, (2, 9, 10))
    flat = np.full((9, 10), 25_000.0)
    flat[[0, -1]] = 0
    flat[:, [0, -1]] = 0
    found = line_integrals(25_000 * np.exp(-true), "counts", flats=flat[None])
    expected = np.pad(true[:, 1:-1, 1:-1], [(0, 0), (1, 1), (1, 1)], mode="edge")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("flats", "message"),
    [
        (np.zeros((2, 4, 6)), "found 24 of 24 pixels that are not above the dark level, .* row 0"),
        (np.full((2, 4, 6), 65535, np.uint16), "found 24 of 24 saturated pixels"),
        (np.ones((2, 4, 5)), r"flat: expected frames of shape \(4, 6\), found \(2, 4, 5\)"),
        (np.ones((4, 6)), r"flat: expected frames of shape \(4, 6\), found \(4, 6\)"),
        (np.ones((0, 4, 6)), "flat: expected frames"),
        (np.full((4, 6), 65535, np.uint16), r"expected frames of shape \(4, 6\), found \(4, 6\)"),
        (np.ones((0, 4, 6), np.uint16), r"expected frames of shape .* found \(0, 4, 6\)"),
        (np.full((1, 4, 6), np.nan), "flat: expected finite counts, found nan at 0, 0"),
    ],
)
def test_flats__that_show_no_beam_are_refused(flats: NDArray[Any], message: str) -> None:
    with pytest.raises(ProjectionDataError, match=message):
        line_integrals(COUNTS, "counts", flats=flats)


def test_counts__without_anything_to_compare_with_are_refused() -> None:
    for counts in (None, 0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ProjectionDataError, match="expected flats or unattenuated_counts > 0"):
            line_integrals(COUNTS, "counts", unattenuated_counts=counts)
    with pytest.raises(ProjectionDataError, match="dark: expected frames of shape"):
        line_integrals(COUNTS, "counts", flats=BEAM[None], darks=DARK)
    with pytest.raises(ProjectionDataError, match="kind: expected one of counts"):
        line_integrals(COUNTS, "hounsfield")  # type: ignore[arg-type]
    with pytest.raises(ProjectionDataError, match="values: expected shape"):
        line_integrals(BEAM, "line_integrals")


def test_blocks__of_projections_give_what_the_whole_gives() -> None:
    flats, darks = frames(DARK + BEAM), frames(DARK)
    whole = line_integrals(COUNTS, "counts", flats=flats, darks=darks)
    for start in range(SHAPE[0]):
        part = line_integrals(COUNTS[start : start + 1], "counts", flats=flats, darks=darks)
        np.testing.assert_array_equal(part[0], whole[start])
