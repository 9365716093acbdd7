"""Spark sessions: the caller's own, untouched, or a quiet local one made on first need.

Ingest and reconstruction need no Delta in the session; only what reads tables through Spark does
(`Archive.instances`, `Archive.sql`).
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.sql import SparkSession

from pacspark.errors import JobError, MissingDependencyError, UsageError
from pacspark.progress import SILENT, Progress
from pacspark.spark.cluster import PROPERTIES, Cluster, cluster_of_properties, this_machine

DELTA_PACKAGE = "io.delta:delta-spark_4.2_2.13:4.4.0"
HADOOP_AWS_PACKAGE = "org.apache.hadoop:hadoop-aws:3.5.0"
EXCLUDED_PACKAGES = ",".join(
    (
        "org.apache.hadoop:hadoop-client-api",
        "org.apache.hadoop:hadoop-client-runtime",
        "org.apache.parquet:parquet-hadoop",
        "org.apache.logging.log4j:log4j-api",
        "org.apache.logging.log4j:log4j-core",
        "org.apache.logging.log4j:log4j-slf4j2-impl",
        "org.slf4j:slf4j-api",
        "com.fasterxml.jackson.core:jackson-annotations",
        "com.fasterxml.jackson.core:jackson-core",
        "com.fasterxml.jackson.core:jackson-databind",
        "org.roaringbitmap:RoaringBitmap",
        "org.roaringbitmap:shims",
    )
)
"""What Spark brings itself, in newer releases than Delta asks for."""
DELTA_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"
DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
SMALLEST_JAVA = 17
LOG_VARIABLE = "PACSPARK_SPARK_LOG"
LOG_TAIL = 4000

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "spark.driver.memory": "1g",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "8",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.extensions": DELTA_EXTENSION,
        "spark.sql.catalog.spark_catalog": DELTA_CATALOG,
    }
)
"""What a session made here gets unless told otherwise; good for a laptop."""


@contextmanager
def spark_alive() -> Iterator[None]:
    """Give the end of Spark's process while something runs in it as one line.

    Raises
    ------
    JobError
        When it ended; also when it fails in a way that Spark has no error for.
    """
    try:
        yield
    except Py4JJavaError as error:
        told = error.java_exception.getMessage() or "it ran out of memory or of stack"
        message = f"Spark failed: {told.strip().splitlines()[0]}"
        raise JobError(message) from error
    except (Py4JError, ConnectionError) as error:
        message = (
            "Spark ended unexpectedly: its process was killed or ran out of memory; the same "
            "command again finishes the work"
        )
        raise JobError(message) from error


def session_for(
    root: str, spark: SparkSession | None = None, progress: Progress = SILENT
) -> SparkSession:
    """Return the session to use for an archive.

    Parameters
    ----------
    root
        The archive; one on S3 needs S3A in a session that is made.
    spark
        The caller's session: it is returned as it is.
    progress
        Told where one is made, which takes seconds.

    Returns
    -------
    SparkSession
        The given one, else the active one, else the one of ``spark-submit``, else a new local one.
    """
    found = existing_session(spark)
    if found is None:
        progress.say("starting Spark (about 10 s)")
        found = local_session(s3=root.startswith(("s3://", "s3a://")))
    return found


@spark_alive()
def existing_session(spark: SparkSession | None = None) -> SparkSession | None:
    """Return the given session, else the active one, else the one of ``spark-submit``, if any."""
    found = spark or SparkSession.getActiveSession()
    # begun by spark-submit, whose properties are the truth
    if found is None and "PYSPARK_GATEWAY_PORT" in os.environ:
        return SparkSession.builder.getOrCreate()
    return found


@spark_alive()
def session_cluster(spark: SparkSession | None = None) -> Cluster:
    """Describe what a session's tasks may use; where there is no session yet, this machine."""
    session = existing_session(spark)
    if session is None:
        return cluster_of_properties({}, this_machine(), 1)
    found = {name: session.conf.get(name, None) for name in PROPERTIES}
    properties = {name: value for name, value in found.items() if value}
    # how a plan of Spark tells its parallelism: the context does not exist in Spark Connect
    explained = session.sql("EXPLAIN SELECT id FROM range(1)").collect()[0][0]
    told = re.search(r"splits=Some\((\d+)\)|splits=(\d+)", explained)
    parallelism = int(told[1] or told[2]) if told else 1
    return cluster_of_properties(properties, this_machine(), parallelism)


