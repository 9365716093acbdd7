"""The archive, as a notebook holds it.

>>> import pacspark
>>> archive = pacspark.open("archive")                              # doctest: +SKIP
>>> scan = archive.import_scan("examples/walnut/SCAN.toml")         # doctest: +SKIP
>>> volume = archive.reconstruct(scan.series_instance_uid)          # doctest: +SKIP
>>> volume.slice(z=0).show()                                        # doctest: +SKIP
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pacspark.archive.asking import Asking
from pacspark.archive.guarding import Guarding
from pacspark.archive.keeping import ImportedScan, Keeping
from pacspark.archive.processing import Processing, cluster_of
from pacspark.archive.retaining import Retaining
from pacspark.archive.sharing import Sharing
from pacspark.errors import ArchiveNotFoundError, StorageError, UsageError
from pacspark.progress import Progress
from pacspark.tables.creating import check_tables, create_tables
from pacspark.tables.logfixity import check_logs
from pacspark.tables.storage import open_storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Archive", "ImportedScan", "cluster_of", "create_archive", "open_archive"]


class Archive(Asking, Processing, Keeping, Guarding, Retaining, Sharing):
    """DICOM in tables, and what can be done with it. Made by `open_archive` and `create_archive`.

    The parameters are those of `archive.opened.OpenedArchive`.
    """


def open_archive(
    root: str | Path,
    spark: "SparkSession | None" = None,
    as_of: int | datetime | None = None,
    progress: Progress | None = None,
    *,
    broken: bool = False,
) -> Archive:
    """Open an archive that exists.

    Parameters
    ----------
    root
        A folder, ``hdfs://...``, ``s3a://...`` or ``s3://...``.
    spark
        The session to use; None: one is made on first need.
    as_of
        A version of the `instances` table, or a time (UTC where it has no zone): every table as it
        was then, in Python and in SQL.
    progress
        Told of long work; None: shown on standard error. `pacspark.progress.SILENT` shows none.
    broken
        Open also one with a table that cannot be opened since its log is damaged: to `verify` and
        `repair` it.

    Raises
    ------
    ArchiveNotFoundError
        When there is none; `create_archive` makes one.
    UsageError
        When `as_of` is neither a version nor a time.
    """
    if type(as_of) not in {int, type(None)} and not isinstance(as_of, datetime):
        message = f"as_of: expected a version, a whole number, or a datetime, found {as_of!r:.80}"
        raise UsageError(message)
    storage = open_storage(root)
    try:
        check_tables(storage)
    except ArchiveNotFoundError as error:
        raise ArchiveNotFoundError(*error.args) from None  # what Delta says of it helps nobody
    except StorageError:
        if not broken or not check_logs(storage).findings:
            raise
    return Archive(storage, spark, as_of, progress)


def create_archive(
    root: str | Path, spark: "SparkSession | None" = None, progress: Progress | None = None
) -> Archive:
    """Create an archive's tables where they are missing, and open it as `open_archive` does."""
    storage = open_storage(root)
    create_tables(storage)
    return Archive(storage, spark, None, progress)
