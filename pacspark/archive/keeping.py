"""What comes into an archive and goes out of it."""

import math
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pacspark.archive.opened import OpenedArchive, one_of
from pacspark.dicom.uids import require_uid
from pacspark.errors import ProjectionDataError, UsageError
from pacspark.tables.reports import IngestReport
from pacspark.tables.sources import require_path

if TYPE_CHECKING:
    from pacspark.pictures import Picture, Window


@dataclass(frozen=True, slots=True)
class ImportedScan:
    """A scan that is in the archive."""

    series_instance_uid: str
    stored: int
    duplicate: int
    bytes_stored: int


class Keeping(OpenedArchive):
    """Takes objects in and gives them out."""

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

    def watch(self, path: str | Path, *, settle_s: float = 5.0, once: bool = False) -> IngestReport:
        """Store what is in a folder and what arrives there, through Spark Structured Streaming.

        What was taken is remembered under the archive's ``_checkpoints``: begun again, the watch
        goes on. Runs until it is interrupted.

        Parameters
        ----------
        path
            A folder, or a URL on HDFS or S3.
        settle_s
            A file is taken when its size and time were the same for so long; an object of a bucket
            at once.
        once
            Return when all that is there has been taken.
        """
        from pacspark.spark.watch import watch

        self._require_now()
        if not (math.isfinite(settle_s) and settle_s >= 0):
            message = f"settle_s: expected seconds from 0 on, found {settle_s}"
            raise UsageError(message)
        folder = require_path(path, "a folder to watch")
        return watch(
            self.spark,
            self._storage,
            folder,
            settle_s=settle_s,
            once=once,
            progress=self.progress,
        )

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

    def export(
        self,
        directory: str | Path,
        *,
        study: str | None = None,
        series: str | None = None,
        instance: str | None = None,
        format: str = "dicom",  # noqa: A002 -- the contract's word
        dicomdir: bool = False,
        part: int | None = None,
        resample: bool = False,
    ) -> list[Path]:
        """Write a study, a series or an instance as files.

        Returns the files. `pacspark.export.export` says what the options mean.
        """
        from pacspark.export import export

        level, uid = one_of("export", study=study, series=series, instance=instance)
        folder = _path_here(directory, "a folder")
        return export(
            self.catalog,
            folder,
            level,
            uid,
            format,
            self.progress,
            dicomdir=dicomdir,
            part=part,
            resample=resample,
        )

    def film(
        self,
        path: str | Path,
        series_uid: str,
        *,
        grid: tuple[int, int] = (5, 4),
        every: int = 1,
        window: "Window | tuple[float, float] | None" = None,
        part: int | None = None,
        with_patient: bool = True,
    ) -> list[Path]:
        """Print a series onto film sheets: the pages of a PDF, or PNGs.

        Parameters
        ----------
        path
            Ends in .pdf or .png; a file of this name is replaced.
        series_uid, part
            What to print.
        grid, every
            Rows and columns of slices on a sheet; 2 prints every second slice.
        window
            Center and width; None: the series' own, else chosen from its values.
        with_patient
            Whether to print who it is and where.
        """
        from pacspark.film import Layout, film_path, print_film
        from pacspark.pictures import Window
        from pacspark.volume import Volume

        return print_film(
            self.catalog,
            Volume(self.catalog, require_uid("series", series_uid), part),
            film_path(_path_here(path, "a film's name")),
            Layout(*grid, every),
            Window.given(window),
            with_patient=with_patient,
            progress=self.progress,
        )

    def film_sheets(
        self,
        series_uid: str,
        *,
        grid: tuple[int, int] = (5, 4),
        every: int = 1,
        window: "Window | tuple[float, float] | None" = None,
        part: int | None = None,
        with_patient: bool = True,
    ) -> "Iterator[Picture]":
        """Draw the sheets of a film one after the other; see `film`."""
        from pacspark.film import Layout, draw_sheets
        from pacspark.pictures import Window
        from pacspark.volume import Volume

        return draw_sheets(
            self.catalog,
            Volume(self.catalog, require_uid("series", series_uid), part),
            Layout(*grid, every),
            Window.given(window),
            with_patient=with_patient,
            progress=self.progress,
        )


def _path_here(path: str | Path, expected: str) -> Path:
    """Take a path of this machine; refuse a URL, which would become a folder named ``s3:``."""
    text = require_path(path, expected)
    if "://" in text:
        message = f"path: expected {expected} on this machine, found {text!r:.80}"
        raise UsageError(message)
    return Path(text)
