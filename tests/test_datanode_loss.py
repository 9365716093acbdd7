"""A datanode dies in the middle of an ingest: it goes on, and so does what is asked after it."""

import threading
from typing import TYPE_CHECKING

import pyarrow.fs as pafs
import pytest

from benchmarks.instances import instance, made_uid, write_instances
from pacspark.archive import create_archive
from tests.servers import HdfsCluster, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

N_INSTANCES, EDGE = 300, 512


@pytest.mark.slow
def test_ingest__goes_on_when_a_datanode_dies_in_its_middle(
    spark: "SparkSession", losing_cluster: HdfsCluster, tmp_path: "Path"
) -> None:
    write_instances(tmp_path / "in", range(N_INSTANCES), EDGE)
    archive = create_archive(losing_cluster.new_root(), spark)
    storage = archive.catalog.storage
    folder = pafs.FileSelector(storage.path("objects"))
    seen = []

    def kill() -> None:
        def is_writing() -> bool:
            found = storage.filesystem.get_file_info(folder)
            return any(info.base_name.endswith(".parquet") for info in found)

        wait_until(is_writing, "a data file", [])
        losing_cluster.kill_datanode(0)
        seen.append(archive.catalog.version())

    killing = threading.Thread(target=kill)
    killing.start()
    report = archive.ingest(tmp_path / "in")
    killing.join()
    assert seen == [0]  # nothing was committed yet
    assert (report.stored, report.rejected) == (N_INSTANCES, 0)
    series = archive.find(level="series", SeriesInstanceUID=made_uid("series", 1))
    assert series["NumberOfSeriesRelatedInstances"].tolist() == [100]
    exported = archive.export(tmp_path / "out", series=made_uid("series", 1))
    expected = {instance(number, EDGE) for number in range(100, 200)}
    assert {path.read_bytes() for path in exported} == expected
    verified = archive.verify()
    assert (verified.clean, verified.objects) == (True, N_INSTANCES)
    again = archive.ingest(tmp_path / "in")
    assert (again.stored, again.duplicate) == (0, N_INSTANCES)
    losing_cluster.revive_datanode(0)
