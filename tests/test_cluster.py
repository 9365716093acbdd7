"""The same commands by spark-submit: on a standalone cluster, with the property files that ship."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyspark
import pytest

from benchmarks.memory import MemoryWatch
from pacspark.archive import create_archive
from tests.conftest import REPOSITORY
from tests.scan_files import write_phantom_scan
from tests.servers import HdfsCluster, S3Server, StandaloneCluster, wait_until

SUBMIT = Path(pyspark.__file__).parent / "bin" / "spark-submit"
SIZE = ["--size", "24", "24", "20", "--voxel-mm", "1"]


def submit(properties: str, options: list[str], *arguments: str) -> str:
    """Run a command by spark-submit and give what it printed."""
    return submit_watched(properties, options, *arguments)[0]


def submit_watched(properties: str, options: list[str], *arguments: str) -> tuple[str, MemoryWatch]:
    """Run a command by spark-submit; give what it printed, and what it took of memory."""
    entry_point = subprocess.run(
        [sys.executable, "-m", "pacspark", "--entry-point"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return watched(
        str(SUBMIT),
        "--properties-file", str(REPOSITORY / "spark-conf" / f"{properties}.conf"),
        *options, entry_point, *arguments,
    )  # fmt: skip


def watched(*command: str) -> tuple[str, MemoryWatch]:
    """Run a command; give what it printed, and what it and its children took of memory."""
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watch = MemoryWatch(process.pid)
        try:
            output, errors = process.communicate(timeout=500)
        finally:
            process.kill()
            watch.stop()
    assert process.returncode == 0, errors[-3000:]
    return output, watch


def reconstruct_and_ask(root: str, properties: str, options: list[str], scan: Path) -> None:
    """Import, reconstruct and query by spark-submit, and check what is in the archive."""
    archive = create_archive(root)
    series_uid = archive.import_scan(scan).series_instance_uid
    output = submit(properties, options, "reconstruct", root, series_uid, *SIZE)
    ct_uid = output.split()[-1]
    assert archive.catalog.instances_of(ct_uid).num_rows == 20
    asked = submit(
        properties, options, "sql", root,
        "SELECT Modality, count(*) AS n FROM instances GROUP BY Modality ORDER BY Modality",
        "--json",
    )  # fmt: skip
    assert json.loads(asked.splitlines()[-1]) == [
        {"Modality": "CT", "n": 20},
        {"Modality": "XA", "n": 1},
    ]


@pytest.mark.slow
def test_submit__reconstructs_on_one_machine(tmp_path: Path) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    reconstruct_and_ask(str(tmp_path / "archive"), "local", [], scan)


@pytest.mark.slow
def test_submit__reconstructs_on_a_standalone_cluster(
    standalone_cluster: StandaloneCluster, tmp_path: Path
) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    options = ["--master", standalone_cluster.master, "--conf", "spark.driver.host=127.0.0.1"]
    reconstruct_and_ask(str(tmp_path / "archive"), "standalone", options, scan)


@pytest.mark.slow
def test_submit__reconstructs_on_hdfs_from_a_standalone_cluster(
    standalone_cluster: StandaloneCluster, hdfs_cluster: HdfsCluster, tmp_path: Path
) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    options = ["--master", standalone_cluster.master, "--conf", "spark.driver.host=127.0.0.1"]
    options += ["--conf", "spark.executor.cores=1", "--conf", "spark.executor.memory=512m"]
    reconstruct_and_ask(hdfs_cluster.new_root(), "yarn-hdfs", options, scan)


@pytest.mark.slow
def test_submit__reconstructs_on_s3(s3_server: S3Server, tmp_path: Path) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    options = []
    for name, value in (
        ("endpoint", s3_server.environment["AWS_ENDPOINT_URL"]),
        ("path.style.access", "true"),
        ("connection.ssl.enabled", "false"),
    ):
        options += ["--conf", f"spark.hadoop.fs.s3a.{name}={value}"]
    reconstruct_and_ask(s3_server.new_root(), "s3", options, scan)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["s3_server", "hdfs_cluster"])
def test_demo__runs_with_its_archive_on_a_server(
    request: pytest.FixtureRequest, server: str, tmp_path: Path
) -> None:
    root = request.getfixturevalue(server).new_root()
    command = [sys.executable, str(REPOSITORY / "examples" / "demo.py"), str(tmp_path), root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "reconstruction.png").stat().st_size > 50_000
    assert create_archive(root).find(level="series", Modality="CT").shape[0] == 2


@pytest.mark.slow
def test_submit__loses_a_worker_and_makes_the_same_objects(tmp_path: Path) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    digests = []
    for killed in (False, True):
        root = tmp_path / f"archive-{killed}"
        archive = create_archive(root)
        series_uid = archive.import_scan(scan).series_instance_uid
        folder = tmp_path / f"cluster-{killed}"
        folder.mkdir()
        with StandaloneCluster(folder) as cluster, ThreadPoolExecutor(1) as thread:
            options = ["--master", cluster.master, "--conf", "spark.driver.host=127.0.0.1"]
            options += ["--conf", "spark.executor.memory=512m"]
            command = ["reconstruct", str(root), series_uid, "--size", "160", "160", "160"]
            command += ["--voxel-mm", "0.15"]
            done = thread.submit(submit, "standalone", options, *command)
            if killed:
                # of a job, not of a server: on a busy machine its start alone takes minutes
                first = partial(slab_marks, root)
                wait_until(first, "the first slab", cluster.processes, seconds=300)
                assert not done.done()
                cluster.kill_worker(0)
            ct_uid = done.result().split()[-1]
        rows = archive.catalog.instances_of(ct_uid).to_pylist()
        digests.append({row["sop_instance_uid"]: row["sha256"] for row in rows})
    assert len(digests[0]) == 160
    assert digests[0] == digests[1]


def slab_marks(root: Path) -> bool:
    """Tell whether a task has told that a block of angles is done."""
    return any(root.glob("_progress/*/slab-*"))
