"""What a plan may use, from Spark's properties and the kernel's limits."""

import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pacspark.archive import cluster_of
from pacspark.errors import UsageError
from pacspark.spark.cluster import (
    Cluster,
    Machine,
    cluster_of_properties,
    limited,
    parse_bytes,
    this_machine,
)

GIB = 1 << 30
MACHINE = Machine(cores=16, memory_bytes=64 * GIB)
YARN = "master=yarn executor.cores=4 executor.instances=8"


def properties(text: str) -> dict[str, str]:
    return {f"spark.{name}": value for name, value in (word.split("=") for word in text.split())}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", Cluster(1, 16, 32 * GIB)),
        ("master=local", Cluster(1, 1, 32 * GIB)),
        ("master=local[*]", Cluster(1, 16, 32 * GIB)),
        ("master=local[3]", Cluster(1, 3, 32 * GIB)),
        ("master=local[6,2] task.cpus=2", Cluster(1, 3, 32 * GIB)),
        ("master=local[*,4] executor.pyspark.memory=8g", Cluster(1, 16, 8 * GIB)),
        # executors of a cluster do not follow the cores of the driver's machine
        (f"{YARN} executor.memoryOverhead=8g", Cluster(8, 4, 8 * GIB)),
        (f"{YARN} executor.memoryOverhead=6144", Cluster(8, 4, 6 * GIB)),
        (f"{YARN} executor.memoryOverhead=8g task.cpus=2", Cluster(8, 2, 8 * GIB)),
        (f"{YARN} executor.pyspark.memory=5g executor.memoryOverhead=9g", Cluster(8, 4, 5 * GIB)),
        (YARN, Cluster(8, 4, 384 << 20)),
        (f"{YARN} executor.memory=20g", Cluster(8, 4, 2 * GIB)),
        (f"{YARN} executor.memory=20g executor.memoryOverheadFactor=0.5", Cluster(8, 4, 10 * GIB)),
        (f"{YARN} executor.minMemoryOverhead=1g", Cluster(8, 4, GIB)),
        ("master=k8s://api executor.memory=10g executor.instances=3", Cluster(3, 1, 4 * GIB)),
        (
            (
                f"{YARN} executor.memoryOverhead=8g dynamicAllocation.enabled=true "
                "dynamicAllocation.maxExecutors=50"
            ),
            Cluster(50, 4, 8 * GIB),
        ),
        (
            (
                f"{YARN} executor.memoryOverhead=8g dynamicAllocation.enabled=false "
                "dynamicAllocation.maxExecutors=50"
            ),
            Cluster(8, 4, 8 * GIB),
        ),
        # a standalone master tells no memory: as much per core as here
        ("master=spark://host:7077 cores.max=12 executor.cores=4", Cluster(3, 4, 8 * GIB)),
        ("master=spark://host:7077 executor.cores=4", Cluster(6, 4, 8 * GIB)),
        ("master=spark://host:7077", Cluster(24, 1, 2 * GIB)),
        ("master=spark://host:7077 executor.cores=64", Cluster(1, 64, 128 * GIB)),
    ],
)
def test_cluster__is_that_of_the_session(given: str, expected: Cluster) -> None:
    assert cluster_of_properties(properties(given), MACHINE, parallelism=24) == expected


def test_cluster__of_a_real_session_and_what_is_given_instead(spark: SparkSession) -> None:
    found = cluster_of(spark=spark)
    assert (found.executors, found.cores_per_executor) == (1, 2)  # local[2]
    assert found.memory_per_executor_bytes == this_machine().memory_bytes // 2
    assert cluster_of(3, 5, GIB, spark) == Cluster(3, 5, GIB)


def test_cluster__is_this_machine_where_spark_is_not_installed() -> None:
    code = (
        "import sys\nsys.modules['pyspark'] = None\n"
        "from pacspark.archive import cluster_of\nprint(cluster_of().cores)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == f"{this_machine().cores}\n"


@pytest.mark.parametrize(
    ("files", "membership", "cores", "memory_gib"),
    [
        ({}, "", 16, 64),
        ({"cpu.max": "150000 100000", "memory.max": f"{4 * GIB}"}, "0::/", 2, 4),
        ({"cpu.max": "max 100000", "memory.max": "max"}, "0::/", 16, 64),
        ({"cpu.max": "10000 100000"}, "0::/", 1, 64),
        # the tightest limit of a group and those above it
        (
            {"a/memory.max": f"{8 * GIB}", "a/b/memory.max": "max", "a/b/cpu.max": "400000 100000"},
            "0::/a/b",
            4,
            8,
        ),
        # a container that sees its host's path, and its own group at the top
        ({"memory.max": f"{2 * GIB}"}, "0::/docker/123", 16, 2),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/app/memory.limit_in_bytes": f"{3 * GIB}",
                "cpu,cpuacct/app/cpu.cfs_quota_us": "800000",
                "cpu,cpuacct/app/cpu.cfs_period_us": "100000",
            },
            "4:memory:/app\n3:cpu,cpuacct:/app\n1:name=systemd:/",
            8,
            3,
        ),
        (
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            "2:cpu:/",
            16,
            64,
        ),
    ],
)
def test_machine__is_what_control_groups_leave(
    tmp_path: Path, files: dict[str, str], membership: str, cores: int, memory_gib: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert limited(MACHINE, tmp_path, membership) == Machine(cores, memory_gib * GIB)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8G", 8 * GIB),
        ("32", 32 * GIB),
        ("0.5", GIB // 2),
        ("512M", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("64b", 64),
        ("2 tb", 2 << 40),
    ],
)
def test_parse_bytes__reads_sizes_and_bare_gibibytes(text: str, size_bytes: int) -> None:
    assert parse_bytes(text, "g", "--memory") == size_bytes


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "0", "nan", "infG", "1X", "8 apples", "9" * 400, "1e9"]
)
def test_parse_bytes__refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--memory: expected a size like 8G"):
        parse_bytes(text, "g", "--memory")
