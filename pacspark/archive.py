"""The archive, as a notebook holds it.

>>> import pacspark
>>> archive = pacspark.open("archive")                              # doctest: +SKIP
>>> scan = archive.import_scan("examples/walnut/SCAN.toml")         # doctest: +SKIP
>>> volume = archive.reconstruct(scan.series_instance_uid)          # doctest: +SKIP
>>> volume.slice(z=0).show()                                        # doctest: +SKIP
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from pacspark.ct.coverage import refit
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import VolumeGrid
from pacspark.dicom.matching import parse_query
from pacspark.dicom.uids import require_uid
from pacspark.errors import ArchiveNotFoundError, GeometryError, ProjectionDataError, UsageError
from pacspark.progress import Progress, progress_for_stderr
from pacspark.spark.cluster import Cluster
from pacspark.spark.partition import ReconstructionPlan, plan_reconstruction
from pacspark.tables.catalog import Catalog
from pacspark.tables.intake import IngestReport
from pacspark.tables.schema import TABLES, check_tables, create_tables
from pacspark.tables.search import columns_to_show
from pacspark.tables.sources import require_path
from pacspark.tables.storage import Storage, open_storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from pacspark.check import GeometryCheck
    from pacspark.dicom.scan import StoredScan
    from pacspark.pictures import Sinogram
    from pacspark.spark.reconstruct import ReconstructionReport
    from pacspark.tables.scans import ScanFrames
    from pacspark.volume import Volume


@dataclass(frozen=True, slots=True)
class ImportedScan:
    """A scan that is in the archive."""

    series_instance_uid: str
    stored: int
    duplicate: int
    bytes_stored: int


def open_archive(
    root: str | Path,
    spark: "SparkSession | None" = None,
    as_of: int | datetime | None = None,
    progress: Progress | None = None,
) -> "Archive":
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
    return Archive(storage, spark, as_of, progress)


def create_archive(
    root: str | Path, spark: "SparkSession | None" = None, progress: Progress | None = None
) -> "Archive":
    """Create an archive's tables where they are missing, and open it as `open_archive` does."""
    storage = open_storage(root)
    create_tables(storage)
    return Archive(storage, spark, None, progress)


