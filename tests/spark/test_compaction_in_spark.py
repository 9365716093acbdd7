"""What Spark sees of deletes and compaction, and compaction as Spark tasks."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from pacspark.archive import create_archive
from pacspark.progress import SILENT
from pacspark.tables.deletion import delete
from tests.tables.compacting import fill, read_all

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_compact__runs_in_spark_and_spark_reads_what_it_made(
    spark: "SparkSession", tmp_path: Path
) -> None:
    archive = create_archive(tmp_path / "archive", spark=spark, progress=SILENT)
    storage = archive._storage
    stored = fill(storage, 5)
    gone, *_ = stored
    delete(storage, "instance", gone)
    report = archive.compact(min_age_hours=0)
    assert (report.into_files["instances"], report.into_files["objects"]) == (1, 1)
    left = {uid: data for uid, data in stored.items() if uid != gone}
    assert read_all(storage) == left
    counts = "SELECT count(*) AS n, count(DISTINCT object_file) AS f FROM instances"
    (row,) = archive.sql(counts).collect()
    assert (row.n, row.f) == (len(left), 1)
    uri = storage.spark_uri("instances")
    before = spark.read.format("delta").option("versionAsOf", 5).load(uri)
    assert before.count() == len(stored)
    objects = spark.read.format("delta").load(storage.spark_uri("objects"))
    assert objects.count() == len(left)
    history = spark.sql(f"DESCRIBE HISTORY delta.`{uri}`").collect()
    assert {row.userName for row in history if row.version > 0} == {getpass.getuser()}
