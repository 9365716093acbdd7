"""What is made of the scans of an archive."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pacspark.archive.opened import OpenedArchive
from pacspark.ct.coverage import refit, warn_beyond_view
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import VolumeGrid
from pacspark.dicom.uids import require_uid
from pacspark.errors import GeometryError, UsageError
from pacspark.spark.cluster import Cluster
from pacspark.spark.partition import ReconstructionPlan, plan_reconstruction

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pacspark.check import GeometryCheck
    from pacspark.dicom.scan import StoredScan
    from pacspark.spark.reconstruct import ReconstructionReport
    from pacspark.spark.rerun import RerunReport
    from pacspark.tables.scans import ScanFrames
    from pacspark.volume import Volume


class Processing(OpenedArchive):
    """Checks, plans and reconstructs scans."""

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
            _seen_grid(scan, grid),
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
        from pacspark.volume import Volume

        report = self.reconstruct_series(
            series_uid,
            grid,
            options,
            energy_bins=[energy_bin],
            water_mu_per_mm=water_mu_per_mm,
            cluster=cluster,
        )[0]
        return Volume(self.catalog, report.series_instance_uid)

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
            grid=_seen_grid(scan, grid),
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

    def rerun(self, run: str, cluster: Cluster | None = None) -> "RerunReport":
        """Make a reconstruction again and compare the digest of each object; stores nothing.

        Parameters
        ----------
        run
            Its `run_id`, or the UID of the series that it made.
        cluster
            What to plan for.

        Returns
        -------
        RerunReport
            ``identical``, else the differences, and what is not as it was then.
        """
        from pacspark.spark.rerun import find_run, request_of, rerun

        self._require_now()
        request_of(find_run(self.catalog, run))  # before Spark starts
        cluster = cluster or cluster_of(spark=self._spark)
        return rerun(self.spark, self._storage, run, cluster, progress=self.progress)

    def check(self, series_uid: str) -> "GeometryCheck":
        """Look for a wrong axis offset or rotation sense of a scan."""
        from pacspark.check import check_series

        return check_series(self.catalog, require_uid("series", series_uid), progress=self.progress)

    def _scan(self, series_uid: str) -> "StoredScan":
        return self._scan_frames(series_uid).scan

    def _scan_frames(self, series_uid: str) -> "ScanFrames":
        from pacspark.tables.scans import read_stored_scan

        return read_stored_scan(self.catalog, require_uid("series", series_uid))


def _seen_grid(scan: "StoredScan", grid: VolumeGrid | None) -> VolumeGrid:
    """Give the grid of a reconstruction; one that reaches beyond the field of view is told of."""
    if grid is None:
        return scan.geometry.fit_grid()
    warn_beyond_view(scan.geometry, grid)
    return grid


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
