"""Uneven or tilted slices, interpolated onto an even and upright grid.

Along x and y the grid goes on as the images do, wide enough for all of them; along the normal it
has the median distance of the slices. Between two slices values are linear, as they are within one
(a tilted slice lies between the pixels of the grid); beside the slices there is air, or zero.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import UsageError
from pacspark.pictures import Window
from pacspark.volume import Volume

AIR_HU: Final = -1000.0
MOST_SLICES: Final = 16
"""How many times as many slices a grid may have: a slice that lies far off would make it huge."""


class Resampled:
    """A volume on an even grid; has what the formats need of a volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        corners = np.array([image["image_position_patient"] for image in volume.images])
        distances = np.diff(volume.z_mm)
        dz = float(np.median(distances)) if len(distances) else volume.voxel_mm[0]
        n_z = 1 + math.floor((volume.z_mm[-1] - volume.z_mm[0]) / dz + 1e-3)
        if n_z > MOST_SLICES * len(volume):
            message = (
                f"series {volume.series_uid}: expected slices that fit an even grid, found "
                f"{len(volume)} that would make {n_z}"
            )
            raise UsageError(message)
        _, dy, dx = volume.voxel_mm
        x_axis, y_axis, normal = volume.axes_lps
        # where the first pixel of each slice lies, in pixels from that of the first slice
        beside = (corners - corners[0]) @ np.stack([x_axis / dx, y_axis / dy]).T
        first = np.floor(beside.min(axis=0) + 1e-6)
        last = np.ceil(beside.max(axis=0) - 1e-6)
        self._beside = beside - first
        self._n_y = volume.shape[1] + int(last[1] - first[1])
        self._n_x = volume.shape[2] + int(last[0] - first[0])
        self._z_mm = volume.z_mm[0] + dz * np.arange(n_z)
        self._dz = dz
        self._affine = np.eye(4)
        origin = corners[0] + first[0] * dx * x_axis + first[1] * dy * y_axis
        self._affine[:3] = np.column_stack([x_axis * dx, y_axis * dy, normal * dz, origin])
        self._outside = AIR_HU if volume.unit == "HU" else 0.0
        self._kept: dict[int, NDArray[np.float32]] = {}

    @property
    def series_uid(self) -> str:
        """The Series Instance UID."""
        return self._volume.series_uid

    @property
    def description(self) -> str:
        """The Series Description, and that voxels were made."""
        return f"{self._volume.description} (resampled)".strip()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (n_z, n_y, n_x)."""
        return len(self._z_mm), self._n_y, self._n_x

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Distances of neighbouring voxels (dz, dy, dx)."""
        return self._dz, *self._volume.voxel_mm[1:]

    @property
    def voxel_type(self) -> np.dtype[Any]:
        """float32: what lies between whole numbers is none."""
        return np.dtype(np.float32)

    @property
    def affine_lps_mm(self) -> NDArray[np.float64]:
        """The (4, 4) matrix from voxel indices (x, y, z, 1) to the patient's L, P, S."""
        return self._affine

    @property
    def axes_lps(self) -> NDArray[np.float64]:
        """Unit vectors of x, y and z in the patient's L, P, S, one a row."""
        return self._volume.axes_lps

    @property
    def unit(self) -> str:
        """Of the values."""
        return self._volume.unit

    @property
    def length_unit(self) -> str:
        """Of everything called mm."""
        return self._volume.length_unit

    @property
    def window(self) -> Window | None:
        """The window of the middle image."""
        return self._volume.window

    def rows(self, z: int, start: int, stop: int) -> NDArray[np.float32]:
        """Interpolate the rows ``start..stop`` of slice `z`."""
        known = self._volume.z_mm
        above = int(np.clip(np.searchsorted(known, self._z_mm[z] + 1e-9), 1, len(known) - 1))
        below = above - 1
        part = float((self._z_mm[z] - known[below]) / (known[above] - known[below]))
        if part < 1e-3 or part > 1 - 1e-3:
            values = self._upright(below if part < 0.5 else above)
        else:
            values = (1 - part) * self._upright(below) + part * self._upright(above)
        return values[start:stop].astype(np.float32, copy=False)

    def _upright(self, z: int) -> NDArray[np.float32]:
        """Give a slice at its place among the pixels of the grid; the last two are kept."""
        if z not in self._kept:
            for old in sorted(self._kept)[: len(self._kept) - 1]:
                del self._kept[old]
            right, down = self._beside[z]
            stored = self._volume[z]
            moved = _moved(stored, down, self._n_y, self._outside)
            self._kept[z] = _moved(moved.T, right, self._n_x, self._outside).T
        return self._kept[z]


def _moved(
    values: NDArray[np.float32], offset: float, length: int, outside: float
) -> NDArray[np.float32]:
    """Move lines along the first axis by a part of their distance, into `length` of them."""
    whole = math.floor(offset + 1e-6)
    part = offset - whole
    moved = np.full((length, values.shape[1]), outside, np.float32)
    moved[whole : whole + len(values)] = values
    if part > 1e-4:
        before = np.vstack([np.full((1, values.shape[1]), outside, np.float32), moved[:-1]])
        moved = ((1 - part) * moved + part * before).astype(np.float32)
    return moved
