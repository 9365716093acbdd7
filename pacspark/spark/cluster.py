"""What a plan may use: cores and memory of the session's executors, from its properties.

Pure functions: the properties are Spark's, the limits of this machine are the kernel's. Spark
counts as memory of Python workers what lies beside the JVM (``spark.executor.memoryOverhead``), or
what ``spark.executor.pyspark.memory`` grants them; in local mode it grants nothing, so workers get
half of the machine.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pacspark.ct.checks import require_count
from pacspark.errors import UsageError

PROPERTIES = (
    "spark.master",
    "spark.task.cpus",
    "spark.cores.max",
    "spark.executor.cores",
    "spark.executor.instances",
    "spark.executor.memory",
    "spark.executor.memoryOverhead",
    "spark.executor.memoryOverheadFactor",
    "spark.executor.minMemoryOverhead",
    "spark.executor.pyspark.memory",
    "spark.dynamicAllocation.enabled",
    "spark.dynamicAllocation.maxExecutors",
)
"""What `cluster_of_properties` looks at."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b)?")
_LOCAL = re.compile(r"local(?:\[\s*(\*|\d+)\s*(?:,\s*\d+\s*)?\])?")


MOST_OF_ALL = 1 << 60
"""Cores or bytes; no cluster has more, and plans are reckoned in floats."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a plan may use.

    Parameters
    ----------
    executors
        Number of executors, >= 1 (local mode is one).
    cores_per_executor
        Tasks that run at once in each, >= 1.
    memory_per_executor_bytes
        Memory for the Python workers of one executor; each running task gets an equal share.
    """

    executors: int = 1
    cores_per_executor: int = 2
    memory_per_executor_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        for name in ("executors", "cores_per_executor", "memory_per_executor_bytes"):
            require_count(f"cluster.{name}", getattr(self, name), MOST_OF_ALL, UsageError)

    @property
    def cores(self) -> int:
        """Tasks that run at once."""
        return self.executors * self.cores_per_executor

    @property
    def memory_per_task_bytes(self) -> int:
        """What one running task may hold."""
        return self.memory_per_executor_bytes // self.cores_per_executor


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores and memory that this process may use."""

    cores: int
    memory_bytes: int


def cluster_of_properties(
    properties: Mapping[str, str], machine: Machine, parallelism: int
) -> Cluster:
    """Describe the executors of a session.

    Parameters
    ----------
    properties
        Of `PROPERTIES` those that are set.
    machine
        This machine: it runs the tasks in local mode; where nothing tells how much memory workers
        of a cluster have, they are taken to have as much per core.
    parallelism
        Tasks that Spark says it runs at once, for clusters whose properties do not tell.
    """

    def number(name: str, default: int) -> int:
        text = properties.get(name, "")
        return int(text) if text.isdigit() else default

    def size_bytes(name: str) -> int | None:
        return parse_bytes(properties[name], "m", name) if properties.get(name) else None

    master = properties.get("spark.master", "local[*]")
    task_cpus = max(1, number("spark.task.cpus", 1))
    granted = size_bytes("spark.executor.pyspark.memory")
    half = machine.memory_bytes // 2
    local = _LOCAL.fullmatch(master)
    if local:
        cores = machine.cores if local[1] == "*" else int(local[1] or 1)
        memory_bytes = min(granted or half, half)
        return Cluster(1, max(1, cores // task_cpus), memory_bytes)
    cores = max(1, number("spark.executor.cores", 1))
    executors = number("spark.executor.instances", 0)
    executors = executors or number("spark.cores.max", parallelism) // cores
    if properties.get("spark.dynamicAllocation.enabled", "false").lower() == "true":
        executors = number("spark.dynamicAllocation.maxExecutors", executors)
    beside_jvm = size_bytes("spark.executor.memoryOverhead")
    if beside_jvm is None and master.startswith(("yarn", "k8s")):
        factor = float(
            properties.get("spark.executor.memoryOverheadFactor")
            or (0.4 if master.startswith("k8s") else 0.1)
        )
        beside_jvm = max(
            int(factor * (size_bytes("spark.executor.memory") or 1 << 30)),
            size_bytes("spark.executor.minMemoryOverhead") or 384 << 20,
        )
    return Cluster(
        executors=max(1, executors),
        cores_per_executor=max(1, cores // task_cpus),
        memory_per_executor_bytes=granted or beside_jvm or half * cores // machine.cores,
    )


def parse_bytes(text: str, unit: str, name: str) -> int:
    """Read a size like ``512M``, ``8G`` or ``8GiB`` as bytes.

    Parameters
    ----------
    text
        What was given.
    unit
        Of a bare number: k, m, g, t or p.
    name
        What the message of an error calls it.

    Raises
    ------
    UsageError
        When it is no size, or none at all.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    size_bytes = 0.0
    if found:
        power = " kmgtp".index(found[2] or (" " if found[3] else unit))
        size_bytes = float(found[1]) * 1024**power
    if not 1 <= size_bytes <= MOST_OF_ALL:
        message = f"{name}: expected a size like 8G or 512M, found {text!r}"
        raise UsageError(message)
    return int(size_bytes)


def this_machine() -> Machine:
    """Return the cores and the memory that this process may use: those of its container, if any."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return limited(
        Machine(len(os.sched_getaffinity(0)), memory_bytes),
        Path("/sys/fs/cgroup"),
        _read(Path("/proc/self/cgroup")),
    )


def limited(machine: Machine, mounted: Path, membership: str) -> Machine:
    """Cut a machine down to what control groups, version 1 or 2, leave of it.

    Parameters
    ----------
    machine
        The whole machine.
    mounted
        Where control groups are mounted.
    membership
        ``/proc/self/cgroup``: lines ``number:controllers:path``. A container may see a path of its
        host there, and its own group at the top of what is mounted.
    """
    cores, memory_bytes = float(machine.cores), machine.memory_bytes
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        for folder in _groups(mounted / controllers, path):
            quota, *period = _read(folder / "cpu.max").split() or [
                _read(folder / "cpu.cfs_quota_us"),
                *_read(folder / "cpu.cfs_period_us").split(),
            ]
            if quota.strip().isdigit() and period:
                cores = min(cores, int(quota) / int(period[0]))
            for name in ("memory.max", "memory.limit_in_bytes"):
                limit = _read(folder / name).strip()
                if limit.isdigit():
                    memory_bytes = min(memory_bytes, int(limit))
    return Machine(math.ceil(cores), memory_bytes)  # as Java counts them for local[*]


def _groups(hierarchy: Path, path: str) -> Iterator[Path]:
    """Yield a group and those above it: each limits what is below."""
    group = hierarchy / path.strip("/")
    yield group
    yield from (above for above in group.parents if above.is_relative_to(hierarchy))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
