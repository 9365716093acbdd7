"""Ellipsoid phantoms with exact line integrals.

The head phantom is the three-dimensional Shepp-Logan phantom with the contrasts of Toft (The Radon
Transform, 1996, table B.1) on the ellipsoids of Kak and Slaney (1988, table 3.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from pacspark.ct.checks import LONGEST_MM, require_positive
from pacspark.ct.geometry import ConeBeamGeometry, Geometry, ParallelBeamGeometry, VolumeGrid
from pacspark.ct.kernels.ellipsoids import line_integrals
from pacspark.ct.kernels.threads import at_most
from pacspark.ct.views import ConeBeamViews


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A uniform ellipsoid; where ellipsoids overlap, densities add up.

    Parameters
    ----------
    density_per_mm
        Attenuation, 1/mm.
    semi_axes_mm
        Along x, y, z before it is turned.
    center_mm
        Its centre along x, y, z.
    rotation_rad
        By which it is turned around z, counterclockwise seen from +z.

    Raises
    ------
    GeometryError
        When a semi-axis is not a number > 0.
    """

    density_per_mm: float
    semi_axes_mm: tuple[float, float, float]
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation_rad: float = 0.0

    def __post_init__(self) -> None:
        for axis, length in zip("xyz", self.semi_axes_mm, strict=True):
            require_positive(f"semi_axes_mm[{axis}]", length)


def _head(
    density: float,
    axes: tuple[float, float, float],
    center: tuple[float, float, float],
    turn: float,
) -> Ellipsoid:
    return Ellipsoid(density, axes, center, math.radians(turn))


SHEPP_LOGAN_UNIT = (
    _head(1.0, (0.69, 0.92, 0.81), (0.0, 0.0, 0.0), 0),
    _head(-0.8, (0.6624, 0.874, 0.78), (0.0, -0.0184, 0.0), 0),
    _head(-0.2, (0.11, 0.31, 0.22), (0.22, 0.0, 0.0), -18),
    _head(-0.2, (0.16, 0.41, 0.28), (-0.22, 0.0, 0.0), 18),
    _head(0.1, (0.21, 0.25, 0.41), (0.0, 0.35, -0.15), 0),
    _head(0.1, (0.046, 0.046, 0.05), (0.0, 0.1, 0.25), 0),
    _head(0.1, (0.046, 0.046, 0.05), (0.0, -0.1, 0.25), 0),
    _head(0.1, (0.046, 0.023, 0.05), (-0.08, -0.605, 0.0), 0),
    _head(0.1, (0.023, 0.023, 0.02), (0.0, -0.606, 0.0), 0),
    _head(0.1, (0.023, 0.046, 0.02), (0.06, -0.605, 0.0), 0),
)
"""The head in a cube from -1 to 1."""


def scaled(
    ellipsoids: Sequence[Ellipsoid], scale_mm: float, density_per_mm: float = 1.0
) -> tuple[Ellipsoid, ...]:
    """Return ellipsoids `scale_mm` times as large and `density_per_mm` times as dense."""

    def grown(triple: tuple[float, float, float]) -> tuple[float, float, float]:
        return (triple[0] * scale_mm, triple[1] * scale_mm, triple[2] * scale_mm)

    return tuple(
        replace(
            one,
            density_per_mm=one.density_per_mm * density_per_mm,
            semi_axes_mm=grown(one.semi_axes_mm),
            center_mm=grown(one.center_mm),
        )
        for one in ellipsoids
    )


SHEPP_LOGAN = scaled(SHEPP_LOGAN_UNIT, 100.0)
"""The head in a cube of 200 mm."""


def project(
    ellipsoids: Sequence[Ellipsoid],
    geometry: Geometry | ConeBeamViews,
    n_threads: int | None = None,
) -> NDArray[np.float32]:
    """Return exact line integrals, float32 ``(n_angles, n_rows, n_columns)``.

    Each ray goes from the source to the centre of a pixel (of parallel rays, through the centre of
    a pixel along the beam).
    """
    detector = geometry.detector
    rays = np.empty((0, 3))
    if isinstance(geometry, ParallelBeamGeometry):
        # at any distance the same, but for one that the offsets are small against
        far_mm = LONGEST_MM
        views = ConeBeamViews.of_circle(
            ConeBeamGeometry(far_mm, far_mm, geometry.gantry_angles_rad, detector)
        )
        rays = views.sources_mm / far_mm
    elif isinstance(geometry, ConeBeamGeometry):
        views = ConeBeamViews.of_circle(geometry)
    else:
        views = geometry
    integrals = np.empty((geometry.n_angles, detector.n_rows, detector.n_columns), np.float32)
    with at_most(n_threads or numba.get_num_threads()):
        line_integrals(
            _table(ellipsoids),
            views.sources_mm,
            views.centers_mm,
            views.u_axes,
            views.v_axes,
            detector.u_mm,
            detector.v_mm,
            rays,
            integrals,
        )
    return integrals


def voxelize(ellipsoids: Sequence[Ellipsoid], grid: VolumeGrid) -> NDArray[np.float32]:
    """Return the phantom at the voxels' centres, float32 ``(n_z, n_y, n_x)``, 1/mm."""
    volume = np.zeros(grid.shape, np.float32)
    z_mm, y_mm, x_mm = (
        grid.z_mm[:, None, None],
        grid.y_mm[None, :, None],
        grid.x_mm[None, None, :],
    )
    for one in ellipsoids:
        center_x, center_y, center_z = one.center_mm
        axis_x, axis_y, axis_z = one.semi_axes_mm
        cosine, sine = math.cos(one.rotation_rad), math.sin(one.rotation_rad)
        along_x = (x_mm - center_x) * cosine + (y_mm - center_y) * sine
        along_y = -(x_mm - center_x) * sine + (y_mm - center_y) * cosine
        inside = (along_x / axis_x) ** 2 + (along_y / axis_y) ** 2 + (
            (z_mm - center_z) / axis_z
        ) ** 2 <= 1
        volume += np.where(inside, np.float32(one.density_per_mm), np.float32(0))
    return volume


def _table(ellipsoids: Sequence[Ellipsoid]) -> NDArray[np.float64]:
    rows = [
        (
            one.density_per_mm,
            *one.semi_axes_mm,
            *one.center_mm,
            math.cos(one.rotation_rad),
            math.sin(one.rotation_rad),
        )
        for one in ellipsoids
    ]
    return np.array(rows, np.float64).reshape(-1, 9)
