"""Which files of `instances` can hold some values: by bounds in the log, then by what is in them.

UIDs are in no order, so where files were not sorted by compaction the bounds of nearly every file
hold nearly every UID. But a file has few different studies: their hashes are read once, since a
data file never changes, and kept in memory. To open a file costs more than these columns of it, so
all of them are read when the first is asked for.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Final

import pyarrow.compute as pc

from pacspark.tables.datafile import open_data_file
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

_FEW_PER_FILE: Final = ("patient_id", "study_instance_uid", "series_instance_uid")
_MOST_VALUES: Final = 64
"""For more values than this, most files are read anyhow."""
_READERS: Final = 8


def files_with(
    snapshot: Snapshot, where: Mapping[str, Sequence[Any]] | None = None
) -> list[ActiveFile]:
    """List the files that can hold rows with these values.

    Parameters
    ----------
    snapshot
        of `instances`
    where
        column -> wanted values; a row has to have one of them in every column
    """
    files = snapshot.files(where)
    for column, values in (where or {}).items():
        if column not in _FEW_PER_FILE or len(values) > _MOST_VALUES or len(files) < 2:
            continue
        wanted = {hash(value) for value in values}
        read = partial(_hashes, snapshot.storage)
        with ThreadPoolExecutor(_READERS) as readers:
            hashes = list(readers.map(read, files))
        files = [file for file, known in zip(files, hashes, strict=True) if wanted & known[column]]
    return files


@lru_cache(maxsize=1 << 16)
def _hashes(storage: Storage, file: ActiveFile) -> Mapping[str, frozenset[int]]:
    """Give the hashes of the different values of each column of `_FEW_PER_FILE`."""
    with open_data_file(storage, "instances", file.path, dictionaries=_FEW_PER_FILE) as reader:
        table = reader.read(columns=_FEW_PER_FILE, use_threads=False)
    return {
        name: frozenset(map(hash, pc.unique(table[name]).cast("string").to_pylist()))
        for name in _FEW_PER_FILE
    }
