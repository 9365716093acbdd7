"""The rows of `runs`: what is needed to make a result again, whatever became of the job."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pacspark import __version__
from pacspark.archive import Archive, create_archive
from pacspark.ct.geometry import VolumeGrid
from pacspark.errors import PacsparkError, ProjectionDataError
from pacspark.spark.cluster import Cluster
from pacspark.spark.reconstruct import ReconstructionRequest, reconstruct
from tests.scan_files import write_phantom_scan
from tests.taking_in import take_in_here

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

GRID = VolumeGrid(shape=(2, 8, 8), voxel_mm=(1.0, 1.0, 1.0))


def last_run(archive: Archive) -> dict[str, Any]:
    """Give the newest row; each that says done has no message."""
    run: dict[str, Any] = archive.catalog.runs().to_pylist()[-1]
    assert (run["outcome"] == "done") == (run["message"] is None)
    return run


def test_runs__hold_what_makes_a_result_again_even_after_a_kill(
    spark: "SparkSession", tmp_path: Path
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    imported = last_run(archive)
    assert json.loads(imported["options"]) == {"description": str(path)}
    assert json.loads(imported["input_versions"]) == {"instances": 0}
    geometry = archive._scan(series_uid).geometry
    described = json.loads(imported["geometry"])["scan"]
    assert described["type"] == "ConeBeamGeometry"
    assert described["gantry_angles_rad"] == geometry.gantry_angles_rad.tolist()

    volume = archive.reconstruct(series_uid, GRID)
    made = last_run(archive)
    assert (made["outcome"], made["code_version"]) == ("done", __version__)
    assert made["series_instance_uid"] == volume.series_uid
    assert made["source_series_instance_uid"] == series_uid
    options = {"filter": "ram-lak", "cutoff": 1.0, "extrapolation": 0.0}
    assert json.loads(made["options"])["options"] == options
    assert json.loads(made["geometry"])["grid"]["shape"] == [2, 8, 8]
    assert json.loads(made["geometry"])["scan"] == described
    # what was read is the version before the one that it made
    assert json.loads(made["input_versions"]) == {"instances": 1}
    assert archive.catalog.version() == 2
    assert made["started_at"] < made["finished_at"]

    # as a kill between the two commits leaves it
    log = tmp_path / "archive" / "runs" / "_delta_log"
    (log / f"{archive.catalog.version('runs'):020}.json").unlink()
    for _ in range(2):
        assert archive.reconstruct(series_uid, GRID).series_uid == volume.series_uid
        rows = archive.catalog.runs().to_pylist()
        (recovered,) = (row for row in rows if row["operation"] == made["operation"])
    unknown = {"started_at": None, "metrics": None}
    assert recovered == made | unknown | {"finished_at": recovered["finished_at"]}


def test_runs__tell_of_a_reconstruction_that_failed(spark: "SparkSession", tmp_path: Path) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    # without water, whose value would be held against the pixels before the job begins
    path.write_text(path.read_text().replace("[calibration]\nwater_mu_per_mm = 0.02\n", ""))
    archive = create_archive(tmp_path / "archive", spark)
    series_uid = archive.import_scan(path).series_instance_uid
    for file in (tmp_path / "archive" / "objects").glob("*.parquet"):
        file.unlink()
    request = ReconstructionRequest(series_uid, GRID)
    with pytest.raises(PacsparkError) as caught:
        reconstruct(spark, archive.catalog.storage, request, Cluster())
    run = last_run(archive)
    assert (run["outcome"], run["message"]) == ("failed", str(caught.value))
    assert json.loads(run["options"])["series_instance_uid"] == series_uid
    assert not list((tmp_path / "archive" / "projections").glob("*.parquet"))


def test_import_scan__raises_when_an_object_is_refused(tmp_path: Path) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    other = create_archive(tmp_path / "other")
    series_uid = other.import_scan(path).series_instance_uid
    (row,) = other.catalog.instances_of(series_uid).to_pylist()
    (tmp_path / "changed.dcm").write_bytes(other.catalog.read_object(row)[:-2] + b"??")

    archive = create_archive(tmp_path / "archive")
    assert take_in_here(archive.catalog.storage, tmp_path / "changed.dcm").stored == 1
    refused = (
        "expected every object stored, found 1 in conflict with what the archive holds and 0 "
        "rejected; the first: SOP Instance UID"
    )
    with pytest.raises(ProjectionDataError, match=refused) as caught:
        archive.import_scan(path)
    run = last_run(archive)
    assert (run["operation"], run["outcome"]) == ("import-scan", "failed")
    assert run["message"] == str(caught.value)
