"""Which session is used, what a session made here is like, and what is said when none can be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pacspark.archive import create_archive
from pacspark.errors import MissingDependencyError, UsageError
from pacspark.spark import session as sessions
from pacspark.spark.session import (
    DELTA_PACKAGE,
    HADOOP_AWS_PACKAGE,
    SETTINGS,
    require_delta,
    require_java,
    s3a_properties,
    session_for,
)


class Conf:
    """The settings of a session, of which `require_delta` asks one."""

    def __init__(self, **values: str) -> None:
        self.values = {name.replace("_", "."): value for name, value in values.items()}

    def get(self, name: str, default: str = "") -> str:
        return self.values.get(name, default)


class Session:
    def __init__(self, conf: Conf) -> None:
        self.conf = conf


def java_that_says(folder: Path, version: str, status: int = 0) -> str:
    """Write a Java that only tells a version; return its JAVA_HOME."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\nexit {status}\n")
    program.chmod(0o755)
    return str(folder)


def test_session__is_the_given_one_untouched() -> None:
    given: Any = object()
    assert session_for("s3://bucket/archive", given) is given


def test_session__is_the_active_one_where_none_is_given(spark: SparkSession) -> None:
    assert session_for("archive") is spark


def test_session__is_that_of_spark_submit_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Builder:
        def getOrCreate(self) -> Any:  # noqa: N802 -- Spark's name
            made.append(object())
            return made[-1]

    class Sessions:
        builder = Builder()

        @staticmethod
        def getActiveSession() -> None:  # noqa: N802 -- Spark's name
            return None

    monkeypatch.setattr(sessions, "SparkSession", Sessions)
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    assert [session_for("archive")] == made


def test_made_session__has_the_settings_and_runs_this_python(spark: SparkSession) -> None:
    own = {name: spark.conf.get(name, None) for name in SETTINGS}
    assert own == dict(SETTINGS)
    require_delta(spark)

    def interpreter(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"path": [sys.executable]})

    rows = spark.range(1).mapInArrow(interpreter, "path string").collect()
    assert [row["path"] for row in rows] == [sys.executable]


def test_made_session__says_nothing_and_leaves_the_exit_status(tmp_path: Path) -> None:
    code = (
        "from pacspark.spark.session import local_session\n"
        "spark = local_session('local[1]', conf={'spark.sql.shuffle.partitions': '3'})\n"
        "print(spark.range(5).count(), spark.conf.get('spark.sql.shuffle.partitions'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 3\n", "")
    assert list(tmp_path.iterdir()) == []


def test_session__that_is_made_for_an_archive_is_told_of(tmp_path: Path) -> None:
    code = (
        "from pacspark.archive import create_archive\n"
        "archive = create_archive('archive')\n"
        "print(archive.spark is archive.spark is create_archive('archive').spark)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "True\n",
        "starting Spark (about 10 s)\n",
    )


def test_delta__is_asked_for_with_the_properties_to_set() -> None:
    without = cast(SparkSession, Session(Conf(spark_sql_extensions="org.example.Other")))
    with pytest.raises(UsageError, match=r"spark\.sql\.extensions=io\.delta") as error:
        require_delta(without)
    assert DELTA_PACKAGE in str(error.value)
    assert "\n" not in str(error.value)
    extensions = "org.example.Other,io.delta.sql.DeltaSparkSessionExtension"
    require_delta(cast(SparkSession, Session(Conf(spark_sql_extensions=extensions))))


@pytest.mark.parametrize("version", ["17", "17.0.15", "21.0.2"])
def test_java__is_good_from_17_on(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", java_that_says(tmp_path, version))
    require_java()


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.22", "nonsense"])
def test_java__that_is_older_is_told_in_one_line(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", java_that_says(tmp_path, version))
    with pytest.raises(MissingDependencyError, match="expected 17 or newer") as error:
        require_java()
    assert f"found {version}" in str(error.value)
    assert "openjdk-17" in str(error.value)
    assert "\n" not in str(error.value)


def test_java__that_is_missing_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="found none") as error:
        require_java()
    assert "\n" not in str(error.value)


def test_s3a__takes_what_the_other_libraries_read() -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:7070",
        "AWS_REGION": "eu-central-1",
        "PATH": "/usr/bin",
    }
    assert s3a_properties(environment) == {
        "spark.hadoop.fs.s3a.access.key": "key",
        "spark.hadoop.fs.s3a.secret.key": "secret",
        "spark.hadoop.fs.s3a.endpoint": "http://127.0.0.1:7070",
        "spark.hadoop.fs.s3a.endpoint.region": "eu-central-1",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": "false",
    }
    amazon = s3a_properties({})
    assert "spark.hadoop.fs.s3a.endpoint" not in amazon
    assert "spark.hadoop.fs.s3a.connection.ssl.enabled" not in amazon


def test_jars__come_from_the_cache_or_else_from_maven_central(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACSPARK_CACHE", str(tmp_path))
    fetched = sessions._jar_properties(s3=True)
    assert fetched["spark.jars.packages"] == f"{DELTA_PACKAGE},{HADOOP_AWS_PACKAGE}"
    assert "spark.jars" not in fetched

    jar = tmp_path / "jars" / "delta" / "delta.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    assert sessions._jar_properties(s3=False) == {"spark.jars": str(jar)}
    half = sessions._jar_properties(s3=True)
    assert half["spark.jars"] == str(jar)
    assert half["spark.jars.packages"] == HADOOP_AWS_PACKAGE


def test_cache__is_in_the_home_folder_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACSPARK_CACHE", raising=False)
    monkeypatch.setenv("HOME", os.sep + "somewhere")
    assert sessions.jar_folder("s3") == Path("/somewhere/.cache/pacspark/jars/s3")


def test_interrupt__while_spark_begins_leaves_no_process(tmp_path: Path) -> None:
    create_archive(tmp_path / "archive")
    command = [sys.executable, "-m", "pacspark", "sql", str(tmp_path / "archive"), "SELECT 1"]
    with subprocess.Popen(command, start_new_session=True) as process:
        while not (begun := _sparks_of(process.pid)):
            assert process.poll() is None, "the command ended before it could be interrupted"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(120) == 130
    _, left = psutil.wait_procs(begun, timeout=60)
    for one in left:
        one.kill()
    assert not left


def _sparks_of(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if "org.apache.spark.deploy.SparkSubmit" in child.cmdline():
                found.append(child)
    return found
