"""A first pass over a scan's frames: nothing is encoded before all of them were looked at."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, Geometry
from pacspark.dicom.enhanced_xa import ENCODING, per_view
from pacspark.errors import ProjectionDataError
from pacspark.scans.description import ScanDescription

BLOCK_BYTES: Final = 64 << 20
LARGEST_STORED: Final = 65535
LEAST_STEPS: Final = 64
"""Stored steps across the bulk of the values; fewer would round a scan away."""
SAMPLED_VALUES: Final = 1 << 16
LARGEST_VALUE: Final = float(np.finfo(np.float32).max) / 4
"""A quarter, so that neither the span of the values nor a rounded end of it leaves float32."""


class Frames(Protocol):
    """What `encode_scan` reads: `scans.readers.FrameSource` is one."""

    @property
    def n_angles(self) -> int:
        """Number of views."""

    @property
    def n_energy_bins(self) -> int:
        """Energy bins, one for a scan without."""

    def read(self, angle_start: int, angle_stop: int, energy_bin: int = 0) -> NDArray[np.generic]:
        """Return the views ``angle_start..angle_stop``, ``[angle, row, column]``."""

    def flats(self, energy_bin: int = 0) -> NDArray[np.generic] | None:
        """Return the frames without object."""

    def darks(self, energy_bin: int = 0) -> NDArray[np.generic] | None:
        """Return the frames without beam."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first pass tells.

    Attributes
    ----------
    digest
        SHA-256 of the description and of all frames.
    slope, intercept
        ``value = stored * slope + intercept``, one map for the whole scan.
    """

    digest: str
    slope: float
    intercept: float


def survey_frames(description: ScanDescription, frames: Frames) -> Survey:
    """Look at all frames of a scan.

    Raises
    ------
    ProjectionDataError
        When a value is not finite, beyond float32, or so far from all others that 16 bits would not
        tell those apart.
    """
    digest = hashlib.sha256(_identity(description).encode())
    as_they_are, lowest, highest, spread = description.kind == "counts", np.inf, -np.inf, 0.0
    farthest = {"lowest": "", "highest": ""}
    for where, block in _blocks(description, frames):
        values = np.asarray(block)
        low = _finite(description, where, values, float(values.min()))
        high = _finite(description, where, values, float(values.max()))
        if low < lowest:
            lowest, farthest["lowest"] = low, f"{where} {_place(values, values.argmin())}"
        if high > highest:
            highest, farthest["highest"] = high, f"{where} {_place(values, values.argmax())}"
        as_they_are = as_they_are and low >= 0 and high <= LARGEST_STORED and _is_whole(values)
        # asked only of what is scaled; of whole counts before that, the widest will do
        spread = max(spread, high - low if as_they_are else _spread(values))
        digest.update(f"{where} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    if as_they_are:
        return Survey(digest.hexdigest(), 1.0, 0.0)
    slope = (highest - lowest) / LARGEST_STORED
    if slope < np.finfo(np.float32).tiny:  # one value for all, as far as float32 tells
        slope = 1.0
    if slope * LEAST_STEPS > spread > 0:
        message = (
            f"{description.path}: projections.files: expected values that 16 bits can tell apart, "
            f"found most of them within {spread:.3g}, but {lowest:.3g} in {farthest['lowest']} and "
            f"{highest:.3g} in {farthest['highest']}; correct the bad pixels first"
        )
        raise ProjectionDataError(message)
    return Survey(digest.hexdigest(), slope, lowest)


def _place(values: NDArray[np.generic], flat_index: np.integer) -> str:
    frame, row, column = map(int, np.unravel_index(int(flat_index), values.shape))
    return f"at frame, row, column {frame, row, column}"


def _is_whole(values: NDArray[np.generic]) -> bool:
    return values.dtype.kind in "ui" or bool((values == np.rint(values)).all())


def _spread(values: NDArray[np.generic]) -> float:
    """Return how far apart all but the outermost hundredths of the values lie."""
    sample = values.reshape(-1)[:: max(1, values.size // SAMPLED_VALUES)]
    low, high = np.percentile(sample.astype(np.float64), (1, 99))
    return float(high - low)


def _finite(
    description: ScanDescription, where: str, values: NDArray[np.generic], extreme: float
) -> float:
    """Return the smallest or the largest of the values; NaN and infinity show in one of them."""
    if abs(extreme) <= LARGEST_VALUE:
        return extreme
    real = np.asarray(values, np.float64)
    bad = np.argmin(np.abs(real) <= LARGEST_VALUE)
    found = real.flat[bad]
    limit = f" within +-{LARGEST_VALUE:.2g}" if math.isfinite(found) else ""
    message = (
        f"{description.path}: projections.files: expected finite values{limit}, found {found} in "
        f"{where} {_place(values, bad)}"
    )
    raise ProjectionDataError(message)


def _blocks(
    description: ScanDescription, frames: Frames
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    detector = description.detector
    at_once = max(1, BLOCK_BYTES // (8 * detector.n_rows * detector.n_columns))
    for energy_bin in range(frames.n_energy_bins):
        for name, still in (
            ("dark", frames.darks(energy_bin)),
            ("flat", frames.flats(energy_bin)),
        ):
            if still is not None:
                yield f"{name} of energy bin {energy_bin}", still
        for start in range(0, frames.n_angles, at_once):
            stop = min(frames.n_angles, start + at_once)
            where = f"angles {start}..{stop} of energy bin {energy_bin}"
            yield where, frames.read(start, stop, energy_bin)


def _identity(description: ScanDescription) -> str:
    """Return everything that makes a scan this scan, besides its pixels."""
    geometry = description.geometry
    detector = description.detector
    return json.dumps(
        {
            "encoding": ENCODING,
            "kind": description.kind,
            "angles": geometry.gantry_angles_rad.tobytes().hex(),
            "source": _distances(geometry),
            "detector": [getattr(detector, name) for name in FlatPanel.__slots__],
            "edges": description.energy_bin_edges_kev,
            "water": description.water_mu_per_mm,
            "unattenuated": description.unattenuated_counts,
            "subject": description.subject,
        }
        | {name: values.tobytes().hex() for name, values in per_view(description).items()},
        sort_keys=True,
        default=str,
    )


def _distances(geometry: Geometry) -> tuple[float, float] | None:
    if isinstance(geometry, ConeBeamGeometry):
        return geometry.source_to_isocenter_mm, geometry.source_to_detector_mm
    return None