def local_session(
    master: str = "local[*]",
    app_name: str = "pacspark",
    conf: Mapping[str, str] | None = None,
    *,
    s3: bool = False,
) -> SparkSession:
    """Make a quiet session with Delta in this process.

    Parameters
    ----------
    master
        Spark's master.
    app_name
        Name of the application.
    conf
        Properties on top of `SETTINGS`.
    s3
        Whether Spark itself must read S3 (the AWS SDK is large).

    Raises
    ------
    MissingDependencyError
        When there is no Java that Spark 4.2 runs on.
    """
    require_java()
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    logging.getLogger("py4j").setLevel(logging.ERROR)
    logging.getLogger().addFilter(_is_not_of_py4j)
    properties = dict(SETTINGS) | _jar_properties(s3=s3) | _quiet_properties()
    if s3:
        properties |= s3a_properties(os.environ)
    builder = SparkSession.builder.appName(app_name).master(master)
    for name, value in (properties | dict(conf or {})).items():
        builder = builder.config(name, value)
    with _interrupts_wait(), _chatter_aside():
        return builder.getOrCreate()


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until Spark's process has begun.

    PySpark, interrupted before, takes the file away in which that process is about to say where it
    is, and the process then stays for ever.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    """Keep out what Py4J logs of a killed Spark, past its own logger; `spark_alive` tells of it."""
    return record.module != "java_gateway"


@spark_alive()
def require_delta(spark: SparkSession) -> None:
    """Check that a session can read Delta tables.

    Raises
    ------
    UsageError
        When it cannot; the message has the properties to set.
    """
    if DELTA_EXTENSION not in (spark.conf.get("spark.sql.extensions", "") or ""):
        message = (
            "spark: expected a session with Delta, found one without; start it with "
            f"--packages {DELTA_PACKAGE} --conf spark.sql.extensions={DELTA_EXTENSION} "
            f"--conf spark.sql.catalog.spark_catalog={DELTA_CATALOG}"
        )
        raise UsageError(message)


def require_java() -> None:
    """Check that Java 17 or newer is there.

    Raises
    ------
    MissingDependencyError
        When it is not; the message says what to install.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    found = "none"
    if java and Path(java).exists():
        told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
        found = next((part for part in told.stderr.split() if part.startswith('"')), '"?"').strip(
            '"'
        )
        major = found.split(".")[0]
        if major.isdigit() and int(major) >= SMALLEST_JAVA:
            return
    message = (
        f"Java: expected {SMALLEST_JAVA} or newer on PATH or in JAVA_HOME, found {found}; on "
        "Debian or Ubuntu: apt-get install openjdk-17-jre-headless"
    )
    raise MissingDependencyError(message)


def s3a_properties(environment: Mapping[str, str]) -> dict[str, str]:
    """Translate the ``AWS_*`` variables, which pyarrow and delta-rs read, for Spark's S3A."""
    prefix = "spark.hadoop.fs.s3a."
    endpoint = environment.get("AWS_ENDPOINT_URL", "")
    given = {
        "access.key": environment.get("AWS_ACCESS_KEY_ID", ""),
        "secret.key": environment.get("AWS_SECRET_ACCESS_KEY", ""),
        "session.token": environment.get("AWS_SESSION_TOKEN", ""),
        "endpoint": endpoint,
        "endpoint.region": environment.get("AWS_REGION") or "us-east-1",
        "path.style.access": "true" if endpoint else "",
        "connection.ssl.enabled": "false" if endpoint.startswith("http://") else "",
    }
    return {prefix + name: value for name, value in given.items() if value}


def jar_folder(name: str) -> Path:
    """Return where the set-up keeps the jars of ``delta`` or ``s3``, outside any checkout."""
    cache = os.environ.get("PACSPARK_CACHE") or str(Path.home() / ".cache" / "pacspark")
    return Path(cache) / "jars" / name


def _jar_properties(*, s3: bool) -> dict[str, str]:
    """Name jars that are on this machine; what is missing, Spark fetches from Maven Central."""
    wanted = {"delta": DELTA_PACKAGE} | ({"s3": HADOOP_AWS_PACKAGE} if s3 else {})
    jars = {name: sorted(jar_folder(name).glob("*.jar")) for name in wanted}
    missing = [package for name, package in wanted.items() if not jars[name]]
    properties = {}
    present = ",".join(str(jar) for found in jars.values() for jar in found)
    if present:
        properties["spark.jars"] = present
    if missing:
        properties["spark.jars.packages"] = ",".join(missing)
        properties["spark.jars.excludes"] = EXCLUDED_PACKAGES
    return properties


@contextmanager
def _chatter_aside() -> Iterator[None]:
    """Let the JVM that starts meanwhile write to a log, which is shown only when it fails.

    What Spark and its Python workers print for their whole life goes there too; what a user has to
    know comes as an exception. `PACSPARK_SPARK_LOG` names a file to keep it in.
    """
    kept = os.environ.get(LOG_VARIABLE)
    with Path(kept).open("a+b") if kept else tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(before, 2)
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-LOG_TAIL:])
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def _quiet_properties() -> dict[str, str]:
    config = Path(__file__).with_name("log4j2.properties")
    return {"spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={config.as_uri()}"}
