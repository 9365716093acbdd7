"""Which volumes an export writes, and on which grid: formats know evenly spaced, upright ones."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import UsageError
from pacspark.parts import Part
from pacspark.pictures import Window
from pacspark.stack import SliceStack


class Voxels(Protocol):
    """What the formats need of a volume; `pacspark.volume.Volume` is one."""

    @property
    def series_uid(self) -> str: ...  # noqa: D102
    @property
    def description(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, int, int]: ...  # noqa: D102
    @property
    def voxel_mm(self) -> tuple[float, float, float]: ...  # noqa: D102
    @property
    def voxel_type(self) -> np.dtype[Any]: ...  # noqa: D102
    @property
    def affine_lps_mm(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def axes_lps(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def length_unit(self) -> str: ...  # noqa: D102
    @property
    def window(self) -> Window | None: ...  # noqa: D102
    def rows(self, z: int, start: int, stop: int) -> NDArray[Any]: ...  # noqa: D102


def require_even(stack: SliceStack, file_format: str) -> None:
    """Refuse slices that no scale and no rotation can place.

    Raises
    ------
    UsageError
        With what the slices are, and the option that makes them even.
    """
    if stack.is_even and not stack.is_tilted:
        return
    found = "; ".join(note.partition(": slices are drawn")[0] for note in stack.notes)
    message = (
        f"{file_format}: series {stack.series_uid}: expected evenly spaced slices, each above the "
        f"other, found {found} (--resample interpolates them onto such a grid)"
    )
    raise UsageError(message)


def same_grid(parts: Sequence[Part]) -> bool:
    """Tell whether parts have their voxels at the same places, as time points have."""
    first = parts[0].stack
    return all(
        part.stack.shape == first.shape
        and np.allclose(part.stack.affine_lps_mm, first.affine_lps_mm, atol=1e-3)
        for part in parts
    )
