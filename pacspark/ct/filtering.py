"""Cosine weight and ramp filter: line integrals in, filtered views in the kernels' layout out.

The ramp is the band-limited one sampled in real space (Kak and Slaney, Principles of Computerized
Tomographic Imaging, 1988, eq. 61), so that the level of the result is right; rows are padded with
zeros to at least twice their length, so that the convolution does not wrap.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, Geometry
from pacspark.ct.kernels.backproject import PADDING
from pacspark.ct.kernels.ramp import LANES, filter_rows
from pacspark.ct.kernels.threads import at_most, most_threads
from pacspark.ct.redundancy import Redundancy
from pacspark.errors import GeometryError


def _shepp_logan(part: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sinc(part / 2)


WINDOWS: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = MappingProxyType(
    {
        "ram-lak": np.ones_like,
        "shepp-logan": _shepp_logan,
        "cosine": lambda part: np.cos(np.pi * part / 2),
        "hamming": lambda part: 0.54 + 0.46 * np.cos(np.pi * part),
        "hann": lambda part: 0.5 + 0.5 * np.cos(np.pi * part),
    }
)
"""Apodisation windows over frequency, as part of the cut-off."""


@dataclass(frozen=True, slots=True)
class FDKOptions:
    """How projections are filtered.

    Parameters
    ----------
    filter
        ``ram-lak``, ``shepp-logan``, ``cosine``, ``hamming`` or ``hann``.
    cutoff
        Where the filter ends, as part of the Nyquist frequency, in (0, 1].
    extrapolation
        Of objects wider than the detector: how far rows go on at either side, as part of their
        length, in [0, 1], so that the filter meets no cliff and the rim of the image does not
        shine. Mirrored at the edge's value, not below zero, and fading as a squared cosine (after
        Ohnesorge et al., Efficient correction for CT image artifacts caused by objects extending
        outside the scan field of view, Med. Phys. 27, 2000).
    """

    filter: str = "ram-lak"
    cutoff: float = 1.0
    extrapolation: float = 0.0

    def __post_init__(self) -> None:
        if self.filter not in WINDOWS:
            message = f"options.filter: expected one of {', '.join(WINDOWS)}, found {self.filter!r}"
            raise GeometryError(message)
        if not 0 < self.cutoff <= 1:
            message = f"options.cutoff: expected a number in (0, 1], found {self.cutoff!r}"
            raise GeometryError(message)
        if not 0 <= self.extrapolation <= 1:
            message = (
                f"options.extrapolation: expected a number in [0, 1], found {self.extrapolation!r}"
            )
            raise GeometryError(message)

    def __str__(self) -> str:
        words = [self.filter]
        if self.cutoff != 1:
            words.append(f"cut off at {self.cutoff:g}")
        if self.extrapolation:
            words.append(f"rows longer by {self.extrapolation:g}")
        return ", ".join(words)


def ramp_response(
    n_columns: int, spacing_mm: float, options: FDKOptions
) -> tuple[int, NDArray[np.float64]]:
    """Return the length of the transform and the filter's frequency response, 1/mm.

    Parameters
    ----------
    n_columns
        Length of a detector row.
    spacing_mm
        Distance of its samples at the isocenter.
    options
        Window and cut-off.
    """
    # as `kernels.ramp` has it: of four parts two are for the row
    length: int = 4 * scipy.fft.next_fast_len((n_columns + 1) // 2, real=True)
    index = np.arange(length)
    distance = np.minimum(index, length - index)
    kernel = np.zeros(length)
    kernel[0] = 1 / (4 * spacing_mm**2)
    odd = distance % 2 == 1
    kernel[odd] = -1 / (np.pi * distance[odd] * spacing_mm) ** 2
    ramp = scipy.fft.rfft(kernel).real * spacing_mm
    part = np.arange(ramp.size) / (length / 2) / options.cutoff
    window = np.where(part <= 1, WINDOWS[options.filter](np.minimum(part, 1)), 0.0)
    return length, ramp * window


RADICES = (4, 2, 3, 5)


def transform_steps(
    n_values: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return what `kernels.ramp` calls radices, twiddles and turns.

    Parameters
    ----------
    n_values
        A quarter of the transform's length, with no prime factors but 2, 3 and 5.
    """
    radices, twiddles, left = [], [np.zeros((0, 2))], n_values
    for radix in RADICES:
        while left % radix == 0:
            stride = left // radix
            angles = -2 * np.pi / left * np.outer(np.arange(stride), np.arange(1, radix))
            twiddles.append(np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(-1, 2))
            radices.append(radix)
            left = stride
    if left != 1:
        message = f"n_values: expected no prime factors but 2, 3 and 5, found {n_values}"
        raise ValueError(message)
    angles = np.pi / n_values * np.arange(n_values)
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    flat = np.concatenate(twiddles).reshape(-1)
    return np.array(radices, np.int64), flat, turns


