"""The tables of an archive are made, completed and checked; what was lost is not made anew."""

import re
from contextlib import suppress
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.schema import Schema

from pacspark.errors import StorageError
from pacspark.tables import witness
from pacspark.tables.logentries import entry_path
from pacspark.tables.schema import INSTANCES, TABLES, Column, TableSpec, configuration
from pacspark.tables.storage import Storage

_OF_TABLE: Final = re.compile(r"/(part-[^/]+\.parquet|\d{20}\.[^/]+)\Z")
"""Names of data files, and of entries and checkpoints of a log."""
_AT_ONCE: Final = CommitProperties(max_commit_retries=0)


def create_tables(storage: Storage) -> None:
    """Create the tables that are not there yet, and give those that are what older versions lacked.

    Safe to repeat, and for several processes at once: of two that create a table, one wins and the
    other finds it.

    Raises
    ------
    StorageError
        where the root cannot be written, or holds something else
    """
    with storage.errors("create the archive"):
        storage.create_folder("instances")
        for spec in TABLES.values():
            if _is_there(storage, spec):
                _complete(storage, spec)
                continue
            _require_never_there(storage, spec)
            if spec is INSTANCES:
                witness.forget(storage)
            with suppress(CommitFailedError):
                storage.patiently(partial(_create_table, storage, spec))
            storage.make_durable(entry_path(storage, spec.name, 0))
            storage.make_durable(storage.path(spec.name, "_delta_log"))
            storage.make_durable(storage.path(spec.name))
    check_tables(storage)


def _create_table(storage: Storage, spec: TableSpec) -> None:
    DeltaTable.create(
        storage.table_uri(spec.name),
        Schema.from_arrow(spec.arrow_schema),
        mode="ignore",
        name=spec.name,
        description=spec.description,
        configuration=configuration(spec),
        storage_options=storage.delta_options,
        # without retries: the slower of two creators would redefine the table of the faster one
        commit_properties=_AT_ONCE,
    )


def _is_there(storage: Storage, spec: TableSpec) -> bool:
    return DeltaTable.is_deltatable(storage.table_uri(spec.name), storage.delta_options)


def _require_never_there(storage: Storage, spec: TableSpec) -> None:
    """Check that what seems to be no table has not lost its log: made anew, all of it would be.

    Tables are made in their order, and what an older version lacks are the last ones.
    """
    selector = pafs.FileSelector(storage.path(spec.name), allow_not_found=True, recursive=True)
    with storage.errors(f"list the files of {spec.name}"):
        infos = storage.filesystem.get_file_info(selector)
    names = list(TABLES)
    later = (TABLES[name] for name in names[names.index(spec.name) + 1 :])
    was_there = any(_OF_TABLE.search(info.path) for info in infos)
    was_there = was_there or any(_is_there(storage, one) for one in later)
    if was_there and not _is_there(storage, spec):  # others may be making it now
        message = (
            f"{storage.root}: table {spec.name}: expected a log, found that an archive has lost "
            f"it; `pacspark verify {storage.root} --repair-from REPLICA` mends it"
        )
        raise StorageError(message)


def _complete(storage: Storage, spec: TableSpec) -> None:
    """Set the properties that a table does not have; those that somebody chose stay."""
    table = DeltaTable(storage.table_uri(spec.name), storage_options=storage.delta_options)
    known = table.metadata().configuration
    lacking = {name: value for name, value in configuration(spec).items() if name not in known}
    if lacking:
        with suppress(CommitFailedError):  # somebody else does the same
            table.alter.set_table_properties(lacking, commit_properties=_AT_ONCE)
            storage.make_durable(entry_path(storage, spec.name, table.version()))


def check_tables(storage: Storage) -> None:
    """Check that every table is there and has the columns that this version writes.

    Columns that somebody added are left alone.

    Raises
    ------
    ArchiveNotFoundError
        where there is no archive
    StorageError
        where a table is missing, or is not as declared
    """
    with storage.errors("open the archive"):
        missing = [spec.name for spec in TABLES.values() if not _is_there(storage, spec)]
    if missing and len(missing) < len(TABLES):
        for spec in TABLES.values():
            if spec.name in missing:
                _require_never_there(storage, spec)
        message = (
            f"{storage.root}: expected all tables of an archive, found no {', '.join(missing)}; if "
            f"an earlier version made it, `pacspark init {storage.root}` adds what is missing"
        )
        raise StorageError(message)
    for spec in TABLES.values():
        with storage.errors(f"open the table {spec.name}"):
            table = DeltaTable(storage.table_uri(spec.name), storage_options=storage.delta_options)
            found = pa.schema(table.schema().to_arrow())
            features = table.protocol().reader_features or []
        problems = [
            _difference(column, found)
            for column in spec.columns
            if column.name not in found.names or found.field(column.name).type != column.type
        ]
        if features:
            problems.append(f"no reader features, found {', '.join(features)}")
        if problems:
            message = f"{storage.root}: table {spec.name}: expected {'; '.join(problems)}"
            raise StorageError(message)


def _difference(column: Column, found: pa.Schema) -> str:
    what = found.field(column.name).type if column.name in found.names else "no such column"
    return f"{column.name} {column.type}, found {what}"
