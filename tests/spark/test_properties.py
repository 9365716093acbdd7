"""The properties that ship in spark-conf/: complete, alike, and understood by what reads them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyspark
import pytest

from pacspark.archive import create_archive
from pacspark.spark.session import (
    DELTA_PACKAGE,
    EXCLUDED_PACKAGES,
    HADOOP_AWS_PACKAGE,
    SETTINGS,
    jar_folder,
)
from tests.conftest import REPOSITORY, missing
from tests.scan_files import write_phantom_scan
from tests.servers import HdfsCluster, S3Server, YarnCluster

CONF = REPOSITORY / "spark-conf"
FILES = sorted(CONF.glob("*.conf"))
# where the driver is reached differs from cluster to cluster
OF_ONE_MACHINE = {"spark.driver.host", "spark.driver.bindAddress", "spark.ui.enabled"}
COUNT = "SELECT Modality, count(*) AS n FROM instances GROUP BY Modality ORDER BY Modality"


def properties(path: Path) -> dict[str, str]:
    """Read a properties file; each name once, each with a value."""
    read: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, value = line.split(maxsplit=1)
            assert name.startswith("spark.")
            assert name not in read
            read[name] = value
    return read


def submit(conf: str, jars: list[str], options: list[str], *arguments: str, **env: str) -> Any:
    """Run a command by `spark-submit`; return the JSON value that it printed.

    The jars that the file names by their packages come from the cache.
    """
    found = [str(jar) for name in jars for jar in sorted(jar_folder(name).glob("*.jar"))]
    if not found:
        missing("jars of " + " and ".join(jars))
    done = subprocess.run(
        [
            str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
            "--properties-file", str(CONF / conf),
            "--conf", "spark.jars.packages=", "--conf", f"spark.jars={','.join(found)}",
            *options, str(REPOSITORY / "pacspark" / "__main__.py"), *arguments, "--json",
        ],
        check=False, capture_output=True, text=True,
        env=os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"} | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def imported_scan(root: str, folder: Path) -> str:
    path, _ = write_phantom_scan(folder / "scan")
    return create_archive(root).import_scan(path).series_instance_uid


def test_files__are_those_of_the_documented_clusters() -> None:
    assert [path.stem for path in FILES] == ["local", "s3", "standalone", "yarn-hdfs"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file__has_the_settings_and_packages_of_a_session_made_here(path: Path) -> None:
    given = properties(path)
    packages = {DELTA_PACKAGE} | ({HADOOP_AWS_PACKAGE} if path.stem == "s3" else set())
    assert set(given["spark.jars.packages"].split(",")) == packages
    assert given["spark.jars.excludes"] == EXCLUDED_PACKAGES
    common = {name: value for name, value in SETTINGS.items() if name not in OF_ONE_MACHINE}
    assert common.items() <= given.items()


@pytest.mark.slow
def test_s3_conf__takes_address_and_keys_from_the_environment(
    s3_server: S3Server, tmp_path: Path
) -> None:
    root = s3_server.new_root()
    imported_scan(root, tmp_path)
    asked = submit(
        "s3.conf", ["delta", "s3"], ["--master", "local[2]"],
        "sql", root, COUNT, **s3_server.environment,
    )  # fmt: skip
    assert asked == [{"Modality": "XA", "n": 1}]


@pytest.mark.slow
def test_yarn_hdfs_conf__reconstructs_in_containers_of_yarn(
    hdfs_cluster: HdfsCluster, tmp_path: Path
) -> None:
    if not YarnCluster.jars():
        missing("yarn")
    root = hdfs_cluster.new_root()
    scan = imported_scan(root, tmp_path)
    with YarnCluster(tmp_path, hdfs_cluster) as yarn:
        options = ["--num-executors", "1", "--executor-cores", "2"]
        options += ["--conf", "spark.executor.memoryOverhead=1g"]
        where = {"HADOOP_CONF_DIR": str(yarn.configuration)}
        made = submit(
            "yarn-hdfs.conf", ["delta"], options,
            "reconstruct", root, scan, "--size", "16", "16", "8", "--voxel-mm", "2", **where,
        )  # fmt: skip
        assert len(made) == 1
        asked = submit("yarn-hdfs.conf", ["delta"], options, "sql", root, COUNT, **where)
        assert asked == [{"Modality": "CT", "n": 8}, {"Modality": "XA", "n": 1}]
        assert yarn.finished() == ["SUCCEEDED", "SUCCEEDED"]
