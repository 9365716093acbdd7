"""A stack of thin disks along the axis: what a circle of sources cannot see of a cone.

Flat ellipsoids one above the other, as Defrise drew them. Planes through a disk that meet no source
are not measured (Tuy, An inversion formula for cone-beam reconstruction, SIAM J. Appl. Math. 43,
1983), so the contrast between disks and gaps falls with the cone angle, whoever reconstructs.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.phantom import Ellipsoid

DENSITY_PER_MM = 0.02
PITCH_MM = 16.0
PLACES_MM = PITCH_MM * np.arange(-4, 5)
DISKS = [
    Ellipsoid(DENSITY_PER_MM, (60.0, 60.0, 3.0), (0.0, 0.0, float(z_mm))) for z_mm in PLACES_MM
]
GRID = VolumeGrid((145, 3, 131), (1.0, 1.0, 1.0))
SOURCES_MM = (1000.0, 500.0, 250.0, 150.0)
"""From the axis."""
MIDDLE_MM = 20.0


def disk_scan(source_to_isocenter_mm: float) -> ConeBeamGeometry:
    """Give a scan whose detector sees the whole stack from everywhere."""
    distance_mm = 1.5 * source_to_isocenter_mm
    high_mm = 76.0 * distance_mm / (source_to_isocenter_mm - 62.0)
    wide_mm = 68.0 * distance_mm / math.sqrt(source_to_isocenter_mm**2 - 68.0**2)
    panel = FlatPanel(math.ceil(2 * high_mm / 1.5), math.ceil(2 * wide_mm / 1.5), 1.5, 1.5)
    angles = np.arange(180) * 2 * math.pi / 180
    return ConeBeamGeometry(source_to_isocenter_mm, distance_mm, angles, panel)


def cone_deg(source_to_isocenter_mm: float) -> float:
    """Give the angle at which the outermost disk is seen."""
    return math.degrees(math.atan(float(PLACES_MM[-1]) / source_to_isocenter_mm))


def contrasts(volume: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give of each disk the difference to the gaps beside it, as part of what it is."""
    middle = np.abs(GRID.x_mm) < MIDDLE_MM
    along_z = volume[:, :, middle].mean(axis=(1, 2), dtype=np.float64)

    middles = np.interp(PLACES_MM, GRID.z_mm, along_z)
    below = np.interp(PLACES_MM - PITCH_MM / 2, GRID.z_mm, along_z)
    above = np.interp(PLACES_MM + PITCH_MM / 2, GRID.z_mm, along_z)
    return np.asarray((middles - (below + above) / 2) / DENSITY_PER_MM, np.float64)
