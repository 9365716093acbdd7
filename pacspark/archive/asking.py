"""What is asked of an archive."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from pacspark.archive.opened import OpenedArchive
from pacspark.dicom.matching import parse_query
from pacspark.dicom.uids import require_uid
from pacspark.tables.audit import accesses
from pacspark.tables.catalog import Catalog
from pacspark.tables.changes import CHANGE_COLUMNS, Changes, follow
from pacspark.tables.search import columns_to_show
from pacspark.tables.sources import require_path

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from pacspark.pictures import Sinogram
    from pacspark.spark.frames import Compute
    from pacspark.volume import Volume


class Asking(OpenedArchive):
    """Finds, counts, and opens what is stored."""

    def find(self, level: str = "study", **query: Any) -> pd.DataFrame:
        """Find by PS3.4 matching: ``archive.find(level="series", StudyDate="2026-")``.

        Parameters
        ----------
        level
            patient, study, series or instance.
        query
            DICOM keywords and what to match: values, ``*`` and ``?``, ranges, lists of UIDs.

        Returns
        -------
        pandas.DataFrame
            One row per match; columns named by DICOM keyword: what `pacspark find` prints, other
            attributes of the level, then those of the levels above. Of these others, a column
            without any value is left out; `find_table` has all.
        """
        asked = parse_query({key: _query_text(value) for key, value in query.items()}, level)
        found = self._found.find(asked)
        names = columns_to_show(found, asked, all_telling=True)
        shown: pd.DataFrame = found.select(names).to_pandas()
        return shown

    def find_table(self, level: str, query: Mapping[str, object]) -> pa.Table:
        """Find as `find` does, into an Arrow table; keywords may be tags of eight hex digits."""
        return self._found.find(parse_query(query, level))

    @cached_property
    def _found(self) -> Catalog:
        """A catalog that keeps the log from one question to the next."""
        return self.catalog

    @property
    def instances(self) -> "DataFrame":
        """The `instances` table as a Spark DataFrame.

        Its columns are the words of DICOM keywords in lower case, ``PatientName`` as
        `patient_name`; ``pacspark.attribute("PatientName")`` is the column of any keyword, as
        `find` and `sql` have them.
        """
        return self._table("instances")

    def sql(self, statement: str) -> "DataFrame":
        """Ask the tables in SQL; any DICOM keyword is a column of `instances`."""
        from pacspark.spark.query import sql

        return sql(self._delta_spark(), self.catalog, statement)

    def headers(
        self,
        path: str | Path,
        *,
        study: str | None = None,
        series: str | None = None,
        attributes: Iterable[str] | None = None,
    ) -> pa.Schema:
        """Write headers into a Parquet file for other tools: typed, nested columns, a row each.

        Parameters
        ----------
        path
            Of the file, which must not be there.
        study, series
            UIDs; None: any.
        attributes
            Keywords or tags; None: all that there are.

        Returns
        -------
        pyarrow.Schema
            Of the file: a column per keyword, sequences are lists of structs.
        """
        from pacspark.tables.headers import write_headers

        given = {"study": study, "series": series}
        where = {
            f"{level}_instance_uid": require_uid(level, uid)
            for level, uid in given.items()
            if uid is not None
        }
        target = require_path(path, "a file")
        return write_headers(
            self.catalog, target, where=where, attributes=attributes, progress=self.progress
        )

    def frames(
        self,
        *,
        study: str | None = None,
        series: str | None = None,
        where: "str | Column | None" = None,
        columns: Sequence[str] = (),
        compute: "Compute | None" = None,
        returns: str | None = None,
    ) -> "DataFrame":
        """Give decoded frames as a Spark DataFrame, a row each; pixels never pass the driver.

        Its columns: ``study_instance_uid``, ``series_instance_uid``, ``sop_instance_uid``,
        `columns`, ``frame_number`` (from 1), ``shape``, ``dtype``, ``spacing_mm`` (row, column),
        ``rescale_slope``, ``rescale_intercept``, ``error``, and ``pixels``: bytes, little endian, C
        order. `pacspark.frame_array` makes an array of a row. A frame that cannot be decoded has no
        pixels, and ``error`` says why.

        Parameters
        ----------
        study, series
            UIDs; None: any.
        where
            A condition on `instances`, as SQL or as a Column; any attribute.
        columns
            What else to give of each instance: columns, keywords, paths.
        compute
            Called in the task with each `pacspark.Frame`; what it returns takes the place of
            ``pixels``, which then leave the task not at all.
        returns
            Names and types of that, as ``"mean double, p99 double"``.
        """
        from pacspark.spark.frames import frames

        return frames(
            self._delta_spark(),
            self.catalog,
            study=None if study is None else require_uid("study", study),
            series=None if series is None else require_uid("series", series),
            where=where,
            columns=columns,
            compute=compute,
            returns=returns,
        )

    def versions(self) -> pd.DataFrame:
        """List the versions of the tables: which run made each, and when."""
        versions: pd.DataFrame = self.catalog.versions().to_pandas()
        return versions

    def audit(
        self,
        *,
        patient: str | None = None,
        user: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        most: int | None = None,
    ) -> pd.DataFrame:
        """Tell who did what, the latest first: ``archive.audit(patient="P1", action="delete")``.

        Parameters
        ----------
        patient
            PatientID: what was done to what the archive has of this patient.
        user
            An AE title, or a user of the gateway or of this machine.
        action
            What was done: find, get, move, store, retrieve, frames, delete, ...
        since
            Not before; UTC where it names no zone.
        most
            Rows; None for all.

        Returns
        -------
        pandas.DataFrame
            The columns of the table `audit`.
        """
        found = accesses(
            self.catalog, patient_id=patient, actor=user, action=action, since=since, most=most
        )
        shown: pd.DataFrame = found.to_pandas()
        return shown

    def changes(
        self, since: int, until: int | None = None, columns: Sequence[str] = CHANGE_COLUMNS
    ) -> pd.DataFrame:
        """Tell which instances came and went between two versions of `instances`.

        Parameters
        ----------
        since, until
            Versions, as `versions` lists them; None for the newest. Version 0 has no instance.
        columns
            Of `instances`, to give of each instance.

        Returns
        -------
        pandas.DataFrame
            ``change`` (removed or added), ``version`` (`until`: where the next question begins) and
            `columns`. Files that were only rewritten, as compaction does, are no change.
        """
        changes: pd.DataFrame = self.catalog.changes(since, until, columns).to_table().to_pandas()
        return changes

    def follow(self, since: int, columns: Sequence[str] = CHANGE_COLUMNS) -> "Iterator[Changes]":
        """Give the changes since a version; asked again, those since then. It never waits."""
        return follow(self._storage, since, columns)

    def sinogram(self, series_uid: str, energy_bin: int = 0) -> "Sinogram":
        """Read the sinogram of the middle detector row of a scan, and nothing else of it."""
        from pacspark.middle_row import middle_row_sinogram

        return middle_row_sinogram(self.catalog, require_uid("series", series_uid), energy_bin)

    def volume(self, series_uid: str, part: int | None = None) -> "Volume":
        """Open a series of images as a volume; lazy. `part` chooses where it has several."""
        from pacspark.volume import Volume

        return Volume(self.catalog, require_uid("series", series_uid), part)

    def _table(self, name: str) -> "DataFrame":
        from pacspark.spark.query import table

        return table(self._delta_spark(), self.catalog, name)


def _query_text(value: object) -> object:
    """Give several values as one query value (PS3.4 C.2.2.2.2)."""
    return "\\".join(map(str, value)) if isinstance(value, list | tuple) else value
