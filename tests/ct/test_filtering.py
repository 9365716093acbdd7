"""The ramp filter against closed forms."""

import numpy as np
import pytest
import scipy.fft
from numpy.typing import NDArray

from pacspark.ct.filtering import FDKOptions, ramp_response

SPACING_MM = 0.4


def impulse(name: str, n_columns: int = 400) -> NDArray[np.float64]:
    """What the filter makes of one sample, lags 0, 1, 2 ..."""
    length, response = ramp_response(n_columns, SPACING_MM, FDKOptions(name))
    lags: NDArray[np.float64] = scipy.fft.irfft(response.astype(np.float64), length)
    return lags[: length // 2]


def test_ramp__is_the_band_limited_one_sampled_in_space() -> None:
    found = impulse("ram-lak")
    lag = np.arange(1, found.size)
    expected = np.where(lag % 2 == 1, -1 / (np.pi**2 * lag**2 * SPACING_MM), 0)
    np.testing.assert_allclose(found[0], 1 / (4 * SPACING_MM), rtol=1e-6)
    np.testing.assert_allclose(found[1:], expected, atol=1e-7)


def test_ramp__with_a_sinc_window_is_that_of_shepp_and_logan() -> None:
    found = impulse("shepp-logan")[:50]
    lag = np.arange(50)
    expected = -2 / (np.pi**2 * SPACING_MM * (4 * lag**2 - 1))
    np.testing.assert_allclose(found, expected, atol=2e-5 * expected[0])


@pytest.mark.parametrize("name", ["ram-lak", "shepp-logan", "cosine", "hamming", "hann"])
def test_windows__leave_low_frequencies_and_end_at_the_cutoff(name: str) -> None:
    length, plain = ramp_response(256, SPACING_MM, FDKOptions())
    _, full = ramp_response(256, SPACING_MM, FDKOptions(name))
    _, half = ramp_response(256, SPACING_MM, FDKOptions(name, 0.5))
    np.testing.assert_allclose(full[:5], plain[:5], rtol=3e-3)
    assert not half[length // 4 + 1 :].any()
    assert half[length // 4 - 2] > 0
    at_nyquist = full[-1] / plain[-1]
    expected = {"ram-lak": 1, "shepp-logan": 2 / np.pi, "cosine": 0, "hamming": 0.08, "hann": 0}
    assert at_nyquist == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize("n_columns", [1, 2, 3, 100, 101, 1023])
def test_transform__is_at_least_twice_as_long_as_a_row(n_columns: int) -> None:
    length, response = ramp_response(n_columns, SPACING_MM, FDKOptions())
    assert length >= 2 * n_columns
    assert response.size == length // 2 + 1
