"""Real servers for tests: S3, HDFS, Spark, Orthanc; on loopback, ended by their process ids."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

START_SECONDS = 90


def free_port() -> int:
    """Give a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    ready: Callable[[], bool],
    what: str,
    processes: list["subprocess.Popen[bytes]"],
    seconds: float = START_SECONDS,
) -> None:
    """Wait for an event, at most some seconds, and fail when a process ends meanwhile."""
    deadline = time.monotonic() + seconds
    while not ready():
        if any(process.poll() is not None for process in processes):
            message = f"{what}: a process ended with {[process.poll() for process in processes]}"
            raise RuntimeError(message)
        if time.monotonic() > deadline:
            message = f"{what}: not ready within {seconds} s"
            raise TimeoutError(message)
        time.sleep(0.05)


def answers(port: int) -> bool:
    """Tell whether somebody listens on a port of the loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Servers:
    """Processes that end with the block that began them; their output goes to one file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def begin(
        self, name: str, command: list[str], environment: dict[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start one process."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | environment
            )
        self.processes.append(process)
        return process

    def start(self) -> None:
        """Start and wait until ready."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End all processes, the last begun first."""
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def cache_folder() -> Path:
    """Give the folder of downloads outside the checkout."""
    return Path(os.environ.get("PACSPARK_CACHE") or Path.home() / ".cache" / "pacspark")


class S3Server(Servers):
    """versitygw on a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.bucket = "archives"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "pacspark",
            "AWS_SECRET_ACCESS_KEY": "pacspark-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
        }

    @staticmethod
    def program() -> Path | None:
        """Give the server's program where it is installed."""
        path = cache_folder() / "bin" / "versitygw"
        return path if path.exists() else None

    def start(self) -> None:
        """Start on a free port, with one bucket."""
        data = self.folder / "data"
        (data / self.bucket).mkdir(parents=True)
        self.listen()

    def listen(self) -> None:
        """Start the server's process, the first time or again after `drop`."""
        data = self.folder / "data"
        command = [
            str(self.program()),
            "--access", self.environment["AWS_ACCESS_KEY_ID"],
            "--secret", self.environment["AWS_SECRET_ACCESS_KEY"],
            "--port", f"127.0.0.1:{self.port}",
            "posix", str(data),
        ]  # fmt: skip
        self.begin("versitygw", command, {})
        wait_until(lambda: answers(self.port), "S3", self.processes)

    def drop(self) -> None:
        """End the server in the middle of whatever it answers."""
        process = self.processes.pop()
        process.kill()
        process.wait()

    def new_root(self) -> str:
        """Give the URL of an archive that does not exist yet."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}"


class Orthanc(Servers):
    """Orthanc, another archive, with its DICOMweb plugin; it knows the modalities it is told of."""

    def __init__(self, folder: Path, **settings: object) -> None:
        super().__init__(folder)
        self.port, self.http_port = free_port(), free_port()
        self.settings = settings

    @staticmethod
    def program() -> Path | None:
        """Give the program where it is unpacked."""
        path = cache_folder() / "bin" / "Orthanc"
        return path if path.exists() else None

    def start(self) -> None:
        """Start as it comes, on loopback and free ports."""
        plugins = cache_folder() / "orthanc" / "usr" / "share" / "orthanc" / "plugins"
        settings = {
            "StorageDirectory": str(self.folder / "orthanc"),
            "IndexDirectory": str(self.folder / "orthanc"),
            "DicomPort": self.port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomTlsEnabled": False,
            "Plugins": [str(plugins / "libOrthancDicomWeb.so")],
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(settings | self.settings))
        self.begin("orthanc", [str(self.program()), str(path)], {})
        wait_until(
            lambda: answers(self.port) and answers(self.http_port), "Orthanc", self.processes
        )


class HdfsCluster(Servers):
    """A namenode and datanodes, each a process of its own."""

    WATCHFUL: Final = {
        "dfs.heartbeat.interval": "1",
        "dfs.namenode.heartbeat.recheck-interval": "1000",
    }
    """Settings with which the namenode misses a datanode after 12 s, not after ten minutes."""

    def __init__(
        self, folder: Path, n_datanodes: int = 2, properties: dict[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        self.properties = properties or {}
        self.port = free_port()
        self.http_port = free_port()
        self.n_datanodes = n_datanodes
        self.datanodes: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def jars() -> list[Path]:
        """Give the daemons' jars where they are installed."""
        return sorted((cache_folder() / "jars" / "hdfs").glob("*.jar"))

    def start(self) -> None:
        """Format, start, and wait until every datanode is known."""
        conf = self.folder / "conf"
        conf.mkdir()
        self.write_configuration(
            conf / "core-site.xml", {"fs.defaultFS": f"hdfs://127.0.0.1:{self.port}"}
        )
        properties = {
            "dfs.namenode.name.dir": (self.folder / "name").as_uri(),
            "dfs.replication": str(self.n_datanodes),
            "dfs.namenode.rpc-bind-host": "127.0.0.1",
            "dfs.namenode.http-address": f"127.0.0.1:{self.http_port}",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.namenode.safemode.extension": "0",
            "dfs.permissions.enabled": "false",
            **self.properties,
        }
        self.write_configuration(conf / "hdfs-site.xml", properties)
        path = ":".join([str(conf), *(str(jar) for jar in self.jars())])
        java = ["java", "-Xmx256m", "-cp", path]
        namenode = "org.apache.hadoop.hdfs.server.namenode.NameNode"
        subprocess.run(
            [*java, namenode, "-format", "-force", "-nonInteractive"],
            check=True, capture_output=True, timeout=START_SECONDS,
        )  # fmt: skip
        self.begin("namenode", [*java, namenode], {})
        for number in range(self.n_datanodes):
            self.datanodes.append(self.begin_datanode(number))
        wait_until(
            lambda: self.state("NumLiveDataNodes") >= self.n_datanodes, "HDFS", self.processes
        )

    def begin_datanode(self, number: int) -> "subprocess.Popen[bytes]":
        path = ":".join([str(self.folder / "conf"), *(str(jar) for jar in self.jars())])
        command = ["java", "-Xmx256m", "-cp", path]
        command += ["org.apache.hadoop.hdfs.server.datanode.DataNode"]
        for name, value in (
            ("dfs.datanode.data.dir", (self.folder / f"data{number}").as_uri()),
            ("dfs.datanode.address", "127.0.0.1:0"),
            ("dfs.datanode.ipc.address", "127.0.0.1:0"),
            ("dfs.datanode.http.address", "127.0.0.1:0"),
        ):
            command += ["-D", f"{name}={value}"]
        return self.begin(f"datanode{number}", command, {})

    def new_root(self) -> str:
        """Give the URL of an archive that does not exist yet."""
        return f"hdfs://127.0.0.1:{self.port}/{uuid.uuid4().hex}"

    def kill_datanode(self, number: int) -> None:
        """End one datanode as a power cut would."""
        self.datanodes[number].kill()
        self.datanodes[number].wait()
        self.processes.remove(self.datanodes[number])

    def revive_datanode(self, number: int) -> None:
        """Start a datanode again, and wait until the namenode knows of it, at its new port."""
        before = self.addresses()
        process = self.datanodes[number] = self.begin_datanode(number)
        wait_until(lambda: bool(self.addresses() - before), "datanode", [process])

    def addresses(self) -> set[str]:
        """Give where the namenode believes datanodes to be."""
        nodes = json.loads(self._bean("NameNodeInfo").get("LiveNodes", "{}"))
        return {node["xferaddr"] for node in nodes.values()}

    def state(self, name: str) -> int:
        """Give a number of the namenode's state; 0 while it does not answer."""
        return int(self._bean("FSNamesystemState").get(name, 0))

    def _bean(self, name: str) -> dict[str, Any]:
        query = f"jmx?qry=Hadoop:service=NameNode,name={name}"
        try:
            url = f"http://127.0.0.1:{self.http_port}/{query}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                beans: list[dict[str, Any]] = json.load(answer)["beans"]
        except (OSError, ValueError):
            return {}
        return beans[0] if beans else {}

    @staticmethod
    def write_configuration(path: Path, properties: dict[str, str]) -> None:
        rows = "".join(
            f"<property><name>{name}</name><value>{value}</value></property>"
            for name, value in properties.items()
        )
        path.write_text(f"<configuration>{rows}</configuration>")


class StandaloneCluster(Servers):
    """A Spark master and workers of one core each, from the classes in the pyspark wheel."""

    def __init__(self, folder: Path, n_workers: int = 2) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.n_workers = n_workers
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def master(self) -> str:
        """The master's URL."""
        return f"spark://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until every worker is known."""
        import pyspark

        home = Path(pyspark.__file__).parent
        environment = {
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_HOME": str(home),
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_DAEMON_MEMORY": "256m",
        }
        launch = str(home / "bin" / "spark-class")
        master = [launch, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1"]
        self.begin("master", [*master, "--port", str(self.port), "--webui-port", "0"], environment)
        wait_until(lambda: answers(self.port), "Spark master", self.processes)
        for number in range(self.n_workers):
            command = [
                launch, "org.apache.spark.deploy.worker.Worker",
                "--host", "127.0.0.1", "--webui-port", "0", "--cores", "1", "--memory", "1g",
                "--work-dir", str(self.folder / f"work{number}"), self.master,
            ]  # fmt: skip
            self.workers.append(self.begin(f"worker{number}", command, environment))
        wait_until(self._registered, "Spark workers", self.processes)

    def kill_worker(self, number: int) -> None:
        """End one worker, its executors and their Python workers as a power cut would."""
        worker = psutil.Process(self.workers[number].pid)
        for process in [worker, *worker.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.workers[number].wait()
        self.processes.remove(self.workers[number])

    def _registered(self) -> bool:
        log = (self.folder / "master.log").read_text(errors="replace")
        return log.count("Registering worker") >= self.n_workers


class YarnCluster(Servers):
    """A resource manager and one node manager, which give containers on an HDFS cluster."""

    def __init__(self, folder: Path, hdfs: HdfsCluster) -> None:
        super().__init__(folder)
        self.hdfs = hdfs
        self.configuration = folder / "conf"
        self.web_port = free_port()

    @staticmethod
    def jars() -> list[Path]:
        """Give the daemons' jars where they are installed; they log through Spark's log4j."""
        import pyspark

        own = sorted((cache_folder() / "jars" / "yarn").glob("*.jar"))
        log4j = sorted((Path(pyspark.__file__).parent / "jars").glob("log4j-[1ac]*.jar"))
        return [*HdfsCluster.jars(), *own, *log4j] if own else []

    def start(self) -> None:
        """Start, and wait until the node is known."""
        self.configuration.mkdir()
        address = "127.0.0.1"
        shutil.copy(self.hdfs.folder / "conf" / "core-site.xml", self.configuration)
        properties = {
            "yarn.resourcemanager.hostname": address,
            "yarn.resourcemanager.webapp.address": f"{address}:{self.web_port}",
            **{
                f"yarn.resourcemanager.{name}.address": f"{address}:{free_port()}"
                for name in ("scheduler", "resource-tracker", "admin")
            },
            "yarn.resourcemanager.address": f"{address}:{free_port()}",
            "yarn.resourcemanager.scheduler.class": (
                "org.apache.hadoop.yarn.server.resourcemanager.scheduler.fifo.FifoScheduler"
            ),
            "yarn.nodemanager.hostname": address,
            "yarn.nodemanager.webapp.address": f"{address}:{free_port()}",
            "yarn.nodemanager.localizer.address": f"{address}:{free_port()}",
            "yarn.nodemanager.local-dirs": str(self.folder / "local"),
            "yarn.nodemanager.log-dirs": str(self.folder / "logs"),
            "yarn.nodemanager.resource.memory-mb": "4096",
            "yarn.nodemanager.resource.cpu-vcores": "4",
            "yarn.nodemanager.vmem-check-enabled": "false",
            # a full disk of the machine is none of this test's business
            "yarn.nodemanager.disk-health-checker.enable": "false",
            "yarn.scheduler.minimum-allocation-mb": "128",
        }
        HdfsCluster.write_configuration(self.configuration / "yarn-site.xml", properties)
        path = ":".join([str(self.configuration), *(str(jar) for jar in self.jars())])
        java = ["java", "-Xmx256m", "-cp", path]
        server = "org.apache.hadoop.yarn.server"
        self.begin("resource-manager", [*java, f"{server}.resourcemanager.ResourceManager"], {})
        self.begin("node-manager", [*java, f"{server}.nodemanager.NodeManager"], {})
        wait_until(self._registered, "YARN", self.processes)

    def _registered(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.web_port}/ws/v1/cluster/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return int(json.load(answer)["clusterMetrics"]["activeNodes"]) >= 1
        except (OSError, ValueError):
            return False

    def finished(self) -> list[str]:
        """Give how the applications that ran here ended."""
        url = f"http://127.0.0.1:{self.web_port}/ws/v1/cluster/apps"
        with urllib.request.urlopen(url, timeout=5) as answer:
            applications = json.load(answer)["apps"] or {"app": []}
        return [application["finalStatus"] for application in applications["app"]]
