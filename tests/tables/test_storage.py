import errno
import os
import pickle
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from deltalake.exceptions import TableNotFoundError

from pacspark.errors import ArchiveNotFoundError, StorageError, UsageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import check_tables, create_tables
from pacspark.tables.storage import open_storage


@pytest.mark.parametrize(
    ("root", "table_uri", "spark_uri"),
    [
        ("/data/archive", "/data/archive/runs", "file:///data/archive/runs"),
        ("/data/archive/", "/data/archive/runs", "file:///data/archive/runs"),
        ("file:///data/my%20archive", "/data/my archive/runs", "file:///data/my archive/runs"),
        ("s3://bucket/a/b/", "s3://bucket/a/b/runs", "s3a://bucket/a/b/runs"),
        ("s3a://bucket", "s3://bucket/runs", "s3a://bucket/runs"),
        ("hdfs://name:9000/a", "hdfs://name:9000/a/runs", "hdfs://name:9000/a/runs"),
        ("hdfs://name:9000", "hdfs://name:9000/runs", "hdfs://name:9000/runs"),
    ],
)
def test_open_storage__addresses_a_table_for_each_engine(
    root: str, table_uri: str, spark_uri: str
) -> None:
    storage = open_storage(root)
    assert storage.table_uri("runs") == table_uri
    assert storage.spark_uri("runs") == spark_uri


def test_open_storage__takes_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("archive").path("runs") == str(tmp_path / "archive" / "runs")
    assert open_storage(Path("archive")).path() == str(tmp_path / "archive")


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("", "expected a folder or a URL"),
        ("a\0b", "expected a folder or a URL"),
        ("ftp://host/x", "found ftp://"),
        ("s3:///x", "expected s3://bucket/prefix"),
        ("hdfs:///x", "expected hdfs://host:port/path"),
        ("s3://bucket/../other", r"expected no \. or \.\."),
        ("s3://bucket/x?y=1", r"expected no \? or #"),
        ("file://host/x", "found the host host"),
    ],
)
def test_open_storage__refuses_what_is_no_root(root: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        open_storage(root)


@pytest.mark.parametrize("part", ["..", "a/../b", "", "/etc/passwd", "a//b", "a\0b", "a\\b", "."])
def test_path__stays_below_the_root(part: str) -> None:
    with pytest.raises(StorageError, match="expected a path below the root"):
        open_storage("/data/archive").path("objects", part)


def test_storage__is_picklable_and_equal_to_its_copy() -> None:
    storage = open_storage("s3://bucket/prefix")
    assert pickle.loads(pickle.dumps(storage)) == storage


def test_s3__takes_its_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "1")
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    storage = open_storage("s3://bucket/prefix")
    options = storage.delta_options
    assert options["AWS_REGION"] == "eu-central-1"
    assert options["AWS_ALLOW_HTTP"] == "true"
    assert options["conditional_put"] == "etag"
    assert isinstance(storage.filesystem, pafs.S3FileSystem)
    assert storage.filesystem.region == "eu-central-1"


def test_s3__refuses_plain_http_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    with pytest.raises(StorageError, match="set AWS_ALLOW_HTTP=true"):
        _ = open_storage("s3://bucket/prefix").filesystem


def test_create_tables__says_that_a_file_is_in_the_way(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.write_bytes(b"")
    with pytest.raises(StorageError, match=f"{root}: cannot create the archive: a file stands"):
        create_tables(open_storage(root))


def test_check_tables__says_how_to_make_an_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveNotFoundError, match=f"pacspark init {tmp_path}"):
        check_tables(open_storage(tmp_path))
    with pytest.raises(ArchiveNotFoundError, match=f"pacspark init {tmp_path}"):
        Catalog(open_storage(tmp_path)).known(["1.2.3"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied"), "no permission"),
        (OSError(errno.EROFS, "Read-only file system"), "the file system is read-only"),
        (OSError("Kernel error\n \x1b[31m\u21b3\x1b[0m deep reason"), "Kernel error deep reason"),
        (TableNotFoundError("no files in log segment"), "no archive here"),
    ],
)
def test_errors__are_one_line_with_the_root_and_the_fix(error: Exception, expected: str) -> None:
    storage = open_storage("/data/archive")
    with pytest.raises((StorageError, ArchiveNotFoundError)) as caught, storage.errors("do it"):
        raise error
    assert str(caught.value).startswith("/data/archive: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_errors__are_one_line_when_hdfs_refuses() -> None:
    storage = open_storage("hdfs://name:9000/archive")
    refusal = 'RPCError("org...AccessControlException", "Permission denied: user=x\\n\\tat org...")'
    with (
        pytest.raises(StorageError, match="hdfs://name:9000/archive: cannot do it: no permission"),
        storage.errors("do it"),
    ):
        raise RuntimeError(refusal)


def test_errors__lets_faults_of_the_program_through() -> None:
    with (
        pytest.raises(RuntimeError, match="a fault"),
        open_storage("/data/archive").errors("do it"),
    ):
        raise RuntimeError("a fault")


def test_archive__of_somebody_else_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    storage = open_storage(tmp_path)
    with pytest.raises(StorageError, match="no permission"), storage.errors("open the archive"):
        raise TableNotFoundError
