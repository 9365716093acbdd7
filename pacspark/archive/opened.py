"""An archive that is open: where it is, from when it is seen, and the session that works on it."""

from datetime import datetime
from typing import TYPE_CHECKING, cast

from pacspark.dicom.uids import require_uid
from pacspark.errors import UsageError
from pacspark.progress import Progress, progress_for_stderr
from pacspark.tables.catalog import Catalog
from pacspark.tables.deletion import Level
from pacspark.tables.schema import TABLES
from pacspark.tables.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class OpenedArchive:
    """What every part of an `Archive` works on: its tables, its session, its moment.

    Parameters
    ----------
    storage
        Where the tables are.
    spark
        The session to use; None: one is made on first need.
    as_of
        A version of `instances` or a time to look from; None: now.
    progress
        Told of long work; None: shown on standard error.
    """

    def __init__(
        self,
        storage: Storage,
        spark: "SparkSession | None",
        as_of: int | datetime | None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or progress_for_stderr()
        self._storage = storage
        self._spark = spark
        self._as_of = as_of

    def __repr__(self) -> str:
        seen = "" if self._as_of is None else f", as_of={self._as_of!r}"
        return f"Archive({self.root!r}{seen})"

    @property
    def root(self) -> str:
        """Where the archive is."""
        return self._storage.root

    @property
    def table_names(self) -> list[str]:
        """The tables that every archive has."""
        return list(TABLES)

    @property
    def spark(self) -> "SparkSession":
        """The session: the given one, else the active one, else a local one made now."""
        if self._spark is None:
            from pacspark.spark.session import session_for

            self._spark = session_for(self.root, progress=self.progress)
        return self._spark

    @property
    def catalog(self) -> Catalog:
        """The tables without Spark."""
        return Catalog(self._storage, self._as_of)

    def _delta_spark(self) -> "SparkSession":
        from pacspark.spark.session import require_delta

        require_delta(self.spark)
        return self.spark

    def _require_now(self) -> None:
        if self._as_of is not None:
            message = "expected an archive opened without as_of to write into, found one as of then"
            raise UsageError(message)


def one_of(doing: str, **uids: str | None) -> tuple[Level, str]:
    """Give the level and the UID of which one alone is given.

    Raises
    ------
    UsageError
        For none, for several, and for what is no UID.
    """
    given = {level: uid for level, uid in uids.items() if uid is not None}
    if len(given) != 1:
        message = f"{doing}: expected one of study, series, instance, found {len(given)}"
        raise UsageError(message)
    ((level, uid),) = given.items()
    return cast(Level, level), require_uid(level, uid)
