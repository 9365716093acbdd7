"""Reconstructions that are made again from their rows of `runs`, bit for bit or not."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pacspark.archive import Archive, create_archive
from pacspark.cli import main
from pacspark.ct.geometry import VolumeGrid
from pacspark.errors import RunNotFoundError, UsageError
from pacspark.progress import SILENT
from pacspark.spark.rerun import find_run, request_of
from pacspark.tables.schema import RUNS
from pacspark.tables.writer import append_rows
from tests.scan_files import write_phantom_scan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

GRID = VolumeGrid(shape=(3, 10, 10), voxel_mm=(1.0, 1.0, 1.0))


def listing(archive: Archive) -> dict[str, Any]:
    """Everything that is there: versions of the tables, and the files of objects and scratch."""
    root = Path(archive.root)
    tables = {name: archive.catalog.version(name) for name in archive.table_names}
    files = {str(path) for path in root.glob("*/*.parquet")}
    scratch = [*(root / "_scratch").glob("*"), *(root / "_progress").glob("*")]
    return tables | {"files": files, "scratch": scratch}


def change_run(archive: Archive, **columns: Any) -> str:
    """Add a copy of the last row of `runs`, changed, as a run of another name."""
    row = archive.catalog.runs().to_pylist()[-1] | {"run_id": "changed"} | columns
    rows = pa.Table.from_pylist([row], schema=RUNS.arrow_schema)
    append_rows(archive.catalog.storage, "runs", rows, run_id="changed", operation="test")
    return "changed"


@pytest.mark.parametrize("kind", ["line_integrals", "counts"])
def test_rerun__gives_every_bit_again_and_stores_nothing(
    spark: "SparkSession", tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, projections = write_phantom_scan(tmp_path / "scan")
    if kind == "counts":
        counts = np.rint(50_000 * np.exp(-projections)).astype(np.uint16)
        np.save(tmp_path / "scan" / "stack.npy", counts)
        kept = path.read_text().replace(
            'kind = "line_integrals"', 'kind = "counts"\nunattenuated_counts = 50000'
        )
        path.write_text(kept)
        assert 'kind = "counts"' in kept
    archive = create_archive(tmp_path / "archive", spark, SILENT)
    series_uid = archive.import_scan(path).series_instance_uid
    volume = archive.reconstruct(series_uid, GRID)
    before = listing(archive)
    report = archive.rerun(archive.catalog.runs()["run_id"][-1].as_py())
    assert (report.identical, report.n_same, report.n_stored) == (True, 3, 3)
    assert (report.differences, report.notes) == ((), ())
    assert report.series_instance_uid == volume.series_uid
    assert listing(archive) == before

    if kind == "line_integrals":
        differs(archive, volume.series_uid, capsys)


def differs(archive: Archive, ct_uid: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Go on in the same archive: what is not the same is told, object by object."""
    rows = archive.catalog.instances_of(ct_uid).to_pylist()
    table = DeltaTable(archive.catalog.storage.table_uri("instances"))
    table.delete(f"sop_instance_uid = '{rows[0]['sop_instance_uid']}'")
    table.update(
        updates={"sha256": "'other'"},
        predicate=f"sop_instance_uid = '{rows[1]['sop_instance_uid']}'",
    )
    before = listing(archive)
    report = archive.rerun(ct_uid)
    assert (report.identical, report.n_same, report.n_stored) == (False, 1, 2)
    expected = {(row["sop_instance_uid"], row["sha256"]) for row in rows[:2]}
    assert {(d.sop_instance_uid, d.made_sha256) for d in report.differences} == expected
    assert {d.stored_sha256 for d in report.differences} == {None, "other"}
    capsys.readouterr()
    assert main(["rerun", archive.root, ct_uid, "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["identical"], len(told["differences"])) == (False, 2)
    assert listing(archive) == before

    # what may be why is told
    name = change_run(
        archive,
        code_version="0.0.1",
        input_versions='{"instances": 99}',
        metrics='{"kernel": "abacus"}',
        geometry="{}",
    )
    notes = "; ".join(archive.rerun(name).notes)
    assert "version 99 of instances, which the run read, is not kept" in notes
    assert "made by pacspark 0.0.1" in notes
    assert "made with the kernel abacus" in notes
    assert "the geometry of the scan is not read as it was" in notes


def test_rerun__refuses_what_it_cannot_follow_before_spark_starts(tmp_path: Path) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", progress=SILENT)
    archive.import_scan(path)
    imported = archive.catalog.runs()["run_id"][0].as_py()
    with pytest.raises(RunNotFoundError, match="no run 'nothing' that made a result; `pacspark"):
        archive.rerun("nothing")
    with pytest.raises(UsageError, match="expected a reconstruction, found import-scan"):
        archive.rerun(imported)
    change_run(archive, outcome="failed", run_id="bad", operation="reconstruct")
    with pytest.raises(RunNotFoundError, match="it failed"):
        archive.rerun("bad")
    for options in (None, "[]", "{}", '{"grid": {"shape": [1, 2]}, "options": {}}', "{"):
        name = change_run(archive, operation="reconstruct", options=options, outcome="done")
        with pytest.raises(UsageError, match="expected options that pacspark"):
            request_of(find_run(archive.catalog, name))