def transform_response(
    kernel: NDArray[np.float64], radices: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return what `kernels.ramp` calls factors and opposites.

    Parameters
    ----------
    kernel
        Even, as long as the transform, its middle at 0: what rows are convolved with.
    radices
        `transform_steps` of a quarter of it.
    """
    order = np.zeros(1, np.int64)
    for radix in [*radices[::-1], 2]:
        order = np.concatenate([number + radix * order for number in range(radix)])
    at_even, at_odd = scipy.fft.fft(kernel[::2]), scipy.fft.fft(kernel[1::2])
    factors = np.stack([at_even.real - at_odd.imag, at_odd.real], axis=1) / order.size
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return factors[order], place[-order % order.size]


class RowFilter:
    """Weights and filters blocks of views of one scan, cut to one band of detector rows.

    Parameters
    ----------
    geometry
        The whole scan; views are weighted by their arc in it.
    row_start, row_stop
        The band, in rows of the detector.
    options
        The filter.
    """

    def __init__(
        self, geometry: Geometry, row_start: int, row_stop: int, options: FDKOptions
    ) -> None:
        detector = geometry.detector
        spacing_mm = detector.column_spacing_mm / geometry.magnification
        self._redundancy = Redundancy(geometry)
        self.columns_before = self._redundancy.columns_before
        """Columns of the result before the detector's first: what a half-fan does not see."""
        self._n_u = self.columns_before + detector.n_columns + self._redundancy.columns_after
        added = math.floor(options.extrapolation * (detector.n_columns - 1))
        # from the edge outwards
        self._tail = np.cos(np.arange(1, added + 1) / (added + 1) * np.pi / 2)
        self._tail **= 2
        self._before = max(self.columns_before, added)
        after = max(self._redundancy.columns_after, added)
        length, ramp = ramp_response(self._before + detector.n_columns + after, spacing_mm, options)
        radices, twiddles, turns = transform_steps(length // 4)
        kernel = scipy.fft.irfft(ramp, length)
        self._transform = (*transform_response(kernel, radices), radices, twiddles, turns)
        self._work_floats = length * LANES
        self._flip = detector.row_order == "top_down"
        v_mm = detector.v_mm[row_start:row_stop]
        if isinstance(geometry, ConeBeamGeometry):
            distance_mm = geometry.source_to_detector_mm
            ray_mm = np.sqrt(distance_mm**2 + detector.u_mm[None] ** 2 + v_mm[:, None] ** 2)
            self._cosines = distance_mm / ray_mm
            # the ramp is for the detector's shadow at the axis: a source further off, a wider one
            self._scales = geometry.source_to_isocenter_mm / geometry.source_radii_mm
        else:
            self._cosines = np.ones((v_mm.size, detector.n_columns))
            self._scales = np.ones(geometry.n_angles)

    def filter(
        self, projections: NDArray[np.float32], angle_start: int, n_threads: int
    ) -> NDArray[np.float32]:
        """Return filtered views ``[angle, u, v]``, padded as `kernels.backproject` says.

        Parameters
        ----------
        projections
            ``(n, row_stop - row_start, n_columns)`` line integrals.
        angle_start
            Index in the scan of the first of them.
        n_threads
            Threads to use.
        """
        n_angles, n_rows, _ = projections.shape
        views = slice(angle_start, angle_start + n_angles)
        weights = self._redundancy.weights(views) * self._scales[views, None]
        filtered = np.zeros((n_angles, self._n_u + 2, n_rows + 2 * PADDING), np.float32)
        work = np.empty((most_threads(), self._work_floats))
        with at_most(n_threads):
            filter_rows(
                projections, not self._flip, self._cosines, weights, self._tail, self._before,
                self._before - self.columns_before, *self._transform, PADDING, work, filtered,
            )  # fmt: skip
        return filtered

    def angles_within(self, size_bytes: int) -> int:
        """Return how many views can be filtered at once within so much work space, at least one."""
        n_rows, n_columns = self._cosines.shape
        per_view = 4 * (n_rows * n_columns + (self._n_u + 2) * (n_rows + 2 * PADDING))
        return max(1, int(size_bytes // per_view))
