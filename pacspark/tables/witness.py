"""Witnesses: what was committed to a table is told of in the next commit of the same process.

A log that has lost its newest entries looks whole, since nothing within it says that there was
more. So each commit writes down, in its `userMetadata`, which entries its process has made since
the commit before, of whatever table, and their XXH3 as they lay there::

    instances   17 ── 18
                        ╲
    runs         4 ────── 5   "entries": {"instances/18": "a0b1..."}

By these an entry that is gone is told, one whose number another commit has taken, and one in which
a bit has changed (`tables.logfixity`). What a process commits last has no witness until a `verify`
has seen it.
"""

from collections.abc import Iterable
from threading import Lock
from typing import Final

from xxhash import xxh3_128_hexdigest

from pacspark.tables.logentries import read_entry
from pacspark.tables.storage import Storage

_lock: Final = Lock()
_pending: Final[dict[Storage, dict[str, str]]] = {}
"""By archive: XXH3 of entries, by table and version."""
_ids: Final[dict[tuple[Storage, str], str]] = {}


def add(storage: Storage, table: str, version: int, xxh3: str = "") -> None:
    """Take an entry that the next commit is to tell of, whatever table that is of.

    Parameters
    ----------
    storage, table, version
        which
    xxh3
        of the entry; it is read where that is not known
    """
    if not xxh3:
        try:
            xxh3 = xxh3_128_hexdigest(read_entry(storage, table, version))
        except (OSError, RuntimeError):
            return  # of a commit that succeeded: `verify` will be its witness
    with _lock:
        _pending.setdefault(storage, {}).setdefault(f"{table}/{version}", xxh3)


def pending(storage: Storage, table: str, table_id: str) -> dict[str, str]:
    """Give the XXH3 of each entry that was noted, by table and version.

    Parameters
    ----------
    storage
        the archive
    table, table_id
        to which there will be a commit: by its identifier another archive is told that stands in
        the same place now
    """
    with _lock:
        if _ids.setdefault((storage, table), table_id) != table_id:
            _pending.pop(storage, None)
            _ids[storage, table] = table_id
        return dict(_pending.get(storage, {}))


def forget(storage: Storage) -> None:
    """Forget all entries of an archive that was removed: another begins in its place."""
    with _lock:
        _pending.pop(storage, None)


def drop(storage: Storage, names: Iterable[str]) -> None:
    """Forget entries that a commit has told of."""
    with _lock:
        for name in names:
            _pending.get(storage, {}).pop(name, None)
