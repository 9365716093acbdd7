"""What became of `instances` between two of its versions: which came, which went.

::

    files of `since` ─┐
                      ├▶ files that only one of them lists ──▶ UIDs in one and not in the other
    files of `until` ─┘

Versions are compared, not commits: a file that was written anew with the same rows (compaction),
and an instance that came and went between the two, are no change. What both versions list is not
opened, and of the rest only the columns that are asked for are read; some 400 bytes of memory for
each row of a file that only one of them lists.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pacspark.errors import StorageError, UsageError
from pacspark.tables.schema import INSTANCES
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

CHANGE_COLUMNS: Final = ("sop_instance_uid", "series_instance_uid", "study_instance_uid")
"""What a change tells of an instance unless other columns are asked for."""
_IDENTITY: Final = ("sop_instance_uid", "sha256")


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference of two versions of `instances`.

    Attributes
    ----------
    since, until
        the versions
    added, removed
        rows that only the later, only the earlier one has. An instance whose bytes are others now
        is in both
    """

    since: int
    until: int
    added: pa.Table
    removed: pa.Table

    def __bool__(self) -> bool:
        """Tell whether anything changed."""
        return bool(self.added.num_rows or self.removed.num_rows)

    def to_table(self) -> pa.Table:
        """Give all as one table, what went before what came.

        The columns ``change`` (added or removed) and ``version`` (`until`) stand before the others.
        """
        parts = []
        for change, rows in (("removed", self.removed), ("added", self.added)):
            n = rows.num_rows
            rows = rows.add_column(0, "version", pa.array([self.until] * n, pa.int64()))  # noqa: PLW2901
            parts.append(rows.add_column(0, "change", pa.array([change] * n, pa.string())))
        return pa.concat_tables(parts)


def changes_between(
    storage: Storage,
    since: int,
    until: int | None = None,
    columns: Sequence[str] = CHANGE_COLUMNS,
) -> Changes:
    """Tell which instances came and went between two versions.

    Parameters
    ----------
    storage
        the archive
    since, until
        versions of `instances`, the earlier one first; None for the newest. Version 0 is empty
    columns
        of `instances`, to give of each row

    Raises
    ------
    UsageError
        where there are no such versions or columns
    StorageError
        where what the earlier version lists is not kept any more
    """
    after = _at(storage, until)
    before = _before(storage, since, after)
    return compare(before.version, before.files(), after, columns)


def follow(
    storage: Storage, since: int, columns: Sequence[str] = CHANGE_COLUMNS
) -> Iterator[Changes]:
    """Give the changes since a version, then, each time it is asked again, those since the last.

    It never waits: where nothing came between, the changes are empty.
    """
    now = _at(storage, None)
    before = _before(storage, since, now)
    version, files = before.version, before.files()
    while True:
        yield compare(version, files, now, columns)
        version, files = now.version, now.files()
        now.refresh()


def compare(
    since: int, files: Sequence[ActiveFile], after: Snapshot, columns: Sequence[str]
) -> Changes:
    """Tell what changed from a version, of which the files are known, to a snapshot.

    Parameters
    ----------
    since, files
        the earlier version of `instances`, and what it lists
    after
        the later one
    columns
        of `instances`, to give of each row
    """
    wanted = INSTANCES.require_columns(columns)
    listed, now = {file.path for file in files}, after.files()
    lists = {file.path for file in now}
    gone = [file for file in files if file.path not in lists]
    new = [file for file in now if file.path not in listed]
    names = list(dict.fromkeys([*wanted, *_IDENTITY]))
    added = after.read(names, None, new)
    if gone:  # else there is nothing to compare with: the common case of rows that came
        try:
            removed = after.read(names, None, gone)
        except StorageError as error:
            message = (
                f"{after.storage.root}: expected the files of version {since} of instances, found "
                f"that they are not kept any more: begin with all of version {after.version}"
            )
            raise StorageError(message) from error
        added, removed = _without(added, removed), _without(removed, added)
    else:
        removed = added.schema.empty_table()
    return Changes(since, after.version, added.select(wanted), removed.select(wanted))


def _before(storage: Storage, since: int, after: Snapshot) -> Snapshot:
    if not 0 <= since <= after.version:
        message = f"since: expected a version from 0 to {after.version}, found {since}"
        raise UsageError(message)
    return Snapshot(storage, INSTANCES.name, since)


def _at(storage: Storage, version: int | None) -> Snapshot:
    return Snapshot(storage, INSTANCES.name, version)


def _without(rows: pa.Table, others: pa.Table) -> pa.Table:
    """Give the rows whose instance, with these bytes, the others do not have."""
    return rows.filter(pc.invert(pc.is_in(_identities(rows), _identities(others))))


def _identities(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*(rows[name] for name in _IDENTITY), " ")
