"""The frames of a described scan, in bounded memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.preprocess import unattenuated_beam
from pacspark.errors import ProjectionDataError, ScanDescriptionError, UsageError
from pacspark.scans.arrays import AxedStack
from pacspark.scans.description import ScanDescription


@dataclass(frozen=True, slots=True)
class FrameSource:
    """Reads projections, flats and darks as ``[angle or frame, row, column]``."""

    description: ScanDescription
    _projections: AxedStack
    _flat: AxedStack | None
    _dark: AxedStack | None

    @property
    def n_angles(self) -> int:
        """Number of views."""
        return self._projections.length("angle")

    @property
    def n_rows(self) -> int:
        """Detector rows."""
        return self._projections.length("row")

    @property
    def n_columns(self) -> int:
        """Detector columns."""
        return self._projections.length("column")

    @property
    def n_energy_bins(self) -> int:
        """Energy bins, one for a scan without."""
        return self._projections.length("energy_bin")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the projections that `read` returns."""
        return self._projections.dtype if self.description.scale == 1.0 else np.dtype(np.float64)

    def read(self, angle_start: int, angle_stop: int, energy_bin: int = 0) -> NDArray[np.generic]:
        """Return the views ``angle_start..angle_stop`` of an energy bin.

        Raises
        ------
        ScanDescriptionError
            When a file cannot be read.
        UsageError
            When there are no such views, or no such bin.
        """
        if not 0 <= angle_start < angle_stop <= self.n_angles:
            message = (
                f"angles: expected 0 <= start < stop <= {self.n_angles}, found {angle_start}, "
                f"{angle_stop}"
            )
            raise UsageError(message)
        self._require_bin(energy_bin)
        block = self._projections.read(angle_start, angle_stop, energy_bin)
        scale = self.description.scale
        return block if scale == 1.0 else np.multiply(block, scale, dtype=np.float64)

    def flats(self, energy_bin: int = 0) -> NDArray[np.generic] | None:
        """Return the frames without object, or None."""
        self._require_bin(energy_bin)
        return _all(self._flat, energy_bin)

    def darks(self, energy_bin: int = 0) -> NDArray[np.generic] | None:
        """Return the frames without beam, or None."""
        self._require_bin(energy_bin)
        return _all(self._dark, energy_bin)

    def _require_bin(self, energy_bin: int) -> None:
        if not 0 <= energy_bin < self.n_energy_bins:
            message = f"energy_bin: expected one of 0..{self.n_energy_bins - 1}, found {energy_bin}"
            raise UsageError(message)


@contextmanager
def open_frames(description: ScanDescription) -> Iterator[FrameSource]:
    """Open a scan's files.

    Raises
    ------
    ScanDescriptionError
        When flats or darks are not of the projections' shape, or a flat cannot be one.
    """
    with ExitStack() as closing:
        opened: list[AxedStack | None] = []
        for source in (description.projections, description.flat, description.dark):
            stack = None if source is None else source.open()
            if stack is not None:
                closing.callback(stack.close)
            opened.append(stack)
        projections = opened[0]
        assert projections is not None  # noqa: S101 -- the first source is never None
        frames = FrameSource(description, projections, opened[1], opened[2])
        _require_described(description, frames)
        for name, stack in (("flat", opened[1]), ("dark", opened[2])):
            if stack is not None:
                _require_alike(description, name, stack, projections)
        if description.kind == "counts":
            for energy_bin in range(frames.n_energy_bins):
                _require_beam(description, frames, energy_bin)
        yield frames


def _all(stack: AxedStack | None, energy_bin: int) -> NDArray[np.generic] | None:
    return None if stack is None else stack.read(0, stack.length("angle"), energy_bin)


def _require_alike(
    description: ScanDescription, name: str, stack: AxedStack, projections: AxedStack
) -> None:
    for axis in ("row", "column", "energy_bin"):
        if stack.length(axis) != projections.length(axis):
            message = (
                f"{description.path}: projections.{name}: expected {projections.length(axis)} "
                f"along {axis}, as the projections, found {stack.length(axis)}"
            )
            raise ScanDescriptionError(message)


def _require_described(description: ScanDescription, frames: FrameSource) -> None:
    """Refuse files that have changed since the description was read."""
    detector = description.detector
    expected = (description.geometry.n_angles, detector.n_rows, detector.n_columns)
    found = (frames.n_angles, frames.n_rows, frames.n_columns)
    if found != expected:
        message = (
            f"{description.path}: projections.files: expected {expected} angles, rows and columns "
            f"as when the description was read, found {found}"
        )
        raise ScanDescriptionError(message)


def _require_beam(description: ScanDescription, frames: FrameSource, energy_bin: int) -> None:
    """Refuse flats and darks that no preparation could use, while their files are at hand."""
    try:
        unattenuated_beam(
            (frames.n_rows, frames.n_columns),
            frames.flats(energy_bin),
            frames.darks(energy_bin),
            description.unattenuated_counts,
        )
    except ProjectionDataError as error:
        message = f"{description.path}: projections.{error}, in energy bin {energy_bin}"
        raise ScanDescriptionError(message) from error
