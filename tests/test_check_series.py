"""The geometry check on scans in an archive: real ones, and what it writes about them."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pacspark.archive import open_archive
from pacspark.check import GeometryCheck, check_geometry, check_series
from pacspark.ct.coverage import view_radius_mm
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, scaled, voxelize
from pacspark.ct.preprocess import line_integrals
from pacspark.dicom.scan import encode_scan
from pacspark.errors import (
    ScanDescriptionError,
    SeriesNotFoundError,
    UsageError,
)
from pacspark.middle_row import mean_attenuation_per_mm, middle_row_sinogram
from pacspark.scans.description import read_scan_description
from pacspark.scans.readers import open_frames
from pacspark.tables.catalog import Catalog
from pacspark.tables.scans import read_stored_scan
from tests.ct_objects import SERIES_UID, archive_of, steps_archive
from tests.scan_files import write_phantom_scan
from tests.test_check import fan, sinogram_of

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data" / "projections"


class CountingCatalog(Catalog):
    """Counts the bytes of pixels that are read."""

    bytes_read = 0

    def read_range(self, row: Mapping[str, Any], start: int, length: int) -> bytes:
        self.bytes_read += length
        return super().read_range(row, start, length)


def stored_scan(folder: Path, description: Path) -> tuple[CountingCatalog, str]:
    """An archive with a described scan, and the scan's series."""
    scan = read_scan_description(description)
    with open_frames(scan) as frames:
        instances = list(encode_scan(scan, frames))
    catalog = archive_of(folder / "archive", [instance.data for instance in instances])
    return CountingCatalog(catalog.storage), instances[0].series_instance_uid


COUNTS_SCAN = """
format_version = 1
[projections]
files = "counts.npy"
flat = "flat.npy"
dark = "dark.npy"
kind = "counts"
axes = ["angle", "row", "column"]
[geometry]
beam = "cone"
source_to_isocenter_mm = 100.0
source_to_detector_mm = 200.0
column_spacing_mm = 1.0
row_spacing_mm = 1.0
detector_offset_v_mm = 1.5
[angles]
start_deg = 0.0
step_deg = 4.0
count = 90
"""


def test_stored_scan__is_checked_from_one_row_of_each_frame(tmp_path: Path) -> None:
    """The middle row shows the head, the others nothing: whoever reads them is told nothing."""
    rng = np.random.default_rng(3)
    flats = rng.integers(35_000, 40_000, (4, 8, 80)).astype(np.uint16)
    darks = rng.integers(90, 110, (3, 8, 80)).astype(np.uint16)
    beam = np.broadcast_to((flats.mean(0) - darks.mean(0))[None], (90, 8, 80)).copy()
    beam[:, 5] *= np.exp(-sinogram_of(fan(2.0)))
    counts = np.rint(beam + darks.mean(0)).astype(np.uint16)
    for name, frames in (("counts", counts), ("flat", flats), ("dark", darks)):
        np.save(tmp_path / f"{name}.npy", frames)
    (tmp_path / "SCAN.toml").write_text(COUNTS_SCAN)
    catalog, series_uid = stored_scan(tmp_path, tmp_path / "SCAN.toml")
    sinogram = middle_row_sinogram(catalog, series_uid)
    # rows go down from v = 3.5 + 1.5 mm; row 5 is the one at v = 0
    expected = line_integrals(counts, "counts", flats=flats, darks=darks)[:, 5]
    np.testing.assert_allclose(sinogram.values, expected, rtol=1e-6)
    assert sinogram.title == "detector row 5"
    assert catalog.bytes_read == (90 + 4 + 3) * 80 * 2
    again = open_archive(tmp_path / "archive").sinogram(series_uid)
    np.testing.assert_array_equal(again.values, sinogram.values)
    found = check_series(catalog, series_uid)
    assert found.stated_offset_u_mm == 0.0
    assert found.best_offset_u_mm == pytest.approx(2.0, abs=0.25)


def test_mean_attenuation__is_that_of_the_middle_slice(tmp_path: Path) -> None:
    path, _ = write_phantom_scan(tmp_path)
    catalog, series_uid = stored_scan(tmp_path, path)
    stored = read_stored_scan(catalog, series_uid)
    catalog.bytes_read = 0
    mean = mean_attenuation_per_mm(catalog, stored, 0)
    radius_mm = view_radius_mm(stored.scan.geometry)
    edge_mm = radius_mm / 64
    slice_ = voxelize(
        scaled(SHEPP_LOGAN_UNIT, 10.0, 0.02), VolumeGrid((1, 128, 128), (1.0, edge_mm, edge_mm))
    )
    expected = slice_.sum() * edge_mm**2 / (math.pi * radius_mm**2)
    assert mean == pytest.approx(expected, rel=0.05)
    assert catalog.bytes_read == 2 * 36


@pytest.fixture(scope="module")
def walnut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, str]:
    return stored_scan(
        tmp_path_factory.mktemp("walnut"), ROOT / "examples" / "walnut" / "SCAN.toml"
    )


