"""What a log says of data files, as it was written: the statistics of their add actions.

delta-rs hands on the names that it knows alone, so entries and checkpoint are read here. Of what
another engine summed up in several files, nothing is given.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from urllib.parse import unquote

import pyarrow.parquet as pq

from pacspark.tables.logentries import (
    checkpoint_path,
    entry_path,
    logged_versions,
    read_entry,
)
from pacspark.tables.seals import xxh3_in
from pacspark.tables.storage import Storage

_READERS: Final = 8
_SOUND: Final[dict[tuple[Storage, str], dict[str, bool]]] = {}
"""By table: whether what its log says of a file was as it was sealed when this process read it."""


def changed_since_sealed(storage: Storage, table: str, version: int, names: set[str]) -> set[str]:
    """Choose the files of which a log does not say what was sealed: their bounds may hide rows.

    What this process has read of a file once is not read again.

    Parameters
    ----------
    storage, table, version
        which log, up to where
    names
        of data files
    """
    known = _SOUND.setdefault((storage, table), {})
    for name, told in statistics(storage, table, version, names - known.keys()):
        try:
            xxh3_in(told)
        except ValueError:
            known[name] = False
        else:
            known[name] = True
    known |= dict.fromkeys(names - known.keys(), True)  # by another engine, in several files
    return {name for name in names if not known[name]}


def statistics(
    storage: Storage, table: str, version: int, names: set[str]
) -> Iterator[tuple[str, str]]:
    """Give the statistics of some data files, as they were written; the newest where there are two.

    Parameters
    ----------
    storage, table, version
        which log, up to where
    names
        of data files
    """
    left = set(names)
    for added in _added(storage, table, version) if left else ():
        for name, told in added:
            if name in left:
                left.discard(name)
                yield name, told
        if not left:
            return


def _added(storage: Storage, table: str, version: int) -> Iterator[list[tuple[str, str]]]:
    """Read what was added, from the newest entry back to a checkpoint."""
    read = partial(_of_entry, storage, table)
    with storage.errors(f"read the log of {table}"):
        newest = read(version)
    if newest is not None:
        yield newest
    with storage.errors(f"read the log of {table}"):
        checkpoints = logged_versions(storage, table)[1]
        summed = max((one for one in checkpoints if one <= version), default=-1)
        with ThreadPoolExecutor(_READERS) as readers:
            entries = list(readers.map(read, range(version - 1, summed, -1)))
    yield from (one for one in entries if one is not None)
    if summed >= 0:
        path = checkpoint_path(storage, table, summed)
        with (
            storage.errors(f"read the log of {table}"),
            storage.filesystem.open_input_file(path) as stream,
        ):
            reader = pq.ParquetFile(stream, page_checksum_verification=True)
            for batch in reader.iter_batches(columns=["add.path", "add.stats"]):
                adds = (add for add in batch["add"].to_pylist() if add and add["path"])
                yield [(unquote(add["path"]), add["stats"] or "") for add in adds]


def _of_entry(storage: Storage, table: str, version: int) -> list[tuple[str, str]] | None:
    if not storage.filesystem.get_file_info(entry_path(storage, table, version)).is_file:
        return None
    adds = [
        json.loads(line)["add"]
        for line in read_entry(storage, table, version).splitlines()
        if line.startswith(b'{"add"')
    ]
    return [(unquote(add["path"]), add.get("stats") or "") for add in adds]
