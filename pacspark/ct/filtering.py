"""Cosine weight and ramp filter: line integrals in, filtered views in the kernels' layout out.

The ramp is the band-limited one sampled in real space (Kak and Slaney, Principles of Computerized
Tomographic Imaging, 1988, eq. 61), so that the level of the result is right; rows are padded with
zeros to at least twice their length, so that the convolution does not wrap.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, Geometry
from pacspark.ct.kernels.backproject import PADDING, arrange
from pacspark.ct.kernels.threads import at_most
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
    """

    filter: str = "ram-lak"
    cutoff: float = 1.0

    def __post_init__(self) -> None:
        if self.filter not in WINDOWS:
            message = f"options.filter: expected one of {', '.join(WINDOWS)}, found {self.filter!r}"
            raise GeometryError(message)
        if not 0 < self.cutoff <= 1:
            message = f"options.cutoff: expected a number in (0, 1], found {self.cutoff!r}"
            raise GeometryError(message)


def ramp_response(
    n_columns: int, spacing_mm: float, options: FDKOptions
) -> tuple[int, NDArray[np.float32]]:
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
    length: int = scipy.fft.next_fast_len(2 * n_columns, real=True)
    index = np.arange(length)
    distance = np.minimum(index, length - index)
    kernel = np.zeros(length)
    kernel[0] = 1 / (4 * spacing_mm**2)
    odd = distance % 2 == 1
    kernel[odd] = -1 / (np.pi * distance[odd] * spacing_mm) ** 2
    response = scipy.fft.rfft(kernel).real * spacing_mm
    part = np.arange(response.size) / (length / 2) / options.cutoff
    window = np.where(part <= 1, WINDOWS[options.filter](np.minimum(part, 1)), 0.0)
    return length, (response * window).astype(np.float32)


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
        self._length, self._response = ramp_response(detector.n_columns, spacing_mm, options)
        self._arcs = geometry.angular_weights_rad()
        self._flip = detector.row_order == "top_down"
        v_mm = detector.v_mm[row_start:row_stop]
        if isinstance(geometry, ConeBeamGeometry):
            distance_mm = geometry.source_to_detector_mm
            ray_mm = np.sqrt(distance_mm**2 + detector.u_mm[None] ** 2 + v_mm[:, None] ** 2)
            # every point of the volume is seen twice on a full circle: hence the half
            self._weights = (0.5 * distance_mm / ray_mm).astype(np.float32)
        else:
            self._weights = np.ones((v_mm.size, detector.n_columns), np.float32)

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
        n_angles, n_rows, n_columns = projections.shape
        arcs = self._arcs[angle_start : angle_start + n_angles].astype(np.float32)
        weighted = projections * self._weights
        weighted *= arcs[:, None, None]
        spectrum = scipy.fft.rfft(weighted, self._length, axis=2, workers=n_threads)
        spectrum *= self._response
        rows = scipy.fft.irfft(spectrum, self._length, axis=2, workers=n_threads, overwrite_x=True)[
            :, :, :n_columns
        ]
        if self._flip:
            rows = rows[:, ::-1]
        arranged = np.zeros((n_angles, n_columns + 2, n_rows + 2 * PADDING), np.float32)
        with at_most(n_threads):
            arrange(rows, arranged)
        return arranged

    def angles_within(self, size_bytes: int) -> int:
        """Return how many views can be filtered at once within so much work space, at least one."""
        n_rows, n_columns = self._weights.shape
        per_view = 4 * (
            n_rows * (n_columns + 2 * self._length + 2) + (n_columns + 2) * (n_rows + 2 * PADDING)
        )
        return max(1, int(size_bytes // per_view))
