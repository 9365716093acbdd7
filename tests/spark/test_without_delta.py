"""A session without Delta, as many clusters have it: all but SQL works there."""

import os
import subprocess
import sys
from pathlib import Path

from pacspark.spark.session import DELTA_CATALOG, DELTA_EXTENSION, DELTA_PACKAGE
from tests.scan_files import write_phantom_scan

SCRIPT = """
import sys
from pyspark.sql import SparkSession
import pacspark

spark = SparkSession.builder.master("local[2]").getOrCreate()
archive = pacspark.create(sys.argv[1], spark)
scan = archive.import_scan(sys.argv[2])
grid = pacspark.VolumeGrid(shape=(4, 16, 16), voxel_mm=(2.0, 2.0, 2.0))
volume = archive.reconstruct(scan.series_instance_uid, grid)
report = archive.ingest(archive.export(sys.argv[3], series=volume.series_uid))
print(volume.shape, report.duplicate, len(archive.find(level="series")))
try:
    archive.sql("SELECT count(*) FROM instances")
except pacspark.PacsparkError as error:
    print(error)
"""


def test_session_without_delta__does_all_but_sql_and_says_what_that_needs(tmp_path: Path) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "archive"), str(path), str(tmp_path / "ct")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made, refused = done.stdout.splitlines()
    assert made == "(4, 16, 16) 4 2"
    assert refused == (
        "spark: expected a session with Delta, found one without; start it with "
        f"--packages {DELTA_PACKAGE} --conf spark.sql.extensions={DELTA_EXTENSION} "
        f"--conf spark.sql.catalog.spark_catalog={DELTA_CATALOG}"
    )
