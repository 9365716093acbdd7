"""HDFS without a JVM: hdfs-native behind pyarrow, with the patience that it lacks.

When a datanode dies while a block is written, hdfs-native goes on with the others. Where the
namenode still names a dead one for a block that begins, it gives up, also inside delta-rs. The
namenode learns it from silence: after ten and a half minutes, unless it is told otherwise. So what
is written waits on this machine's disk, and is sent again until then.
"""

import io
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import pyarrow.fs as pafs
from deltalake.exceptions import DeltaError

from pacspark.errors import MissingDependencyError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")

LOGGER: Final = logging.getLogger(__name__)
NOTICED_S: Final = 660.0
"""So long after its last heartbeat, a namenode takes a datanode for dead, and a bit more."""
_BETWEEN_S: Final = 5.0
_IN_MEMORY_BYTES: Final = 16 << 20
# hdfs-native would try for three minutes too; this still outlasts a change of the active namenode
_NAMENODE_PATIENCE: Final = {"dfs.client.failover.max.attempts": "3"}
_DATANODE: Final = re.compile(
    "complete file in time|os error|all nodes failed|insufficient blocks|add a datanode"
    "|datanode connection closed",
    re.IGNORECASE,
)


def connect(authority: str) -> pafs.FileSystem:
    """Give the file system of a namenode, by host and port.

    Raises
    ------
    MissingDependencyError
        where hdfs-native or fsspec is missing
    """
    try:
        from hdfs_native.fsspec import HdfsFileSystem
    except ImportError as error:
        message = 'HDFS needs hdfs-native and fsspec: pip install "pacspark[hdfs]"'
        raise MissingDependencyError(message) from error

    class Patient(HdfsFileSystem):
        """Sends files again, and tells when they were written by the name that pyarrow knows."""

        def info(self, path: str, **more: Any) -> dict[str, Any]:
            return _dated(super().info(path, **more))

        def ls(self, path: str, detail: bool = True, **more: Any) -> list[Any]:
            found: list[Any] = super().ls(path, detail, **more)
            return [_dated(one) for one in found] if detail else found

        def _open(self, path: str, mode: str = "rb", *given: Any, **more: Any) -> Any:
            if mode != "wb":
                return super()._open(path, mode, *given, **more)
            begin = super()._open

            def send(spool: IO[bytes]) -> None:
                spool.seek(0)
                with begin(path, mode, *given, **more) as stream:
                    shutil.copyfileobj(spool, stream, _IN_MEMORY_BYTES)

            ask = partial(self.info, "/")
            return _Spooled(lambda spool: patiently(lambda: send(spool), ask))

    address = urlsplit(f"hdfs://{authority}")
    connection = Patient(address.hostname, address.port, **_NAMENODE_PATIENCE)
    return pafs.PyFileSystem(pafs.FSSpecHandler(connection))


def _dated(found: dict[str, Any]) -> dict[str, Any]:
    # a float of seconds can be a millisecond short
    return found | {"mtime": datetime.fromtimestamp(found["modification_time"] / 1000, UTC)}


def patiently(write: Callable[[], T], ask: Callable[[], object]) -> T:
    """Write, and again while a datanode seems to be dead that the namenode has not missed yet.

    Parameters
    ----------
    write
        can be repeated
    ask
        a question to the namenode, which must answer it
    """
    until = time.monotonic() + NOTICED_S
    while True:
        try:
            return write()
        except (OSError, RuntimeError, DeltaError) as error:
            is_datanode = _DATANODE.search(str(error)) is not None and _answers(ask)
            if not is_datanode or time.monotonic() > until:
                raise
            LOGGER.warning("HDFS: a datanode does not answer; writing again")
        time.sleep(_BETWEEN_S)


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except (OSError, RuntimeError):
        return False
    return True


class _Spooled(io.RawIOBase):
    """A file that is sent when it is closed."""

    def __init__(self, send: Callable[[IO[bytes]], None]) -> None:
        super().__init__()
        self._send = send
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 -- close
            _IN_MEMORY_BYTES
        )

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer") -> int:
        return self._spool.write(data)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        with self._spool:
            self._send(self._spool)

    def __del__(self) -> None:
        # who drops it without a close does not want it
        self._spool.close()