class Archive:
    """DICOM in tables, and what can be done with it. Made by `open_archive` and `create_archive`.

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

    # what comes in

    def ingest(self, paths: str | Path | Iterable[str | Path]) -> IngestReport:
        """Store DICOM objects: files, folders, globs, zips, DICOMDIRs.

        Returns
        -------
        IngestReport
            How many were stored, duplicates, conflicts and rejects; together, all that were given.
        """
        from pacspark.spark.ingest import ingest

        self._require_now()
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        return ingest(lambda: self.spark, self._storage, listed, progress=self.progress)

    def import_scan(self, description: str | Path) -> ImportedScan:
        """Store the projections that a ``SCAN.toml`` describes, as DICOM.

        The same scan always makes the same objects, so importing it again stores nothing.

        Raises
        ------
        ScanDescriptionError
            When the description or its files cannot be followed; nothing is stored then.
        """
        from pacspark.dicom.scan import encode_scan
        from pacspark.scans.description import read_scan_description
        from pacspark.scans.readers import open_frames
        from pacspark.tables.intake import Intake, commit_intake
        from pacspark.tables.runs import describe_geometry, recorded_run, versions_now

        self._require_now()
        scan = read_scan_description(require_path(description, "a scan description"))
        run_id, series_uid = uuid.uuid4().hex, ""
        with recorded_run(
            self._storage,
            run_id,
            "import-scan",
            versions_now(self._storage),
            options={"description": str(description)},
            geometry=describe_geometry(scan.geometry),
        ) as run:
            with (
                self.progress.stage("import", None, "objects") as stage,
                open_frames(scan) as frames,
                Intake(self._storage, run_id) as intake,
            ):
                for encoded in encode_scan(scan, frames):
                    intake.add(str(description), encoded.data)
                    series_uid = encoded.series_instance_uid
                    stage.advance()
                taken = intake.finish()
            report = commit_intake(self._storage, [taken], run_id, "import-scan")
            run["series_instance_uid"] = series_uid
            run["metrics"] = asdict(report)
            if not report.clean:
                raise ProjectionDataError(report.refusal(str(description)))
        return ImportedScan(series_uid, report.stored, report.duplicate, report.bytes_stored)

    # what is asked

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
            One row per match; columns named by DICOM keyword: unique keys, attributes of the level,
            then those of the levels above. A column without any value is left out unless `query`
            names it; `find_table` has all.
        """
        texts = {key: _query_text(value) for key, value in query.items()}
        found = self.find_table(level, texts)
        shown: pd.DataFrame = found.select(columns_to_show(found, level, texts)).to_pandas()
        return shown

    def find_table(self, level: str, query: Mapping[str, object]) -> pa.Table:
        """Find as `find` does, into an Arrow table; keywords may be tags of eight hex digits."""
        return self.catalog.find(parse_query(query, level))

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

    def versions(self) -> pd.DataFrame:
        """List the versions of the tables: which run made each, and when."""
        versions: pd.DataFrame = self.catalog.versions().to_pandas()
        return versions

    def sinogram(self, series_uid: str, energy_bin: int = 0) -> "Sinogram":
        """Read the sinogram of the middle detector row of a scan, and nothing else of it."""
        from pacspark.middle_row import middle_row_sinogram

        return middle_row_sinogram(self.catalog, require_uid("series", series_uid), energy_bin)

    # what is reconstructed

    def grid(
        self,
        series_uid: str,
        *,
        size: Sequence[int] | None = None,
        voxel_mm: float | None = None,
        center_mm: Sequence[float] | None = None,
    ) -> VolumeGrid:
        """Make a grid for a scan: the field of view, or what is given of it.

        Parameters
        ----------
        series_uid
            A projection series.
        size
            Voxels along x, y, z; the field of view is divided by them unless `voxel_mm` is given
            too.
        voxel_mm
            Edge of a voxel.
        center_mm
            Centre along x, y, z.
        """
        fitted = self._scan(series_uid).geometry.fit_grid()
        try:
            return refit(fitted, size, voxel_mm, center_mm)
        except GeometryError as error:  # of what was given: the scan's own grid is good
            raise UsageError(*error.args) from None

    def plan(
        self,
        series_uid: str,
        grid: VolumeGrid | None = None,
        cluster: Cluster | None = None,
    ) -> ReconstructionPlan:
        """Plan a reconstruction of all energy bins: tasks, bytes, time. Runs nothing."""
        scan = self._scan(series_uid)
        return plan_reconstruction(
            scan.geometry,
            grid or scan.geometry.fit_grid(),
            cluster or cluster_of(spark=self._spark),
            kind=scan.kind,
            views=scan.views,
            n_energy_bins=scan.n_energy_bins,
        )

    def reconstruct(
        self,
        series_uid: str,
        grid: VolumeGrid | None = None,
        options: FDKOptions | None = None,
        *,
        energy_bin: int = 0,
        water_mu_per_mm: float | None = None,
        cluster: Cluster | None = None,
    ) -> "Volume":
        """Reconstruct a projection series with Spark into a CT series of the archive.

        Asking the same again finds what was made.

        Parameters
        ----------
        series_uid, energy_bin
            The scan, and which of its energy bins.
        grid, options
            The voxels (None: the field of view; `grid` makes others), and the filter.
        water_mu_per_mm, cluster
            Attenuation of water, for Hounsfield units (None: the scan's own); what to plan for.

        Returns
        -------
        Volume
            Lazy: slices are read when they are looked at.
        """
        report = self.reconstruct_series(
            series_uid,
            grid,
            options,
            energy_bins=[energy_bin],
            water_mu_per_mm=water_mu_per_mm,
            cluster=cluster,
        )[0]
        return self.volume(report.series_instance_uid)

    def reconstruct_series(
        self,
        series_uid: str,
        grid: VolumeGrid | None = None,
        options: FDKOptions | None = None,
        *,
        energy_bins: Sequence[int] | None = None,
        water_mu_per_mm: float | None = None,
        cluster: Cluster | None = None,
    ) -> "list[ReconstructionReport]":
        """Reconstruct energy bins (all unless given), one CT series each, and report on each."""
        from pacspark.spark.reconstruct import (
            ReconstructionRequest,
            find_result,
            prepared,
            reconstruct,
        )

        self._require_now()
        stored = self._scan_frames(series_uid)
        scan = stored.scan
        request = ReconstructionRequest(
            series_instance_uid=series_uid,
            grid=grid or scan.geometry.fit_grid(),
            options=options or FDKOptions(),
            water_mu_per_mm=water_mu_per_mm,
        )
        bins = range(scan.n_energy_bins) if energy_bins is None else energy_bins
        for energy_bin in bins:
            scan.require_energy_bin(energy_bin)
        cluster = cluster or cluster_of(spark=self._spark)
        reports = []
        for energy_bin in bins:
            asked = replace(request, energy_bin=energy_bin)
            report = find_result(self.catalog, scan, asked)
            if report is None:
                prepared(self.catalog, stored, asked, cluster)  # before Spark starts
                report = reconstruct(
                    self.spark, self._storage, asked, cluster, progress=self.progress
                )
            reports.append(report)
        return reports

    def volume(self, series_uid: str) -> "Volume":
        """Open a CT series as a volume; lazy."""
        from pacspark.volume import Volume

        return Volume(self.catalog, require_uid("series", series_uid))

    def check(self, series_uid: str) -> "GeometryCheck":
        """Look for a wrong axis offset or rotation sense of a scan."""
        from pacspark.check import check_series

        return check_series(self.catalog, require_uid("series", series_uid), progress=self.progress)

    # what goes out

    def export(
        self,
        directory: str | Path,
        *,
        study: str | None = None,
        series: str | None = None,
        instance: str | None = None,
        format: str = "dicom",  # noqa: A002 -- the contract's word
    ) -> list[Path]:
        """Write a study, a series or an instance as files.

        Returns the files.
        """
        from pacspark.export import export

        given = {"study": study, "series": series, "instance": instance}
        chosen = {level: uid for level, uid in given.items() if uid is not None}
        if len(chosen) != 1:
            message = f"export: expected one of study, series, instance, found {len(chosen)}"
            raise UsageError(message)
        ((level, uid),) = chosen.items()
        folder = Path(require_path(directory, "a folder"))
        return export(self.catalog, folder, level, uid, format, self.progress)

    def _table(self, name: str) -> "DataFrame":
        from pacspark.spark.query import table

        return table(self._delta_spark(), self.catalog, name)

    def _delta_spark(self) -> "SparkSession":
        from pacspark.spark.session import require_delta

        require_delta(self.spark)
        return self.spark

    def _scan(self, series_uid: str) -> "StoredScan":
        return self._scan_frames(series_uid).scan

    def _scan_frames(self, series_uid: str) -> "ScanFrames":
        from pacspark.tables.scans import read_stored_scan

        return read_stored_scan(self.catalog, require_uid("series", series_uid))

    def _require_now(self) -> None:
        if self._as_of is not None:
            message = "expected an archive opened without as_of to write into, found one as of then"
            raise UsageError(message)


def _query_text(value: object) -> object:
    """Give several values as one query value (PS3.4 C.2.2.2.2)."""
    return "\\".join(map(str, value)) if isinstance(value, list | tuple) else value


def cluster_of(
    executors: int | None = None,
    cores: int | None = None,
    memory_bytes: int | None = None,
    spark: "SparkSession | None" = None,
) -> Cluster:
    """Describe a cluster; what is not given is that of the session in use.

    Parameters
    ----------
    executors, cores, memory_bytes
        Executors, and cores and memory for Python workers of each.
    spark
        The session; None: the active one, else the one that would be made on this machine.
    """
    from pacspark.spark.cluster import cluster_of_properties, this_machine

    try:
        from pacspark.spark.session import session_cluster
    except ImportError:  # planning needs no Spark
        found = cluster_of_properties({}, this_machine(), 1)
    else:
        found = session_cluster(spark)
    return Cluster(
        executors=found.executors if executors is None else executors,
        cores_per_executor=found.cores_per_executor if cores is None else cores,
        memory_per_executor_bytes=(
            found.memory_per_executor_bytes if memory_bytes is None else memory_bytes
        ),
    )
