"""Files that come into their place whole: written beside it, checked there, then put in place."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import pyarrow.fs as pafs

from pacspark.errors import StorageError
from pacspark.tables.forward import ForwardReader
from pacspark.tables.storage import Storage

_SERVER_COPY_BYTES: Final = 4 << 30
"""An object store copies by itself what is not larger."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A file beside its place.

    Attributes
    ----------
    storage, path
        where it lies meanwhile
    """

    storage: Storage
    path: str

    def write(self, put: Callable[[Any], None]) -> None:
        """Write it, durably.

        Parameters
        ----------
        put
            gets the stream
        """
        with self.storage.errors("write a file beside its place"):
            with self.storage.filesystem.open_output_stream(self.path) as stream:
                put(stream)
            self.storage.make_durable(self.path)

    def place(self, path: str, *, is_new: bool = False) -> None:
        """Put it in place of whatever is there, in one step, durably.

        Parameters
        ----------
        path
            where it belongs
        is_new
            only where nothing is; object stores are asked just before

        Raises
        ------
        StorageError
            where the storage fails, or there is something
        """
        storage = self.storage
        with storage.errors("put a file in its place"):
            if is_new and storage.filesystem.get_file_info(path).is_file:
                raise FileExistsError(path)
            if storage.kind == "local" and is_new:
                os.link(self.path, path)
                storage.make_durable(path)
            elif storage.kind == "local":
                os.replace(self.path, path)  # noqa: PTH105 -- a path of the file system's
                storage.make_durable(path)
            elif storage.kind == "hdfs":
                storage.filesystem.handler.fs.mv(self.path, path, overwrite=not is_new)
            elif _size(storage, self.path) <= _SERVER_COPY_BYTES:
                storage.filesystem.copy_file(self.path, path)
            else:
                with storage.filesystem.open_output_stream(path) as stream:
                    copy_bytes(storage, self.path, stream)


@contextmanager
def draft(storage: Storage, run_id: str) -> Iterator[Draft]:
    """Give a new draft under ``ROOT/_scratch/RUN``, which goes with the block."""
    folder = storage.path("_scratch", run_id)
    with storage.errors("make a folder for files of a run"):
        storage.filesystem.create_dir(folder, recursive=True)
    one = Draft(storage, f"{folder}/{uuid.uuid4().hex}")
    try:
        yield one
    finally:
        with suppress(StorageError), storage.errors("remove a file of a run"):
            if storage.filesystem.get_file_info(one.path).is_file:
                storage.filesystem.delete_file(one.path)


def copy_bytes(storage: Storage, path: str, stream: Any) -> None:
    """Write the bytes of a file into a stream, a few megabytes at a time.

    Raises
    ------
    OSError
        where they cannot be read
    """
    size_bytes = _size(storage, path)
    with ForwardReader(storage, path) as reader:
        reader.plan([(0, size_bytes)])
        for view in reader.views(0, size_bytes):
            stream.write(view)


def _size(storage: Storage, path: str) -> int:
    info = storage.filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        message = f"{path}: no such file"
        raise FileNotFoundError(message)
    return int(info.size or 0)
