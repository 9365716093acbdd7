"""Real scans, through the same commands: the walnut that ships, and public parallel scans."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pacspark.archive import Archive, create_archive
from pacspark.ct.geometry import VolumeGrid
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SCANS = {"tooth": "tomopy-tooth-parallel", "savu": "savu-24737-parallel"}


@pytest.fixture
def archive(spark: "SparkSession", tmp_path: Path) -> Archive:
    return create_archive(tmp_path / "archive", spark)


def scan_folder(name: str, shared_data: Path, tmp_path: Path) -> Path:
    """Copy a public scan and put its description beside it."""
    folder = tmp_path / name
    shutil.copytree(shared_data / "projections" / SCANS[name], folder)
    folder.chmod(0o755)
    shutil.copy(REPOSITORY / "examples" / name / "SCAN.toml", folder)
    return folder / "SCAN.toml"


def test_walnut__has_shell_and_kernel_at_the_stated_geometry(archive: Archive) -> None:
    imported = archive.import_scan(REPOSITORY / "examples" / "walnut" / "SCAN.toml")
    volume = archive.reconstruct(imported.series_instance_uid)
    values = volume.to_numpy()[0]
    _, n_y, n_x = volume.shape
    middle = values[n_y // 2, :]
    shell = np.percentile(values, 99)
    # a ray through the middle meets the shell at both sides and the septum between, air beside
    assert (middle > 0.5 * shell).sum() >= 8
    radius = np.hypot(*(np.mgrid[:n_y, :n_x] - np.array([[[n_y / 2]], [[n_x / 2]]])))
    air = values[(radius > 0.47 * n_x) & (radius < 0.5 * n_x)]
    assert abs(air.mean()) < 0.03 * shell
    check = archive.check(imported.series_instance_uid)
    assert check.ok, check.message


@pytest.mark.parametrize("name", list(SCANS))
def test_parallel_scans__are_sharpest_at_their_stated_axis(
    archive: Archive, shared_data: Path, tmp_path: Path, name: str
) -> None:
    imported = archive.import_scan(scan_folder(name, shared_data, tmp_path))
    assert imported.stored == 3  # projections, flats, darks
    check = archive.check(imported.series_instance_uid)
    assert abs(check.summary()["best_offset_u_mm"] - check.summary()["stated_offset_u_mm"]) <= 1.0
    grid = archive.grid(imported.series_instance_uid)
    middle = VolumeGrid((2, *grid.shape[1:]), grid.voxel_mm, grid.center_mm)
    values = archive.reconstruct(imported.series_instance_uid, middle).to_numpy()
    assert np.isfinite(values).all()
    object_level = np.percentile(values, 99.5)
    _, n_y, n_x = values.shape
    radius = np.hypot(*(np.mgrid[:n_y, :n_x] - np.array([[[n_y / 2]], [[n_x / 2]]])))
    ring = values[0][(radius > 0.40 * n_x) & (radius < 0.45 * n_x)]
    assert abs(ring.mean()) < 0.1 * object_level
