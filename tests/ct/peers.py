"""Scans that itk-rtk reconstructs too, and how far a volume is from what was scanned."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, project, scaled

Volume = NDArray[np.float32]


def circle(n_angles: int, *, start_rad: float = 0.0, turn: float = 1.0) -> NDArray[np.float64]:
    return start_rad + turn * np.arange(n_angles) * 2 * np.pi / n_angles


def steps(n_angles: int) -> NDArray[np.float64]:
    """Give a circle whose steps vary by a factor of two."""
    part = np.arange(n_angles) / n_angles
    return 2 * np.pi * part + 0.3 * np.sin(2 * np.pi * part)


Case = tuple[NDArray[np.float64], dict[str, Any], tuple[float, float, float]]
CASES: dict[str, Case] = {
    "plain": (circle(60), {}, (0.0, 0.0, 0.0)),
    "clockwise": (circle(60, start_rad=1.1, turn=-1.0), {}, (0.0, 0.0, 0.0)),
    "offsets": (circle(60), {"offset_u_mm": 5.3, "offset_v_mm": -4.1}, (0.0, 0.0, 0.0)),
    "unequal steps": (steps(60), {"row_order": "bottom_up"}, (0.0, 0.0, 0.0)),
    "half-fan": (circle(60), {"offset_u_mm": 45.0}, (0.0, 0.0, 0.0)),
    "half-fan, other side": (circle(60), {"offset_u_mm": -21.6}, (0.0, 3.0, 0.0)),
    "short scan": (np.radians(np.arange(20, 231, 3.0)), {}, (0.0, 0.0, 0.0)),
    "over-scan, clockwise": (np.radians(np.arange(0, -280, -4.0)), {}, (0.0, 0.0, 0.0)),
    "off centre": (circle(60, start_rad=-0.4), {}, (6.0, -8.0, 11.0)),
}
"""Views, panel, centre of the grid."""


def same_case(case: str) -> tuple[Volume, ConeBeamGeometry, VolumeGrid]:
    """Give projections, geometry and grid of one of `CASES`."""
    angles, panel, center = CASES[case]
    geometry = ConeBeamGeometry(300.0, 540.0, angles, FlatPanel(80, 100, 2.2, 1.8, **panel))
    projections = project(scaled(SHEPP_LOGAN_UNIT, 30.0, 0.02), geometry)
    return projections, geometry, VolumeGrid((30, 36, 40), (1.9, 1.4, 1.3), center)


GATES: dict[str, tuple[NDArray[np.float64], dict[str, Any], float, float]] = {
    "full circle": (circle(180), {"offset_u_mm": 20.0, "offset_v_mm": 15.0}, 0.03, 26.0),
    "short scan": (np.radians(np.arange(110) * 240 / 110), {}, 0.09, 22.0),
    "half-fan": (circle(180), {"offset_u_mm": 120.0}, 0.061, 24.0),
    "half-fan, other side": (circle(180), {"offset_u_mm": -120.0}, 0.061, 24.0),
}
"""RTK's own tests of its FDK: views, offsets, mean absolute error and PSNR in dB passing there."""
GATE_GRID = VolumeGrid((128, 128, 128), (2.0, 2.0, 2.0))


def gate_geometry(name: str) -> ConeBeamGeometry:
    """Give the geometry of one of `GATES`."""
    angles, offsets, _, _ = GATES[name]
    return ConeBeamGeometry(600.0, 1200.0, angles, FlatPanel(128, 128, 4.0, 4.0, **offsets))


def quality(volume: Volume, reference: Volume, seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Give mean absolute error and PSNR in dB of a peak of 2.

    Counted as RTK does in its own tests: zero outside the field of view, mean over all voxels.
    """
    error = (np.where(seen, volume, 0) - reference).astype(np.float64)
    psnr_db = 20 * math.log10(2.0) - 10 * math.log10(float((error**2).mean()))
    return float(np.abs(error).mean()), psnr_db


def field_of_view(geometry: ConeBeamGeometry, grid: VolumeGrid) -> NDArray[np.bool_]:
    """Give the voxels that are seen all round: a cylinder with a cone on either end."""
    detector, source = geometry.detector, geometry.source_to_isocenter_mm
    distance = geometry.source_to_detector_mm
    reach = max if geometry.is_half_fan else min
    half_u = reach(-detector.u_mm.min(), detector.u_mm.max())
    radius = np.hypot(grid.y_mm[:, None], grid.x_mm)
    nearest = distance / (source - radius)  # the magnification where the source is nearest
    inside = radius <= source * math.sin(math.atan2(half_u, distance))
    z_mm = grid.z_mm[:, None, None]
    seen = (z_mm * nearest <= detector.v_mm.max()) & (z_mm * nearest >= detector.v_mm.min())
    return np.asarray(inside & seen)