def test_the_real_walnut__is_sharp_at_its_published_offset(walnut: tuple[Catalog, str]) -> None:
    catalog, series_uid = walnut
    sinogram = middle_row_sinogram(catalog, series_uid)
    panel = FlatPanel(1, 328, 0.35, 0.35)
    # as a user has it who knows neither the offset nor the sense of rotation
    guess = ConeBeamGeometry(110.0, 300.0, -sinogram.gantry_angles_rad, panel)
    found = check_geometry(sinogram.values, guess)
    assert found.best_rotation == "counterclockwise"
    assert found.best_offset_u_mm == pytest.approx(0.27, abs=0.25 * 0.35)
    assert found.gain > 1.2


@pytest.mark.parametrize("stated_mm", [0.0, 0.54])
def test_the_real_walnut__tells_a_stated_offset_that_is_less_than_a_pixel_wrong(
    walnut: tuple[Catalog, str], stated_mm: float
) -> None:
    catalog, series_uid = walnut
    sinogram = middle_row_sinogram(catalog, series_uid)
    panel = FlatPanel(1, 328, 0.35, 0.35, offset_u_mm=stated_mm)
    found = check_geometry(
        sinogram.values, ConeBeamGeometry(110.0, 300.0, sinogram.gantry_angles_rad, panel)
    )
    assert found.decided, found
    assert not found.ok
    assert found.best_rotation == found.stated_rotation == "counterclockwise"
    assert found.best_offset_u_mm == pytest.approx(0.27, abs=0.25 * 0.35)


WALNUT_LINES = {
    "no offset, clockwise": ['rotation = "clockwise"  # a guess'],
    "another axis": ["rotation_axis_column = 165.0"],
    "clockwise": ["detector_offset_u_mm = 0.27", 'rotation = "clockwise"'],
}


@pytest.mark.parametrize("wrong", WALNUT_LINES)
def test_check__writes_the_corrected_description(tmp_path: Path, wrong: str) -> None:
    shutil.copytree(ROOT / "examples" / "walnut", tmp_path / "walnut")
    path = tmp_path / "walnut" / "SCAN.toml"
    kept = [
        line
        for line in path.read_text().splitlines()
        if not line.startswith(("detector_offset_u_mm", "rotation"))
    ]
    place = kept.index("[geometry]") + 1
    path.write_text("\n".join([*kept[:place], *WALNUT_LINES[wrong], *kept[place:]]))
    before = path.read_text()
    catalog, series_uid = stored_scan(tmp_path, path)
    corrected = check_series(catalog, series_uid).correct(path.parent)
    assert path.read_text() == before
    assert corrected == path.with_name("SCAN.corrected.toml")
    # comments and keys stay
    assert set(corrected.read_text().splitlines()) >= set(kept)
    again = read_scan_description(corrected).geometry
    assert again.detector.offset_u_mm == pytest.approx(0.27, abs=0.25 * 0.35)
    assert (np.diff(again.gantry_angles_rad) > 0).all()
    catalog, series_uid = stored_scan(tmp_path / "again", corrected)
    assert check_series(catalog, series_uid).ok


def test_check__corrects_no_other_scan(tmp_path: Path, walnut: tuple[Catalog, str]) -> None:
    shutil.copytree(ROOT / "examples" / "walnut", tmp_path / "walnut")
    path = tmp_path / "walnut" / "SCAN.toml"
    path.write_text(path.read_text().replace("[geometry]", "[geometry]\nrotation_axis_column = 9"))
    path.write_text(
        "\n".join(line for line in path.read_text().splitlines() if "detector_offset_u" not in line)
    )
    with pytest.raises(ScanDescriptionError, match="is it another scan's"):
        check_series(*walnut).correct(path)
    assert not path.with_name("SCAN.corrected.toml").exists()


def check_shared(tmp_path: Path, scan: str, data: str) -> GeometryCheck:
    """Check a real scan as if its axis were thought to be in the detector's middle."""
    if not (SHARED / data).exists():
        pytest.skip("public scans are not beside the checkout")
    shutil.copytree(SHARED / data, tmp_path / "scan")
    shutil.copy(ROOT / "examples" / scan / "SCAN.toml", tmp_path / "scan")
    catalog, series_uid = stored_scan(tmp_path, tmp_path / "scan" / "SCAN.toml")
    sinogram = middle_row_sinogram(catalog, series_uid)
    panel = FlatPanel(1, len(sinogram.u_mm), 1.0, 1.0)
    return check_geometry(sinogram.values, ParallelBeamGeometry(sinogram.gantry_angles_rad, panel))


def test_the_real_tooth__has_its_axis_at_column_296(tmp_path: Path) -> None:
    found = check_shared(tmp_path, "tooth", "tomopy-tooth-parallel")
    assert found.best_rotation_axis_column == pytest.approx(296, abs=0.75)


def test_the_real_synchrotron_scan__has_its_axis_at_column_86(tmp_path: Path) -> None:
    found = check_shared(tmp_path, "savu", "savu-24737-parallel")
    assert found.best_rotation_axis_column == pytest.approx(86, abs=0.5)


def test_check_series__refuses_what_is_no_scan(tmp_path: Path, walnut: tuple[Catalog, str]) -> None:
    with pytest.raises(SeriesNotFoundError, match="expected projections"):
        check_series(steps_archive(tmp_path), SERIES_UID)
    with pytest.raises(UsageError, match="energy bin: expected 0 to 0, found 1"):
        check_series(*walnut, energy_bin=1)
