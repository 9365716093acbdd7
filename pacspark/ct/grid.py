"""The box of voxels of a volume, and the parts of it that tasks make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.checks import require_count, require_place, require_voxel_edge, require_voxels
from pacspark.errors import GeometryError

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class VolumeGrid:
    """A box of voxels, axes parallel to the scanner's; every triple in array order z, y, x.

    Parameters
    ----------
    shape
        Voxels ``(n_z, n_y, n_x)``, each >= 1.
    voxel_mm
        Edges ``(dz, dy, dx)``, > 0.
    center_mm
        Centre ``(z, y, x)`` of the box; of a part, of the whole that it is cut from.
    start
        Of a part: the indices of its first voxel in the whole.
    parent_shape
        Of a part: the voxels of the whole.

    Examples
    --------
    >>> grid = VolumeGrid(shape=(4, 2, 2), voxel_mm=(1.0, 0.5, 0.5))
    >>> grid.z_mm.tolist(), grid.slab(1, 3).z_mm.tolist()
    ([-1.5, -0.5, 0.5, 1.5], [-0.5, 0.5])
    """

    shape: Triple
    voxel_mm: tuple[float, float, float]
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    start: Triple = (0, 0, 0)
    parent_shape: Triple | None = None

    def __post_init__(self) -> None:
        for name, check in (
            ("shape", require_count),
            ("voxel_mm", require_voxel_edge),
            ("center_mm", require_place),
        ):
            values = getattr(self, name)
            if not isinstance(values, Sequence | np.ndarray) or len(values) != 3:
                message = f"grid.{name}: expected three values (z, y, x), found {values!r}"
                raise GeometryError(message)
            checked = [
                check(f"grid.{name}[{axis}]", value)
                for axis, value in zip("zyx", values, strict=True)
            ]
            object.__setattr__(self, name, tuple(checked))
        require_voxels("grid.shape", self.shape)
        for axis, first, count, whole in zip(
            "zyx", self.start, self.shape, self.whole_shape, strict=True
        ):
            if not 0 <= first <= whole - count:
                message = (
                    f"grid.start[{axis}]: expected {count} voxels inside {whole}, found {first}"
                )
                raise GeometryError(message)

    @property
    def whole_shape(self) -> Triple:
        """Voxels of the whole that this is cut from, or is."""
        return self.shape if self.parent_shape is None else self.parent_shape

    def slab(self, start: int, stop: int) -> "VolumeGrid":
        """Return slices ``start..stop``; they lie exactly where they lie in this grid."""
        if not 0 <= start < stop <= self.shape[0]:
            message = (
                f"grid.slab: expected 0 <= start < stop <= {self.shape[0]}, found {start}, {stop}"
            )
            raise GeometryError(message)
        return self.part((start, 0, 0), (stop, *self.shape[1:]))

    def part(self, start: Triple, stop: Triple) -> "VolumeGrid":
        """Return the box of voxels from `start` to `stop`, exactly where they lie in this grid."""
        return VolumeGrid(
            (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2]),
            self.voxel_mm,
            self.center_mm,
            (self.start[0] + start[0], self.start[1] + start[1], self.start[2] + start[2]),
            self.whole_shape,
        )

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """Centres of the slices, mm."""
        return self._axis_mm(0)

    @property
    def y_mm(self) -> NDArray[np.float64]:
        """Centres of the voxels along y, mm."""
        return self._axis_mm(1)

    @property
    def x_mm(self) -> NDArray[np.float64]:
        """Centres of the voxels along x, mm."""
        return self._axis_mm(2)

    def _axis_mm(self, axis: int) -> NDArray[np.float64]:
        first = self.start[axis]
        return centers_mm(
            self.whole_shape[axis],
            self.voxel_mm[axis],
            self.center_mm[axis],
            first,
            first + self.shape[axis],
        )

    def ends_mm(self, axis: int) -> tuple[float, float]:
        """Return the centres of the first and the last voxel along an axis (0 is z), mm."""
        # without the whole axis: plans ask for grids of 10^5 voxels, thousands of times
        middle, first = (self.whole_shape[axis] - 1) / 2, self.start[axis]
        step_mm, center_mm = self.voxel_mm[axis], self.center_mm[axis]
        last = first + self.shape[axis] - 1
        return (first - middle) * step_mm + center_mm, (last - middle) * step_mm + center_mm

    @property
    def reach_mm(self) -> float:
        """Distance of the farthest voxel centre from the rotation axis, mm."""
        return math.hypot(*(max(abs(end) for end in self.ends_mm(axis)) for axis in (1, 2)))


def centers_mm(
    count: int, step_mm: float, middle_mm: float, start: int = 0, stop: int | None = None
) -> NDArray[np.float64]:
    """Return the places of the points ``start..stop`` of `count` around `middle_mm`, mm."""
    index = np.arange(start, count if stop is None else stop, dtype=np.float64)
    return (index - (count - 1) / 2) * step_mm + middle_mm
