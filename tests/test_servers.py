"""The servers that other tests stand on are real: what one program writes there another reads."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pacspark.tables.storage import open_storage
from tests.conftest import missing
from tests.servers import HdfsCluster

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS = pa.table({"number": pa.array([3, 1, 2], pa.int64()), "name": ["c", "a", "b"]})


@pytest.mark.parametrize("server", ["s3_server", "hdfs_cluster"])
def test_server__holds_tables_that_spark_and_delta_rs_both_read(
    request: pytest.FixtureRequest, spark: "SparkSession", server: str
) -> None:
    storage = open_storage(request.getfixturevalue(server).new_root())
    uri = storage.table_uri("numbers")
    write_deltalake(uri, ROWS, storage_options=storage.delta_options)
    frame = spark.read.format("delta").load(storage.spark_uri("numbers"))
    assert sorted(row["name"] for row in frame.collect()) == ["a", "b", "c"]
    frame.filter("number > 1").write.format("delta").mode("append").save(
        storage.spark_uri("numbers")
    )
    table = DeltaTable(uri, storage_options=storage.delta_options)
    numbers = table.to_pyarrow_table().column("number").to_pylist()
    assert table.version() == 1
    assert sorted(numbers) == [1, 2, 2, 3, 3]


def test_hdfs__keeps_a_table_when_a_datanode_dies(tmp_path: Path) -> None:
    if not HdfsCluster.jars():
        missing("hdfs")
    with HdfsCluster(tmp_path) as cluster:
        storage = open_storage(cluster.new_root())
        uri = storage.table_uri("numbers")
        write_deltalake(uri, ROWS, storage_options=storage.delta_options)
        cluster.kill_datanode(0)
        table = DeltaTable(uri, storage_options=storage.delta_options)
        assert table.to_pyarrow_table().equals(ROWS)
