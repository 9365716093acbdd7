"""Data files written anew: rows taken out, changed, or brought together with those of others."""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pacspark.errors import StorageError
from pacspark.tables.datafile import AddedFile, DataFile, open_data_file
from pacspark.tables.schema import TableSpec
from pacspark.tables.snapshot import ActiveFile
from pacspark.tables.storage import Storage


def row_groups(storage: Storage, spec: TableSpec, file: ActiveFile) -> Iterator[pa.Table]:
    """Read a data file a row group at a time, in the columns that this version writes.

    Raises
    ------
    StorageError
        where it cannot be read, or has columns that would be lost
    """
    with open_data_file(storage, spec.name, file.path) as reader:
        more = sorted(set(reader.schema_arrow.names) - set(spec.arrow_schema.names))
        if more:
            message = (
                f"{storage.root}: {spec.name}/{file.path}: expected columns that this version "
                f"knows, found {', '.join(more)} too, which writing it anew would lose"
            )
            raise StorageError(message)
        for number in range(reader.num_row_groups):
            yield _conformed(reader.read_row_group(number), spec.arrow_schema)


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give a table the columns of a schema: those that an older version did not write are empty."""
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema.names).cast(schema)


def rewrite(
    storage: Storage,
    spec: TableSpec,
    file: ActiveFile,
    change: Callable[[pa.Table], pa.Table],
) -> AddedFile | None:
    """Write a file anew, a row group at a time, durable but not yet visible.

    Parameters
    ----------
    storage, spec, file
        the archive, the table, one of its files
    change
        gives what becomes of the rows of one row group

    Returns
    -------
    AddedFile or None
        None where no row is left
    """
    with DataFile(storage, spec) as writer:
        for table in row_groups(storage, spec, file):
            writer.append(change(table))
        if not writer.num_records:
            writer.abort()
            return None
        return writer.close()


def rewrite_without(
    storage: Storage, spec: TableSpec, file: ActiveFile, column: str, gone: pa.Array
) -> AddedFile | None:
    """Write a file anew without the rows of some values in a column; see `rewrite`."""

    def rest(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.invert(pc.is_in(rows[column], gone)))

    return rewrite(storage, spec, file, rest)
