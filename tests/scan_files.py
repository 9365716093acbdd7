"""Small scans in files, for tests: a phantom's exact line integrals beside a SCAN.toml."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, project, scaled

SCAN_TOML = """format_version = 1
[projections]
files = "stack.npy"
kind = "line_integrals"
[geometry]
beam = "cone"
source_to_isocenter_mm = 200.0
source_to_detector_mm = 300.0
column_spacing_mm = 1.5
row_spacing_mm = 1.5
detector_offset_u_mm = 0.4
[angles]
step_deg = {step}
[calibration]
water_mu_per_mm = 0.02
[subject]
PatientID = "{patient_id}"
StudyDate = "20260101"
"""


def phantom_geometry(n_angles: int = 40, n_rows: int = 24, n_columns: int = 36) -> ConeBeamGeometry:
    """Give the geometry that `SCAN_TOML` describes."""
    return ConeBeamGeometry(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=300.0,
        gantry_angles_rad=np.arange(n_angles) * 2 * math.pi / n_angles,
        detector=FlatPanel(
            n_rows=n_rows,
            n_columns=n_columns,
            row_spacing_mm=1.5,
            column_spacing_mm=1.5,
            offset_u_mm=0.4,
        ),
    )


def write_phantom_scan(
    folder: Path, geometry: ConeBeamGeometry | None = None, patient_id: str = "PHANTOM"
) -> tuple[Path, NDArray[np.float32]]:
    """Write a scan into a folder; return its SCAN.toml and its projections."""
    geometry = geometry or phantom_geometry()
    projections = project(scaled(SHEPP_LOGAN_UNIT, 10.0, 0.02), geometry)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "stack.npy", projections)
    path = folder / "SCAN.toml"
    path.write_text(SCAN_TOML.format(step=360 / geometry.n_angles, patient_id=patient_id))
    return path, projections
