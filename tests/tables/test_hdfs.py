"""What hdfs-native lacks: times to the millisecond, and patience with a datanode that died."""

from collections.abc import Callable

import pyarrow.fs as pafs
import pytest

from pacspark.tables import hdfs
from pacspark.tables.hdfs import patiently
from pacspark.tables.storage import open_storage
from tests.servers import HdfsCluster

UNFINISHED = 'OperationFailed("Failed to complete file in time")'


def test_times__are_whole_milliseconds() -> None:
    for modified_ms in range(1795898182000, 1795898183000):
        found = hdfs._dated({"modification_time": modified_ms})
        assert pafs.FileInfo("x", mtime=found["mtime"]).mtime_ns == modified_ms * 1_000_000


def answer() -> object:
    return "a status"


def refuse() -> object:
    message = "Connection refused (os error 111)"
    raise OSError(message)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdfs, "_BETWEEN_S", 0)


@pytest.mark.usefixtures("hurried")
def test_write__is_tried_again_while_a_datanode_is_missed() -> None:
    errors = iter([RuntimeError(UNFINISHED), OSError("Connection refused (os error 111)"), None])

    def write() -> str:
        if (error := next(errors)) is not None:
            raise error
        return "written"

    assert patiently(write, answer) == "written"


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("error", "ask", "patience_s"),
    [
        (RuntimeError("AccessControlException: permission denied"), answer, 660),
        (RuntimeError("SafeModeException: needs 2 live datanodes"), answer, 660),
        (RuntimeError(UNFINISHED), refuse, 660),
        (RuntimeError(UNFINISHED), answer, -1),
    ],
)
def test_write__ends_where_it_cannot_help(
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
    ask: Callable[[], object],
    patience_s: float,
) -> None:
    monkeypatch.setattr(hdfs, "NOTICED_S", patience_s)
    attempts = ["the only one"]

    def write() -> None:
        attempts.pop()
        raise error

    with pytest.raises(RuntimeError) as raised:
        patiently(write, ask)
    assert raised.value is error


def test_file__is_sent_whole_when_it_is_closed_and_not_without(hdfs_cluster: HdfsCluster) -> None:
    storage = open_storage(hdfs_cluster.new_root())
    storage.create_folder("folder")
    data = bytes(range(256)) * 100_000  # more than waits in memory
    with storage.filesystem.open_output_stream(storage.path("folder", "whole")) as stream:
        for start in range(0, len(data), 1 << 20):
            stream.write(data[start : start + (1 << 20)])
        stream.flush()
    with storage.filesystem.open_input_file(storage.path("folder", "whole")) as stream:
        assert stream.read() == data
    dropped = storage.filesystem.open_output_stream(storage.path("folder", "dropped"))
    dropped.write(b"half")
    del dropped
    found = storage.filesystem.get_file_info(pafs.FileSelector(storage.path("folder")))
    assert [info.base_name for info in found] == ["whole"]
