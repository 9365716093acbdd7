"""A water cylinder in every kind of cone-beam scan, in Hounsfield units."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from numpy.typing import NDArray

import pacspark
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.phantom import Ellipsoid, project

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WATER_PER_MM = 0.0206
RADIUS_MM = 40.0
CYLINDER = Ellipsoid(WATER_PER_MM, (RADIUS_MM, RADIUS_MM, 1e5))
EDGE_MM = 4.0
"""What is nearer to the edge counts as edge."""
AIR_MM = 52.0
"""Up to where air is looked at."""
RING_MM = 2.0

_STEP_RAD = 2 * math.pi / 360
_PANEL = FlatPanel(48, 256, 1.0, 1.0)
_TURN_RAD = np.arange(360, dtype=np.float64) * np.float64(_STEP_RAD)
_CONE = ConeBeamGeometry(500.0, 1000.0, _TURN_RAD, _PANEL)
_SHORT_VIEWS = 200  # half a circle and the fan, 14.6 degrees, and some
_GRID = VolumeGrid((5, 110, 110), (3.0, 1.0, 1.0))
SCANS: dict[str, tuple[ConeBeamGeometry, VolumeGrid]] = {
    "full circle": (_CONE, _GRID),
    "short scan": (
        replace(_CONE, gantry_angles_rad=_TURN_RAD[:_SHORT_VIEWS]),
        _GRID,
    ),
    "half-fan": (replace(_CONE, detector=replace(_PANEL, n_columns=160, offset_u_mm=48.0)), _GRID),
    "half-fan, other side": (
        replace(_CONE, detector=replace(_PANEL, n_columns=160, offset_u_mm=-48.0)),
        _GRID,
    ),
    "offset u": (replace(_CONE, detector=replace(_PANEL, offset_u_mm=7.3)), _GRID),
    "offset v": (
        replace(_CONE, detector=replace(_PANEL, offset_v_mm=11.7)),
        replace(_GRID, center_mm=(5.5, 0.0, 0.0)),
    ),
    "non-isotropic voxels": (
        _CONE,
        VolumeGrid((7, 130, 80), (2.0, 0.85, 1.4), (0.5, 1.0, -0.7)),
    ),
}
"""Scans whose cones hold the whole grid."""


@dataclass(frozen=True)
class Hounsfield:
    """Mean of water and of air, HU, and the ring of any slice that is furthest from what it is."""

    water: float
    water_ring: float
    air: float
    air_ring: float


def projections(geometry: ConeBeamGeometry) -> NDArray[np.float32]:
    """Give the cylinder's line integrals."""
    return project([CYLINDER], geometry)


def hounsfield(volume: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give Hounsfield units of attenuations, 1/mm."""
    return 1000 * (volume.astype(np.float64) / WATER_PER_MM - 1)


def measured(values: NDArray[np.float64], grid: VolumeGrid) -> Hounsfield:
    """Measure Hounsfield units on a grid, away from the edge."""
    radius_mm = np.hypot(grid.y_mm[:, None], grid.x_mm)

    def mean_and_ring(low_mm: float, high_mm: float, expected: float) -> tuple[float, float]:
        rings = [
            values[:, (radius_mm >= start) & (radius_mm < start + RING_MM)].mean(axis=1)
            for start in np.arange(low_mm, high_mm, RING_MM)
        ]
        worst = max(np.ravel(rings), key=lambda ring: abs(ring - expected))
        mean = values[:, (radius_mm >= low_mm) & (radius_mm < high_mm)].mean()
        return float(mean), float(worst)

    water = mean_and_ring(0.0, RADIUS_MM - EDGE_MM, 0.0)
    air = mean_and_ring(RADIUS_MM + EDGE_MM, AIR_MM, -1000.0)
    return Hounsfield(*water, *air)


DESCRIPTION = f"""format_version = 1
[projections]
files = "stack.npy"
kind = "line_integrals"
[geometry]
beam = "cone"
source_to_isocenter_mm = {_CONE.source_to_isocenter_mm}
source_to_detector_mm = {_CONE.source_to_detector_mm}
column_spacing_mm = {_PANEL.column_spacing_mm}
row_spacing_mm = {_PANEL.row_spacing_mm}
[angles]
step_deg = 1.0
[calibration]
water_mu_per_mm = {WATER_PER_MM}
[subject]
PatientID = "WATER"
StudyDate = "20260101"
"""


def through_the_archive(
    folder: Path, spark: "SparkSession | None" = None
) -> tuple[NDArray[np.float64], VolumeGrid]:
    """Give what pydicom reads, HU, of the full circle: from a SCAN.toml to exported CT images."""
    np.save(folder / "stack.npy", projections(_CONE))
    (folder / "SCAN.toml").write_text(DESCRIPTION)
    archive = pacspark.create(str(folder / "archive"), spark=spark)
    scan_uid = archive.import_scan(folder / "SCAN.toml").series_instance_uid
    volume = archive.reconstruct(scan_uid, grid=_GRID)
    files = archive.export(folder / "dicom", series=volume.series_uid)
    images = sorted(
        (pydicom.dcmread(path) for path in files),
        key=lambda image: float(image.ImagePositionPatient[2]),
    )
    slices = [
        image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        for image in images
    ]
    return np.stack(slices), _GRID
