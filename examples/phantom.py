# ruff: noqa: INP001, T201 -- a script that speaks
"""A small cone-beam scan of the three-dimensional Shepp-Logan head, with exact line integrals.

    python examples/phantom.py FOLDER

writes ``projections.npy`` and the ``SCAN.toml`` that describes it. The head's inside is water, so
its reconstruction is in Hounsfield units: 0 inside, -1000 in the ventricles and around the head.
"""

import argparse
from pathlib import Path

import numpy as np

from pacspark import ConeBeamGeometry, FlatPanel
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, project, scaled

WATER_MU_PER_MM = 0.02
HEAD_MM = 60.0
N_VIEWS = 180
STEP_DEG = 2.0
GEOMETRY = ConeBeamGeometry(
    source_to_isocenter_mm=500.0,
    source_to_detector_mm=1000.0,
    gantry_angles_rad=np.deg2rad(STEP_DEG * np.arange(N_VIEWS)),
    detector=FlatPanel(n_rows=128, n_columns=128, row_spacing_mm=2.0, column_spacing_mm=2.0),
)
DESCRIPTION = f"""\
# A phantom with exact line integrals, made by examples/phantom.py.
format_version = 1

[projections]
files = "projections.npy"
kind = "line_integrals"
axes = ["angle", "row", "column"]

[geometry]
beam = "cone"
source_to_isocenter_mm = {GEOMETRY.source_to_isocenter_mm}
source_to_detector_mm = {GEOMETRY.source_to_detector_mm}
column_spacing_mm = {GEOMETRY.detector.column_spacing_mm}
row_spacing_mm = {GEOMETRY.detector.row_spacing_mm}
rotation = "counterclockwise"

[angles]
start_deg = 0.0
step_deg = {STEP_DEG}
count = {N_VIEWS}

[calibration]
water_mu_per_mm = {WATER_MU_PER_MM}

[subject]
PatientID = "PHANTOM-1"
PatientName = "Phantom"
StudyDate = "20260101"
StudyDescription = "Shepp-Logan head"
SeriesDescription = "cone-beam phantom"
"""


def write_phantom_scan(folder: Path) -> Path:
    """Write the scan into a folder, which is made, and return its ``SCAN.toml``."""
    folder.mkdir(parents=True, exist_ok=True)
    # the brain of the unit head is a fifth as dense as its skull
    head = scaled(SHEPP_LOGAN_UNIT, HEAD_MM, 5 * WATER_MU_PER_MM)
    np.save(folder / "projections.npy", project(head, GEOMETRY))
    description = folder / "SCAN.toml"
    description.write_text(DESCRIPTION)
    return description


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a cone-beam scan of a head phantom.")
    parser.add_argument("folder", type=Path, help="is made where it is missing")
    print(write_phantom_scan(parser.parse_args().folder))
