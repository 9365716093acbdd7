"""A job whose projections and volume are three times as large as all memory that it is given."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pacspark.archive import open_archive
from pacspark.ct import ConeBeamGeometry, FlatPanel
from pacspark.ct.phantom import Ellipsoid, project
from tests.test_cluster import submit_watched, watched

N_VIEWS, N_PIXELS, SIZE, VOXEL_MM = 64, 1600, 1120, 0.1
GEOMETRY = ConeBeamGeometry(
    source_to_isocenter_mm=500.0,
    source_to_detector_mm=1000.0,
    gantry_angles_rad=np.arange(N_VIEWS) * 2 * math.pi / N_VIEWS,
    detector=FlatPanel(N_PIXELS, N_PIXELS, row_spacing_mm=0.25, column_spacing_mm=0.25),
)
SCAN_TOML = f"""format_version = 1
[projections]
files = "stack.npy"
kind = "line_integrals"
axes = ["angle", "row", "column"]
[geometry]
beam = "cone"
source_to_isocenter_mm = 500.0
source_to_detector_mm = 1000.0
column_spacing_mm = 0.25
row_spacing_mm = 0.25
[angles]
step_deg = {360 / N_VIEWS}
count = {N_VIEWS}
[calibration]
water_mu_per_mm = 0.02
[subject]
PatientID = "LARGE"
StudyDate = "20260101"
"""
# a body of water with a denser and a lighter ball, neither in its middle
BALLS = {(12.0, -8.0, 14.0): 1.5, (-15.0, 10.0, -20.0): 0.5}
BODY = (
    Ellipsoid(0.02, (50.0, 50.0, 55.0)),
    *(Ellipsoid(0.02 * (part - 1), (9.0, 9.0, 9.0), place) for place, part in BALLS.items()),
)
HEAP_MIB, WORKERS_MIB = 512, 1408
LIMIT_BYTES = (HEAP_MIB + WORKERS_MIB) << 20
"""Of the driver, which in local mode is the executor: its JVM's heap, and its Python workers."""


def write_scan(folder: Path) -> Path:
    """Write the scan view by view, so that this process does not hold it either."""
    folder.mkdir()
    stack = np.lib.format.open_memmap(
        folder / "stack.npy", "w+", np.float32, (N_VIEWS, N_PIXELS, N_PIXELS)
    )
    for view in range(N_VIEWS):
        angles = GEOMETRY.gantry_angles_rad[view : view + 1]
        stack[view] = project(BODY, replace(GEOMETRY, gantry_angles_rad=angles))[0]
    stack.flush()
    path = folder / "SCAN.toml"
    path.write_text(SCAN_TOML)
    return path


@pytest.mark.slow
def test_submit__reconstructs_what_is_three_times_as_large_as_its_memory(tmp_path: Path) -> None:
    root = str(tmp_path / "archive")
    watched(sys.executable, "-m", "pacspark", "init", root)
    scan = write_scan(tmp_path / "scan")
    data_bytes = 4 * (N_VIEWS * N_PIXELS**2 + SIZE**3)
    assert data_bytes >= 3 * LIMIT_BYTES

    imported, importing = watched(sys.executable, "-m", "pacspark", "import-scan", root, str(scan))
    assert importing.peak_bytes <= LIMIT_BYTES, importing.at_peak

    output, reconstructing = submit_watched(
        "local",
        ["--master", "local[2]", "--driver-memory", f"{HEAP_MIB}m"],
        "reconstruct", root, imported.split()[-1], "--size", *[str(SIZE)] * 3,
        "--voxel-mm", str(VOXEL_MM), "--cores", "2", "--memory", f"{WORKERS_MIB}M",
        "--json",
    )  # fmt: skip
    report = json.loads(output.splitlines()[-1])[0]
    assert reconstructing.peak_bytes <= LIMIT_BYTES, reconstructing.at_peak
    assert report["peak_task_bytes"] <= report["predicted_task_bytes"]

    archive = open_archive(root)
    assert archive.catalog.instances_of(report["series_instance_uid"]).num_rows == SIZE
    volume = archive.volume(report["series_instance_uid"])
    assert volume.shape == (SIZE, SIZE, SIZE)
    middle = (SIZE - 1) / 2
    for place_mm, part in {(0.0, 0.0, 0.0): 1.0, **BALLS}.items():
        x, y, z = (round(middle + mm / VOXEL_MM) for mm in place_mm)
        around = volume[z][y - 5 : y + 6, x - 5 : x + 6]
        assert around.mean() == pytest.approx(1000 * (part - 1), abs=50)
