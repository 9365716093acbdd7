"""Scans that benchmarks reconstruct: a phantom's exact projections, on arrays and in a folder."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, project, scaled

FIELD_OF_VIEW_MM = 100.0
UNATTENUATED_COUNTS = 50_000

DESCRIPTION = """format_version = 1
[projections]
files = "stack.npy"
kind = "{kind}"
axes = ["angle", "row", "column"]
{flat}
[geometry]
beam = "cone"
source_to_isocenter_mm = {source_to_isocenter_mm}
source_to_detector_mm = {source_to_detector_mm}
column_spacing_mm = {column_spacing_mm}
row_spacing_mm = {row_spacing_mm}
[angles]
step_deg = {step_deg}
count = {count}
[subject]
PatientID = "{patient_id}"
StudyDate = "20260101"
"""


def scan(size: int, n_views: int) -> tuple[ConeBeamGeometry, VolumeGrid]:
    """Give a full circle, and a grid whose voxels match the detector's pixels at the isocenter."""
    voxel_mm = FIELD_OF_VIEW_MM / size
    # half as wide again: the corners of the grid, and the cone's divergence
    n_pixels = math.ceil(1.5 * size / 8) * 8
    angles = np.arange(n_views) * 2 * math.pi / n_views
    panel = FlatPanel(n_pixels, n_pixels, 2 * voxel_mm, 2 * voxel_mm)
    return ConeBeamGeometry(500.0, 1000.0, angles, panel), VolumeGrid((size,) * 3, (voxel_mm,) * 3)


def phantom_projections(geometry: ConeBeamGeometry) -> NDArray[np.float32]:
    """Give the line integrals of a Shepp-Logan phantom that fills the grid."""
    return project(scaled(SHEPP_LOGAN_UNIT, 0.45 * FIELD_OF_VIEW_MM), geometry)


def as_counts(projections: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Give what a detector would count, without noise."""
    return np.rint(UNATTENUATED_COUNTS * np.exp(-projections)).astype(np.uint16)


def write_scan(
    folder: Path,
    stack: NDArray[np.float32] | NDArray[np.uint16],
    geometry: ConeBeamGeometry,
    patient_id: str = "BENCH",
) -> Path:
    """Write a stack of counts or line integrals, and its description; return the description."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "stack.npy", stack)
    counts = stack.dtype == np.uint16
    path = folder / "SCAN.toml"
    path.write_text(
        DESCRIPTION.format(
            kind="counts" if counts else "line_integrals",
            flat=f"unattenuated_counts = {UNATTENUATED_COUNTS}" if counts else "",
            source_to_isocenter_mm=geometry.source_to_isocenter_mm,
            source_to_detector_mm=geometry.source_to_detector_mm,
            column_spacing_mm=geometry.detector.column_spacing_mm,
            row_spacing_mm=geometry.detector.row_spacing_mm,
            step_deg=360 / geometry.n_angles,
            count=geometry.n_angles,
            patient_id=patient_id,
        ),
        encoding="utf-8",
    )
    return path
