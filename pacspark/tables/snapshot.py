"""One version of one table: its active files and which of them can hold a value.

Only what the Delta log lists is read; a file that lies beside it is nobody's.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pacspark.errors import UsageError
from pacspark.tables.logentries import entry_path
from pacspark.tables.logstatistics import changed_since_sealed
from pacspark.tables.schema import TABLES
from pacspark.tables.storage import Storage

_FORMAT: Final = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_BATCH_ROWS: Final = 1024


@dataclass(frozen=True, slots=True)
class ActiveFile:
    """A file that a version of a table lists.

    Attributes
    ----------
    path
        relative to the folder of the table
    size_bytes
        of the file
    """

    path: str
    size_bytes: int


class Snapshot:
    """One version of one table.

    Parameters
    ----------
    storage
        the archive
    name
        of the table
    as_of
        a version, a moment (UTC where it has no zone), or None for the newest

    Raises
    ------
    ArchiveNotFoundError
        where there is no such table
    UsageError
        where it has no such version
    """

    def __init__(self, storage: Storage, name: str, as_of: int | datetime | None = None) -> None:
        self.storage = storage
        self.spec = TABLES[name]
        self._actions: pa.Table | None = None
        self._unsealed: frozenset[int] | None = None
        with storage.errors(f"open the table {name}"):
            self.delta = DeltaTable(storage.table_uri(name), storage_options=storage.delta_options)
            newest = self.delta.version()
            if isinstance(as_of, int):
                if not 0 <= as_of <= newest:
                    message = f"as_of: expected a version from 0 to {newest}, found {as_of}"
                    raise UsageError(message)
                self._go_back(as_of)
            elif as_of is not None:
                self._go_back(as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC))
        self._known_entry = self._entry()

    def _go_back(self, as_of: int | datetime) -> None:
        try:
            self.delta.load_as_version(as_of)
        except DeltaError as error:
            selector = pafs.FileSelector(self.storage.path(self.spec.name, "_delta_log"))
            found = self.storage.filesystem.get_file_info(selector)
            names = [info.base_name for info in found if info.base_name.endswith(".json")]
            oldest = int(min(names).removesuffix(".json")) if names else 0
            if oldest:
                message = (
                    f"as_of: expected a version of {self.spec.name} from about {oldest} on, found "
                    f"{as_of}: what the log says of older ones is kept for a year"
                )
                raise UsageError(message) from error
            raise

    def require_kept(self) -> None:
        """Check that an old version still has its files: compaction deletes them after a time.

        What the newest version lists too is not asked about: if it is gone, it is lost.

        Raises
        ------
        UsageError
            where files are gone
        """
        name = self.spec.name
        with self.storage.errors(f"list the files of {name}"):
            selector = pafs.FileSelector(self.storage.path(name))
            there = {info.base_name for info in self.storage.filesystem.get_file_info(selector)}
        gone = {file.path for file in self.files() if "/" not in file.path} - there
        if gone:
            gone -= {file.path for file in Snapshot(self.storage, name).files()}
        if gone:
            message = (
                f"as_of: expected a version of {name} that is kept, found {self.version}, "
                f"{len(gone)} of whose files were deleted when their retention had ended"
            )
            raise UsageError(message)

    @property
    def version(self) -> int:
        """The version that this snapshot shows."""
        return int(self.delta.version())

    @property
    def table_id(self) -> str:
        """What tells this table from that of another archive, its replicas among them."""
        return str(self.delta.metadata().id)

    def refresh(self) -> bool:
        """Move on to the newest version; tell whether that is another one.

        A root may be another archive's since: a replica that was moved to its place, say. Its log
        is read from the start then, whatever its versions.
        """
        before, entry = self.version, self._entry()
        is_replaced = entry != self._known_entry
        with self.storage.errors(f"read the log of {self.spec.name}"):
            if is_replaced:
                uri, options = self.storage.table_uri(self.spec.name), self.storage.delta_options
                self.delta = DeltaTable(uri, storage_options=options)
            else:
                self.delta.update_incremental()
        is_other = is_replaced or self.version != before
        if is_other:
            self._actions = self._unsealed = None
            self._known_entry = self._entry()
        return is_other

    def _entry(self) -> tuple[int, ...] | None:
        """Give what tells the log's entry of this version from another archive's."""
        if self.storage.kind != "local":
            return None
        try:
            status = Path(entry_path(self.storage, self.spec.name, self.version)).stat()
        except OSError:
            return ()
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def files(self, where: Mapping[str, Sequence[Any]] | None = None) -> list[ActiveFile]:
        """List the active files that can hold rows with these values, judged by statistics.

        Parameters
        ----------
        where
            column -> wanted values; a row has to have one of them in every column
        """
        actions = self._add_actions()
        kept: Iterator[int] = iter(range(actions.num_rows))
        doubtful = self._doubtful() if where else frozenset()
        for name, values in (where or {}).items():
            if f"min.{name}" in actions.column_names and f"max.{name}" in actions.column_names:
                low, high = actions[f"min.{name}"].to_pylist(), actions[f"max.{name}"].to_pylist()
                wanted = sorted(values)
                kept = iter([i for i in kept if i in doubtful or _between(wanted, low[i], high[i])])
        paths, sizes = actions["path"].to_pylist(), actions["size_bytes"].to_pylist()
        return [ActiveFile(paths[i], sizes[i]) for i in kept]

    def _doubtful(self) -> frozenset[int]:
        """Give the numbers of the files whose bounds are not those that their writer sealed."""
        if self._unsealed is None:
            paths = self._add_actions()["path"].to_pylist()
            names = set(paths)
            changed = changed_since_sealed(self.storage, self.spec.name, self.version, names)
            self._unsealed = frozenset(i for i, path in enumerate(paths) if path in changed)
        return self._unsealed

    def files_by(self, column: str) -> list[ActiveFile]:
        """List the active files by the smallest value of a column; those without bounds first."""
        files, actions = self.files(), self._add_actions()
        name = f"min.{column}"
        if name not in actions.column_names:
            return files
        low = actions[name].to_pylist()
        order = sorted(range(len(files)), key=lambda i: (low[i] is not None, low[i], files[i].path))
        return [files[number] for number in order]

    def newest_files(self, count: int) -> list[ActiveFile]:
        """List the active files that were written last."""
        times = self._add_actions()["modification_time"].to_pylist()
        files = self.files()
        newest = sorted(range(len(files)), key=times.__getitem__)[-count:]
        return [files[number] for number in newest]

    def records(self) -> dict[str, int | None]:
        """Give the number of rows of each active file, None where the log has none."""
        actions = self._add_actions()
        counts = actions["num_records"].to_pylist()
        return dict(zip(actions["path"].to_pylist(), counts, strict=True))

    def bounds(self, file: ActiveFile) -> dict[str, tuple[Any, Any]]:
        """Give the smallest and largest value, by the log, of those columns that have both."""
        actions = self._add_actions()
        row = actions.filter(pc.equal(actions["path"], file.path)).to_pylist()[0]
        found = {
            name: (row.get(f"min.{name}"), row.get(f"max.{name}"))
            for name in self.spec.statistics_columns
        }
        return {name: pair for name, pair in found.items() if None not in pair}

    def read(
        self,
        columns: Sequence[str],
        where: ds.Expression | None = None,
        files: Sequence[ActiveFile] | None = None,
    ) -> pa.Table:
        """Read some columns of the rows that an expression keeps.

        Parameters
        ----------
        columns
            nothing else is read
        where
            None for all rows
        files
            the files to look into, from :meth:`files`; None for all
        """
        with self.storage.errors(f"read the table {self.spec.name}"):
            return self._dataset(files).to_table(columns=list(columns), filter=where)

    def batches(
        self,
        columns: Sequence[str],
        where: ds.Expression | None = None,
        files: Sequence[ActiveFile] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Read the same as :meth:`read`, a bounded number of rows at a time."""
        with self.storage.errors(f"read the table {self.spec.name}"):
            yield from self._dataset(files).to_batches(
                columns=list(columns), filter=where, batch_size=_BATCH_ROWS, batch_readahead=1
            )

    def _dataset(self, files: Sequence[ActiveFile] | None) -> ds.FileSystemDataset:
        # fragments of known size: an object store is not asked for each file's size first
        filesystem = self.storage.filesystem
        fragments = [
            _FORMAT.make_fragment(
                self.storage.path(self.spec.name, file.path), filesystem, file_size=file.size_bytes
            )
            for file in (self.files() if files is None else files)
        ]
        return ds.FileSystemDataset(fragments, self.spec.arrow_schema, _FORMAT, filesystem)

    def transaction_version(self, application: str) -> int | None:
        """Give the last transaction of an application that this version has seen."""
        version: int | None = self.delta.transaction_version(application)
        return version

    def _add_actions(self) -> pa.Table:
        if self._actions is None:
            with self.storage.errors(f"read the log of {self.spec.name}"):
                self._actions = pa.table(self.delta.get_add_actions(flatten=True))
        return self._actions


def _between(wanted: Sequence[Any], low: Any, high: Any) -> bool:
    """Tell whether a file whose values lie between two bounds can hold one of these."""
    if low is None or high is None:
        return True
    return bisect_left(wanted, low) < bisect_right(wanted, high)
