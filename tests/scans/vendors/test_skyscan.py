"""SkyScan's log, from its frames to the archive's CT series."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pacspark.archive import create_archive
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, ParallelBeamGeometry
from pacspark.ct.phantom import project
from pacspark.errors import ScanDescriptionError
from pacspark.scans.description import read_scan_description
from pacspark.scans.toml import read_toml
from pacspark.scans.vendors.describe import describe_scan
from tests.scans.vendors.samples import (
    GRID,
    N_COLUMNS,
    N_ROWS,
    PIXEL_MM,
    TO_AXIS_MM,
    TO_DETECTOR_MM,
    WHITE,
    body,
    counts,
    reconstructed,
    require_body,
    write_tiffs,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

N_VIEWS, STEP_DEG, LINE = 90, 4.0, 33
TABLES = dict.fromkeys(("format_version", "projections", "geometry", "angles"), "")
LOG = f"""[System]
Scanner=Skyscan1172
Camera Pixel Size (um)=11.4
[Acquisition]
Data Directory=D:\\Results\\Bjørn
Filename Prefix=bone_
Number Of Files=  {N_VIEWS}
Number Of Rows= {N_ROWS}
Number Of Columns= {N_COLUMNS}
Optical Axis (line)=  {LINE}
Object to Source (mm)={TO_AXIS_MM}
Camera to Source (mm)={TO_DETECTOR_MM}
Image Pixel Size (um)={1000 * PIXEL_MM * TO_AXIS_MM / TO_DETECTOR_MM}
Depth (bits)=16
Reference Intensity={WHITE}
Rotation Step (deg)={STEP_DEG}
Use 360 Rotation=YES
Random Movement=OFF (10)
Rotation Direction=CC
[Reconstruction]
Postalignment=0
[Reconstruction]
Postalignment=-1.50
"""


def write_scan(folder: Path, log: str = LOG, turn: float = -1.0) -> Path:
    """Write a log and frames; turn 1: the source goes counterclockwise around the object."""
    middle_mm = ((N_ROWS - 1) / 2 - LINE) * PIXEL_MM
    panel = FlatPanel(N_ROWS, N_COLUMNS, PIXEL_MM, PIXEL_MM, offset_v_mm=middle_mm)
    angles = turn * np.radians(STEP_DEG * np.arange(N_VIEWS))
    geometry = ConeBeamGeometry(TO_AXIS_MM, TO_DETECTOR_MM, angles, panel)
    # the line is that of the frame, from below, that the plane of the source meets
    assert panel.v_mm[N_ROWS - 1 - LINE] == pytest.approx(0.0)
    write_tiffs(folder, "bone_{:08d}.tif", counts(project(body(), geometry)))
    write_tiffs(folder, "bone_{:08d}_spr.tif", np.zeros((1, 9, 9), np.uint16))
    path = folder / "bone_.log"
    path.write_text(log, encoding="cp1252")
    return path


@pytest.mark.parametrize("sense", ["CC", "CW"])
def test_describe__has_the_body_at_its_place(tmp_path: Path, sense: str) -> None:
    log = LOG.replace("=CC", f"={sense}")
    made = describe_scan(write_scan(tmp_path, log, turn=-1.0 if sense == "CC" else 1.0))
    assert any("Postalignment=-1.50 is not used" in key for key in made.to_check)
    assert not any("Random Movement" in key for key in made.to_check)
    require_body(reconstructed(made.path), body())


def test_describe__does_without_the_camera(tmp_path: Path) -> None:
    """Older logs have only the size of a pixel in the object."""
    log = LOG.replace(f"Camera to Source (mm)={TO_DETECTOR_MM}\n", "")
    made = describe_scan(write_scan(tmp_path, log))
    geometry = read_scan_description(made.path).geometry
    assert isinstance(geometry, ConeBeamGeometry)
    assert geometry.magnification == 1.0
    require_body(reconstructed(made.path), body())


def test_archive__has_the_body_that_a_log_describes(spark: "SparkSession", tmp_path: Path) -> None:
    made = describe_scan(write_scan(tmp_path / "scan"))
    archive = create_archive(str(tmp_path / "archive"), spark)
    imported = archive.import_scan(made.path)
    volume = archive.reconstruct(imported.series_instance_uid, GRID)
    assert volume.unit == "1/mm"
    require_body(volume.to_numpy(), body())


def test_describe__takes_sources_far_away_for_parallel_rays(tmp_path: Path) -> None:
    log = LOG.replace(f"Source (mm)={TO_AXIS_MM}", "Source (mm)=1000000")
    made = describe_scan(write_scan(tmp_path, log.replace("Reference Intensity", "Other")))
    description = read_scan_description(made.path)
    assert isinstance(description.geometry, ParallelBeamGeometry)
    assert description.geometry.detector.column_spacing_mm == pytest.approx(0.9 * 80 / 140)
    assert description.unattenuated_counts == 65535


def test_describe__says_what_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "bone_.log"
    path.write_text(LOG, encoding="cp1252")
    made = describe_scan(path)
    images = read_toml(made.path, TABLES).table("projections")
    assert images.text("files") == "bone_*.tif"
    assert any("no such files yet" in key for key in made.to_check)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("Rotation Step (deg)=4.0", "", r"acquisition.rotation step \(deg\): expected a number"),
        (f"Source (mm)={TO_AXIS_MM}", "Source (mm)=24,755", "found '24,755'"),
        ("Prefix=bone_", "Prefix=/etc/bone_", "beside it in Filename Prefix"),
        ("Number Of Files=", "Number Of Files= -", "acquisition.number of files: expected"),
    ],
)
def test_describe__refuses_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "bone_.log"
    path.write_text(LOG.replace(old, new), encoding="utf-8")
    with pytest.raises(ScanDescriptionError, match=told) as caught:
        describe_scan(path)
    assert "\n" not in str(caught.value)
