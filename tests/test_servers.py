"""The servers that tests run against are real: data outlive a datanode, tasks run on workers."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from tests.conftest import missing
from tests.servers import HdfsCluster, S3Server, wait_until


def test_s3_server__holds_a_delta_table(s3_server: S3Server) -> None:
    options = s3_server.environment | {"conditional_put": "etag"}
    uri = f"{s3_server.new_root()}/table"
    for _ in range(2):
        write_deltalake(uri, pa.table({"x": [1, 2]}), mode="append", storage_options=options)
    read = DeltaTable(uri, storage_options=options)
    assert (read.version(), read.to_pyarrow_table()["x"].to_pylist()) == (1, [1, 2, 1, 2])
    stored = s3_server.folder / "data" / uri.removeprefix("s3://")
    assert len(list(stored.glob("*.parquet"))) == 2


@pytest.mark.slow
def test_hdfs__keeps_a_table_readable_and_then_writable_when_a_datanode_dies(
    tmp_path: Path,
) -> None:
    if not HdfsCluster.jars():
        missing("hdfs")
    with HdfsCluster(tmp_path, properties=HdfsCluster.WATCHFUL) as cluster:
        uri = f"{cluster.new_root()}/table"
        write_deltalake(uri, pa.table({"x": list(range(1000))}))
        cluster.kill_datanode(0)
        assert DeltaTable(uri).to_pyarrow_table()["x"].to_pylist() == list(range(1000))
        # until the namenode takes a silent datanode for dead, delta-rs cannot write past it
        wait_until(lambda: cluster.state("UnderReplicatedBlocks") > 0, "HDFS", cluster.processes)
        write_deltalake(uri, pa.table({"x": [-1]}), mode="append")
        assert sum(DeltaTable(uri).to_pyarrow_table()["x"].to_pylist()) == 999 * 500 - 1


def test_servers__end_with_their_block(tmp_path: Path) -> None:
    if S3Server.program() is None:
        missing("versitygw")
    with S3Server(tmp_path) as server:
        (process,) = server.processes
        assert process.poll() is None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_wait__fails_at_once_when_a_process_ends(tmp_path: Path) -> None:
    server = S3Server(tmp_path)
    process = server.begin("failing", ["false"], {})
    process.wait()
    with pytest.raises(RuntimeError, match=r"a process ended with \[1\]"):
        wait_until(lambda: False, "failing", server.processes)
