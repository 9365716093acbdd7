"""The files of a Delta log: an entry for each version, and checkpoints that sum entries up."""

import re
from typing import Final

import pyarrow.fs as pafs

from pacspark.tables.storage import Storage

_ENTRY: Final = re.compile(r"(\d{20})\.json")
_CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint(\..*)?\.parquet")


def entry_path(storage: Storage, table: str, version: int) -> str:
    """Give the path of the log's entry that made a version."""
    return storage.path(table, "_delta_log", f"{version:020}.json")


def checkpoint_path(storage: Storage, table: str, version: int) -> str:
    """Give the path of the file that sums a log up to a version, where it is one file."""
    return storage.path(table, "_delta_log", f"{version:020}.checkpoint.parquet")


def logged_versions(storage: Storage, table: str) -> tuple[set[int], set[int]]:
    """Give the versions of the entries and of the checkpoints that lie in a log.

    Raises
    ------
    StorageError
        where the storage fails
    """
    with storage.errors(f"list the log of {table}"):
        selector = pafs.FileSelector(storage.path(table, "_delta_log"), allow_not_found=True)
        names = [info.base_name for info in storage.filesystem.get_file_info(selector)]
    found = ([kind.fullmatch(name) for name in names] for kind in (_ENTRY, _CHECKPOINT))
    entries, checkpoints = ({int(one[1]) for one in matches if one} for matches in found)
    return entries, checkpoints


def read_entry(storage: Storage, table: str, version: int) -> bytes:
    """Read an entry of a log.

    Raises
    ------
    OSError, RuntimeError
        where it cannot be read
    """
    with storage.filesystem.open_input_stream(entry_path(storage, table, version)) as stream:
        data: bytes = stream.read()
    return data
